// What of TypeDoc's JSON has a sentence that says what it is: every export of every entry, and every member of it. Members of an object written inside
// another type are told by the sentence of what has that type.

/** @returns {{ passed: number, without: string[] }} how many have one, and the names of those that have none. */
export function sentences(reference) {
  let passed = 0
  const without = []
  const see = (name, one) => {
    if (described(one)) passed++
    else without.push(name)
  }
  for (const entry of reference.children) {
    for (const one of entry.children ?? []) {
      if (one.variant === 'reference') continue // counted where it is declared
      see(`${entry.name}: ${one.name}`, one)
      for (const member of members(one)) see(`${entry.name}: ${one.name}.${member.name}`, member)
    }
  }
  return { passed, without }
}

/** Whether a comment of a declaration, or of one of its call signatures, begins with a sentence. */
function described({ comment, signatures = [], type, getSignature }) {
  if ((comment?.summary ?? []).some(({ text }) => text.trim() !== '')) return true
  return [...signatures, ...(type?.declaration?.signatures ?? []), ...(getSignature ? [getSignature] : [])].some(
    described,
  )
}

// Those of the language, such as [Symbol.dispose], and what a class has of another one, are described there.
function members({ children = [], type }) {
  return [...children, ...(type?.declaration?.children ?? [])].filter(
    ({ name, inheritedFrom }) => !name.startsWith('[') && !inheritedFrom,
  )
}

/** How often each run of `order` words occurs, in order of first occurrence. Words hold no space, so a space joins them. */
export function countNGrams(words: readonly string[], order: number): Map<string, number> {
  const counts = new Map<string, number>()
  for (let at = 0; at + order <= words.length; at++) {
    const gram = order === 1 ? words[at]! : words.slice(at, at + order).join(' ')
    counts.set(gram, (counts.get(gram) ?? 0) + 1)
  }
  return counts
}

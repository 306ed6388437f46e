/**
 * Added tokens: strings that are cut out of a text before any vocabulary rule sees it, and become one id each. They are hard
 * boundaries in every tokenizer of the family, which is what lets a prompt be cut behind `</img>` without changing an id.
 */
export interface AddedToken {
  id: number
  content: string
  /** Swallows white space on its left. */
  lstrip: boolean
  /** Swallows white space on its right. */
  rstrip: boolean
  /** Matches only between characters that are no word characters. */
  singleWord: boolean
  /** Is searched in the normalised text. */
  normalized: boolean
  /** Flagged as special where it is declared. */
  special: boolean
}

/** White space as the tokenizer at hand defines it: Python's `str.isspace` or Unicode White_Space. */
export type SpaceRule = 'python' | 'unicode'

const unicodeSpaces = new Set(
  '\t\n\v\f\r \u0085\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000',
)
const pythonSpaces = new Set([...unicodeSpaces, '\x1c', '\x1d', '\x1e', '\x1f'])

/** Start of `text` without leading white space. */
export function leadingSpace(text: string, rule: SpaceRule): number {
  const spaces = rule === 'python' ? pythonSpaces : unicodeSpaces
  let at = 0
  while (at < text.length && spaces.has(text[at]!)) at++
  return at
}

/** End of `text` without trailing white space. */
export function trailingSpace(text: string, rule: SpaceRule): number {
  const spaces = rule === 'python' ? pythonSpaces : unicodeSpaces
  let end = text.length
  while (end > 0 && spaces.has(text[end - 1]!)) end--
  return end
}

/** Python's `str.strip()`: what the reference does to an answer. */
export function stripPython(text: string): string {
  const end = trailingSpace(text, 'python')
  const start = leadingSpace(text, 'python')
  return start >= end ? '' : text.slice(start, end)
}

/** A run of prompt text. What a user or a model wrote is not trusted: control tokens inside it stay ordinary text. */
export interface TextPart {
  text: string
  trusted: boolean
}

/** Tags of region questions, special tokens that a question may hold. */
export const groundingTags: readonly string[] = ['<ref>', '</ref>', '<box>', '</box>', '<quad>', '</quad>']

const groundingSet = new Set(groundingTags)
const controlLook = /^<\|.*\|>$/s
const controlNames = new Set([
  '<img>',
  '</img>',
  '<IMG_CONTEXT>',
  '<image>',
  '<video>',
  '<s>',
  '</s>',
  '<unk>',
  '<pad>',
])

/** Whether text that is not trusted must not yield this token. */
export function isControl(token: AddedToken, listedSpecial: ReadonlySet<string>): boolean {
  if (groundingSet.has(token.content)) return false
  return (
    token.special ||
    listedSpecial.has(token.content) ||
    controlNames.has(token.content) ||
    controlLook.test(token.content)
  )
}

/** Each lone surrogate becomes U+FFFD, one unit for one. */
function wellFormed(text: string): string {
  return text.replace(/\p{Surrogate}/gu, '\ufffd')
}

/** Stretches [from, to) of a text, ascending, that do not touch each other. */
export type Ranges = readonly (readonly [from: number, to: number])[]

/** The joined text of parts, made well-formed, behind `before`, and the stretches of it that are not trusted. */
export function joinParts(parts: string | readonly TextPart[], before = ''): { text: string; untrusted: Ranges } {
  let text = before
  const untrusted: [number, number][] = []
  for (const part of typeof parts === 'string' ? [{ text: parts, trusted: true }] : parts) {
    const from = text.length
    text += part.text
    if (part.trusted || part.text === '') continue
    const last = untrusted.at(-1)
    if (last?.[1] === from) last[1] = text.length
    else untrusted.push([from, text.length])
  }
  return { text: wellFormed(text), untrusted }
}

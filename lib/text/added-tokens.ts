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

/** A stretch of text, or an added token found in it. */
export interface TextSection {
  text: string
  /** Offset of `text` in the input, after stripping. */
  start: number
  token?: AddedToken
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

interface TrieNode {
  next: Map<number, TrieNode>
  token?: AddedToken
}

const wordCharacter = /[\p{L}\p{M}\p{N}\p{Pc}]/u

/** Finds added tokens: leftmost first, the longest at each place. */
export class AddedTokenSplitter {
  readonly #root: TrieNode = { next: new Map() }
  readonly #spaces: SpaceRule

  constructor(tokens: Iterable<AddedToken>, spaces: SpaceRule) {
    this.#spaces = spaces
    for (const token of tokens) {
      if (token.content === '') continue
      let node = this.#root
      for (let i = 0; i < token.content.length; i++) {
        const unit = token.content.charCodeAt(i)
        const next: TrieNode = node.next.get(unit) ?? { next: new Map() }
        node.next.set(unit, next)
        node = next
      }
      node.token = token
    }
  }

  /** Sections in order, empty ones left out. `blocked` says that a match at [start, end) must stay ordinary text. */
  split(text: string, blocked?: (token: AddedToken, start: number, end: number) => boolean): TextSection[] {
    const found: { token: AddedToken; start: number; end: number }[] = []
    for (let at = 0; at < text.length; ) {
      let node = this.#root.next.get(text.charCodeAt(at))
      let best: AddedToken | undefined
      for (let end = at + 1; node; end++) {
        const token = node.token
        if (token && !blocked?.(token, at, end) && !(token.singleWord && touchesWord(text, at, end))) best = token
        node = end < text.length ? node.next.get(text.charCodeAt(end)) : undefined
      }
      if (best) {
        found.push({ token: best, start: at, end: at + best.content.length })
        at += best.content.length
      } else {
        at++
      }
    }
    const sections: TextSection[] = []
    let from = 0
    const addText = (end: number, left: AddedToken | undefined, right: AddedToken | undefined): void => {
      let piece = text.slice(from, end)
      let start = from
      if (left?.rstrip) {
        const cut = leadingSpace(piece, this.#spaces)
        piece = piece.slice(cut)
        start += cut
      }
      if (right?.lstrip) piece = piece.slice(0, trailingSpace(piece, this.#spaces))
      if (piece !== '') sections.push({ text: piece, start })
    }
    let left: AddedToken | undefined
    for (const { token, start, end } of found) {
      addText(start, left, token)
      sections.push({ text: token.content, start, token })
      from = end
      left = token
    }
    addText(text.length, left, undefined)
    return sections
  }
}

function touchesWord(text: string, start: number, end: number): boolean {
  const before = /[\s\S]$/u.exec(text.slice(Math.max(0, start - 2), start))?.[0] ?? ''
  const after = end < text.length ? String.fromCodePoint(text.codePointAt(end)!) : ''
  return wordCharacter.test(before) || wordCharacter.test(after)
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

/** The joined text of parts, made well-formed, and the stretches of it that are not trusted. */
export function joinParts(parts: string | readonly TextPart[]): { text: string; untrusted: [number, number][] } {
  if (typeof parts === 'string') return { text: wellFormed(parts), untrusted: [] }
  let text = ''
  const untrusted: [number, number][] = []
  for (const part of parts) {
    if (!part.trusted && part.text !== '') untrusted.push([text.length, text.length + part.text.length])
    text += part.text
  }
  return { text: wellFormed(text), untrusted }
}

/** Test for {@link AddedTokenSplitter.split}: a control token that touches text that is not trusted. */
export function blockControls(
  untrusted: readonly [number, number][],
  controls: ReadonlySet<number>,
  shift: number,
): ((token: AddedToken, start: number, end: number) => boolean) | undefined {
  if (untrusted.length === 0) return undefined
  return (token, start, end) =>
    controls.has(token.id) && untrusted.some(([from, to]) => start - shift < to && end - shift > from)
}

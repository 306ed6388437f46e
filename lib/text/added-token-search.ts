/**
 * Finding added tokens in a text, in the two ways of the reference. They agree unless a token is declared `single_word`, tokens overlap, or control
 * characters count as white space.
 *
 * - {@link CompiledSearch}: `AddedVocabulary::find_matches` of the compiled library (tokenizers 0.22).
 * - {@link PythonSearch}: `Trie.split` and `tokenize` of the Python tokenizers (transformers 4.37 to 4.57), which training and the official scripts run.
 *
 * Both take stretches that are not trusted: a control token that touches one is not found, as with the reference's option to split special tokens.
 */
import { type AddedToken, leadingSpace, type Ranges, trailingSpace } from './added-tokens.ts'

/** A stretch of a text, or an added token in it with the white space that it swallows. */
export interface Section {
  text: string
  /** The stretch of the input, for a token without what it swallows. */
  start: number
  end: number
  token?: AddedToken
}

export interface AddedTokenSearch {
  /** Sections in order, none of them empty. */
  split(text: string, untrusted: Ranges): Section[]
}

/** Where to go on behind a match in text that is not trusted; undefined for a match that touches none. */
function resumeBehind(untrusted: Ranges, start: number, end: number): number | undefined {
  const touched = untrusted.find(([from, to]) => start < to && end > from)
  return touched && Math.max(start + 1, Math.min(end, touched[1]))
}

interface TrieNode {
  next: Map<number, TrieNode>
  token?: AddedToken
}

function trieOf(tokens: Iterable<AddedToken>): TrieNode {
  const root: TrieNode = { next: new Map() }
  for (const token of tokens) {
    let node = root
    for (let i = 0; i < token.content.length; i++) {
      const unit = token.content.charCodeAt(i)
      const next: TrieNode = node.next.get(unit) ?? { next: new Map() }
      node.next.set(unit, next)
      node = next
    }
    if (node !== root) node.token ??= token
  }
  return root
}

interface Match {
  start: number
  end: number
  token: AddedToken
}

/** `\w` of the compiled library. */
const wordBefore = /[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]$/u
const wordBehind = /^[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]/u

export class CompiledSearch implements AddedTokenSearch {
  readonly #root: TrieNode
  readonly #controls: ReadonlySet<number>

  constructor(tokens: Iterable<AddedToken>, controls: ReadonlySet<number>) {
    this.#root = trieOf(tokens)
    this.#controls = controls
  }

  split(text: string, untrusted: Ranges): Section[] {
    const sections: Section[] = []
    let from = 0
    const pushText = (end: number): void => {
      if (from < end) sections.push({ text: text.slice(from, end), start: from, end })
    }
    for (const { token, start, end } of this.#matches(text, untrusted)) {
      const left = token.lstrip ? Math.max(from, trailingSpace(text.slice(0, start), 'unicode')) : start
      pushText(left)
      const right = token.rstrip ? end + leadingSpace(text.slice(end), 'unicode') : end
      // A token of white space that the one before has swallowed is gone.
      if (left < right) sections.push({ text: token.content, start, end, token })
      from = right
    }
    pushText(text.length)
    return sections
  }

  /** Leftmost first, the longest at each place. A match that is put aside is passed over as a whole. */
  #matches(text: string, untrusted: Ranges): Match[] {
    const found: Match[] = []
    for (let at = 0; at < text.length; ) {
      const token = this.#longest(text, at)
      if (!token) {
        at++
        continue
      }
      const end = at + token.content.length
      const resume = this.#controls.has(token.id) ? resumeBehind(untrusted, at, end) : undefined
      const put = resume !== undefined || (token.singleWord && touchesWord(text, at, end))
      if (!put) found.push({ token, start: at, end })
      at = resume ?? end
    }
    return found
  }

  #longest(text: string, at: number): AddedToken | undefined {
    let node = this.#root.next.get(text.charCodeAt(at))
    let best: AddedToken | undefined
    for (let end = at + 1; node; end++) {
      best = node.token ?? best
      node = end < text.length ? node.next.get(text.charCodeAt(end)) : undefined
    }
    return best
  }
}

function touchesWord(text: string, start: number, end: number): boolean {
  return wordBefore.test(text.slice(Math.max(0, start - 2), start)) || wordBehind.test(text.slice(end, end + 2))
}

export class PythonSearch implements AddedTokenSearch {
  readonly #root: TrieNode
  readonly #tokens = new Map<string, AddedToken>()
  readonly #controls: ReadonlySet<number>

  constructor(tokens: readonly AddedToken[], controls: ReadonlySet<number>) {
    this.#root = trieOf(tokens)
    for (const token of tokens) this.#tokens.set(token.content, token)
    this.#controls = controls
  }

  split(text: string, untrusted: Ranges): Section[] {
    const pieces = this.#pieces(text, untrusted)
    const tokenOf = (piece: Section): AddedToken | undefined => {
      const token = this.#tokens.get(piece.text)
      const control = token !== undefined && this.#controls.has(token.id)
      return control && resumeBehind(untrusted, piece.start, piece.end) !== undefined ? undefined : token
    }
    // The reference changes the neighbours of a token while it walks the list, and so do we: a token that is glued to a neighbour is none any more.
    for (const [i, piece] of pieces.entries()) {
      const token = tokenOf(piece)
      if (!token) continue
      const left = pieces[i - 1]
      const right = pieces[i + 1]
      const leftText = left?.text ?? ''
      const rightText = right?.text ?? ''
      if (token.rstrip && right) right.text = rightText.slice(leadingSpace(rightText, 'python'))
      if (token.lstrip && left) left.text = leftText.slice(0, trailingSpace(leftText, 'python'))
      if (!token.singleWord) continue
      // Judged by what stood there before it was stripped.
      if (left && leftText !== '' && !leftText.endsWith(' ')) {
        left.text += piece.text
        left.end = piece.end
        piece.text = ''
      } else if (right && rightText !== '' && !rightText.startsWith(' ')) {
        right.text = piece.text + right.text
        right.start = piece.start
        piece.text = ''
      }
    }
    return pieces.flatMap((piece) => {
      if (piece.text === '') return []
      const token = tokenOf(piece)
      return [token ? { ...piece, token } : piece]
    })
  }

  /** Texts and tokens in turn; tokens that are blocked are part of the text around them. */
  #pieces(text: string, untrusted: Ranges): Section[] {
    const pieces: Section[] = []
    let from = 0
    const push = (end: number): void => {
      if (from < end) pieces.push({ text: text.slice(from, end), start: from, end })
      from = Math.max(from, end)
    }
    for (let at = 0; ; ) {
      const match = findInTrie(this.#root, text, at)
      if (!match) break
      const token = this.#tokens.get(text.slice(match.start, match.end))
      const control = token !== undefined && this.#controls.has(token.id)
      const resume = control ? resumeBehind(untrusted, match.start, match.end) : undefined
      if (resume === undefined) {
        push(match.start)
        push(match.end)
      }
      at = resume ?? match.end
    }
    push(text.length)
    return pieces
  }
}

interface TrieState {
  start: number
  node: TrieNode
}

/**
 * The first match at or behind `from` as `Trie.split` finds it: all beginnings are followed at once, and the first that ends wins, unless one that
 * began earlier goes on to a longer token.
 */
function findInTrie(root: TrieNode, text: string, from: number): { start: number; end: number } | undefined {
  let states: TrieState[] = []
  for (let at = from; at <= text.length; at++) {
    const ended = states.length === 0 ? -1 : states.findIndex(({ node }) => node.token !== undefined)
    if (ended >= 0) return lookAhead(states.slice(0, ended + 1), text, at)
    const unit = text.charCodeAt(at)
    if (states.length > 0) {
      states = states.flatMap(({ start, node }) => {
        const next = node.next.get(unit)
        return next ? [{ start, node: next }] : []
      })
    }
    const begun = root.next.get(unit)
    if (begun) states.push({ start: at, node: begun })
  }
  return undefined
}

/** `states` are those up to the one that ended at `at`; none has seen the character there. */
function lookAhead(states: readonly TrieState[], text: string, at: number): { start: number; end: number } {
  let found = { start: states.at(-1)!.start, end: at }
  for (const [i, { start, node }] of states.entries()) {
    if (start > found.start) break
    const earlier = i + 1 < states.length
    // The reference goes on behind the character at hand even where an earlier beginning does not have it.
    let here: TrieNode | undefined = earlier ? (node.next.get(text.charCodeAt(at)) ?? node) : node
    for (let end = earlier ? at + 1 : at; here; end++) {
      if (here.token) found = { start, end }
      here = end < text.length ? here.next.get(text.charCodeAt(end)) : undefined
    }
  }
  return found
}

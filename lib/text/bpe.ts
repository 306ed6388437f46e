/**
 * Byte-pair encoding of one word by ranked merges, as the compiled tokenizer library does it: lowest rank first, the leftmost of
 * equals. Works on ids; words that were seen lately are looked up.
 */
import { PairQueue } from './pair-queue.ts'
import { placesFor, type Vocabulary } from './vocabulary.ts'

export interface BpeRules {
  vocabulary: Vocabulary
  /** Three ids a merge, in order of rank: left, right, both together. */
  merges: Int32Array
  /** As {@link pairTable} makes it of the merges. */
  pairs: Int32Array
  /** A word's symbols are its UTF-8 bytes, these their ids; otherwise its characters. */
  byteIds: Int32Array | undefined
  /** Ids of `<0x00>` to `<0xFF>`, for characters that the vocabulary lacks. */
  fallbackIds: Int32Array | undefined
  unkId: number | undefined
  /** Unknown characters in a row are one unknown token. */
  fuseUnk: boolean
  /** A word that is a token is that token, whatever the merges say. */
  ignoreMerges: boolean
}

const maxCachedWords = 16_384
const maxCachedLength = 64
export class Bpe {
  readonly #rules: BpeRules
  readonly #cache = new Map<string, readonly number[]>()
  readonly #utf8 = new TextEncoder()

  constructor(rules: BpeRules) {
    this.#rules = rules
  }

  encode(word: string): readonly number[] {
    const known = this.#cache.get(word)
    if (known) return known
    const ids = this.#encode(word)
    if (word.length <= maxCachedLength) {
      if (this.#cache.size >= maxCachedWords) this.#cache.clear()
      this.#cache.set(word, ids)
    }
    return ids
  }

  #encode(word: string): number[] {
    const symbols = this.#symbols(word)
    if (this.#rules.ignoreMerges) {
      const { vocabulary, byteIds } = this.#rules
      const whole = vocabulary.idOf(byteIds ? symbols.map((id) => vocabulary.contentOf(id)).join('') : word)
      if (whole !== undefined) return [whole]
    }
    return this.#merge(symbols)
  }

  #symbols(word: string): number[] {
    const { vocabulary, byteIds, fallbackIds, unkId, fuseUnk } = this.#rules
    const out: number[] = []
    if (byteIds) {
      for (const byte of this.#utf8.encode(word)) out.push(byteIds[byte]!)
      return out
    }
    let unknown = false
    for (const character of word) {
      const id = vocabulary.idOf(character)
      const wasUnknown = unknown
      unknown = id === undefined && !fallbackIds
      if (id !== undefined) out.push(id)
      else if (fallbackIds) for (const byte of this.#utf8.encode(character)) out.push(fallbackIds[byte]!)
      else if (unkId !== undefined && !(wasUnknown && fuseUnk)) out.push(unkId)
    }
    return out
  }

  #merge(symbols: number[]): number[] {
    const count = symbols.length
    if (count < 2) return symbols
    const previous = new Int32Array(count)
    const next = new Int32Array(count)
    /** Symbols that one has grown to, 0 when it was merged away. */
    const size = new Int32Array(count).fill(1)
    const queue = new PairQueue()
    const { merges, pairs } = this.#rules
    const consider = (left: number, right: number): void => {
      if (left < 0 || right < 0) return
      const rank = pairs[placeOf(pairs, merges, symbols[left]!, symbols[right]!)]! - 1
      if (rank >= 0) queue.push(-rank, left, right, size[left]! + size[right]!)
    }
    for (let i = 0; i < count; i++) {
      previous[i] = i - 1
      next[i] = i + 1 < count ? i + 1 : -1
    }
    for (let i = 1; i < count; i++) consider(i - 1, i)
    while (queue.pop()) {
      const { left, right } = queue
      // Both halves are as they were queued only if neither has grown or gone.
      if (size[left] === 0 || size[right] === 0 || size[left]! + size[right]! !== queue.size) continue
      symbols[left] = merges[-queue.score * 3 + 2]!
      size[left] = queue.size
      size[right] = 0
      const after = next[right]!
      next[left] = after
      if (after >= 0) previous[after] = left
      consider(previous[left]!, left)
      consider(left, after)
    }
    return symbols.filter((_, i) => size[i]! > 0)
  }
}

/**
 * Ranks of pairs of ids, as an open hash table: rank + 1, 0 for an empty place. A Map of 150,000 entries took a quarter of the loading time; this is made in
 * 30 ms, or kept with the merges.
 */
export function pairTable(merges: Int32Array): Int32Array {
  const pairs = new Int32Array(placesFor(merges.length / 3))
  for (let rank = 0; rank * 3 < merges.length; rank++) {
    const at = placeOf(pairs, merges, merges[rank * 3]!, merges[rank * 3 + 1]!)
    // A pair that is listed twice keeps its first rank.
    if (pairs[at] === 0) pairs[at] = rank + 1
  }
  return pairs
}

/** The place of a pair, or the empty one where it would stand. */
function placeOf(pairs: Int32Array, merges: Int32Array, left: number, right: number): number {
  const mask = pairs.length - 1
  let hash = Math.imul(left, 0x9e3779b1) ^ Math.imul(right, 0x85ebca6b)
  hash ^= hash >>> 15
  for (let at = hash & mask; ; at = (at + 1) & mask) {
    const rank = pairs[at]! - 1
    if (rank < 0 || (merges[rank * 3] === left && merges[rank * 3 + 1] === right)) return at
  }
}

/** Texts of tokens and their ids, both ways. */

export interface Vocabulary {
  /** One more than the largest id. */
  readonly size: number
  idOf(content: string): number | undefined
  /** Undefined for an id that no text has. */
  contentOf(id: number): string | undefined
}

/** As a JSON file lists it. */
export class ListedVocabulary implements Vocabulary {
  readonly #ids: ReadonlyMap<string, number>
  readonly #contents: readonly string[]

  constructor(ids: ReadonlyMap<string, number>, contents: readonly string[]) {
    this.#ids = ids
    this.#contents = contents
  }

  get size(): number {
    return this.#contents.length
  }

  idOf(content: string): number | undefined {
    return this.#ids.get(content)
  }

  contentOf(id: number): string | undefined {
    return this.#contents[id]
  }
}

/** What {@link PackedVocabulary} is made of. */
export interface PackedTexts {
  /** UTF-8 of all texts, one behind the other, in the order of their ids. */
  bytes: Uint8Array
  /** Where the text of each id ends in `bytes`; an id of no text ends where it begins. */
  ends: Uint32Array
  /** Open hash table by the bytes of a text: id + 1, 0 for an empty place. It has {@link placesFor} all ids, and an empty one. */
  slots: Int32Array
}

/** No text of a token is longer; in UTF-8 a code unit takes up to three bytes. */
const maxBytes = 3 * 4096
const lone = /\p{Surrogate}/u
const utf8 = new TextEncoder()

/** A vocabulary as it lies in a file: no text is a string before it is asked for, which is what takes the time of 150,000. */
export class PackedVocabulary implements Vocabulary {
  readonly #texts: PackedTexts
  readonly #bytes: Buffer
  readonly #asked = new Uint8Array(maxBytes)

  /** `ends` must not fall, and the last must not lie past `bytes`. */
  constructor(texts: PackedTexts) {
    const { bytes } = texts
    this.#texts = texts
    this.#bytes = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  }

  get size(): number {
    return this.#texts.ends.length
  }

  idOf(content: string): number | undefined {
    // Encoding would make U+FFFD of a lone surrogate, which is another text.
    if (content.length > maxBytes / 3 || lone.test(content)) return undefined
    const { written } = utf8.encodeInto(content, this.#asked)
    const id = this.#texts.slots[placeOf(this.#texts, this.#asked, 0, written)]! - 1
    return id < 0 ? undefined : id
  }

  contentOf(id: number): string | undefined {
    const { ends } = this.#texts
    const begin = beginOf(ends, id)
    const end = ends[id]
    return end === undefined || end === begin ? undefined : this.#bytes.toString('utf8', begin, end)
  }
}

const beginOf = (ends: Uint32Array, id: number): number => (id === 0 ? 0 : ends[id - 1]!)

/** The place of a text, or the empty one where it would stand. */
function placeOf(texts: PackedTexts, bytes: Uint8Array, begin: number, end: number): number {
  const { slots } = texts
  const mask = slots.length - 1
  let hash = 0x811c9dc5
  for (let i = begin; i < end; i++) hash = Math.imul(hash ^ bytes[i]!, 0x01000193)
  hash ^= hash >>> 15
  for (let at = hash & mask; ; at = (at + 1) & mask) {
    const id = slots[at]! - 1
    if (id < 0 || equals(texts, id, bytes, begin, end)) return at
  }
}

function equals({ bytes: own, ends }: PackedTexts, id: number, bytes: Uint8Array, begin: number, end: number): boolean {
  const from = beginOf(ends, id)
  if (ends[id]! - from !== end - begin) return false
  for (let i = begin; i < end; i++) if (bytes[i] !== own[from + i - begin]) return false
  return true
}

/** Places of an open hash table for so many entries, which take up to two thirds of them: a power of two. */
export function placesFor(entries: number): number {
  let places = 16
  while (places * 2 < entries * 3) places *= 2
  return places
}

/** Undefined where a text is empty or has a lone surrogate, which UTF-8 has no form for. */
export function packTexts(vocabulary: Vocabulary): PackedTexts | undefined {
  const ends = new Uint32Array(vocabulary.size)
  const texts: string[] = []
  let end = 0
  for (let id = 0; id < ends.length; id++) {
    const text = vocabulary.contentOf(id)
    if (text !== undefined) {
      if (text === '' || lone.test(text)) return undefined
      texts.push(text)
      end += Buffer.byteLength(text)
    }
    ends[id] = end
  }
  const packed = { bytes: Buffer.from(texts.join('')), ends, slots: new Int32Array(placesFor(ends.length)) }
  for (let id = 0, begin = 0; id < ends.length; id++) {
    const end = ends[id]!
    if (end > begin) packed.slots[placeOf(packed, packed.bytes, begin, end)] = id + 1
    begin = end
  }
  return packed
}

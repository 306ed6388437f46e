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
}

/** No text of a token is longer; in UTF-8 a code unit takes up to three bytes. */
const maxBytes = 3 * 4096
const lone = /\p{Surrogate}/u
const utf8 = new TextEncoder()

/** A vocabulary as it lies in a file: no text is a string before it is asked for, which is what takes the time of 150,000. */
export class PackedVocabulary implements Vocabulary {
  readonly #bytes: Buffer
  readonly #ends: Uint32Array
  /** Open hash table by the bytes of the text: id + 1, 0 for an empty place. */
  readonly #slots: Int32Array
  readonly #asked = new Uint8Array(maxBytes)

  /** `ends` must not fall, and the last must not lie past `bytes`. */
  constructor({ bytes, ends }: PackedTexts) {
    this.#bytes = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    this.#ends = ends
    let size = 16
    while (size < ends.length * 2) size *= 2
    this.#slots = new Int32Array(size)
    for (let id = 0, begin = 0; id < ends.length; id++) {
      const end = ends[id]!
      if (end > begin) this.#slots[this.#find(bytes, begin, end)] = id + 1
      begin = end
    }
  }

  get size(): number {
    return this.#ends.length
  }

  idOf(content: string): number | undefined {
    // Encoding would make U+FFFD of a lone surrogate, which is another text.
    if (content.length > maxBytes / 3 || lone.test(content)) return undefined
    const { written } = utf8.encodeInto(content, this.#asked)
    const id = this.#slots[this.#find(this.#asked, 0, written)]! - 1
    return id < 0 ? undefined : id
  }

  contentOf(id: number): string | undefined {
    const begin = this.#begin(id)
    const end = this.#ends[id]
    return end === undefined || end === begin ? undefined : this.#bytes.toString('utf8', begin, end)
  }

  #begin(id: number): number {
    return id === 0 ? 0 : this.#ends[id - 1]!
  }

  /** The place of a text, or the empty one where it would stand. */
  #find(bytes: Uint8Array, begin: number, end: number): number {
    const mask = this.#slots.length - 1
    let hash = 0x811c9dc5
    for (let i = begin; i < end; i++) hash = Math.imul(hash ^ bytes[i]!, 0x01000193)
    hash ^= hash >>> 15
    for (let at = hash & mask; ; at = (at + 1) & mask) {
      const id = this.#slots[at]! - 1
      if (id < 0 || this.#equals(id, bytes, begin, end)) return at
    }
  }

  #equals(id: number, bytes: Uint8Array, begin: number, end: number): boolean {
    const from = this.#begin(id)
    if (this.#ends[id]! - from !== end - begin) return false
    for (let i = begin; i < end; i++) if (bytes[i] !== this.#bytes[from + i - begin]) return false
    return true
  }
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
  return { bytes: Buffer.from(texts.join('')), ends }
}

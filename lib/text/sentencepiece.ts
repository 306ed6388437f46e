/**
 * SentencePiece `tokenizer.model`: the protobuf, read from bytes nobody vouches for, and its BPE, symbol pairs merged by the
 * score of the piece they make. Merging by score is not the same as a ranked list of pairs (InternLM2 has hundreds of pieces of
 * equal score and 192 user-defined ones), so it is done here as SentencePiece does it.
 *
 * Covered: model type BPE without a character map (`identity`), which is every `tokenizer.model` of the family. Anything else
 * is refused by name.
 */
import { ModelError } from '../errors.ts'
import { byteOfPiece, bytePieceName } from './decoding.ts'
import { PairQueue } from './pair-queue.ts'

/** SentencePiece's own numbers. */
export const pieceType = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const

export interface SentencePieceModel {
  /** By id. */
  pieces: string[]
  scores: Float32Array
  types: Uint8Array
  unkId: number
  byteFallback: boolean
  addDummyPrefix: boolean
  removeExtraWhitespaces: boolean
  escapeWhitespaces: boolean
  /** Text that stands for the unknown piece when decoding. */
  unkSurface: string
}

const maxPieces = 2_000_000
const modelTypes: Record<number, string> = { 1: 'unigram', 2: 'bpe', 3: 'word', 4: 'char' }

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

class Wire {
  readonly #bytes: Uint8Array
  readonly #file: string
  at: number
  readonly end: number

  constructor(bytes: Uint8Array, file: string, at = 0, end: number = bytes.length) {
    this.#bytes = bytes
    this.#file = file
    this.at = at
    this.end = end
  }

  fail(what: string): never {
    throw new ModelError(
      'BAD_TOKENIZER',
      `${this.#file}: ${what} at byte ${this.at}; copy the file again, it is damaged or not a SentencePiece model.`,
    )
  }

  /** Low 53 bits are enough: ids, lengths, flags. Longer encodings (negative numbers) are read and cut. */
  varint(): number {
    let value = 0
    let scale = 1
    for (let i = 0; i < 10; i++) {
      if (this.at >= this.end) this.fail('a number runs past the end')
      const byte = this.#bytes[this.at++]!
      if (i < 7) value += (byte & 127) * scale
      scale *= 128
      if (byte < 128) return value
    }
    return this.fail('a number is longer than ten bytes')
  }

  float(): number {
    if (this.at + 4 > this.end) this.fail('a float runs past the end')
    const view = new DataView(this.#bytes.buffer, this.#bytes.byteOffset + this.at, 4)
    this.at += 4
    return view.getFloat32(0, true)
  }

  message(): Wire {
    const length = this.varint()
    if (length > this.end - this.at) this.fail(`a field of ${length} bytes runs past the end`)
    const inner = new Wire(this.#bytes, this.#file, this.at, this.at + length)
    this.at += length
    return inner
  }

  text(): string {
    const { at, end } = this.message()
    try {
      return utf8.decode(this.#bytes.subarray(at, end))
    } catch {
      return this.fail('a piece is not valid UTF-8')
    }
  }

  skip(wireType: number): void {
    if (wireType === 0) this.varint()
    else if (wireType === 2) this.message()
    else if (wireType === 1 || wireType === 5) {
      const size = wireType === 1 ? 8 : 4
      if (size > this.end - this.at) this.fail('a field runs past the end')
      this.at += size
    } else this.fail(`wire type ${wireType} is not part of the format`)
  }

  /** Calls `field` for each field; it returns false for those it did not read. */
  fields(field: (number: number, wireType: number) => boolean): void {
    while (this.at < this.end) {
      const key = this.varint()
      const number = Math.floor(key / 8)
      const wireType = key % 8
      if (number === 0) this.fail('field number 0')
      if (!field(number, wireType)) this.skip(wireType)
    }
  }
}

/** Reads a `tokenizer.model`. `file` names it in errors. */
export function parseSentencePiece(bytes: Uint8Array, file: string): SentencePieceModel {
  const refuse = (what: string): never => {
    throw new ModelError('BAD_TOKENIZER', `${file}: ${what}`)
  }
  const pieces: string[] = []
  const scores: number[] = []
  const types: number[] = []
  let modelType = 1
  let treatWhitespaceAsSuffix = false
  let charsmapBytes = 0
  const model = {
    byteFallback: false,
    addDummyPrefix: true,
    removeExtraWhitespaces: true,
    escapeWhitespaces: true,
    unkSurface: ' \u2047 ',
  }
  const wire = new Wire(bytes, file)
  wire.fields((number, wireType) => {
    if (wireType !== 2 || number > 3) return false
    const inner = wire.message()
    if (number === 1) {
      let piece = ''
      let score = 0
      let type: number = pieceType.normal
      inner.fields((field, fieldType) => {
        if (field === 1 && fieldType === 2) piece = inner.text()
        else if (field === 2 && fieldType === 5) score = inner.float()
        else if (field === 3 && fieldType === 0) type = inner.varint()
        else return false
        return true
      })
      if (piece === '') refuse(`piece ${pieces.length} is empty; the file is damaged.`)
      if (Number.isNaN(score)) refuse(`piece ${pieces.length} has a score that is not a number; the file is damaged.`)
      if (type < 1 || type > 6)
        refuse(`piece ${pieces.length} has type ${type}, known are 1 to 6; the file is damaged.`)
      if (pieces.length >= maxPieces)
        refuse(`more than ${maxPieces} pieces; this is no tokenizer of the InternVL family.`)
      pieces.push(piece)
      scores.push(score)
      types.push(type)
    } else if (number === 2) {
      inner.fields((field, fieldType) => {
        if (field === 3 && fieldType === 0) modelType = inner.varint()
        else if (field === 24 && fieldType === 0) treatWhitespaceAsSuffix = inner.varint() !== 0
        else if (field === 35 && fieldType === 0) model.byteFallback = inner.varint() !== 0
        else if (field === 44 && fieldType === 2) model.unkSurface = inner.text()
        else return false
        return true
      })
    } else {
      inner.fields((field, fieldType) => {
        if (field === 2 && fieldType === 2) {
          const map = inner.message()
          charsmapBytes = map.end - map.at
        } else if (field === 3 && fieldType === 0) model.addDummyPrefix = inner.varint() !== 0
        else if (field === 4 && fieldType === 0) model.removeExtraWhitespaces = inner.varint() !== 0
        else if (field === 5 && fieldType === 0) model.escapeWhitespaces = inner.varint() !== 0
        else return false
        return true
      })
    }
    return true
  })
  if (pieces.length === 0) refuse('no pieces in it; this is not a SentencePiece model, copy the file again.')
  if (modelType !== 2)
    refuse(
      `model type ${modelTypes[modelType] ?? modelType}, only bpe is supported; the checkpoints of this family have bpe.`,
    )
  if (charsmapBytes > 0)
    refuse(`a character map of ${charsmapBytes} bytes; only models without one (identity) are supported.`)
  if (treatWhitespaceAsSuffix)
    refuse('white space as a suffix is not supported; the checkpoints of this family have it as a prefix.')
  const seen = new Map<string, number>()
  for (const [id, piece] of pieces.entries()) {
    const first = seen.get(piece)
    if (first !== undefined)
      refuse(`piece ${JSON.stringify(piece)} stands at ${first} and at ${id}; the file is damaged.`)
    seen.set(piece, id)
  }
  const unkId = types.indexOf(pieceType.unknown)
  if (unkId < 0 || types.indexOf(pieceType.unknown, unkId + 1) >= 0)
    refuse('needs exactly one unknown piece; the file is damaged.')
  for (let byte = 0; model.byteFallback && byte < 256; byte++) {
    const id = seen.get(bytePieceName(byte))
    if (id === undefined || types[id] !== pieceType.byte)
      refuse(`byte fallback without the piece ${bytePieceName(byte)}; the file is damaged.`)
  }
  return { pieces, scores: Float32Array.from(scores), types: Uint8Array.from(types), unkId, ...model }
}

const space = '\u2581'

/** Encodes text to ids, without added tokens and without bos. */
export class SentencePieceEncoder {
  readonly model: SentencePieceModel
  /** Every piece by name, byte and control pieces too. */
  readonly ids: ReadonlyMap<string, number>
  /** Pieces that merging may make. */
  readonly #mergeable = new Map<string, number>()
  /** User-defined pieces by their first unit, longest first. */
  readonly #userDefined = new Map<number, string[]>()
  readonly #bytes = new Int32Array(256).fill(-1)
  readonly #addDummyPrefix: boolean
  readonly #utf8 = new TextEncoder()

  constructor(model: SentencePieceModel, options: { addDummyPrefix?: boolean } = {}) {
    this.model = model
    this.#addDummyPrefix = options.addDummyPrefix ?? model.addDummyPrefix
    const ids = new Map<string, number>()
    for (const [id, piece] of model.pieces.entries()) {
      ids.set(piece, id)
      const type = model.types[id]!
      if (type === pieceType.normal || type === pieceType.userDefined || type === pieceType.unused)
        this.#mergeable.set(piece, id)
      if (type === pieceType.userDefined) {
        const first = piece.charCodeAt(0)
        this.#userDefined.set(first, [...(this.#userDefined.get(first) ?? []), piece])
      }
      if (type === pieceType.byte) {
        const byte = byteOfPiece(piece)
        if (byte !== undefined) this.#bytes[byte] = id
      }
    }
    for (const list of this.#userDefined.values()) list.sort((a, b) => b.length - a.length)
    this.ids = ids
  }

  encode(text: string): number[] {
    const symbols = this.#merge(this.#normalize(text))
    const out: number[] = []
    let previousUnknown = false
    for (const symbol of symbols) {
      const id = this.#mergeable.get(symbol)
      if (id !== undefined) {
        out.push(id)
        previousUnknown = false
      } else if (this.model.byteFallback) {
        for (const byte of this.#utf8.encode(symbol)) out.push(this.#bytes[byte]!)
      } else {
        if (!previousUnknown) out.push(this.model.unkId)
        previousUnknown = true
      }
    }
    return out
  }

  #normalize(text: string): string {
    let out = text
    if (this.model.removeExtraWhitespaces) {
      let end = out.length
      while (end > 0 && out[end - 1] === ' ') end--
      let start = 0
      while (start < end && out[start] === ' ') start++
      out = out.slice(start, end).replace(/ {2,}/g, ' ')
    }
    if (out === '') return ''
    if (this.#addDummyPrefix) out = ` ${out}`
    return this.model.escapeWhitespaces ? out.replaceAll(' ', space) : out
  }

  /** SentencePiece's `bpe::Model::Encode`: the best pair first, the leftmost of equals. */
  #merge(text: string): string[] {
    const starts: number[] = []
    const frozen: boolean[] = []
    for (let at = 0; at < text.length; ) {
      const known = this.#userDefinedAt(text, at)
      starts.push(at)
      frozen.push(known > 0)
      at += known || (text.codePointAt(at)! > 0xffff ? 2 : 1)
    }
    const count = starts.length
    const start = Int32Array.from(starts)
    const length = new Int32Array(count)
    const previous = new Int32Array(count)
    const next = new Int32Array(count)
    for (let i = 0; i < count; i++) {
      length[i] = (i + 1 < count ? start[i + 1]! : text.length) - start[i]!
      previous[i] = i - 1
      next[i] = i + 1 < count ? i + 1 : -1
    }
    const { types, scores } = this.model
    const queue = new PairQueue()
    const halves = new Map<string, [string, string]>()
    const consider = (left: number, right: number): void => {
      if (left < 0 || right < 0 || frozen[left] || frozen[right]) return
      const size = length[left]! + length[right]!
      const piece = text.slice(start[left]!, start[left]! + size)
      const id = this.#mergeable.get(piece)
      if (id === undefined) return
      queue.push(scores[id]!, left, right, size)
      if (types[id] === pieceType.unused) halves.set(piece, [piece.slice(0, length[left]!), piece.slice(length[left]!)])
    }
    for (let i = 1; i < count; i++) consider(i - 1, i)
    while (queue.pop()) {
      const { left, right, size } = queue
      if (length[left] === 0 || length[right] === 0 || length[left]! + length[right]! !== size) continue
      length[left] = size
      length[right] = 0
      const after = next[right]!
      next[left] = after
      if (after >= 0) previous[after] = left
      consider(previous[left]!, left)
      consider(left, after)
    }
    const out: string[] = []
    // Unused pieces are only steps on the way: an unused result is taken apart again.
    const emit = (piece: string): void => {
      const stack = [piece]
      for (let top = stack.pop(); top !== undefined; top = stack.pop()) {
        const id = this.#mergeable.get(top)
        const split = id !== undefined && types[id] === pieceType.unused ? halves.get(top) : undefined
        if (split) stack.push(split[1], split[0])
        else out.push(top)
      }
    }
    for (let i = count > 0 ? 0 : -1; i >= 0; i = next[i]!) emit(text.slice(start[i]!, start[i]! + length[i]!))
    return out
  }

  /** Length of the longest user-defined piece here, or 0. */
  #userDefinedAt(text: string, at: number): number {
    const found = this.#userDefined.get(text.charCodeAt(at))?.find((piece) => text.startsWith(piece, at))
    return found?.length ?? 0
  }
}

/** Writes a SentencePiece `tokenizer.model`: the protobuf of a BPE model with byte fallback. */

export interface SentencePieceSource {
  /** Pieces that merge from two others, best first. */
  merged: readonly (readonly [left: string, right: string])[]
  /** Single characters, after the merged pieces. */
  characters: readonly string[]
  /** Pieces cut out of the text before anything else, at the end. */
  userDefined: readonly string[]
  addDummyPrefix: boolean
}

const kinds = { normal: 1, unknown: 2, control: 3, userDefined: 4, byte: 6 } as const

/** The model's bytes. Ids are: `<unk>`, `<s>`, `</s>`, the 256 bytes, merged pieces, characters, user-defined pieces. */
export function sentencePieceModel(source: SentencePieceSource): Uint8Array {
  const pieces: Uint8Array[] = []
  const add = (text: string, score: number, kind: number) => pieces.push(field(1, piece(text, score, kind)))
  add('<unk>', 0, kinds.unknown)
  add('<s>', 0, kinds.control)
  add('</s>', 0, kinds.control)
  for (let byte = 0; byte < 256; byte++) {
    add(`<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`, 0, kinds.byte)
  }
  let rank = 0
  for (const [left, right] of source.merged) add(left + right, -rank++, kinds.normal)
  for (const character of source.characters) add(character, -rank++, kinds.normal)
  for (const text of source.userDefined) add(text, 0, kinds.userDefined)
  const trainer = concat([
    number(3, 2), // model_type: BPE
    number(4, pieces.length), // vocab_size
    number(35, 1), // byte_fallback
    number(40, 0), // unk_id
    number(41, 1), // bos_id
    number(42, 2), // eos_id
  ])
  const normalizer = concat([
    field(1, new TextEncoder().encode('identity')),
    field(2, new Uint8Array(0)),
    number(3, source.addDummyPrefix ? 1 : 0), // add_dummy_prefix
    number(4, 0), // remove_extra_whitespaces
  ])
  return concat([...pieces, field(2, trainer), field(3, normalizer)])
}

function piece(text: string, score: number, kind: number): Uint8Array {
  const value = new Uint8Array(5)
  value[0] = (2 << 3) | 5
  new DataView(value.buffer).setFloat32(1, score, true)
  const parts = [field(1, new TextEncoder().encode(text)), value]
  return concat(kind === kinds.normal ? parts : [...parts, number(3, kind)])
}

/** A length-delimited field. */
function field(id: number, value: Uint8Array): Uint8Array {
  return concat([varint((id << 3) | 2), varint(value.length), value])
}

function number(id: number, value: number): Uint8Array {
  return concat([varint(id << 3), varint(value)])
}

function varint(value: number): Uint8Array {
  const bytes: number[] = []
  for (let rest = value; ; rest = Math.floor(rest / 128)) {
    if (rest < 128) return Uint8Array.from([...bytes, rest])
    bytes.push((rest % 128) + 128)
  }
}

function concat(parts: readonly Uint8Array[]): Uint8Array {
  return Buffer.concat(parts)
}

/**
 * Foxglove's picture messages in protobuf and JSON. https://docs.foxglove.dev/docs/sdk/schemas
 * https://protobuf.dev/programming-guides/encoding
 */
import { visible } from './files.ts'
import { emptyPicture, type PictureKind, type PictureMessage, stampOf, textOf } from './picture.ts'

/** Numbers of the fields, by schema. */
const numbers: Record<string, Readonly<Record<string, number>>> = {
  'foxglove.CompressedImage': { timestamp: 1, data: 2, format: 3, frame_id: 4 },
  'foxglove.RawImage': { timestamp: 1, width: 2, height: 3, encoding: 4, step: 5, data: 6, frame_id: 7 },
  'foxglove.CompressedVideo': { timestamp: 1, frame_id: 2, data: 3, format: 4 },
}

const schemaOf: Record<PictureKind, string> = {
  compressed: 'foxglove.CompressedImage',
  raw: 'foxglove.RawImage',
  video: 'foxglove.CompressedVideo',
}

/** A field as it is encoded: a number of 64 bits, or bytes. */
interface WireField {
  number: number
  type: number
  value: bigint
  bytes: Uint8Array
}

/** The fields of a message one after another. Lengths are compared with what is left. */
export function* wireFields(data: Uint8Array): Generator<WireField> {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength)
  let at = 0
  const varint = (): bigint => {
    let value = 0n
    for (let shift = 0n; shift < 70n; shift += 7n) {
      if (at >= data.length) throw new Error('a number of its protobuf is cut')
      const byte = data[at++]!
      value |= BigInt(byte & 0x7f) << shift
      if (byte < 0x80) return BigInt.asUintN(64, value)
    }
    throw new Error('a number of its protobuf has more than 10 bytes')
  }
  const none = new Uint8Array(0)
  while (at < data.length) {
    const key = Number(varint())
    const number = Math.floor(key / 8)
    const type = key % 8
    const left = () => data.length - at
    if (number === 0) throw new Error('its protobuf has a field of number 0')
    if (type === 0) yield { number, type, value: varint(), bytes: none }
    else if (type === 1 || type === 5) {
      const size = type === 1 ? 8 : 4
      if (left() < size) throw new Error(`field ${number} of its protobuf is cut`)
      yield {
        number,
        type,
        value: type === 1 ? view.getBigUint64(at, true) : BigInt(view.getUint32(at, true)),
        bytes: none,
      }
      at += size
    } else if (type === 2) {
      const length = Number(varint())
      if (length > left())
        throw new Error(`field ${number} of its protobuf needs ${length} bytes, and ${left()} are left`)
      yield { number, type, value: 0n, bytes: data.subarray(at, at + length) }
      at += length
    } else throw new Error(`field ${number} of its protobuf has the wire type ${type}`)
  }
}

export function readProtobufMessage(data: Uint8Array, kind: PictureKind): PictureMessage {
  const picture = emptyPicture(kind)
  const names = new Map(Object.entries(numbers[schemaOf[kind]]!).map(([name, number]) => [number, name]))
  for (const { number, type, value, bytes } of wireFields(data)) {
    const name = names.get(number)
    if (name === undefined) continue // of a later version
    const expected = name === 'width' || name === 'height' || name === 'step' ? 5 : 2
    if (type !== expected) throw new Error(`'${name}' of its protobuf has the wire type ${type}, not ${expected}`)
    if (name === 'timestamp') picture.stamp = readTimestamp(bytes)
    else if (name === 'data') picture.data = bytes
    else if (name === 'width' || name === 'height' || name === 'step') picture[name] = Number(value)
    else if (name === 'frame_id') picture.frameId = textOf(bytes, name, false)
    else picture[name as 'format' | 'encoding'] = textOf(bytes, name, false)
  }
  return picture
}

function readTimestamp(data: Uint8Array): bigint | undefined {
  let [seconds, nanoseconds] = [0n, 0n]
  for (const { number, type, value } of wireFields(data)) {
    if (type !== 0) throw new Error(`'timestamp' of its protobuf has the wire type ${type}`)
    if (number === 1) seconds = BigInt.asIntN(64, value)
    if (number === 2) nanoseconds = BigInt.asIntN(64, value)
  }
  return stampOf(seconds, nanoseconds)
}

/**
 * Holds a `FileDescriptorSet` against the numbers that are known.
 *
 * @returns A sentence if they are others; undefined if not, or if the schema is not in it.
 */
export function descriptorFields(set: Uint8Array, schema: string): string | undefined {
  const known = numbers[schema]!
  try {
    for (const file of wireFields(set)) {
      if (file.number !== 1 || file.type !== 2) continue
      const parts = [...wireFields(file.bytes)]
      const scope = parts.find(({ number }) => number === 2)
      for (const message of parts.filter(({ number, type }) => number === 4 && type === 2)) {
        const own = [...wireFields(message.bytes)]
        const name = Buffer.from(own.find(({ number }) => number === 1)?.bytes ?? []).toString()
        if (`${Buffer.from(scope?.bytes ?? [])}.${name}` !== schema) continue
        const found = new Map(
          own
            .filter(({ number, type }) => number === 2 && type === 2)
            .map(({ bytes }) => {
              const field = [...wireFields(bytes)]
              const label = Buffer.from(field.find(({ number }) => number === 1)?.bytes ?? []).toString()
              return [label, Number(field.find(({ number }) => number === 3)?.value ?? 0n)]
            }),
        )
        for (const [label, number] of Object.entries(known)) {
          if (found.get(label) !== number) {
            return `its field '${label}' has the number ${found.get(label) ?? 'none'}, expected ${number}`
          }
        }
      }
    }
  } catch (error) {
    return `its descriptor cannot be read: ${(error as Error).message}`
  }
  return undefined
}

export function readJsonMessage(data: Uint8Array, kind: PictureKind): PictureMessage {
  let found: unknown
  try {
    found = JSON.parse(Buffer.from(data.buffer, data.byteOffset, data.length).toString('utf8'))
  } catch (error) {
    throw new Error(`it is no JSON (${visible((error as Error).message, 80)})`)
  }
  if (typeof found !== 'object' || found === null || Array.isArray(found)) throw new Error('expected an object of JSON')
  const record = found as Record<string, unknown>
  const picture = emptyPicture(kind)
  const word = (name: string): string => {
    const value = record[name] ?? ''
    if (typeof value !== 'string') throw new Error(`'${name}' is no text`)
    return textOf(Buffer.from(value), name, false)
  }
  const whole = (name: 'width' | 'height' | 'step'): number => {
    const value = record[name]
    if (Number.isSafeInteger(value) && (value as number) >= 0) return value as number
    throw new Error(`'${name}' is no whole number`)
  }
  picture.stamp = jsonTime(record.timestamp)
  picture.frameId = word('frame_id')
  picture.data = base64(record.data)
  if (kind === 'raw') {
    picture.encoding = word('encoding')
    for (const name of ['width', 'height', 'step'] as const) picture[name] = whole(name)
  } else picture.format = word('format')
  return picture
}

function jsonTime(time: unknown): bigint | undefined {
  const { sec, nsec } = Object(time) as { sec?: unknown; nsec?: unknown }
  if (!Number.isSafeInteger(sec) || !Number.isSafeInteger(nsec)) return undefined
  return stampOf(BigInt(sec as number), BigInt(nsec as number))
}

/** Line ends are left out, and both alphabets taken; what else is not of them is an error. */
export function base64(value: unknown): Uint8Array {
  if (typeof value !== 'string') throw new Error("'data' is no text of base64")
  const text = /\s/.test(value) ? value.replace(/\s+/g, '') : value
  const data = Buffer.from(text, 'base64')
  const signs = text.length - (text.endsWith('==') ? 2 : text.endsWith('=') ? 1 : 0)
  if (data.length !== Math.floor((signs * 3) / 4)) throw new Error("'data' is no base64")
  return data
}

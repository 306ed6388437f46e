/** A picture as its message has it, whatever the encoding of the message. */

const maxTextBytes = 4096

/** What a topic's messages are. */
export type PictureKind = 'compressed' | 'raw' | 'video'

/** A picture as its message has it: a file's bytes, or pixels in an encoding. */
export interface PictureMessage {
  /** A file's bytes, or pixels. */
  kind: PictureKind
  /** When it was taken, ns; undefined where the driver left it out or it is none. */
  stamp: bigint | undefined
  /** The `frame_id` of its header; empty where there is none. */
  frameId: string
  /** Of a file: what the writer called it, `jpeg` or `rgb8; jpeg compressed bgr8`. The bytes decide. */
  format: string
  /** Of pixels: `rgb8`, `bayer_rggb8`, … */
  encoding: string
  /** Of pixels: how many a row; 0 for a file. */
  width: number
  /** Of pixels: rows; 0 for a file. */
  height: number
  /** Bytes from one row to the next. */
  step: number
  /** Of pixels with 16 bits: the high byte is first. */
  bigEndian: boolean
  /** A view of the message. */
  data: Uint8Array
}

/** A picture's fields, empty. */
export function emptyPicture(kind: PictureKind): PictureMessage {
  return {
    kind,
    stamp: undefined,
    frameId: '',
    format: '',
    encoding: '',
    width: 0,
    height: 0,
    step: 0,
    bigEndian: false,
    data: new Uint8Array(0),
  }
}

/** ns, or undefined for 0 and for what is no time. */
export function stampOf(seconds: bigint, nanoseconds: bigint): bigint | undefined {
  if (nanoseconds < 0n || nanoseconds > 999_999_999n || seconds < 0n || seconds > 2n ** 33n) return undefined
  const stamp = seconds * 1_000_000_000n + nanoseconds
  return stamp === 0n ? undefined : stamp
}

/** A name or format: short, in UTF-8. */
export function textOf(bytes: Uint8Array, name: string, zero: boolean): string {
  if (bytes.length > maxTextBytes)
    throw new Error(`'${name}' has ${bytes.length} bytes, of which up to ${maxTextBytes} are taken`)
  const end = zero && bytes.at(-1) === 0 ? bytes.length - 1 : bytes.length
  return Buffer.from(bytes.buffer, bytes.byteOffset, end).toString('utf8')
}

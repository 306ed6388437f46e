/**
 * The messages that hold pictures, read from CDR, ROS 1, protobuf and JSON. The layout of each is known; a definition that the log carries is
 * held against it, so that a message of one's own by the same name is told from them.
 */
import type { Channel } from './container.ts'
import { visible } from './files.ts'
import { descriptorFields, readJsonMessage, readProtobufMessage } from './foxglove.ts'
import { emptyPicture, type PictureKind, type PictureMessage, stampOf, textOf } from './picture.ts'

/** How the messages of a channel are read. */
export interface PictureReader {
  kind: PictureKind
  read: (data: Uint8Array) => PictureMessage
}

/** A field of a ROS message: its type, its name. */
type Field = readonly [type: 'time' | 'header' | 'string' | 'uint8' | 'uint32' | 'uint8[]', name: string]

const rosFields: Record<string, { kind: PictureKind; fields: readonly Field[] }> = {
  'sensor_msgs/CompressedImage': {
    kind: 'compressed',
    fields: [
      ['header', 'header'],
      ['string', 'format'],
      ['uint8[]', 'data'],
    ],
  },
  'sensor_msgs/Image': {
    kind: 'raw',
    fields: [
      ['header', 'header'],
      ['uint32', 'height'],
      ['uint32', 'width'],
      ['string', 'encoding'],
      ['uint8', 'is_bigendian'],
      ['uint32', 'step'],
      ['uint8[]', 'data'],
    ],
  },
  'foxglove_msgs/CompressedImage': {
    kind: 'compressed',
    fields: [
      ['time', 'timestamp'],
      ['string', 'frame_id'],
      ['uint8[]', 'data'],
      ['string', 'format'],
    ],
  },
  'foxglove_msgs/RawImage': {
    kind: 'raw',
    fields: [
      ['time', 'timestamp'],
      ['string', 'frame_id'],
      ['uint32', 'width'],
      ['uint32', 'height'],
      ['string', 'encoding'],
      ['uint32', 'step'],
      ['uint8[]', 'data'],
    ],
  },
  'foxglove_msgs/CompressedVideo': {
    kind: 'video',
    fields: [
      ['time', 'timestamp'],
      ['string', 'frame_id'],
      ['uint8[]', 'data'],
      ['string', 'format'],
    ],
  },
}

const foxgloveKinds: Record<string, PictureKind> = {
  'foxglove.CompressedImage': 'compressed',
  'foxglove.RawImage': 'raw',
  'foxglove.CompressedVideo': 'video',
}

/** Video in packets of ROS: known by name, and not read. */
const packets = ['ffmpeg_image_transport_msgs/FFMPEGPacket', 'theora_image_transport/Packet']

/** `sensor_msgs/msg/Image` and `sensor_msgs::msg::Image` are `sensor_msgs/Image`. */
export function plainSchema(name: string): string {
  return name.replaceAll('::', '/').replace(/^([^/]+)\/msg\//, '$1/')
}

/**
 * How pictures are read from a channel; undefined for channels of other things.
 *
 * @returns A sentence in place of a reader where it has pictures that cannot be read.
 */
export function pictureReader(channel: Channel): PictureReader | string | undefined {
  const schema = plainSchema(channel.schema)
  const ros = rosFields[schema]
  const foxglove = foxgloveKinds[schema]
  if (packets.includes(schema)) {
    return `it is video in packets (${schema}), which is not decoded; republish it: ros2 run image_transport republish`
  }
  if (ros !== undefined) {
    const { kind } = ros
    if (channel.encoding === 'cdr' || channel.encoding === 'ros1') {
      const { encoding = '', data = new Uint8Array(0) } = channel.definition ?? {}
      // Some writers leave the definition empty.
      const known = /^ros[12]msg$/.test(encoding) && data.length > 0
      const otherwise = known ? differs(Buffer.from(data).toString(), ros.fields) : undefined
      if (otherwise !== undefined) return `its ${schema} is not the known one: ${otherwise}`
      const read = channel.encoding === 'cdr' ? readCdr : readRos1
      return { kind, read: (data) => read(data, kind, ros.fields) }
    }
  } else if (foxglove !== undefined) {
    if (channel.encoding === 'protobuf') {
      const fields = channel.definition && descriptorFields(channel.definition.data, schema)
      if (typeof fields === 'string') return `its ${schema} is not the known one: ${fields}`
      return { kind: foxglove, read: (data) => readProtobufMessage(data, foxglove) }
    }
    if (channel.encoding === 'json') return { kind: foxglove, read: (data) => readJsonMessage(data, foxglove) }
  } else return undefined
  return `its messages are encoded as '${visible(channel.encoding, 40)}', of which cdr, ros1, protobuf and json are read`
}

/** The definition of a known message of ROS 2, for logs that have none: SQLite of humble and before. */
export function knownDefinition(schema: string, encoding: string): { encoding: string; data: Uint8Array } {
  const fields = encoding === 'cdr' ? rosFields[plainSchema(schema)]?.fields : undefined
  if (fields === undefined) return { encoding: '', data: new Uint8Array(0) }
  const types: Partial<Record<Field[0], string>> = { header: 'std_msgs/Header', time: 'builtin_interfaces/Time' }
  const parts = [fields.map(([type, name]) => `${types[type] ?? type} ${name}\n`).join('')]
  if (fields[0]![0] === 'header') parts.push('MSG: std_msgs/Header\nbuiltin_interfaces/Time stamp\nstring frame_id\n')
  parts.push('MSG: builtin_interfaces/Time\nint32 sec\nuint32 nanosec\n')
  return { encoding: 'ros2msg', data: Buffer.from(parts.join(`${'='.repeat(80)}\n`)) }
}

/** How the fields of a definition differ from those that are known; undefined if they do not. */
function differs(text: string, fields: readonly Field[]): string | undefined {
  const own = text.slice(0, 65_536).split(/^=+\s*$/m)[0]!
  const found = own
    .split('\n')
    .map((line) => line.replace(/#.*/, '').trim())
    .filter((line) => line !== '' && !line.includes('='))
    .map((line) => line.split(/\s+/))
  const types: Record<string, Field[0]> = {
    Header: 'header',
    'std_msgs/Header': 'header',
    time: 'time',
    'builtin_interfaces/Time': 'time',
    string: 'string',
    uint8: 'uint8',
    uint32: 'uint32',
    'uint8[]': 'uint8[]',
    'byte[]': 'uint8[]',
  }
  for (let i = 0; i < Math.max(found.length, fields.length); i++) {
    const [type = 'nothing', name = ''] = found[i] ?? []
    const [knownType, knownName] = fields[i] ?? ['nothing', '']
    const plain = types[type.replace('/msg/', '/')] ?? type
    if (plain !== knownType || name !== knownName) {
      return `field ${i + 1} is ${visible(`${type} ${name}`.trim(), 60)}, expected ${`${knownType} ${knownName}`.trim()}`
    }
  }
  return undefined
}

/** Reads on through bytes; every length is compared with what is left. */
class Cursor {
  readonly #view: DataView
  readonly #bytes: Uint8Array
  readonly #little: boolean
  readonly #base: number
  #at: number

  constructor(bytes: Uint8Array, start: number, little: boolean) {
    this.#bytes = bytes
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    this.#base = start
    this.#at = start
    this.#little = little
  }

  align4(): void {
    this.#at += (4 - ((this.#at - this.#base) % 4)) % 4
  }

  uint8(name: string): number {
    return this.#bytes[this.#take(1, name)]!
  }

  uint32(name: string): number {
    return this.#view.getUint32(this.#take(4, name), this.#little)
  }

  int32(name: string): number {
    return this.#view.getInt32(this.#take(4, name), this.#little)
  }

  bytes(length: number, name: string): Uint8Array {
    const at = this.#take(length, name)
    return this.#bytes.subarray(at, at + length)
  }

  #take(length: number, name: string): number {
    const at = this.#at
    const left = this.#bytes.length - at
    if (length > left) throw new Error(`'${name}' needs ${length} bytes, and ${Math.max(0, left)} are left`)
    this.#at += length
    return at
  }
}

/** CDR of the first version, as ROS 2 writes it. https://www.omg.org/spec/DDSI-RTPS/2.5 section 10 */
function readCdr(data: Uint8Array, kind: PictureKind, fields: readonly Field[]): PictureMessage {
  if (data.length < 4) throw new Error(`a message of ${data.length} bytes is no CDR`)
  if (data[0] !== 0 || data[1]! > 1) {
    throw new Error(`its first bytes are ${data[0]} and ${data[1]}, where CDR has 0 and 0 or 1`)
  }
  const cursor = new Cursor(data, 4, data[1] === 1)
  const uint32 = (name: string): number => {
    cursor.align4()
    return cursor.uint32(name)
  }
  const text = (name: string): string => {
    const length = uint32(name)
    // The zero at the end is part of the length; some writers leave both out.
    return textOf(cursor.bytes(length, name), name, true)
  }
  const time = (name: string): bigint | undefined => {
    cursor.align4()
    return stampOf(BigInt(cursor.int32(name)), BigInt(cursor.uint32(name)))
  }
  return readFields(kind, fields, {
    time,
    text,
    uint32,
    uint8: (name) => cursor.uint8(name),
    bytes: (n, l) => cursor.bytes(l, n),
  })
}

/** http://wiki.ros.org/msg: no prefix, no alignment, little endian. */
function readRos1(data: Uint8Array, kind: PictureKind, fields: readonly Field[]): PictureMessage {
  const cursor = new Cursor(data, 0, true)
  return readFields(kind, fields, {
    time: (name) => stampOf(BigInt(cursor.uint32(name)), BigInt(cursor.uint32(name))),
    text: (name) => textOf(cursor.bytes(cursor.uint32(name), name), name, false),
    uint32: (name) => cursor.uint32(name),
    uint8: (name) => cursor.uint8(name),
    bytes: (name, length) => cursor.bytes(length, name),
    sequence: () => cursor.uint32('header.seq'),
  })
}

interface FieldReader {
  time: (name: string) => bigint | undefined
  text: (name: string) => string
  uint32: (name: string) => number
  uint8: (name: string) => number
  bytes: (name: string, length: number) => Uint8Array
  /** Of the header, in ROS 1. */
  sequence?: () => number
}

function readFields(kind: PictureKind, fields: readonly Field[], reader: FieldReader): PictureMessage {
  const picture = emptyPicture(kind)
  for (const [type, name] of fields) {
    if (type === 'header') {
      reader.sequence?.()
      picture.stamp = reader.time('header.stamp')
      picture.frameId = reader.text('header.frame_id')
    } else if (type === 'time') picture.stamp = reader.time(name)
    else if (type === 'uint8') picture.bigEndian = bigEndian(reader.uint8(name))
    else if (type === 'uint8[]') picture.data = reader.bytes(name, reader.uint32(name))
    else if (type === 'uint32') picture[name as 'width' | 'height' | 'step'] = reader.uint32(name)
    else if (name === 'frame_id') picture.frameId = reader.text(name)
    else picture[name as 'format' | 'encoding'] = reader.text(name)
  }
  return picture
}

function bigEndian(value: number): boolean {
  if (value > 1) throw new Error(`'is_bigendian' is ${value}, where it can be 0 or 1`)
  return value === 1
}

/**
 * ROS 1 bags, version 2.0, with chunks in lz4, bz2 or none, closed or not. A bag that was never closed has no index; its chunks carry the
 * connections, so that going through it record by record gives everything that is whole.
 *
 * http://wiki.ros.org/Bags/Format/2.0
 */
import { ModelError } from '../errors.ts'
import { ChunkedFile, Undeclared } from './chunked.ts'
import {
  type Channel,
  type ChannelSummary,
  type Container,
  isWithin,
  type LogMessage,
  maxMessageBytes,
  type ScanOptions,
  sizeOf,
} from './container.ts'
import { type Compression, decompress, maxChunkBytes } from './decompress.ts'
import { visible } from './files.ts'

export const bagMagic: Buffer = Buffer.from('#ROSBAG V2.0\n')

const ops = { message: 2, bag: 3, index: 4, chunk: 5, chunkInfo: 6, connection: 7 } as const
const maxHeaderBytes = 1024 * 1024
const maxDefinitionBytes = 16 * 1024 * 1024
const maxIndexBytes = 64 * 1024 * 1024

type Fields = Map<string, Buffer>

/** A record: its fields, and where its data lies, from the start of what it was read from. */
interface BagRecord {
  op: number
  fields: Fields
  data: number
  length: number
  end: number
}

interface BagSummary {
  channels: ChannelSummary[]
}

export class BagFile extends ChunkedFile implements Container {
  readonly kind = 'bag'

  async summary(): Promise<ChannelSummary[] | undefined> {
    try {
      return (await this.#summary())?.channels
    } catch (error) {
      if (error instanceof ModelError) throw error
      return undefined // whatever is wrong with the index, the chunks are read in its place
    }
  }

  async *scan(options: ScanOptions): AsyncGenerator<LogMessage, void, undefined> {
    const { wants, onDamage } = options
    const { size } = this.file
    const damage = (offset: number, message: string) => onDamage({ file: this.name, offset, message })
    const connections = new Map<number, Channel>()
    const undeclared = new Undeclared()
    let had = 0
    const take = (fields: Fields): { channel: Channel; logTime: bigint } | undefined => {
      const conn = number(fields, 'conn')
      const channel = connections.get(conn)
      had += 1
      if (channel === undefined) {
        undeclared.add(conn)
        return undefined
      }
      const logTime = time(fields, 'time')
      return isWithin(logTime, options) && wants(channel) ? { channel, logTime } : undefined
    }
    for (let offset = bagMagic.length; offset < size; ) {
      const at = offset
      let record: BagRecord
      try {
        record = await this.#record(offset)
        if (record.end > size) throw new Error(`a record is cut`)
      } catch (error) {
        damage(at, `${(error as Error).message} at byte ${at} of ${size}; ${had} messages were read before it.`)
        break
      }
      offset = record.end
      try {
        if (record.op === ops.connection) {
          this.#connect(record, await this.#data(record, maxDefinitionBytes), connections)
        } else if (record.op === ops.message) {
          const message = take(record.fields)
          if (message === undefined) continue
          const data = await this.#data(record, maxMessageBytes)
          const place = { file: this.index, chunk: -1, at: record.data, size: data.length }
          yield { ...message, publishTime: message.logTime, data, place }
        } else if (record.op === ops.chunk) {
          const data = await this.#chunk(record)
          for (const inner of records(data)) {
            const body = data.subarray(inner.data, inner.data + inner.length)
            if (inner.op === ops.connection) this.#connect(inner, body, connections)
            else if (inner.op === ops.message) {
              const message = take(inner.fields)
              if (message === undefined) continue
              if (body.length > maxMessageBytes) throw new Error(`a message in it has ${body.length} bytes`)
              const place = { file: this.index, chunk: at, at: inner.data, size: body.length }
              yield { ...message, publishTime: message.logTime, data: body, place }
            } else throw new Error(`a record in it is of kind ${inner.op}`)
          }
        }
      } catch (error) {
        if (error instanceof ModelError) throw error
        const what = record.op === ops.chunk ? 'a chunk, or the rest of it, is lost' : 'a record is lost'
        damage(at, `${what} at byte ${at}: ${(error as Error).message}.`)
      }
    }
    undeclared.report(this.name, 'connection', onDamage)
  }

  protected override async chunkAt(offset: number): Promise<Buffer> {
    return this.#chunk(await this.#record(offset))
  }

  async #record(offset: number): Promise<BagRecord> {
    const lengths = await this.file.read(offset, 4)
    if (lengths.length < 4) throw new Error('a record is cut')
    const headerBytes = lengths.readUInt32LE(0)
    if (headerBytes > maxHeaderBytes) throw new Error(`a record's head has ${headerBytes} bytes`)
    const head = await this.file.read(offset + 4, headerBytes + 4)
    if (head.length < headerBytes + 4) throw new Error('a record is cut')
    return recordOf(head.subarray(0, headerBytes), head.readUInt32LE(headerBytes), offset + 8 + headerBytes)
  }

  async #data({ data, length }: BagRecord, most: number): Promise<Buffer> {
    if (length > most) throw new Error(`it has ${length} bytes, of which up to ${most} are taken`)
    return this.file.read(data, length)
  }

  async #chunk(record: BagRecord): Promise<Buffer> {
    if (record.op !== ops.chunk) throw new Error('there is no chunk')
    const name = text(record.fields, 'compression')
    const size = number(record.fields, 'size')
    const data = await this.#data(record, maxChunkBytes)
    if (name === 'none') {
      // A recorder that was killed has not written the size of its last chunk.
      return data
    }
    if (name !== 'lz4' && name !== 'bz2') {
      throw new Error(`its compression is '${visible(name, 40)}', of which none, lz4 and bz2 are read`)
    }
    const made = await decompress(name satisfies Compression, data, size)
    return Buffer.from(made.buffer, made.byteOffset, made.length)
  }

  #connect({ fields }: BagRecord, data: Buffer, connections: Map<number, Channel>): void {
    const about = fieldsOf(data)
    const metadata = new Map(
      [...about]
        .filter(([name]) => name !== 'message_definition')
        .map(([name, value]) => [name, value.toString('utf8')]),
    )
    connections.set(number(fields, 'conn'), {
      topic: text(fields, 'topic'),
      schema: text(about, 'type'),
      definition: { encoding: 'ros1msg', data: Buffer.from(about.get('message_definition') ?? []) },
      encoding: 'ros1',
      metadata,
    })
  }

  async #summary(): Promise<BagSummary | undefined> {
    const { size } = this.file
    const bag = await this.#record(bagMagic.length)
    if (bag.op !== ops.bag) return undefined
    const start = sizeOf(need(bag.fields, 'index_pos', 8).readBigUInt64LE(0))
    if (start < bag.end || start >= size || size - start > maxIndexBytes) return undefined
    const connections = new Map<number, Channel>()
    const found = new Map<number, ChannelSummary>()
    let chunks = 0
    for (const record of records(Buffer.from(await this.file.read(start, size - start)), start)) {
      if (record.op === ops.connection) {
        this.#connect(record, await this.#data(record, maxDefinitionBytes), connections)
      } else if (record.op === ops.chunkInfo) {
        chunks += 1
        const at = sizeOf(need(record.fields, 'chunk_pos', 8).readBigUInt64LE(0))
        const first = time(record.fields, 'start_time')
        const last = time(record.fields, 'end_time')
        const counts = await this.#data(record, maxDefinitionBytes)
        if (at < bag.end || at >= start || counts.length % 8 !== 0) return undefined
        for (let i = 0; i < counts.length; i += 8) {
          const id = counts.readUInt32LE(i)
          const channel = connections.get(id)
          if (channel === undefined) return undefined
          const count = counts.readUInt32LE(i + 4)
          const before = found.get(id)
          if (before === undefined) {
            found.set(id, { channel, count, first, last, sample: () => this.#sample(at, id) })
            continue
          }
          before.count += count
          if (first < before.first) before.first = first
          if (last > before.last) before.last = last
        }
      } else return undefined
    }
    if (chunks !== number(bag.fields, 'chunk_count') || connections.size !== number(bag.fields, 'conn_count')) {
      return undefined
    }
    return { channels: [...found.values()] }
  }

  async #sample(at: number, id: number): Promise<Uint8Array | undefined> {
    try {
      const data = await this.chunkAt(at)
      for (const { op, fields, data: from, length } of records(data)) {
        if (op === ops.message && number(fields, 'conn') === id) return data.subarray(from, from + length)
      }
    } catch (error) {
      if (error instanceof ModelError) throw error
    }
    return undefined
  }
}

/** @param base - Where the bytes begin in the file, for the places of data. */
function* records(bytes: Buffer, base = 0): Generator<BagRecord> {
  for (let offset = 0; offset < bytes.length; ) {
    const headerBytes = bytes.length - offset < 4 ? Number.POSITIVE_INFINITY : bytes.readUInt32LE(offset)
    if (headerBytes > bytes.length - offset - 8) throw new Error(`a record in it, at byte ${offset}, is cut`)
    const body = offset + 8 + headerBytes
    const length = bytes.readUInt32LE(body - 4)
    const record = recordOf(bytes.subarray(offset + 4, offset + 4 + headerBytes), length, base + body)
    if (body + length > bytes.length) throw new Error(`a record in it, at byte ${offset}, is cut`)
    yield record
    offset = body + length
  }
}

function recordOf(head: Buffer, length: number, data: number): BagRecord {
  const fields = fieldsOf(head)
  return { op: need(fields, 'op', 1)[0]!, fields, data, length, end: data + length }
}

/** `length name=value` after `length name=value`. */
function fieldsOf(bytes: Buffer): Fields {
  const fields: Fields = new Map()
  for (let offset = 0; offset < bytes.length; ) {
    const length = bytes.length - offset < 4 ? Number.POSITIVE_INFINITY : bytes.readUInt32LE(offset)
    if (length > bytes.length - offset - 4) throw new Error('a field of a head is longer than what is left')
    const field = bytes.subarray(offset + 4, offset + 4 + length)
    const equals = field.indexOf(0x3d)
    if (equals < 0) throw new Error('a field of a head has no =')
    fields.set(field.toString('latin1', 0, equals), field.subarray(equals + 1))
    offset += 4 + length
  }
  return fields
}

function need(fields: Fields, name: string, bytes: number): Buffer {
  const value = fields.get(name)
  if (value === undefined) throw new Error(`a head has no field '${name}'`)
  if (value.length !== bytes) throw new Error(`the field '${name}' of a head has ${value.length} bytes, not ${bytes}`)
  return value
}

function number(fields: Fields, name: string): number {
  return need(fields, name, 4).readUInt32LE(0)
}

function text(fields: Fields, name: string): string {
  const value = fields.get(name)
  if (value === undefined) throw new Error(`a head has no field '${name}'`)
  return value.toString('utf8')
}

/** ns */
function time(fields: Fields, name: string): bigint {
  const value = need(fields, name, 8)
  return BigInt(value.readUInt32LE(0)) * 1_000_000_000n + BigInt(value.readUInt32LE(4))
}

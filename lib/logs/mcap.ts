/**
 * MCAP in its four shapes: with chunks and summary, without chunks, without summary, cut. Messages are read by going through the data section
 * record by record; the summary only says what is there without it. Records are framed here, so that a bad one costs itself and no length is
 * believed before it is compared with the file; what they say is read by `@mcap/core`, which also has the checksum.
 *
 * https://mcap.dev/spec
 */
import { crc32 } from 'node:zlib'
import type { McapTypes } from '@mcap/core'
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
import { decompress, isCompression, maxChunkBytes } from './decompress.ts'
import { type LogFile, visible } from './files.ts'

export const mcapMagic: Buffer = Buffer.from('894d434150300d0a', 'hex')

const opcodes = {
  header: 1,
  footer: 2,
  schema: 3,
  channel: 4,
  message: 5,
  chunk: 6,
  messageIndex: 7,
  chunkIndex: 8,
  dataEnd: 15,
} as const
const headBytes = 9
/** Channel, sequence number, log and publish time. */
const messageHeadBytes = 22
/** Most bytes of a schema, a channel, an index or the whole summary. */
const maxRecordBytes = 16 * 1024 * 1024
const maxSummaryBytes = 64 * 1024 * 1024
const footerBytes = headBytes + 20 + mcapMagic.length

type Library = typeof import('@mcap/core')

/** Channels and schemas as they were declared so far. */
class Declared {
  readonly schemas = new Map<number, McapTypes.Schema>()
  readonly #channels = new Map<number, { record: McapTypes.Channel; channel: Channel | undefined }>()

  /** @returns A sentence where an earlier channel of the same number was another. */
  add(record: McapTypes.TypedMcapRecord): string | undefined {
    if (record.type === 'Schema') this.schemas.set(record.id, record)
    if (record.type !== 'Channel') return undefined
    const before = this.#channels.get(record.id)?.record
    const same = before?.topic === record.topic && before.schemaId === record.schemaId
    if (same && before.messageEncoding === record.messageEncoding) return undefined
    this.#channels.set(record.id, { record, channel: undefined })
    return (
      before && `channel ${record.id} is declared again as another, ${visible(record.topic)}; from here on it is that`
    )
  }

  /** The channel of a number, with its schema; undefined if there is none. */
  channel(id: number): Channel | undefined {
    const entry = this.#channels.get(id)
    if (entry === undefined || entry.channel !== undefined) return entry?.channel
    const { topic, schemaId, messageEncoding, metadata } = entry.record
    const schema = this.schemas.get(schemaId)
    const made: Channel = {
      topic,
      schema: schema?.name ?? '',
      definition: schema && { encoding: schema.encoding, data: schema.data },
      encoding: messageEncoding,
      metadata,
    }
    // A schema may still come; a channel without one stays to be asked again.
    if (schema !== undefined || schemaId === 0) entry.channel = made
    return made
  }

  /** Takes what another has declared and this one has not. */
  adopt(other: Declared): void {
    for (const [id, schema] of other.schemas) if (!this.schemas.has(id)) this.schemas.set(id, schema)
    for (const [id, { record }] of other.#channels) {
      if (!this.#channels.has(id)) this.#channels.set(id, { record, channel: undefined })
    }
  }

  ids(): number[] {
    return [...this.#channels.keys()]
  }
}

interface Chunk {
  /** ns */
  start: bigint
  end: bigint
  size: number
  crc: number
  compression: string
  /** Where its records lie in the file. */
  offset: number
  length: number
}

interface Summary {
  declared: Declared
  channels: ChannelSummary[]
  /** Where chunks begin in the file, in order. */
  chunks: number[]
}

export class McapFile extends ChunkedFile implements Container {
  readonly kind = 'mcap'
  readonly #library: Library
  #summary: Summary | undefined | null = null

  private constructor(file: LogFile, index: number, library: Library) {
    super(file, index)
    this.#library = library
  }

  /** @param index - The file's number among those of the log. */
  static async open(file: LogFile, index: number): Promise<McapFile> {
    return new McapFile(file, index, await import('@mcap/core'))
  }

  async summary(): Promise<ChannelSummary[] | undefined> {
    return (await this.#read())?.channels
  }

  async #read(): Promise<Summary | undefined> {
    if (this.#summary === null) {
      // Whatever is wrong with a summary, the data section is read in its place.
      this.#summary = await this.#readSummary().catch((error) => {
        if (error instanceof ModelError) throw error
        return undefined
      })
    }
    return this.#summary
  }

  async *scan(options: ScanOptions): AsyncGenerator<LogMessage, void, undefined> {
    const { wants, from, to, onDamage } = options
    const { size } = this.file
    const declared = new Declared()
    const damage = (offset: number, message: string) => onDamage({ file: this.name, offset, message })
    const undeclared = new Undeclared()
    let had = 0
    let offset = mcapMagic.length
    /** Goes on at the next chunk that the summary names; false if it names none. */
    const resume = async (after: number): Promise<boolean> => {
      const summary = await this.#read()
      const next = summary?.chunks.find((start) => start > after)
      if (summary === undefined || next === undefined) return false
      declared.adopt(summary.declared)
      offset = next
      return true
    }
    reading: for (;;) {
      const record = await this.#head(offset)
      const lost = record === undefined || record.opcode === 0 || record.end > size
      if (lost) {
        const what =
          record === undefined ? `the file ends` : record.opcode === 0 ? 'there is no record' : 'a record is cut'
        const goesOn = await resume(offset)
        damage(
          offset,
          `${what} at byte ${offset} of ${size}; ${goesOn ? 'what follows up to the next chunk is lost' : `${had} messages were read before it`}.`,
        )
        if (goesOn) continue
        break
      }
      const { opcode, length, end } = record
      const at = offset
      offset = end
      try {
        switch (opcode) {
          case opcodes.footer:
          case opcodes.dataEnd:
            break reading
          case opcodes.schema:
          case opcodes.channel: {
            const note = declared.add(await this.#record(at, length))
            if (note !== undefined) damage(at, `${note}.`)
            break
          }
          case opcodes.message: {
            if (length < messageHeadBytes) throw new Error(`a message of ${length} bytes has no head`)
            const head = await this.file.read(at + headBytes, messageHeadBytes)
            const id = head.readUInt16LE(0)
            const channel = declared.channel(id)
            if (channel === undefined) undeclared.add(id)
            had += 1
            const logTime = head.readBigUInt64LE(6)
            const publishTime = head.readBigUInt64LE(14)
            if (channel === undefined || !isWithin(logTime, options) || !wants(channel)) break
            const bytes = length - messageHeadBytes
            if (bytes > maxMessageBytes) throw new Error(tooLarge(channel.topic, bytes))
            const data = await this.file.read(at + headBytes + messageHeadBytes, bytes)
            yield {
              channel,
              logTime,
              publishTime,
              data,
              place: { file: this.index, chunk: -1, at: at + 31, size: bytes },
            }
            break
          }
          case opcodes.chunk: {
            const chunk = await this.#chunk(at, length)
            if ((from !== undefined && chunk.end < from) || (to !== undefined && chunk.start > to)) {
              // Channels that are declared in it are those of later chunks too; the summary has them.
              const summary = await this.#read()
              if (summary !== undefined) {
                declared.adopt(summary.declared)
                break
              }
            }
            const data = await this.#decompress(chunk)
            for (const message of this.#messages(data, declared, undeclared, (note) => damage(at, note))) {
              had += 1
              const { channel, logTime, publishTime, data: body } = message
              if (channel === undefined || !isWithin(logTime, options) || !wants(channel)) continue
              const place = { file: this.index, chunk: at, at: message.at, size: body.length }
              yield { channel, logTime, publishTime, data: body, place }
            }
            break
          }
        }
      } catch (error) {
        if (error instanceof ModelError) throw error
        const summary = await this.#read()
        if (summary !== undefined) declared.adopt(summary.declared)
        const what = opcode === opcodes.chunk ? 'a chunk is lost' : 'a record is lost'
        damage(at, `${what} at byte ${at}: ${(error as Error).message}.`)
      }
    }
    undeclared.report(this.name, 'channel', onDamage)
  }

  protected override async chunkAt(offset: number): Promise<Uint8Array> {
    const record = await this.#head(offset)
    return this.#decompress(await this.#chunk(offset, record?.length ?? 0))
  }

  async #head(offset: number): Promise<{ opcode: number; length: number; end: number } | undefined> {
    const head = await this.file.read(offset, headBytes)
    if (head.length < headBytes) return undefined
    const length = sizeOf(head.readBigUInt64LE(1))
    return { opcode: head[0]!, length, end: offset + headBytes + length }
  }

  /** A record other than chunks and messages, read by the library. */
  async #record(offset: number, length: number): Promise<McapTypes.TypedMcapRecord> {
    if (length > maxRecordBytes) throw new Error(`it has ${length} bytes, of which up to ${maxRecordBytes} are taken`)
    return this.#parse(await this.file.read(offset, headBytes + length))
  }

  #parse(bytes: Uint8Array): McapTypes.TypedMcapRecord {
    const reader = new this.#library.McapStreamReader({ noMagicPrefix: true })
    reader.append(bytes)
    const record = reader.nextRecord()
    if (record === undefined) throw new Error('it is cut')
    return record
  }

  async #chunk(offset: number, length: number): Promise<Chunk> {
    const fixed = 40
    const head = await this.file.read(offset + headBytes, Math.min(length, 128))
    if (head.length < fixed) throw new Error(`its head has ${head.length} bytes`)
    const nameBytes = head.readUInt32LE(28)
    if (fixed + nameBytes > head.length) throw new Error(`the name of its compression has ${nameBytes} bytes`)
    const compression = head.toString('utf8', 32, 32 + nameBytes)
    const bytes = sizeOf(head.readBigUInt64LE(32 + nameBytes))
    if (fixed + nameBytes + bytes > length) throw new Error(`its records have ${bytes} bytes, and it ${length}`)
    return {
      start: head.readBigUInt64LE(0),
      end: head.readBigUInt64LE(8),
      size: sizeOf(head.readBigUInt64LE(16)),
      crc: head.readUInt32LE(24),
      compression,
      offset: offset + headBytes + fixed + nameBytes,
      length: bytes,
    }
  }

  async #decompress({ size, crc, compression, offset, length }: Chunk): Promise<Uint8Array> {
    if (length > maxChunkBytes || size > maxChunkBytes) {
      throw new Error(`it has ${Math.max(length, size)} bytes, of which up to ${maxChunkBytes} are taken`)
    }
    if (compression !== '' && !isCompression(compression)) {
      throw new Error(`its compression is '${visible(compression, 40)}', of which lz4 and zstd are read`)
    }
    const records = await this.file.read(offset, length)
    if (records.length < length) throw new Error('it is cut')
    if (compression === '' && length !== size) throw new Error(`expected ${size} bytes, found ${length}`)
    const data = compression === '' ? records : await decompress(compression as 'lz4', records, size)
    if (crc !== 0) {
      const found = crc32(data)
      if (found !== crc) throw new Error(`its checksum is ${hex(found)}, and not ${hex(crc)} as written`)
    }
    return data
  }

  *#messages(
    data: Uint8Array,
    declared: Declared,
    undeclared: Undeclared,
    note: (message: string) => void,
  ): Generator<{ channel: Channel | undefined; logTime: bigint; publishTime: bigint; at: number; data: Uint8Array }> {
    const view = Buffer.from(data.buffer, data.byteOffset, data.length)
    let offset = 0
    while (offset < view.length) {
      if (view.length - offset < headBytes) throw new Error(`${view.length - offset} bytes are left over in it`)
      const opcode = view[offset]!
      const length = sizeOf(view.readBigUInt64LE(offset + 1))
      const at = offset + headBytes
      if (length > view.length - at) throw new Error(`a record in it, at byte ${offset}, is longer than what is left`)
      const end = at + length
      if (opcode === opcodes.schema || opcode === opcodes.channel) {
        if (length > maxRecordBytes) throw new Error(`a record in it has ${length} bytes`)
        const again = declared.add(this.#parse(view.subarray(offset, end)))
        if (again !== undefined) note(`${again}.`)
      } else if (opcode === opcodes.message) {
        if (length < messageHeadBytes) throw new Error(`a message in it, at byte ${offset}, has no head`)
        const id = view.readUInt16LE(at)
        const channel = declared.channel(id)
        if (channel === undefined) undeclared.add(id)
        const body = view.subarray(at + messageHeadBytes, end)
        if (body.length > maxMessageBytes) note(`${tooLarge(channel?.topic ?? '', body.length)}; it is left out.`)
        else {
          yield {
            channel,
            logTime: view.readBigUInt64LE(at + 6),
            publishTime: view.readBigUInt64LE(at + 14),
            at: at + messageHeadBytes,
            data: body,
          }
        }
      } else if (opcode < 0x80) throw new Error(`a record in it, at byte ${offset}, is of kind ${opcode}`)
      offset = end
    }
  }

  async #readSummary(): Promise<Summary | undefined> {
    const file = this.file
    if (file.size < mcapMagic.length + footerBytes) return undefined
    const tail = await file.read(file.size - footerBytes, footerBytes)
    if (!tail.subarray(-mcapMagic.length).equals(mcapMagic) || tail[0] !== opcodes.footer) return undefined
    if (tail.readBigUInt64LE(1) !== 20n) return undefined
    const start = sizeOf(tail.readBigUInt64LE(headBytes))
    const end = file.size - footerBytes
    if (start < mcapMagic.length || start >= end || end - start > maxSummaryBytes) return undefined
    const bytes = Buffer.from(await file.read(start, end - start))
    const crc = tail.readUInt32LE(headBytes + 16)
    if (crc !== 0) {
      if (crc32(Buffer.concat([bytes, tail.subarray(0, headBytes + 16)])) !== crc) return undefined
    }
    const declared = new Declared()
    const chunks: McapTypes.ChunkIndex[] = []
    let statistics: McapTypes.Statistics | undefined
    for (let offset = 0; offset < bytes.length; ) {
      if (bytes.length - offset < headBytes) return undefined
      const next = offset + headBytes + sizeOf(bytes.readBigUInt64LE(offset + 1))
      if (next > bytes.length) return undefined
      const record = this.#parse(bytes.subarray(offset, next))
      if (record.type === 'ChunkIndex') chunks.push(record)
      else if (record.type === 'Statistics') statistics = record
      else declared.add(record)
      offset = next
    }
    if (statistics === undefined) return undefined
    let sum = 0n
    for (const count of statistics.channelMessageCounts.values()) sum += count
    const counts = [...statistics.channelMessageCounts]
    const known = counts.every(([id]) => declared.channel(id) !== undefined)
    if (sum !== statistics.messageCount || !known || statistics.messageCount > BigInt(file.size)) return undefined
    const inside = chunks.every(
      ({ chunkStartOffset: at, chunkLength }) => at >= 8n && at + chunkLength <= BigInt(start),
    )
    if (!inside || chunks.length !== statistics.chunkCount) return undefined
    if (chunks.length === 0) return undefined
    const channels: ChannelSummary[] = []
    for (const id of declared.ids()) {
      const count = sizeOf(statistics.channelMessageCounts.get(id) ?? 0n)
      const own = chunks.filter(({ messageIndexOffsets }) => messageIndexOffsets.has(id))
      if (count > 0 && own.length === 0) return undefined
      const firsts = own.toSorted(({ messageStartTime: a }, { messageStartTime: b }) => (a < b ? -1 : a > b ? 1 : 0))
      const lasts = own.toSorted(({ messageEndTime: a }, { messageEndTime: b }) => (a < b ? -1 : a > b ? 1 : 0))
      const times = [...(await this.#times(firsts[0], id)), ...(await this.#times(lasts.at(-1), id))]
      if (count > 0 && times.length === 0) return undefined
      const place = firsts[0]
      channels.push({
        channel: declared.channel(id)!,
        count,
        first: times.reduce((a, b) => (a < b ? a : b), times[0] ?? 0n),
        last: times.reduce((a, b) => (a > b ? a : b), times[0] ?? 0n),
        sample: place && (() => this.#sample(sizeOf(place.chunkStartOffset), id)),
      })
    }
    const starts = chunks.map(({ chunkStartOffset }) => sizeOf(chunkStartOffset)).sort((a, b) => a - b)
    return { declared, channels, chunks: starts }
  }

  /** Log times of a channel's messages in a chunk, from the chunk's index. */
  async #times(chunk: McapTypes.ChunkIndex | undefined, id: number): Promise<bigint[]> {
    const offset = chunk?.messageIndexOffsets.get(id)
    if (offset === undefined) return []
    const head = await this.#head(sizeOf(offset))
    if (head?.opcode !== opcodes.messageIndex || head.end > this.file.size) return []
    const record = await this.#record(sizeOf(offset), head.length)
    return record.type === 'MessageIndex' && record.channelId === id ? record.records.map(([time]) => time) : []
  }

  async #sample(at: number, id: number): Promise<Uint8Array | undefined> {
    const head = await this.#head(at)
    if (head?.opcode !== opcodes.chunk || head.end > this.file.size) return undefined
    try {
      const data = Buffer.from(await this.#decompress(await this.#chunk(at, head.length)))
      const declared = new Declared()
      for (const message of this.#messages(data, declared, new Undeclared(), () => undefined)) {
        if (data.readUInt16LE(message.at - messageHeadBytes) === id) return message.data
      }
    } catch (error) {
      if (error instanceof ModelError) throw error
    }
    return undefined
  }
}

function tooLarge(topic: string, bytes: number): string {
  return `a message of ${visible(topic)} has ${bytes} bytes, of which up to ${maxMessageBytes} are taken`
}

function hex(crc: number): string {
  return crc.toString(16).padStart(8, '0')
}

/** Small logs made and read by tests. */
import { writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { McapWriter } from '@mcap/core'
import { ModelError } from '../../lib/errors.ts'
import { type Log, type LogOptions, openLog, pictureSource } from '../../lib/logs/log.ts'
import { planMoments } from '../../lib/logs/moments.ts'

/** What came of reading a log to its end. */
export interface Survey {
  /** Of the error that it ended with. */
  code: string | undefined
  message: string
  pictures: number
  /** Pictures that were refused, by sentence. */
  refused: string[]
  damage: string[]
  moments: number
  topics: Log['topics']
}

/** Reads all that a log has. Throws only what is no error of ours. */
export async function survey(file: string | string[], options: LogOptions = { scan: true }): Promise<Survey> {
  const found: Survey = { code: undefined, message: '', pictures: 0, refused: [], damage: [], moments: 0, topics: [] }
  let log: Log | undefined
  try {
    log = await openLog(file, options)
    found.topics = log.topics
    for await (const picture of log.pictures()) {
      found.pictures += 1
      try {
        pictureSource(picture, picture.topic)
      } catch (error) {
        found.refused.push(messageOf(error))
      }
    }
    const topics = log.topics.filter(({ kind, problem }) => kind !== undefined && problem === undefined)
    if (topics.length > 0) {
      const cameras = Object.fromEntries(topics.slice(0, 6).map(({ topic }, i) => [`CAMERA_${i}`, topic]))
      const plan = await planMoments(log, { cameras, every: 0, missing: 'keep' }).catch((error) => {
        found.refused.push(messageOf(error))
      })
      found.moments = plan?.moments.length ?? 0
      for (const moment of plan?.moments.slice(0, 20) ?? []) {
        await moment.views().catch((error) => found.refused.push(messageOf(error)))
      }
    }
  } catch (error) {
    found.message = messageOf(error)
    found.code = (error as ModelError).code
  } finally {
    found.damage = log?.damage.map(({ message }) => message) ?? []
    await log?.close()
  }
  return found
}

function messageOf(error: unknown): string {
  if (error instanceof ModelError && ['BAD_LOG', 'BAD_ARGUMENT'].includes(error.code)) return error.message
  throw error
}

/** Bytes of fields, little endian: numbers of 1, 2, 4 or 8 bytes, text and bytes as they are. */
export function bytes(
  ...parts: (readonly [size: 1 | 2 | 4 | 8, value: number | bigint] | string | Uint8Array)[]
): Buffer {
  return Buffer.concat(
    parts.map((part) => {
      if (typeof part === 'string') return Buffer.from(part)
      if (part instanceof Uint8Array) return part
      const [size, value] = part
      const made = Buffer.alloc(8)
      made.writeBigUInt64LE(BigInt.asUintN(64, BigInt(value)))
      return made.subarray(0, size)
    }),
  )
}

/** A record of MCAP. */
export function record(opcode: number, content: Uint8Array, length: bigint = BigInt(content.length)): Buffer {
  return bytes([1, opcode], [8, length], content)
}

/** A string as MCAP has it. */
export function text(value: string): Buffer {
  return bytes([4, Buffer.byteLength(value)], value)
}

export const magic: Buffer = Buffer.from('894d434150300d0a', 'hex')
export const header: Buffer = record(1, bytes(text(''), text('test')))

/** A sensor_msgs/CompressedImage in CDR. */
export function cdrCompressed(data: Uint8Array, { sec = 100, nsec = 0, frame = 'cam', format = 'jpeg' } = {}): Buffer {
  const word = (value: string) => {
    const length = Buffer.byteLength(value) + 1
    return bytes([4, length], value, Buffer.alloc(1 + ((4 - (length % 4)) % 4)))
  }
  return bytes(Buffer.from([0, 1, 0, 0]), [4, sec], [4, nsec], word(frame), word(format), [4, data.length], data)
}

/** A sensor_msgs/Image in CDR. */
export function cdrImage(
  data: Uint8Array,
  { width = 2, height = 2, step = 6, encoding = 'rgb8', big = 0, length = data.length } = {},
): Buffer {
  const name = bytes([4, encoding.length + 1], encoding, [1, 0])
  // The frame's name is empty: a length of 1, its zero, three bytes of padding.
  const flagged = bytes(Buffer.from([0, 1, 0, 0]), [4, 100], [4, 0], [4, 1], [4, 0], [4, height], [4, width], name, [
    1,
    big,
  ])
  const padding = Buffer.alloc((4 - (flagged.length % 4)) % 4)
  return bytes(flagged, padding, [4, step], [4, length], data)
}

export interface MadeMessage {
  topic?: string
  schema?: string
  encoding?: string
  definition?: string
  logTime?: bigint
  data: Uint8Array
}

export interface MadeLog {
  chunks?: boolean
  compression?: '' | 'lz4' | 'zstd'
  summary?: boolean
  chunkSize?: number
}

const require = createRequire(import.meta.url)

/** An MCAP of these messages, by the writer of @mcap/core. */
export async function mcap(
  messages: readonly MadeMessage[],
  { chunks = true, compression = '', summary = true, chunkSize = 400 }: MadeLog = {},
): Promise<Buffer> {
  const zstd = require('@foxglove/wasm-zstd')
  await zstd.isLoaded
  const parts: Uint8Array[] = []
  let position = 0n
  const writable = {
    position: () => position,
    write: async (part: Uint8Array) => {
      parts.push(Uint8Array.from(part))
      position += BigInt(part.length)
    },
  }
  const compressChunk = (data: Uint8Array) => ({ compression, compressedData: zstd.compress(data) as Uint8Array })
  const writer = new McapWriter({
    writable,
    useChunks: chunks,
    chunkSize,
    useStatistics: summary,
    useSummaryOffsets: summary,
    repeatChannels: summary,
    repeatSchemas: summary,
    useChunkIndex: summary,
    ...(compression === '' ? {} : { compressChunk }),
  })
  await writer.start({ profile: '', library: 'test' })
  const channels = new Map<string, number>()
  for (const [sequence, message] of messages.entries()) {
    const {
      topic = '/front/image',
      schema = 'sensor_msgs/msg/CompressedImage',
      encoding = 'cdr',
      definition = '',
    } = message
    const { logTime = 100_000_000_000n + BigInt(sequence) * 100_000_000n, data } = message
    const key = `${topic} ${schema} ${encoding}`
    let channelId = channels.get(key)
    if (channelId === undefined) {
      const schemaId = await writer.registerSchema({ name: schema, encoding: 'none', data: Buffer.from(definition) })
      channelId = await writer.registerChannel({ topic, schemaId, messageEncoding: encoding, metadata: new Map() })
      channels.set(key, channelId)
    }
    await writer.addMessage({ channelId, sequence, logTime, publishTime: logTime, data })
  }
  await writer.end()
  return Buffer.concat(parts)
}

/** Writes bytes to a file and surveys it. */
export async function surveyBytes(file: string, content: Uint8Array, options?: LogOptions): Promise<Survey> {
  writeFileSync(file, content)
  return survey(file, options)
}

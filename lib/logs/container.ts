/** What the readers of containers have in common: channels, messages with their place, and what was found damaged. */
import type { Damage } from './files.ts'

/** A channel of a container: who wrote what, in which form. */
export interface Channel {
  topic: string
  /** `pkg/Name` or `foxglove.Name`, as written. */
  schema: string
  /** The definition of the schema, where the container has one. */
  definition: { encoding: string; data: Uint8Array } | undefined
  /** Of its messages: `cdr`, `ros1`, `protobuf`, `json`, … */
  encoding: string
  /** What else the container says of it. */
  metadata: ReadonlyMap<string, string>
}

/** Where a message lies: byte of its record, or of its chunk and then in the chunk; in SQLite the row. */
export interface Place {
  /** Number of the file in the log, from 0. */
  file: number
  /** Byte of the chunk in the file; -1 where the message is in none. */
  chunk: number
  /** Byte in the chunk or file, or number of the row. */
  at: number
  /** Bytes of the message. */
  size: number
}

/** A message as it lies in the container. `data` is a view that is valid until the next one is taken. */
export interface LogMessage {
  channel: Channel
  /** ns */
  logTime: bigint
  /** ns; equal to `logTime` where the container has no other. */
  publishTime: bigint
  place: Place
  data: Uint8Array
}

/** What is said of a channel without its messages being read. */
export interface ChannelSummary {
  channel: Channel
  count: number
  /** ns */
  first: bigint
  last: bigint
  /** One message of it, to be looked at. */
  sample: (() => Promise<Uint8Array | undefined>) | undefined
}

export interface ScanOptions {
  /** Channels whose messages are wanted. */
  wants: (channel: Channel) => boolean
  /** Only messages of `logTime` from here, ns. */
  from?: bigint | undefined
  /** Only messages of `logTime` up to here, ns. */
  to?: bigint | undefined
  /** What was found wrong and passed over. */
  onDamage: (damage: Damage) => void
}

/** Whether a message's time is one that a scan was asked for. */
export function isWithin(time: bigint, { from, to }: Pick<ScanOptions, 'from' | 'to'>): boolean {
  return (from === undefined || time >= from) && (to === undefined || time <= to)
}

/** One file of a log. */
export interface Container {
  readonly kind: 'mcap' | 'bag' | 'db3'
  readonly name: string
  readonly bytes: number
  /** What the file's own index says; undefined where it has none that can be believed. */
  summary(): Promise<ChannelSummary[] | undefined>
  /** Messages in the order of the file. */
  scan(options: ScanOptions): AsyncGenerator<LogMessage, void, undefined>
  /** The bytes of a message that a scan gave; a view that is valid until the next is read. */
  read(place: Place): Promise<Uint8Array>
  close(): Promise<void>
}

/** Most bytes of one message. */
export const maxMessageBytes: number = 72 * 1024 * 1024

/** A number from an unsigned 64-bit field of a file; what no file can have becomes `Infinity`. */
export function sizeOf(value: bigint): number {
  return value > BigInt(Number.MAX_SAFE_INTEGER) ? Number.POSITIVE_INFINITY : Number(value)
}

/** A chunk that was decompressed lately, of one file: pictures of a moment often lie in the same. */
export class ChunkCache {
  readonly #chunks = new Map<number, Uint8Array>()
  #bytes = 0

  get(offset: number): Uint8Array | undefined {
    return this.#chunks.get(offset)
  }

  add(offset: number, data: Uint8Array): void {
    const most = 24 * 1024 * 1024
    for (const [key, held] of this.#chunks) {
      if (this.#bytes + data.length <= most) break
      this.#chunks.delete(key)
      this.#bytes -= held.length
    }
    if (data.length > most) return
    this.#chunks.set(offset, data)
    this.#bytes += data.length
  }
}

/**
 * rosbag2's SQLite files. They are read in place and read-only: through a link in a folder of our own, because the package leaves a `.lock`
 * folder beside what it opens. A file in WAL mode cannot be read in place without writing, so it is copied first.
 *
 * Tables of rosbag2_storage_sqlite3: topics, messages, and message_definitions from schema 4 on.
 */
import { constants, copyFile, mkdtemp, open, rm, symlink } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import type { Database } from 'node-sqlite3-wasm'
import {
  type Channel,
  type ChannelSummary,
  type Container,
  type LogMessage,
  maxMessageBytes,
  type Place,
  type ScanOptions,
} from './container.ts'
import { decompress } from './decompress.ts'
import { badLog, type LogFile, visible } from './files.ts'

export const sqliteMagic: Buffer = Buffer.from('SQLite format 3\0')

export class SqliteFile implements Container {
  readonly kind = 'db3'
  readonly #file: LogFile
  readonly #index: number
  readonly #folder: string
  readonly #db: Database
  readonly #channels: Map<bigint, Channel>

  private constructor(file: LogFile, index: number, folder: string, db: Database, channels: Map<bigint, Channel>) {
    this.#file = file
    this.#index = index
    this.#folder = folder
    this.#db = db
    this.#channels = channels
  }

  /** @throws {@link ModelError} `BAD_LOG` if it is not a file of rosbag2. */
  static async open(file: LogFile, index: number): Promise<SqliteFile> {
    const { default: sqlite } = await import('node-sqlite3-wasm')
    const folder = await mkdtemp(path.join(tmpdir(), 'drivlm-log-'))
    let db: Database | undefined
    try {
      const inside = path.join(folder, 'log.db3')
      const wal = (await file.read(18, 2)).includes(2)
      if (wal) await copyWal(file.name, inside)
      else await symlink(path.resolve(file.name), inside)
      db = new sqlite.Database(inside, { fileMustExist: true, readOnly: !wal })
      // Kept locked until it is closed: the package makes and removes its `.lock` folder at every statement otherwise.
      db.exec('PRAGMA locking_mode = EXCLUSIVE')
      db.exec('PRAGMA trusted_schema = OFF')
      return new SqliteFile(file, index, folder, db, readChannels(db))
    } catch (error) {
      db?.close()
      await rm(folder, { recursive: true, force: true })
      throw badLog(file.name, `it is a SQLite file that is not read as a log: ${reasonOf(error)}.`, error)
    }
  }

  get name(): string {
    return this.#file.name
  }

  get bytes(): number {
    return this.#file.size
  }

  async close(): Promise<void> {
    try {
      this.#db.close()
    } finally {
      await this.#file.close()
      await rm(this.#folder, { recursive: true, force: true })
    }
  }

  async summary(): Promise<ChannelSummary[] | undefined> {
    const rows = this.#all(
      'SELECT topic_id, COUNT(*) AS count, MIN(timestamp) AS first, MAX(timestamp) AS last, MIN(id) AS id FROM messages GROUP BY topic_id',
    )
    const summaries: ChannelSummary[] = []
    for (const row of rows) {
      const numbers = ['topic_id', 'id', 'count', 'first', 'last'].map((name) => wholeOf(row[name]))
      // Rows of a damaged file, which a scan looks at one by one.
      if (numbers.includes(undefined)) return undefined
      const [topic, id, count, first, last] = numbers as [bigint, bigint, bigint, bigint, bigint]
      const channel = this.#channels.get(topic)
      const sample = async () => this.#blob(Number(id)).catch(() => undefined)
      if (channel !== undefined) summaries.push({ channel, count: Number(count), first, last, sample })
    }
    return summaries
  }

  async *scan({ wants, from, to, onDamage }: ScanOptions): AsyncGenerator<LogMessage, void, undefined> {
    const damage = (message: string) => onDamage({ file: this.name, offset: undefined, message })
    const wanted = [...this.#channels].flatMap(([id, channel]) => (wants(channel) ? [id] : []))
    const [least, most] = [-(2n ** 63n), 2n ** 63n - 1n]
    const bound = (time: bigint) => (time < least ? least : time > most ? most : time)
    const statement = this.#db.prepare(
      `SELECT id, topic_id, timestamp, length(data) AS size FROM messages WHERE topic_id IN (${wanted.join(',')})
         AND timestamp >= ? AND timestamp <= ? ORDER BY timestamp, id`,
    )
    try {
      for (const row of statement.iterate([bound(from ?? least), bound(to ?? most)])) {
        const id = Number(integer(row.id))
        const channel = this.#channels.get(integer(row.topic_id))!
        const size = Number(row.size ?? 0)
        try {
          if (size > maxMessageBytes)
            throw new Error(`it has ${size} bytes, of which up to ${maxMessageBytes} are taken`)
          const data = await this.#blob(id)
          const logTime = integer(row.timestamp)
          const place = { file: this.#index, chunk: -1, at: id, size: data.length }
          yield { channel, logTime, publishTime: logTime, data, place }
        } catch (error) {
          damage(`the message of row ${id} is lost: ${(error as Error).message}.`)
        }
      }
    } catch (error) {
      damage(`reading ends early: ${reasonOf(error)}.`)
    } finally {
      try {
        statement.finalize()
      } catch {
        // It says again what ended the reading.
      }
    }
  }

  async read({ at }: Place): Promise<Uint8Array> {
    try {
      return await this.#blob(at)
    } catch (error) {
      throw badLog(this.name, `the message of row ${at} cannot be read: ${(error as Error).message}.`, error)
    }
  }

  /** A message's bytes; where rosbag2 compressed each by itself, decompressed. */
  async #blob(id: number): Promise<Uint8Array> {
    const row = this.#db.get('SELECT data FROM messages WHERE id = ? AND length(data) <= ?', [id, maxMessageBytes])
    const data = row?.data
    if (!(data instanceof Uint8Array)) throw new Error('its data is no blob')
    const view = Buffer.from(data.buffer, data.byteOffset, data.length)
    // CDR begins with a zero byte.
    if (view.length < 6 || view.readUInt32LE(0) !== 0xfd2fb528) return data
    return decompress('zstd', data, zstdSize(view))
  }

  #all(sql: string): Record<string, unknown>[] {
    try {
      return this.#db.all(sql) as Record<string, unknown>[]
    } catch (error) {
      throw badLog(this.name, `it cannot be read: ${reasonOf(error)}.`, error)
    }
  }
}

/** What a zstd frame says it decompresses to. https://datatracker.ietf.org/doc/html/rfc8878#section-3.1.1 */
export function zstdSize(frame: Buffer): number {
  const descriptor = frame[4]!
  const single = (descriptor & 0x20) !== 0
  const offset = 5 + (single ? 0 : 1) + [0, 1, 2, 4][descriptor & 3]!
  const code = descriptor >> 6
  const bytes = code === 0 ? (single ? 1 : 0) : 1 << code
  if (bytes === 0 || frame.length < offset + bytes) throw new Error('its zstd frame does not say its size')
  if (bytes === 8) return Number(frame.readBigUInt64LE(offset))
  return bytes === 1 ? frame[offset]! : bytes === 2 ? frame.readUInt16LE(offset) + 256 : frame.readUInt32LE(offset)
}

function readChannels(db: Database): Map<bigint, Channel> {
  const columns = (table: string): string[] => {
    const made = db.get("SELECT type FROM sqlite_master WHERE name = ? AND type = 'table'", [table])
    if (made === null) throw new Error(`it has no table '${table}', which rosbag2 writes`)
    return db.all(`PRAGMA table_info(${table})`).map((row) => String(row.name))
  }
  const expected = {
    topics: ['id', 'name', 'type', 'serialization_format'],
    messages: ['id', 'topic_id', 'timestamp', 'data'],
  }
  for (const [table, names] of Object.entries(expected)) {
    const missing = names.find((name) => !columns(table).includes(name))
    if (missing !== undefined) throw new Error(`its table '${table}' has no column '${missing}'`)
  }
  const definitions = new Map<string, Channel['definition']>()
  if (db.get("SELECT type FROM sqlite_master WHERE name = 'message_definitions' AND type = 'table'") !== null) {
    const found = db.all(
      'SELECT topic_type AS name, encoding, encoded_message_definition AS text FROM message_definitions LIMIT 10000',
    )
    for (const { name, encoding, text } of found) {
      definitions.set(String(name), { encoding: String(encoding), data: Buffer.from(String(text)) })
    }
  }
  const channels = new Map<bigint, Channel>()
  const qos = columns('topics').includes('offered_qos_profiles') ? 'offered_qos_profiles' : "''"
  for (const { id, name, type, format, profiles } of db.all(
    `SELECT id, name, type, serialization_format AS format, ${qos} AS profiles FROM topics LIMIT 100000`,
  )) {
    const schema = String(type)
    channels.set(integer(id), {
      topic: String(name),
      schema,
      definition: definitions.get(schema),
      encoding: String(format),
      metadata: new Map([['offered_qos_profiles', String(profiles ?? '')]]),
    })
  }
  return channels
}

function wholeOf(value: unknown): bigint | undefined {
  if (typeof value === 'bigint') return value
  return typeof value === 'number' && Number.isSafeInteger(value) ? BigInt(value) : undefined
}

function integer(value: unknown): bigint {
  const whole = wholeOf(value)
  if (whole === undefined) throw new Error(`expected a whole number in a row, found ${visible(String(value), 40)}`)
  return whole
}

async function copyWal(from: string, to: string): Promise<void> {
  const mode = constants.COPYFILE_FICLONE
  await copyFile(from, to, mode)
  const log = await copyFile(`${from}-wal`, `${to}-wal`, mode).then(
    () => true,
    () => false,
  )
  if (log) return
  // Nothing waits to be written into it: as a file of the older kind it says the same.
  const handle = await open(to, 'r+')
  await handle.write(Uint8Array.of(1, 1), 0, 2, 18)
  await handle.close()
}

function reasonOf(error: unknown): string {
  return visible((error instanceof Error ? error.message : String(error)).replace(/\.$/, ''))
}

// Logs for scripts that CI does not run whole: of a few messages in every shape of a container, and drives of six cameras. Made by other
// implementations than those that read them, where there is one.
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import path from 'node:path'
import { McapWriter } from '@mcap/core'
import sqlite from 'node-sqlite3-wasm'
import sharp from 'sharp'
import { packageRoot } from '../dist/native.js'
import { cameras } from '../dist/views/cameras.js'

const require = createRequire(import.meta.url)
const zstd = require('@foxglove/wasm-zstd')
const count = 6

/** Fields one after another, little endian: `[bytes, number]`, text, or bytes. */
function bytes(...parts) {
  return Buffer.concat(
    parts.map((part) => {
      if (!Array.isArray(part)) return Buffer.from(part)
      const made = Buffer.alloc(8)
      made.writeBigUInt64LE(BigInt(part[1]))
      return made.subarray(0, part[0])
    }),
  )
}

/** A sensor_msgs/CompressedImage. */
function cdr(data, sec, nsec = 0) {
  const word = (text) => bytes([4, text.length + 1], text, Buffer.alloc(1 + ((4 - ((text.length + 1) % 4)) % 4)))
  return bytes([4, 256], [4, sec], [4, nsec], word('cam'), word('jpeg'), [4, data.length], data)
}

function ros1(data, sec) {
  return bytes([4, 1], [4, sec], [4, 0], [4, 3], 'cam', [4, 4], 'jpeg', [4, data.length], data)
}

/** A frame of lz4 whose one block is stored as it is. */
function lz4Stored(data) {
  return bytes(Buffer.from('04224d18604082', 'hex'), [4, (data.length | (2 ** 31)) >>> 0], data, [4, 0])
}

/** The writer of @mcap/core, on a function that takes bytes. */
export async function mcapWriter(write, { chunks = true, summary = true, compression = '', chunkSize = 786_432 } = {}) {
  let position = 0n
  const compress = { zstd: zstd.compress, lz4: lz4Stored }[compression]
  const writer = new McapWriter({
    writable: {
      position: () => position,
      write: async (part) => {
        await write(part)
        position += BigInt(part.length)
      },
    },
    useChunks: chunks,
    chunkSize,
    useStatistics: summary,
    useSummaryOffsets: summary,
    repeatChannels: summary,
    repeatSchemas: summary,
    useChunkIndex: summary,
    ...(compress && { compressChunk: (data) => ({ compression, compressedData: compress(data) }) }),
  })
  await writer.start({ profile: 'ros2', library: 'test' })
  const definition = Buffer.from('std_msgs/Header header\nstring format\nuint8[] data\n')
  const name = 'sensor_msgs/msg/CompressedImage'
  const schemaId = await writer.registerSchema({ name, encoding: 'ros2msg', data: definition })
  const channels = new Map()
  return {
    /** Adds a picture, taken and recorded at `time`, ns. */
    async add(topic, time, data) {
      let channel = channels.get(topic)
      if (channel === undefined) {
        const id = await writer.registerChannel({ topic, schemaId, messageEncoding: 'cdr', metadata: new Map() })
        channel = { id, sequence: 0 }
        channels.set(topic, channel)
      }
      const message = cdr(data, Number(time / 1_000_000_000n), Number(time % 1_000_000_000n))
      const times = { logTime: time, publishTime: time }
      await writer.addMessage({ channelId: channel.id, sequence: channel.sequence++, ...times, data: message })
    },
    end: () => writer.end(),
  }
}

async function mcap(jpeg, shape) {
  const parts = []
  const writer = await mcapWriter((part) => parts.push(Uint8Array.from(part)), { chunkSize: 2 * jpeg.length, ...shape })
  for (let i = 0; i < count; i++)
    await writer.add(i & 1 ? '/back/image' : '/front/image', BigInt(100 + (i >> 1)) * 1_000_000_000n, jpeg)
  await writer.end()
  return Buffer.concat(parts)
}

/** A drive of drawn moments, twice a second, six cameras a few ms apart. */
export async function streetLog(moments) {
  const parts = []
  const writer = await mcapWriter((part) => parts.push(Uint8Array.from(part)))
  const names = ['day', 'dusk', 'rain']
  for (let i = 0; i < moments; i++) {
    for (const [place, camera] of cameras.entries()) {
      const file = path.join(packageRoot, 'models', 'street-tiny', 'moments', names[i % 3], `${camera}.png`)
      await writer.add(
        topicOf(camera),
        1_000_000_000_000n + BigInt(i * 500 + place * 7) * 1_000_000n,
        readFileSync(file),
      )
    }
  }
  await writer.end()
  return Buffer.concat(parts)
}

/** As drivers of cameras name it. */
export function topicOf(camera) {
  return `/camera/${camera.slice(4).toLowerCase()}/image_raw/compressed`
}

/** A bag of ROS 1 with one chunk, closed with its index, or not. */
function bag(jpeg, compression, closed) {
  const fields = (values) =>
    bytes(
      ...Object.entries(values).map(([name, value]) => bytes([4, name.length + 1 + value.length], `${name}=`, value)),
    )
  const record = (head, data = Buffer.alloc(0)) => bytes([4, fields(head).length], fields(head), [4, data.length], data)
  const connection = record(
    { op: Buffer.of(7), conn: bytes([4, 0]), topic: Buffer.from('/front/image') },
    fields({ type: Buffer.from('sensor_msgs/CompressedImage'), message_definition: Buffer.alloc(0) }),
  )
  const time = (i) => bytes([4, 100 + i], [4, 0])
  const messages = Array.from({ length: count }, (_, i) =>
    record({ op: Buffer.of(2), conn: bytes([4, 0]), time: time(i) }, ros1(jpeg, 100 + i)),
  )
  const records = bytes(connection, ...messages)
  const stored = compression === 'lz4' ? lz4Stored(records) : records
  const start = Buffer.from('#ROSBAG V2.0\n')
  const head = (position) => {
    const about = { index_pos: bytes([8, position]), conn_count: bytes([4, 1]), chunk_count: bytes([4, 1]) }
    return record({ op: Buffer.of(3), ...about }, Buffer.alloc(40, 0x20))
  }
  const at = start.length + head(0).length
  const chunk = record(
    { op: Buffer.of(5), compression: Buffer.from(compression), size: bytes([4, records.length]) },
    stored,
  )
  const times = { start_time: time(0), end_time: time(count - 1) }
  const about = { op: Buffer.of(6), ver: bytes([4, 1]), chunk_pos: bytes([8, at]), ...times, count: bytes([4, 1]) }
  const end = bytes(connection, record(about, bytes([4, 0], [4, count])))
  return closed ? bytes(start, head(at + chunk.length), chunk, end) : bytes(start, head(0), chunk)
}

/** SQLite of rosbag2 in its fourth schema; each message by itself in zstd, or not. */
function db3(jpeg, compressed, folder) {
  const file = path.join(folder, `small-${process.pid}-${compressed}.db3`)
  const db = new sqlite.Database(file)
  db.exec(`PRAGMA page_size = 1024;
    CREATE TABLE schema (schema_version INTEGER PRIMARY KEY, ros_distro TEXT NOT NULL);
    INSERT INTO schema VALUES (4, 'jazzy');
    CREATE TABLE topics (id INTEGER PRIMARY KEY, name TEXT NOT NULL, type TEXT NOT NULL, serialization_format TEXT NOT NULL,
      offered_qos_profiles TEXT NOT NULL, type_description_hash TEXT NOT NULL);
    INSERT INTO topics VALUES (1, '/front/image', 'sensor_msgs/msg/CompressedImage', 'cdr', '', '');
    CREATE TABLE message_definitions (id INTEGER PRIMARY KEY, topic_type TEXT NOT NULL, encoding TEXT NOT NULL,
      encoded_message_definition TEXT NOT NULL, type_description_hash TEXT NOT NULL);
    CREATE TABLE messages (id INTEGER PRIMARY KEY, topic_id INTEGER NOT NULL, timestamp INTEGER NOT NULL, data BLOB NOT NULL);
    CREATE INDEX timestamp_idx ON messages (timestamp ASC);`)
  for (let i = 0; i < count; i++) {
    const data = cdr(jpeg, 100 + i)
    const time = BigInt(100 + i) * 1_000_000_000n
    db.run('INSERT INTO messages VALUES (?, 1, ?, ?)', [i + 1, time, compressed ? zstd.compress(data) : data])
  }
  db.close()
  return readFileSync(file)
}

/** Small logs of a container: `mcap`, `bag` or `db3`. */
export async function smallLogs(container, folder) {
  await zstd.isLoaded
  const jpeg = await sharp({ create: { width: 8, height: 8, channels: 3, background: '#405060' } })
    .jpeg()
    .toBuffer()
  if (container === 'bag')
    return ['none', 'lz4'].flatMap((name) => [true, false].map((closed) => bag(jpeg, name, closed)))
  if (container === 'db3') return [true, false].map((compressed) => db3(jpeg, compressed, folder))
  const shapes = [
    { chunks: true, summary: true, compression: '' },
    { chunks: true, summary: true, compression: 'zstd' },
    { chunks: true, summary: false, compression: 'lz4' },
    { chunks: false, summary: true, compression: '' },
    { chunks: false, summary: false, compression: '' },
  ]
  return Promise.all(shapes.map((shape) => mcap(jpeg, shape)))
}

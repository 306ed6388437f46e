// Logs as nobody should write them: section by section, each ends in a typed error or a note of damage, in bounded time and memory.
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import sqlite from 'node-sqlite3-wasm'
import sharp from 'sharp'
import { afterAll, beforeAll, describe, expect, it, test } from 'vitest'
import { decompress, maxChunkBytes } from '../../lib/logs/decompress.ts'
import { visible } from '../../lib/logs/files.ts'
import { openLog } from '../../lib/logs/log.ts'
import { decodePicture } from '../../lib/views/decode.ts'
import {
  bytes,
  cdrCompressed,
  cdrImage,
  header,
  type MadeMessage,
  magic,
  mcap,
  record,
  survey,
  surveyBytes,
  text,
} from './logs-files.ts'

const fixtures = 'test/fixtures/logs'
const dir = mkdtempSync(path.join(os.tmpdir(), 'drivlm-hostile-'))
afterAll(() => rmSync(dir, { recursive: true }))
const at = (name: string) => path.join(dir, name)
let jpeg: Buffer
beforeAll(async () => {
  jpeg = await sharp({ create: { width: 8, height: 8, channels: 3, background: '#405060' } })
    .jpeg()
    .toBuffer()
})

/** What a log of this one message comes to. */
async function one(message: MadeMessage) {
  return surveyBytes(at('one.mcap'), await mcap([message]))
}
const foxglove = (content: Uint8Array, encoding = 'protobuf', schema = 'foxglove.CompressedImage') =>
  one({ schema, encoding, data: content })

describe('files', () => {
  it.each([
    ['empty', Buffer.alloc(0), /is empty/],
    ['only magic', magic, /has no messages/],
    ['half a magic', magic.subarray(0, 5), /ends after 5 bytes/],
    ['header only', bytes(magic, header), /has no messages/],
    ['text', Buffer.from('hello, this is no log'), /no robot log/],
    ['gzip', Buffer.from('1f8b08000000000000030000', 'hex'), /gzip -d/],
    ['lz4', Buffer.from('04224d18604000000000', 'hex'), /lz4 -d/],
    ['bzip2', Buffer.from('BZh91AY&SY'), /bzip2 -d/],
    ['an old bag', Buffer.from('#ROSBAG V1.2\n'), /rosbag fix/],
    ['a short zstd', Buffer.from('28b52ffd', 'hex'), /cannot be decompressed/],
    ['a zstd of 1 TiB', Buffer.from('28b52ffdc0000000000000010000', 'hex'), /cannot be decompressed/],
  ])('%s', async (_, content, message) => {
    expect(await surveyBytes(at('file'), content)).toMatchObject({
      code: 'BAD_LOG',
      message: expect.stringMatching(message),
    })
  })

  it('opens nothing that is no file, and asks for paths', async () => {
    expect(await survey(at('none'))).toMatchObject({
      code: 'BAD_LOG',
      message: expect.stringMatching(/does not exist/),
    })
    await expect(openLog([])).rejects.toMatchObject({ code: 'BAD_ARGUMENT' })
    await expect(openLog(5 as never)).rejects.toMatchObject({ code: 'BAD_ARGUMENT' })
  })

  it('cut at every byte: what is whole is read, and the rest is said', async () => {
    const messages = Array.from({ length: 4 }, (_, i) => ({ data: cdrCompressed(Buffer.from([255, 216, 255, i])) }))
    for (const options of [{}, { compression: 'zstd' as const }, { chunks: false, summary: false }]) {
      const whole = await mcap(messages, options)
      let before = 0
      for (let length = 8; length < whole.length; length++) {
        const { code, message, pictures, damage } = await surveyBytes(at('cut.mcap'), whole.subarray(0, length))
        if (pictures === 0)
          expect({ code, message }).toMatchObject({ code: 'BAD_LOG', message: expect.stringMatching(/no messages/) })
        else if (pictures < 4) expect(damage.join()).toMatch(/at byte \d+ of \d+; \d messages were read before it/)
        expect(pictures).toBeGreaterThanOrEqual(before)
        before = pictures
      }
      expect(before).toBe(4)
    }
  }, 60_000)
})

describe('folders', () => {
  const folder = (name: string, yaml: string | undefined, files: readonly string[] = []) => {
    const made = at(name)
    mkdirSync(made)
    for (const file of files) writeFileSync(path.join(made, file), readFileSync(`${fixtures}/ros2-six-fastwrite.mcap`))
    if (yaml !== undefined) writeFileSync(path.join(made, 'metadata.yaml'), yaml)
    return made
  }
  const yamlOf = (...names: string[]) =>
    `rosbag2_bagfile_information:\n  version: 5\n  relative_file_paths:\n${names.map((name) => `    - ${name}\n`).join('')}  duration: {}\n`

  it('without metadata.yaml: its files by number', async () => {
    const made = folder('plain', undefined, ['run_10.mcap', 'run_9.mcap', 'notes.txt'])
    const log = await openLog(made)
    expect(log.files.map((file) => path.basename(file))).toEqual(['run_9.mcap', 'run_10.mcap'])
    expect(log.topics[0]!.count).toBe(6)
    await log.close()
    expect(await survey(folder('none', undefined))).toMatchObject({
      code: 'BAD_LOG',
      message: expect.stringMatching(/without metadata/),
    })
  })

  it.each([
    ['up', '../../etc/passwd', /lies outside/],
    ['absolute', '/etc/passwd', /lies outside/],
    ['quoted', '"a/../../b.mcap"', /lies outside/],
    ['drive', 'C:\\log.mcap', /lies outside/],
    ['alias', '*a', /none of the files/],
    ['missing', 'missing_0.mcap', /none of the files/],
  ])('%s', async (name, file, message) => {
    expect(await survey(folder(name, yamlOf(file)))).toMatchObject({
      code: 'BAD_LOG',
      message: expect.stringMatching(message),
    })
  })

  it('reads what is there of what is named, and no million files', async () => {
    const found = await survey(folder('half', yamlOf('a_0.mcap', 'a_1.mcap'), ['a_0.mcap']))
    expect(found).toMatchObject({
      code: undefined,
      pictures: 18,
      damage: [expect.stringMatching(/a_1\.mcap.* is not there/)],
    })
    const many = yamlOf(...Array.from({ length: 100_000 }, (_, i) => `a_${i}.mcap`))
    expect(await survey(folder('many', many))).toMatchObject({
      message: expect.stringMatching(/100000 files, of which up to/),
    })
    expect(await survey(folder('huge', ' '.repeat(5_000_000)))).toMatchObject({
      message: expect.stringMatching(/no bag's has/),
    })
    expect(await survey(folder('nothing', 'a: &a [*a, *a]\n'))).toMatchObject({
      message: expect.stringMatching(/names no files/),
    })
  })
})

describe('records of MCAP', () => {
  const schema = record(3, bytes([2, 1], text('sensor_msgs/msg/CompressedImage'), text('ros2msg'), [4, 0]))
  const channel = (id = 1, topic = '/front', schemaId = 1) =>
    record(4, bytes([2, id], [2, schemaId], text(topic), text('cdr'), [4, 0]))
  const message = (id = 1, data: Uint8Array = cdrCompressed(Buffer.from([255, 216, 255]))) =>
    record(5, bytes([2, id], [4, 0], [8, 100_000_000_000n], [8, 100_000_000_000n], data))
  const end = record(15, bytes([4, 0]))
  const chunk = (
    records: Uint8Array,
    { size = records.length as number | bigint, compression = '', crc = 0, length = BigInt(records.length) } = {},
  ) => record(6, bytes([8, 0], [8, 2n ** 62n], [8, size], [4, crc], text(compression), [8, length], records))
  const file = (...records: Uint8Array[]) => surveyBytes(at('records.mcap'), bytes(magic, header, ...records, end))
  const sound = [schema, channel(), message()]

  it.each([
    ['2^60', 2n ** 60n],
    ['2^32', 2n ** 32n],
    ['2^64 - 1', 2n ** 64n - 1n],
    ['more than the file', 5000n],
  ])('a length of %s', async (_, length) => {
    const found = await file(...sound, record(5, Buffer.alloc(100), length))
    expect(found).toMatchObject({
      pictures: 1,
      damage: [expect.stringMatching(/a record is cut.*1 messages were read/)],
    })
  })

  it.each([
    ['1 TiB', { size: 2n ** 40n, compression: 'zstd' }, /1099511627776 bytes, of which up to/],
    ['1 TiB, none', { size: 2n ** 40n }, /1099511627776 bytes/],
    ['0', { size: 0 }, /expected 0 bytes, found/],
    ['not what comes out', { size: 5 }, /expected 5 bytes/],
    ['an unknown compression', { compression: 'brotli' }, /compression is 'brotli'/],
    ['a compression of 1 MB', { compression: 'x'.repeat(1_000_000) }, /name of its compression has 1000000/],
    ['escape sequences as compression', { compression: '\u001b[31mred' }, /'�\[31mred'/],
    ['no lz4', { compression: 'lz4' }, /are no lz4/],
    ['no zstd', { compression: 'zstd' }, /are no zstd/],
    ['a wrong checksum', { crc: 1 }, /checksum is .* and not 00000001/],
    ['records longer than it', { length: 2n ** 40n }, /its records have 1099511627776 bytes/],
  ])('a chunk of %s', async (_, options, damage) => {
    const found = await file(chunk(bytes(...sound), options), ...sound, chunk(bytes(...sound)))
    expect(found).toMatchObject({ code: undefined, pictures: 2, damage: [expect.stringMatching(damage)] })
  })

  it('a small chunk that expands without end, and sound ones after it', async () => {
    const { zstdCompressed, lz4Stored } = await frames(bytes(...sound))
    const bomb = zstdBomb(maxChunkBytes)
    const found = await file(
      chunk(bomb, { size: 1000, compression: 'zstd' }),
      chunk(bomb, { size: maxChunkBytes + 1, compression: 'zstd' }),
      chunk(lz4Stored.subarray(0, 30), { size: 500, compression: 'lz4' }),
      chunk(zstdCompressed, { size: 900, compression: 'lz4' }),
      chunk(lz4Stored, { size: bytes(...sound).length, compression: 'lz4' }),
      chunk(zstdCompressed, { size: bytes(...sound).length, compression: 'zstd' }),
    )
    expect(found.damage).toHaveLength(4)
    expect(found).toMatchObject({ code: undefined, pictures: 2 })
  })

  it('a thousand chunks that are no lz4: what they are tried with does not stay in memory', async () => {
    const bad = Buffer.from('04224d1860408200000099', 'hex')
    const tried = async (times: number) => {
      for (let i = 0; i < times; i++) await expect(decompress('lz4', bad, 500)).rejects.toThrow(/are no lz4/)
      return process.memoryUsage().rss
    }
    expect(-(await tried(50)) + (await tried(1000))).toBeLessThan(50 * 2 ** 20)
  })

  it.each([
    [
      'a record cut in a chunk',
      chunk(bytes(...sound, record(5, Buffer.alloc(30), 90n))),
      /longer than what is left/,
      2,
    ],
    ['some bytes left over', chunk(bytes(...sound, Buffer.alloc(5))), /5 bytes are left over/, 2],
    ['a chunk in a chunk', chunk(bytes(...sound, chunk(schema))), /of kind 6/, 2],
    ['a message without a head', chunk(bytes(...sound, record(5, Buffer.alloc(10)))), /has no head/, 2],
    ['the same outside', record(5, Buffer.alloc(10)), /has no head/, 1],
    ['a channel cut short', record(4, Buffer.alloc(3)), /a record is lost/, 1],
    [
      'a schema of 1 GB',
      record(3, bytes([2, 2], text('a'), text('b'), [4, 2 ** 30])),
      /a record is lost.*1073741824/,
      1,
    ],
  ])('%s', async (_, extra, damage, pictures) => {
    const found = await file(extra, ...sound)
    expect(found).toMatchObject({ code: undefined, pictures, damage: [expect.stringMatching(damage)] })
  })

  it('zeros behind the last record, as a crashed disk leaves them', async () => {
    expect(await file(...sound, Buffer.alloc(1000))).toMatchObject({
      pictures: 1,
      damage: [expect.stringMatching(/there is no record/)],
    })
  })

  it('a message before its channel, a channel before its schema, a schema of number 0', async () => {
    expect(await file(message(), ...sound)).toMatchObject({
      pictures: 1,
      damage: [expect.stringMatching(/1 message of channel 1.*left out/)],
    })
    expect(await file(channel(), schema, message())).toMatchObject({ pictures: 1, damage: [] })
    const none = await file(channel(1, '/front', 0), message())
    expect(none).toMatchObject({ pictures: 0, topics: [{ schema: '', kind: undefined }] })
  })

  it('a channel declared again as another, and one topic with two types', async () => {
    const again = await file(...sound, channel(1, '/back'), message())
    expect(again).toMatchObject({
      pictures: 2,
      damage: [expect.stringMatching(/channel 1 is declared again as another, \/back/)],
    })
    const other = record(3, bytes([2, 2], text('std_msgs/msg/String'), text('ros2msg'), [4, 0]))
    const two = await file(...sound, other, channel(2, '/front', 2), message(2))
    expect(two).toMatchObject({ pictures: 1, damage: [] })
    expect(two.topics.map(({ topic, kind }) => [topic, kind])).toEqual([
      ['/front', 'compressed'],
      ['/front', undefined],
    ])
  })

  it('names of topics: empty, of 10 KB, with control characters, like an option', async () => {
    for (const topic of ['', 'x'.repeat(10_000), '/a\u001b]0;owned\u0007\r\n\u202e', '--map']) {
      const found = await file(schema, channel(1, topic), message(1, cdrCompressed(Buffer.from('no picture'))))
      expect(found).toMatchObject({ pictures: 1, topics: [{ topic }] })
      // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what must not be there
      expect(found.refused.join('')).not.toMatch(/[\u0000-\u001f\u202e]/)
      expect(found.refused[0]!.length).toBeLessThan(500)
      expect(visible(topic).length).toBeLessThan(202)
    }
  })
})

describe('the summary of MCAP', () => {
  /** A sound log whose summary is changed; it has to be read as if it had none. */
  async function changed(change: (file: Buffer, summaryStart: number) => void): Promise<void> {
    const messages = Array.from({ length: 6 }, () => ({ data: cdrCompressed(jpeg) }))
    const content = await mcap(messages, { chunkSize: 900 })
    const footer = content.length - 8 - 29
    change(content, Number(content.readBigUInt64LE(footer + 9)))
    content.writeUInt32LE(0, footer + 9 + 16) // no checksum
    writeFileSync(at('summary.mcap'), content)
    const found = await survey(at('summary.mcap'), {})
    expect(found).toMatchObject({ code: undefined, pictures: 6, moments: 6, topics: [{ count: 6 }], damage: [] })
  }
  /** Where the first record of a kind begins. */
  const find = (file: Buffer, from: number, opcode: number): number => {
    let offset = from
    while (file[offset] !== opcode) offset += 9 + Number(file.readBigUInt64LE(offset + 1))
    return offset
  }
  const chunkIndex = (file: Buffer, start: number) => find(file, start, 8) + 9

  it.each<[string, (file: Buffer, start: number) => void]>([
    ['as it is', () => undefined],
    ['a chunk before the data', (file, start) => file.writeBigUInt64LE(0n, chunkIndex(file, start) + 16)],
    ['a chunk past the end', (file, start) => file.writeBigUInt64LE(1n << 50n, chunkIndex(file, start) + 16)],
    ['a chunk at itself', (file, start) => file.writeBigUInt64LE(BigInt(start), chunkIndex(file, start) + 16)],
    ['a chunk at what is none', (file, start) => file.writeBigUInt64LE(8n, chunkIndex(file, start) + 16)],
    [
      'the same chunk twice',
      (file, start) => {
        const first = chunkIndex(file, start)
        const second = chunkIndex(file, first + Number(file.readBigUInt64LE(first - 8)))
        file.copyWithin(second + 16, first + 16, first + 32)
      },
    ],
    ['a chunk of 2^63 bytes', (file, start) => file.writeBigUInt64LE(1n << 63n, chunkIndex(file, start) + 24)],
    [
      'an index of messages past the file',
      (file, start) => file.writeBigUInt64LE(1n << 40n, chunkIndex(file, start) + 38),
    ],
    ['an index of messages at a chunk', (file, start) => file.writeBigUInt64LE(8n, chunkIndex(file, start) + 38)],
    ['a count that is wrong', (file, start) => file.writeBigUInt64LE(99n, find(file, start, 11) + 9)],
    ['a start in a chunk', (file) => file.writeBigUInt64LE(60n, file.length - 8 - 20)],
    ['a start past the end', (file) => file.writeBigUInt64LE(1n << 60n, file.length - 8 - 20)],
    ['a start at the end', (file) => file.writeBigUInt64LE(BigInt(file.length - 37), file.length - 8 - 20)],
    ['a footer of another length', (file) => file.writeBigUInt64LE(2n ** 60n, file.length - 8 - 28)],
  ])('%s', async (_, change) => changed(change))

  it('a wrong checksum', async () => {
    const content = await mcap([{ data: cdrCompressed(jpeg) }])
    content.writeUInt32LE(12345, content.length - 12)
    expect(await surveyBytes(at('crc.mcap'), content, {})).toMatchObject({ pictures: 1, topics: [{ count: 1 }] })
  })

  it('a record cut in the middle of the file: what follows is found by the index', async () => {
    const messages = Array.from({ length: 8 }, () => ({ data: cdrCompressed(jpeg) }))
    const content = await mcap(messages, { chunkSize: 900 })
    const first = find(content, 8, 6)
    content.writeBigUInt64LE(2n ** 50n, first + 1)
    const found = await surveyBytes(at('middle.mcap'), content, { scan: true })
    expect(found).toMatchObject({ code: undefined, damage: [expect.stringMatching(/up to the next chunk is lost/)] })
    expect(found.pictures).toBeGreaterThan(0)
  })
})

describe('messages', () => {
  const refused = (found: { damage: string[]; refused: string[] }) => [...found.damage, ...found.refused].join('\n')

  it('CDR: big endian is read, anything else than 00 00 and 00 01 in front is not', async () => {
    const little = cdrImage(Buffer.alloc(12, 7))
    const big = Buffer.from(little)
    big[1] = 0
    for (const offset of [4, 8, 12, 20, 24, 28, 40, 44]) big.writeUInt32BE(little.readUInt32LE(offset), offset)
    expect(await one({ schema: 'sensor_msgs/msg/Image', data: big })).toMatchObject({
      pictures: 1,
      refused: [],
      damage: [],
    })
    const other = Buffer.from(little)
    other[1] = 3
    expect(refused(await one({ schema: 'sensor_msgs/msg/Image', data: other }))).toMatch(/first bytes are 0 and 3/)
    expect(refused(await one({ data: Buffer.from([0]) }))).toMatch(/1 bytes is no CDR/)
  })

  it.each<[string, () => MadeMessage, RegExp]>([
    [
      'more data than there is',
      () => ({ schema: 'sensor_msgs/msg/Image', data: cdrImage(Buffer.alloc(12), { length: 2 ** 31 }) }),
      /'data' needs 2147483648 bytes, and 12 are left/,
    ],
    [
      'is_bigendian 7',
      () => ({ schema: 'sensor_msgs/msg/Image', data: cdrImage(Buffer.alloc(12), { big: 7 }) }),
      /'is_bigendian' is 7/,
    ],
    [
      'an encoding of 1 MB',
      () => ({ schema: 'sensor_msgs/msg/Image', data: cdrImage(Buffer.alloc(12), { encoding: 'x'.repeat(2 ** 20) }) }),
      /'encoding' has 1048577 bytes/,
    ],
    [
      'a definition of its own',
      () => ({ schema: 'sensor_msgs/msg/Image', definition: 'uint8 a\n', data: cdrImage(Buffer.alloc(12)) }),
      /^$/,
    ],
    [
      'width 0',
      () => ({ schema: 'sensor_msgs/msg/Image', data: cdrImage(Buffer.alloc(12), { width: 0 }) }),
      /0 x 2 pixels/,
    ],
    [
      'a step smaller than a row',
      () => ({ schema: 'sensor_msgs/msg/Image', data: cdrImage(Buffer.alloc(12), { step: 5 }) }),
      /step is 5 bytes/,
    ],
    [
      'sizes that overflow',
      () => ({
        schema: 'sensor_msgs/msg/Image',
        data: cdrImage(Buffer.alloc(12), { width: 2 ** 32 - 1, height: 2 ** 32 - 1, step: 2 ** 32 - 1 }),
      }),
      /4294967295 x 4294967295 pixels/,
    ],
    [
      'a step of 4 GB',
      () => ({ schema: 'sensor_msgs/msg/Image', data: cdrImage(Buffer.alloc(12), { step: 2 ** 32 - 1 }) }),
      /need 8589934590 bytes, and it has 12/,
    ],
    [
      'a byte too few',
      () => ({ schema: 'sensor_msgs/msg/Image', data: cdrImage(Buffer.alloc(11)) }),
      /need 12 bytes, and it has 11/,
    ],
    [
      'depth',
      () => ({ schema: 'sensor_msgs/msg/Image', data: cdrImage(Buffer.alloc(12), { encoding: '16UC1' }) }),
      /16UC1, which is depth/,
    ],
    [
      'an unknown encoding',
      () => ({ schema: 'sensor_msgs/msg/Image', data: cdrImage(Buffer.alloc(12), { encoding: 'constructor' }) }),
      /'constructor', of which rgb8/,
    ],
    [
      'odd YUV',
      () => ({
        schema: 'sensor_msgs/msg/Image',
        data: cdrImage(Buffer.alloc(99), { width: 3, height: 3, encoding: 'nv12' }),
      }),
      /multiples of 2 x 2/,
    ],
    [
      'depth in a file',
      () => ({ data: cdrCompressed(Buffer.alloc(20), { format: '16UC1; compressedDepth png' }) }),
      /compressedDepth/,
    ],
    [
      'H.264 in a picture',
      () => ({ data: cdrCompressed(Buffer.from([0, 0, 0, 1, 103]), { format: 'h264' }) }),
      /compressed video/,
    ],
    ['SVG', () => ({ data: cdrCompressed(Buffer.from('<svg xmlns="http://www.w3.org/2000/svg"/>')) }), /no JPEG, PNG/],
    ['no bytes at all', () => ({ data: cdrCompressed(Buffer.alloc(0)) }), /0 bytes are no JPEG/],
  ])('%s', async (name, message, expected) => {
    const found = await one(message())
    expect(found.code).toBe(undefined)
    if (name !== 'a definition of its own') expect(refused(found)).toMatch(expected)
  })

  it('a string without its zero is read as it is', async () => {
    const message = cdrCompressed(jpeg, { format: 'jpegx' })
    const cut = Buffer.from(message)
    cut.write('jpegxx', cut.indexOf('jpegx'))
    const log = await surveyBytes(at('zero.mcap'), await mcap([{ data: cut }]))
    expect(log).toMatchObject({ topics: [{ format: 'jpegxx' }], refused: [] })
  })

  it('another message by a known name is refused with the field that differs', async () => {
    const definition = 'std_msgs/Header header\nuint32 height\nuint32 width\nstring encoding\nfloat32 gain\n'
    const schema = record(
      3,
      bytes([2, 1], text('sensor_msgs/msg/Image'), text('ros2msg'), [4, definition.length], definition),
    )
    const channel = record(4, bytes([2, 1], [2, 1], text('/front'), text('cdr'), [4, 0]))
    const message = record(5, bytes([2, 1], [4, 0], [8, 1], [8, 1], cdrImage(Buffer.alloc(12))))
    const found = await surveyBytes(at('own.mcap'), bytes(magic, header, schema, channel, message))
    expect(found.topics[0]!.problem).toMatch(/field 5 is float32 gain, expected uint8 is_bigendian/)
    expect(found.pictures).toBe(0)
  })

  it.each<[string, Uint8Array, RegExp]>([
    ['fields that are unknown', Buffer.from('f80105' + '1203ffd8ff', 'hex'), /^$/],
    ['fields repeated', Buffer.from('120100' + '1203ffd8ff', 'hex'), /^$/],
    ['a wrong wire type', Buffer.from('1005', 'hex'), /'data' of its protobuf has the wire type 0/],
    ['a length past the end', Buffer.from('12ff01aa', 'hex'), /needs 255 bytes, and 1 are left/],
    ['a varint of 11 bytes', Buffer.from('ffffffffffffffffffff01', 'hex'), /more than 10 bytes/],
    ['a varint cut', Buffer.from('ff', 'hex'), /is cut/],
    ['a length of 2^64 - 1', Buffer.from('12ffffffffffffffffff01', 'hex'), /needs 18446744073709552000 bytes/],
    ['a group', Buffer.from('13', 'hex'), /wire type 3/],
    ['field 0', Buffer.from('0000', 'hex'), /number 0/],
  ])('protobuf: %s', async (_, content, expected) => {
    const found = await foxglove(content)
    expect(found.code).toBe(undefined)
    expect(refused(found)).toMatch(expected)
  })

  it.each<[string, string, RegExp, bigint?]>([
    ['line ends in base64', '{"timestamp":{"sec":100,"nsec":5},"format":"jpeg","data":"/9j/\\n4A=="}', /^$/],
    ['the alphabet of URLs', '{"timestamp":{"sec":100,"nsec":5},"format":"jpeg","data":"_9j_4A=="}', /^$/],
    ['no base64', '{"data":"!!!!"}', /no base64/],
    ['no data', '{"format":"jpeg"}', /no text of base64/],
    ['time as text', '{"timestamp":"now","data":"/9j/4A=="}', /^$/],
    ['time as a float', '{"timestamp":{"sec":1.5,"nsec":0},"data":"/9j/4A=="}', /^$/],
    ['nsec of 10^9', '{"timestamp":{"sec":1,"nsec":1000000000},"data":"/9j/4A=="}', /^$/],
    ['format as a number', '{"format":5,"data":"/9j/4A=="}', /'format' is no text/],
    ['a list', '[]', /expected an object/],
    ['no JSON', '{', /no JSON/],
    ['depth 10^5', `{"a":${'['.repeat(1e5)}${']'.repeat(1e5)},"data":"/9j/4A=="}`, /^$/],
  ])('JSON: %s', async (_, content, expected) => {
    const found = await foxglove(Buffer.from(content), 'json')
    expect(found.code).toBe(undefined)
    expect(refused(found)).toMatch(expected)
  })

  it('JSON of raw pictures: sizes that are no whole numbers', async () => {
    for (const width of ['-1', '1.5', '"2"', 'null']) {
      const content = Buffer.from(`{"width":${width},"height":1,"step":6,"encoding":"rgb8","data":"AAAAAAAA"}`)
      expect(refused(await foxglove(content, 'json', 'foxglove.RawImage'))).toMatch(/'width' is no whole number/)
    }
  })
})

describe('pictures', () => {
  const viewOf = async (data: Uint8Array) => {
    writeFileSync(at('view.mcap'), await mcap([{ data: cdrCompressed(data) }]))
    const log = await openLog(at('view.mcap'))
    try {
      for await (const picture of log.pictures()) return await decodePicture(picture.data, 'CAM_FRONT')
      throw new Error('there is no picture')
    } finally {
      await log.close()
    }
  }
  const grey = (width: number) => sharp({ create: { width, height: 8, channels: 3, background: '#777' } })

  it('a JPEG of 65,535 x 65,535, one cut in the middle, a PNG bomb', async () => {
    const huge = Buffer.from(jpeg)
    const frame = huge.indexOf(Buffer.from('ffc0', 'hex'))
    huge.writeUInt16BE(65535, frame + 5)
    huge.writeUInt16BE(65535, frame + 7)
    await expect(viewOf(huge)).rejects.toMatchObject({ code: 'BAD_VIEW' })
    await expect(viewOf(jpeg.subarray(0, jpeg.length - 30))).rejects.toMatchObject({ code: 'BAD_VIEW' })
    const bomb = await sharp({ create: { width: 20_000, height: 10_000, channels: 3, background: '#000' } })
      .png()
      .toBuffer()
    await expect(viewOf(bomb)).rejects.toMatchObject({ code: 'BAD_VIEW' })
  })

  it('GIF, CMYK, 16 bits and another size are decoded or refused', async () => {
    expect(await viewOf(await grey(8).gif().toBuffer())).toMatchObject({ width: 8, height: 8 })
    expect(await viewOf(await grey(8).toColourspace('cmyk').jpeg().toBuffer())).toMatchObject({ width: 8 })
    expect(await viewOf(await grey(9).toColourspace('rgb16').png().toBuffer())).toMatchObject({ width: 9 })
    const twelve = Buffer.from(jpeg)
    twelve[twelve.indexOf(Buffer.from('ffc0', 'hex')) + 4] = 12
    await expect(viewOf(twelve)).rejects.toMatchObject({ code: 'BAD_VIEW' })
  })

  it('a picture of another size in the middle of a topic is its own', async () => {
    const small = await grey(4).jpeg().toBuffer()
    const messages = [jpeg, small, jpeg].map((data, i) => ({ data: cdrCompressed(data, { sec: 100, nsec: i * 1e8 }) }))
    expect(await surveyBytes(at('sizes.mcap'), await mcap(messages))).toMatchObject({
      pictures: 3,
      moments: 3,
      refused: [],
    })
  })
})

describe('stamps', () => {
  const stamped = async (...times: [sec: number, nsec?: number][]) => {
    const messages = times.map(([sec, nsec = 0]) => ({ data: cdrCompressed(jpeg, { sec: sec >>> 0, nsec }) }))
    writeFileSync(at('stamps.mcap'), await mcap(messages))
    const log = await openLog(at('stamps.mcap'), { scan: true })
    const table = (await log.tables({ topics: ['/front/image'] })).get('/front/image')!
    const stamps = Array.from({ length: table.length }, (_, i) => Number(table.stamp(i)) / 1e9)
    const { untimed } = log
    await log.close()
    return { stamps, untimed: untimed.map(({ count }) => count) }
  }

  it('0, negative, no time at all, a jump of a year: the clock of the log stands in, and it is counted', async () => {
    expect(await stamped([0], [-5], [100, 2e9], [100 + 31_536_000], [100, 4e8])).toEqual({
      stamps: [100, 100.1, 100.2, 100.3, 100.4],
      untimed: [4],
    })
  })

  it('backwards, all equal, near 0 as under simulation', async () => {
    expect((await stamped([101], [100], [99])).stamps).toEqual([99, 100, 101])
    expect((await stamped([100], [100], [100])).stamps).toEqual([100, 100, 100])
    const message = { data: cdrCompressed(jpeg, { sec: 0, nsec: 5e8 }), logTime: 600_000_000n }
    writeFileSync(at('simulated.mcap'), await mcap([message]))
    const log = await openLog(at('simulated.mcap'))
    expect((await log.tables({ topics: ['/front/image'] })).get('/front/image')!.stamp(0)).toBe(500_000_000n)
    await log.close()
  })

  it('cameras a day apart make no moment, and the same message twice makes two', async () => {
    const day = 86_400
    const messages = [0, 1].map((i) => ({
      topic: i === 0 ? '/front/image' : '/back/image',
      logTime: BigInt(100 + i * day) * 1_000_000_000n,
      data: cdrCompressed(jpeg, { sec: 100 + i * day }),
    }))
    writeFileSync(at('days.mcap'), await mcap([...messages, messages[0]!]))
    const log = await openLog(at('days.mcap'))
    const { planMoments } = await import('../../lib/logs/moments.ts')
    const { moments, report } = await planMoments(log, {
      cameras: log.guessCameras().cameras as Record<string, string>,
    })
    expect({ moments, report }).toMatchObject({ moments: [], report: { made: 2, incomplete: 2 } })
    await log.close()
  })
})

describe('bags of ROS 1', () => {
  const start = Buffer.from('#ROSBAG V2.0\n')
  const fields = (values: Record<string, Uint8Array>) =>
    Buffer.concat(
      Object.entries(values).map(([name, value]) => bytes([4, name.length + 1 + value.length], `${name}=`, value)),
    )
  const bagRecord = (head: Uint8Array, data: Uint8Array = Buffer.alloc(0), length = data.length) =>
    bytes([4, head.length], head, [4, length], data)
  const op = (number: number) => Buffer.from([number])
  const bag = (...parts: Uint8Array[]) => surveyBytes(at('made.bag'), bytes(start, ...parts))
  const connection = (conn: number) =>
    bagRecord(
      fields({ op: op(7), conn: bytes([4, conn]), topic: Buffer.from('/front') }),
      fields({ type: Buffer.from('sensor_msgs/CompressedImage'), message_definition: Buffer.alloc(0) }),
    )
  const picture = (data: Uint8Array) => bytes([4, 1], [4, 100], [4, 0], [4, 0], [4, 4], 'jpeg', [4, data.length], data)
  const message = (conn: number) =>
    bagRecord(fields({ op: op(2), conn: bytes([4, conn]), time: bytes([4, 100], [4, 0]) }), picture(jpeg))
  const chunk = (data: Uint8Array, compression = 'none', size = data.length) =>
    bagRecord(fields({ op: op(5), compression: Buffer.from(compression), size: bytes([4, size]) }), data)

  it('a chunk that says 2 GB, one of an unknown compression, and a sound one', async () => {
    const sound = bytes(connection(0), message(0))
    const found = await bag(
      chunk(sound, 'lz4', 2 ** 31),
      chunk(sound, 'bz2', 2 ** 31),
      chunk(sound, 'zip'),
      chunk(sound),
      bagRecord(
        fields({ op: op(5), compression: Buffer.from('none'), size: bytes([4, 0]) }),
        Buffer.alloc(10),
        2 ** 31,
      ),
    )
    expect(found).toMatchObject({ code: undefined, pictures: 1 })
    expect(found.damage.map((text) => text.replace(/.*: /, ''))).toEqual([
      expect.stringMatching(/2147483648 bytes/),
      expect.stringMatching(/2147483648 bytes/),
      expect.stringMatching(/'zip'/),
      expect.stringMatching(/a record is cut/),
    ])
  })

  it.each<[string, () => Uint8Array, RegExp]>([
    ['a field without =', () => bagRecord(bytes([4, 3], 'abc')), /has no =/],
    ['a field longer than the head', () => bagRecord(bytes([4, 300], 'abc')), /longer than what is left/],
    ['a head of 2 GB', () => bytes([4, 2 ** 31]), /head has 2147483648 bytes/],
    ['no op', () => bagRecord(fields({ conn: bytes([4, 1]) })), /no field 'op'/],
    ['a conn of 1 byte', () => bagRecord(fields({ op: op(2), conn: op(1) })), /'conn' of a head has 1 bytes/],
    ['an undeclared connection', () => message(2 ** 32 - 1), /1 message of connection 4294967295/],
    ['an undeclared connection in a chunk', () => chunk(message(7)), /1 message of connection 7/],
    ['a chunk that is cut inside', () => chunk(message(0).subarray(0, 50)), /is cut/],
    ['an index in a chunk', () => chunk(bagRecord(fields({ op: op(4) }))), /of kind 4/],
  ])('%s', async (_, extra, damage) => {
    const found = await bag(connection(0), message(0), extra())
    expect(found).toMatchObject({ code: undefined, pictures: 1, damage: [expect.stringMatching(damage)] })
  })

  it.each([2n ** 60n, 13n, 0n, 2n ** 64n - 1n])('an index_pos of %s', async (position) => {
    const head = fields({
      op: op(3),
      index_pos: bytes([8, position]),
      conn_count: bytes([4, 1]),
      chunk_count: bytes([4, 1]),
    })
    writeFileSync(at('index.bag'), bytes(start, bagRecord(head, Buffer.alloc(10)), connection(0), message(0)))
    expect(await survey(at('index.bag'), {})).toMatchObject({ code: undefined, pictures: 1, topics: [{ count: 1 }] })
  })
})

describe('SQLite', () => {
  const made = (name: string, sql: string) => {
    const db = new sqlite.Database(at(name))
    db.exec(sql)
    db.close()
    return at(name)
  }
  const topics =
    'CREATE TABLE topics (id INTEGER PRIMARY KEY, name TEXT, type TEXT, serialization_format TEXT, offered_qos_profiles TEXT);'
  const messages = 'CREATE TABLE messages (id INTEGER PRIMARY KEY, topic_id INTEGER, timestamp INTEGER, data BLOB);'
  const front = "INSERT INTO topics VALUES (1, '/front', 'sensor_msgs/msg/CompressedImage', 'cdr', '');"
  const good = () => `INSERT INTO messages VALUES (1, 1, 100000000000, x'${cdrCompressed(jpeg).toString('hex')}');`

  it.each([
    ['another SQLite file', 'CREATE TABLE contacts (id);', /no table 'topics'/],
    [
      'a view named messages',
      `${topics} CREATE VIEW messages AS SELECT 1 AS id, 1 AS topic_id, 1 AS timestamp, 1 AS data;`,
      /no table 'messages'/,
    ],
    ['other columns', `${topics} CREATE TABLE messages (id, topic_id, data);`, /no column 'timestamp'/],
    ['no messages', `${topics} ${messages} ${front}`, /has no messages/],
  ])('%s', async (name, sql, message) => {
    expect(await survey(made(`${name}.db3`, sql))).toMatchObject({
      code: 'BAD_LOG',
      message: expect.stringMatching(message),
    })
  })

  it('a trigger does nothing; rows that are no messages are left out; a time of 64 bits stays whole', async () => {
    const trigger = 'CREATE TRIGGER t AFTER INSERT ON topics BEGIN DELETE FROM messages; END;'
    const rows = "INSERT INTO messages VALUES (2, 1, 1532402927632379949, 'text'), (3, 9, 5, x'00'), (4, 1, 100, NULL);"
    const large = `INSERT INTO messages VALUES (5, 1, 100000000001, zeroblob(${80 * 1024 * 1024}));`
    const found = await survey(made('odd.db3', `${topics} ${messages} ${front} ${trigger} ${good()} ${rows} ${large}`))
    expect(found).toMatchObject({ code: undefined, pictures: 1 })
    expect((await survey(at('odd.db3'), {})).topics[0]).toMatchObject({ count: 4, last: 1532402927632379949n })
    expect(found.damage.join('\n')).toMatch(
      /row 5 is lost: it has 83886080 bytes[\s\S]*row 2 is lost: its data is no blob/,
    )
  })

  it('a file cut or scrambled', async () => {
    const sound = readFileSync(`${fixtures}/db3-jazzy-zstd-message/db3-jazzy-zstd-message_0.db3`)
    expect((await surveyBytes(at('cut.db3'), sound.subarray(0, 30_000))).code).toBe('BAD_LOG')
    expect((await surveyBytes(at('short.db3'), sound.subarray(0, 50))).code).toBe('BAD_LOG')
    const scrambled = Buffer.from(sound)
    scrambled.fill(0x5a, 20_000, 24_000)
    const found = await surveyBytes(at('scrambled.db3'), scrambled)
    expect(found.code === 'BAD_LOG' || found.damage.length > 0 || found.refused.length > 0).toBe(true)
  })

  it('a file in WAL mode is read, with its log and without, and nothing is left beside it', async () => {
    const file = made('wal.db3', `${topics} ${messages} ${front} ${good()}`)
    const content = readFileSync(file)
    content.fill(2, 18, 20)
    mkdirSync(at('wal'))
    expect(await surveyBytes(at('wal/a.db3'), content)).toMatchObject({ code: undefined, pictures: 1 })
    writeFileSync(at('wal/a.db3-wal'), Buffer.alloc(32))
    expect(await survey(at('wal/a.db3'))).toMatchObject({ code: undefined, pictures: 1 })
    const { readdirSync } = await import('node:fs')
    expect(readdirSync(at('wal'))).toEqual(['a.db3', 'a.db3-wal'])
  })
})

test('damage is bounded, and an error where it is asked to be', async () => {
  const messages = Array.from({ length: 500 }, () => ({ data: Buffer.from([9]) }))
  writeFileSync(at('bad.mcap'), await mcap(messages))
  const log = await openLog(at('bad.mcap'), { scan: true })
  expect([log.damage.length, log.furtherDamage]).toEqual([200, 300])
  await log.close()
  await expect(openLog(at('bad.mcap'), { scan: true, strict: true })).rejects.toMatchObject({ code: 'BAD_LOG' })
})

/** The records, as frames of zstd and lz4. */
async function frames(records: Uint8Array) {
  const { default: zstd } = await import('@foxglove/wasm-zstd')
  await zstd.isLoaded
  const stored = bytes([4, (records.length | (2 ** 31)) >>> 0], records, [4, 0])
  return {
    zstdCompressed: zstd.compress(records),
    lz4Stored: bytes(Buffer.from('04224d18604082', 'hex'), stored),
  }
}

/** Blocks of zeros, 128 KiB in four bytes each, without the size in front. */
function zstdBomb(size: number): Buffer {
  const blocks = size / 131_072
  const block = (last: number) => bytes([1, (last | 2 | (131_072 << 3)) & 0xff], [2, 131_072 >> 5], [1, 0])
  return bytes(
    Buffer.from('28b52ffd0058', 'hex'),
    ...Array.from({ length: blocks }, (_, i) => block(i === blocks - 1 ? 1 : 0)),
  )
}

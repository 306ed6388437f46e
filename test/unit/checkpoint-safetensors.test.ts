import { mkdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { parseSafetensorsHeader, readSafetensors, readWeights } from '../../lib/checkpoint/safetensors.ts'
import { ModelError } from '../../lib/errors.ts'
import { fixture, modelError, temporaryFolder, write } from './checkpoint-folder.ts'

/** Bytes of a file with that header and `dataBytes` of zeros. */
function bytesOf(header: unknown, dataBytes: number, length?: bigint): Buffer {
  const text = Buffer.from(typeof header === 'string' ? header : JSON.stringify(header))
  const prefix = Buffer.alloc(8)
  prefix.writeBigUInt64LE(length ?? BigInt(text.length))
  return Buffer.concat([prefix, text, Buffer.alloc(dataBytes)])
}

function fileOf(bytes: Buffer | string): string {
  const file = path.join(temporaryFolder(), 'model.safetensors')
  writeFileSync(file, bytes)
  return file
}

const a = { dtype: 'BF16', shape: [2, 3], data_offsets: [0, 12] }

test('a sound file gives its tensors with absolute offsets, in the order of their bytes', async () => {
  const header = {
    b: { dtype: 'F32', shape: [2], data_offsets: [12, 20] },
    __metadata__: { format: 'pt' },
    a,
    'empty "name" {:}': { dtype: 'F32', shape: [0, 5], data_offsets: [20, 20] },
    scalar: { dtype: 'F16', shape: [], data_offsets: [20, 22] },
  }
  const bytes = bytesOf(header, 22)
  const start = bytes.length - 22
  const { bytes: size, tensors } = await readSafetensors(fileOf(bytes), 7)
  expect(size).toBe(bytes.length)
  expect(tensors).toEqual([
    { name: 'a', file: 7, dtype: 'BF16', shape: [2, 3], offset: start, bytes: 12 },
    { name: 'b', file: 7, dtype: 'F32', shape: [2], offset: start + 12, bytes: 8 },
    { name: 'empty "name" {:}', file: 7, dtype: 'F32', shape: [0, 5], offset: start + 20, bytes: 0 },
    { name: 'scalar', file: 7, dtype: 'F16', shape: [], offset: start + 20, bytes: 2 },
  ])
})

const entry = (change: object) => bytesOf({ a: { ...a, ...change } }, 12)

const damaged: [what: string, bytes: Buffer | string, message: RegExp][] = [
  ['an empty file', '', /8 bytes or more, found 0/],
  ['a file of 7 bytes', 'abcdefg', /found 7/],
  ['a Git LFS pointer', 'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n', /git lfs pull/],
  ['a header length of 2^63', bytesOf({ a }, 12, 1n << 63n), /at most 16777216 bytes, found 9223372036854775808/],
  ['a header length of 2^64 − 1', bytesOf({ a }, 12, (1n << 64n) - 1n), /found 18446744073709551615/],
  ['a header longer than the file', bytesOf({ a }, 12, 200n), /header of 200 bytes, found a file of only/],
  ['a header length of 0', bytesOf('', 12), /expected JSON/],
  ['a truncated header', bytesOf({ a }, 12, 30n), /expected JSON/],
  ['a truncated file', bytesOf({ a }, 11), /a in model\.safetensors: .*within 0 to 11, found \[0, 12\]/],
  ['bytes after the last tensor', bytesOf({ a }, 13), /12 bytes of data after the header, found 13/],
  ['a header that is no UTF-8', Buffer.concat([bytesOf('', 0, 2n), Buffer.from([0xff, 0xfe])]), /UTF-8/],
  ['a header that is a list', bytesOf([a], 12), /JSON object, found/],
  ['a header that is null', bytesOf('null', 0), /JSON object, found null/],
  ['NaN in the header', bytesOf('{"a":{"dtype":"BF16","shape":[NaN],"data_offsets":[0,12]}}', 12), /expected JSON/],
  [
    'a tensor twice',
    bytesOf(`{"a":${JSON.stringify(a)},"\\u0061":${JSON.stringify(a)}}`, 12),
    /every tensor once, found 2/,
  ],
  ['a tensor that is a number', bytesOf({ a: 5 }, 0), /a in model.safetensors: expected an object .* found 5/],
  ['a tensor that is null', bytesOf({ a: null }, 0), /found null/],
  ['no dtype', entry({ dtype: undefined }), /dtype such as BF16.*found nothing/],
  ['an unknown dtype', entry({ dtype: 'BF17' }), /found "BF17"/],
  ['a dtype of the object prototype', entry({ dtype: 'constructor' }), /found "constructor"/],
  ['a dtype of another size', entry({ dtype: 'F32' }), /F32 \[2, 3\] to take 24 bytes, found data_offsets of 12/],
  ['a shape that does not fit', entry({ shape: [2, 4] }), /BF16 \[2, 4\] to take 16 bytes, found data_offsets of 12/],
  ['no shape', entry({ shape: undefined }), /shape of up to/],
  ['a negative size', entry({ shape: [-2, -3] }), /found \[-2,-3\]/],
  ['a fraction in the shape', entry({ shape: [1.5, 4] }), /found \[1\.5,4\]/],
  ['an unsafe integer in the shape', entry({ shape: [2 ** 53] }), /whole numbers/],
  ['a product past 2^53', entry({ shape: [2 ** 40, 2 ** 40] }), /to take/],
  ['a product past the doubles', entry({ shape: Array(16).fill(2 ** 52) }), /to take/],
  ['17 dimensions', entry({ shape: [6, ...Array(16).fill(1)] }), /up to 16/],
  ['a size of 1e999', bytesOf('{"a":{"dtype":"BF16","shape":[1e999],"data_offsets":[0,12]}}', 12), /whole numbers/],
  ['a string in the shape', entry({ shape: ['6'] }), /whole numbers/],
  ['three offsets', entry({ data_offsets: [0, 12, 24] }), /two whole numbers/],
  ['no offsets', entry({ data_offsets: undefined }), /two whole numbers, found nothing/],
  ['a negative offset', entry({ data_offsets: [-12, 0] }), /two whole numbers/],
  ['offsets backwards', entry({ data_offsets: [12, 0] }), /found \[12, 0\]/],
  ['offsets past the end', entry({ data_offsets: [1, 13] }), /within 0 to 12, found \[1, 13\]/],
  [
    'a hole before the first tensor',
    bytesOf({ a: { ...a, data_offsets: [2, 14] } }, 14),
    /start at byte 0, found 2; it leaves a gap after the header/,
  ],
  [
    'a hole',
    bytesOf({ a, b: { ...a, data_offsets: [14, 26] } }, 26),
    /b in .*start at byte 12, found 14; it leaves a gap after a/,
  ],
  [
    'an overlap',
    bytesOf({ a, b: { ...a, data_offsets: [10, 22] } }, 22),
    /b in .*start at byte 12, found 10; it overlaps a/,
  ],
  ['the same bytes twice', bytesOf({ a, b: a }, 12), /overlaps a/],
]

test.each(damaged)('%s is refused', async (_, bytes, message) => {
  expect(await modelError(readSafetensors(fileOf(bytes)), 'BAD_WEIGHTS')).toMatch(message)
})

test('a path that is a folder, or nothing, is refused', async () => {
  const dir = temporaryFolder()
  expect(await modelError(readSafetensors(dir), 'BAD_WEIGHTS')).toMatch(/found a folder/)
  expect(await modelError(readSafetensors(path.join(dir, 'none')), 'BAD_WEIGHTS')).toMatch(/none is missing/)
  mkdirSync(path.join(dir, 'model.safetensors'))
  expect(await modelError(readWeights(dir), 'BAD_WEIGHTS')).toMatch(
    /model\.safetensors: expected a regular file, found a folder/,
  )
})

test('a deeply nested header neither crashes nor hangs', async () => {
  const deep = `{"a":${'['.repeat(2_000_000)}${']'.repeat(2_000_000)}}`
  await modelError(readSafetensors(fileOf(bytesOf(deep, 0))), 'BAD_WEIGHTS')
})

describe('thousands of mutated headers', () => {
  /** xorshift32, so that a failure can be repeated. */
  function random(seed: number): (below: number) => number {
    let state = seed
    return (below) => {
      state ^= state << 13
      state ^= state >>> 17
      state ^= state << 5
      return (state >>> 0) % below
    }
  }
  const numbers = [
    '-1',
    '0',
    '1',
    '2',
    '6',
    '12',
    '13',
    '24',
    '1e9',
    '4294967296',
    '9007199254740993',
    '1e308',
    'null',
    '""',
    '[]',
  ]

  /** One change: a byte, a run of bytes, a number, or a copy of a part. */
  function mutate(text: Buffer, next: (below: number) => number): Buffer {
    const at = next(text.length)
    switch (next(6)) {
      case 0: {
        const copy = Buffer.from(text)
        copy[at] = next(256)
        return copy
      }
      case 1:
        return Buffer.concat([text.subarray(0, at), text.subarray(at + 1 + next(8))])
      case 2: {
        const from = next(text.length)
        return Buffer.concat([text.subarray(0, at), text.subarray(from, from + next(40)), text.subarray(at)])
      }
      case 3: {
        const copy = Buffer.from(text)
        if (/[a-z_]/.test(String.fromCharCode(copy[at]!))) copy[at] = 0x61 + next(26)
        return copy
      }
      default: {
        const places = [...text.toString('latin1').matchAll(/\d+/g)]
        const place = places[next(Math.max(1, places.length))]
        if (place === undefined) return text
        const number = numbers[next(numbers.length)]!
        const end = place.index + place[0].length
        return Buffer.concat([text.subarray(0, place.index), Buffer.from(number), text.subarray(end)])
      }
    }
  }

  test.each([1, 2, 3, 4])('seed %i: in-range tensors or a ModelError, nothing else', (seed) => {
    const next = random(seed * 7919)
    const header = Buffer.from(
      JSON.stringify({
        __metadata__: { format: 'pt' },
        a,
        b: { dtype: 'F32', shape: [2, 3], data_offsets: [12, 36] },
        c: { dtype: 'F16', shape: [4], data_offsets: [36, 44] },
        d: { dtype: 'I64', shape: [], data_offsets: [44, 52] },
      }),
    )
    let sound = 0
    let refused = 0
    for (let i = 0; i < 2000; i++) {
      let text: Buffer = header
      for (let n = next(2); n >= 0; n--) text = mutate(text, next)
      const fileBytes = 8 + text.length + (next(8) === 0 ? next(100) : 52)
      try {
        let end = 8 + text.length
        for (const tensor of parseSafetensorsHeader(text, fileBytes).tensors) {
          expect(tensor.offset).toBe(end)
          expect(tensor.shape.every((size) => Number.isSafeInteger(size) && size >= 0)).toBe(true)
          end += tensor.bytes
          expect(end).toBeLessThanOrEqual(fileBytes)
        }
        expect(end).toBe(fileBytes)
        sound++
      } catch (error) {
        if (!(error instanceof ModelError) || error.code !== 'BAD_WEIGHTS') throw error
        refused++
      }
    }
    // Both kinds must occur, or the mutations prove nothing.
    expect(sound).toBeGreaterThan(50)
    expect(refused).toBeGreaterThan(500)
  })
})

describe('shards', () => {
  const index = 'model.safetensors.index.json'

  /** The sharded fixture with another index. */
  function withIndex(change: (json: { weight_map: Record<string, unknown> }) => unknown): string {
    const folder = fixture('b1-internlm2')
    const map = Object.fromEntries(Object.entries(folder.tensors).map(([name, [, , file]]) => [name, file]))
    const json = { metadata: {}, weight_map: map as Record<string, unknown> }
    folder.files = { [index]: JSON.stringify(change(json) ?? json) }
    return write(folder)
  }

  test('every tensor is found in the shard the index names', async () => {
    const folder = fixture('b1-internlm2')
    const { files, tensors } = await readWeights(write(folder))
    expect(files.map((file) => path.basename(file))).toEqual(
      [1, 2, 3].map((i) => `model-0000${i}-of-00003.safetensors`),
    )
    expect(tensors.size).toBe(Object.keys(folder.tensors).length)
    for (const [name, [dtype, shape, file]] of Object.entries(folder.tensors)) {
      expect(tensors.get(name)).toMatchObject({ dtype, shape })
      expect(path.basename(files[tensors.get(name)!.file]!)).toBe(file)
    }
  })

  const name = 'mlp1.0.weight'
  const set = (json: { weight_map: Record<string, unknown> }, tensor: string, shard: unknown): void => {
    json.weight_map[tensor] = shard
  }
  test.each<
    [what: string, change: Parameters<typeof withIndex>[0], code: 'BAD_CHECKPOINT' | 'BAD_WEIGHTS', message: RegExp]
  >([
    [
      'a name that leaves the folder',
      (json) => set(json, name, '../model.safetensors'),
      'BAD_CHECKPOINT',
      /weight_map\.mlp1\.0\.weight .*same folder, found "\.\.\/model/,
    ],
    ['an absolute name', (json) => set(json, name, '/etc/model.safetensors'), 'BAD_CHECKPOINT', /found "\/etc/],
    ['a name with a folder', (json) => set(json, name, 'a/model.safetensors'), 'BAD_CHECKPOINT', /found "a\/model/],
    ['a name with a zero byte', (json) => set(json, name, 'a\0.safetensors'), 'BAD_CHECKPOINT', /found "a\\u0000/],
    ['a file of another kind', (json) => set(json, name, 'config.json'), 'BAD_CHECKPOINT', /found "config.json"/],
    ['a number for a name', (json) => set(json, name, 1), 'BAD_CHECKPOINT', /found 1/],
    ['no weight_map', () => ({ metadata: {} }), 'BAD_CHECKPOINT', /weight_map to be an object, found nothing/],
    ['an empty weight_map', () => ({ weight_map: {} }), 'BAD_CHECKPOINT', /tensors in weight_map, found none/],
    ['a list for an index', () => [], 'BAD_CHECKPOINT', /JSON object/],
    [
      'a shard that is missing',
      (json) => set(json, name, 'other.safetensors'),
      'BAD_WEIGHTS',
      /1 of 4 shards missing in .*other\.safetensors/,
    ],
    [
      'a tensor the index lacks',
      (json) => void delete json.weight_map[name],
      'BAD_WEIGHTS',
      /mlp1\.0\.weight is in model-\S+, but not listed/,
    ],
    [
      'a tensor no shard has',
      (json) => set(json, 'ghost', 'model-00001-of-00003.safetensors'),
      'BAD_WEIGHTS',
      /ghost is listed in .*, but is not in model-00001/,
    ],
    [
      'a tensor in another shard',
      (json) => {
        const other = json.weight_map[name] === 'model-00001-of-00003.safetensors' ? 2 : 1
        json.weight_map[name] = `model-0000${other}-of-00003.safetensors`
      },
      'BAD_WEIGHTS',
      /mlp1\.0\.weight is in model-\S+, but listed in model-/,
    ],
  ])('%s is refused', async (_, change, code, message) => {
    expect(await modelError(readWeights(withIndex(change)), code)).toMatch(message)
  })

  test('an index that is no JSON, and a folder without weights, are refused', async () => {
    const folder = fixture('b1-internlm2')
    folder.files = { [index]: '{"weight_map": ' }
    expect(await modelError(readWeights(write(folder)), 'BAD_CHECKPOINT')).toMatch(/index\.json: expected JSON/)
    expect(await modelError(readWeights(temporaryFolder()), 'BAD_WEIGHTS')).toMatch(/found neither/)
  })
})

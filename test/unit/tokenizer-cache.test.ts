/** `cache: true` of a tokenizer: the same ids and texts from tables that were kept, and never from ones that are stale or damaged. */
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, utimesSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { crc32 } from 'node:zlib'
import { describe, expect, test } from 'vitest'
import { loadTokenizer } from '../../lib/text/load-tokenizer.ts'
import type { Tokenizer } from '../../lib/text/tokenizer.ts'
import { ListedVocabulary, PackedVocabulary, packTexts, placesFor } from '../../lib/text/vocabulary.ts'
import { fixtures, folder, json } from './tokenizer-shared.ts'

const name = 'drivlm-tokenizer.cache'
const from = join(fixtures, 'tokenizer', 'd1-qwen25')
const base = json(from, 'tokenizer.json')
const texts = ['Hello  wörld\n\n 123', '<|im_start|>user\nhi<|im_end|>', 'e\u0301 # ## ###', 'word18000 你好 🚗 \ud800']

/** A vocabulary that is worth keeping: that of the fixture, and words of two letters and a number that no merge leads to. */
function large(form: 'tokenizer.json' | 'qwen2', more: Record<string, number> = {}): string {
  const vocab: Record<string, number> = { ...base.model.vocab }
  for (let n = 0, id = 20_000; id < 37_000; n++, id++) vocab[`wü${n}`] = id
  Object.assign(vocab, more)
  const files: Record<string, object | string | Uint8Array> = {}
  for (const side of ['added_tokens.json', 'tokenizer_config.json', 'special_tokens_map.json'])
    if (existsSync(join(from, side))) files[side] = readFileSync(join(from, side))
  if (form === 'tokenizer.json') return folder({ ...files, [form]: { ...base, model: { ...base.model, vocab } } })
  const merges = base.model.merges.map((pair: string | string[]) => (Array.isArray(pair) ? pair.join(' ') : pair))
  return folder({ ...files, 'vocab.json': vocab, 'merges.txt': `#version: 0.2\n${merges.join('\n')}\n` })
}

const shown = (tokenizer: Tokenizer) => ({
  rules: tokenizer.rules,
  size: tokenizer.size,
  ids: texts.map((text) => tokenizer.encode(text)),
  back: texts.map((text) => tokenizer.decode(tokenizer.encode(text))),
  contents: [0, 300, 19_999, 20_000, 36_999, 37_000].map((id) => tokenizer.tokenOf(id)),
  known: ['wü7', 'wü17000', 'Ġ', '<|im_end|>', '\ud800', ''].map((text) => tokenizer.idOf(text)),
  bytes: [300, 20_000].map((id) => [...tokenizer.bytesOf(id)]),
})
const load = async (dir: string, cache = true) => shown(await loadTokenizer(dir, { cache }))

/** Other bytes in a file that looks as it did. */
function spoil(file: string): void {
  const { size, atime, mtime } = statSync(file)
  writeFileSync(file, Buffer.alloc(size, '!'))
  utimesSync(file, atime, mtime)
}

describe.each([
  ['tokenizer.json', 'tokenizer.json'],
  ['qwen2', 'vocab.json'],
] as const)('%s', (form, source) => {
  test('the first load keeps the tables, the next one reads nothing else, and all is the same', async () => {
    const dir = large(form)
    // Times in whole seconds can be set again to the nanosecond.
    utimesSync(join(dir, source), 1_700_000_000, 1_700_000_000)
    const without = await load(dir, false)
    expect(without.rules).toBe(form)
    expect(readdirSync(dir)).not.toContain(name)
    expect(await load(dir)).toEqual(without)
    const { ino } = statSync(join(dir, name))
    spoil(join(dir, source))
    await expect(load(dir, false)).rejects.toMatchObject({ code: 'BAD_TOKENIZER' })
    expect(await load(dir)).toEqual(without)
    expect(statSync(join(dir, name)).ino).toBe(ino)
    expect(readdirSync(dir).filter((file) => file.includes('partial'))).toEqual([])
  })

  test('files that changed are read again', async () => {
    const dir = large(form)
    await load(dir)
    spoil(join(dir, source))
    utimesSync(join(dir, source), 1_700_000_000, 1_700_000_000)
    await expect(load(dir)).rejects.toMatchObject({ code: 'BAD_TOKENIZER' })
  })
})

describe('a file that is not as it was written', async () => {
  const dir = large('tokenizer.json')
  const file = join(dir, name)
  const without = await load(dir)
  const whole = readFileSync(file)
  const headerBytes = whole.readUInt32LE(12)
  const header = JSON.parse(whole.toString('utf8', 16, 16 + headerBytes))
  const tables = whole.subarray(16 + headerBytes)
  const ends = (id: number) => 16 + headerBytes + 4 * id
  /** With a checksum that is right. */
  const signed = (bytes: Buffer) => {
    bytes.writeUInt32LE(crc32(bytes.subarray(12)), 8)
    return bytes
  }
  const patched = (at: number, value: number) => {
    const bytes = Buffer.from(whole)
    bytes.writeUInt32LE(value, at)
    return signed(bytes)
  }
  const headed = (change: object, body: Uint8Array = tables) => {
    const text = JSON.stringify({ ...header, ...change })
    const padded = Buffer.from(text.padEnd(Math.ceil(Buffer.byteLength(text) / 4) * 4))
    const size = Buffer.alloc(4)
    size.writeUInt32LE(padded.length)
    return signed(Buffer.concat([whole.subarray(0, 12), size, padded, body]))
  }
  const mergesAt = ends(header.tokens)
  const slotsAt = mergesAt + 12 * header.merges
  const pairsAt = slotsAt + 4 * placesFor(header.tokens)
  const textsAt = pairsAt + 4 * placesFor(header.merges)
  const filled = (from: number, to: number, value: number) => {
    const bytes = Buffer.from(whole)
    for (let at = from; at < to; at += 4) bytes.writeInt32LE(value, at)
    return signed(bytes)
  }

  test.each<[string, Buffer]>([
    ['empty', Buffer.alloc(0)],
    ['cut within its first bytes', whole.subarray(0, 13)],
    ['cut within the header', signed(Buffer.from(whole.subarray(0, 40)))],
    ['cut within the tables', signed(Buffer.from(whole.subarray(0, mergesAt + 5)))],
    ['cut within the texts', signed(Buffer.from(whole.subarray(0, -3)))],
    ['longer than it says', signed(Buffer.concat([whole, Buffer.alloc(4)]))],
    ['of another version', signed(Buffer.concat([Buffer.from('DRIVLMT0'), whole.subarray(8)]))],
    ['with a bit of a text turned', Buffer.concat([whole.subarray(0, -1), Buffer.of(whole.at(-1)! ^ 1)])],
    ['with a header of 4 GB', patched(12, 0xfffffffc)],
    ['with a header of an odd size', patched(12, headerBytes - 1)],
    ['with a header that is no JSON', patched(16, 0x21212121)],
    ['with a text that ends before it begins', patched(ends(5), 0)],
    ['with a text that ends behind the file', patched(ends(header.tokens - 1), 0x7fffffff)],
    ['with a merge of a token there is not', patched(mergesAt, header.tokens)],
    ['with a merge of a token below zero', patched(mergesAt + 4, 0x80000000)],
    ['with a table of texts that has no end', filled(slotsAt, pairsAt, 1)],
    ['with a table of merges that has no end', filled(pairsAt, textsAt, 1)],
    ['with more tokens than bytes', headed({ tokens: 4_000_000 })],
    ['with half a token', headed({ tokens: 0.5 })],
    ['with more merges than bytes', headed({ merges: 4_000_000 })],
    ['with merges below zero', headed({ merges: -1 })],
    ['of other rules', headed({ rules: 'llama' })],
    ['without JSON', headed({ json: null })],
    ['of other files', headed({ key: '0'.repeat(64) })],
  ])('%s', async (_, bytes) => {
    writeFileSync(file, bytes)
    expect(await load(dir)).toEqual(without)
    expect(readFileSync(file).equals(whole)).toBe(true)
  })

  test('with tables that name what there is not: found is what fits, and every search ends', async () => {
    for (const value of [0x7fffffff, header.tokens + 1, -1, 0]) {
      writeFileSync(file, filled(pairsAt, textsAt - 4, value))
      const { ids, known } = await load(dir)
      expect(known).toEqual(without.known)
      expect(ids.flat().every((id) => id >= 0 && id < header.tokens)).toBe(true)
      writeFileSync(file, filled(slotsAt, pairsAt - 4, value))
      await expect(load(dir)).rejects.toMatchObject({ code: 'BAD_TOKENIZER' })
    }
    writeFileSync(file, whole)
  })

  test('the header made again by this test is the file', () => {
    expect(headed({}).equals(whole)).toBe(true)
  })
})

test('a small vocabulary, or one with a text that UTF-8 has no form for, is not kept; nor where the folder has something else of that name', async () => {
  const small = folder({ 'tokenizer.json': base })
  await loadTokenizer(small, { cache: true })
  expect(readdirSync(small)).toEqual(['tokenizer.json'])

  const lone = large('tokenizer.json', { 'x\ud800': 37_001 })
  expect((await loadTokenizer(lone, { cache: true })).idOf('x\ud800')).toBe(37_001)
  expect(readdirSync(lone)).not.toContain(name)

  const taken = large('tokenizer.json')
  mkdirSync(join(taken, name))
  expect(await load(taken)).toEqual(await load(taken, false))
  expect(readdirSync(taken).filter((file) => file.includes('partial'))).toEqual([])
})

test('a packed vocabulary answers as the list does', () => {
  const contents: string[] = []
  const ids = new Map<string, number>()
  for (let id = 0; id < 3000; id++) {
    if (id % 7 === 3) continue
    const text = ['a', 'ü', '你', '🚗', '\u0000'][id % 5]!.repeat(1 + (id % 3)) + id.toString(36)
    contents[id] = text
    ids.set(text, id)
  }
  const listed = new ListedVocabulary(ids, contents)
  const packed = new PackedVocabulary(packTexts(listed)!)
  expect(packed.size).toBe(listed.size)
  for (let id = -1; id < 3002; id++) expect(packed.contentOf(id), String(id)).toBe(listed.contentOf(id))
  const asked = [...ids.keys()].flatMap((text) => [text, `${text}x`, text.slice(1), text.slice(0, -1)])
  for (const text of [...asked, '', '\ud83d', 'x'.repeat(5000)]) expect(packed.idOf(text), text).toBe(listed.idOf(text))
})

/**
 * The tables of a `tokenizer.json`, or of `vocab.json` and `merges.txt`, kept in the model folder by `cache: true`: reading 150,000 tokens and as many merges from
 * JSON takes longer than all else that a load does once its weights are kept. The file is ours, but it is checked as if it came from elsewhere.
 *
 *     0   8 bytes   "DRIVLMT2"
 *     8   u32       CRC-32 of all that follows
 *     12  u32       bytes of the header
 *     16  header    JSON: key, counts, the rest of the tokenizer's JSON; padded with blanks to a multiple of 4
 *     …   u32[]     where each text ends
 *     …   i32[]     three ids a merge
 *     …   i32[]     the hash table of the texts, then that of the merges
 *     …   bytes     the texts, in UTF-8
 */
import { createHash } from 'node:crypto'
import { stat } from 'node:fs/promises'
import { endianness } from 'node:os'
import { join } from 'node:path'
import { crc32 } from 'node:zlib'
import { isRecord } from '../messages.ts'
import { writeWhole } from '../whole-file.ts'
import { type JsonObject, maxId, type Room, readBounded } from './tokenizer-files.ts'
import { PackedVocabulary, packTexts, placesFor, type Vocabulary } from './vocabulary.ts'

/** What a BPE tokenizer looks up. */
export interface BpeTables {
  vocabulary: Vocabulary
  /** Three ids a merge, in order of rank: left, right, both together. */
  merges: Int32Array
  /** The merges' hash table, see bpe.ts. */
  pairs: Int32Array
}

/** A tokenizer's tables, and its JSON without vocabulary and merges. */
export interface KeptTokenizer {
  rules: 'tokenizer.json' | 'qwen2'
  json: JsonObject
  tables: BpeTables
}

const name = 'drivlm-tokenizer.cache'
const magic = 'DRIVLMT2'
const maxFileBytes = 256 << 20
/** A smaller vocabulary is read from JSON as soon. */
const leastTokens = 16_384
const sources = ['tokenizer.json', 'vocab.json', 'merges.txt']

/**
 * A hash of all that the tables are made from: names, sizes and times of the files. It is taken before they are read, so that a file that changes
 * meanwhile leaves tables that nobody takes.
 */
export async function tokenizerCacheKey(dir: string): Promise<string> {
  const seen = sources.map(async (file) => {
    const found = await stat(join(dir, file), { bigint: true }).catch(() => undefined)
    return [file, found && String(found.size), found && String(found.mtimeNs)]
  })
  return createHash('sha256')
    .update(JSON.stringify(await Promise.all(seen)))
    .digest('hex')
}

/** What was kept of this folder's files; undefined if nothing was, or it is stale or damaged, or of a machine with another order of bytes. */
export async function readTokenizerCache(dir: string, key: string, room?: Room): Promise<KeptTokenizer | undefined> {
  const bytes = await readBounded(join(dir, name), name, maxFileBytes, room).catch(() => undefined)
  return bytes && parse(bytes, key)
}

function parse(bytes: Uint8Array, key: string): KeptTokenizer | undefined {
  if (endianness() !== 'LE' || bytes.byteLength < 16) return undefined
  const file = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  if (file.toString('latin1', 0, 8) !== magic || file.readUInt32LE(8) !== crc32(file.subarray(12))) return undefined
  const headerBytes = file.readUInt32LE(12)
  const tablesAt = 16 + headerBytes
  if (headerBytes % 4 !== 0 || tablesAt > file.length) return undefined
  let header: unknown
  try {
    header = JSON.parse(file.toString('utf8', 16, tablesAt))
  } catch {
    return undefined
  }
  if (!isRecord(header) || header.key !== key || !isRecord(header.json)) return undefined
  const { rules, json, tokens, merges: count } = header
  if (rules !== 'tokenizer.json' && rules !== 'qwen2') return undefined
  if (!isCount(tokens, maxId + 1) || !isCount(count, maxFileBytes)) return undefined
  const mergesAt = tablesAt + 4 * tokens
  const slotsAt = mergesAt + 12 * count
  const pairsAt = slotsAt + 4 * placesFor(tokens)
  const textsAt = pairsAt + 4 * placesFor(count)
  if (textsAt > file.length) return undefined
  // All of them are aligned, since readBounded has read into a buffer of its own, or a page's begin.
  const ends = new Uint32Array(file.buffer, file.byteOffset + tablesAt, tokens)
  const table = (at: number, next: number) => new Int32Array(file.buffer, file.byteOffset + at, (next - at) / 4)
  const [merges, slots, pairs] = [table(mergesAt, slotsAt), table(slotsAt, pairsAt), table(pairsAt, textsAt)]
  const texts = file.subarray(textsAt)
  if (!areInOrder(ends, texts.length) || !areIds(merges, tokens)) return undefined
  // Whatever else a hash table has, a text or a pair that does not fit is not taken, and an empty place ends each search.
  if (!slots.includes(0) || !pairs.includes(0)) return undefined
  return { rules, json, tables: { vocabulary: new PackedVocabulary({ bytes: texts, ends, slots }), merges, pairs } }
}

// These run once, before they are compiled: loops without iterators, which would make 150,000 objects.

function areInOrder(ends: Uint32Array, last: number): boolean {
  let before = 0
  for (let id = 0; id < ends.length; id++) {
    const end = ends[id]!
    if (end < before) return false
    before = end
  }
  return before === last
}

function areIds(merges: Int32Array, tokens: number): boolean {
  for (let i = 0; i < merges.length; i++) if (merges[i]! >>> 0 >= tokens) return false
  return true
}

const isCount = (value: unknown, most: number): value is number =>
  typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= most

/** Keeps a tokenizer's tables, if they are worth it; a folder that cannot be written goes without. `json` is the whole one. */
export async function writeTokenizerCache(
  dir: string,
  key: string,
  { rules, json, tables }: KeptTokenizer,
): Promise<void> {
  const { vocabulary, merges, pairs } = tables
  if (endianness() !== 'LE' || vocabulary.size < leastTokens) return
  const packed = packTexts(vocabulary)
  if (packed === undefined) return
  const rest = { ...json, model: { ...(json.model as JsonObject), vocab: undefined, merges: undefined } }
  const counts = { tokens: vocabulary.size, merges: merges.length / 3 }
  const text = Buffer.from(JSON.stringify({ key, rules, ...counts, json: rest }))
  const header = Buffer.alloc(Math.ceil(text.length / 4) * 4, ' ')
  text.copy(header)
  const raw = ({ buffer, byteOffset, byteLength }: Uint32Array | Int32Array) =>
    new Uint8Array(buffer, byteOffset, byteLength)
  const size = Buffer.alloc(4)
  size.writeUInt32LE(header.length)
  const body = Buffer.concat([size, header, raw(packed.ends), raw(merges), raw(packed.slots), raw(pairs), packed.bytes])
  const sum = Buffer.alloc(4)
  sum.writeUInt32LE(crc32(body))
  await writeWhole(join(dir, name), Buffer.concat([Buffer.from(magic), sum, body])).catch(() => {})
}

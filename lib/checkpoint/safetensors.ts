/**
 * Headers of safetensors files, read as hostile input: every tensor that comes out of here lies inside its file, is as
 * long as its shape and dtype say, and overlaps no other.
 *
 * The format: 8 bytes little-endian header length, that many bytes of JSON
 * `{name: {dtype, shape, data_offsets: [begin, end]}, "__metadata__": …}`, then the data; offsets count from the end of
 * the header, and the tensors cover the data without gaps.
 */
import path from 'node:path'
import { ModelError } from '../errors.ts'
import { describe, parseJsonObject, readJsonObject, readRange, regularFileBytes, shorten } from './files.ts'
import { missingWeights } from './folder-advice.ts'

/** One stored tensor; `offset` is absolute in its file. */
export interface StoredTensor {
  /** As it is spelled in the file. */
  name: string
  /** Index into {@link WeightFiles.files}. */
  file: number
  /** As the header spells it: `BF16`, `F32`, `I64`, …. */
  dtype: string
  shape: number[]
  offset: number
  bytes: number
}

/** All tensors of a checkpoint and the files that hold them. */
export interface WeightFiles {
  /** Absolute paths. */
  files: string[]
  fileBytes: number[]
  tensors: Map<string, StoredTensor>
  /** Names of tensors that were left out of a file because they are another one's, as `__metadata__` notes them. */
  aliases: Map<string, string>
}

/** Headers of the supported families are below 0.2 MiB; a larger one than this is damage or an attack. */
const maxHeaderBytes = 16 * 1024 * 1024
const maxTensors = 100_000
const maxShards = 1000
const maxRank = 16

/** Bits an element takes, of every dtype the format knows. */
const dtypeBits: Record<string, number> = {
  BOOL: 8,
  U8: 8,
  I8: 8,
  F8_E4M3: 8,
  F8_E5M2: 8,
  F8_E8M0: 8,
  F4: 4,
  F6_E2M3: 6,
  F6_E3M2: 6,
  I16: 16,
  U16: 16,
  F16: 16,
  BF16: 16,
  I32: 32,
  U32: 32,
  F32: 32,
  I64: 64,
  U64: 64,
  F64: 64,
  C64: 64,
}

const bad = (message: string): ModelError => new ModelError('BAD_WEIGHTS', message)
const again = 'Download the file again.'

/** One file. */
export interface SafetensorsFile {
  bytes: number
  tensors: StoredTensor[]
  aliases: [name: string, kept: string][]
}

/**
 * Tensors of one safetensors file.
 *
 * @param file - Path of the file; messages use its base name.
 * @param index - Becomes {@link StoredTensor.file}.
 * @throws {@link ModelError} `BAD_WEIGHTS`.
 */
export async function readSafetensors(file: string, index = 0): Promise<SafetensorsFile> {
  const name = path.basename(file)
  const bytes = await regularFileBytes(file, 'BAD_WEIGHTS')
  if (bytes === undefined) throw bad(`${file} is missing. Download it into the model folder.`)
  if (bytes < 8) throw bad(`${name}: expected a safetensors file of 8 bytes or more, found ${bytes}. ${again}`)
  const prefix = await readRange(file, 0, 8, 'BAD_WEIGHTS')
  if (prefix.toString('latin1') === 'version ') {
    throw bad(`${name} is a Git LFS pointer, not the weights. Run "git lfs pull" in its folder.`)
  }
  const length = prefix.readBigUInt64LE(0)
  if (length > BigInt(maxHeaderBytes)) {
    throw bad(`${name}: expected a header of at most ${maxHeaderBytes} bytes, found ${length}. ${again}`)
  }
  const headerBytes = Number(length)
  if (headerBytes > bytes - 8) {
    throw bad(`${name}: expected a header of ${headerBytes} bytes, found a file of only ${bytes}. ${again}`)
  }
  const header = await readRange(file, 8, headerBytes, 'BAD_WEIGHTS')
  const { tensors, metadata } = parseSafetensorsHeader(header, bytes, name, index)
  return { bytes, tensors, aliases: aliasesOf(metadata, tensors) }
}

/** Entries of `__metadata__` whose value is a tensor of the file and whose key is none. */
function aliasesOf(metadata: unknown, tensors: StoredTensor[]): [name: string, kept: string][] {
  if (typeof metadata !== 'object' || metadata === null) return []
  const names = new Set(tensors.map((tensor) => tensor.name))
  return Object.entries(metadata as Record<string, unknown>).flatMap(([name, kept]): [string, string][] =>
    typeof kept === 'string' && names.has(kept) && !names.has(name) ? [[name, kept]] : [],
  )
}

/**
 * Tensors of a header in the order of their bytes, and its `__metadata__`.
 *
 * @param header - The JSON, without its length.
 * @param fileBytes - Size of the whole file.
 */
export function parseSafetensorsHeader(
  header: Uint8Array,
  fileBytes: number,
  name = 'safetensors',
  index = 0,
): { tensors: StoredTensor[]; metadata: unknown } {
  let text: string
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(header)
  } catch (error) {
    throw new ModelError('BAD_WEIGHTS', `${name}: expected a UTF-8 header, found other bytes. ${again}`, {
      cause: error,
    })
  }
  const entries = Object.entries(parseJsonObject(text, `${name} (header)`, 'BAD_WEIGHTS'))
  const keys = countTopLevelKeys(text)
  if (keys !== entries.length) {
    throw bad(`${name}: expected every tensor once, found ${keys} names of which ${entries.length} differ. ${again}`)
  }
  if (entries.length > maxTensors) {
    throw bad(`${name}: expected at most ${maxTensors} tensors, found ${entries.length}. ${again}`)
  }
  const start = 8 + header.byteLength
  const dataBytes = fileBytes - start
  const tensors: StoredTensor[] = []
  let metadata: unknown
  for (const [key, value] of entries) {
    if (key === '__metadata__') metadata = value
    else tensors.push(parseEntry(key, value, { name, index, start, dataBytes }))
  }
  checkCover(tensors, start, dataBytes, name)
  return { tensors, metadata }
}

interface HeaderOf {
  name: string
  index: number
  start: number
  dataBytes: number
}

function parseEntry(key: string, value: unknown, of: HeaderOf): StoredTensor {
  const label = `${shorten(key, 200)} in ${of.name}`
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw bad(`${label}: expected an object with dtype, shape and data_offsets, found ${describe(value)}. ${again}`)
  }
  const { dtype, shape, data_offsets: offsets } = value as Record<string, unknown>
  const bits = typeof dtype === 'string' && Object.hasOwn(dtypeBits, dtype) ? dtypeBits[dtype] : undefined
  if (bits === undefined) {
    throw bad(`${label}: expected a dtype such as BF16, F16 or F32, found ${describe(dtype)}. ${again}`)
  }
  if (!Array.isArray(shape) || shape.length > maxRank || !shape.every(isCount)) {
    throw bad(`${label}: expected a shape of up to ${maxRank} whole numbers, found ${describe(shape)}. ${again}`)
  }
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isCount)) {
    throw bad(`${label}: expected data_offsets of two whole numbers, found ${describe(offsets)}. ${again}`)
  }
  const [begin, end] = offsets as [number, number]
  if (begin > end || end > of.dataBytes) {
    throw bad(`${label}: expected data_offsets within 0 to ${of.dataBytes}, found [${begin}, ${end}]. ${again}`)
  }
  let elements = 1
  for (const size of shape as number[]) elements *= size
  // An unsafe product is caught here too: it is larger than any file, whatever its rounding.
  const bytes = (elements * bits) / 8
  if (bytes !== end - begin) {
    const wants = `${dtype} [${shape.join(', ')}] to take ${bytes} bytes`
    throw bad(`${label}: expected ${wants}, found data_offsets of ${end - begin}. ${again}`)
  }
  return {
    name: key,
    file: of.index,
    dtype: dtype as string,
    shape: shape as number[],
    offset: of.start + begin,
    bytes,
  }
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0 && !Object.is(value, -0)
}

/** The tensors, sorted by offset on return, must cover the data once and without gaps. */
function checkCover(tensors: StoredTensor[], start: number, dataBytes: number, name: string): void {
  tensors.sort((a, b) => a.offset - b.offset || a.bytes - b.bytes)
  let end = start
  let last = 'the header'
  for (const tensor of tensors) {
    if (tensor.offset !== end) {
      const how = tensor.offset < end ? 'overlaps' : 'leaves a gap after'
      throw bad(
        `${tensor.name} in ${name}: expected it to start at byte ${end - start}, found ${tensor.offset - start}; it ${how} ${last}. ${again}`,
      )
    }
    end = tensor.offset + tensor.bytes
    last = tensor.name
  }
  if (end !== start + dataBytes) {
    throw bad(`${name}: expected ${end - start} bytes of data after the header, found ${dataBytes}. ${again}`)
  }
}

/** Names at depth one of a JSON object that has been parsed before, repeated ones counted each time. */
function countTopLevelKeys(text: string): number {
  let depth = 0
  let keys = 0
  for (let i = 0; i < text.length; i++) {
    const char = text[i]
    if (char === '"') {
      for (i++; text[i] !== '"'; i++) if (text[i] === '\\') i++
    } else if (char === '{' || char === '[') depth++
    else if (char === '}' || char === ']') depth--
    else if (char === ':' && depth === 1) keys++
  }
  return keys
}

/**
 * All tensors of a model folder: `model.safetensors`, or the shards of `model.safetensors.index.json`.
 *
 * @throws {@link ModelError} `BAD_WEIGHTS`; `BAD_CHECKPOINT` if the index itself is broken.
 */
export async function readWeights(dir: string): Promise<WeightFiles> {
  const single = path.join(dir, 'model.safetensors')
  if ((await regularFileBytes(single, 'BAD_WEIGHTS')) !== undefined) {
    const { bytes, tensors, aliases } = await readSafetensors(single)
    const byName = new Map(tensors.map((tensor) => [tensor.name, tensor]))
    return { files: [single], fileBytes: [bytes], tensors: byName, aliases: new Map(aliases) }
  }
  const indexName = 'model.safetensors.index.json'
  const index = await readJsonObject(path.join(dir, indexName), 'BAD_CHECKPOINT')
  if (index === undefined) {
    throw await missingWeights(dir, indexName)
  }
  return readShards(dir, indexName, index)
}

async function readShards(dir: string, indexName: string, index: Record<string, unknown>): Promise<WeightFiles> {
  const weightMap = parseWeightMap(index.weight_map, indexName)
  const names = [...new Set(weightMap.values())].sort()
  if (names.length > maxShards) {
    throw new ModelError('BAD_CHECKPOINT', `${indexName}: expected at most ${maxShards} shards, found ${names.length}.`)
  }
  const files = names.map((name) => path.join(dir, name))
  const missing: string[] = []
  for (const [i, file] of files.entries()) {
    if ((await regularFileBytes(file, 'BAD_WEIGHTS')) === undefined) missing.push(names[i]!)
  }
  if (missing.length > 0) {
    const what = `${missing.length} of ${names.length} shards missing in ${dir}: ${shorten(missing.join(', '), 400)}`
    throw bad(`${indexName} names ${what}. Download the missing files.`)
  }
  const fileBytes: number[] = []
  const tensors = new Map<string, StoredTensor>()
  const aliases = new Map<string, string>()
  for (const [i, file] of files.entries()) {
    const shard = await readSafetensors(file, i)
    fileBytes.push(shard.bytes)
    for (const [name, kept] of shard.aliases) aliases.set(name, kept)
    for (const tensor of shard.tensors) {
      const expected = weightMap.get(tensor.name)
      if (expected !== names[i]) {
        const where = expected === undefined ? 'not listed' : `listed in ${expected}`
        throw bad(`${tensor.name} is in ${names[i]}, but ${where} in ${indexName}. The files do not belong together.`)
      }
      tensors.set(tensor.name, tensor)
    }
  }
  for (const [name, shard] of weightMap) {
    if (!tensors.has(name)) {
      throw bad(
        `${shorten(name, 200)} is listed in ${indexName}, but is not in ${shard}. The files do not belong together.`,
      )
    }
  }
  return { files, fileBytes, tensors, aliases }
}

function parseWeightMap(value: unknown, indexName: string): Map<string, string> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    const found = describe(value)
    throw new ModelError(
      'BAD_CHECKPOINT',
      `${indexName}: expected weight_map to be an object, found ${found}. ${again}`,
    )
  }
  const map = new Map<string, string>()
  for (const [tensor, shard] of Object.entries(value)) {
    const fits = typeof shard === 'string' && /^[\w][\w.-]*\.safetensors$/.test(shard) && !shard.includes('..')
    if (!fits) {
      const expected = 'the name of a .safetensors file in the same folder'
      throw new ModelError(
        'BAD_CHECKPOINT',
        `${indexName}: expected weight_map.${shorten(tensor, 200)} to be ${expected}, found ${describe(shard)}. ${again}`,
      )
    }
    map.set(tensor, shard)
  }
  if (map.size === 0) {
    throw new ModelError('BAD_CHECKPOINT', `${indexName}: expected tensors in weight_map, found none. ${again}`)
  }
  return map
}

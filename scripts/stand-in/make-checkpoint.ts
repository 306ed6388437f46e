/**
 * Writes a model folder of true size in the real format: configs, shards, a complete tokenizer, and seeded random weights.
 * Its answers are noise; its speed, memory and loading are those of the published checkpoint.
 */
import { mkdir, open, readdir, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { ModelError } from '../../lib/errors.ts'
import { configOf, type StandIn, standIns } from './families.ts'
import { type StandInTensor, tensorsOf } from './tensors.ts'
import { tokenizerFiles } from './tokenizer.ts'
import { WeightSource } from './weights.ts'

export interface MakeOptions {
  /** A key of {@link standIns}, or sizes of one's own. */
  family: string | StandIn
  /** The folder; made if needed, and must be empty. */
  out: string
  /** Same seed, same bytes. Default 1. */
  seed?: number
  /** Fewer layers, in the vision tower and the language model each. */
  layers?: number
  /** Largest shard. Default 5 GB, as the published folders have it. */
  maxShardBytes?: number
  onProgress?: (doneBytes: number, totalBytes: number) => void
}

export interface MadeCheckpoint {
  dir: string
  files: string[]
  parameters: number
  weightsBytes: number
}

const elementsOf = (tensor: StandInTensor): number => tensor.shape.reduce((product, size) => product * size, 1)
const bytesOf = (tensor: StandInTensor): number => 2 * elementsOf(tensor)

/**
 * Makes a stand-in. config.json is written last, so a folder that has one is complete.
 *
 * @throws {@link ModelError} `BAD_ARGUMENT` for an unknown family or a folder that is not empty.
 */
export async function makeCheckpoint(options: MakeOptions): Promise<MadeCheckpoint> {
  const standIn = resolve(options)
  const dir = path.resolve(options.out)
  await mkdir(dir, { recursive: true })
  if ((await readdir(dir)).length > 0) {
    throw new ModelError(
      'BAD_ARGUMENT',
      `Expected ${dir} to be an empty folder, found files in it. Pass another folder.`,
    )
  }
  const tensors = tensorsOf(standIn)
  const total = tensors.reduce((sum, tensor) => sum + bytesOf(tensor), 0)
  const shards = splitShards(tensors, options.maxShardBytes ?? 5e9)
  const names = shards.map((_, i) => shardName(i, shards.length))
  const source = new WeightSource(options.seed ?? 1)
  let done = 0
  for (const [i, shard] of shards.entries()) {
    await writeShard(path.join(dir, names[i]!), shard, source, (bytes) => {
      done += bytes
      options.onProgress?.(done, total)
    })
  }
  const sides = sideFiles(standIn)
  if (shards.length > 1) {
    const entries = shards.flatMap((shard, i) => shard.map((tensor) => [tensor.name, names[i]!] as const))
    const weightMap = Object.fromEntries(entries.sort(([a], [b]) => (a < b ? -1 : 1)))
    sides.set('model.safetensors.index.json', json({ metadata: { total_size: total }, weight_map: weightMap }))
  }
  for (const [name, data] of sides) await writeFile(path.join(dir, name), data)
  await writeFile(path.join(dir, 'config.json'), json(configOf(standIn)))
  return { dir, files: [...names, ...sides.keys(), 'config.json'], parameters: total / 2, weightsBytes: total }
}

function resolve({ family, layers, seed }: MakeOptions): StandIn {
  const standIn = typeof family === 'string' ? ownValue(standIns, family) : family
  if (standIn === undefined) {
    const known = Object.keys(standIns).join(', ')
    throw new ModelError('BAD_ARGUMENT', `Expected a family out of ${known}, received ${JSON.stringify(family)}.`)
  }
  if (seed !== undefined && !Number.isSafeInteger(seed)) {
    throw new ModelError('BAD_ARGUMENT', `Expected seed to be an integer, received ${seed}.`)
  }
  if (layers === undefined) return standIn
  if (!Number.isSafeInteger(layers) || layers < 1) {
    throw new ModelError('BAD_ARGUMENT', `Expected layers to be a positive integer, received ${layers}.`)
  }
  const vision = { ...standIn.vision, layers: Math.min(layers, standIn.vision.layers) }
  return { ...standIn, vision, layers: Math.min(layers, standIn.layers) }
}

const ownValue = <T>(table: Record<string, T>, key: string): T | undefined =>
  Object.hasOwn(table, key) ? table[key] : undefined

/** In order, a new shard where the next tensor would not fit. */
function splitShards(tensors: StandInTensor[], most: number): StandInTensor[][] {
  const shards: StandInTensor[][] = [[]]
  let bytes = 0
  for (const tensor of tensors) {
    if (bytes > 0 && bytes + bytesOf(tensor) > most) {
      shards.push([])
      bytes = 0
    }
    shards.at(-1)!.push(tensor)
    bytes += bytesOf(tensor)
  }
  return shards
}

function shardName(index: number, count: number): string {
  if (count === 1) return 'model.safetensors'
  const five = (value: number) => String(value).padStart(5, '0')
  return `model-${five(index + 1)}-of-${five(count)}.safetensors`
}

async function writeShard(
  file: string,
  shard: StandInTensor[],
  source: WeightSource,
  onBytes: (bytes: number) => void,
): Promise<void> {
  const sorted = [...shard].sort((a, b) => (a.name < b.name ? -1 : 1))
  const handle = await open(file, 'wx')
  try {
    await handle.writeFile(safetensorsHeader(sorted))
    for (const tensor of sorted) {
      for (const chunk of source.fill(tensor.name, elementsOf(tensor), tensor.fill)) {
        await handle.writeFile(chunk)
        onBytes(chunk.byteLength)
      }
    }
  } finally {
    await handle.close()
  }
}

/** Length and JSON, padded with blanks to 8 bytes. */
function safetensorsHeader(tensors: StandInTensor[]): Uint8Array {
  const header: Record<string, unknown> = { __metadata__: { format: 'pt' } }
  let end = 0
  for (const tensor of tensors) {
    const begin = end
    end += bytesOf(tensor)
    header[tensor.name] = { dtype: 'BF16', shape: tensor.shape, data_offsets: [begin, end] }
  }
  const text = JSON.stringify(header)
  const bytes = Buffer.alloc(8 + Math.ceil(text.length / 8) * 8, ' ')
  bytes.writeBigUInt64LE(BigInt(bytes.length - 8), 0)
  bytes.write(text, 8, 'latin1')
  return bytes
}

const json = (value: unknown): string => `${JSON.stringify(value, null, 2)}\n`

/** Every file but the weights and config.json. */
function sideFiles(standIn: StandIn): Map<string, string | Uint8Array> {
  const files = tokenizerFiles(standIn.tokenizer)
  const eos = standIn.eos === undefined ? {} : { eos_token_id: standIn.eos }
  files.set('generation_config.json', json({ _from_model_config: true, ...eos, transformers_version: '4.37.2' }))
  files.set(
    'preprocessor_config.json',
    json({
      crop_size: standIn.vision.image,
      do_center_crop: true,
      do_normalize: true,
      do_resize: true,
      feature_extractor_type: 'CLIPFeatureExtractor',
      image_mean: [0.485, 0.456, 0.406],
      image_std: [0.229, 0.224, 0.225],
      resample: 3,
      size: standIn.vision.image,
    }),
  )
  return files
}

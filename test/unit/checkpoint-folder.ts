/** Model folders for tests: the configs and tensor tables of small checkpoints, written as sparse files of zeros. */
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll } from 'vitest'
import type { ErrorCode } from '../../lib/errors.ts'
import { ModelError } from '../../lib/errors.ts'

// biome-ignore lint/suspicious/noExplicitAny: tests damage configs at will
export type Json = any

/** What a folder is made of; tests change it before it is written. */
export interface Folder {
  config: Json
  generation?: Json
  preprocessor?: Json
  /** `[dtype, shape, file]` by name. */
  tensors: Record<string, [dtype: string, shape: number[], file: string]>
  /** Further files by name. */
  files?: Record<string, string>
}

export const root: string = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..')

/** Where the full golden set is, if it is: it is larger than what the project carries. */
export const shared: string = process.env.DRIVLM_SHARED ?? findShared(path.dirname(root))

/** The nearest `shared` folder with goldens at or above `from`; a path that does not exist if there is none. */
function findShared(from: string): string {
  const candidate = path.join(from, 'shared')
  const parent = path.dirname(from)
  return parent === from || existsSync(path.join(candidate, 'golden')) ? candidate : findShared(parent)
}

export const fixtureNames = [
  'a1-qwen2',
  'a2-qwen2-tied',
  'b1-internlm2',
  'b2-internlm2-ntk',
  'c1-phi3',
  'd1-qwen25',
  'e1-qwen3',
  'f1-hf-qwen2',
  'v1-vit448',
] as const

/** A fresh copy of a fixture. */
export function fixture(name: string): Folder {
  return JSON.parse(readFileSync(path.join(root, 'test/fixtures/checkpoints', `${name}.json`), 'utf8')) as Folder
}

/** The `-hf` fixture with InternLM2 converted to llama names. */
export function llamaFixture(): Folder {
  const folder = fixture('f1-hf-qwen2')
  for (const name of Object.keys(folder.tensors)) {
    if (/^language_model\..*\.bias$/.test(name)) delete folder.tensors[name]
  }
  folder.config.text_config.model_type = 'llama'
  folder.config.text_config.architectures = ['LlamaForCausalLM']
  folder.config.text_config.attention_bias = false
  folder.config.text_config.rope_scaling = { factor: 2.0, rope_type: 'dynamic' }
  delete folder.config.text_config.use_sliding_window
  delete folder.config.text_config.sliding_window
  return folder
}

/** The `-hf` fixture in the newer spelling of tensors and config keys. */
export function newerHfFixture(): Folder {
  const folder = fixture('f1-hf-qwen2')
  const tensors: Folder['tensors'] = {}
  for (const [name, value] of Object.entries(folder.tensors)) {
    const newer = name
      .replace(/^language_model\.lm_head/, 'lm_head')
      .replace(/^language_model\.model\./, 'model.language_model.')
      .replace(/^(vision_tower|multi_modal_projector)\./, 'model.$1.')
    tensors[newer] = value
  }
  folder.tensors = tensors
  const { text_config: text, vision_config: vision } = folder.config
  text.rope_parameters = { rope_theta: text.rope_theta, rope_type: 'default' }
  text.layer_types = ['full_attention', 'full_attention']
  text.dtype = text.torch_dtype
  for (const key of ['rope_theta', 'torch_dtype', 'tie_word_embeddings']) delete text[key]
  vision.image_size = 112
  vision.patch_size = 14
  folder.config.tie_word_embeddings = true
  return folder
}

const temporary: string[] = []

/** A new empty folder, removed after the tests of the file. */
export function temporaryFolder(name = 'model'): string {
  const parent = mkdtempSync(path.join(os.tmpdir(), 'drivlm-'))
  temporary.push(parent)
  const dir = path.join(parent, name)
  mkdirSync(dir)
  return dir
}

afterAll(() => {
  for (const dir of temporary.splice(0)) rmSync(dir, { recursive: true, force: true })
})

const bytesOf: Record<string, number> = { F64: 8, I64: 8, F32: 4, I32: 4, BF16: 2, F16: 2, I8: 1, U8: 1 }

/** Writes the folder and returns its path. */
export function write(folder: Folder, name?: string): string {
  const dir = temporaryFolder(name)
  writeFileSync(path.join(dir, 'config.json'), JSON.stringify(folder.config))
  if (folder.generation) writeFileSync(path.join(dir, 'generation_config.json'), JSON.stringify(folder.generation))
  if (folder.preprocessor)
    writeFileSync(path.join(dir, 'preprocessor_config.json'), JSON.stringify(folder.preprocessor))
  const shards = new Map<string, Record<string, unknown>>()
  const ends = new Map<string, number>()
  for (const [tensor, [dtype, shape, file]] of Object.entries(folder.tensors)) {
    const begin = ends.get(file) ?? 0
    const end = begin + shape.reduce((product, size) => product * size, bytesOf[dtype]!)
    ends.set(file, end)
    const header = shards.get(file) ?? {}
    header[tensor] = { dtype, shape, data_offsets: [begin, end] }
    shards.set(file, header)
  }
  for (const [file, header] of shards) {
    const text = Buffer.from(JSON.stringify(header))
    const length = Buffer.alloc(8)
    length.writeBigUInt64LE(BigInt(text.length))
    writeFileSync(path.join(dir, file), Buffer.concat([length, text]))
    truncateSync(path.join(dir, file), 8 + text.length + ends.get(file)!)
  }
  if (shards.size > 1) {
    const map = Object.fromEntries(Object.entries(folder.tensors).map(([tensor, [, , file]]) => [tensor, file]))
    const index = JSON.stringify({ metadata: { total_size: 0 }, weight_map: map })
    writeFileSync(path.join(dir, 'model.safetensors.index.json'), index)
  }
  for (const [file, text] of Object.entries(folder.files ?? {})) writeFileSync(path.join(dir, file), text)
  return dir
}

/** The error a promise rejects with; anything but a {@link ModelError} of that code fails the test. */
export async function modelError(promise: Promise<unknown>, code: ErrorCode): Promise<string> {
  const error = await promise.then(
    () => undefined,
    (reason: unknown) => reason,
  )
  if (!(error instanceof ModelError)) throw new Error(`expected a ModelError, found ${String(error)}`, { cause: error })
  if (error.code !== code) throw new Error(`expected ${code}, found ${error.code}: ${error.message}`)
  return error.message
}

/** Sets or (with `undefined`) removes the value at a dotted path. */
export function put(object: Json, dotted: string, value: unknown): void {
  const keys = dotted.split('.')
  const last = keys.pop()!
  const parent = keys.reduce((at, key) => at[key], object)
  if (value === undefined) delete parent[last]
  else parent[last] = value
}

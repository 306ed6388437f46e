/** A model folder, read and checked as a whole: everything but its tokenizer. */
import path from 'node:path'
import { ModelError } from '../errors.ts'
import { describeValue } from '../messages.ts'
import type { NetworkDescription, StoredDType, TensorSource } from '../native.ts'
import { adapterName, elementBytes, TensorBinder } from './binder.ts'
import { type CheckpointFormat, type ModelConfig, parseConfig, type TilingLimits } from './config.ts'
import { findSystemMessage } from './conversation.ts'
import { bindVocabulary } from './decoder.ts'
import { readJsonObject, readText, shorten } from './files.ts'
import { missingConfig } from './folder-advice.ts'
import { isV15, labelOf, originOf, systemMessageNote } from './identity.ts'
import { bindProjector, bindVision, normalizeHf, spellHf } from './internvit.ts'
import { JsonReader } from './json-reader.ts'
import { defaultLayout, parseLayout, type ViewLayout } from './layout.ts'
import { readProcessorFiles } from './processor.ts'
import { readWeights, type WeightFiles } from './safetensors.ts'

/** What a model folder holds. */
export interface Checkpoint {
  /** Absolute path of the folder. */
  dir: string
  /** A label for people: the folder's name, or the repository's in a hub cache. Nothing is decided by it. */
  name: string
  /** Generation and decoder, such as `internvl2-qwen2` or `internvl-hf-llama`. */
  family: string
  format: CheckpointFormat
  network: NetworkDescription
  /** Absolute paths of the safetensors files. */
  files: string[]
  fileBytes: number[]
  /** Canonical tensors, as the addon takes them. */
  tensors: TensorSource[]
  /** Elements of all tensors that are used. */
  parameters: number
  /** Bytes of all tensors that are used, as stored. */
  weightsBytes: number
  /** The dtype most of the weights' bytes have. */
  weightsDType: StoredDType
  /** Name of the prompt template: `Hermes-2`, `internvl2_5`, … (remote-code format). */
  template?: string
  /** System message the folder states: in config.json, else in its conversation.py. */
  systemMessage?: { text: string; file: string }
  /** Jinja source of the chat template, raw, and the file it came from. */
  chatTemplate?: { source: string; file: string }
  tiling: TilingLimits
  /** Id of `<IMG_CONTEXT>`, where config.json states it (`-hf` format). */
  imageTokenId?: number
  /** `eos_token_id` of generation_config.json; often empty, and not what ends a chat turn. */
  eosIds: number[]
  /** `max_position_embeddings`. */
  maxPositions: number
  /** Rows of the embedding, which may be more than the tokenizer has tokens. */
  vocab: number
  /** From drivlm.json, or the default for this folder. */
  layout: ViewLayout
  /** Made from a Mini-InternVL-Chat-*-V1-5 model, as config.json says. */
  v15: boolean
  /** Sentences on what was decided from what, where the files leave a choice. */
  notes: string[]
}

export interface CheckpointOptions {
  /** Tile edge in pixels in place of the configured one; a multiple of twice the patch size. */
  tileSize?: number
  /** Contents for drivlm.json, in place of the folder's own. */
  layout?: Record<string, unknown>
}

/**
 * Reads config.json, the weights' headers and the side files of a model folder. Every stored tensor is accounted for.
 *
 * @param dir - The folder, as downloaded.
 * @throws {@link ModelError} `BAD_CHECKPOINT`, `BAD_WEIGHTS`, `UNSUPPORTED_MODEL`; the message names the file, the key
 *   or the tensor, what was expected and what was found.
 */
export async function readCheckpoint(dir: string, options: CheckpointOptions = {}): Promise<Checkpoint> {
  if (typeof dir !== 'string' || dir === '')
    throw new ModelError('BAD_ARGUMENT', `Expected the path of a model folder, received ${describeValue(dir)}.`)
  const root = path.resolve(dir)
  const object = async (name: string) => {
    const json = await readJsonObject(path.join(root, name), 'BAD_CHECKPOINT')
    return json === undefined ? undefined : new JsonReader(name, json)
  }
  const configFile = await object('config.json')
  if (configFile === undefined) throw await missingConfig(root)
  const config = parseConfig(configFile, await readProcessorFiles(object), options.tileSize)
  const weights = await readWeights(root)
  if (config.format === 'remote-code') refuseAdapters(configFile, weights)
  const { network, tensors, notes } = bindNetwork(config, weights)
  const layoutFile =
    options.layout === undefined ? await object('drivlm.json') : new JsonReader('options.layout', options.layout)
  const origin = originOf(configFile)
  const v15 = isV15(origin)
  const layout =
    layoutFile === undefined ? defaultLayout(origin, config.tiling) : parseLayout(layoutFile, config.tiling, origin)
  const systemMessage = await readSystemMessage(root, config)
  if (config.template !== undefined) {
    const file = layout.systemMessage === undefined ? systemMessage?.file : layoutFile?.file
    notes.push(systemMessageNote(configFile, { file, template: config.template, v15 }))
  }
  const chatTemplate = await readChatTemplate(root)
  return {
    dir: root,
    name: labelOf(root),
    family: config.family,
    format: config.format,
    network,
    files: weights.files,
    fileBytes: weights.fileBytes,
    tensors,
    ...countWeights(tensors),
    ...(config.template === undefined ? {} : { template: config.template }),
    ...(systemMessage === undefined ? {} : { systemMessage }),
    ...(chatTemplate === undefined ? {} : { chatTemplate }),
    tiling: config.tiling,
    ...(config.imageTokenId === undefined ? {} : { imageTokenId: config.imageTokenId }),
    eosIds: readEosIds(await object('generation_config.json'), config.decoder.language.vocab),
    maxPositions: config.decoder.maxPositions,
    vocab: config.decoder.language.vocab,
    layout,
    v15,
    notes: [...config.notes, ...notes],
  }
}

/** `use_llm_lora` and its like say that the tensors are wrapped; some tools merge the adapter and leave the key. */
function refuseAdapters(config: JsonReader, weights: WeightFiles): void {
  for (const key of ['use_backbone_lora', 'use_llm_lora']) {
    const wrapped = [...weights.tensors.keys()].find((name) => adapterName.test(name))
    const what = key === 'use_llm_lora' ? 'language' : 'vision'
    config.mustBeOff(
      key,
      wrapped === undefined
        ? `but no tensor is LoRA-wrapped, so an adapter was merged and the key stayed. Set it to 0 in ${config.file}`
        : `the ${what} weights are LoRA-wrapped (${shorten(wrapped, 120)}); merge the adapter into the weights first`,
    )
  }
}

/** Canonical tensors of a checkpoint whose config is known. */
function bindNetwork(
  config: ModelConfig,
  weights: WeightFiles,
): { network: NetworkDescription; tensors: TensorSource[]; notes: string[] } {
  const { vision, projector, adapter, decoder, names, where } = config
  const newer = [...weights.tensors.keys()].some((name) => name.startsWith('model.'))
  const binder =
    config.format === 'hf' ? new TensorBinder(weights, normalizeHf, spellHf(newer)) : new TensorBinder(weights)
  const positionGrid = bindVision(binder, vision, config.format)
  bindProjector(binder, vision.vision.dim, decoder.language.dim, config.format)
  const tables = { embedding: names.body + adapter.embedding, head: names.head + adapter.head }
  const tied = { tied: config.tied, where }
  const tiedHead = bindVocabulary(binder, decoder, tables, tied)
  adapter.bind(binder, decoder, names, where)
  const network = {
    vision: { ...vision.vision, positionGrid },
    projector,
    language: { ...decoder.language, tiedHead },
  }
  return { network, tensors: binder.finish(), notes: binder.notes }
}

function countWeights(tensors: TensorSource[]): Pick<Checkpoint, 'parameters' | 'weightsBytes' | 'weightsDType'> {
  const bytes: Record<StoredDType, number> = { BF16: 0, F16: 0, F32: 0 }
  let parameters = 0
  for (const { shape, dtype, spans } of tensors) {
    const columns = shape.slice(1).reduce((product, size) => product * size, 1)
    for (const { rows, dtype: own = dtype } of spans) {
      parameters += rows * columns
      bytes[own] += rows * columns * elementBytes[own]
    }
  }
  const weightsBytes = bytes.BF16 + bytes.F16 + bytes.F32
  const weightsDType = (Object.keys(bytes) as StoredDType[]).reduce((a, b) => (bytes[b] > bytes[a] ? b : a))
  return { parameters, weightsBytes, weightsDType }
}

async function readSystemMessage(root: string, config: ModelConfig): Promise<Checkpoint['systemMessage']> {
  if (config.systemMessage !== undefined) return { text: config.systemMessage, file: 'config.json' }
  if (config.template === undefined) return undefined
  const source = await readText(path.join(root, 'conversation.py'), 'BAD_CHECKPOINT')
  const text = source === undefined ? undefined : findSystemMessage(source, config.template)
  return text === undefined ? undefined : { text, file: 'conversation.py' }
}

async function readChatTemplate(root: string): Promise<Checkpoint['chatTemplate']> {
  const source = await readText(path.join(root, 'chat_template.jinja'), 'BAD_CHECKPOINT')
  if (source !== undefined) return { source, file: 'chat_template.jinja' }
  for (const file of ['chat_template.json', 'tokenizer_config.json']) {
    const code = file === 'tokenizer_config.json' ? 'BAD_TOKENIZER' : 'BAD_CHECKPOINT'
    const value = (await readJsonObject(path.join(root, file), code))?.chat_template
    const named = Array.isArray(value) ? value.find((entry) => entry?.name === 'default')?.template : value
    if (typeof named === 'string') return { source: named, file }
  }
  return undefined
}

function readEosIds(config: JsonReader | undefined, vocab: number): number[] {
  const value = config?.raw('eos_token_id')
  if (config === undefined || value === undefined || value === null) return []
  const ids = Array.isArray(value) ? value : [value]
  if (!ids.every((id) => Number.isSafeInteger(id) && id >= 0 && id < vocab)) {
    throw config.fail('eos_token_id', `a token id below ${vocab} (the vocabulary) or a list of them`)
  }
  return ids
}

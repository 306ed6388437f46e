/**
 * config.json of the two checkpoint formats, parsed into what the network needs. A missing key is an error, never a
 * default: the config class's defaults describe another, larger tower.
 */
import { ModelError } from '../errors.ts'
import type { ProjectorDescription, VisionDescription } from '../native.ts'
import { type DecoderAdapter, type DecoderConfig, type DecoderNames, readTie } from './decoder.ts'
import { describe } from './files.ts'
import { internlm2 } from './internlm2.ts'
import type { VisionConfig } from './internvit.ts'
import type { JsonReader } from './json-reader.ts'
import { llama } from './llama.ts'
import { phi3 } from './phi3.ts'
import { type ProcessorFiles, parseProcessor } from './processor.ts'
import { qwen2 } from './qwen2.ts'
import { qwen3 } from './qwen3.ts'

/** `remote-code`: `InternVLChatModel`; `hf`: the library's own `InternVLForConditionalGeneration`. */
export type CheckpointFormat = 'remote-code' | 'hf'

/** How one image is cut into tiles (spec: dynamic tiling). */
export interface TilingLimits {
  tileSize: number
  minTiles: number
  /** Most tiles of one image, the thumbnail not counted. */
  maxTiles: number
  /** Off: every image is one tile. */
  dynamic: boolean
  useThumbnail: boolean
}

/** config.json, checked; tensors are another matter. */
export interface ModelConfig {
  format: CheckpointFormat
  /** `internvl2-qwen2`, `internvl3.5-qwen3`, `internvl-hf-llama`, …. */
  family: string
  vision: VisionConfig
  projector: ProjectorDescription
  adapter: DecoderAdapter
  decoder: DecoderConfig
  names: DecoderNames
  /** The key of the language part: `llm_config` or `text_config`. */
  where: string
  /** Whether the config says the embedding is the output table; `undefined` if it does not say. */
  tied: boolean | undefined
  tiling: TilingLimits
  /** Name of the prompt template (remote-code format). */
  template?: string
  /** `system_message`, if it is a string. */
  systemMessage?: string
  imageTokenId?: number
  /** Sentences on what was decided from what, where the files leave a choice. */
  notes: string[]
}

const adapters: Record<string, DecoderAdapter> = {
  Qwen2ForCausalLM: qwen2,
  Qwen3ForCausalLM: qwen3,
  InternLM2ForCausalLM: internlm2,
  Phi3ForCausalLM: phi3,
  LlamaForCausalLM: llama,
}

const hfAdapters: Record<string, DecoderAdapter> = { qwen2, qwen3, llama }

const imagenet: Pick<VisionDescription, 'mean' | 'std'> = { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] }

const dimension = { min: 1, max: 1 << 20 }
const pixels = { min: 1, max: 8192 }
const tileCount = { min: 1, max: 1024 }

/**
 * Parses config.json.
 *
 * @param processor - Picture settings of the `-hf` format.
 * @param tileSize - In place of the configured tile size.
 * @throws {@link ModelError} `BAD_CHECKPOINT` for missing or impossible values, `UNSUPPORTED_MODEL` for sound
 *   checkpoints of other kinds, `BAD_ARGUMENT` for an impossible `tileSize`.
 */
export function parseConfig(config: JsonReader, processor: ProcessorFiles, tileSize?: number): ModelConfig {
  const architecture = config.strings('architectures')[0]!
  if (architecture === 'InternVLChatModel') return parseRemoteCode(config, tileSize)
  if (architecture === 'InternVLForConditionalGeneration') return parseHf(config, processor, tileSize)
  throw config.unsupported('architectures', 'InternVLChatModel and InternVLForConditionalGeneration checkpoints')
}

function parseRemoteCode(config: JsonReader, tileOverride: number | undefined): ModelConfig {
  const vision = config.object('vision_config')
  const llm = config.object('llm_config')
  config.mustBeOff('pad2square', 'this package runs tiles cut from the whole image only')
  config.mustBeOff('flash_mode', 'this is a Flash variant; use the checkpoint without Flash in its name')
  vision.mustBeOff('use_moe', 'this package runs towers without experts only')
  const adapter = pickAdapter(llm, adapters, llm.strings('architectures')[0]!, 'architectures')
  const imageSize = vision.square('image_size', pixels)
  const forced = config.optional('force_image_size', (key) => config.integer(key, pixels))
  const tower = readVision(vision, {
    imageSize,
    tileSize: tileOverride ?? forced ?? imageSize,
    tileKey: forced === undefined ? 'vision_config.image_size' : 'force_image_size',
    overridden: tileOverride !== undefined,
    qkvBias: vision.boolean('qkv_bias'),
    qkNorm: vision.boolean('qk_normalization'),
    outputLayer: readOutputLayer(config, 'select_layer', vision.integer('num_hidden_layers', { max: 1024 })),
  })
  readDownsample(config)
  const decoder = adapter.read(llm)
  const template = config.string('template')
  const minTiles = config.integer('min_dynamic_patch', tileCount)
  const systemMessage = config.optional('system_message', (key) => readMessage(config, key))
  return {
    format: 'remote-code',
    family: familyOf(config, adapter, template),
    vision: tower,
    projector: { normEps: 1e-5, shuffle: config.oneOf('ps_version', ['v1', 'v2']) },
    adapter,
    decoder,
    names: { body: 'language_model.model.', head: 'language_model.' },
    where: 'llm_config',
    tied: readTie(config, llm),
    tiling: {
      tileSize: tower.vision.tileSize,
      minTiles,
      maxTiles: config.integer('max_dynamic_patch', { ...tileCount, min: minTiles }),
      dynamic: config.boolean('dynamic_image_size'),
      useThumbnail: config.boolean('use_thumbnail'),
    },
    template,
    notes: decoder.notes,
    ...(systemMessage === undefined ? {} : { systemMessage }),
  }
}

function parseHf(config: JsonReader, processor: ProcessorFiles, tileOverride: number | undefined): ModelConfig {
  const vision = config.object('vision_config')
  const text = config.object('text_config')
  const adapter = pickAdapter(text, hfAdapters, text.string('model_type'), 'model_type')
  config.oneOf('projector_hidden_act', ['gelu'])
  config.oneOf('vision_feature_select_strategy', ['default'])
  if (!vision.boolean('use_absolute_position_embeddings')) {
    throw vision.unsupported('use_absolute_position_embeddings', 'towers with a position table (true)')
  }
  if (!vision.boolean('use_mean_pooling')) {
    throw vision.unsupported('use_mean_pooling', 'towers without a final norm (true)')
  }
  config.mustBeOff('is_flash_model', 'this is a Flash variant; use the checkpoint without Flash in its name')
  vision.mustBeOff('use_mask_token', 'this package runs towers without a mask token only')
  const imageSize = vision.square('image_size', pixels)
  const tower = readVision(vision, {
    imageSize,
    tileSize: tileOverride ?? imageSize,
    tileKey: 'vision_config.image_size',
    overridden: tileOverride !== undefined,
    qkvBias: vision.boolean('attention_bias'),
    qkNorm: vision.boolean('use_qk_norm'),
    outputLayer: readOutputLayer(config, 'vision_feature_layer', vision.integer('num_hidden_layers', { max: 1024 })),
  })
  readDownsample(config)
  const imageTokens = (imageSize / tower.vision.patchSize / 2) ** 2
  if (config.has('image_seq_length') && config.integer('image_seq_length') !== imageTokens) {
    throw config.fail('image_seq_length', `${imageTokens}, which follows from image_size and patch_size`)
  }
  const decoder = adapter.read(text)
  const imageTokenId = config.integer('image_token_id', { min: 0, max: decoder.language.vocab - 1 })
  const sizes = [imageSize, tower.vision.tileSize]
  const pictures = parseProcessor(processor, { sizes, imageTokens, imageTokenId })
  tower.vision.mean = pictures.mean
  tower.vision.std = pictures.std
  return {
    format: 'hf',
    family: `internvl-hf-${adapter.name}`,
    vision: tower,
    projector: { normEps: 1e-5, shuffle: 'v2' },
    adapter,
    decoder,
    names: { body: 'language_model.', head: '' },
    where: 'text_config',
    // A file that does not say leaves it to the library, which ties by default.
    tied: readTie(config, text) ?? true,
    // The library's processor always cuts tiles and adds the thumbnail, whatever crop_to_patches says in the file.
    tiling: {
      tileSize: tower.vision.tileSize,
      minTiles: pictures.minTiles,
      maxTiles: pictures.maxTiles,
      dynamic: true,
      useThumbnail: true,
    },
    imageTokenId,
    notes: [...processor.notes, ...decoder.notes],
  }
}

function pickAdapter(
  config: JsonReader,
  table: Record<string, DecoderAdapter>,
  name: string,
  key: string,
): DecoderAdapter {
  if (Object.hasOwn(table, name)) return table[name]!
  throw config.unsupported(key, `language models of the kinds ${Object.keys(table).join(', ')}`)
}

/** A generation's label; InternVL 3 is 2.5 with a `system_message` key. */
function familyOf(config: JsonReader, adapter: DecoderAdapter, template: string): string {
  if (adapter.name === 'qwen3') return 'internvl3.5-qwen3'
  if (template !== 'internvl2_5') return `internvl2-${adapter.name}`
  return `${config.keys().includes('system_message') ? 'internvl3' : 'internvl2.5'}-${adapter.name}`
}

interface VisionOptions {
  imageSize: number
  tileSize: number
  tileKey: string
  overridden: boolean
  qkvBias: boolean
  qkNorm: boolean
  outputLayer: number
}

function readVision(config: JsonReader, options: VisionOptions): VisionConfig {
  const { imageSize, tileSize, qkvBias, qkNorm, outputLayer } = options
  const dim = config.integer('hidden_size', dimension)
  const layers = config.integer('num_hidden_layers', { max: 1024 })
  const heads = config.integer('num_attention_heads', { max: 1024 })
  if (dim % heads !== 0) throw config.fail('num_attention_heads', `a divisor of hidden_size (${dim})`)
  const ffnDim = config.integer('intermediate_size', dimension)
  const patchSize = config.square('patch_size', { min: 1, max: 1024 })
  if (imageSize % patchSize !== 0) throw config.fail('image_size', `a multiple of patch_size (${patchSize})`)
  if (tileSize % (2 * patchSize) !== 0 || !Number.isSafeInteger(tileSize) || tileSize < 1 || tileSize > pixels.max) {
    const expected = `a multiple of twice the patch size (${2 * patchSize}), at most ${pixels.max}`
    if (options.overridden) {
      throw new ModelError('BAD_ARGUMENT', `Expected tileSize to be ${expected}, received ${describe(tileSize)}.`)
    }
    throw new ModelError(
      'BAD_CHECKPOINT',
      `${config.file}: expected ${options.tileKey} to be ${expected}, found ${tileSize}.`,
    )
  }
  if (config.has('num_channels') && config.integer('num_channels') !== 3) {
    throw config.unsupported('num_channels', 'pictures of 3 channels')
  }
  config.oneOf('hidden_act', ['gelu'])
  const norm = config.oneOf('norm_type', ['layer_norm', 'rms_norm']) === 'layer_norm' ? 'layer' : 'rms'
  const normEps = config.number('layer_norm_eps', 1)
  const { mean, std } = imagenet
  return {
    vision: {
      dim,
      layers,
      heads,
      headDim: dim / heads,
      ffnDim,
      patchSize,
      tileSize,
      norm,
      normEps,
      qkvBias,
      qkNorm,
      outputLayer,
      mean: [...mean],
      std: [...std],
    },
    imageSize,
  }
}

/** Both keys index the hidden states, of which the first is the embeddings: −1 is the last layer's output. */
function readOutputLayer(config: JsonReader, key: string, layers: number): number {
  if (Array.isArray(config.raw(key))) throw config.unsupported(key, 'the output of one layer')
  const layer = config.integer(key, { min: -layers, max: layers })
  if (layer === 0) throw config.unsupported(key, 'the output of a layer, not the embeddings')
  return layer < 0 ? layers + 1 + layer : layer
}

function readDownsample(config: JsonReader): void {
  if (config.number('downsample_ratio', 1) !== 0.5) {
    throw config.unsupported('downsample_ratio', 'a pixel shuffle of 0.5')
  }
}

function readMessage(config: JsonReader, key: string): string {
  const value = config.raw(key)
  if (typeof value !== 'string') throw config.fail(key, 'a string or null')
  return value
}

/** What the decoder adapters share: the config keys every family states, and the tensors with llama names. */
import { ModelError } from '../errors.ts'
import type { LanguageDescription } from '../native.ts'
import type { Rows, TensorBinder } from './binder.ts'
import { describe } from './files.ts'
import type { JsonReader } from './json-reader.ts'
import { type RopeOptions, readRope } from './rope.ts'

/** The language part of a config, before its tensors are known. */
export interface DecoderConfig {
  language: Omit<LanguageDescription, 'tiedHead'>
  /** `max_position_embeddings`. */
  maxPositions: number
  /** Sentences on values of the config that were passed over. */
  notes: string[]
}

/** Where a checkpoint format keeps the decoder's tensors. */
export interface DecoderNames {
  /** Prefix of `embed_tokens`, `layers` and `norm`, with its dot. */
  body: string
  /** Prefix of the head, with its dot, or nothing. */
  head: string
}

/** One decoder family. */
export interface DecoderAdapter {
  /** Short name, as in the family label. */
  name: string
  /** Name of the embedding, after {@link DecoderNames.body}. */
  embedding: string
  /** Name of the output table, after {@link DecoderNames.head}. */
  head: string
  read(config: JsonReader): DecoderConfig
  /** Binds the layers and the final norm; `where` is the config's key, for messages. */
  bind(binder: TensorBinder, config: DecoderConfig, names: DecoderNames, where: string): void
}

const dimension = { min: 1, max: 1 << 20 }

/** The keys all families state. `head_dim` is given by the family: stated, or `hidden_size / num_attention_heads`. */
export function readDecoder(
  config: JsonReader,
  options: {
    headDim: 'stated' | 'derived'
    qkvBias: boolean
    qkNorm: boolean
    rope: Pick<RopeOptions, 'scalingStated' | 'parametersFirst'>
  },
): DecoderConfig {
  config.oneOf('hidden_act', ['silu'])
  const dim = config.integer('hidden_size', dimension)
  const layers = config.integer('num_hidden_layers', { max: 1024 })
  const heads = config.integer('num_attention_heads', { max: 1024 })
  const kvHeads = config.integer('num_key_value_heads', { max: 1024 })
  if (heads % kvHeads !== 0) throw config.fail('num_key_value_heads', `a divisor of num_attention_heads (${heads})`)
  const headDim = readHeadDim(config, options.headDim, dim, heads)
  const ffnDim = config.integer('intermediate_size', dimension)
  const vocab = config.integer('vocab_size', { max: 1 << 24 })
  const normEps = config.number('rms_norm_eps', 1)
  const maxPositions = config.integer('max_position_embeddings', { max: 2 ** 31 - 1 })
  const notes: string[] = []
  const rope = readRope(config, { headDim, maxPositions, ...options.rope }, notes)
  refuseSlidingWindow(config, maxPositions)
  const { qkvBias, qkNorm } = options
  return {
    language: { dim, layers, heads, kvHeads, headDim, ffnDim, vocab, normEps, qkvBias, qkNorm, rope },
    maxPositions,
    notes,
  }
}

function readHeadDim(config: JsonReader, how: 'stated' | 'derived', dim: number, heads: number): number {
  if (how === 'derived' && !config.has('head_dim')) {
    if (dim % heads !== 0) throw config.fail('num_attention_heads', `a divisor of hidden_size (${dim})`)
    const headDim = dim / heads
    if (headDim % 2 !== 0)
      throw config.fail('num_attention_heads', `such that hidden_size / num_attention_heads is even`)
    return headDim
  }
  const headDim = config.integer('head_dim', { min: 2, max: 1024 })
  if (headDim % 2 !== 0) throw config.fail('head_dim', 'an even integer')
  return headDim
}

/** Windows that the context cannot outgrow, or that are switched off, change nothing; others are refused. */
function refuseSlidingWindow(config: JsonReader, maxPositions: number): void {
  const layerTypes = config.optional('layer_types', (key) => config.strings(key))
  if (layerTypes?.some((type) => type !== 'full_attention' && type !== 'sliding_attention')) {
    throw config.unsupported('layer_types', 'layers of "full_attention"')
  }
  const used = layerTypes?.includes('sliding_attention') ?? config.raw('use_sliding_window') !== false
  if (used && config.has('sliding_window') && config.integer('sliding_window') < maxPositions) {
    const full = `a window of at least max_position_embeddings, ${maxPositions}`
    throw config.unsupported('sliding_window', `full attention (${full})`)
  }
}

/** Binds the decoder's embedding and output table; tells whether the embedding is the output table. */
export function bindVocabulary(
  binder: TensorBinder,
  config: DecoderConfig,
  names: { embedding: string; head: string },
  { tied, where }: { tied: boolean | undefined; where: string },
): boolean {
  const { vocab, dim } = config.language
  const why = `${where}.vocab_size ${vocab}, ${where}.hidden_size ${dim}`
  // The safetensors library's save_model keeps of tied tensors the one whose name sorts first, which may be the head's, and notes the other.
  if (binder.isSame(names.embedding, names.head) && !binder.has(names.embedding)) {
    binder.whole('language.embedding.weight', names.head, [vocab, dim], why)
    binder.notes.push(`The one table of a tied model is stored as ${names.head}; it is the embedding as well.`)
    return true
  }
  binder.whole('language.embedding.weight', names.embedding, [vocab, dim], why)
  // The flag is unreliable: several published files say "tied" beside a stored table. A stored table is always used.
  if (!binder.has(names.head) && (tied || binder.isSame(names.embedding, names.head))) return true
  binder.whole('language.head.weight', names.head, [vocab, dim], why)
  return false
}

/** Layers and final norm with llama names: separate q, k, v, gate and up. Serves Qwen2, Qwen3 and llama. */
export function bindLlamaLayers(binder: TensorBinder, config: DecoderConfig, names: DecoderNames, where: string): void {
  const { dim, layers, heads, kvHeads, headDim, ffnDim, qkvBias, qkNorm } = config.language
  const q = heads * headDim
  const kv = kvHeads * headDim
  const attention = `${where}: ${heads} heads, ${kvHeads} key-value heads of ${headDim}`
  const mlp = `${where}.intermediate_size ${ffnDim}, ${where}.hidden_size ${dim}`
  for (let layer = 0; layer < layers; layer++) {
    const from = `${names.body}layers.${layer}.`
    const to = `language.layers.${layer}.`
    const qkv = (kind: string) =>
      (['q', 'k', 'v'] as const).map(
        (name) => [`${from}self_attn.${name}_proj.${kind}`, name === 'q' ? q : kv] as const,
      )
    binder.whole(`${to}norm1.weight`, `${from}input_layernorm.weight`, [dim])
    binder.concat(`${to}qkv.weight`, qkv('weight'), [q + 2 * kv, dim], attention)
    if (qkvBias) binder.concat(`${to}qkv.bias`, qkv('bias'), [q + 2 * kv], attention)
    if (qkNorm) {
      binder.whole(`${to}q_norm.weight`, `${from}self_attn.q_norm.weight`, [headDim])
      binder.whole(`${to}k_norm.weight`, `${from}self_attn.k_norm.weight`, [headDim])
    }
    binder.whole(`${to}out.weight`, `${from}self_attn.o_proj.weight`, [dim, q], attention)
    binder.whole(`${to}norm2.weight`, `${from}post_attention_layernorm.weight`, [dim])
    binder.whole(`${to}gate.weight`, `${from}mlp.gate_proj.weight`, [ffnDim, dim], mlp)
    binder.whole(`${to}up.weight`, `${from}mlp.up_proj.weight`, [ffnDim, dim], mlp)
    binder.whole(`${to}down.weight`, `${from}mlp.down_proj.weight`, [dim, ffnDim], mlp)
  }
  binder.whole('language.norm.weight', `${names.body}norm.weight`, [dim])
}

/** Rows of one packed tensor, taken in runs: `[first, rows]` each. */
export function rowsOf(tensor: Rows['tensor'], runs: readonly (readonly [first: number, rows: number])[]): Rows[] {
  return runs.map(([first, rows]) => ({ tensor, first, rows }))
}

/** Whether the config says that the embedding is the output table; `undefined` if it does not say. */
export function readTie(top: JsonReader, text: JsonReader): boolean | undefined {
  const flags = [text, top].map((config) => config.optional('tie_word_embeddings', (key) => config.boolean(key)))
  if (flags.includes(true)) return true
  return flags.includes(false) ? false : undefined
}

export function refuseBias(config: JsonReader, key: string): void {
  const value = config.raw(key)
  if (value === undefined || value === null || value === false) return
  throw new ModelError(
    'UNSUPPORTED_MODEL',
    `${config.file}: ${config.path(key)} is ${describe(value)}; this package runs this family without biases only.`,
  )
}

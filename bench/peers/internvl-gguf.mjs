// The pair of GGUF files that llama.cpp loads in place of a checkpoint of InternVL with a Qwen2 decoder: the language model, and the vision
// tower with its projector (mmproj). Weights are the checkpoint's; llama-quantize makes 8 and 4 bits of the first.
import { open, readFile } from 'node:fs/promises'
import path from 'node:path'
import { readWeights } from '../../dist/checkpoint/safetensors.js'
import { tensorTypes, writeGguf } from './gguf.mjs'

const chunkBytes = 1 << 24

/** Of general.file_type, as llama.cpp numbers them. */
const fileTypes = { F16: 1, BF16: 32 }

/** Kinds of tokens, as llama.cpp numbers them. */
const tokenKinds = { normal: 1, control: 3, userDefined: 4, unused: 5 }

const chatTemplate =
  "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}{% endfor %}" +
  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"

/** f16 bits of every bf16 value, rounded to the nearest, ties to even; what is beyond f16 becomes infinite. */
let halves
function halfTable() {
  if (halves !== undefined) return halves
  halves = new Uint16Array(1 << 16)
  for (let bits = 0; bits < halves.length; bits++) {
    const sign = bits & 0x8000
    const exponent = ((bits >> 7) & 0xff) - 127
    const fraction = bits & 0x7f
    if (exponent === 128) halves[bits] = sign | 0x7c00 | (fraction << 3)
    else if (exponent > 15) halves[bits] = sign | 0x7c00
    else if (exponent >= -14) halves[bits] = sign | ((exponent + 15) << 10) | (fraction << 3)
    else if (exponent >= -25) {
      // A subnormal in units of 2^-24.
      const units = (0x80 | fraction) * 2 ** (exponent + 17)
      const down = Math.floor(units)
      const rest = units - down
      halves[bits] = sign | (down + (rest > 0.5 || (rest === 0.5 && down % 2 === 1) ? 1 : 0))
    } else halves[bits] = sign
  }
  return halves
}

/** What bf16 bits are in another type. */
function converted(bits, type) {
  if (type === 'BF16') return bits
  if (type === 'F32') return Uint32Array.from(bits, (one) => one << 16)
  const table = halfTable()
  return bits.map((one) => table[one])
}

const bytesOf = ({ buffer, byteOffset, byteLength }) => new Uint8Array(buffer, byteOffset, byteLength)

/** Reads rows `[first, first + rows)` of a stored bf16 tensor, a piece at a time, in the wanted type. */
async function* readRows(file, stored, first, rows, type) {
  const each = stored.bytes / stored.shape[0]
  const end = stored.offset + (first + rows) * each
  const handle = await open(file)
  try {
    for (let at = stored.offset + first * each; at < end; at += chunkBytes) {
      const bits = new Uint16Array(Math.min(chunkBytes, end - at) / 2)
      const { bytesRead } = await handle.read(bytesOf(bits), 0, bits.byteLength, at)
      if (bytesRead !== bits.byteLength) throw new Error(`${file}: expected ${bits.byteLength} bytes at ${at}.`)
      yield bytesOf(converted(bits, type))
    }
  } finally {
    await handle.close()
  }
}

/** Takes tensors out of a checkpoint by name; what nobody took is an error. */
class Source {
  constructor(weights) {
    this.weights = weights
    this.taken = new Set()
  }

  /** Matrices are kept in `matrix`, everything else in f32, as llama.cpp wants it. */
  tensor(name, from, matrix, options = {}) {
    const stored = this.weights.tensors.get(from)
    if (stored === undefined) throw new Error(`${from}: expected it in the checkpoint, found none.`)
    if (stored.dtype !== 'BF16') throw new Error(`${from}: expected BF16, found ${stored.dtype}.`)
    this.taken.add(from)
    const { first = 0, rows = stored.shape[0], f32 = false } = options
    // Sizes of 1 in front say nothing: llama.cpp counts a class embedding as a vector.
    const shape = [rows, ...stored.shape.slice(1)]
    while (shape.length > 1 && shape[0] === 1) shape.shift()
    const type = f32 || shape.length === 1 ? 'F32' : matrix
    const file = this.weights.files[stored.file]
    return { name, shape, type, data: () => readRows(file, stored, first, rows, type) }
  }

  linear(name, from, matrix, options) {
    return ['weight', 'bias'].map((part) => this.tensor(`${name}.${part}`, `${from}.${part}`, matrix, options))
  }

  done() {
    const left = [...this.weights.tensors.keys()].filter((name) => !this.taken.has(name))
    if (left.length > 0) throw new Error(`${left[0]}: expected a tensor of InternVL with a Qwen2 decoder.`)
  }
}

function languageTensors(source, layers, tied, matrix) {
  const body = 'language_model.model.'
  const tensors = [source.tensor('token_embd.weight', `${body}embed_tokens.weight`, matrix)]
  for (let layer = 0; layer < layers; layer++) {
    const [to, from] = [`blk.${layer}.`, `${body}layers.${layer}.`]
    tensors.push(
      source.tensor(`${to}attn_norm.weight`, `${from}input_layernorm.weight`, matrix),
      ...['q', 'k', 'v'].flatMap((one) => source.linear(`${to}attn_${one}`, `${from}self_attn.${one}_proj`, matrix)),
      source.tensor(`${to}attn_output.weight`, `${from}self_attn.o_proj.weight`, matrix),
      source.tensor(`${to}ffn_norm.weight`, `${from}post_attention_layernorm.weight`, matrix),
      ...['gate', 'up', 'down'].map((one) =>
        source.tensor(`${to}ffn_${one}.weight`, `${from}mlp.${one}_proj.weight`, matrix),
      ),
    )
  }
  tensors.push(source.tensor('output_norm.weight', `${body}norm.weight`, matrix))
  if (!tied) tensors.push(source.tensor('output.weight', 'language_model.lm_head.weight', matrix))
  return tensors
}

function visionTensors(source, { num_hidden_layers: layers, hidden_size: dim }, matrix) {
  const embeddings = 'vision_model.embeddings.'
  const tensors = [
    source.tensor('v.class_embd', `${embeddings}class_embedding`, matrix),
    ...source.linear('v.patch_embd', `${embeddings}patch_embedding`, matrix),
    source.tensor('v.position_embd.weight', `${embeddings}position_embedding`, matrix, { f32: true }),
  ]
  for (let layer = 0; layer < layers; layer++) {
    const [to, from] = [`v.blk.${layer}.`, `vision_model.encoder.layers.${layer}.`]
    const part = (i) => ({ first: i * dim, rows: dim })
    tensors.push(
      ...source.linear(`${to}ln1`, `${from}norm1`, matrix),
      ...['q', 'k', 'v'].flatMap((one, i) => source.linear(`${to}attn_${one}`, `${from}attn.qkv`, matrix, part(i))),
      ...source.linear(`${to}attn_out`, `${from}attn.proj`, matrix),
      source.tensor(`${to}ls1.weight`, `${from}ls1`, matrix),
      ...source.linear(`${to}ln2`, `${from}norm2`, matrix),
      ...source.linear(`${to}ffn_up`, `${from}mlp.fc1`, matrix),
      ...source.linear(`${to}ffn_down`, `${from}mlp.fc2`, matrix),
      source.tensor(`${to}ls2.weight`, `${from}ls2`, matrix),
    )
  }
  return [...tensors, ...[0, 1, 3].flatMap((i) => source.linear(`mm.model.mlp.${i}`, `mlp1.${i}`, matrix))]
}

/** Texts of all ids and their kinds; ids of the embedding that the tokenizer has no token for are unused ones. */
async function vocabularyOf(dir, size) {
  const json = async (name) => JSON.parse(await readFile(path.join(dir, name), 'utf8'))
  const tokens = Array.from({ length: size }, (_, id) => `[PAD${id}]`)
  const kinds = new Array(size).fill(tokenKinds.unused)
  const set = (id, text, kind) => {
    if (!Number.isInteger(id) || id < 0 || id >= size)
      throw new Error(`${text}: expected an id below ${size}, found ${id}.`)
    tokens[id] = text
    kinds[id] = kind
  }
  for (const [text, id] of Object.entries(await json('vocab.json'))) set(id, text, tokenKinds.normal)
  const { added_tokens_decoder: added = {}, eos_token: eos } = await json('tokenizer_config.json')
  for (const [id, { content, special }] of Object.entries(added))
    set(Number(id), content, special ? tokenKinds.control : tokenKinds.userDefined)
  const lines = (await readFile(path.join(dir, 'merges.txt'), 'utf8')).split('\n')
  const merges = lines.filter((line, i) => line !== '' && !(i === 0 && line.startsWith('#version')))
  return { tokens, kinds, merges, eos: tokens.indexOf(eos) }
}

function languageMetadata(name, llm, vocabulary, type) {
  const { tokens, kinds, merges, eos } = vocabulary
  return [
    ['general.architecture', 'string', 'qwen2'],
    ['general.type', 'string', 'model'],
    ['general.name', 'string', name],
    ['general.file_type', 'u32', fileTypes[type]],
    ['general.quantization_version', 'u32', 2],
    ['qwen2.block_count', 'u32', llm.num_hidden_layers],
    ['qwen2.context_length', 'u32', llm.max_position_embeddings],
    ['qwen2.embedding_length', 'u32', llm.hidden_size],
    ['qwen2.feed_forward_length', 'u32', llm.intermediate_size],
    ['qwen2.attention.head_count', 'u32', llm.num_attention_heads],
    ['qwen2.attention.head_count_kv', 'u32', llm.num_key_value_heads],
    ['qwen2.attention.layer_norm_rms_epsilon', 'f32', llm.rms_norm_eps],
    ['qwen2.rope.freq_base', 'f32', llm.rope_theta],
    ['tokenizer.ggml.model', 'string', 'gpt2'],
    ['tokenizer.ggml.pre', 'string', 'qwen2'],
    ['tokenizer.ggml.tokens', 'string[]', tokens],
    ['tokenizer.ggml.token_type', 'i32[]', kinds],
    ['tokenizer.ggml.merges', 'string[]', merges],
    ['tokenizer.ggml.eos_token_id', 'u32', eos],
    ['tokenizer.ggml.add_bos_token', 'bool', false],
    ['tokenizer.chat_template', 'string', chatTemplate],
  ]
}

function visionMetadata(name, config, type) {
  const vision = config.vision_config
  return [
    ['general.architecture', 'string', 'clip'],
    ['general.type', 'string', 'mmproj'],
    ['general.name', 'string', name],
    ['general.file_type', 'u32', fileTypes[type]],
    ['clip.has_vision_encoder', 'bool', true],
    ['clip.projector_type', 'string', 'internvl'],
    ['clip.use_gelu', 'bool', true],
    ['clip.vision.image_size', 'u32', vision.image_size],
    ['clip.vision.patch_size', 'u32', vision.patch_size],
    ['clip.vision.embedding_length', 'u32', vision.hidden_size],
    ['clip.vision.feed_forward_length', 'u32', vision.intermediate_size],
    ['clip.vision.block_count', 'u32', vision.num_hidden_layers],
    ['clip.vision.attention.head_count', 'u32', vision.num_attention_heads],
    ['clip.vision.attention.layer_norm_epsilon', 'f32', vision.layer_norm_eps],
    ['clip.vision.projection_dim', 'u32', config.llm_config.hidden_size],
    ['clip.vision.projector.scale_factor', 'u32', Math.round(1 / config.downsample_ratio)],
    ['clip.vision.preproc_min_tiles', 'u32', config.min_dynamic_patch],
    ['clip.vision.preproc_max_tiles', 'u32', config.max_dynamic_patch],
    ['clip.vision.image_mean', 'f32[]', [0.485, 0.456, 0.406]],
    ['clip.vision.image_std', 'f32[]', [0.229, 0.224, 0.225]],
  ]
}

/**
 * Writes `language-<type>.gguf` and `vision-<type>.gguf`.
 *
 * @param dir - A folder of InternVL's remote-code format with a Qwen2 decoder and bf16 weights, such as `make-checkpoint` writes.
 * @param out - An existing folder.
 * @param type - `F16` or `BF16`, of the matrices; vectors and the position embedding are F32.
 * @returns Paths of the two.
 * @throws Error where the checkpoint is another one.
 */
export async function writePair(dir, out, type) {
  if (!Object.hasOwn(fileTypes, type) || !Object.hasOwn(tensorTypes, type))
    throw new Error(`Expected a type out of ${Object.keys(fileTypes).join(', ')}, received ${type}.`)
  const config = JSON.parse(await readFile(path.join(dir, 'config.json'), 'utf8'))
  const { vision_config: vision, llm_config: llm } = config
  const [architecture] = llm?.architectures ?? []
  if (architecture !== 'Qwen2ForCausalLM' || vision === undefined)
    throw new Error(`${dir}: expected InternVL with a Qwen2 decoder, found ${architecture ?? 'another model'}.`)
  const source = new Source(await readWeights(dir))
  const language = languageTensors(source, llm.num_hidden_layers, llm.tie_word_embeddings ?? false, type)
  const tower = visionTensors(source, vision, type)
  source.done()
  const name = path.basename(path.resolve(dir))
  const file = (part) => path.join(out, `${part}-${type.toLowerCase()}.gguf`)
  const pair = { language: file('language'), vision: file('vision') }
  const vocabulary = await vocabularyOf(dir, language[0].shape[0])
  await writeGguf(pair.language, languageMetadata(name, llm, vocabulary, type), language)
  await writeGguf(pair.vision, visionMetadata(name, config, type), tower)
  return pair
}

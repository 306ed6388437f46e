import { execFileSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { writeGguf } from '../../bench/peers/gguf.mjs'
import { writePair } from '../../bench/peers/internvl-gguf.mjs'
import { readWeights } from '../../lib/checkpoint/safetensors.ts'
import { standIns } from '../../scripts/stand-in/families.ts'
import { makeCheckpoint } from '../../scripts/stand-in/make-checkpoint.ts'
import { root, temporaryFolder } from './checkpoint-folder.ts'

const f32 = (values: number[]) => new Uint8Array(Float32Array.from(values).buffer)
const one = (name: string, shape: number[], type: string, bytes: Uint8Array) => ({
  name,
  shape,
  type,
  data: () => [bytes],
})

/** Numbers, strings and lists of a file, read one after the other as the format's specification has them. */
class Reader {
  at = 0
  readonly bytes: Buffer
  readonly view: DataView
  constructor(bytes: Buffer) {
    this.bytes = bytes
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  }
  take(size: number): number {
    this.at += size
    return this.at - size
  }
  u32 = () => this.view.getUint32(this.take(4), true)
  u64 = () => Number(this.view.getBigUint64(this.take(8), true))
  text = () => {
    const size = this.u64()
    const from = this.take(size)
    return this.bytes.toString('utf8', from, from + size)
  }
  value(type = this.u32()): unknown {
    if (type === 4) return this.u32()
    if (type === 5) return this.view.getInt32(this.take(4), true)
    if (type === 6) return this.view.getFloat32(this.take(4), true)
    if (type === 7) return this.bytes[this.take(1)] === 1
    if (type === 8) return this.text()
    if (type !== 9) throw new Error(`type ${type} before ${this.at}`)
    const element = this.u32()
    return Array.from({ length: this.u64() }, () => this.value(element))
  }
}

/** Metadata, and dimensions (fastest first), type and data of each tensor. */
function parsed(file: string) {
  const bytes = readFileSync(file)
  const reader = new Reader(bytes)
  expect(bytes.toString('latin1', 0, reader.take(4) + 4)).toBe('GGUF')
  expect(reader.u32()).toBe(3)
  const [count, pairs] = [reader.u64(), reader.u64()]
  const metadata: Record<string, unknown> = {}
  for (let i = 0; i < pairs; i++) metadata[reader.text()] = reader.value()
  expect(Object.keys(metadata).length).toBe(pairs)
  const directory = Array.from({ length: count }, () => {
    const name = reader.text()
    const dims = Array.from({ length: reader.u32() }, () => reader.u64())
    return { name, dims, dtype: reader.u32(), offset: reader.u64() }
  })
  const start = Math.ceil(reader.at / 32) * 32
  const sizes: Record<number, number> = { 0: 4, 1: 2, 30: 2 }
  let end = start
  const tensors = new Map(
    directory.map(({ name, dims, dtype, offset }) => {
      const begin = start + offset
      const length = dims.reduce((product, size) => product * size, sizes[dtype]!)
      expect(offset % 32).toBe(0)
      expect(begin - end).toBeLessThan(32)
      expect(begin).toBeGreaterThanOrEqual(end)
      end = begin + length
      return [name, { dims, dtype, data: bytes.subarray(begin, end) }] as const
    }),
  )
  expect(bytes.length - end).toBeLessThan(32)
  return { metadata, tensors, bytes: bytes.length }
}

const numberOf = (bits: number) => new Float32Array(Uint32Array.of(bits << 16).buffer)[0]!
function halfOf(bits: number): number {
  const [sign, exponent, fraction] = [bits >> 15 ? -1 : 1, (bits >> 10) & 31, bits & 1023]
  return sign * (exponent === 0 ? fraction * 2 ** -24 : (1 + fraction / 1024) * 2 ** (exponent - 15))
}
const words = (bytes: Uint8Array) => new Uint16Array(Uint8Array.from(bytes).buffer)
const floats = (bytes: Uint8Array) => new Float32Array(Uint8Array.from(bytes).buffer)

describe('a GGUF file', () => {
  test('is read back: values of every type, tensors at aligned places', async () => {
    const file = path.join(temporaryFolder('gguf'), 'all.gguf')
    const values = [
      ['general.architecture', 'string', 'test'],
      ['a.u32', 'u32', 4294967295],
      ['a.i32', 'i32', -2147483648],
      ['a.f32', 'f32', 0.5],
      ['a.bool', 'bool', true],
      ['a.strings', 'string[]', ['', 'ä', 'x'.repeat(100_000)]],
      ['a.numbers', 'i32[]', [-1, 2]],
    ]
    const written = await writeGguf(file, values, [
      one('odd', [3], 'F32', f32([1, 2, 3])),
      one(
        'matrix',
        [2, 4],
        'BF16',
        Uint8Array.from({ length: 16 }, (_, i) => i),
      ),
    ])
    const { metadata, tensors, bytes } = parsed(file)
    expect(bytes).toBe(written)
    expect(metadata['general.alignment']).toBe(32)
    for (const [key, , value] of values) expect(metadata[key as string]).toEqual(value)
    expect(tensors.get('odd')).toMatchObject({ dims: [3], dtype: 0 })
    expect(floats(tensors.get('odd')!.data)).toEqual(Float32Array.of(1, 2, 3))
    expect(tensors.get('matrix')).toMatchObject({ dims: [4, 2], dtype: 30 })
    expect([...tensors.get('matrix')!.data]).toEqual(Array.from({ length: 16 }, (_, i) => i))
  })

  const good = one('a', [2], 'F32', f32([1, 2]))
  test.each([
    ['two tensors of a name', [], [good, good], 'a: expected one tensor of this name'],
    ['a long name', [], [{ ...good, name: 'x'.repeat(64) }], 'expected a name of 1 to 63 bytes'],
    ['an unknown tensor type', [], [{ ...good, type: 'Q8_0' }], 'expected a type out of F32, F16, BF16, received Q8_0'],
    ['no dimensions', [], [{ ...good, shape: [] }], 'expected 1 to 4 dimensions'],
    ['short data', [], [{ ...good, shape: [3] }], 'a: expected 12 bytes of data, received 8'],
    [
      'two values of a key',
      [
        ['k', 'u32', 1],
        ['k', 'u32', 2],
      ],
      [],
      'k: expected one value of this key',
    ],
    ['an unknown value type', [['k', 'u128', 1]], [], 'k: Expected a known type, received u128'],
    ['a value outside of its type', [['k', 'u32', -1]], [], 'k: Expected an integer from 0 to 4294967295'],
    ['no number', [['k', 'f32', undefined]], [], 'k: Expected a finite number'],
    ['no list', [['k', 'u32[]', 1]], [], 'k: Expected a list'],
  ])('%s is refused, and leaves no file', async (_, metadata, tensors, message) => {
    const folder = temporaryFolder('gguf')
    await expect(writeGguf(path.join(folder, 'bad.gguf'), metadata, tensors)).rejects.toThrow(message)
    expect(readdirSync(folder)).toEqual([])
  })
})

/** InternVL2-1B with small layers, and a vocabulary of 300. */
const small = {
  ...standIns['internvl2-1b']!,
  vision: { dim: 64, layers: 2, heads: 1, ffn: 128, patch: 14, image: 56 },
  dim: 64,
  layers: 2,
  heads: 4,
  kvHeads: 2,
  headDim: 16,
  ffn: 128,
  vocab: 300,
}

async function smallCheckpoint(family = small): Promise<string> {
  const dir = temporaryFolder('pair')
  await makeCheckpoint({ family, out: dir })
  const write = (name: string, value: unknown) => writeFileSync(path.join(dir, name), JSON.stringify(value))
  write('vocab.json', Object.fromEntries(Array.from({ length: 256 }, (_, id) => [`t${id}`, id])))
  const added = { 256: { content: '<|im_end|>', special: true }, 257: { content: '<ref>', special: false } }
  write('tokenizer_config.json', { added_tokens_decoder: added, eos_token: '<|im_end|>' })
  writeFileSync(path.join(dir, 'merges.txt'), '#version: 0.2\nt 1\n# t2\n')
  return dir
}

describe('the pair that llama.cpp loads', () => {
  test.each(['F16', 'BF16'])('has every weight of the checkpoint, in %s', async (type) => {
    const dir = await smallCheckpoint()
    const pair = await writePair(dir, dir, type)
    const language = parsed(pair.language)
    const vision = parsed(pair.vision)
    const weights = await readWeights(dir)
    const stored = (name: string) => {
      const tensor = weights.tensors.get(name)!
      const bytes = readFileSync(weights.files[tensor.file]!).subarray(tensor.offset, tensor.offset + tensor.bytes)
      return Float32Array.from(words(bytes), numberOf)
    }
    const read = ({ tensors }: typeof vision, name: string) => {
      const { dtype, data } = tensors.get(name)!
      if (dtype === 0) return floats(data)
      return Float32Array.from(words(data), dtype === 1 ? halfOf : numberOf)
    }
    const near = (from: Float32Array, to: Float32Array) => {
      expect(to.length).toBe(from.length)
      // Below 2^-14 a half has steps of 2^-24; above, it holds a bf16 without rounding.
      for (let i = 0; i < from.length; i++) {
        if (Math.abs(to[i]! - from[i]!) > (type === 'F16' ? 2 ** -25 : 0))
          throw new Error(`${i}: ${to[i]}, not ${from[i]}`)
      }
    }
    const elements = ({ tensors }: typeof vision) =>
      [...tensors.values()].reduce((sum, { dims }) => sum + dims.reduce((product, size) => product * size, 1), 0)
    const all = [...weights.tensors.values()].reduce((sum, { bytes }) => sum + bytes / 2, 0)
    expect(elements(language) + elements(vision)).toBe(all)

    const layer = 'language_model.model.layers.1.'
    near(stored('language_model.model.embed_tokens.weight'), read(language, 'token_embd.weight'))
    near(stored('language_model.lm_head.weight'), read(language, 'output.weight'))
    near(stored(`${layer}self_attn.k_proj.weight`), read(language, 'blk.1.attn_k.weight'))
    near(stored(`${layer}self_attn.o_proj.weight`), read(language, 'blk.1.attn_output.weight'))
    near(stored(`${layer}mlp.down_proj.weight`), read(language, 'blk.1.ffn_down.weight'))
    near(stored(`${layer}post_attention_layernorm.weight`), read(language, 'blk.1.ffn_norm.weight'))
    const qkv = stored('vision_model.encoder.layers.0.attn.qkv.weight')
    near(qkv.subarray(0, 64 * 64), read(vision, 'v.blk.0.attn_q.weight'))
    near(qkv.subarray(64 * 64, 2 * 64 * 64), read(vision, 'v.blk.0.attn_k.weight'))
    near(qkv.subarray(2 * 64 * 64), read(vision, 'v.blk.0.attn_v.weight'))
    near(stored('vision_model.encoder.layers.1.mlp.fc1.weight'), read(vision, 'v.blk.1.ffn_up.weight'))
    near(stored('mlp1.3.weight'), read(vision, 'mm.model.mlp.3.weight'))

    const matrix = type === 'F16' ? 1 : 30
    expect(language.tensors.get('blk.0.attn_q.weight')).toMatchObject({ dims: [64, 64], dtype: matrix })
    expect(language.tensors.get('blk.0.attn_q.bias')).toMatchObject({ dims: [64], dtype: 0 })
    expect(vision.tensors.get('v.patch_embd.weight')).toMatchObject({ dims: [14, 14, 3, 64], dtype: matrix })
    expect(vision.tensors.get('v.position_embd.weight')).toMatchObject({ dims: [64, 17], dtype: 0 })
    expect(vision.tensors.get('v.class_embd')).toMatchObject({ dims: [64], dtype: 0 })
    expect(language.metadata).toMatchObject({
      'general.architecture': 'qwen2',
      'qwen2.block_count': 2,
      'qwen2.attention.head_count': 4,
      'qwen2.attention.head_count_kv': 2,
      'qwen2.rope.freq_base': 1_000_000,
      'tokenizer.ggml.model': 'gpt2',
      'tokenizer.ggml.eos_token_id': 256,
    })
    expect(vision.metadata).toMatchObject({
      'general.architecture': 'clip',
      'clip.projector_type': 'internvl',
      'clip.vision.image_size': 56,
      'clip.vision.projection_dim': 64,
      'clip.vision.projector.scale_factor': 2,
    })
    const tokens = language.metadata['tokenizer.ggml.tokens'] as string[]
    const kinds = language.metadata['tokenizer.ggml.token_type'] as number[]
    expect([tokens.length, kinds.length]).toEqual([300, 300])
    expect([0, 256, 257, 299].map((id) => [tokens[id], kinds[id]])).toEqual([
      ['t0', 1],
      ['<|im_end|>', 3],
      ['<ref>', 4],
      ['[PAD299]', 5],
    ])
    expect(language.metadata['tokenizer.ggml.merges']).toEqual(['t 1', '# t2'])
  })

  test('another decoder is refused by name', async () => {
    const dir = temporaryFolder('pair')
    const config = { llm_config: { architectures: ['Phi3ForCausalLM'] }, vision_config: {} }
    writeFileSync(path.join(dir, 'config.json'), JSON.stringify(config))
    await expect(writePair(dir, dir, 'F16')).rejects.toThrow(
      'expected InternVL with a Qwen2 decoder, found Phi3ForCausalLM',
    )
    expect(readdirSync(dir)).toEqual(['config.json'])
  })

  test('a tensor that is missing, and one too many, are named', async () => {
    const dir = await smallCheckpoint({ ...small, layers: 3 })
    const file = path.join(dir, 'config.json')
    const config = JSON.parse(readFileSync(file, 'utf8'))
    const change = (layers: number) => {
      config.llm_config.num_hidden_layers = layers
      writeFileSync(file, JSON.stringify(config))
    }
    change(4)
    await expect(writePair(dir, dir, 'F16')).rejects.toThrow(/layers\.3\..*: expected it in the checkpoint/)
    change(2)
    await expect(writePair(dir, dir, 'F16')).rejects.toThrow(/layers\.2\..*: expected a tensor of InternVL/)
    await expect(writePair(dir, dir, 'Q4_0')).rejects.toThrow('Expected a type out of F16, BF16, received Q4_0.')
  })

  test('make-checkpoint refuses what it cannot write before it writes anything', () => {
    const out = path.join(temporaryFolder('pair'), 'out')
    const run = (...more: string[]) =>
      execFileSync(process.execPath, ['scripts/make-checkpoint.mjs', '--out', out, ...more], {
        cwd: root,
        encoding: 'utf8',
        stdio: 'pipe',
      })
    expect(() => run('--family', 'internvl2-1b', '--gguf', 'q8_0')).toThrow('Expected --gguf to be f16 or bf16')
    expect(() => run('--family', 'internvl2-4b', '--gguf', 'f16')).toThrow('Expected a family with a Qwen2 decoder')
    expect(existsSync(out)).toBe(false)
  })
})

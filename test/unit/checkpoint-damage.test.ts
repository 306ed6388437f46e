import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { readCheckpoint } from '../../lib/checkpoint/load-checkpoint.ts'
import type { ErrorCode } from '../../lib/errors.ts'
import {
  type Folder,
  fixture,
  llamaFixture,
  modelError,
  newerHfFixture,
  put,
  temporaryFolder,
  write,
} from './checkpoint-folder.ts'

const decoderKeys = [
  'hidden_act',
  'hidden_size',
  'intermediate_size',
  'max_position_embeddings',
  'num_attention_heads',
  'num_hidden_layers',
  'num_key_value_heads',
  'rms_norm_eps',
  'rope_theta',
  'vocab_size',
]
const towerKeys = [
  'hidden_act',
  'hidden_size',
  'image_size',
  'intermediate_size',
  'layer_norm_eps',
  'norm_type',
  'num_attention_heads',
  'num_hidden_layers',
  'patch_size',
]
const under = (parent: string, keys: string[]) => keys.map((key) => `${parent}.${key}`)

const remoteCodeKeys = [
  'architectures',
  'downsample_ratio',
  'dynamic_image_size',
  'llm_config',
  'max_dynamic_patch',
  'min_dynamic_patch',
  'ps_version',
  'select_layer',
  'template',
  'use_thumbnail',
  'vision_config',
  'llm_config.architectures',
  ...under('vision_config', [...towerKeys, 'qkv_bias', 'qk_normalization']),
  ...under('llm_config', decoderKeys),
]
const hfKeys = [
  'architectures',
  'downsample_ratio',
  'image_token_id',
  'projector_hidden_act',
  'text_config',
  'vision_config',
  'vision_feature_layer',
  'vision_feature_select_strategy',
  'text_config.model_type',
  ...under('vision_config', [
    ...towerKeys,
    'attention_bias',
    'use_qk_norm',
    'use_absolute_position_embeddings',
    'use_mean_pooling',
  ]),
  ...under('text_config', decoderKeys),
]
const ropeKeys = ['type', 'short_factor', 'long_factor'].map((key) => `llm_config.rope_scaling.${key}`)

/** The families, each with the keys its config must have. */
const families: [family: string, make: () => Folder, keys: string[]][] = [
  ['qwen2', () => fixture('a1-qwen2'), remoteCodeKeys],
  ['qwen2.5', () => fixture('d1-qwen25'), [...remoteCodeKeys, 'llm_config.rope_scaling.factor']],
  [
    'internlm2',
    () => fixture('b1-internlm2'),
    [...remoteCodeKeys, 'llm_config.rope_scaling', 'llm_config.rope_scaling.factor', 'llm_config.rope_scaling.type'],
  ],
  [
    'phi3',
    () => fixture('c1-phi3'),
    [...remoteCodeKeys, 'llm_config.original_max_position_embeddings', 'llm_config.rope_scaling', ...ropeKeys],
  ],
  ['qwen3', () => fixture('e1-qwen3'), [...remoteCodeKeys, 'llm_config.head_dim']],
  ['-hf qwen2', () => fixture('f1-hf-qwen2'), hfKeys],
  ['-hf llama', llamaFixture, hfKeys],
  ['-hf in the newer spelling', newerHfFixture, hfKeys.filter((key) => key !== 'text_config.rope_theta')],
]

const wrongs: [what: string, value: unknown][] = [
  ['a string', 'x'],
  ['a negative number', -3],
  ['zero', 0],
  ['a fraction', 2.5],
  ['a huge number', 1e300],
  ['null', null],
  ['a list', [1, 2, 3]],
  ['an empty list', []],
  ['an object', {}],
]

/** The wrong values that are possible after all: they change what the model does, but nothing says they are wrong. */
const possible = [
  'template = a string',
  'image_token_id = zero',
  'rope_theta = a fraction',
  'factor = a fraction',
  'rope_scaling = null',
  'select_layer = a negative number',
  'vision_feature_layer = a negative number',
]

describe.each(families)('%s', (_, make, keys) => {
  test('is sound before it is damaged', async () => {
    await readCheckpoint(write(make()))
  })

  test.each(keys)('without %s', async (key) => {
    const folder = make()
    put(folder.config, key, undefined)
    const message = await modelError(readCheckpoint(write(folder)), 'BAD_CHECKPOINT')
    expect(message).toContain('config.json: expected ')
    // A rope_scaling without a type of its own may name either spelling.
    expect(message.replace('rope_type', 'type')).toContain(key)
    expect(message).toMatch(/the key is missing/)
  })

  test('with a wrong value for any key: an error that blames the checkpoint', async () => {
    for (const key of keys) {
      for (const [what, value] of wrongs) {
        const folder = make()
        put(folder.config, key, value)
        const error = await readCheckpoint(write(folder)).then(
          () => undefined,
          (reason: { code?: ErrorCode }) => reason,
        )
        const found = `${key} = ${what}: ${String(error)}`
        if (error) expect(['BAD_CHECKPOINT', 'BAD_WEIGHTS', 'UNSUPPORTED_MODEL'], found).toContain(error.code)
        else expect(possible, found).toContain(`${key.split('.').at(-1)} = ${what}`)
      }
    }
  }, 120_000)

  test('without any one tensor', async () => {
    const names = Object.keys(make().tensors)
    for (const name of names) {
      const folder = make()
      delete folder.tensors[name]
      const tied = /lm_head/.test(name) && folder.config.tie_word_embeddings === true
      if (tied) continue
      const message = await modelError(readCheckpoint(write(folder)), 'BAD_WEIGHTS')
      expect(message).toContain(`${name} is missing; expected a tensor`)
      expect(message).toMatch(/found none of that name in (model\.safetensors|the 3 shards)/)
    }
  })

  test('with any one tensor of another shape or dtype', async () => {
    for (const [name, [dtype, shape, file]] of Object.entries(make().tensors)) {
      const longer = [...shape.slice(0, -1), shape.at(-1)! + 1]
      const wider = make()
      wider.tensors[name] = [dtype, longer, file]
      const message = await modelError(readCheckpoint(write(wider)), 'BAD_WEIGHTS')
      const small = dtype.toLowerCase()
      expect(message.startsWith(`${name}: expected ${small} [${shape.join(', ')}]`), message).toBe(true)
      expect(message).toContain(`found ${small} [${longer.join(', ')}] in ${file}.`)

      const flat = make()
      flat.tensors[name] = [dtype, [...shape, 1], file]
      expect(await modelError(readCheckpoint(write(flat)), 'BAD_WEIGHTS')).toContain(`${name}: expected`)

      const integer = make()
      integer.tensors[name] = ['I8', shape, file]
      const quantised = await modelError(readCheckpoint(write(integer)), 'BAD_WEIGHTS')
      expect(quantised).toContain(`${name}: expected bf16, f16 or f32, found i8 in ${file}`)
    }
  })

  test('with a tensor too many', async () => {
    for (const name of [
      'extra.weight',
      'language_model.model.layers.2.mlp.up_proj.weight',
      'vision_model.norm.weight',
    ]) {
      const folder = make()
      folder.tensors[name] = ['BF16', [4, 4], Object.values(folder.tensors)[0]![2]]
      const message = await modelError(readCheckpoint(write(folder)), 'BAD_WEIGHTS')
      expect(message).toContain(
        `${name}: expected only tensors that config.json accounts for, found bf16 [4, 4] in model`,
      )
    }
  })

  test('with another vocabulary size than the tables have', async () => {
    const folder = make()
    const where = folder.config.llm_config ? 'llm_config' : 'text_config'
    const rows = folder.config[where].vocab_size as number
    folder.config[where].vocab_size = rows + 1
    const message = await modelError(readCheckpoint(write(folder)), 'BAD_WEIGHTS')
    expect(message).toMatch(
      new RegExp(
        `expected \\w+ \\[${rows + 1}, \\d+\\] \\(${where}\\.vocab_size ${rows + 1},.*found \\w+ \\[${rows}, `,
      ),
    )
  })

  test('with fewer or more layers than are stored', async () => {
    const folder = make()
    const where = folder.config.llm_config ? 'llm_config' : 'text_config'
    delete folder.config[where].layer_types
    folder.config[where].num_hidden_layers = 1
    expect(await modelError(readCheckpoint(write(folder)), 'BAD_WEIGHTS')).toMatch(
      /layers\.1\..* more like it: expected only/,
    )
    folder.config[where].num_hidden_layers = 1000
    expect(await modelError(readCheckpoint(write(folder)), 'BAD_WEIGHTS')).toMatch(/layers\.2\..* is missing/)
  })
})

describe('refused by name', () => {
  const cases: [what: string, name: string, key: string, value: unknown][] = [
    ['another architecture', 'a1-qwen2', 'architectures', ['LlavaForConditionalGeneration']],
    ['another decoder', 'a1-qwen2', 'llm_config.architectures', ['Qwen3MoeForCausalLM']],
    ['a decoder named like an object method', 'a1-qwen2', 'llm_config.architectures', ['constructor']],
    ['another -hf decoder', 'f1-hf-qwen2', 'text_config.model_type', 'gpt_oss'],
    ['a LoRA-wrapped tower', 'a1-qwen2', 'use_backbone_lora', 16],
    ['a LoRA-wrapped decoder', 'a1-qwen2', 'use_llm_lora', 16],
    ['padding to a square', 'a1-qwen2', 'pad2square', true],
    ['another downsample ratio', 'a1-qwen2', 'downsample_ratio', 0.25],
    ['another pixel shuffle', 'a1-qwen2', 'ps_version', 'v3'],
    ['another vision activation', 'a1-qwen2', 'vision_config.hidden_act', 'gelu_pytorch_tanh'],
    ['another norm', 'a1-qwen2', 'vision_config.norm_type', 'batch_norm'],
    ['another decoder activation', 'a1-qwen2', 'llm_config.hidden_act', 'gelu'],
    ['experts in the tower', 'a1-qwen2', 'vision_config.use_moe', true],
    ['grey pictures', 'a1-qwen2', 'vision_config.num_channels', 1],
    ['the embeddings as output', 'a1-qwen2', 'select_layer', 0],
    ['a window that is active', 'a1-qwen2', 'llm_config', 'window'],
    ['a window of Phi-3 that is active', 'c1-phi3', 'llm_config.sliding_window', 2047],
    ['layers of another type', 'e1-qwen3', 'llm_config.layer_types', ['full_attention', 'linear_attention']],
    ['biases of InternLM2', 'b1-internlm2', 'llm_config.bias', true],
    ['biases of Qwen3', 'e1-qwen3', 'llm_config.attention_bias', true],
    ['yarn', 'a1-qwen2', 'llm_config.rope_scaling', { type: 'yarn', factor: 4 }],
    ['multimodal rope', 'a1-qwen2', 'llm_config.rope_scaling', { type: 'mrope', mrope_section: [16, 24, 24] }],
    ['half rotary heads', 'c1-phi3', 'llm_config.partial_rotary_factor', 0.5],
    ['a Flash variant by its config', 'e1-qwen3', 'flash_mode', true],
    ['the class token as a feature', 'f1-hf-qwen2', 'vision_feature_select_strategy', 'full'],
    ['several feature layers', 'f1-hf-qwen2', 'vision_feature_layer', [-2, -1]],
    ['a final norm in the tower', 'f1-hf-qwen2', 'vision_config.use_mean_pooling', false],
    ['a mask token', 'f1-hf-qwen2', 'vision_config.use_mask_token', true],
    ['no position table', 'f1-hf-qwen2', 'vision_config.use_absolute_position_embeddings', false],
    ['another projector activation', 'f1-hf-qwen2', 'projector_hidden_act', 'relu'],
  ]
  test.each(cases)('%s', async (_, name, key, value) => {
    const folder = fixture(name)
    if (value === 'window') Object.assign(folder.config.llm_config, { use_sliding_window: true, sliding_window: 1024 })
    else put(folder.config, key, value)
    const message = await modelError(readCheckpoint(write(folder)), 'UNSUPPORTED_MODEL')
    expect(message).toMatch(/^config\.json: /)
    expect(message).toContain(key)
  })

  test.each([
    ['language_model.model.layers.0.self_attn.q_proj.lora_A.default.weight', /LoRA adapter\. Merge/],
    ['language_model.base_model.model.model.layers.0.self_attn.q_proj.base_layer.weight', /LoRA adapter/],
    ['mlp2.0.weight', /Flash variant/],
    ['model.gating.mlp1.norm.weight', /Flash variant/],
    ['pooling_before_gating.attn1.in_proj_weight', /Flash variant/],
  ])('a checkpoint with %s', async (name, message) => {
    const folder = fixture('e1-qwen3')
    folder.tensors[name] = ['BF16', [4, 4], 'model.safetensors']
    const found = await modelError(readCheckpoint(write(folder)), 'UNSUPPORTED_MODEL')
    expect(found).toMatch(message)
    expect(found).toContain(`${name} in model.safetensors`)
  })
})

describe('contradictions', () => {
  const cases: [what: string, name: string, changes: Record<string, unknown>, message: RegExp][] = [
    [
      'heads that do not divide the width',
      'a1-qwen2',
      { 'llm_config.num_attention_heads': 5, 'llm_config.num_key_value_heads': 1 },
      /num_attention_heads to be a divisor of hidden_size \(192\), found 5/,
    ],
    [
      'key-value heads that do not divide the heads',
      'a1-qwen2',
      { 'llm_config.num_key_value_heads': 2 },
      /a divisor of num_attention_heads \(3\), found 2/,
    ],
    ['odd heads', 'e1-qwen3', { 'llm_config.head_dim': 127 }, /head_dim to be an even integer, found 127/],
    [
      'vision heads that do not divide the width',
      'a1-qwen2',
      { 'vision_config.num_attention_heads': 5 },
      /vision_config\.num_attention_heads to be a divisor/,
    ],
    [
      'patches that do not divide the picture',
      'a1-qwen2',
      { 'vision_config.image_size': 57 },
      /vision_config\.image_size to be a multiple of patch_size \(14\), found 57/,
    ],
    [
      'tiles that cannot be shuffled',
      'a1-qwen2',
      { force_image_size: 70 },
      /force_image_size to be a multiple of twice the patch size \(28\), at most 8192, found 70/,
    ],
    [
      'pictures that are not square',
      'f1-hf-qwen2',
      { 'vision_config.image_size': [112, 224] },
      /two equal integers, found \[112,224\]/,
    ],
    [
      'fewer tiles at most than at least',
      'a1-qwen2',
      { min_dynamic_patch: 4, max_dynamic_patch: 3 },
      /max_dynamic_patch to be an integer from 4 to 1024, found 3/,
    ],
    [
      'factors of another length',
      'c1-phi3',
      { 'llm_config.rope_scaling.long_factor': [1, 2] },
      /rope_scaling\.long_factor to be a list of 48 positive numbers, found \[1,2\]/,
    ],
    [
      'a factor of zero',
      'c1-phi3',
      { 'llm_config.rope_scaling.short_factor': Array(48).fill(0) },
      /a list of 48 positive numbers, found a list of 48 entries/,
    ],
    [
      'two rope types',
      'd1-qwen25',
      { 'llm_config.rope_scaling.type': 'linear' },
      /rope_scaling\.type to be the same as llm_config\.rope_scaling\.rope_type/,
    ],
    [
      'image tokens that do not follow',
      'f1-hf-qwen2',
      { image_seq_length: 256 },
      /image_seq_length to be 16, .*found 256/,
    ],
  ]
  test.each(cases)('%s', async (_, name, changes, message) => {
    const folder = fixture(name)
    for (const [key, value] of Object.entries(changes)) put(folder.config, key, value)
    expect(await modelError(readCheckpoint(write(folder)), 'BAD_CHECKPOINT')).toMatch(message)
  })

  test('a position table of another picture size', async () => {
    const folder = fixture('a1-qwen2')
    folder.tensors['vision_model.embeddings.position_embedding']![1] = [1, 26, 64]
    const message = await modelError(readCheckpoint(write(folder)), 'BAD_WEIGHTS')
    expect(message).toMatch(
      /position_embedding: expected f32 \[1, 17, 64\] \(vision_config\.image_size 56, .*found f32 \[1, 26, 64\]/,
    )
  })

  test('one tensor in both -hf spellings', async () => {
    const folder = fixture('f1-hf-qwen2')
    folder.tensors['lm_head.weight'] = ['BF16', [527, 192], 'model.safetensors']
    expect(await modelError(readCheckpoint(write(folder)), 'BAD_WEIGHTS')).toMatch(
      /lm_head\.weight in .* are two spellings of one tensor/,
    )
  })
})

describe('files', () => {
  const side = (name: string, text: string) => write({ ...fixture('f1-hf-qwen2'), files: { [name]: text } })

  test.each([
    ['config.json', '{"architectures": ["InternVLChat', /config\.json: expected JSON/],
    ['config.json', '[]', /config\.json: expected a JSON object, found \[\]/],
    ['config.json', '{"architectures": NaN}', /config\.json: expected JSON/],
    ['config.json', '', /config\.json: expected JSON/],
    ['config.json', 'version https://git-lfs.github.com/spec/v1\n', /Git LFS pointer/],
    ['generation_config.json', '{', /generation_config\.json: expected JSON/],
    [
      'generation_config.json',
      '{"eos_token_id": "end"}',
      /generation_config\.json: expected eos_token_id to be a token id below 527 \(the vocabulary\) or a list of them, found "end"/,
    ],
    ['generation_config.json', '{"eos_token_id": [1, -1]}', /found \[1,-1\]/],
    ['generation_config.json', '{"eos_token_id": 527}', /found 527/],
    ['preprocessor_config.json', '{"max_patches": 0}', /preprocessor_config\.json: expected max_patches/],
    ['preprocessor_config.json', '{"image_std": [0, 1, 1]}', /image_std to be a list of 3 positive numbers/],
  ])('%s = %s', async (name, text, message) => {
    expect(await modelError(readCheckpoint(side(name, text)), 'BAD_CHECKPOINT')).toMatch(message)
  })

  test('a broken tokenizer_config.json is the tokenizer’s error', async () => {
    expect(await modelError(readCheckpoint(side('tokenizer_config.json', '{')), 'BAD_TOKENIZER')).toMatch(
      /tokenizer_config\.json: expected JSON/,
    )
  })

  test('a config that is not UTF-8', async () => {
    const dir = write(fixture('a1-qwen2'))
    writeFileSync(path.join(dir, 'config.json'), Buffer.from([0x7b, 0xff, 0x7d]))
    expect(await modelError(readCheckpoint(dir), 'BAD_CHECKPOINT')).toMatch(/UTF-8/)
  })

  test('folders that are none, or hold no model', async () => {
    const dir = temporaryFolder()
    expect(await modelError(readCheckpoint(dir), 'BAD_CHECKPOINT')).toMatch(/found a folder without config\.json/)
    expect(await modelError(readCheckpoint(path.join(dir, 'none')), 'BAD_CHECKPOINT')).toMatch(/found no such folder/)
    const file = path.join(dir, 'file')
    writeFileSync(file, '')
    expect(await modelError(readCheckpoint(file), 'BAD_CHECKPOINT')).toMatch(/found a file/)
    mkdirSync(path.join(dir, 'config.json'))
    expect(await modelError(readCheckpoint(dir), 'BAD_CHECKPOINT')).toMatch(
      /config\.json: expected a regular file, found a folder/,
    )
  })

  test.each([1, 2, 3])('shard %i is missing', async (shard) => {
    const dir = write(fixture('b1-internlm2'))
    const name = `model-0000${shard}-of-00003.safetensors`
    rmSync(path.join(dir, name))
    expect(await modelError(readCheckpoint(dir), 'BAD_WEIGHTS')).toMatch(
      new RegExp(`1 of 3 shards missing in .*: ${name}\\. Download`),
    )
  })
})

import { existsSync, readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { type Checkpoint, readCheckpoint } from '../../lib/checkpoint/load-checkpoint.ts'
import { readWeights } from '../../lib/checkpoint/safetensors.ts'
import { loadAddon, type NetworkDescription } from '../../lib/native.ts'
import { configOf, type StandIn, standIns } from '../../scripts/stand-in/families.ts'
import { tensorsOf } from '../../scripts/stand-in/tensors.ts'
import {
  type Folder,
  fixture,
  fixtureNames,
  llamaFixture,
  modelError,
  newerHfFixture,
  put,
  shared,
  write,
} from './checkpoint-folder.ts'

/** Roles and shapes of the table of parameters. */
function rolesOf(network: NetworkDescription): Map<string, number[]> {
  return new Map(
    loadAddon()
      .parameters(network)
      .map(({ role, shape }) => [role, shape]),
  )
}

const elementBytes = { F32: 4, F16: 2, BF16: 2 }
const product = (shape: number[]) => shape.reduce((a, b) => a * b, 1)

/** All roles are there in their shapes, and together use every byte of the data exactly once. */
async function expectComplete(checkpoint: Checkpoint): Promise<void> {
  const roles = rolesOf(checkpoint.network)
  expect(new Map(checkpoint.tensors.map((tensor) => [tensor.role, tensor.shape]))).toEqual(roles)
  expect(checkpoint.tensors.length).toBe(roles.size)
  const runs: { file: number; begin: number; end: number }[] = []
  for (const { shape, dtype, spans } of checkpoint.tensors) {
    const rowBytes = product(shape.slice(1)) * elementBytes[dtype]
    expect(spans.reduce((rows, span) => rows + span.rows, 0)).toBe(shape[0])
    for (const { file, offset, rows } of spans) runs.push({ file, begin: offset, end: offset + rows * rowBytes })
  }
  runs.sort((a, b) => a.file - b.file || a.begin - b.begin)
  const stored = [...(await readWeights(checkpoint.dir)).tensors.values()]
  const starts = checkpoint.files.map((_, file) =>
    Math.min(...stored.filter((tensor) => tensor.file === file).map((tensor) => tensor.offset)),
  )
  const ends = [...starts]
  for (const run of runs) {
    expect(run.begin).toBe(ends[run.file])
    ends[run.file] = run.end
  }
  expect(ends).toEqual(checkpoint.fileBytes)
  expect(checkpoint.parameters).toBe([...roles.values()].reduce((sum, shape) => sum + product(shape), 0))
}

const tiny = { dim: 64, layers: 3, heads: 4, headDim: 16, ffnDim: 128, positionGrid: 4, outputLayer: 3, tileSize: 56 }

const expected: Record<string, object> = {
  'a1-qwen2': {
    family: 'internvl2-qwen2',
    format: 'remote-code',
    template: 'Hermes-2',
    weightsDType: 'F32',
    vocab: 498,
    network: {
      vision: { ...tiny, norm: 'layer', normEps: 1e-6, qkvBias: true, qkNorm: false },
      projector: { normEps: 1e-5, shuffle: 'v2' },
      language: {
        heads: 3,
        kvHeads: 1,
        headDim: 64,
        qkvBias: true,
        tiedHead: false,
        rope: { kind: 'default', theta: 1e6 },
      },
    },
  },
  'a2-qwen2-tied': { weightsDType: 'BF16', network: { language: { tiedHead: true, heads: 7, headDim: 64 } } },
  'b1-internlm2': {
    family: 'internvl2-internlm2',
    eosIds: [598, 599],
    network: {
      vision: { positionGrid: 8, tileSize: 112 },
      language: { qkvBias: false, normEps: 1e-5, rope: { kind: 'dynamic', theta: 1e6, factor: 2, originalMax: 4096 } },
    },
  },
  'b2-internlm2-ntk': { maxPositions: 64, network: { language: { rope: { kind: 'dynamic', originalMax: 64 } } } },
  'c1-phi3': {
    family: 'internvl2-phi3',
    template: 'phi3-chat',
    eosIds: [607],
    maxPositions: 131072,
    network: {
      language: { headDim: 96, rope: { kind: 'longrope', originalMax: 4096, attentionScale: 1.1902380714238083 } },
    },
  },
  'd1-qwen25': {
    family: 'internvl2.5-qwen2',
    weightsDType: 'F16',
    network: { language: { rope: { kind: 'dynamic' } } },
  },
  'e1-qwen3': {
    family: 'internvl3.5-qwen3',
    vocab: 552,
    network: { language: { dim: 160, headDim: 128, heads: 4, kvHeads: 2, qkNorm: true, qkvBias: false } },
  },
  'f1-hf-qwen2': {
    family: 'internvl-hf-qwen2',
    format: 'hf',
    imageTokenId: 520,
    eosIds: [498],
    tiling: { tileSize: 112, minTiles: 1, maxTiles: 12, dynamic: true, useThumbnail: true },
    network: { projector: { shuffle: 'v2' }, language: { tiedHead: false } },
  },
  'v1-vit448': { tiling: { tileSize: 448 }, network: { vision: { positionGrid: 32 } } },
}

test.each(fixtureNames)('%s is read as what it is', async (name) => {
  const checkpoint = await readCheckpoint(write(fixture(name), name))
  expect(checkpoint).toMatchObject({ name, ...expected[name] })
  await expectComplete(checkpoint)
})

test('the newer -hf spelling gives the same network and roles as the older one', async () => {
  const older = await readCheckpoint(write(fixture('f1-hf-qwen2')))
  const newer = await readCheckpoint(write(newerHfFixture()))
  expect(newer.network).toEqual(older.network)
  expect(newer.tensors.map(({ role, shape }) => ({ role, shape }))).toEqual(
    older.tensors.map(({ role, shape }) => ({ role, shape })),
  )
  await expectComplete(newer)
})

test('InternLM2 converted to llama names is read from the -hf format', async () => {
  const checkpoint = await readCheckpoint(write(llamaFixture()))
  expect(checkpoint.family).toBe('internvl-hf-llama')
  expect(checkpoint.network.language).toMatchObject({
    qkvBias: false,
    rope: { kind: 'dynamic', factor: 2, originalMax: 4096 },
  })
  await expectComplete(checkpoint)
})

test('a tower with RMSNorm and q/k norm keeps both', async () => {
  const folder = fixture('a1-qwen2')
  Object.assign(folder.config.vision_config, { norm_type: 'rms_norm', qk_normalization: true, qkv_bias: false })
  for (const name of Object.keys(folder.tensors)) {
    if (/norm[12]\.bias$|attn\.qkv\.bias$/.test(name)) delete folder.tensors[name]
    const layer = /^(vision_model\.encoder\.layers\.\d+\.attn\.)qkv\.weight$/.exec(name)
    if (!layer) continue
    for (const part of ['q', 'k']) folder.tensors[`${layer[1]}${part}_norm.weight`] = ['F32', [64], 'model.safetensors']
  }
  const checkpoint = await readCheckpoint(write(folder))
  expect(checkpoint.network.vision).toMatchObject({ norm: 'rms', qkNorm: true, qkvBias: false })
  await expectComplete(checkpoint)
})

/** The stand-in of a family as a sparse folder. */
function standInFolder(standIn: StandIn): Folder {
  const tensors = tensorsOf(standIn).map(({ name, shape }) => [name, ['BF16', shape, 'model.safetensors']] as const)
  return { config: configOf(standIn), tensors: Object.fromEntries(tensors) as Folder['tensors'] }
}

describe('published sizes', () => {
  // Parameter counts of spec section 1.4.
  const parameters: Record<string, number> = {
    'internvl2-1b': 938_158_976,
    'internvl2-2b': 2_205_754_368,
    'internvl2-4b': 4_146_855_936,
    'internvl2.5-1b': 938_193_024,
    'internvl2.5-2b': 2_205_754_368,
    'internvl2.5-4b': 3_712_637_952,
    'internvl3-1b': 938_193_024,
    'internvl3-2b': 2_088_957_440,
    'internvl3.5-1b': 1_060_897_792,
    'internvl3.5-2b': 2_348_347_392,
    'internvl3.5-4b': 4_732_489_216,
    'mini-2b-1.5': 2_205_754_368,
    'mini-4b-1.5': 4_146_855_936,
  }

  test('there is a stand-in for each of them', () => {
    expect(Object.keys(standIns).sort()).toEqual(Object.keys(parameters).sort())
  })

  test.each(Object.keys(parameters))('%s has its published parameter count', async (family) => {
    const checkpoint = await readCheckpoint(write(standInFolder(standIns[family]!)))
    expect(checkpoint.parameters).toBe(parameters[family])
    await expectComplete(checkpoint)
    expect(checkpoint.layout).toMatchObject({
      layout: 'canvas',
      canvas: { cellWidth: 896, labels: true, maxTiles: 12 },
    })
  })
})

describe('packed tensors', () => {
  /** Where each canonical row of a role lies in a stored tensor. */
  async function rowsIn(checkpoint: Checkpoint, role: string, stored: string): Promise<number[]> {
    const tensor = (await readWeights(checkpoint.dir)).tensors.get(stored)!
    const source = checkpoint.tensors.find((entry) => entry.role === role)!
    const rowBytes = product(source.shape.slice(1)) * elementBytes[source.dtype]
    return source.spans.flatMap(({ offset, rows }) =>
      Array.from({ length: rows }, (_, i) => (offset - tensor.offset) / rowBytes + i),
    )
  }

  test('wqkv of InternLM2 is ungrouped by the rule of its layout', async () => {
    const checkpoint = await readCheckpoint(write(standInFolder({ ...standIns['internvl2-2b']!, layers: 1 })))
    const name = 'language_model.model.layers.0.attention.wqkv.weight'
    const rows = await rowsIn(checkpoint, 'language.layers.0.qkv.weight', name)
    const [heads, kvHeads, dim] = [16, 8, 128]
    const group = heads / kvHeads
    const canonical = new Map(rows.map((stored, row) => [stored, row]))
    for (let row = 0; row < 4096; row++) {
      const g = Math.floor(row / ((group + 2) * dim))
      const slot = Math.floor(row / dim) % (group + 2)
      const head = slot < group ? g * group + slot : slot === group ? heads + g : heads + kvHeads + g
      expect(canonical.get(row)).toBe(head * dim + (row % dim))
    }
    // The vectors of the specification: row 0 is Q0, 128 Q1, 256 K0, 384 V0, 512 Q2, 4095 the last of V7.
    const starts: [stored: number, canonical: number][] = [
      [0, 0],
      [128, 128],
      [256, 16 * 128],
      [384, 24 * 128],
      [512, 2 * 128],
      [4095, 4095],
    ]
    for (const [stored, row] of starts) expect(rows[row]).toBe(stored)
  })

  test('gate_up_proj of Phi-3 is gate, then up; qkv_proj is taken as it is', async () => {
    const checkpoint = await readCheckpoint(write(standInFolder({ ...standIns['internvl2-4b']!, layers: 1 })))
    const gateUp = 'language_model.model.layers.0.mlp.gate_up_proj.weight'
    const range = (first: number, count: number) => Array.from({ length: count }, (_, i) => first + i)
    expect(await rowsIn(checkpoint, 'language.layers.0.gate.weight', gateUp)).toEqual(range(0, 8192))
    expect(await rowsIn(checkpoint, 'language.layers.0.up.weight', gateUp)).toEqual(range(8192, 8192))
    const qkv = 'language_model.model.layers.0.self_attn.qkv_proj.weight'
    expect(await rowsIn(checkpoint, 'language.layers.0.qkv.weight', qkv)).toEqual(range(0, 9216))
  })

  test('w1, w3 and w2 of InternLM2 are gate, up and down', async () => {
    const checkpoint = await readCheckpoint(write(standInFolder({ ...standIns['internvl2-2b']!, layers: 1 })))
    const { tensors } = await readWeights(checkpoint.dir)
    for (const [role, name] of [
      ['gate', 'w1'],
      ['up', 'w3'],
      ['down', 'w2'],
    ]) {
      const source = checkpoint.tensors.find((tensor) => tensor.role === `language.layers.0.${role}.weight`)!
      const stored = tensors.get(`language_model.model.layers.0.feed_forward.${name}.weight`)!
      expect(source.spans).toEqual([{ file: 0, offset: stored.offset, rows: source.shape[0] }])
    }
  })
})

describe('options and settings', () => {
  test('another tile size keeps the stored position grid', async () => {
    const dir = write(fixture('a1-qwen2'))
    const { network, tiling } = await readCheckpoint(dir, { tileSize: 84 })
    expect(network.vision).toMatchObject({ tileSize: 84, positionGrid: 4 })
    expect(tiling.tileSize).toBe(84)
    for (const tileSize of [85, 0, -28, 42, Number.NaN, 1e9]) {
      expect(await modelError(readCheckpoint(dir, { tileSize }), 'BAD_ARGUMENT')).toMatch(
        /multiple of twice the patch size \(28\)/,
      )
    }
  })

  test('force_image_size goes before image_size', async () => {
    const folder = fixture('a1-qwen2')
    folder.config.force_image_size = 112
    expect((await readCheckpoint(write(folder))).network.vision).toMatchObject({ tileSize: 112, positionGrid: 4 })
    delete folder.config.force_image_size
    expect((await readCheckpoint(write(folder))).network.vision).toMatchObject({ tileSize: 56 })
  })

  test('select_layer counts from the embeddings, or from the end', async () => {
    for (const [value, layer] of [
      [-1, 3],
      [-2, 2],
      [-3, 1],
      [1, 1],
      [3, 3],
    ]) {
      const folder = fixture('a1-qwen2')
      folder.config.select_layer = value
      expect((await readCheckpoint(write(folder))).network.vision.outputLayer).toBe(layer)
    }
  })

  test('a stored head is used whatever the flag says; without one the flag decides', async () => {
    const stored = fixture('a1-qwen2')
    stored.config.tie_word_embeddings = stored.config.llm_config.tie_word_embeddings = true
    expect((await readCheckpoint(write(stored))).network.language.tiedHead).toBe(false)
    const absent = fixture('a1-qwen2')
    delete absent.tensors['language_model.lm_head.weight']
    const message = await modelError(readCheckpoint(write(absent)), 'BAD_WEIGHTS')
    expect(message).toMatch(/language_model\.lm_head\.weight is missing; expected a tensor of shape \[498, 192\]/)
    absent.config.llm_config.tie_word_embeddings = true
    expect((await readCheckpoint(write(absent))).network.language.tiedHead).toBe(true)
    const silent = fixture('f1-hf-qwen2')
    delete silent.tensors['language_model.lm_head.weight']
    delete silent.config.text_config.tie_word_embeddings
    expect((await readCheckpoint(write(silent))).network.language.tiedHead).toBe(true)
  })

  test('buffers of old exporters are ignored', async () => {
    const folder = fixture('c1-phi3')
    for (const layer of [0, 1]) {
      const name = `language_model.model.layers.${layer}.self_attn.rotary_emb.inv_freq`
      folder.tensors[name] = ['F32', [48], 'model.safetensors']
    }
    expect((await readCheckpoint(write(folder))).tensors.length).toBe(69)
  })

  test('settings that change nothing are accepted', async () => {
    const changes: [name: string, key: string, value: unknown][] = [
      ['a1-qwen2', 'llm_config.rope_scaling', null],
      ['a1-qwen2', 'llm_config.rope_scaling', { type: 'default' }],
      ['a1-qwen2', 'llm_config.head_dim', 64],
      ['a1-qwen2', 'llm_config.use_sliding_window', undefined],
      ['a1-qwen2', 'llm_config.layer_types', ['full_attention', 'full_attention']],
      ['a1-qwen2', 'pad2square', undefined],
      ['a1-qwen2', 'use_backbone_lora', undefined],
      ['a1-qwen2', 'system_message', null],
      ['e1-qwen3', 'llm_config.attention_bias', undefined],
      ['c1-phi3', 'llm_config.rope_scaling.type', 'longrope'],
      ['c1-phi3', 'llm_config.sliding_window', null],
      ['f1-hf-qwen2', 'vision_config.image_size', 112],
      ['f1-hf-qwen2', 'vision_config.patch_size', 14],
      ['f1-hf-qwen2', 'image_seq_length', undefined],
    ]
    for (const [name, key, value] of changes) {
      const before = await readCheckpoint(write(fixture(name)))
      const folder = fixture(name)
      put(folder.config, key, value)
      expect((await readCheckpoint(write(folder))).network, key).toEqual(before.network)
    }
  })

  test('phi3 without room to grow is not scaled', async () => {
    const folder = fixture('c1-phi3')
    folder.config.llm_config.original_max_position_embeddings = 131072
    expect((await readCheckpoint(write(folder))).network.language.rope).toMatchObject({ attentionScale: 1 })
  })

  test('tiling and normalisation of the -hf format come from its preprocessor', async () => {
    const folder = fixture('f1-hf-qwen2')
    Object.assign(folder.preprocessor, { max_patches: 6, min_patches: 2, image_mean: [0.5, 0.5, 0.5] })
    const checkpoint = await readCheckpoint(write(folder))
    expect(checkpoint.tiling).toMatchObject({ minTiles: 2, maxTiles: 6 })
    expect(checkpoint.network.vision.mean).toEqual([0.5, 0.5, 0.5])
    delete folder.preprocessor
    expect((await readCheckpoint(write(folder))).tiling).toMatchObject({ minTiles: 1, maxTiles: 12 })
  })
})

describe('the full golden set', () => {
  const models = path.join(shared, 'golden/models')
  const names = existsSync(models) ? readdirSync(models).sort() : []
  if (names.length === 0) test.skip('skipped: there is no shared/golden folder; DRIVLM_SHARED names another place')

  test.each(names)('%s: every role holds the bytes its stored tensors have', async (name) => {
    const checkpoint = await readCheckpoint(path.join(models, name))
    await expectComplete(checkpoint)
    const { files, tensors } = await readWeights(checkpoint.dir)
    const data = files.map((file) => readFileSync(file))
    const stored = (tensor: string): Buffer => {
      const { file, offset, bytes } = tensors.get(tensor)!
      return data[file]!.subarray(offset, offset + bytes)
    }
    const role = (wanted: string): Buffer => {
      const { shape, dtype, spans } = checkpoint.tensors.find((tensor) => tensor.role === wanted)!
      const rowBytes = product(shape.slice(1)) * elementBytes[dtype]
      return Buffer.concat(
        spans.map(({ file, offset, rows }) => data[file]!.subarray(offset, offset + rows * rowBytes)),
      )
    }
    const { decoder, head, parts } = spelling(name)
    for (let i = 0; i < checkpoint.network.language.layers; i++) {
      for (const [wanted, from] of Object.entries(parts(i))) {
        const bytes =
          typeof from === 'string' ? stored(decoder + from) : Buffer.concat(from.map((part) => stored(decoder + part)))
        expect(role(`language.layers.${i}.${wanted}`).equals(bytes), `${wanted} of layer ${i}`).toBe(true)
      }
    }
    if (!checkpoint.network.language.tiedHead) expect(role('language.head.weight').equals(stored(head))).toBe(true)
    const hf = checkpoint.format === 'hf'
    const qkv = hf
      ? ['q', 'k', 'v'].map((part) => `vision_tower.encoder.layer.1.attention.${part}_proj.weight`)
      : ['vision_model.encoder.layers.1.attn.qkv.weight']
    expect(role('vision.layers.1.qkv.weight').equals(Buffer.concat(qkv.map(stored)))).toBe(true)
    expect(
      role('projector.fc2.weight').equals(stored(hf ? 'multi_modal_projector.linear_2.weight' : 'mlp1.3.weight')),
    ).toBe(true)
  })

  /** Stored names by role. With one key-value head, as b1 and b2 have, wqkv is q, k, v in plain order. */
  function spelling(name: string): {
    decoder: string
    head: string
    parts: (i: number) => Record<string, string | string[]>
  } {
    const decoder = 'language_model.model.'
    if (name.startsWith('b')) {
      const parts = (i: number) => ({
        'norm1.weight': `layers.${i}.attention_norm.weight`,
        'norm2.weight': `layers.${i}.ffn_norm.weight`,
        'qkv.weight': `layers.${i}.attention.wqkv.weight`,
        'gate.weight': `layers.${i}.feed_forward.w1.weight`,
        'up.weight': `layers.${i}.feed_forward.w3.weight`,
        'down.weight': `layers.${i}.feed_forward.w2.weight`,
      })
      return { decoder, head: 'language_model.output.weight', parts }
    }
    const parts = (i: number): Record<string, string | string[]> => ({
      'norm1.weight': `layers.${i}.input_layernorm.weight`,
      'norm2.weight': `layers.${i}.post_attention_layernorm.weight`,
      'out.weight': `layers.${i}.self_attn.o_proj.weight`,
      'down.weight': `layers.${i}.mlp.down_proj.weight`,
      ...(name.startsWith('c')
        ? { 'qkv.weight': `layers.${i}.self_attn.qkv_proj.weight` }
        : { 'qkv.weight': ['q', 'k', 'v'].map((part) => `layers.${i}.self_attn.${part}_proj.weight`) }),
    })
    return { decoder, head: 'language_model.lm_head.weight', parts }
  }
})

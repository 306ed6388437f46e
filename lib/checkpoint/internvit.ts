/**
 * InternViT and the projector, in both dialects: `vision_model.*` with `mlp1.*` (remote code), and `vision_tower.*` with
 * `multi_modal_projector.*` and split q, k, v (the library's own, after {@link normalizeHf}).
 */
import type { VisionDescription } from '../native.ts'
import type { TensorBinder } from './binder.ts'

/** The vision part of a config, before its tensors are known. */
export interface VisionConfig {
  vision: Omit<VisionDescription, 'positionGrid'>
  /** `image_size`: what the stored position table was made for. */
  imageSize: number
}

interface Dialect {
  embeddings: { cls: string; patch: string; position: string }
  layer(index: number): string
  norm1: string
  norm2: string
  /** Stored tensors that make up qkv, each a share of its rows. */
  qkv: readonly string[]
  qNorm: string
  kNorm: string
  proj: string
  ls1: string
  ls2: string
  projector: { norm: string; fc1: string; fc2: string }
}

const remoteCode: Dialect = {
  embeddings: {
    cls: 'vision_model.embeddings.class_embedding',
    patch: 'vision_model.embeddings.patch_embedding',
    position: 'vision_model.embeddings.position_embedding',
  },
  layer: (index) => `vision_model.encoder.layers.${index}.`,
  norm1: 'norm1',
  norm2: 'norm2',
  qkv: ['attn.qkv'],
  qNorm: 'attn.q_norm',
  kNorm: 'attn.k_norm',
  proj: 'attn.proj',
  ls1: 'ls1',
  ls2: 'ls2',
  projector: { norm: 'mlp1.0', fc1: 'mlp1.1', fc2: 'mlp1.3' },
}

const hf: Dialect = {
  embeddings: {
    cls: 'vision_tower.embeddings.cls_token',
    patch: 'vision_tower.embeddings.patch_embeddings.projection',
    position: 'vision_tower.embeddings.position_embeddings',
  },
  layer: (index) => `vision_tower.encoder.layer.${index}.`,
  norm1: 'layernorm_before',
  norm2: 'layernorm_after',
  qkv: ['attention.q_proj', 'attention.k_proj', 'attention.v_proj'],
  qNorm: 'attention.q_norm',
  kNorm: 'attention.k_norm',
  proj: 'attention.projection_layer',
  ls1: 'lambda_1',
  ls2: 'lambda_2',
  projector: {
    norm: 'multi_modal_projector.layer_norm',
    fc1: 'multi_modal_projector.linear_1',
    fc2: 'multi_modal_projector.linear_2',
  },
}

/**
 * One name for the two spellings of `-hf` tensors: `model.vision_tower.X` and `vision_tower.X`, `model.language_model.X`
 * and `language_model.model.X`, `language_model.lm_head.X` and `lm_head.X`.
 */
export function normalizeHf(stored: string): string {
  const name = stored.startsWith('model.') ? stored.slice(6) : stored
  if (name.startsWith('language_model.lm_head.')) return name.slice(15)
  return name.startsWith('language_model.model.') ? `language_model.${name.slice(21)}` : name
}

/** Back to the spelling a checkpoint uses, for messages about what is missing. */
export function spellHf(newer: boolean): (name: string) => string {
  return (name) => {
    if (name.startsWith('lm_head.')) return newer ? name : `language_model.${name}`
    if (newer) return `model.${name}`
    return name.startsWith('language_model.') ? `language_model.model.${name.slice(15)}` : name
  }
}

/** Binds the tower; returns the side of the stored position grid. */
export function bindVision(binder: TensorBinder, config: VisionConfig, format: 'remote-code' | 'hf'): number {
  const names = format === 'hf' ? hf : remoteCode
  const { dim, layers, ffnDim, patchSize, norm, qkvBias, qkNorm } = config.vision
  const attention = `vision_config.hidden_size ${dim}`
  const mlp = `vision_config.intermediate_size ${ffnDim}, vision_config.hidden_size ${dim}`
  // Stored as [1, 1, dim], which is the same bytes as `dim` entries.
  binder.whole('vision.class_embedding', names.embeddings.cls, [dim], attention, [1, 1, dim])
  const patch = [dim, 3, patchSize, patchSize]
  const patchWhy = `vision_config.hidden_size ${dim}, vision_config.patch_size ${patchSize}`
  binder.whole('vision.patch.weight', `${names.embeddings.patch}.weight`, [dim, 3 * patchSize ** 2], patchWhy, patch)
  binder.whole('vision.patch.bias', `${names.embeddings.patch}.bias`, [dim])
  const positionGrid = bindPositions(binder, config, names.embeddings.position)
  for (let layer = 0; layer < layers; layer++) {
    const from = names.layer(layer)
    const to = `vision.layers.${layer}.`
    const linear = (role: string, name: string, rows: number, columns: number, why: string) => {
      binder.whole(`${to}${role}.weight`, `${from}${name}.weight`, [rows, columns], why)
      binder.whole(`${to}${role}.bias`, `${from}${name}.bias`, [rows], why)
    }
    const normOf = (role: string, name: string) => {
      binder.whole(`${to}${role}.weight`, `${from}${name}.weight`, [dim])
      if (norm === 'layer') binder.whole(`${to}${role}.bias`, `${from}${name}.bias`, [dim])
    }
    const share = (3 * dim) / names.qkv.length
    const qkv = (kind: string) => names.qkv.map((name) => [`${from}${name}.${kind}`, share] as const)
    normOf('norm1', names.norm1)
    binder.concat(`${to}qkv.weight`, qkv('weight'), [3 * dim, dim], attention)
    if (qkvBias) binder.concat(`${to}qkv.bias`, qkv('bias'), [3 * dim], attention)
    if (qkNorm) {
      binder.whole(`${to}q_norm.weight`, `${from}${names.qNorm}.weight`, [dim])
      binder.whole(`${to}k_norm.weight`, `${from}${names.kNorm}.weight`, [dim])
    }
    linear('proj', names.proj, dim, dim, attention)
    binder.whole(`${to}ls1`, `${from}${names.ls1}`, [dim])
    normOf('norm2', names.norm2)
    linear('fc1', 'mlp.fc1', ffnDim, dim, mlp)
    linear('fc2', 'mlp.fc2', dim, ffnDim, mlp)
    binder.whole(`${to}ls2`, `${from}${names.ls2}`, [dim])
  }
  return positionGrid
}

/** The grid follows from the table; it must be square, and the one of `image_size` or of the tile size. */
function bindPositions(binder: TensorBinder, config: VisionConfig, name: string): number {
  const { dim, patchSize, tileSize } = config.vision
  const table = binder.find(name)
  const rows = table.shape[1] ?? 0
  const grid = Math.round(Math.sqrt(rows - 1))
  const sizes = [config.imageSize / patchSize, tileSize / patchSize]
  const fits = table.shape.length === 3 && table.shape[0] === 1 && table.shape[2] === dim && grid * grid + 1 === rows
  if (!fits || !sizes.includes(grid)) {
    const expected = `[1, ${(config.imageSize / patchSize) ** 2 + 1}, ${dim}]`
    const why = `vision_config.image_size ${config.imageSize}, patch_size ${patchSize}, hidden_size ${dim}`
    throw binder.mismatch(table, expected, why)
  }
  binder.add('vision.position', [rows, dim], [{ tensor: table, first: 0, rows }])
  return grid
}

/** Binds the projector between the shuffled vision features and the language model of width `llm`. */
export function bindProjector(binder: TensorBinder, dim: number, llm: number, format: 'remote-code' | 'hf'): void {
  const { norm, fc1, fc2 } = (format === 'hf' ? hf : remoteCode).projector
  const wide = 4 * dim
  const why = `4 × vision_config.hidden_size ${dim}, hidden size of the language model ${llm}`
  binder.whole('projector.norm.weight', `${norm}.weight`, [wide], why)
  binder.whole('projector.norm.bias', `${norm}.bias`, [wide], why)
  binder.whole('projector.fc1.weight', `${fc1}.weight`, [llm, wide], why)
  binder.whole('projector.fc1.bias', `${fc1}.bias`, [llm], why)
  binder.whole('projector.fc2.weight', `${fc2}.weight`, [llm, llm], why)
  binder.whole('projector.fc2.bias', `${fc2}.bias`, [llm], why)
}

/** Names and shapes of a stand-in's tensors, as the published files have them. */
import type { StandIn } from './families.ts'

/** How a tensor is filled: weights around 0, norms around 1, layer scales around 0.1. */
export type Fill = 'weight' | 'norm' | 'scale'

export interface StandInTensor {
  name: string
  shape: number[]
  fill: Fill
}

/** In the order the modules have them, which decides what goes into which shard. */
export function tensorsOf(standIn: StandIn): StandInTensor[] {
  return [...visionTensors(standIn), ...languageTensors(standIn), ...projectorTensors(standIn)]
}

const tensor = (name: string, shape: number[], fill: Fill = 'weight'): StandInTensor => ({ name, shape, fill })

const linear = (name: string, rows: number, columns: number): StandInTensor[] => [
  tensor(`${name}.weight`, [rows, columns]),
  tensor(`${name}.bias`, [rows]),
]

const layerNorm = (name: string, dim: number): StandInTensor[] => [
  tensor(`${name}.weight`, [dim], 'norm'),
  tensor(`${name}.bias`, [dim]),
]

function visionTensors({ vision }: StandIn): StandInTensor[] {
  const { dim, ffn, patch, image } = vision
  const tensors = [
    tensor('vision_model.embeddings.class_embedding', [1, 1, dim]),
    tensor('vision_model.embeddings.patch_embedding.weight', [dim, 3, patch, patch]),
    tensor('vision_model.embeddings.patch_embedding.bias', [dim]),
    tensor('vision_model.embeddings.position_embedding', [1, (image / patch) ** 2 + 1, dim]),
  ]
  for (let layer = 0; layer < vision.layers; layer++) {
    const name = `vision_model.encoder.layers.${layer}.`
    tensors.push(
      ...layerNorm(`${name}norm1`, dim),
      ...linear(`${name}attn.qkv`, 3 * dim, dim),
      ...linear(`${name}attn.proj`, dim, dim),
      tensor(`${name}ls1`, [dim], 'scale'),
      ...layerNorm(`${name}norm2`, dim),
      ...linear(`${name}mlp.fc1`, ffn, dim),
      ...linear(`${name}mlp.fc2`, dim, ffn),
      tensor(`${name}ls2`, [dim], 'scale'),
    )
  }
  return tensors
}

function projectorTensors({ vision, dim }: StandIn): StandInTensor[] {
  return [
    ...layerNorm('mlp1.0', 4 * vision.dim),
    ...linear('mlp1.1', dim, 4 * vision.dim),
    ...linear('mlp1.3', dim, dim),
  ]
}

function languageTensors(standIn: StandIn): StandInTensor[] {
  const { decoder, dim, vocab, layers } = standIn
  const own = decoder === 'internlm2'
  const body = 'language_model.model.'
  const tensors = [tensor(`${body}${own ? 'tok_embeddings' : 'embed_tokens'}.weight`, [vocab, dim])]
  for (let layer = 0; layer < layers; layer++) {
    const of = own ? internlm2Layer : llamaLayer
    tensors.push(...of(standIn, `${body}layers.${layer}.`))
  }
  tensors.push(tensor(`${body}norm.weight`, [dim], 'norm'))
  tensors.push(tensor(`language_model.${own ? 'output' : 'lm_head'}.weight`, [vocab, dim]))
  return tensors
}

function internlm2Layer({ dim, heads, kvHeads, headDim, ffn }: StandIn, name: string): StandInTensor[] {
  return [
    tensor(`${name}attention_norm.weight`, [dim], 'norm'),
    tensor(`${name}attention.wqkv.weight`, [(heads + 2 * kvHeads) * headDim, dim]),
    tensor(`${name}attention.wo.weight`, [dim, heads * headDim]),
    tensor(`${name}ffn_norm.weight`, [dim], 'norm'),
    tensor(`${name}feed_forward.w1.weight`, [ffn, dim]),
    tensor(`${name}feed_forward.w3.weight`, [ffn, dim]),
    tensor(`${name}feed_forward.w2.weight`, [dim, ffn]),
  ]
}

function llamaLayer(standIn: StandIn, name: string): StandInTensor[] {
  const { decoder, dim, heads, kvHeads, headDim, ffn } = standIn
  const tensors = [
    tensor(`${name}input_layernorm.weight`, [dim], 'norm'),
    tensor(`${name}self_attn.o_proj.weight`, [dim, heads * headDim]),
    tensor(`${name}post_attention_layernorm.weight`, [dim], 'norm'),
    tensor(`${name}mlp.down_proj.weight`, [dim, ffn]),
  ]
  if (decoder === 'phi3') {
    tensors.push(tensor(`${name}self_attn.qkv_proj.weight`, [(heads + 2 * kvHeads) * headDim, dim]))
    tensors.push(tensor(`${name}mlp.gate_up_proj.weight`, [2 * ffn, dim]))
    return tensors
  }
  for (const [part, count] of [
    ['q', heads],
    ['k', kvHeads],
    ['v', kvHeads],
  ] as const) {
    tensors.push(tensor(`${name}self_attn.${part}_proj.weight`, [count * headDim, dim]))
    if (decoder === 'qwen2') tensors.push(tensor(`${name}self_attn.${part}_proj.bias`, [count * headDim]))
  }
  if (decoder === 'qwen3') {
    for (const part of ['q', 'k']) tensors.push(tensor(`${name}self_attn.${part}_norm.weight`, [headDim], 'norm'))
  }
  tensors.push(tensor(`${name}mlp.gate_proj.weight`, [ffn, dim]), tensor(`${name}mlp.up_proj.weight`, [ffn, dim]))
  return tensors
}

/** Phi-3: llama names with `qkv_proj` and `gate_up_proj` packed in plain blocks, and the su/longrope embedding. */
import { type DecoderAdapter, readDecoder, refuseBias, rowsOf } from './decoder.ts'

export const phi3: DecoderAdapter = {
  name: 'phi3',
  embedding: 'embed_tokens.weight',
  head: 'lm_head.weight',
  read(config) {
    refuseBias(config, 'attention_bias')
    return readDecoder(config, {
      headDim: 'derived',
      qkvBias: false,
      qkNorm: false,
      rope: { scalingStated: true, parametersFirst: true },
    })
  },
  bind(binder, config, names, where) {
    const { dim, layers, heads, kvHeads, headDim, ffnDim } = config.language
    const q = heads * headDim
    const packed = (heads + 2 * kvHeads) * headDim
    const attention = `${where}: ${heads} heads, ${kvHeads} key-value heads of ${headDim}`
    const mlp = `${where}.intermediate_size ${ffnDim}, ${where}.hidden_size ${dim}`
    for (let layer = 0; layer < layers; layer++) {
      const from = `${names.body}layers.${layer}.`
      const to = `language.layers.${layer}.`
      binder.whole(`${to}norm1.weight`, `${from}input_layernorm.weight`, [dim])
      binder.whole(`${to}qkv.weight`, `${from}self_attn.qkv_proj.weight`, [packed, dim], attention)
      binder.whole(`${to}out.weight`, `${from}self_attn.o_proj.weight`, [dim, q], attention)
      binder.whole(`${to}norm2.weight`, `${from}post_attention_layernorm.weight`, [dim])
      const gateUp = binder.take(`${from}mlp.gate_up_proj.weight`, [2 * ffnDim, dim], mlp)
      binder.add(`${to}gate.weight`, [ffnDim, dim], rowsOf(gateUp, [[0, ffnDim]]))
      binder.add(`${to}up.weight`, [ffnDim, dim], rowsOf(gateUp, [[ffnDim, ffnDim]]))
      binder.whole(`${to}down.weight`, `${from}mlp.down_proj.weight`, [dim, ffnDim], mlp)
    }
    binder.whole('language.norm.weight', `${names.body}norm.weight`, [dim])
  },
}

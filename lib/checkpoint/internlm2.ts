/**
 * InternLM2 and InternLM2.5: own names, and q, k, v packed into `wqkv` by key-value group.
 *
 * With G query heads to a key-value head, the rows of `wqkv` are, group after group, G query heads, one key head, one
 * value head, each `headDim` rows: `[Q(gG) … Q(gG+G−1) | K(g) | V(g)]`.
 */
import { type DecoderAdapter, type DecoderConfig, readDecoder, refuseBias, rowsOf } from './decoder.ts'

export const internlm2: DecoderAdapter = {
  name: 'internlm2',
  embedding: 'tok_embeddings.weight',
  head: 'output.weight',
  read(config) {
    refuseBias(config, 'bias')
    return readDecoder(config, {
      headDim: 'derived',
      qkvBias: false,
      qkNorm: false,
      rope: { scalingStated: true, parametersFirst: false },
    })
  },
  bind(binder, config, names, where) {
    const { dim, layers, heads, kvHeads, headDim, ffnDim } = config.language
    const width = heads * headDim
    const packed = (heads + 2 * kvHeads) * headDim
    const attention = `${where}: ${heads} heads, ${kvHeads} key-value heads of ${headDim}`
    const mlp = `${where}.intermediate_size ${ffnDim}, ${where}.hidden_size ${dim}`
    for (let layer = 0; layer < layers; layer++) {
      const from = `${names.body}layers.${layer}.`
      const to = `language.layers.${layer}.`
      binder.whole(`${to}norm1.weight`, `${from}attention_norm.weight`, [dim])
      const wqkv = binder.take(`${from}attention.wqkv.weight`, [packed, dim], attention)
      binder.add(`${to}qkv.weight`, [packed, dim], rowsOf(wqkv, ungroup(config)))
      binder.whole(`${to}out.weight`, `${from}attention.wo.weight`, [dim, width], attention)
      binder.whole(`${to}norm2.weight`, `${from}ffn_norm.weight`, [dim])
      binder.whole(`${to}gate.weight`, `${from}feed_forward.w1.weight`, [ffnDim, dim], mlp)
      binder.whole(`${to}up.weight`, `${from}feed_forward.w3.weight`, [ffnDim, dim], mlp)
      binder.whole(`${to}down.weight`, `${from}feed_forward.w2.weight`, [dim, ffnDim], mlp)
    }
    binder.whole('language.norm.weight', `${names.body}norm.weight`, [dim])
  },
}

/** Runs of `wqkv` rows in the order all queries, all keys, all values. */
function ungroup(config: DecoderConfig): [first: number, rows: number][] {
  const { heads, kvHeads, headDim } = config.language
  const queries = (heads / kvHeads) * headDim
  const group = queries + 2 * headDim
  const runs: [number, number][] = []
  for (const [offset, rows] of [
    [0, queries],
    [queries, headDim],
    [queries + headDim, headDim],
  ] as const) {
    for (let g = 0; g < kvHeads; g++) runs.push([g * group + offset, rows])
  }
  return runs
}

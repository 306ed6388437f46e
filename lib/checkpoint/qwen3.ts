/** Qwen3: llama names, no biases, RMSNorm on every query and key head; `heads · head_dim` need not be the hidden size. */
import { bindLlamaLayers, type DecoderAdapter, readDecoder, refuseBias } from './decoder.ts'

export const qwen3: DecoderAdapter = {
  name: 'qwen3',
  embedding: 'embed_tokens.weight',
  head: 'lm_head.weight',
  read(config) {
    refuseBias(config, 'attention_bias')
    return readDecoder(config, {
      headDim: 'stated',
      qkvBias: false,
      qkNorm: true,
      rope: { scalingStated: false, parametersFirst: true },
    })
  },
  bind: bindLlamaLayers,
}

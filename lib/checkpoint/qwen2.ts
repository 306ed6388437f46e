/** Qwen2 and Qwen2.5: llama names, biases on q, k and v only. */
import { bindLlamaLayers, type DecoderAdapter, readDecoder } from './decoder.ts'

export const qwen2: DecoderAdapter = {
  name: 'qwen2',
  embedding: 'embed_tokens.weight',
  head: 'lm_head.weight',
  read: (config) =>
    readDecoder(config, {
      headDim: 'derived',
      qkvBias: true,
      qkNorm: false,
      rope: { scalingStated: false, parametersFirst: true },
    }),
  bind: bindLlamaLayers,
}

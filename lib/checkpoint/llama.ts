/** Llama: what InternLM2 becomes when a checkpoint is converted to the `-hf` format. */
import { bindLlamaLayers, type DecoderAdapter, readDecoder, refuseBias } from './decoder.ts'

export const llama: DecoderAdapter = {
  name: 'llama',
  embedding: 'embed_tokens.weight',
  head: 'lm_head.weight',
  read(config) {
    refuseBias(config, 'attention_bias')
    refuseBias(config, 'mlp_bias')
    return readDecoder(config, {
      headDim: 'derived',
      qkvBias: false,
      qkNorm: false,
      rope: { scalingStated: false, parametersFirst: true },
    })
  },
  bind: bindLlamaLayers,
}

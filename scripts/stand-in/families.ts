/** Sizes and configs of the published checkpoints, for stand-ins of the same shape. */
import type { AddedToken, TokenizerKind } from './tokenizer.ts'
import { addedTokens } from './tokenizer.ts'

/** The four decoders, by their tensors. */
export type StandInDecoder = 'qwen2' | 'qwen3' | 'internlm2' | 'phi3'

/** What a stand-in is made from. All sizes are those of the published checkpoint; smaller ones make test folders. */
export interface StandIn {
  decoder: StandInDecoder
  tokenizer: TokenizerKind
  template: string
  vision: { dim: number; layers: number; heads: number; ffn: number; patch: number; image: number }
  dim: number
  layers: number
  heads: number
  kvHeads: number
  headDim: number
  ffn: number
  vocab: number
  maxPositions: number
  /** `rope_scaling` of the language config. */
  rope: Record<string, unknown> | null
  /** `eos_token_id` of generation_config.json. */
  eos?: number[]
  /** Keys only InternVL 3 and later have. */
  third?: boolean
}

const vision = { dim: 1024, layers: 24, heads: 16, ffn: 4096, patch: 14, image: 448 }
const dynamic = { factor: 2.0, type: 'dynamic' }
const dynamic3 = { factor: 2.0, rope_type: 'dynamic', type: 'dynamic' }

const repeat = (value: number, times: number): number[] => Array.from({ length: times }, () => value)

/** Factors of Phi-3-mini-128k. */
const su = {
  long_factor: [
    1.03, 1.05, 1.05, 1.08, 1.23, 1.23, 1.3, 1.45, 1.6, 1.65, 1.9, 2.86, 3.69, 5.42, 5.49, 5.49, 9.09, 11.58, 15.66,
    15.77, 15.79, 18.36, 21.99, 23.08, 30.01, 32.35, 32.59, 35.56, 39.95, 53.84, 56.2, 57.95, 59.29, 59.77, 59.92,
    61.19, 61.96, 62.5, 63.37, 63.48, 63.48, 63.66, 63.85, 64.08, 64.76, 64.8, 64.81, 64.81,
  ].map(Math.fround),
  short_factor: [
    1.05,
    1.05,
    1.05,
    1.1,
    1.1,
    1.1500000000000001,
    1.2,
    1.25,
    1.3,
    1.35,
    1.5,
    ...repeat(2.0, 21),
    2.05,
    2.05,
    2.05,
    2.1,
    2.1,
    2.1,
    2.15,
    2.15,
    2.35,
    2.55,
    2.6,
    2.6,
    2.75,
    2.85,
    2.85,
    2.95,
  ],
  type: 'su',
}

const qwen05 = {
  decoder: 'qwen2',
  vision,
  dim: 896,
  layers: 24,
  heads: 14,
  kvHeads: 2,
  headDim: 64,
  ffn: 4864,
  maxPositions: 32768,
} as const
const qwen15 = { ...qwen05, dim: 1536, layers: 28, heads: 12, headDim: 128, ffn: 8960 } as const
const qwen3b = { ...qwen05, dim: 2048, layers: 36, heads: 16, headDim: 128, ffn: 11008 } as const
const internlm = {
  decoder: 'internlm2',
  tokenizer: 'internlm2',
  vision,
  dim: 2048,
  layers: 24,
  heads: 16,
  kvHeads: 8,
  headDim: 128,
  ffn: 8192,
  vocab: 92553,
  maxPositions: 32768,
  rope: dynamic,
  eos: [92542, 92543],
} as const
const phi = {
  decoder: 'phi3',
  tokenizer: 'phi3',
  template: 'phi3-chat',
  vision,
  dim: 3072,
  layers: 32,
  heads: 32,
  kvHeads: 32,
  headDim: 96,
  ffn: 8192,
  vocab: 32020,
  maxPositions: 131072,
  rope: su,
  eos: [2, 32000, 32007],
} as const
const second = { tokenizer: 'qwen2.5', template: 'internvl2_5', vocab: 151674 } as const
const eos25 = [151643, 151644, 151645]
const qwen3 = {
  decoder: 'qwen3',
  tokenizer: 'qwen3',
  template: 'internvl2_5',
  vision,
  layers: 28,
  heads: 16,
  kvHeads: 8,
  headDim: 128,
  vocab: 151936,
  maxPositions: 40960,
  rope: null,
  third: true,
} as const

/** The stand-ins by family name. */
export const standIns: Record<string, StandIn> = {
  'internvl2-1b': {
    ...qwen05,
    tokenizer: 'qwen2',
    template: 'Hermes-2',
    vocab: 151655,
    rope: null,
    eos: [151644, 151645],
  },
  'internvl2-2b': { ...internlm, template: 'internlm2-chat', eos: [...internlm.eos] },
  'internvl2-4b': { ...phi, eos: [...phi.eos] },
  'internvl2.5-1b': { ...qwen05, ...second, rope: null, eos: eos25 },
  'internvl2.5-2b': { ...internlm, template: 'internvl2_5', eos: [...internlm.eos] },
  'internvl2.5-4b': { ...qwen3b, ...second, rope: null, eos: eos25 },
  'internvl3-1b': { ...qwen05, ...second, rope: dynamic3, third: true },
  'internvl3-2b': { ...qwen15, ...second, rope: dynamic3, third: true },
  'internvl3.5-1b': { ...qwen3, dim: 1024, ffn: 3072 },
  'internvl3.5-2b': { ...qwen3, dim: 2048, ffn: 6144 },
  'internvl3.5-4b': { ...qwen3, dim: 2560, layers: 36, heads: 32, ffn: 9728 },
  'mini-2b-1.5': { ...internlm, template: 'internlm2-chat', eos: [...internlm.eos] },
  'mini-4b-1.5': { ...phi, eos: [...phi.eos] },
}

const architectures: Record<StandInDecoder, string> = {
  qwen2: 'Qwen2ForCausalLM',
  qwen3: 'Qwen3ForCausalLM',
  internlm2: 'InternLM2ForCausalLM',
  phi3: 'Phi3ForCausalLM',
}

/** What every config dump of that library generation carries along. */
const dumped = {
  add_cross_attention: false,
  bad_words_ids: null,
  begin_suppress_tokens: null,
  chunk_size_feed_forward: 0,
  cross_attention_hidden_size: null,
  decoder_start_token_id: null,
  diversity_penalty: 0.0,
  do_sample: false,
  early_stopping: false,
  encoder_no_repeat_ngram_size: 0,
  exponential_decay_length_penalty: null,
  finetuning_task: null,
  forced_bos_token_id: null,
  forced_eos_token_id: null,
  id2label: { 0: 'LABEL_0', 1: 'LABEL_1' },
  is_decoder: false,
  is_encoder_decoder: false,
  label2id: { LABEL_0: 0, LABEL_1: 1 },
  length_penalty: 1.0,
  max_length: 20,
  min_length: 0,
  no_repeat_ngram_size: 0,
  num_beam_groups: 1,
  num_beams: 1,
  num_return_sequences: 1,
  output_attentions: false,
  output_hidden_states: false,
  output_scores: false,
  prefix: null,
  problem_type: null,
  pruned_heads: {},
  remove_invalid_values: false,
  repetition_penalty: 1.0,
  return_dict: true,
  return_dict_in_generate: false,
  sep_token_id: null,
  suppress_tokens: null,
  task_specific_params: null,
  temperature: 1.0,
  tf_legacy_loss: false,
  tie_encoder_decoder: false,
  tokenizer_class: null,
  top_k: 50,
  top_p: 1.0,
  torchscript: false,
  typical_p: 1.0,
  use_bfloat16: true,
}

/** config.json, with the keys the published files have. */
export function configOf(standIn: StandIn): Record<string, unknown> {
  const { vision: tower } = standIn
  return {
    _commit_hash: null,
    architectures: ['InternVLChatModel'],
    auto_map: {
      AutoConfig: 'configuration_internvl_chat.InternVLChatConfig',
      AutoModel: 'modeling_internvl_chat.InternVLChatModel',
      AutoModelForCausalLM: 'modeling_internvl_chat.InternVLChatModel',
    },
    downsample_ratio: 0.5,
    dynamic_image_size: true,
    force_image_size: tower.image,
    ...(standIn.third ? { hidden_size: standIn.dim, image_fold: null, system_message: null } : {}),
    llm_config: languageConfig(standIn),
    max_dynamic_patch: 12,
    min_dynamic_patch: 1,
    model_type: 'internvl_chat',
    ...(standIn.third ? { output_attentions: false } : {}),
    pad2square: false,
    ps_version: 'v2',
    select_layer: -1,
    template: standIn.template,
    tie_word_embeddings: false,
    torch_dtype: 'bfloat16',
    transformers_version: null,
    use_backbone_lora: 0,
    use_llm_lora: 0,
    use_thumbnail: true,
    vision_config: {
      architectures: ['InternVisionModel'],
      attention_dropout: 0.0,
      drop_path_rate: 0.0,
      dropout: 0.0,
      hidden_act: 'gelu',
      hidden_size: tower.dim,
      image_size: tower.image,
      initializer_factor: 1.0,
      initializer_range: 0.02,
      intermediate_size: tower.ffn,
      layer_norm_eps: 1e-6,
      model_type: 'intern_vit_6b',
      norm_type: 'layer_norm',
      num_attention_heads: tower.heads,
      num_channels: 3,
      num_hidden_layers: tower.layers,
      output_attentions: false,
      output_hidden_states: false,
      patch_size: tower.patch,
      qk_normalization: false,
      qkv_bias: true,
      return_dict: true,
      torch_dtype: 'bfloat16',
      use_bfloat16: true,
      use_flash_attn: true,
      ...(standIn.third ? { num_experts: 8, num_routed_experts: 4, num_shared_experts: 4, use_moe: false } : {}),
    },
  }
}

function languageConfig(standIn: StandIn): Record<string, unknown> {
  const { decoder, tokenizer } = standIn
  const tokens = addedTokens[tokenizer]
  const id = (content: string) => tokens.find((token: AddedToken) => token.content === content)?.id
  const shared = {
    ...dumped,
    architectures: [architectures[decoder]],
    hidden_act: 'silu',
    hidden_size: standIn.dim,
    initializer_range: 0.02,
    intermediate_size: standIn.ffn,
    max_position_embeddings: standIn.maxPositions,
    model_type: decoder,
    num_attention_heads: standIn.heads,
    num_hidden_layers: standIn.layers,
    num_key_value_heads: standIn.kvHeads,
    rope_scaling: standIn.rope,
    tie_word_embeddings: false,
    torch_dtype: 'bfloat16',
    use_cache: true,
    vocab_size: standIn.vocab,
  }
  switch (decoder) {
    case 'internlm2':
      return {
        ...shared,
        _name_or_path: 'internlm/internlm2-chat-1_8b',
        attn_implementation: 'flash_attention_2',
        auto_map: {
          AutoConfig: 'configuration_internlm2.InternLM2Config',
          AutoModel: 'modeling_internlm2.InternLM2ForCausalLM',
          AutoModelForCausalLM: 'modeling_internlm2.InternLM2ForCausalLM',
        },
        bias: false,
        bos_token_id: 1,
        eos_token_id: 2,
        pad_token_id: 2,
        rms_norm_eps: 1e-5,
        rope_theta: 1000000,
      }
    case 'phi3':
      return {
        ...shared,
        _name_or_path: 'microsoft/Phi-3-mini-128k-instruct',
        attention_dropout: 0.0,
        auto_map: {
          AutoConfig: 'configuration_phi3.Phi3Config',
          AutoModelForCausalLM: 'modeling_phi3.Phi3ForCausalLM',
        },
        bos_token_id: 1,
        embd_pdrop: 0.0,
        eos_token_id: id('<|endoftext|>'),
        original_max_position_embeddings: Math.min(4096, standIn.maxPositions),
        pad_token_id: id('<|endoftext|>'),
        resid_pdrop: 0.0,
        rms_norm_eps: 1e-5,
        rope_theta: 10000.0,
        sliding_window: 262144,
      }
    default:
      return {
        ...shared,
        attention_dropout: 0.0,
        ...(decoder === 'qwen3' ? { attention_bias: false, head_dim: standIn.headDim } : {}),
        bos_token_id: id('<|endoftext|>'),
        eos_token_id: standIn.third ? id('<|endoftext|>') : id('<|im_end|>'),
        max_window_layers: standIn.layers,
        rms_norm_eps: 1e-6,
        rope_theta: 1000000.0,
        sliding_window: standIn.third ? null : standIn.maxPositions,
        use_sliding_window: false,
      }
  }
}

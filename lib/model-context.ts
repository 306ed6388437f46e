/** What asking about a scene and going on with a dialogue have in common. */
import type { Answer } from './answer.ts'
import { ModelError } from './errors.ts'
import { type Generation, type GenerationRequest, generate } from './generation.ts'
import type { NativeEvicted, NativeModel } from './native.ts'
import type { AskSettings } from './options.ts'
import type { SceneCache } from './scene-cache.ts'
import type { AnswerFormats } from './structured/answer-format.ts'
import type { Template } from './text/templates.ts'
import type { Tokenizer } from './text/tokenizer.ts'

/** What questions of one model have in common. */
export interface ModelContext {
  native: NativeModel
  tokenizer: Tokenizer
  template: Template
  formats: AnswerFormats
  scenes: SceneCache
  stopIds: Int32Array
  maxContext: number
  /** Appended to every question. */
  promptSuffix: string
}

export interface QuestionRequest {
  settings: AskSettings
  /** The sequence in the cache that the question goes on from. */
  scene: number
  /** That an eviction of it left; 0 for none. */
  claim: number
  /** Its tokens. */
  tokens: number
  ids: Int32Array
  leave?: AbortSignal | undefined
  keep?: boolean
}

/** Generates an answer to a question, given as ids, unless the scene was evicted before it began. */
export async function askIds(context: ModelContext, request: QuestionRequest): Promise<Generation | NativeEvicted> {
  const { native, tokenizer, formats, stopIds, maxContext } = context
  const { tokens, ids } = request
  const room = maxContext - tokens - ids.length
  if (room < 1) {
    throw new ModelError(
      'CONTEXT_OVERFLOW',
      `The question takes ${ids.length} tokens; beside the ${tokens} of the scene at most ${Math.max(0, maxContext - tokens - 1)} ` +
        `fit into the context of ${maxContext} with room for an answer. Shorten the question, or load the model with a larger maxContext.`,
    )
  }
  const whole: GenerationRequest = { ...request, native, tokenizer, formats, stopIds, room }
  return generate(whole)
}

/** What the caller gets to see of it. */
export function answerOf(generation: Generation, startedAt: number, imageTokens: number): Answer {
  const { text, finishReason, result, firstTokenAt, logprobs, value } = generation
  const endedAt = performance.now()
  return {
    text,
    finishReason,
    usage: { promptTokens: result.promptTokens, imageTokens, answerTokens: result.ids.length },
    timings: {
      decodeMs: 0,
      preprocessMs: 0,
      visionMs: 0,
      prefillMs: result.prefillMs,
      generateMs: result.decodeMs,
      queueMs: result.queueMs,
      firstTokenMs: (firstTokenAt ?? endedAt) - startedAt,
      totalMs: endedAt - startedAt,
    },
    ...(logprobs === undefined ? {} : { logprobs }),
    ...(value === undefined ? {} : { value }),
  }
}

/** One answer being generated: ids from the addon, text to the caller. */
import type { Answer, TokenLogprob } from './answer.ts'
import { holding, runJob, untilAborted, whenAborted } from './job.ts'
import { Listener } from './listener.ts'
import type { NativeEvicted, NativeGenerateRequest, NativeGenerateResult, NativeModel } from './native.ts'
import { type AskSettings, engineNumbers } from './options.ts'
import { type AnswerFormats, type CompiledFormat, FormattedText } from './structured/answer-format.ts'
import { Detokenizer } from './text/detokenizer.ts'
import type { Tokenizer } from './text/tokenizer.ts'

export interface GenerationRequest {
  native: NativeModel
  tokenizer: Tokenizer
  formats: AnswerFormats
  /** Handle of the scene. */
  scene: number
  /** That an eviction of the scene left; 0 for none. */
  claim: number
  /** The question's ids. */
  ids: Int32Array
  stopIds: Int32Array
  settings: AskSettings
  /** Most tokens the context has room for. */
  room: number
  /** Ends the answer early and well when it is aborted. */
  leave?: AbortSignal | undefined
  /** Keep question and answer in the cache, as a scene. */
  keep?: boolean
}

export interface Generation {
  text: string
  finishReason: Answer['finishReason']
  result: NativeGenerateResult
  /** When the first token arrived; `undefined` if there was none. */
  firstTokenAt: number | undefined
  logprobs: TokenLogprob[] | undefined
  value: unknown
}

/**
 * Generates one answer. `onText` gets every new piece; what it throws, or what a promise that it returned rejects with, ends the generation
 * and is thrown on. The answer is complete when those promises have settled.
 */
export async function generate(request: GenerationRequest): Promise<Generation | NativeEvicted> {
  const { native, tokenizer, settings, leave, formats } = request
  const format = settings.answerFormat === undefined ? undefined : formats.compile(settings.answerFormat)
  const reader =
    format === undefined
      ? new Detokenizer(tokenizer, { stop: settings.stop, tags: settings.tags })
      : new FormattedText(tokenizer)
  const listener = new Listener(settings.onText)
  let text = ''
  let firstTokenAt: number | undefined
  const tell = (read: () => string) =>
    listener.guard(() => {
      const piece = read()
      text += piece
      if (piece !== '') listener.call(piece)
    })

  const start = async (job: number) => {
    const finish = () => native.finish(job)
    const stop = whenAborted(leave, finish)
    listener.onFailure = finish
    try {
      const running = native.generate(nativeRequest(job, request, format), (ids) => {
        firstTokenAt ??= performance.now()
        tell(() => reader.push(ids))
        if (reader.stopped !== undefined) finish()
      })
      if (leave?.aborted) finish()
      return await running
    } finally {
      stop()
      listener.onFailure = undefined // the job's number means nothing any more
    }
  }
  const result = await runJob(settings.signal, start, (job) => native.cancel(job))
  if ('claim' in result) return result
  const release = () => {
    if (result.scene !== undefined) native.release(result.scene)
  }
  return holding(release, async () => {
    tell(() => reader.finish())
    await untilAborted(listener.settled(), settings.signal)
    listener.throwIfFailed()
    const finishReason = reader.stopped === undefined ? result.finish : 'stop'
    return {
      text,
      finishReason,
      result,
      firstTokenAt,
      logprobs: result.logprobs && tokenLogprobs(tokenizer, result.ids, result.logprobs),
      value:
        format === undefined || finishReason !== 'stop' ? undefined : format.kind === 'enum' ? text : JSON.parse(text),
    }
  })
}

/** Tokens with what they say by themselves. */
export function tokenLogprobs(tokenizer: Tokenizer, ids: Int32Array, logprobs: Float32Array): TokenLogprob[] {
  const utf8 = new TextDecoder('utf-8', { ignoreBOM: true })
  return Array.from(ids, (id, i) => {
    const bytes = tokenizer.bytesOf(id)
    const text = bytes.length > 0 ? utf8.decode(bytes) : (tokenizer.tokenOf(id) ?? '')
    const logprob = logprobs[i]!
    return { id, text, logprob: Number.isNaN(logprob) ? null : logprob }
  })
}

function nativeRequest(
  job: number,
  { tokenizer, scene, claim, ids, stopIds, settings, room, keep = false }: GenerationRequest,
  format: CompiledFormat | undefined,
): NativeGenerateRequest & { claim: number } {
  return {
    ...engineNumbers(settings),
    job,
    scene,
    claim,
    ids,
    maxNewTokens: Math.min(settings.maxNewTokens, room),
    stopIds,
    vocabLimit: tokenizer.size,
    wantLogprobs: settings.logprobs,
    keep,
    ...(format === undefined ? {} : { automaton: format.automaton }),
  }
}

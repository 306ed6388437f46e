// A model of `loadModel` as something to evaluate.

import { createHash } from 'node:crypto'
import { ModelError } from '../../errors.ts'
import type { Model } from '../../model.ts'
import { placeholder, type TextReading } from '../../text/placeholders.ts'
import type { EvalModel } from './eval.ts'

/** How a loaded model is asked. */
export interface EvalAskOptions {
  /** Default 200, as the published results were made. */
  maxNewTokens?: number | undefined
  /** 0 (default) takes the likeliest token every time. */
  temperature?: number | undefined
  /** Share of probability that tokens are drawn from; default 1. */
  topP?: number | undefined
  /** What is done about a view that is not there: `error` (default), or a `black` picture. */
  missingViews?: 'error' | 'black' | undefined
}

/** What of a loaded model is used here. */
export type LoadedModel = Pick<Model, 'info' | 'see'>

/** Tells a loaded model, of whatever copy of this package, from a caller's own. */
export function isLoadedModel(model: EvalModel | LoadedModel): model is LoadedModel {
  return 'info' in model && typeof model.info === 'object' && 'layout' in model.info
}

/**
 * A loaded model as something to evaluate. Times are handed on stage by stage, so that their sum is the time of the call.
 *
 * @param options - `seed`: with a temperature, each question draws by this and its own id, whatever order they are asked in.
 */
export function evalModel(
  model: LoadedModel,
  options: EvalAskOptions & { seed?: number | undefined; text?: TextReading | undefined } = {},
): EvalModel {
  const { maxNewTokens = 200, temperature, topP, seed = 0, missingViews, text: reading } = options
  return {
    async see(views, { signal }) {
      const { image } = views
      const scene = await model.see(image === undefined ? views : image, { missingViews, signal })
      const { decodeMs, queueMs, preprocessMs, visionMs, prefillMs, totalMs } = scene.info.timings
      const seenMs = decodeMs + queueMs + preprocessMs + visionMs + prefillMs
      return {
        timings: {
          decodeMs,
          preprocessMs,
          visionMs,
          viewsPrefillMs: prefillMs,
          viewsOtherMs: Math.max(0, totalMs - seenMs) + queueMs,
        },
        async ask(question, { id, signal }) {
          const drawn = { maxNewTokens, temperature, topP, seed: seedOf(seed, id), text: reading, signal }
          const { text, timings } = await scene.ask(question, drawn).catch((error) => {
            throw ofQuestion(error, question)
          })
          const { prefillMs, generateMs, totalMs } = timings
          const otherMs = Math.max(0, totalMs - prefillMs - generateMs)
          return { text, timings: { prefillMs, generateMs, otherMs } }
        },
        dispose: () => scene.dispose(),
      }
    },
  }
}

function seedOf(seed: number, id: string): number {
  return createHash('sha256').update(`${seed} ${id}`).digest().readUIntBE(0, 6)
}

/** Placeholders that do not fit are the data's fault, so that one such question costs itself. */
function ofQuestion(error: unknown, question: string): unknown {
  if (!(error instanceof ModelError) || error.code !== 'BAD_ARGUMENT' || !question.includes(placeholder)) return error
  return new ModelError('BAD_DATA', error.message, { cause: error })
}

/** A log as if it were live: moments come at the pace at which they were recorded. */
import { ModelError } from '../errors.ts'
import { describeValue } from '../messages.ts'
import { throwIfAborted } from '../options.ts'

/** Options of {@link replay}. */
export interface ReplayOptions {
  /** How fast: 2 is twice as fast as it was recorded. Default 1. */
  rate?: number | undefined
  /** Ends it; the iteration rejects with `ABORTED`. */
  signal?: AbortSignal | undefined
}

const second = 1000

/** Longest wait for a moment: what a log leaves out is not waited for. */
const longestMs = 60 * second

/**
 * Gives moments at the pace of their stamps, whether they are taken or not: a source for `model.watch`.
 *
 * @param moments - As {@link moments} gives them.
 * @throws {@link ModelError} `BAD_ARGUMENT` at once; `ABORTED`, and what the moments throw, where it is iterated.
 */
export function replay<M extends { stamp: bigint }>(moments: AsyncIterable<M>, options: ReplayOptions = {}): Replay<M> {
  if (typeof moments?.[Symbol.asyncIterator] !== 'function')
    throw new ModelError(
      'BAD_ARGUMENT',
      `Expected moments, as \`moments\` of a log gives them, received ${describeValue(moments)}.`,
    )
  const { rate = 1, signal } = options
  if (typeof rate !== 'number' || !(rate > 0) || rate > 1e6) {
    throw new ModelError('BAD_ARGUMENT', 'Expected a number above 0 and at most 1000000 for options.rate.')
  }
  return new Replay(moments, rate, signal)
}

/** What {@link replay} gives. */
export class Replay<M extends { stamp: bigint }> implements AsyncIterableIterator<M> {
  readonly #moments: AsyncIterator<M>
  readonly #rate: number
  readonly #signal: AbortSignal | undefined
  #begun: { stamp: bigint; at: number } | undefined
  #endWait = () => {}
  #left = false

  /** Comes from {@link replay}. */
  constructor(moments: AsyncIterable<M>, rate: number, signal: AbortSignal | undefined) {
    this.#moments = moments[Symbol.asyncIterator]()
    this.#rate = rate
    this.#signal = signal
  }

  /** The next moment, once its time has come. */
  async next(): Promise<IteratorResult<M, undefined>> {
    throwIfAborted(this.#signal)
    const { done, value } = await this.#moments.next()
    if (!done && !this.#left) await this.#until(value.stamp)
    throwIfAborted(this.#signal)
    return done || this.#left ? { done: true, value: undefined } : { done: false, value }
  }

  /** Ends it, and a wait that is going on. */
  async return(): Promise<IteratorResult<M, undefined>> {
    this.#left = true
    this.#endWait()
    await this.#moments.return?.()
    return { done: true, value: undefined }
  }

  [Symbol.asyncIterator](): this {
    return this
  }

  async #until(stamp: bigint): Promise<void> {
    const now = performance.now()
    this.#begun ??= { stamp, at: now }
    const dueMs = this.#begun.at + Number(stamp - this.#begun.stamp) / 1e6 / this.#rate
    const waitMs = dueMs - now
    if (waitMs > longestMs || waitMs < -longestMs) {
      this.#begun = { stamp, at: now } // a gap, or a clock that was set: goes on from here
      return
    }
    if (waitMs <= 0) return
    await new Promise<void>((resolve) => {
      const end = () => {
        clearTimeout(timer)
        this.#signal?.removeEventListener('abort', end)
        resolve()
      }
      // Timers drop parts of a millisecond and may come early.
      const tick = () => {
        const leftMs = dueMs - performance.now()
        if (leftMs <= 0) end()
        else timer = setTimeout(tick, Math.ceil(leftMs))
      }
      let timer = setTimeout(tick, Math.ceil(waitMs))
      this.#signal?.addEventListener('abort', end)
      this.#endWait = end
    })
  }
}

/** A control loop's questions: about the newest moment of a source, again and again, each answer by its deadline. */
import type { Answer } from './answer.ts'
import { ModelError } from './errors.ts'
import { untilAborted, whenAborted } from './job.ts'
import type { LocatedBox } from './locating.ts'
import { describeValue, isRecord } from './messages.ts'
import { abortError, type WatchSettings } from './options.ts'
import type { Scene, SceneInfo } from './scene.ts'
import type { Views } from './views/compose.ts'
import { isViewSource } from './views/prepared.ts'

/** A moment of a source. Moments of `drivlm/logs` and `drivlm/live` are such. */
export interface WatchMoment {
  /** When its pictures were taken, ns. */
  stamp: bigint
  /** The pictures, or what reads them once the moment is asked about, until the signal is aborted. */
  views: Views | ((signal: AbortSignal) => Views | PromiseLike<Views>)
  /** Moments before it that the source dropped by itself; counted with those that are dropped here. */
  dropped?: number | undefined
}

/** Something to ask about every moment: a question, or, as for `scene.locate`, one whose answer has boxes. */
export type WatchQuestion = string | { locate: string; camera?: string | undefined }

/** An answer about a moment. */
export interface WatchedAnswer {
  /** As it was asked. */
  question: string
  /** `locate` for a question whose answer has boxes. */
  kind: 'ask' | 'locate'
  /** The answer; of a question to locate something with labels in place of boxes. */
  text: string
  /** In pixels of the camera they lie in. */
  boxes: LocatedBox[]
  /** The answer as it was given. */
  answer: Answer
}

/** What came of one moment. */
export interface WatchResult<M extends WatchMoment = WatchMoment> {
  /** As the source gave it. */
  moment: M
  /** When its pictures were taken, ns. */
  stamp: bigint
  /** In the order of the questions; `undefined` for those that were given up because they would have been late. */
  answers: readonly (WatchedAnswer | undefined)[]
  /** Whether the deadline passed before all answers were there. */
  late: boolean
  /** Why there are no answers: a picture that cannot be read or decoded. */
  error: ModelError | undefined
  /** Moments that were dropped since the last result: newer ones took their place, or their deadline passed while they waited. */
  dropped: number
  /** What seeing it took; undefined if that did not come to its end. */
  scene: SceneInfo | undefined
  /** Milliseconds: waiting for the model, reading the pictures, seeing them, answering, and all from its receipt on. */
  timings: { waitMs: number; viewsMs: number; seeMs: number; answerMs: number; totalMs: number }
}

/** What became of the moments of a source so far. */
export interface WatchCounts {
  /** Moments that were asked about. */
  asked: number
  /** Of these, moments with an answer that was late. */
  late: number
  /** Of these, moments whose pictures could not be read. */
  failed: number
  /** Moments that were dropped. */
  dropped: number
}

type See = (views: Views, signal: AbortSignal) => Promise<Scene>

interface Received<M> {
  moment: M
  receivedAt: number
}

/** Earlier than the newest moment by up to this, a moment is old; by more, the clock was set back. */
const disorder = 1_000_000_000n

const nextTurn = () => new Promise<void>((resolve) => setImmediate(resolve))

/** Keeps the newest moment of a source that is wanted. Nothing is queued. */
class NewestMoment<M extends WatchMoment> {
  dropped = 0
  readonly #iterator: AsyncIterator<M>
  readonly #every: bigint
  #newest: Received<M> | undefined
  #newestStamp: bigint | undefined
  #due: bigint | undefined
  #first = 0n
  #reading = false
  #ended = false
  #left: Promise<void> | undefined
  #failure: { error: unknown } | undefined
  #wake = () => {}

  constructor(source: AsyncIterable<M>, everySeconds: number) {
    this.#iterator = source[Symbol.asyncIterator]()
    this.#every = BigInt(Math.round(everySeconds * 1e9))
  }

  /** Reads the source to its end, whether moments are taken or not. A source that is always ready does not hold up the event loop. */
  async read(): Promise<void> {
    try {
      while (this.#left === undefined) {
        this.#reading = true
        const { done, value } = await this.#iterator.next()
        this.#reading = false
        if (done || this.#left !== undefined) break
        this.#put(checkMoment(value))
        await nextTurn()
      }
    } catch (error) {
      this.#failure = { error }
    }
    this.#reading = false
    this.#ended = true
    this.#wake()
  }

  /**
   * The newest moment, or, where there is none, the next.
   *
   * @param most - Milliseconds that it may have waited.
   * @returns Undefined at the end of the source.
   */
  async take(most: number, signal: AbortSignal): Promise<Received<M> | undefined> {
    for (;;) {
      if (signal.aborted) throw abortError(signal)
      if (this.#failure !== undefined) throw this.#failure.error
      const taken = this.#newest
      this.#newest = undefined
      if (taken !== undefined) {
        if (performance.now() - taken.receivedAt < most) {
          this.#advance(taken.moment.stamp)
          return taken
        }
        this.dropped++
        continue
      }
      if (this.#ended) return undefined
      const woken = new Promise<void>((resolve) => {
        this.#wake = resolve
      })
      await untilAborted(woken, signal)
    }
  }

  /** Lets the source end. A source that is being read is told so, and not waited for: its next moment may never come. */
  leave(): Promise<void> {
    this.#newest = undefined
    this.#left ??= this.#leave()
    return this.#left
  }

  async #leave(): Promise<void> {
    const ended = this.#ended ? undefined : this.#iterator.return?.()
    const settled = Promise.resolve(ended).catch(() => undefined)
    if (!this.#reading) await settled
  }

  #put(moment: M): void {
    const { stamp } = moment
    const before = this.#newestStamp
    this.dropped += moment.dropped ?? 0
    if (before !== undefined && stamp < before) {
      if (before - stamp <= disorder) {
        this.dropped++
        return
      }
      this.#due = undefined
    }
    this.#newestStamp = stamp
    if (this.#due !== undefined && stamp < this.#due) return
    if (this.#newest !== undefined) this.dropped++
    this.#newest = { moment, receivedAt: performance.now() }
    this.#wake()
  }

  /** The next moment is the first on or after the next time of the grid that began with the first. */
  #advance(stamp: bigint): void {
    if (this.#every === 0n) return
    if (this.#due === undefined) this.#first = stamp
    this.#due = this.#first + ((stamp - this.#first) / this.#every + 1n) * this.#every
  }
}

/**
 * Answers about the newest moment of a source. Each call of `next` takes the newest moment there is, or waits for one; while the model is at
 * work, and between two calls, moments that a newer one replaces are dropped and counted. Calls of `next` queue. Leaving the loop (`break`,
 * {@link return}) or aborting gives up what is being computed and the scene, and ends the source.
 *
 * @example
 * const { openLog, moments, replay } = await import('drivlm/logs')
 * const log = await openLog('drive.mcap')
 * const source = replay(moments(log, { cameras: log.guessCameras().cameras, every: 0 }))
 * for await (const { stamp, answers, late } of model.watch(source, { questions: ['Is the way ahead free?'], deadlineMs: 5000 })) {
 *   console.log(stamp, late ? 'late' : answers[0].text)
 * }
 * await log.close()
 */
export class Watch<M extends WatchMoment = WatchMoment> implements AsyncIterableIterator<WatchResult<M>> {
  readonly #seeFirst: See
  readonly #source: AsyncIterable<M>
  readonly #settings: WatchSettings
  readonly #leave = new AbortController()
  readonly #counts: WatchCounts = { asked: 0, late: 0, failed: 0, dropped: 0 }
  #newest: NewestMoment<M> | undefined
  #stopListening = () => {}
  #scene: { scene: Scene; names: string } | undefined
  #told = 0
  #ended = false
  #last: Promise<unknown> = Promise.resolve()

  /** Comes from `model.watch`. */
  constructor(see: See, source: AsyncIterable<M>, settings: WatchSettings) {
    this.#seeFirst = see
    this.#source = source
    this.#settings = settings
  }

  /** What became of the moments so far. */
  get counts(): WatchCounts {
    return { ...this.#counts, dropped: this.#newest?.dropped ?? 0 }
  }

  /**
   * What came of the newest moment; what `for await` calls.
   *
   * @throws {@link ModelError} `ABORTED` if the signal was aborted; everything that the source throws; what `scene.ask` throws.
   */
  next(): Promise<IteratorResult<WatchResult<M>, undefined>> {
    const result = this.#last.then(() => this.#step())
    this.#last = result.catch(() => undefined)
    return result
  }

  /** Gives up what is being computed; what `break` calls. */
  async return(): Promise<IteratorResult<WatchResult<M>, undefined>> {
    this.#ended = true
    this.#leave.abort()
    await this.#last
    await this.#end()
    return { done: true, value: undefined }
  }

  [Symbol.asyncIterator](): this {
    return this
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.return()
  }

  async #step(): Promise<IteratorResult<WatchResult<M>, undefined>> {
    if (this.#ended) return { done: true, value: undefined }
    const { deadlineMs = Number.POSITIVE_INFINITY } = this.#settings
    try {
      const newest = this.#start()
      const received = await newest.take(deadlineMs, this.#leave.signal)
      if (received !== undefined) return { done: false, value: await this.#answer(received, newest) }
    } catch (error) {
      const left = this.#ended
      await this.#end()
      if (!left) throw error
    }
    await this.#end()
    return { done: true, value: undefined }
  }

  #start(): NewestMoment<M> {
    if (this.#newest === undefined) {
      const { every, signal } = this.#settings
      const abort = () => {
        this.#leave.abort(signal?.reason)
        void this.#last.then(() => this.#release()) // also where nobody calls `next` any more
      }
      if (signal?.aborted) this.#leave.abort(signal.reason)
      else this.#stopListening = whenAborted(signal, abort)
      this.#newest = new NewestMoment(this.#source, every)
      if (!signal?.aborted) void this.#newest.read()
    }
    return this.#newest
  }

  async #end(): Promise<void> {
    this.#ended = true
    this.#stopListening()
    await this.#release()
  }

  /** Nothing stays behind; who asks is told why. */
  async #release(): Promise<void> {
    this.#scene?.scene.dispose()
    this.#scene = undefined
    await this.#newest?.leave()
  }

  async #answer({ moment, receivedAt }: Received<M>, newest: NewestMoment<M>): Promise<WatchResult<M>> {
    const { deadlineMs, questions } = this.#settings
    const begunAt = performance.now()
    const stop = new AbortController()
    const unlink = whenAborted(this.#leave.signal, () => stop.abort(this.#leave.signal.reason))
    const { signal } = stop
    let overdue = false
    const giveUp = () => {
      overdue = true
      stop.abort()
    }
    const timer = deadlineMs === undefined ? undefined : setTimeout(giveUp, receivedAt + deadlineMs - begunAt)
    let [viewsAt, seenAt] = [begunAt, begunAt]
    let scene: Scene | undefined
    let answers: readonly (WatchedAnswer | undefined)[] = questions.map(() => undefined)
    let failed: ModelError | undefined
    this.#counts.asked++
    try {
      const given = typeof moment.views === 'function' ? moment.views(signal) : moment.views
      const views = await untilAborted(Promise.resolve(given), signal)
      viewsAt = seenAt = performance.now()
      scene = await this.#see(views, signal)
      seenAt = performance.now()
      answers = await this.#askAll(scene, signal, () => overdue, stop)
    } catch (error) {
      const code = error instanceof ModelError ? error.code : undefined
      if (this.#leave.signal.aborted) throw code === 'ABORTED' ? abortError(this.#leave.signal) : error
      if (code === 'BAD_VIEW' || code === 'BAD_LOG') failed = error as ModelError
      else if (!overdue || code !== 'ABORTED') throw error
    } finally {
      clearTimeout(timer)
      unlink()
    }
    const now = performance.now()
    const late = overdue || (deadlineMs !== undefined && now - receivedAt > deadlineMs)
    if (late) this.#counts.late++
    if (failed !== undefined) this.#counts.failed++
    const dropped = newest.dropped - this.#told
    this.#told = newest.dropped
    const timings = {
      waitMs: begunAt - receivedAt,
      viewsMs: viewsAt - begunAt,
      seeMs: seenAt - viewsAt,
      answerMs: scene === undefined ? 0 : now - seenAt,
      totalMs: now - receivedAt,
    }
    return { moment, stamp: moment.stamp, answers, late, error: failed, dropped, scene: scene?.info, timings }
  }

  /** From the moment before, where it has the same cameras: only what changed is encoded. */
  async #see(views: Views, signal: AbortSignal): Promise<Scene> {
    const names = namesOf(views)
    const before = this.#scene
    const changed = Array.isArray(views) ? { ...views } : views
    const scene =
      before?.names === names
        ? await before.scene.update(changed as Views & object, { signal })
        : await this.#seeFirst(views, signal)
    before?.scene.dispose()
    this.#scene = { scene, names }
    return scene
  }

  /** All questions are decoded together; those that are late are given up, the others stay. */
  async #askAll(
    scene: Scene,
    signal: AbortSignal,
    overdue: () => boolean,
    stop: AbortController,
  ): Promise<(WatchedAnswer | undefined)[]> {
    let first: { error: unknown } | undefined
    const asked = this.#settings.questions.map(async (question): Promise<WatchedAnswer | undefined> => {
      try {
        const options = { ...this.#settings.ask, signal }
        if (typeof question === 'string') {
          const answer = await scene.ask(question, options)
          return { question, kind: 'ask', text: answer.text, boxes: [], answer }
        }
        const { locate, camera } = question
        return { question: locate, kind: 'locate', ...(await scene.locate(locate, { ...options, camera })) }
      } catch (error) {
        if (overdue() && error instanceof ModelError && error.code === 'ABORTED') return undefined
        first ??= { error }
        stop.abort()
        return undefined
      }
    })
    const answers = await Promise.all(asked)
    if (first !== undefined) throw first.error
    return answers
  }
}

function checkMoment<M extends WatchMoment>(moment: M): M {
  if (isRecord(moment) && typeof moment.stamp === 'bigint' && moment.views !== undefined) return moment
  throw new ModelError(
    'BAD_ARGUMENT',
    `Expected moments { stamp, views } with a stamp in ns, a bigint; the source gave ${describeValue(moment)}.`,
  )
}

/** What two moments have alike for one to be an update of the other. */
function namesOf(views: Views): string {
  if (Array.isArray(views)) return `${views.length} views`
  return isViewSource(views) || !isRecord(views) ? 'a view' : Object.keys(views).sort().join()
}

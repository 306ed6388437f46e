// model.watch: the newest moment of a source, asked about by a deadline, with nothing queued and nothing left behind.
import { setImmediate as nextTurn } from 'node:timers/promises'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { loadModel } from '../../lib/load-model.ts'
import { replay } from '../../lib/logs/replay.ts'
import type { Model } from '../../lib/model.ts'
import type { WatchOptions } from '../../lib/options.ts'
import type { WatchMoment, WatchResult } from '../../lib/watch.ts'
import { idle, momentViews, weather } from './street-tiny.ts'

const questions = [weather]
const folders = ['day', 'dusk', 'rain'] as const
const truths = ['It is a clear day.', 'It is dusk.', 'It is raining.']
const ms = (value: number) => BigInt(value) * 1_000_000n

let model: Model
beforeAll(async () => {
  model = await loadModel()
})
afterEach(async () => {
  await idle(model)
  expect(model.stats().scenes).toBe(0)
})
afterAll(async () => {
  await model.dispose()
})

/** A source whose moments come when a test says so. */
class Pushed implements AsyncIterableIterator<WatchMoment> {
  returned = false
  #queue: (WatchMoment | Error | undefined)[] = []
  #waiting: (() => void) | undefined
  #starved: (() => void)[] = []

  push(...moments: (WatchMoment | Error | undefined)[]): this {
    this.#queue.push(...moments)
    this.#waiting?.()
    return this
  }

  /** Resolves when all that was pushed was taken, and more is asked for. */
  async taken(): Promise<void> {
    while (this.#queue.length > 0 || this.#waiting === undefined) {
      await new Promise<void>((resolve) => this.#starved.push(resolve))
    }
  }

  async next(): Promise<IteratorResult<WatchMoment, undefined>> {
    while (this.#queue.length === 0) {
      const pushed = new Promise<void>((resolve) => {
        this.#waiting = resolve
      })
      for (const tell of this.#starved.splice(0)) tell()
      await pushed
      this.#waiting = undefined
    }
    const value = this.#queue.shift()
    if (value instanceof Error) throw value
    return value === undefined ? { done: true, value } : { done: false, value }
  }

  async return(): Promise<IteratorResult<WatchMoment, undefined>> {
    this.returned = true
    return { done: true, value: undefined }
  }

  [Symbol.asyncIterator](): this {
    return this
  }
}

const at = (stampMs: number, folder: (typeof folders)[number] = 'day'): WatchMoment => ({
  stamp: ms(stampMs),
  views: momentViews(folder),
})

/** A moment whose pictures are read when a test says so. */
function gated(stampMs: number): { moment: WatchMoment; read: Promise<void>; open: () => void } {
  let begin = () => {}
  let open = () => {}
  const read = new Promise<void>((resolve) => {
    begin = resolve
  })
  const opened = new Promise<void>((resolve) => {
    open = resolve
  })
  const views = async () => {
    begin()
    await opened
    return momentViews('day')
  }
  return { moment: { stamp: ms(stampMs), views }, read, open }
}

const texts = ({ answers }: WatchResult) => answers.map((answer) => answer?.text)

describe('a source', () => {
  test('is asked about moment by moment, each an update of the one before, until it ends', async () => {
    const source = new Pushed().push(at(0))
    const watch = model.watch(source, { questions })
    const found: WatchResult[] = []
    for await (const result of watch) {
      found.push(result)
      const i = found.length
      source.push(i < 3 ? at(500 * i, folders[i]) : i === 3 ? at(1500, 'rain') : undefined)
    }
    expect(found.map(texts)).toEqual([...truths, truths[2]].map((truth) => [truth]))
    expect(found.map(({ stamp }) => stamp)).toEqual([0, 500, 1000, 1500].map(ms))
    expect(found[3]!.scene!.sharedTokens).toBeGreaterThan(96) // image tokens too: the scene before was still there
    expect(found.every(({ late, dropped, error }) => !late && dropped === 0 && error === undefined)).toBe(true)
    for (const { timings } of found) for (const value of Object.values(timings)) expect(value).toBeGreaterThanOrEqual(0)
    expect(watch.counts).toEqual({ asked: 4, late: 0, failed: 0, dropped: 0 })
    expect(await watch.next()).toEqual({ done: true, value: undefined })
  })

  test('queues nothing: of what came meanwhile the newest is taken, the others are counted', async () => {
    const first = gated(0)
    const source = new Pushed().push(first.moment)
    const watch = model.watch(source, { questions })
    const answered = watch.next()
    await first.read
    source.push(at(100), { ...at(200), dropped: 5 }, at(300), at(400, 'rain'))
    await source.taken()
    first.open()
    expect((await answered).value).toMatchObject({ stamp: 0n, dropped: 8 })
    expect((await watch.next()).value).toMatchObject({ stamp: ms(400), dropped: 0, answers: [{ text: truths[2] }] })
    source.push(at(350), at(390)) // older than what was asked about
    await source.taken()
    source.push(at(500), undefined)
    expect((await watch.next()).value).toMatchObject({ stamp: ms(500), dropped: 2 })
    expect((await watch.next()).done).toBe(true)
    expect(watch.counts).toEqual({ asked: 3, late: 0, failed: 0, dropped: 10 })
  })

  test('whose clock is set back is followed', async () => {
    const source = new Pushed().push(at(60_000))
    const watch = model.watch(source, { questions, every: 10 })
    await watch.next()
    source.push(at(3000))
    expect((await watch.next()).value?.stamp).toBe(ms(3000))
    await watch.return()
  })

  test('is thinned out by its stamps', async () => {
    const source = new Pushed()
    const watch = model.watch(source, { questions, every: 0.5 })
    const found: number[] = []
    for (let i = 0; i < 20; i++) {
      const stamp = Math.round((i * 1000) / 12)
      source.push(at(stamp))
      if (found.length * 500 <= stamp) found.push(Number((await watch.next()).value!.stamp / 1_000_000n))
      else await source.taken()
    }
    expect(found).toEqual([0, 500, 1000, 1500])
    expect(watch.counts.dropped).toBe(0)
    await watch.return()
  })

  test('that is always ready holds nobody up', async () => {
    let ticks = 0
    const timer = setInterval(() => ticks++, 1)
    let given = 0
    async function* endless() {
      for (;;) yield at(given++)
    }
    for await (const { stamp } of model.watch(endless(), { questions })) if (stamp > 0n && ticks > 2) break
    clearInterval(timer)
    expect(given).toBeGreaterThan(1)
  })

  test('that throws ends it with its error', async () => {
    const source = new Pushed().push(at(0))
    const watch = model.watch(source, { questions })
    await watch.next()
    const gone = new Error('the camera is gone')
    source.push(at(100), gone)
    await expect(
      (async () => {
        for (;;) if ((await watch.next()).done) break
      })(),
    ).rejects.toBe(gone)
    expect(await watch.next()).toEqual({ done: true, value: undefined })
  })

  test('with a picture that is none goes on with the next moment', async () => {
    const broken = { ...momentViews('day'), CAM_BACK: Buffer.from('no picture') }
    const results: WatchResult[] = []
    const none = { stamp: ms(150), views: null as never }
    const feed = [{ stamp: ms(100), views: broken }, none, at(200, 'dusk'), undefined]
    const fed = new Pushed().push(at(0))
    for await (const result of model.watch(fed, { questions })) {
      results.push(result)
      fed.push(feed[results.length - 1])
    }
    expect(results.map(({ error }) => error?.code)).toEqual([undefined, 'BAD_VIEW', 'BAD_VIEW', undefined])
    expect(results.map(texts)).toEqual([[truths[0]], [undefined], [undefined], [truths[1]]])
  })

  test.each([[{ views: {} }], [{ stamp: 1, views: {} }], ['moment']])('of %o is refused', async (moment) => {
    const watch = model.watch(new Pushed().push(moment as never), { questions })
    await expect(watch.next()).rejects.toMatchObject({
      code: 'BAD_ARGUMENT',
      message: expect.stringMatching(/a bigint/),
    })
  })
})

describe('a deadline', () => {
  test('that passes while pictures are read, seen or answered about: late, and nothing goes on', async () => {
    const never = { stamp: 0n, views: () => new Promise<never>(() => {}) }
    const source = new Pushed().push(never)
    const watch = model.watch(source, { questions: [weather, weather], deadlineMs: 5, minNewTokens: 300 })
    const first = (await watch.next()).value!
    expect(first).toMatchObject({ late: true, answers: [undefined, undefined], scene: undefined, error: undefined })
    source.push(at(100))
    const second = (await watch.next()).value!
    expect(second).toMatchObject({ late: true, answers: [undefined, undefined] })
    expect(second.timings.totalMs).toBeGreaterThanOrEqual(4)
    expect(watch.counts).toMatchObject({ asked: 2, late: 2 })
    await idle(model) // with the watch still open: what was late was given up
    await watch.return()
  })

  test('that is kept is no matter', async () => {
    const watch = model.watch(new Pushed().push(at(0), undefined), { questions, deadlineMs: 60_000 })
    expect((await watch.next()).value).toMatchObject({ late: false, answers: [{ text: truths[0] }] })
    expect((await watch.next()).done).toBe(true)
  })

  test('that passed while nobody asked: the moment is dropped', async () => {
    const source = new Pushed().push(at(0))
    const watch = model.watch(source, { questions, deadlineMs: 3 })
    await watch.next()
    source.push(at(100))
    await source.taken()
    const receivedAt = performance.now()
    while (performance.now() - receivedAt < 5) await nextTurn()
    source.push(undefined)
    expect(await watch.next()).toEqual({ done: true, value: undefined })
    expect(watch.counts).toMatchObject({ asked: 1, dropped: 1 })
  })
})

describe('leaving', () => {
  test('a loop gives up scene and source', async () => {
    const source = new Pushed().push(at(0))
    for await (const result of model.watch(source, { questions })) {
      expect(texts(result)).toEqual([truths[0]])
      expect(model.stats().scenes).toBe(1)
      break
    }
    expect(source.returned).toBe(true)
  })

  test('while it computes or waits ends the call', async () => {
    for (const moments of [[], [gated(0).moment], [at(0)]]) {
      const source = new Pushed().push(...moments)
      const watch = model.watch(source, { questions, minNewTokens: 300 })
      const waiting = watch.next()
      await source.taken()
      await nextTurn()
      expect(await watch.return()).toEqual({ done: true, value: undefined })
      expect(await waiting).toEqual({ done: true, value: undefined })
      expect(source.returned).toBe(true)
      await idle(model)
    }
  })

  test('by a signal: before, while it computes, and between two calls', async () => {
    const early = model.watch(new Pushed(), { questions, signal: AbortSignal.abort() })
    await expect(early.next()).rejects.toMatchObject({ code: 'ABORTED' })

    const stop = new AbortController()
    const source = new Pushed().push(gated(0).moment)
    const waiting = model.watch(source, { questions, signal: stop.signal }).next()
    await source.taken()
    stop.abort()
    await expect(waiting).rejects.toMatchObject({ code: 'ABORTED' })
    expect(source.returned).toBe(true)

    const later = new AbortController()
    const between = new Pushed().push(at(0))
    const watch = model.watch(between, { questions, signal: later.signal })
    await watch.next()
    later.abort()
    while (!between.returned) await nextTurn()
    await idle(model)
    await expect(watch.next()).rejects.toMatchObject({ code: 'ABORTED' })
    expect(await watch.next()).toEqual({ done: true, value: undefined })
  })
})

test('boxes of what is located', async () => {
  const locate = 'Please provide the bounding box of the cyclist in CAM_FRONT_LEFT.'
  const source = new Pushed().push(at(0, 'dusk'), undefined)
  const watch = model.watch(source, { questions: [{ locate }, weather] })
  const result = (await watch.next()).value!
  await watch.return()
  const scene = await model.see(momentViews('dusk'))
  const { answer, ...located } = await scene.locate(locate)
  scene.dispose()
  expect(located.boxes.length).toBeGreaterThan(0)
  expect(result.answers[0]).toMatchObject({ question: locate, ...located, answer: { text: answer.text } })
  expect(result.answers[1]).toMatchObject({ text: truths[1], boxes: [] })
})

test.each([
  [{ questions: [] }, /list of questions/],
  [{ questions: 'What?' }, /list of questions/],
  [{ questions: [''] }, /question is empty/],
  [{ questions: ['a'], minNewTokens: 9, maxNewTokens: 3 }, /minNewTokens/],
])('%o is refused', (options, message) => {
  expect(() => model.watch(new Pushed(), options as WatchOptions)).toThrow(message)
})

test('a source that is none is refused', () => {
  expect(() => model.watch([] as never, { questions })).toThrow(/async iterable/)
})

describe('replay', () => {
  async function* stamps(...list: number[]) {
    for (const stamp of list) yield { stamp: ms(stamp) }
  }

  test('keeps the pace of the stamps; leaving ends a wait', async () => {
    const begun = performance.now()
    const found: number[] = []
    for await (const { stamp } of replay(stamps(0, 1000, 2000), { rate: 50 })) {
      found.push(performance.now() - begun)
      expect(Number(stamp / 1_000_000n)).toBe(1000 * (found.length - 1))
    }
    expect(found[1]).toBeGreaterThanOrEqual(20)
    expect(found[2]).toBeGreaterThanOrEqual(40)
    const long = replay(stamps(0, 50_000))
    await long.next()
    const waiting = long.next()
    await nextTurn()
    await long.return()
    expect(await waiting).toEqual({ done: true, value: undefined })
  })

  test('a gap is passed over, and a signal ends it', async () => {
    const jump = replay(stamps(0, 3_600_000, 10))
    for (const stamp of [0, 3_600_000, 10]) expect((await jump.next()).value?.stamp).toBe(ms(stamp))
    const stop = new AbortController()
    const held = replay(stamps(0, 50_000), { signal: stop.signal })
    await held.next()
    const waiting = held.next()
    await nextTurn()
    stop.abort()
    await expect(waiting).rejects.toMatchObject({ code: 'ABORTED' })
    expect(() => replay(stamps(), { rate: 0 })).toThrow(/rate/)
  })
})

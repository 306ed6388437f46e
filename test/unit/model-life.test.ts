/** How models and scenes come and go: disposal, garbage collection, memory, the event loop. */
import { readdirSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { loadModel } from '../../lib/load-model.ts'
import { loadAddon } from '../../lib/native.ts'
import { collect, collectUntil, idle, long, momentViews, rssMiB, weather } from './street-tiny.ts'

const day = momentViews('day')
// A sanitizer keeps freed memory for a while and slows everything down: its build bounds neither memory nor time.
const sanitized = loadAddon().build.sanitizer !== ''
const disposed = { name: 'ModelError', code: 'DISPOSED' }
const threads = () => readdirSync('/proc/self/task').length

describe('dispose', () => {
  test('everything after it says DISPOSED, and it may be called again', async () => {
    const model = await loadModel()
    const scene = await model.see(day)
    await Promise.all([model.dispose(), model.dispose()])
    await model.dispose()
    await expect(model.ask(day, weather)).rejects.toMatchObject(disposed)
    await expect(model.see(day)).rejects.toMatchObject(disposed)
    await expect(model.stream(day, weather).next()).rejects.toMatchObject(disposed)
    await expect(scene.ask(weather)).rejects.toMatchObject(disposed)
    expect(() => model.stats()).toThrow(expect.objectContaining(disposed))
    scene.dispose()
    expect(model.info.name).toBe('street-tiny')
  })

  test('ends what is running', async () => {
    const model = await loadModel()
    const scene = await model.see(day)
    const running: Promise<unknown>[] = [scene.ask(weather, long), scene.ask(weather, long)]
    await expect.poll(() => model.stats().running, { timeout: 20_000 }).toBe(2)
    running.push(model.see(momentViews('dusk')), model.ask(momentViews('rain'), weather, long))
    const ends = Promise.allSettled(running)
    const started = performance.now()
    await model.dispose()
    expect(performance.now() - started).toBeLessThan(sanitized ? 20_000 : 1000)
    for (const end of await ends) expect(end).toMatchObject({ status: 'rejected', reason: disposed })
  })

  test('of a scene: its pages are free, its questions end well, the model goes on', async () => {
    const model = await loadModel()
    const scene = await model.see(day)
    const last = scene.ask(weather)
    scene.dispose()
    scene.dispose()
    expect((await last).text).not.toBe('')
    await expect(scene.ask(weather)).rejects.toMatchObject(disposed)
    await idle(model)
    expect((await model.ask(day, weather)).text).toBe((await last).text)
    await model.dispose()
  })

  test('works with await using', async () => {
    const model = await loadModel()
    const scene = await model.see(day)
    scene[Symbol.dispose]()
    await model[Symbol.asyncDispose]()
    await expect(model.see(day)).rejects.toMatchObject(disposed)
  })
})

describe('what is dropped is given back', () => {
  test('scenes', async () => {
    const model = await loadModel()
    const scenes = []
    for (let i = 0; i < 5; i++) scenes.push(await model.see(day))
    await expect.poll(() => model.stats().scenes).toBe(5)
    scenes.length = 0
    await collectUntil(() => model.stats().scenes === 0)
    await idle(model)
    await model.dispose()
  })

  test('streams that nobody reads any more', async () => {
    const model = await loadModel()
    // In a function of its own, whose frame does not keep it alive.
    const readOnce = async () => expect((await model.stream(day, weather, long).next()).done).toBe(false)
    await readOnce()
    await expect.poll(() => model.stats().running, { timeout: 20_000 }).toBe(1)
    await collectUntil(() => model.stats().running === 0)
    await idle(model)
    expect(model.stats().decodeTokens).toBeLessThan(long.minNewTokens)
    await model.dispose()
  })

  test('models, with their threads', async () => {
    await (await loadModel({ threads: 1 })).dispose()
    const before = threads()
    const models = []
    for (let i = 0; i < 8; i++) models.push(await loadModel({ threads: 1 }))
    expect(threads()).toBeGreaterThan(before)
    models.length = 0
    await collectUntil(() => threads() <= before)
    expect(threads()).toBeLessThanOrEqual(before)
  })
})

test.skipIf(sanitized)(
  '80 loads and disposals leave the memory where it was',
  async () => {
    const round = async (i: number) => {
      const model = await loadModel()
      if (i % 10 === 0) await model.ask(day, weather)
      await model.dispose()
    }
    for (let i = 0; i < 20; i++) await round(i)
    collect()
    const before = rssMiB()
    for (let i = 0; i < 80; i++) await round(i)
    collect()
    // A load reserves some 20 MiB: one in ten of them lost would be 160.
    expect(rssMiB() - before).toBeLessThan(40)
  },
  120_000,
)

test.skipIf(sanitized)('loads that fail or are given up leave the memory where it was', async () => {
  const round = async () => {
    const controller = new AbortController()
    const onProgress = () => controller.abort()
    await expect(loadModel({ signal: controller.signal, onProgress })).rejects.toMatchObject({ code: 'ABORTED' })
  }
  for (let i = 0; i < 10; i++) await round()
  collect()
  const before = rssMiB()
  for (let i = 0; i < 60; i++) await round()
  collect()
  expect(rssMiB() - before).toBeLessThan(40)
})

test('an error in onProgress gives up the load and is passed on', async () => {
  const onProgress = () => {
    throw new RangeError('mine')
  }
  await expect(loadModel({ onProgress })).rejects.toThrow(new RangeError('mine'))
})

test('onProgress counts up to the total', async () => {
  const seen: [number, number][] = []
  const model = await loadModel({ onProgress: ({ doneBytes, totalBytes }) => seen.push([doneBytes, totalBytes]) })
  const [done, total] = seen.at(-1)!
  expect(done).toBe(total)
  expect(seen.every(([bytes], i) => i === 0 || bytes >= seen[i - 1]![0])).toBe(true)
  await model.dispose()
})

test.skipIf(sanitized)(
  'the event loop stays free: a 5 ms timer is late by less than 5 ms at the median while a question runs',
  async () => {
    const model = await loadModel()
    const scene = await model.see(day)
    const lateness: number[] = []
    let expected = performance.now() + 5
    const timer = setInterval(() => {
      lateness.push(performance.now() - expected)
      expected = performance.now() + 5
    }, 5)
    while (lateness.length < 40)
      // a fast machine is soon done
      await Promise.all([scene.ask(weather, { ...long, maxNewTokens: 3000 }), model.ask(day, weather)])
    clearInterval(timer)
    lateness.sort((a, b) => a - b)
    expect(lateness[lateness.length >> 1]).toBeLessThan(5)
    await model.dispose()
  },
)

test('a sanitizer build says so', () => {
  expect(loadAddon().build.sanitizer).toBe(process.env.DRIVLM_SANITIZE ?? '')
})

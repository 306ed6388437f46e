// Whoever reads an answer: several calls of next at once, readers that leave or are dropped, callbacks that fail.
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { loadModel } from '../../lib/load-model.ts'
import type { Model } from '../../lib/model.ts'
import type { Scene } from '../../lib/scene.ts'
import { collectUntil, idle, long, momentViews, weather } from './street-tiny.ts'

let model: Model
let scene: Scene

beforeAll(async () => {
  model = await loadModel({ threads: 1 })
  scene = await model.see(momentViews('day'))
})
afterAll(async () => model.dispose())

const running = () => model.stats().running + model.stats().waiting

interface Reader<Piece> {
  next(): Promise<IteratorResult<Piece, undefined>>
  return(): Promise<unknown>
  [Symbol.asyncIterator](): AsyncIterator<Piece>
}
const kinds: [string, () => Reader<unknown>, (piece: unknown) => string][] = [
  ['a stream of a scene', () => scene.stream(weather), String],
  ['a stream of the model', () => model.stream(momentViews('day'), weather), String],
  ['a stream of a dialogue', () => scene.chat().stream(weather), String],
  ['a batch', () => scene.askAll([weather, weather]), (piece) => (piece as { text: string }).text],
]

describe.each(kinds)('%s', (_, make, textOf) => {
  test('calls of next queue: the first get the pieces, in order, the others the end', async () => {
    const whole: string[] = []
    for await (const piece of make()) whole.push(textOf(piece))
    const reader = make()
    const reads = await Promise.all(Array.from({ length: 20 }, async () => reader.next()))
    const firstEnd = reads.findIndex((read) => read.done)
    expect(firstEnd).toBeGreaterThan(0)
    expect(reads.slice(firstEnd).every((read) => read.done === true && read.value === undefined)).toBe(true)
    const pieces = reads.slice(0, firstEnd).map((read) => textOf(read.value))
    expect([...pieces.join('')].sort().join('')).toBe([...whole.join('')].sort().join('')) // a batch mixes its answers
  })

  test('two loops share the pieces, and both end', async () => {
    const reader = make()
    let text = ''
    const loop = async () => {
      for await (const piece of { [Symbol.asyncIterator]: () => ({ next: () => reader.next() }) }) text += textOf(piece)
    }
    await Promise.all([loop(), loop(), loop()])
    expect(text).toMatch(/sunny|clear|day|rain|dusk|\w+/i)
  })

  test('what waits for a piece when the reader leaves is told of the end at once', async () => {
    const reader = make()
    const waiting = [reader.next(), reader.next(), reader.next()]
    const told: string[] = []
    const left = reader.return().then(() => told.push('left'))
    const reads = await Promise.all(waiting)
    told.push('read')
    await left
    const end = { done: true, value: undefined }
    expect(reads).toEqual([end, end, end])
    expect(told).toEqual(['read', 'left'])
    expect(await reader.next()).toEqual(end)
  })
})

test('a failure is thrown once, to the first who reads on', async () => {
  const stream = scene.stream(weather, { signal: AbortSignal.abort() })
  const reads = await Promise.allSettled([stream.next(), stream.next(), stream.next()])
  expect(reads.map(({ status }) => status)).toEqual(['rejected', 'fulfilled', 'fulfilled'])
  await expect(stream.answer).rejects.toMatchObject({ code: 'ABORTED' })
})

describe('what nobody reads any more is not generated', () => {
  test('a batch that was left half-read and dropped', async () => {
    const other = await loadModel({ threads: 1, maxContext: 4096 })
    const seen = await other.see(momentViews('day'))
    await (async () => {
      await seen.askAll([weather, 'How many cars are in CAM_BACK?'], long).next()
    })()
    const before = other.stats().decodeTokens
    await collectUntil(() => other.stats().running === 0)
    expect(other.stats().running).toBe(0)
    expect(other.stats().decodeTokens - before).toBeLessThan(2 * long.maxNewTokens - 200)
    await other.dispose()
  })

  test('one that was left holds nothing of the function that left it', async () => {
    const other = await loadModel({ threads: 1 })
    const use = async () => {
      const own = await other.see(momentViews('dusk'))
      const readers = [own.stream(weather), own.askAll([weather])]
      for (const reader of readers) await (async () => [await reader.next(), await reader.return(), own.info])()
    }
    await use()
    await collectUntil(() => other.stats().scenes === 0)
    expect(other.stats().scenes).toBe(0)
    await other.dispose()
  })

  test('but one whose answers somebody waits for is', async () => {
    const answers = (() => scene.askAll([weather, weather], { minNewTokens: 200, maxNewTokens: 200 }).answers)()
    const piece = (() => scene.stream(weather, { minNewTokens: 200, maxNewTokens: 200 }).next())()
    for (let i = 0; i < 5; i++) await collectUntil(() => running() === 0)
    expect((await answers).map(({ finishReason }) => finishReason)).toEqual(['length', 'length'])
    expect((await piece).done).toBe(false)
  })
})

describe('callbacks', () => {
  const failing = async (text: string) => {
    await new Promise((resolve) => setTimeout(resolve, 2))
    throw new RangeError(`no room for ${text.length}`)
  }

  test("an async onText that rejects ends the generation, and its error is the call's", async () => {
    const options = { minNewTokens: 1500, maxNewTokens: 1500, onText: failing }
    const calls = [
      () => scene.ask(weather, options),
      () => scene.stream(weather, options).answer,
      () => scene.askAll([weather, weather], options).answers,
      () => scene.chat().ask(weather, options),
      () =>
        scene
          .chat()
          .stream(weather, options)
          .next()
          .then(() => scene.chat().stream(weather, options).answer),
      () => model.ask(momentViews('day'), weather, options),
      () => scene.locate('Where is the car?', options),
    ]
    const before = model.stats().decodeTokens
    for (const call of calls) await expect(call()).rejects.toThrow(RangeError)
    expect(model.stats().decodeTokens - before).toBeLessThan(calls.length * 1500)
  })

  test('the answer waits for what an async onText still does', async () => {
    let heard = ''
    const answer = await scene.ask(weather, {
      onText: async (text) => {
        await new Promise((resolve) => setTimeout(resolve, 5))
        heard += text
      },
    })
    expect(heard).toBe(answer.text)
  })

  test('but not for ever, if its signal is aborted', async () => {
    const given = new AbortController()
    const answer = scene.ask(weather, { signal: given.signal, onText: () => new Promise(() => {}) })
    setTimeout(() => given.abort(), 50)
    await expect(answer).rejects.toMatchObject({ code: 'ABORTED' })
  })

  test('an async onProgress that rejects ends the loading', async () => {
    const onProgress = async () => Promise.reject(new RangeError('no'))
    await expect(loadModel({ threads: 1, onProgress })).rejects.toThrow(RangeError)
  })

  test('a dialogue whose callback throws on any piece, the last one too, leaves no page behind', async () => {
    const own = await loadModel({ threads: 1 })
    const seen = await own.see(momentViews('day'))
    const before = own.stats()
    for (let at = 0; at < 16; at++) {
      const chat = seen.chat()
      let told = 0
      const onText = (piece: string) => {
        if (at % 2 === 0 ? ++told > at / 2 : piece.includes('.')) throw new RangeError('no')
      }
      await chat.ask('What is the weather like?', { stop: '.zz', onText, speculate: false }).catch((error) => {
        expect(error).toBeInstanceOf(RangeError)
      })
      expect(chat.turns.length).toBeLessThanOrEqual(1)
      chat.dispose()
    }
    await expect.poll(() => own.stats().scenes).toBe(before.scenes)
    expect(own.stats().pagesUsed).toBe(before.pagesUsed)
    seen.dispose()
    await idle(own)
    await own.dispose()
  })
})

import { getEventListeners } from 'node:events'
import { readFileSync } from 'node:fs'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { ModelError } from '../../lib/errors.ts'
import { loadModel } from '../../lib/load-model.ts'
import type { Model } from '../../lib/model.ts'
import { loadAddon } from '../../lib/native.ts'
import { cameras } from '../../lib/views/cameras.ts'
import { idle, long, momentViews, streetTiny, weather } from './street-tiny.ts'

interface Moments {
  moments: { folder: 'day' | 'dusk' | 'rain'; questions: { question: string; truth: string }[] }[]
}
const { moments } = JSON.parse(readFileSync(path.join(streetTiny, 'moments', 'moments.json'), 'utf8')) as Moments
const day = momentViews('day')
const sanitized = loadAddon().build.sanitizer !== ''
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))

let model: Model
beforeAll(async () => {
  model = await loadModel({ visionCache: 0 }) // so that every seeing takes its time
})
afterAll(async () => {
  await model.dispose()
})

describe('answers', () => {
  test.each(moments)('about the moment $folder are true', async ({ folder, questions }) => {
    const scene = await model.see(momentViews(folder))
    const answers = await Promise.all(questions.map(({ question }) => scene.ask(question)))
    expect(answers.map(({ text }) => text)).toEqual(questions.map(({ truth }) => truth))
    scene.dispose()
  })

  test('say what they cost', async () => {
    const { finishReason, usage, timings } = await model.ask(day, weather)
    expect(finishReason).toBe('stop')
    expect(usage).toEqual({ promptTokens: 124, imageTokens: 96, answerTokens: 6 })
    for (const ms of Object.values(timings)) expect(ms).toBeGreaterThanOrEqual(0)
    expect(timings.visionMs).toBeGreaterThan(0)
    expect(timings.prefillMs).toBeGreaterThan(0)
    expect(timings.firstTokenMs).toBeGreaterThan(timings.decodeMs + timings.visionMs)
    expect(timings.totalMs).toBeGreaterThanOrEqual(timings.firstTokenMs)
  })

  test('a second question about a scene costs only its own tokens', async () => {
    const scene = await model.see(day)
    expect(scene.info).toMatchObject({ imageTokens: 96, tiles: 6, layout: 'canvas' })
    const { timings } = await scene.ask(weather)
    expect(timings).toMatchObject({ decodeMs: 0, preprocessMs: 0, visionMs: 0 })
    expect(timings.prefillMs).toBeLessThan(scene.info.timings.visionMs + scene.info.timings.prefillMs)
    scene.dispose()
  })

  test('do not depend on the order of the cameras, nor on how the pictures are given', async () => {
    const expected = (await model.ask(day, weather)).text
    const reversed = Object.fromEntries(Object.entries(day).reverse())
    const bytes = Object.fromEntries(cameras.map((camera) => [camera, readFileSync(day[camera] as string)]))
    const list = model.info.cameras.map((camera) => day[camera as 'CAM_FRONT']!)
    for (const views of [reversed, bytes, list]) expect((await model.ask(views, weather)).text).toBe(expected)
  })

  test('two at once are the same as one after another', async () => {
    const questions = [weather, 'What should the ego car do next?']
    const alone = [await model.ask(day, questions[0]!), await model.ask(momentViews('rain'), questions[1]!)]
    const together = await Promise.all([model.ask(day, questions[0]!), model.ask(momentViews('rain'), questions[1]!)])
    expect(together.map(({ text }) => text)).toEqual(alone.map(({ text }) => text))
  })

  test('end at maxNewTokens, at a stop string, and where the caller likes', async () => {
    expect(await model.ask(day, weather, { maxNewTokens: 2 })).toMatchObject({
      finishReason: 'length',
      usage: { answerTokens: 2 },
    })
    const stopped = await model.ask(day, weather, { stop: ['clear', 'never'] })
    expect(stopped).toMatchObject({ text: 'It is a', finishReason: 'stop' })
    const pieces: string[] = []
    const { text } = await model.ask(day, weather, { onText: (piece) => pieces.push(piece) })
    expect(pieces.join('')).toBe(text)
    expect((await model.ask(day, weather, { minNewTokens: 40, maxNewTokens: 40 })).usage.answerTokens).toBe(40)
  })

  test('at a temperature are fixed by the seed', async () => {
    const scene = await model.see(day)
    const draw = (seed: number) => scene.ask(weather, { temperature: 3, seed, maxNewTokens: 24 })
    const [first, again, other] = await Promise.all([draw(1), draw(1), draw(2)])
    expect(again.text).toBe(first.text)
    expect(other.text).not.toBe(first.text)
    scene.dispose()
  })

  test('an error of the caller in onText ends the question and is passed on', async () => {
    const onText = () => {
      throw new RangeError('mine')
    }
    await expect(model.ask(day, weather, { ...long, onText })).rejects.toThrow(new RangeError('mine'))
    await idle(model)
  })
})

describe('streams', () => {
  test('give the answer piece by piece', async () => {
    const stream = model.stream(day, weather)
    const pieces: string[] = []
    for await (const piece of stream) pieces.push(piece)
    const answer = await stream.answer
    expect(pieces.join('')).toBe(answer.text)
    expect(answer.text).toBe((await model.ask(day, weather)).text)
    expect(await stream.next()).toEqual({ done: true, value: undefined })
  })

  test('that are left early end the generation and keep what there was', async () => {
    const stream = model.stream(day, weather, long)
    for await (const piece of stream) {
      expect(piece).not.toBe('')
      break
    }
    const { finishReason, usage } = await stream.answer
    expect(finishReason).toBe('cancelled')
    expect(usage.answerTokens).toBeLessThan(long.maxNewTokens)
    expect((await stream.next()).done).toBe(true)
    await idle(model)
  })

  test('that are left before the first word reject their answer', async () => {
    const stream = model.stream(day, weather)
    await stream.return()
    expect((await stream.next()).done).toBe(true)
    await expect(stream.answer).rejects.toMatchObject({ code: 'ABORTED' })
    await idle(model)
  })

  test('compute nothing until they are read', async () => {
    model.stream(day, weather)
    await pause(30)
    expect(model.stats()).toMatchObject({ running: 0, waiting: 0, scenes: 0 })
  })

  test('pass errors on to the reader', async () => {
    const stream = model.stream({ CAM_FRONT: 'no-such-file.png' }, weather)
    await expect(stream.next()).rejects.toMatchObject({ code: 'BAD_VIEW' })
    expect((await stream.next()).done).toBe(true)
  })
})

describe('abort', () => {
  const aborted = { name: 'ModelError', code: 'ABORTED' }

  test('before: nothing is done', async () => {
    const signal = AbortSignal.abort('changed my mind')
    await expect(loadModel({ signal })).rejects.toMatchObject({ ...aborted, cause: 'changed my mind' })
    await expect(model.see(day, { signal })).rejects.toMatchObject(aborted)
    await expect(model.ask(day, weather, { signal })).rejects.toMatchObject(aborted)
    await expect(model.stream(day, weather, { signal }).next()).rejects.toMatchObject(aborted)
  })

  test('during seeing', async () => {
    // Seeing six small views takes milliseconds: a busy machine may look away meanwhile, and then looks again.
    let outcome: unknown
    for (let attempt = 0; attempt < 50 && !(outcome instanceof ModelError); attempt++) {
      const controller = new AbortController()
      let settled = false
      const seeing = model.see(day, { signal: controller.signal }).then(
        (scene) => scene.dispose(),
        (error) => error,
      )
      seeing.then(() => (settled = true))
      while (!settled && model.stats().running + model.stats().waiting === 0) await pause(1)
      controller.abort()
      outcome = await seeing
    }
    expect(outcome).toMatchObject(aborted)
    await idle(model)
  })

  test('during an answer: within a step, and the pages are free again', async () => {
    const controller = new AbortController()
    let abortedAt = 0
    const onText = () => {
      if (abortedAt > 0) return
      abortedAt = performance.now()
      controller.abort()
    }
    const asking = model.ask(day, weather, { ...long, onText, signal: controller.signal })
    await expect(asking).rejects.toMatchObject(aborted)
    expect(performance.now() - abortedAt).toBeLessThan(sanitized ? 10_000 : 500)
    await idle(model)
  })

  test('during a stream: the reader gets the error', async () => {
    const controller = new AbortController()
    const stream = model.stream(day, weather, { ...long, signal: controller.signal })
    const read = async () => {
      for await (const _ of stream) controller.abort()
    }
    await expect(read()).rejects.toMatchObject(aborted)
    await expect(stream.answer).rejects.toMatchObject(aborted)
    await idle(model)
  })

  test('after: nothing happens, and no listener stays behind', async () => {
    const controller = new AbortController()
    const { signal } = controller
    const { text } = await model.ask(day, weather, { signal })
    expect(getEventListeners(signal, 'abort')).toEqual([])
    controller.abort()
    expect((await model.ask(day, weather)).text).toBe(text)
  })

  test('by a time limit says so', async () => {
    const asking = model.ask(day, weather, { ...long, signal: AbortSignal.timeout(20) })
    await expect(asking).rejects.toThrow('its time limit passed')
    await idle(model)
  })
})

describe('bad arguments', () => {
  const options: [string, Record<string, unknown>, string][] = [
    ['maxNewTokens 0', { maxNewTokens: 0 }, 'Expected a positive integer for options.maxNewTokens, received 0.'],
    ['maxNewTokens NaN', { maxNewTokens: Number.NaN }, 'received NaN'],
    ['maxNewTokens 1.5', { maxNewTokens: 1.5 }, 'received 1.5'],
    ['maxNewTokens a string', { maxNewTokens: '5' }, "received '5'"],
    ['minNewTokens above', { maxNewTokens: 2, minNewTokens: 3 }, 'options.minNewTokens'],
    ['temperature below 0', { temperature: -1 }, 'options.temperature, received -1'],
    ['temperature NaN', { temperature: Number.NaN }, 'options.temperature, received NaN'],
    ['topP 0', { topP: 0 }, 'options.topP'],
    ['topP 2', { topP: 2 }, 'options.topP'],
    ['seed -1', { seed: -1 }, 'options.seed'],
    ['stop empty', { stop: '' }, 'options.stop'],
    ['stop of numbers', { stop: [1] }, 'options.stop'],
    ['signal of another kind', { signal: {} }, 'options.signal'],
    ['onText no function', { onText: 'x' }, 'options.onText'],
    ['missingViews unknown', { missingViews: 'white' }, 'options.missingViews'],
    ['tileBudget 0', { tileBudget: 0 }, 'options.tileBudget'],
    ['unknown option', { maxTokens: 5 }, 'options.maxTokens is not an option here'],
    ['no object', [] as unknown as Record<string, unknown>, 'Expected an object for options, received a list.'],
  ]

  test.each(options)('%s', async (_, bad, message) => {
    const error = await model.ask(day, weather, bad).catch((error: unknown) => error)
    expect(error).toBeInstanceOf(ModelError)
    expect(error).toMatchObject({ code: 'BAD_ARGUMENT', message: expect.stringContaining(message) })
    expect(() => model.stream(day, weather, bad)).toThrow(message)
  })

  test.each([[''], [' \n\t'], [undefined], [5], [null], [['a']]])('question %j', async (question) => {
    await expect(model.ask(day, question as string)).rejects.toMatchObject({ code: 'BAD_ARGUMENT' })
    expect(() => model.stream(day, question as string)).toThrow(ModelError)
  })

  test.each([
    [{ device: 'tpu' }, 'options.device'],
    [{ precision: 'int8' }, 'options.precision'],
    [{ threads: 0 }, 'options.threads'],
    [{ maxContext: 1e9 }, 'options.maxContext'],
    [{ maxContext: 5000 }, 'Expected up to 4096 for options.maxContext'],
    [{ kvMemory: 10 }, 'options.kvMemory'],
    [{ maxMemory: 0 }, 'options.maxMemory'],
    [{ tileSize: 100 }, 'tileSize'],
    [{ verbose: true }, 'options.verbose'],
  ])('loading with %j', async (bad, message) => {
    const error = await loadModel(bad as never).catch((error: unknown) => error)
    expect(error).toMatchObject({ code: 'BAD_ARGUMENT', message: expect.stringContaining(message) })
  })

  test('a model over maxMemory says what is missing and what would fit', async () => {
    const options = { device: 'cpu', maxContext: 1024 } as const
    const usual = await loadModel(options)
    const { weightsBytes, kvBytes, arenaBytes } = usual.info.memory
    await usual.dispose()
    const total = weightsBytes + kvBytes + arenaBytes
    await (await loadModel({ ...options, maxMemory: total })).dispose()
    const error = (await loadModel({ ...options, maxMemory: total - 1 }).catch((error: unknown) => error)) as Error
    expect(error).toMatchObject({ code: 'OUT_OF_MEMORY' })
    const [, kvMemory, maxContext, weights] =
      /are missing\. It would fit with kvMemory: (\d+) .*; or maxContext: (\d+) .*; or weights: '(int8|int4)'/.exec(
        error.message,
      )!
    for (const setting of [{ kvMemory: Number(kvMemory) }, { maxContext: Number(maxContext) }, { weights }]) {
      const model = await loadModel({ ...options, maxMemory: total - 1, ...setting } as never)
      const memory = model.info.memory
      expect(memory.weightsBytes + memory.kvBytes + memory.arenaBytes).toBeLessThan(total)
      await model.dispose()
    }
    await expect(loadModel({ ...options, maxMemory: 1000 })).rejects.toMatchObject({
      code: 'OUT_OF_MEMORY',
      message: expect.stringContaining('load a smaller model'),
    })
  })

  test('a model that no single setting makes fit is told settings that do together', async () => {
    const options = { device: 'cpu', maxMemory: 9_950_000 } as const
    const { message } = await loadModel(options).then(
      () => expect.unreachable(),
      (error: Error) => error,
    )
    const found =
      /It would fit with weights: '(int8|int4)', kvCache: '(bf16|int8)' and maxContext: (\d+) together\.$/.exec(
        message,
      )!
    const [, weights, kvCache, maxContext] = found
    expect(found.slice(1)).toEqual(['int8', 'int8', '1024'])
    const model = await loadModel({ ...options, weights, kvCache, maxContext: Number(maxContext) } as never)
    expect(model.info.maxContext).toBe(1024)
    await model.dispose()
  })

  test('folders that are none', async () => {
    await expect(loadModel('')).rejects.toMatchObject({ code: 'BAD_ARGUMENT' })
    await expect(loadModel(5 as never)).rejects.toMatchObject({ code: 'BAD_ARGUMENT' })
    await expect(loadModel('no/such/folder')).rejects.toMatchObject({ code: 'BAD_CHECKPOINT' })
    await expect(loadModel(path.join(streetTiny, 'config.json'))).rejects.toMatchObject({ code: 'BAD_CHECKPOINT' })
  })

  test('a device that is not there', async () => {
    const error = await loadModel({ device: 'cuda:99' }).catch((error: unknown) => error)
    expect(error).toMatchObject({ code: 'DEVICE_UNAVAILABLE' })
    expect((error as Error).message).toMatch(
      /^Device 'cuda:99' was asked for, but .+\. To run on the CPU pass \{ device: 'cpu' \}\.$/,
    )
  })

  test('five views of six', async () => {
    const { CAM_BACK: _, ...five } = day
    await expect(model.ask(five, weather)).rejects.toMatchObject({
      code: 'BAD_VIEW',
      message: expect.stringContaining('CAM_BACK'),
    })
    expect((await model.ask(five, weather, { missingViews: 'black' })).text).not.toBe('')
  })
})

describe('context', () => {
  test('a question that is too long says how many tokens fit', async () => {
    const small = await loadModel({ maxContext: 160 })
    const scene = await small.see(day)
    const error = await scene.ask('where '.repeat(300)).catch((error: unknown) => error)
    expect(error).toMatchObject({ code: 'CONTEXT_OVERFLOW' })
    expect((error as Error).message).toMatch(
      /takes \d+ tokens; beside the 112 of the scene at most 47 fit into the context of 160/,
    )
    const capped = await scene.ask(weather, long)
    expect(capped.usage.promptTokens + capped.usage.answerTokens).toBe(160)
    expect(capped.finishReason).toBe('length')
    await small.dispose()
  })

  test('views that are too many say so', async () => {
    const small = await loadModel({ maxContext: 64 })
    await expect(small.see(day)).rejects.toMatchObject({
      code: 'CONTEXT_OVERFLOW',
      message: expect.stringContaining('6 tiles and 112 tokens, and the context holds 64'),
    })
    await small.dispose()
  })

  test('a cache full of scenes says so, and is usable again after one is disposed of', async () => {
    const small = await loadModel({ maxContext: 256, kvMemory: 256 * model.info.memory.kvBytesPerToken })
    const scenes = [await small.see(day), await small.see(momentViews('dusk'))]
    await expect(small.see(momentViews('rain'))).rejects.toMatchObject({ code: 'OUT_OF_MEMORY' })
    for (const scene of scenes) scene.dispose()
    expect((await small.ask(day, weather, { maxNewTokens: 20 })).text).not.toBe('')
    await small.dispose()
  })
})

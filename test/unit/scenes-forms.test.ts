/** Answers that are more than text: choices and scores, forms, boxes. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { ModelError } from '../../lib/errors.ts'
import { loadModel } from '../../lib/load-model.ts'
import type { Model } from '../../lib/model.ts'
import { idle, momentViews, weather } from './street-tiny.ts'

const day = momentViews('day')

describe('choose and score', () => {
  let model: Model
  beforeAll(async () => {
    model = await loadModel({ precision: 'f32' })
  })
  afterAll(async () => {
    await idle(model)
    await model.dispose()
  })
  const choices = ['It is raining.', 'It is a clear day.', 'It is dusk.']

  test('the likeliest is what the model says', async () => {
    for (const [moment, index] of [
      ['day', 1],
      ['dusk', 2],
    ] as const) {
      using scene = await model.see(momentViews(moment))
      const chosen = await scene.choose(weather, choices)
      expect(chosen).toMatchObject({ index, choice: choices[index] })
      expect(chosen.probabilities.reduce((sum, one) => sum + one)).toBeCloseTo(1, 10)
      expect(chosen.probabilities[index]).toBeGreaterThan(0.99)
    }
  })

  test('scores are the log-probabilities of the same tokens when they are generated', async () => {
    using scene = await model.see(day)
    const { text, logprobs } = await scene.ask(weather, { logprobs: true })
    const { tokens, logprob } = await scene.score(weather, text)
    expect(tokens.map(({ id }) => id)).toEqual(logprobs!.map(({ id }) => id))
    for (const [i, token] of tokens.entries()) expect(token.logprob).toBeCloseTo(logprobs![i]!.logprob!, 4)
    expect(tokens.map(({ text: piece }) => piece).join('')).toBe(text)
    expect(logprob).toBeCloseTo(
      tokens.reduce((sum, token) => sum + token.logprob, 0),
      5,
    )
    const chosen = await scene.choose(weather, [text, 'No.'])
    expect(chosen.logprobs[0]).toBeCloseTo(logprob, 4)
  })

  test('normalising divides by the length; the end counts if wanted', async () => {
    using scene = await model.see(day)
    const plain = await scene.choose(weather, choices)
    const scores = await Promise.all(choices.map((one) => scene.score(weather, one)))
    const byTokens = await scene.choose(weather, choices, { normalise: true })
    const byBytes = await scene.choose(weather, choices, { normalise: 'bytes' })
    for (const [i, one] of choices.entries()) {
      expect(byTokens.logprobs[i]).toBeCloseTo(plain.logprobs[i]! / scores[i]!.tokens.length, 4)
      expect(byBytes.logprobs[i]).toBeCloseTo(plain.logprobs[i]! / one.length, 4)
    }
    const beginning = ['It', 'It is a clear day.']
    expect((await scene.choose(weather, beginning)).index).toBe(0)
    expect((await scene.choose(weather, beginning, { withEnd: true })).index).toBe(1)
    const ended = await scene.score(weather, 'It', { withEnd: true })
    expect(ended.tokens.length).toBe(2)
    expect(ended.tokens[1]!.text).toBe('<|im_end|>')
  })

  test('many choices of many lengths are scored as one by one', async () => {
    using scene = await model.see(day)
    const many = Array.from(
      { length: 40 },
      (_, i) => 'It is a clear day. '.repeat(1 + (i % 5)) + String.fromCharCode(65 + i),
    )
    const { logprobs } = await scene.choose(weather, many)
    for (const i of [0, 3, 4, 17, 39])
      expect((await scene.score(weather, many[i]!)).logprob).toBeCloseTo(logprobs[i]!, 3)
  })

  test.each<[string, unknown]>([
    ['none', []],
    ['an empty one', ['Yes', '']],
    ['a string', 'Yes'],
    ['a number', ['Yes', 1]],
  ])('choices that are %s are refused', async (_, list) => {
    using scene = await model.see(day)
    await expect(scene.choose(weather, list as string[])).rejects.toMatchObject({ code: 'BAD_ARGUMENT' })
  })

  test('abort, and choices that do not fit', async () => {
    using scene = await model.see(day)
    await expect(scene.choose(weather, choices, { signal: AbortSignal.abort() })).rejects.toMatchObject({
      code: 'ABORTED',
    })
    await expect(scene.choose(weather, ['Yes', 'no '.repeat(5000)])).rejects.toMatchObject({ code: 'CONTEXT_OVERFLOW' })
    expect((await scene.choose(weather, ['Yes'])).probabilities).toEqual([1])
  })
})

describe('answers of a form', () => {
  let model: Model
  beforeAll(async () => {
    model = await loadModel()
  })
  afterAll(async () => {
    await idle(model)
    await model.dispose()
  })

  test('are one of the choices', async () => {
    using scene = await model.see(day)
    const answerFormat = { enum: ['rain', 'snow', 'It is a clear day.', 'It is a clear day. Really'] }
    const { text, value, finishReason } = await scene.ask(weather, { answerFormat })
    expect({ text, value, finishReason }).toEqual({ text: 'It is a clear day.', value: text, finishReason: 'stop' })
    const only = await scene.ask(weather, { answerFormat: { enum: ['What it never says 你好'] }, logprobs: true })
    expect(only.text).toBe('What it never says 你好')
    // Tokens that are forced are not chosen, and say so.
    expect(only.logprobs!.some(({ logprob }) => logprob === null)).toBe(true)
  })

  test('are JSON of the schema, at any temperature, together with free answers', async () => {
    using scene = await model.see(day)
    const schema = {
      type: 'object',
      properties: {
        weather: { enum: ['clear', 'rain', 'fog'] },
        objects: {
          type: 'array',
          maxItems: 3,
          items: {
            type: 'object',
            properties: {
              label: { type: 'string', minLength: 1, maxLength: 12 },
              x: { type: 'integer', minimum: 0, maximum: 999 },
            },
          },
        },
        sure: { type: 'number', minimum: 0, maximum: 1 },
        stop: { type: 'boolean' },
      },
    } as const
    const free = (await scene.ask(weather)).text
    const seeds = Array.from({ length: 12 }, (_, seed) => seed)
    const held = seeds.map((seed) => scene.ask('What is there?', { answerFormat: { schema }, temperature: 1.5, seed }))
    const others = seeds.map(() => scene.ask(weather))
    for (const { value, text, finishReason } of await Promise.all(held)) {
      expect(finishReason).toBe('stop')
      expect(JSON.parse(text)).toEqual(value)
      const it = value as { weather: string; objects: { label: string; x: number }[]; sure: number; stop: boolean }
      expect(Object.keys(it)).toEqual(['weather', 'objects', 'sure', 'stop'])
      expect(['clear', 'rain', 'fog']).toContain(it.weather)
      expect(it.objects.length).toBeLessThanOrEqual(3)
      for (const { label, x } of it.objects) {
        expect([...label].length).toBeGreaterThanOrEqual(1)
        expect([...label].length).toBeLessThanOrEqual(12)
        expect(x).toBeGreaterThanOrEqual(0)
        expect(x).toBeLessThanOrEqual(999)
      }
      expect(it.sure).toBeGreaterThanOrEqual(0)
      expect(it.sure).toBeLessThanOrEqual(1)
    }
    for (const { text } of await Promise.all(others)) expect(text).toBe(free)
  })

  test('that are cut off have no value', async () => {
    using scene = await model.see(day)
    const answer = await scene.ask(weather, {
      answerFormat: { schema: { type: 'string', minLength: 50 } },
      maxNewTokens: 5,
    })
    expect(answer.finishReason).toBe('length')
    expect(answer.value).toBeUndefined()
  })

  test('refuse what contradicts them', async () => {
    using scene = await model.see(day)
    const answerFormat = { enum: ['a'] }
    await expect(scene.ask(weather, { answerFormat, minNewTokens: 3 })).rejects.toMatchObject({ code: 'BAD_ARGUMENT' })
    await expect(scene.ask(weather, { answerFormat, stop: 'a' })).rejects.toMatchObject({ code: 'BAD_ARGUMENT' })
    await expect(scene.ask(weather, { answerFormat: {} as never })).rejects.toMatchObject({ code: 'BAD_ARGUMENT' })
    for (const bad of [{ speculate: 17 }, { speculate: -1 }, { speculate: 'yes' }, { logprobs: 1 }]) {
      await expect(scene.ask(weather, bad as object)).rejects.toMatchObject({ code: 'BAD_ARGUMENT' })
    }
  })
})

describe('locate', () => {
  test('boxes are in pixels of the camera they lie in', async () => {
    const model = await loadModel()
    using scene = await model.see(day)
    const { boxes, text, answer } = await scene.locate('Where is the pedestrian in CAM_FRONT?')
    expect(answer.text).toContain('<box>')
    expect(text).not.toContain('<box>')
    expect(boxes.length).toBeGreaterThan(0)
    for (const { camera, box, thousandths } of boxes) {
      const index = model.info.cameras.indexOf(camera)
      const [column, row] = [index % 3, Math.floor(index / 3)]
      // 112 pixels a camera, three columns, two rows.
      expect(box[0]).toBeCloseTo(Math.max(0, (thousandths[0] / 1000) * 336 - column * 112), 6)
      expect(box[3]).toBeCloseTo(Math.min(112, (thousandths[3] / 1000) * 224 - row * 112), 6)
    }
    await expect(scene.locate('Where is it?', { camera: 'CAM_TOP' })).rejects.toMatchObject({ code: 'BAD_ARGUMENT' })
    expect(scene.boxesIn(answer.text)).toEqual(boxes)
    expect(scene.boxesIn('No box.')).toEqual([])
    for (const bad of [undefined, null, 5, {}, [answer.text]]) {
      expect(() => scene.boxesIn(bad as never)).toThrow(/^Expected a string for the text with boxes/)
    }
    for (const bad of [null, 'CAM_BACK', { camera: 1 }, { question: null }, { view: 'CAM_BACK' }]) {
      expect(() => scene.boxesIn('x', bad as never)).toThrow(ModelError)
    }
    const region = scene.boxesIn('What is the object at <box>[[667,500,834,750]]</box>?')
    expect(region).toEqual([
      { label: '', camera: 'CAM_BACK_RIGHT', box: expect.any(Array), thousandths: [667, 500, 834, 750] },
    ])
    await model.dispose()
  })

  test('among separate images the camera must be named', async () => {
    const model = await loadModel({ layout: { layout: 'separate' } })
    using scene = await model.see(day)
    await expect(scene.locate('Where is the car?')).rejects.toMatchObject({ code: 'BAD_ARGUMENT' })
    const box = '<box>[[0,0,500,500]]</box>'
    expect(() => scene.boxesIn(box)).toThrow(/name one in the question/)
    const [found] = scene.boxesIn(box, { question: 'Where is the car in CAM_BACK?' })
    expect(found).toMatchObject({ camera: 'CAM_BACK', box: [0, 0, 56, 56] })
    const options = { maxNewTokens: 30, camera: 'CAM_BACK' }
    for (const { camera } of (await scene.locate('Where is the car?', options)).boxes) expect(camera).toBe('CAM_BACK')
    await scene.locate('Where is the car in CAM_FRONT?', { maxNewTokens: 30 })
    await model.dispose()
  })
})

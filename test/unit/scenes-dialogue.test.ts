/** Questions asked together, and dialogues. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Answer } from '../../lib/answer.ts'
import { readCheckpoint } from '../../lib/checkpoint/load-checkpoint.ts'
import { loadModel, resolveOptions, templateFor } from '../../lib/load-model.ts'
import type { Model } from '../../lib/model.ts'
import { loadAddon } from '../../lib/native.ts'
import { loadTokenizer } from '../../lib/text/load-tokenizer.ts'
import * as prompts from '../../lib/text/prompt.ts'
import { encodePrompt, stopIds } from '../../lib/text/prompt.ts'
import { imagesFor } from '../../lib/views/compose.ts'
import { conversationRenderer } from '../../scripts/golden/conversation.mjs'
import { collectUntil, idle, momentViews, streetTiny, weather } from './street-tiny.ts'

const renderConversation = conversationRenderer(prompts)

const texts = (answers: readonly Answer[]): string[] => answers.map(({ text }) => text)
const day = momentViews('day')
const plainly = { speculate: false } as const

describe('askAll', () => {
  let model: Model
  beforeAll(async () => {
    model = await loadModel()
  })
  afterAll(async () => {
    await idle(model)
    await model.dispose()
  })
  const questions = [weather, 'Which camera sees the cyclist?', 'What is the color of the traffic light?']

  test('can be awaited, read in pieces, or both', async () => {
    using scene = await model.see(day)
    const expected = texts(await scene.askAll(questions))
    const batch = scene.askAll(questions)
    const lines = questions.map(() => '')
    for await (const { index, text } of batch) lines[index] += text
    expect(lines).toEqual(expected)
    expect(texts(await batch.answers)).toEqual(expected)
    expect(texts(await batch)).toEqual(expected)
    const heard = questions.map(() => '')
    const onText = (text: string, index: number) => {
      heard[index] += text
    }
    await scene.askAll(questions, { onText })
    expect(heard).toEqual(expected)
  })

  test('of nothing is nothing', async () => {
    using scene = await model.see(day)
    expect(await scene.askAll([])).toEqual([])
    for await (const _ of scene.askAll([])) expect.fail('there is no piece')
  })

  test('left early ends all of them well', async () => {
    using scene = await model.see(day)
    const batch = scene.askAll(questions, { minNewTokens: 1000, maxNewTokens: 1000 })
    for await (const _ of batch) break
    const answers = await batch.answers
    expect(answers.map(({ finishReason }) => finishReason)).toEqual(['cancelled', 'cancelled', 'cancelled'])
  })

  test('is given up as a whole when one fails, or is aborted', async () => {
    using scene = await model.see(day)
    const long = { minNewTokens: 1000, maxNewTokens: 1000 }
    await expect(scene.askAll([weather, 'where '.repeat(3000)], long)).rejects.toMatchObject({
      code: 'CONTEXT_OVERFLOW',
    })
    const controller = new AbortController()
    const batch = scene.askAll(questions, { ...long, signal: controller.signal })
    const read = async () => {
      for await (const _ of batch) controller.abort()
    }
    await expect(read()).rejects.toMatchObject({ code: 'ABORTED' })
    const thrown = new Error('of the reader')
    const onText = () => {
      throw thrown
    }
    await expect(scene.askAll(questions, { ...long, onText })).rejects.toBe(thrown)
    expect((await scene.ask(weather)).text).not.toBe('')
  })

  test.each<[string, unknown, unknown]>([
    ['no list', 'What?', {}],
    ['no strings', [1], {}],
    ['an empty question', [weather, ' '], {}],
    ['an unknown option', [weather], { onTexts: () => undefined }],
    ['no function', [weather], { onText: 'print' }],
  ])('%s is refused at once', async (_, list, options) => {
    using scene = await model.see(day)
    expect(() => scene.askAll(list as string[], options as object)).toThrow(
      expect.objectContaining({ code: 'BAD_ARGUMENT' }),
    )
  })
})

describe('chat', () => {
  let model: Model
  beforeAll(async () => {
    model = await loadModel({ precision: 'f32' })
  })
  afterAll(async () => {
    await idle(model)
    await model.dispose()
  })

  test('the second turn is what the whole conversation at once gives', async () => {
    const [first, second] = [weather, 'Which camera sees the cyclist?']
    const scene = await model.see(day)
    const chat = scene.chat()
    const before = model.stats().prefillTokens
    const said = [await chat.ask(first, plainly), await chat.ask(second, plainly)]
    const paid = model.stats().prefillTokens - before
    expect(chat.turns).toEqual([
      { question: first, answer: said[0]!.text },
      { question: second, answer: said[1]!.text },
    ])

    const addon = loadAddon()
    const checkpoint = await readCheckpoint(streetTiny)
    const tokenizer = await loadTokenizer(streetTiny)
    const { template } = await templateFor(checkpoint, tokenizer)
    const native = await addon.load(checkpoint, resolveOptions(addon, checkpoint, { precision: 'f32' }))
    const { images } = await imagesFor(checkpoint.layout, day, { ...checkpoint, addon })
    const turns = [{ user: [{ imageTokens: 96 }, { text: `\n${first}` }], assistant: said[0]!.text }, { user: second }]
    const ids = encodePrompt(tokenizer, renderConversation(template, { turns }))
    const { scene: whole } = await native.see({
      job: 1,
      ids: ids.subarray(0, -1),
      images: images.map(({ tiles }) => tiles),
    })
    const { ids: answer } = await native.generate({
      job: 2,
      scene: whole,
      ids: ids.subarray(-1),
      maxNewTokens: 100,
      minNewTokens: 0,
      temperature: 0,
      topP: 1,
      seed: 0,
      stopIds: Int32Array.from(stopIds(tokenizer, template, checkpoint.eosIds)),
      vocabLimit: tokenizer.size,
    })
    await native.dispose()
    expect(tokenizer.decode(answer, { skipSpecial: true }).trim()).toBe(said[1]!.text)
    expect(said[1]!.usage.promptTokens).toBe(ids.length)
    // Nothing of what was said is computed twice.
    expect(paid).toBeLessThanOrEqual(ids.length - scene.info.tokens)
    scene.dispose()
    chat.dispose()
  })

  test('a fork goes its own way, and outlives scene and original', async () => {
    const scene = await model.see(day)
    const chat = scene.chat()
    await chat.ask(weather)
    const fork = chat.fork()
    expect(fork.turns).toEqual(chat.turns)
    const question = 'What is the color of the traffic light?'
    const answers = await Promise.all([chat.ask(question), fork.ask(question)])
    expect(answers[1]!.text).toBe(answers[0]!.text)
    scene.dispose()
    chat.dispose()
    await fork.ask(weather)
    expect(fork.turns.length).toBe(3)
    expect(chat.turns.length).toBe(2)
    fork.dispose()
    fork.dispose()
    await expect(fork.ask(weather)).rejects.toMatchObject({ code: 'DISPOSED' })
    expect(() => fork.fork()).toThrow(expect.objectContaining({ code: 'DISPOSED' }))
    expect(() => scene.chat()).toThrow(expect.objectContaining({ code: 'DISPOSED' }))
    await idle(model)
  })

  test('turns run in call order; one that fails leaves no trace', async () => {
    using scene = await model.see(day)
    const chat = scene.chat()
    const signal = AbortSignal.abort()
    const turns = [chat.ask(weather), chat.ask('Nothing?', { signal }), chat.ask('And now?')]
    const ends = await Promise.allSettled(turns)
    expect(ends.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled'])
    expect(chat.turns.map(({ question }) => question)).toEqual([weather, 'And now?'])
    chat.dispose()
  })

  test('a stream that is left goes on from what was said', async () => {
    using scene = await model.see(day)
    const chat = scene.chat()
    let said = ''
    for await (const text of chat.stream(weather, { minNewTokens: 500 })) {
      said += text
      if (said.length > 3) break
    }
    await chat.ask('And now?')
    expect(chat.turns[0]!.answer.startsWith(said.trim())).toBe(true)
    chat.dispose()
  })

  test('one that is dropped gives its pages back', async () => {
    using scene = await model.see(day)
    await (async () => {
      await scene.chat().ask(weather)
    })()
    await collectUntil(() => model.stats().scenes === 1)
    expect(model.stats().scenes).toBe(1)
  })
})

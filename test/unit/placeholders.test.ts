import { afterAll, beforeAll, describe, expect, it, test } from 'vitest'
import { loadModel, type Model, type ModelError, type Scene } from '../../lib/index.ts'
import { type PlacedPictures, withoutPlaceholders } from '../../lib/text/placeholders.ts'
import { momentViews, weather } from './street-tiny.ts'

const six = '<image>\n'.repeat(6)
const canvas: PlacedPictures = { images: 1, given: 6, labels: undefined, painted: ['CAM_FRONT', 'CAM_BACK'] }
const numbered: PlacedPictures = { images: 2, given: 2, labels: ['Image-1', 'Image-2'], painted: [] }
const named: PlacedPictures = { images: 2, given: 2, labels: ['CAM_FRONT', 'CAM_BACK'], painted: [] }
const bare: PlacedPictures = { images: 2, given: 2, labels: undefined, painted: [] }

describe('the placeholders of a question', () => {
  it.each<[string, PlacedPictures, string]>([
    [`${six}Where?`, canvas, 'Where?'],
    ['<image>\nWhere?', canvas, 'Where?'],
    ['<image>Where?', canvas, 'Where?'],
    ['<image> \r\nWhere?\n', canvas, 'Where?\n'],
    ['CAM_BACK: <image>\nCAM_FRONT: <image>\nWhere?', { ...canvas, given: 2 }, 'Where?'],
    ['Image-1: <image>\nImage-2: <image>\nWhere?', numbered, 'Where?'],
    ['<image> <image>\n\nWhere?', numbered, '\nWhere?'],
    ['CAM_FRONT: <image>\nCAM_BACK: <image>\nWhere?', named, 'Where?'],
    ['<image>\n<image>\nWhere?', bare, 'Where?'],
    ['What is < image >?', bare, 'What is < image >?'],
  ])('%j', (text, pictures, question) => {
    expect(withoutPlaceholders(text, pictures)).toBe(question)
  })

  it.each<[string, PlacedPictures, string]>([
    [
      '<image>\n<image>\nWhere?',
      canvas,
      'has 2 <image> for 6 pictures. Write 6, or 1 for the image they make, in front',
    ],
    ['<image>\nWhere?', bare, 'has 1 <image> for 2 pictures. Write 2 in front'],
    ['<image>\n<image>\n<image>\nWhere?', numbered, 'has 3 <image>'],
    [
      'Image-2: <image>\nImage-1: <image>\nWhere?',
      numbered,
      `where this model's layout prints "Image-1: ", "Image-2: "`,
    ],
    ['Image-1: <image>\nImage-2: <image>\nWhere?', bare, "where this model's layout prints nothing"],
    ['Image-1: <image>\n<image>\nWhere?', numbered, 'has "Image-1: ", nothing before its <image>'],
    ['CAM_BACK: <image>\nCAM_FRONT: <image>\nWhere?', named, 'Leave them out'],
    ['CAM_BACK: <image>\nCAM_BACK: <image>\nWhere?', { ...canvas, given: 2 }, 'Leave them out'],
    [six, canvas, 'The question is empty behind its <image>'],
    ['What is in <image>?', canvas, 'has <image> behind other words'],
    ['<image>\nIs <image> red?', canvas, 'has <image> behind other words'],
    ['Where?\n<image>', canvas, 'has <image> behind other words'],
  ])('%j is refused', (text, pictures, message) => {
    expect(() => withoutPlaceholders(text, pictures)).toThrow(message)
  })
})

describe('on a model', () => {
  let model: Model
  let scene: Scene
  beforeAll(async () => {
    model = await loadModel()
    scene = await model.see(momentViews('dusk'))
  })
  afterAll(() => model.dispose())

  const rejection = async (work: () => unknown): Promise<string> => {
    try {
      await work()
    } catch (error) {
      return `${(error as ModelError).code}: ${(error as Error).message}`
    }
    return 'nothing was thrown'
  }

  test('every way to ask takes them for the pictures', async () => {
    const question = 'How many cars are in CAM_BACK?'
    const marked = six + question
    const { text, usage } = await scene.ask(question)
    const same = async (work: Promise<{ text: string; usage: object }>): Promise<void> => {
      expect(await work).toMatchObject({ text, usage })
    }
    await same(scene.ask(marked))
    await same(scene.ask(`<image>\n${question}`))
    await same(model.ask(momentViews('dusk'), marked))
    await same(scene.askAll([marked]).then(([answer]) => answer!))
    await same(scene.chat().ask(marked))
    await same(scene.locate(marked).then(({ answer }) => answer))
    for (const stream of [
      scene.stream(marked),
      model.stream(momentViews('dusk'), marked),
      scene.chat().stream(marked),
    ]) {
      await same(stream.answer)
    }
    expect(await scene.choose(marked, ['One.', 'Two.'])).toEqual(await scene.choose(question, ['One.', 'Two.']))
    expect(await scene.score(marked, 'One.')).toEqual(await scene.score(question, 'One.'))
    const one = momentViews('dusk').CAM_FRONT!
    expect((await model.ask(one, `<image>\n${weather}`)).usage).toEqual((await model.ask(one, weather)).usage)
  })

  test('separate pictures have the labels of their layout, and no others', async () => {
    const { CAM_FRONT, CAM_BACK } = momentViews('dusk')
    const two = await model.see([CAM_FRONT!, CAM_BACK!])
    const { usage } = await two.ask(weather)
    expect((await two.ask(`<image>\n<image>\n${weather}`)).usage).toEqual(usage)
    expect((await two.ask(`Image-1: <image>\nImage-2: <image>\n${weather}`)).usage).toEqual(usage)
    expect(await rejection(() => two.ask(`Image-2: <image>\nImage-1: <image>\n${weather}`))).toContain('Leave them out')
    expect(await rejection(() => two.ask(`<image>\n${weather}`))).toContain('has 1 <image> for 2 pictures')
  })

  test('a number that does not fit is an error of every way to ask', async () => {
    const two = `<image>\n<image>\n${weather}`
    const ways: (() => unknown)[] = [
      () => scene.ask(two),
      () => scene.stream(two),
      () => scene.askAll([weather, two]),
      () => scene.locate(two),
      () => scene.choose(two, ['a', 'b']),
      () => scene.score(two, 'a'),
      () => scene.chat().ask(two),
      () => scene.chat().stream(two).answer,
      () => model.ask(momentViews('dusk'), two),
      () => model.stream(momentViews('dusk'), two).answer,
    ]
    for (const way of ways)
      expect(await rejection(way)).toMatch(/^BAD_ARGUMENT: The question has 2 <image> for 6 pictures/)
  })

  test('there are none in later turns, system messages and answers', async () => {
    const chat = scene.chat()
    await chat.ask(`<image>\n${weather}`)
    expect(await rejection(() => chat.ask(`<image>\n${weather}`))).toContain('stand before its first question')
    expect(await rejection(() => scene.score(weather, '<image>'))).toContain('answers hold no pictures')
    expect(await rejection(() => scene.choose(weather, ['a', 'b <image>']))).toContain('answers hold no pictures')
    const see = () => model.see(momentViews('dusk'), { systemMessage: 'See <image>.' })
    expect(await rejection(see)).toMatch(/^BAD_ARGUMENT: The system message has <image>/)
  })

  test("text: 'literal' is the letters", async () => {
    const text = 'literal'
    const question = `What does <image> mean? ${weather}`
    const { usage } = await scene.ask(question, { text })
    expect(usage.promptTokens).toBeGreaterThan((await scene.ask(weather)).usage.promptTokens + 3)
    expect((await model.ask(momentViews('dusk'), question, { text })).usage).toEqual(usage)
    const chat = scene.chat()
    await chat.ask(question, { text })
    await chat.ask(question, { text })
    await scene.score(weather, '<image>', { text })
    await model.see(momentViews('dusk'), { systemMessage: 'See <image>.', text })
    expect(await rejection(() => scene.ask(weather, { text: 'letters' as never }))).toContain(
      "'placeholders' or 'literal'",
    )
  })
})

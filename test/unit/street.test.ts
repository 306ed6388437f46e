/** Drawn worlds: the same for a seed, what domains change, and that the pictures of the validation set come out byte for byte. */
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import sharp from 'sharp'
import { afterAll, describe, expect, test } from 'vitest'
import { loadModel } from '../../lib/load-model.ts'
import { writeStreet } from '../../lib/street/dataset.ts'
import { domainNames, domainOf, loadDomain, questionTypes } from '../../lib/street/domain.ts'
import { dayCity } from '../../lib/street/domains/day-city.ts'
import { drawView } from '../../lib/street/picture.ts'
import { factsOf, letterPractice, questionsOf } from '../../lib/street/questions.ts'
import { drawScene } from '../../lib/street/scene.ts'
import { makeWorld } from '../../lib/street/world.ts'
import { fixtures, json } from './tokenizer-shared.ts'

const dir = mkdtempSync(join(tmpdir(), 'drivlm-street-'))
afterAll(() => rmSync(dir, { recursive: true, force: true }))

const validation = join(fixtures, 'street-tiny-val')

interface Frame {
  seed: number
  key_frames: Record<
    string,
    { image_paths: Record<string, string>; QA: Record<string, { Q: string; A: string; tag: string }[]> }
  >
}

describe('the validation set of street-tiny', () => {
  const scenes = Object.values<Frame>(json(validation, 'val.json'))

  test.each(scenes.map((scene, i) => [i, scene] as const))(
    'scene %i: pictures, questions and answers',
    async (_, scene) => {
      const world = { ...makeWorld(scene.seed, dayCity), noise: 1 }
      const views = dayCity.views.map((__, view) => drawView(world, view, 112))
      const [frame] = Object.values(scene.key_frames)
      for (const [view, { name }] of dayCity.views.entries()) {
        const { data } = await sharp(readFileSync(join(validation, frame!.image_paths[name]!)))
          .raw()
          .toBuffer({ resolveWithObject: true })
        expect(Buffer.compare(data, Buffer.from(views[view]!.data)), name).toBe(0)
      }
      const stored = Object.values(frame!.QA)
        .flat()
        .map(({ Q, A, tag }) => [tag, Q, A].join(' | '))
      const found = questionsOf(world, factsOf(world, views), stored.length).map(({ type, question, answer }) =>
        [type, question, answer].join(' | '),
      )
      expect(found.sort()).toEqual(stored.sort())
    },
  )
})

describe('domains', () => {
  test.each(domainNames)('%s draws what can be asked about, and balanced answers', async (name) => {
    const domain = await loadDomain(name)
    const answers = new Map<string, number>()
    const types = new Set<string>()
    const kinds = new Set<number>()
    for (let seed = 0; seed < 60; seed++) {
      const { questions, views, world } = drawScene(seed, domain, { size: 56 })
      expect(questions.length).toBeGreaterThan(6)
      expect(views.map(({ width, height, data }) => [width, height, data.length])).toEqual(
        Array(6).fill([56, 56, 56 * 56 * 3]),
      )
      for (const { kind } of world.objects) kinds.add(kind)
      for (const { type, answer, question } of questions) {
        types.add(type)
        expect(question).not.toMatch(/[{}]|undefined/)
        if (type === 'exist') answers.set(answer, (answers.get(answer) ?? 0) + 1)
      }
    }
    expect([...types].sort()).toEqual([...questionTypes].sort())
    expect([...kinds].sort()).toEqual(domain.objects.map((_, i) => i))
    const [yes, no] = [answers.get('Yes.')!, answers.get('No.')!]
    expect(Math.min(yes, no) / (yes + no)).toBeGreaterThan(0.35)
  })

  test('differ: the night is dark, snow is bright, who drives on the left meets traffic on the right', async () => {
    const means = new Map<string, number>()
    for (const name of domainNames) {
      const { views } = drawScene(3, await loadDomain(name), { size: 56 })
      means.set(
        name,
        views.reduce((sum, { data }) => sum + data.reduce((all, value) => all + value, 0) / data.length, 0) / 6,
      )
    }
    expect(means.get('night-left')!).toBeLessThan(0.6 * means.get('day-city')!)
    expect(means.get('snow')!).toBeGreaterThan(1.1 * means.get('day-city')!)
    const night = await loadDomain('night-left')
    let oncoming = 0
    for (let seed = 0; seed < 300; seed++) {
      for (const { x, y, heading } of makeWorld(seed, night).objects) {
        if (heading !== Math.PI || Math.abs(y) < 1 || Math.abs(x) < 9) continue
        expect(y).toBeLessThan(0)
        oncoming++
      }
    }
    expect(oncoming).toBeGreaterThan(20)
  })

  test('objectsPerView makes crowds and empty streets', () => {
    const objects = dayCity.objects.map((kind) => ({
      ...kind,
      share: kind.shape === 'pedestrian' ? 1 : 0,
      repeated: 0.01,
    }))
    const perView = (objectsPerView: number[]) => {
      const domain = domainOf({ objectsPerView, objects }, 'crowd.json')
      const scenes = Array.from({ length: 10 }, (_, seed) => drawScene(seed, domain, { size: 28 }))
      for (const { caption } of scenes) expect(caption ?? '').not.toContain('undefined')
      return scenes.flatMap(({ world }) => world.objects).length / 60
    }
    expect(perView([0, 0, 0, 0, 0, 0, 1])).toBeGreaterThan(2 * perView([0.18, 0.34, 0.28, 0.2]))
    expect(perView([1])).toBeLessThan(0.3)
  })

  test('twenty lines of JSON make one', async () => {
    const file = join(dir, 'desert.json')
    const desert = {
      name: 'desert',
      from: 'day-city',
      verges: [[214, 186, 130]],
      colours: { sand: [200, 170, 110], white: [240, 240, 240], black: [25, 25, 25], red: [180, 50, 40] },
      wording: { questions: { exist: ['Do you see a {thing} {where}?'] }, yes: 'Yes, I do.', no: 'No, I do not.' },
    }
    writeFileSync(file, JSON.stringify(desert))
    const domain = await loadDomain(file)
    const questions = Array.from(
      { length: 20 },
      (_, seed) => drawScene(seed, domain, { types: ['exist', 'colour'] }).questions,
    ).flat()
    const exist = questions.filter(({ type }) => type === 'exist')
    expect(
      exist.every(
        ({ question, answer }) => /^Do you see a /.test(question) && /^(Yes, I do|No, I do not)\.$/.test(answer),
      ),
    ).toBe(true)
    const colours = new Set(questions.filter(({ type }) => type === 'colour').map(({ answer }) => answer))
    expect([...colours].every((answer) => ['Sand.', 'White.', 'Black.', 'Red.'].includes(answer))).toBe(true)
  })

  test.each([
    [[], /expected an object/],
    [{ from: 'mars' }, /expected from to be one of day-city, night-left, snow/],
    [{ colour: {} }, /colour is no key of a domain; known are/],
    [{ wording: { question: [] } }, /wording\.question is no key/],
    [{ traffic: 'middle' }, /expected traffic to be "right" or "left"/],
    [{ views: [] }, /expected views to be a list of six/],
    [{ colours: { red: [1, 2, 3] } }, /expected colours to be four to 32 names/],
    [{ colours: { a: [1, 2, 300], b: [1, 2, 3], c: [1, 2, 3], d: [1, 2, 3] } }, /expected colours/],
    [{ fieldOfView: 180 }, /expected fieldOfView/],
    [{ objects: [{ name: 'car', plural: 'cars', shape: 'ufo', share: 1, repeated: 1 }, {}] }, /expected objects\[0\]/],
    [
      { objects: Array(2).fill({ name: 'car', plural: 'cars', shape: 'car', share: 1, repeated: 1 }) },
      /a kind of shape pedestrian/,
    ],
    [{ objectsPerView: [0, 0, 0] }, /expected objectsPerView to be shares/],
    [{ objectsPerView: [1, 1, 1, 1, 1, 1, 1, 1] }, /expected objectsPerView/],
    [{ weather: [{ name: 'x' }] }, /expected weather\[0\]/],
    [{ wording: { questions: { exist: [] } } }, /expected wording\.questions\.exist/],
  ])('%j is refused by name', (json, message) => {
    expect(() => domainOf(json, 'a.json')).toThrow(message)
  })

  test('that are neither known nor a file are refused', async () => {
    await expect(loadDomain('mars')).rejects.toThrow(
      /Expected a domain \(day-city, night-left, snow\) or a \.json file/,
    )
    await expect(loadDomain(join(dir, 'none.json'))).rejects.toThrow(/cannot be read as a domain/)
  })
})

describe('drawing', () => {
  test('gives the same for a seed, and what is asked for', () => {
    const bytes = (seed: number) =>
      drawScene(seed, dayCity, { size: 56 }).views.map(({ data }) => Buffer.from(data).toString('base64'))
    expect(bytes(5)).toEqual(bytes(5))
    expect(bytes(5)).not.toEqual(bytes(6))
    const { questions, caption } = drawScene(900_001_000, dayCity, { questions: 3, types: ['count'] })
    expect(questions.map(({ type }) => type)).toEqual(['count', 'count', 'count'])
    expect(caption ?? '').not.toMatch(/undefined/)
  })

  test('types are asked by their shares', () => {
    const none = Object.fromEntries(questionTypes.map((type) => [type, 0]))
    const { questions } = drawScene(3, dayCity, { questions: 40, shares: { ...none, locate: 3, count: 1 } })
    const count = (wanted: string) => questions.filter(({ type }) => type === wanted).length
    expect(count('locate')).toBeGreaterThan(count('count'))
    expect(count('count')).toBeGreaterThan(0)
    expect(count('locate') + count('count')).toBe(questions.length)
    expect(drawScene(3, dayCity, { shares: {} }).questions).toEqual(drawScene(3, dayCity).questions)
  })

  test.each([
    { size: 27 },
    { size: 1.5 },
    { questions: -1 },
    { noise: Number.NaN },
    { noise: -1 },
    { shares: { count: -1 } },
  ])('%j is refused', (bad) => {
    expect(() => drawScene(1, dayCity, bad)).toThrow(/expected a/)
  })

  test.each([-1, 0.5, 2 ** 32, Number.NaN])('seed %s is refused', (seed) => {
    expect(() => drawScene(seed, dayCity)).toThrow(/seed: expected a whole number/)
  })

  test('practice with letters names the option that is asked for', () => {
    const asked = Array.from({ length: 200 }, (_, seed) => letterPractice(dayCity, seed))
    for (const { question, answer } of asked) {
      const [, text] = /^Which option says: (.*?) A\. /.exec(question)!
      expect(question).toContain(`${answer}. ${text}`)
    }
    expect(new Set(asked.map(({ answer }) => answer)).size).toBe(4)
  })
})

describe('a folder of moments', () => {
  test('is read as DriveLM, its pictures are the drawn ones, and a model can be asked about them', async () => {
    const out = join(dir, 'set')
    const written = await writeStreet(dayCity, { scenes: 3, seed: 50, out })
    expect(written.questions).toBeGreaterThan(20)
    const frames = json(out, 'drivelm.json')
    expect(Object.keys(frames)).toEqual(['scene-00', 'scene-01', 'scene-02'])
    const frame = frames['scene-01'].key_frames['frame-01']
    const { data } = await sharp(join(out, frame.image_paths.CAM_BACK)).raw().toBuffer({ resolveWithObject: true })
    expect(Buffer.compare(data, Buffer.from(drawScene(51, dayCity).views[4]!.data))).toBe(0)
    const model = await loadModel()
    try {
      const views = Object.fromEntries(
        Object.entries<string>(frame.image_paths).map(([camera, file]) => [camera, join(out, file)]),
      )
      const { text } = await model.ask(views, 'What is the weather like?')
      expect(['It is a clear day.', 'It is dusk.', 'It is raining.']).toContain(text)
    } finally {
      await model.dispose()
    }
  })

  test('is whole or not there', async () => {
    const out = join(dir, 'aborted')
    const controller = new AbortController()
    const drawing = writeStreet(dayCity, {
      scenes: 50,
      seed: 0,
      out,
      signal: controller.signal,
      onProgress: (done) => done === 2 && controller.abort(),
    })
    await expect(drawing).rejects.toMatchObject({ code: 'ABORTED' })
    expect(existsSync(out)).toBe(false)
    expect(readdirSync(dir).filter((name) => name.includes('partial'))).toEqual([])
    mkdirSync(join(dir, 'full'))
    writeFileSync(join(dir, 'full', 'mine.txt'), 'mine')
    await expect(writeStreet(dayCity, { scenes: 1, seed: 0, out: join(dir, 'full') })).rejects.toThrow(
      /holds something; name a new folder/,
    )
    expect(readFileSync(join(dir, 'full', 'mine.txt'), 'utf8')).toBe('mine')
    await expect(writeStreet(dayCity, { scenes: 0, seed: 0, out })).rejects.toThrow(/scenes: expected/)
    writeFileSync(join(dir, 'file'), '')
    await expect(writeStreet(dayCity, { scenes: 1, seed: 0, out: join(dir, 'file', 'below') })).rejects.toMatchObject({
      code: expect.stringMatching(/BAD_/),
    })
  })

  test.skipIf(!existsSync('/dev/full'))('says that the disk is full, and leaves nothing', async () => {
    const out = join(dir, 'no-room')
    const folder = join(`${out}.partial-${process.pid}`, 'images', dayCity.views[2]!.name)
    mkdirSync(folder, { recursive: true })
    symlinkSync('/dev/full', join(folder, 'scene-00.png'))
    await expect(writeStreet(dayCity, { scenes: 1, seed: 0, out })).rejects.toMatchObject({
      code: 'BAD_DATA',
      message: expect.stringMatching(/no-room: cannot be written: ENOSPC.* Make room there/),
    })
    expect(readdirSync(dir).filter((name) => name.includes('partial'))).toEqual([])
  })
})

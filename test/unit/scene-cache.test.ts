// Scenes that are evicted, waited for and disposed of at the same time: who waits is served or told, in the package's own errors.
import { copyFileSync, mkdtempSync, rmSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { ModelError } from '../../lib/errors.ts'
import { loadModel } from '../../lib/load-model.ts'
import { momentViews, weather } from './street-tiny.ts'

const day = momentViews('day')
const dusk = momentViews('dusk')
const rain = momentViews('rain')
const few = { maxNewTokens: 4 }
let folder: string

beforeAll(() => {
  folder = mkdtempSync(path.join(os.tmpdir(), 'drivlm-scenes-'))
})
afterAll(() => rmSync(folder, { recursive: true }))

/** The views as files of one's own, which may be deleted. */
function copies(name: string): { views: Record<string, string>; remove: () => void } {
  const entries = Object.entries(day).map(([camera, file]) => {
    const copy = path.join(folder, `${name}-${camera}.png`)
    copyFileSync(file as string, copy)
    return [camera, copy] as const
  })
  return { views: Object.fromEntries(entries), remove: () => rmSync(entries[2]![1]) }
}

describe('a signal that is aborted', () => {
  test('before an evicted scene is asked: it is not seen again for nobody, and nothing is left unheard', async () => {
    const model = await loadModel({ threads: 1, maxScenes: 1, evict: 'resee' })
    const { views, remove } = copies('aborted')
    const first = await model.see(views)
    const second = await model.see(dusk)
    remove()
    await expect(first.ask(weather, { signal: AbortSignal.abort() })).rejects.toMatchObject({ code: 'ABORTED' })
    await new Promise((resolve) => setTimeout(resolve, 50)) // an unhandled rejection would fail this file
    expect(model.stats().reseen).toBe(0)
    await expect(first.ask(weather)).rejects.toMatchObject({ code: 'BAD_VIEW' })
    await second.ask(weather, few)
    await model.dispose()
  })

  test("while it is seen again: the failure that comes later is nobody's, and heard", async () => {
    const model = await loadModel({ threads: 1, maxScenes: 1, evict: 'resee' })
    const { views, remove } = copies('later')
    const first = await model.see(views)
    await model.see(dusk)
    remove()
    for (const wait of [0, 1, 3]) {
      const given = new AbortController()
      const asked = first.ask(weather, { signal: given.signal })
      const ended = asked.then(
        () => 'answered',
        ({ code }) => code,
      )
      await new Promise((resolve) => setTimeout(resolve, wait))
      given.abort()
      expect(['ABORTED', 'BAD_VIEW']).toContain(await ended)
    }
    await new Promise((resolve) => setTimeout(resolve, 50))
    await model.dispose()
  })
})

describe('after the model was disposed', () => {
  test.each([true, 'throw', undefined] as const)('everything says so, with evict: %s', async (evict) => {
    const model = await loadModel({
      threads: 1,
      maxScenes: evict === undefined ? 2 : 1,
      ...(evict === undefined ? {} : { evict }),
    })
    const first = await model.see(day)
    const second = await model.see(dusk)
    const chat = second.chat()
    const running = Promise.allSettled(evict === true ? [first.ask(weather), second.ask(weather), model.see(rain)] : [])
    await model.dispose()
    const calls: (() => Promise<unknown>)[] = [
      () => first.ask(weather),
      () => second.ask(weather),
      () => second.chat().ask(weather),
      () => chat.ask(weather),
      () => second.stream(weather).answer,
      () => second.askAll([weather]).answers,
      () => second.choose(weather, ['a', 'b']),
      () => second.update({ CAM_FRONT: dusk.CAM_FRONT! }),
      () => model.see(rain),
      () => model.ask(rain, weather),
    ]
    for (const call of calls) {
      const error = await call().then(
        () => undefined,
        (reason) => reason,
      )
      expect(error).toBeInstanceOf(ModelError)
      expect(error.code, error.message).toBe('DISPOSED')
    }
    for (const end of await running) if (end.status === 'rejected') expect(end.reason).toBeInstanceOf(ModelError)
    first.dispose()
    chat.dispose()
  })
})

describe('several at once', () => {
  test.each([1, 2])('more scenes in one tick than %i places: all are seen, one after the other', async (maxScenes) => {
    const model = await loadModel({ threads: 1, maxScenes, evict: true })
    const scenes = await Promise.all([day, dusk, rain, day, dusk].map((views) => model.see(views)))
    expect(model.stats().scenes).toBeLessThanOrEqual(maxScenes)
    const answers = await Promise.all(scenes.map((scene) => scene.ask(weather, few)))
    expect(answers[3]!.text).toBe(answers[0]!.text)
    expect(answers[4]!.text).toBe(answers[1]!.text)
    await model.dispose()
  })

  test('scenes, dialogues and questions in one tick', async () => {
    const model = await loadModel({ threads: 1, maxScenes: 3, evict: true })
    const scene = await model.see(day)
    const alone = (await scene.ask(weather, few)).text
    const all = await Promise.all([
      scene.ask(weather, few),
      model.ask(day, weather, few),
      scene.chat().ask(weather, few),
      model.see(dusk).then((seen) => seen.ask(weather, few)),
      model.see(rain).then((seen) => seen.ask(weather, few)),
      scene.ask(weather, few),
    ])
    for (const i of [0, 1, 2, 5]) expect(all[i]!.text).toBe(alone)
    await model.dispose()
  })

  test('where no eviction can help, the error is that of memory, and its advice is not what was done already', async () => {
    const model = await loadModel({ threads: 1, maxScenes: 1, evict: 'resee' })
    const scene = await model.see(day)
    const error = await scene
      .chat()
      .ask(weather)
      .catch((reason) => reason)
    expect(error).toMatchObject({ code: 'OUT_OF_MEMORY', message: expect.stringContaining('maxScenes') })
    expect(error.message).not.toContain('resee')
    await model.dispose()
  })
})

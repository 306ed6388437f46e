/**
 * A few thousand operations in random order, on page pools so small that they run short all the time, against what is known to be
 * right: every answer is the plain single one, what is aborted or does not fit says so, nothing hangs, and no page is lost.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Chat } from '../../lib/chat.ts'
import { ModelError } from '../../lib/errors.ts'
import { loadModel } from '../../lib/load-model.ts'
import type { Model } from '../../lib/model.ts'
import type { LoadOptions } from '../../lib/options.ts'
import type { Scene } from '../../lib/scene.ts'
import { cameras } from '../../lib/views/cameras.ts'
import type { NamedViews } from '../../lib/views/compose.ts'
import { decodePicture } from '../../lib/views/decode.ts'
import { idle, momentViews } from './street-tiny.ts'

const seed = Number(process.env.DRIVLM_SEED ?? 20260) // another one finds other orders
const operations = Number(process.env.DRIVLM_OPERATIONS ?? 1000) // for each of the three kinds of pool

const moments = ['day', 'dusk', 'rain'] as const
const questions = [
  'What is the weather like?',
  'What is the color of the traffic light?',
  'Which camera sees the cyclist?',
]
const choices = ['It is a clear day.', 'It is raining.', 'Red.']
const plainly = { speculate: false, maxNewTokens: 40 } as const
const answerFormat = { enum: ['clear', 'rain', 'dusk'] }

/** A moment in which one camera may show what it shows in another one. */
interface Sight {
  moment: number
  /** The moment that CAM_BACK shows. */
  back: number
}

const sights: Sight[] = moments.flatMap((_, moment) => moments.map((_, back) => ({ moment, back })))
const keyOf = ({ moment, back }: Sight, what: string): string => `${moment}/${back}/${what}`

const expected = new Map<string, string>()
let pictures: NamedViews[]

const viewsOf = ({ moment, back }: Sight): NamedViews => ({ ...pictures[moment]!, CAM_BACK: pictures[back]!.CAM_BACK! })

beforeAll(async () => {
  pictures = await Promise.all(
    moments.map(async (moment) => {
      const views = momentViews(moment)
      const raw = cameras.map(async (camera) => {
        const { rgb, width, height } = await decodePicture(views[camera]!, camera)
        return [camera, { data: rgb, width, height }]
      })
      return Object.fromEntries(await Promise.all(raw)) as NamedViews
    }),
  )
  // The naive model: every question by itself, on a model that shares and guesses nothing.
  const plain = await loadModel({ precision: 'f32', maxContext: 256, visionCache: 0, maxBatch: 1 })
  for (const sight of sights) {
    const scene = await plain.see(viewsOf(sight))
    for (const [q, question] of questions.entries()) {
      const { text } = await scene.ask(question, plainly)
      expected.set(keyOf(sight, `ask${q}`), text)
      expected.set(keyOf(sight, `choose${q}`), (await scene.choose(question, choices)).choice)
      expected.set(keyOf(sight, `form${q}`), (await scene.ask(question, { answerFormat })).text)
      const chat = scene.chat()
      await chat.ask(question, plainly)
      for (const [r, next] of questions.entries()) {
        const fork = chat.fork()
        expected.set(keyOf(sight, `chat${q}${r}`), (await fork.ask(next, plainly)).text)
        fork.dispose()
      }
      chat.dispose()
    }
    scene.dispose()
  }
  await plain.dispose()
}, 120_000)

describe.each<[string, LoadOptions]>([
  ['without eviction', {}],
  ['where scenes see themselves again', { evict: 'resee', maxScenes: 6 }],
  ['where evicted scenes are gone', { evict: 'throw' }],
])('random operations %s', (_, limits) => {
  let model: Model

  beforeAll(async () => {
    const sizes = { maxContext: 256, kvMemory: 14 * 131_072, maxBatch: 4 }
    model = await loadModel({ precision: 'f32', ...sizes, ...limits })
  })
  afterAll(async () => {
    await model.dispose()
  })

  test('give right answers, lose no page and never hang', { timeout: 300_000 }, async () => {
    let state = seed
    const next = (below: number): number => {
      state = (state * 48271) % 2147483647
      return state % below
    }
    const counts: Record<string, number> = {}
    const count = (name: string): void => {
      counts[name] = (counts[name] ?? 0) + 1
    }
    const living: { scene: Scene; sight: Sight }[] = []
    const chats: { chat: Chat; sight: Sight; said: number | undefined; busy: boolean }[] = []
    const running = new Set<Promise<void>>()

    /** What may go wrong, and counts as right: memory is short, the scene was evicted or disposed of, the caller gave up. */
    const allowed = (error: unknown, aborted: boolean): string => {
      if (!(error instanceof ModelError)) throw error
      if (error.code === 'ABORTED' && aborted) return 'aborted'
      if (error.code === 'OUT_OF_MEMORY' || error.code === 'DISPOSED') return error.code
      throw error
    }
    const begin = (name: string, work: (signal: AbortSignal) => Promise<void>): void => {
      const controller = new AbortController()
      const aborts = next(6) === 0
      if (aborts) setTimeout(() => controller.abort(), next(40))
      const task = work(controller.signal).then(
        () => count(name),
        (error: unknown) => count(allowed(error, aborts)),
      )
      const tracked = task.finally(() => running.delete(tracked))
      tracked.catch(() => undefined) // told at the end
      running.add(tracked)
    }
    const right = (sight: Sight, what: string, found: string): void => {
      const wanted = expected.get(keyOf(sight, what))
      if (found !== wanted) throw new Error(`${keyOf(sight, what)}: expected ${wanted}, found ${found}`)
    }
    const keep = (scene: Scene, sight: Sight): void => {
      living.push({ scene, sight })
    }
    const options = (signal: AbortSignal) => ({ signal, maxNewTokens: 40, speculate: next(3) * 4 })

    for (let i = 0; i < operations; i++) {
      const kind = next(20)
      const at = living.length === 0 ? undefined : living[next(living.length)]!
      const q = next(questions.length)
      const question = questions[q]!
      if (at === undefined || (kind < 3 && living.length < 5)) {
        const sight = sights[next(sights.length)]!
        begin('see', async (signal) => keep(await model.see(viewsOf(sight), { signal }), sight))
      } else if (kind < 5) {
        const sight = { ...at.sight, back: next(moments.length) }
        const changed = { CAM_BACK: pictures[sight.back]!.CAM_BACK! }
        if (living.length < 6)
          begin('update', async (signal) => keep(await at.scene.update(changed, { signal }), sight))
      } else if (kind < 7) {
        living.splice(living.indexOf(at), 1)
        at.scene.dispose()
        count('dispose')
      } else if (kind < 9) {
        begin('choose', async (signal) => {
          right(at.sight, `choose${q}`, (await at.scene.choose(question, choices, { signal })).choice)
        })
      } else if (kind < 10) {
        begin('form', async (signal) => {
          right(at.sight, `form${q}`, (await at.scene.ask(question, { signal, answerFormat })).text)
        })
      } else if (kind < 11) {
        begin('askAll', async (signal) => {
          const answers = await at.scene.askAll(questions, options(signal))
          for (const [index, { text }] of answers.entries()) right(at.sight, `ask${index}`, text)
        })
      } else if (kind < 12) {
        begin('break', async (signal) => {
          const stream = at.scene.stream(question, { ...options(signal), minNewTokens: 30 })
          for await (const _ of stream) break
          await stream.answer
        })
      } else if (kind < 15) {
        const free = chats.filter(({ busy }) => !busy)
        const turn = next(4)
        if (free.length === 0 || (turn === 0 && chats.length < 3)) {
          chats.push({ chat: at.scene.chat(), sight: at.sight, said: undefined, busy: false })
          continue
        }
        const one = free[next(free.length)]!
        if (turn === 1 && chats.length < 3) chats.push({ ...one, chat: one.chat.fork() })
        else if (turn === 2 || one.chat.turns.length === 2) {
          chats.splice(chats.indexOf(one), 1)
          one.chat.dispose()
          count('end of a dialogue')
        } else {
          one.busy = true
          begin('turn', async (signal) => {
            try {
              const { text } = await one.chat.ask(question, options(signal))
              right(one.sight, one.said === undefined ? `ask${q}` : `chat${one.said}${q}`, text)
              one.said = q
            } finally {
              one.busy = false
            }
          })
        }
      } else {
        begin('ask', async (signal) => {
          right(at.sight, `ask${q}`, (await at.scene.ask(question, options(signal))).text)
        })
      }
      // Some at once, some one after the other.
      if (next(3) === 0 || running.size > 12) await Promise.race([...running])
    }
    await Promise.all([...running])

    const { running: left, waiting } = model.stats()
    expect({ left, waiting }).toEqual({ left: 0, waiting: 0 })
    for (const { scene } of living) scene.dispose()
    for (const { chat } of chats) chat.dispose()
    await idle(model)
    for (const name of ['see', 'update', 'dispose', 'choose', 'form', 'askAll', 'break', 'turn', 'ask', 'aborted']) {
      expect(counts[name], `${name} of ${JSON.stringify(counts)}`).toBeGreaterThan(0)
    }
    const rightAnswers = counts.ask! + counts.choose! + counts.form! + counts.turn!
    expect(rightAnswers, JSON.stringify(counts)).toBeGreaterThan(operations / 8)
  })
})

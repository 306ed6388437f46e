/**
 * Operations in random order, on page pools so small that they run short all the time, against what is known to be right: every answer
 * is the plain single one, what is aborted or does not fit says so, nothing hangs, and no page is lost.
 *
 * Plain JavaScript over a model that is handed in, so that vitest runs it on the sources, and Node alone on the compiled package.
 */
import assert from 'node:assert/strict'

/**
 * @typedef {import('../../lib/scene.ts').Scene} Scene
 * @typedef {import('../../lib/chat.ts').Chat} Chat
 * @typedef {import('../../lib/model.ts').Model} Model
 * @typedef {import('../../lib/views/compose.ts').NamedViews} NamedViews
 * @typedef {import('../../lib/options.ts').LoadOptions} LoadOptions
 *
 * @typedef {object} Stage
 * @property {(options: LoadOptions) => Promise<Model>} load - The model.
 * @property {NamedViews[]} moments - Pictures; scenes are these, and these with CAM_BACK of another one.
 * @property {number} maxNewTokens - Of an answer.
 *
 * @typedef {{ moment: number, back: number }} Sight  a moment, and the one that CAM_BACK shows
 * @typedef {{ expected: Map<string, string>, pageBytes: number }} Truth
 */

/** @type {[string, LoadOptions][]} */
export const pools = [
  ['without eviction', {}],
  ['where scenes see themselves again', { evict: 'resee', maxScenes: 6 }],
  ['where evicted scenes are gone', { evict: 'throw' }],
]

const questions = [
  'What is the weather like?',
  'What is the color of the traffic light?',
  'Which camera sees the cyclist?',
]
const choices = ['It is a clear day.', 'It is raining.', 'Red.']
const answerFormat = { enum: ['clear', 'rain', 'dusk'] }

/** @returns {Sight[]} */
const sightsOf = ({ moments }) => moments.flatMap((_, moment) => moments.map((_, back) => ({ moment, back })))
const keyOf = ({ moment, back }, what) => `${moment}/${back}/${what}`
const viewsOf = ({ moments }, { moment, back }) => ({ ...moments[moment], CAM_BACK: moments[back].CAM_BACK })

/**
 * The naive model: every question by itself, on a model that shares and guesses nothing.
 *
 * @param {Stage} stage
 * @returns {Promise<Truth>}
 */
export async function plainAnswers(stage) {
  const expected = new Map()
  const plainly = { speculate: false, maxNewTokens: stage.maxNewTokens }
  const plain = await stage.load({ precision: 'f32', maxContext: 256, visionCache: 0, maxBatch: 1 })
  for (const sight of sightsOf(stage)) {
    const scene = await plain.see(viewsOf(stage, sight))
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
  const { pageBytes } = plain.info.memory
  await plain.dispose()
  return { expected, pageBytes }
}

/**
 * @param {Stage} stage
 * @param {Truth} truth - {@link plainAnswers} of it.
 * @param {LoadOptions} limits - Of {@link pools}.
 * @param {{ seed: number, operations: number }} options - Another seed finds other orders.
 * @returns {Promise<Record<string, number>>} How often each operation ended well, and each allowed failure.
 * @throws If an answer is not the plain one, a page is lost, or an operation fails in a way that it must not.
 */
export async function randomOperations(stage, { expected, pageBytes }, limits, options) {
  const sizes = { maxContext: 256, kvMemory: 14 * pageBytes, maxBatch: 4 }
  const model = await stage.load({ precision: 'f32', ...sizes, ...limits })
  const sights = sightsOf(stage)
  let state = options.seed
  const next = (below) => {
    state = (state * 48271) % 2147483647
    return state % below
  }
  /** @type {Record<string, number>} */
  const counts = {}
  const count = (name) => {
    counts[name] = (counts[name] ?? 0) + 1
  }
  /** @type {{ scene: Scene, sight: Sight }[]} */
  const living = []
  /** @type {{ chat: Chat, sight: Sight, said: number | undefined, busy: boolean }[]} */
  const chats = []
  const running = new Set()

  /** What may go wrong, and counts as right: memory is short, the scene was evicted or disposed of, the caller gave up. */
  const allowed = (error, aborted) => {
    if (error.code === 'ABORTED' && aborted) return 'aborted'
    if (error.code === 'OUT_OF_MEMORY' || error.code === 'DISPOSED') return error.code
    throw error
  }
  const begin = (name, work) => {
    const controller = new AbortController()
    const aborts = next(6) === 0
    if (aborts) setTimeout(() => controller.abort(), next(40))
    const task = work(controller.signal).then(
      () => count(name),
      (error) => count(allowed(error, aborts)),
    )
    const tracked = task.finally(() => running.delete(tracked))
    tracked.catch(() => undefined) // told at the end
    running.add(tracked)
  }
  const right = (sight, what, found) => {
    const wanted = expected.get(keyOf(sight, what))
    if (found !== wanted) throw new Error(`${keyOf(sight, what)}: expected ${wanted}, found ${found}`)
  }
  const keep = (scene, sight) => {
    living.push({ scene, sight })
  }
  const { maxNewTokens } = stage
  const asking = (signal) => ({ signal, maxNewTokens, speculate: next(3) * 4 })

  for (let i = 0; i < options.operations; i++) {
    const kind = next(20)
    const at = living.length === 0 ? undefined : living[next(living.length)]
    const q = next(questions.length)
    const question = questions[q]
    if (at === undefined || (kind < 3 && living.length < 5)) {
      const sight = sights[next(sights.length)]
      begin('see', async (signal) => keep(await model.see(viewsOf(stage, sight), { signal }), sight))
    } else if (kind < 5) {
      const sight = { ...at.sight, back: next(stage.moments.length) }
      const changed = { CAM_BACK: stage.moments[sight.back].CAM_BACK }
      if (living.length < 6) begin('update', async (signal) => keep(await at.scene.update(changed, { signal }), sight))
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
        const answers = await at.scene.askAll(questions, asking(signal))
        for (const [index, { text }] of answers.entries()) right(at.sight, `ask${index}`, text)
      })
    } else if (kind < 12) {
      begin('break', async (signal) => {
        const stream = at.scene.stream(question, { ...asking(signal), minNewTokens: maxNewTokens })
        for await (const _ of stream) break
        await stream.answer
      })
    } else if (kind < 15) {
      const free = chats.filter(({ busy }) => !busy)
      const turn = next(6)
      if (free.length === 0 || (turn === 0 && chats.length < 3)) {
        chats.push({ chat: at.scene.chat(), sight: at.sight, said: undefined, busy: false })
        continue
      }
      const one = free[next(free.length)]
      if (turn === 1 && chats.length < 3) chats.push({ ...one, chat: one.chat.fork() })
      else if (turn === 2 || one.chat.turns.length === 2) {
        chats.splice(chats.indexOf(one), 1)
        one.chat.dispose()
        count('end of a dialogue')
      } else {
        one.busy = true
        begin('turn', async (signal) => {
          try {
            const { text } = await one.chat.ask(question, asking(signal))
            right(one.sight, one.said === undefined ? `ask${q}` : `chat${one.said}${q}`, text)
            one.said = q
          } finally {
            one.busy = false
          }
        })
      }
    } else {
      begin('ask', async (signal) => {
        right(at.sight, `ask${q}`, (await at.scene.ask(question, asking(signal))).text)
      })
    }
    // Some at once, some one after the other.
    if (next(3) === 0 || running.size > 12) await Promise.race([...running])
  }
  await Promise.all([...running])

  for (const { scene } of living) scene.dispose()
  for (const { chat } of chats) chat.dispose()
  await untilEmpty(model)
  await model.dispose()
  for (const name of ['see', 'update', 'dispose', 'choose', 'form', 'askAll', 'break', 'turn', 'ask', 'aborted'])
    assert.ok(counts[name] > 0, `no ${name} in ${JSON.stringify(counts)}`)
  const rightAnswers = counts.ask + counts.choose + counts.form + counts.turn
  assert.ok(rightAnswers > options.operations / 8, JSON.stringify(counts))
  return counts
}

/** Waits until nothing runs and every page was given back, which the engine's thread says a moment after the last answer. */
async function untilEmpty(/** @type {Model} */ model) {
  for (let i = 0; i < 2000; i++) {
    const { running, waiting, scenes, pagesUsed } = model.stats()
    if (running + waiting + scenes + pagesUsed === 0) return
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
  assert.fail(`Something was not given back: ${JSON.stringify(model.stats())}`)
}

// Random interleavings of everything that callers do, and of what they should not do, on several models at once, with the garbage collector in
// between. A run is told by its seed; DRIVLM_SEED and DRIVLM_SECONDS choose another and a longer one:
//
//   DRIVLM_SECONDS=3600 node --expose-gc test/interleavings.mjs
//
// Every call must settle; with an answer, with a ModelError that is not INTERNAL, or with the very error that a callback threw. No rejection
// goes unheard, and in the end every page is back.
import assert from 'node:assert/strict'
import path from 'node:path'
import { loadModel, ModelError } from '../dist/index.js'
import { packageRoot } from '../dist/native.js'

const seconds = Number(process.env.DRIVLM_SECONDS ?? 20)
let state = Number(process.env.DRIVLM_SEED ?? 20261) % 2147483647 || 1
const firstSeed = state
const below = (n) => {
  state = (state * 48271) % 2147483647
  return state % n
}
const pick = (list) => list[below(list.length)]
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms))
const collect = globalThis.gc ?? (() => {})

const moment = (name) =>
  Object.fromEntries(
    ['FRONT', 'FRONT_LEFT', 'FRONT_RIGHT', 'BACK', 'BACK_LEFT', 'BACK_RIGHT'].map((side) => [
      `CAM_${side}`,
      path.join(packageRoot, 'models', 'street-tiny', 'moments', name, `CAM_${side}.png`),
    ]),
  )
const moments = ['day', 'dusk', 'rain'].map(moment)
const questions = ['What is the weather like?', 'How many cars are in CAM_BACK?', 'Is there a pedestrian?', '?']

const page = 131_072
const settings = [
  { maxScenes: 1, evict: 'resee' },
  { maxScenes: 3, evict: true, kvMemory: 14 * page, maxContext: 256, precision: 'f32' },
  { kvMemory: 10 * page, maxContext: 256, precision: 'f32', evict: 'throw', maxBatch: 2 },
  { kvMemory: 12 * page, maxContext: 256, precision: 'f32', maxBatch: 4, maxQueue: 6 },
  { visionCache: 1 << 20, maxBatch: 3, maxScenes: 2 },
]

/** What a caller's callback throws. */
class Own extends Error {}

const calls = new Set()
const counts = {}
const count = (name) => {
  counts[name] = (counts[name] ?? 0) + 1
}
process.on('unhandledRejection', (error) => {
  console.error(`unheard, seed ${firstSeed}:`, error)
  process.exit(1)
})

function begin(name, work) {
  const call = { name, since: performance.now() }
  calls.add(call)
  call.ended = (async () => work())()
    .then(
      () => count(name),
      (error) => {
        if (!(error instanceof Own) && !(error instanceof ModelError && error.code !== 'INTERNAL')) {
          console.error(`${name}, seed ${firstSeed}:`, error)
          process.exitCode = 1
        }
        count(error.code ?? 'Own')
      },
    )
    .finally(() => calls.delete(call))
}

/** Options of a question, now and then with a signal, a stop string, or a callback that fails. */
function options() {
  const all = { maxNewTokens: 1 + below(24), speculate: below(3) }
  if (below(3) === 0) all.minNewTokens = below(all.maxNewTokens + 1)
  if (below(4) === 0) {
    const given = new AbortController()
    if (below(4) === 0) given.abort()
    else setTimeout(() => given.abort(), below(60))
    all.signal = given.signal
  }
  const failing = below(12)
  if (failing === 0) all.onText = () => { throw new Own() } // biome-ignore format: short
  if (failing === 1) all.onText = async () => { await sleep(below(5)); throw new Own() } // biome-ignore format: short
  if (failing === 2) all.onText = (text) => { if (/[.!]/.test(text)) throw new Own() } // biome-ignore format: short
  if (failing === 3) all.stop = pick(['.zz', 'e', 'car'])
  if (failing === 4) all.temperature = 0.7
  return all
}

class Place {
  scenes = []
  chats = []
  disposed = false
  constructor(model) {
    this.model = model
  }

  act() {
    const { model, scenes, chats } = this
    const scene = scenes.length > 0 ? pick(scenes) : undefined
    const chat = chats.length > 0 ? pick(chats) : undefined
    const question = pick(questions)
    const kind = below(24)
    if (scene === undefined || kind < 3)
      return begin('see', async () => this.scenes.push(await model.see(pick(moments))))
    if (kind < 5) {
      scenes.splice(scenes.indexOf(scene), 1)
      return below(2) ? scene.dispose() : undefined // or dropped
    }
    if (kind < 9) return begin('ask', () => scene.ask(question, options()))
    if (kind === 9) return begin('model.ask', () => model.ask(pick(moments), question, options()))
    if (kind === 10) return begin('askAll', () => scene.askAll(questions, options()).answers)
    if (kind === 11) return begin('choose', () => scene.choose(question, ['yes', 'no', 'two cars']))
    if (kind === 12)
      return begin('update', async () => this.scenes.push(await scene.update({ CAM_BACK: pick(moments).CAM_BACK })))
    if (kind === 13) return chats.push(scene.chat())
    if (kind < 17 && chat) return begin('turn', () => chat.ask(question, options()))
    if (kind === 17 && chat) {
      if (below(2)) return begin('fork', async () => chats.push(chat.fork()))
      chats.splice(chats.indexOf(chat), 1)
      return below(2) ? chat.dispose() : undefined
    }
    const reader = () =>
      below(3) === 0 && chat
        ? chat.stream(question, options())
        : below(2)
          ? scene.stream(question, options())
          : scene.askAll(questions, options())
    if (kind === 18) {
      return begin('several next', async () => {
        const one = reader()
        const read = Array.from({ length: 2 + below(4) }, async () => one.next())
        if (below(2)) read.push(one.return())
        const ends = await Promise.allSettled(read)
        const failed = ends.filter(({ status }) => status === 'rejected')
        if (failed.length > 0) throw failed[0].reason
        await one.return()
      })
    }
    if (kind === 19) return begin('half-read', async () => reader().next()) // and dropped
    if (kind === 20) return begin('left', async () => { for await (const _ of reader()) if (below(2)) break }) // biome-ignore format: short
    if (kind === 21)
      return begin('odd', () =>
        scene.ask(pick(['', 5, question.repeat(400)]), { maxNewTokens: pick([0, 4, Number.NaN]) }),
      )
    if (kind === 22) {
      return begin('raw', async () => {
        const data = new Uint8Array(64 * 48 * 3).fill(below(255))
        const seeing = model.see(
          Object.fromEntries(Object.keys(moments[0]).map((camera) => [camera, { data, width: 64, height: 48 }])),
        )
        if (below(4) === 0) structuredClone(data.buffer, { transfer: [data.buffer] })
        this.scenes.push(await seeing)
      })
    }
    return collect()
  }
}

const load = async () => new Place(await loadModel({ threads: 1 + below(2), ...pick(settings) }))
const places = await Promise.all([load(), load(), load()])
const until = performance.now() + seconds * 1000
let actions = 0
while (performance.now() < until) {
  const at = below(places.length)
  places[at].act()
  actions++
  if (below(400) === 0) {
    // A model goes while it works, and another one comes.
    const { model } = places[at]
    begin('dispose', () => model.dispose())
    places[at] = await load()
  }
  if (below(60) === 0) collect()
  if (below(3) === 0 || calls.size > 40)
    await Promise.race([...calls].map(({ ended }) => ended).concat(sleep(below(8))))
  const oldest = Math.min(...[...calls].map(({ since }) => since))
  if (performance.now() - oldest > 120_000) break
}
const last = performance.now() + 120_000
while (calls.size > 0 && performance.now() < last) await sleep(10)
assert.equal(calls.size, 0, `seed ${firstSeed}: ${[...calls].map(({ name }) => name)} never settled`)
for (const place of places) {
  for (const one of [...place.scenes.splice(0), ...place.chats.splice(0)]) one.dispose()
  const empty = () => {
    const { running, waiting, scenes, pagesUsed } = place.model.stats()
    return running + waiting + scenes + pagesUsed === 0
  }
  for (let i = 0; i < 400 && !empty(); i++) {
    collect()
    await sleep(10)
  }
  assert.ok(empty(), `seed ${firstSeed}: not given back: ${JSON.stringify(place.model.stats())}`)
  await place.model.dispose()
}
console.log(`seed ${firstSeed}: ${actions} actions, ${JSON.stringify(counts)}`)

// What a scene saves: a second question against the first, many together against one after the other, an update against a new scene,
// choosing against answering, guessed tokens, and how late a timer is meanwhile.
//
//   node bench/scenes.mjs [--model DIR] [--precision bf16] [--device cpu] [--threads N] [--max-batch N] [--questions 20] [--tokens 32]
//                         [--runs 5] [--json FILE]
//
// Every number is the median of the runs. Views are a drawn moment of street-tiny, a little brighter every time, so that nothing is found
// in a cache that a camera's next frame would not be found in.
import { writeFileSync } from 'node:fs'
import os from 'node:os'
import { setTimeout } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { bundledModel, cameras, loadModel } from 'drivlm'
import sharp from 'sharp'
import { rawFrames } from './pictures.mjs'

const { values } = parseArgs({
  options: {
    model: { type: 'string', default: bundledModel },
    precision: { type: 'string', default: 'bf16' },
    device: { type: 'string', default: 'cpu' },
    threads: { type: 'string' },
    'max-batch': { type: 'string' },
    questions: { type: 'string', default: '20' },
    tokens: { type: 'string', default: '32' },
    runs: { type: 'string', default: '5' },
    json: { type: 'string' },
  },
})
const number = (name) => (values[name] === undefined ? undefined : Number(values[name]))
const [count, tokens, runs] = [number('questions'), number('tokens'), number('runs')]

function percentile(list, share) {
  const sorted = [...list].sort((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))]
}
const median = (list) => percentile(list, 0.5)

async function timed(work) {
  const startedAt = performance.now()
  await work()
  return performance.now() - startedAt
}

// Pictures that were never seen.
const base = []
for (const camera of cameras) {
  const picture = sharp(`${bundledModel}/moments/day/${camera}.png`).removeAlpha()
  const { data, info } = await picture.raw().toBuffer({ resolveWithObject: true })
  base.push([camera, { data, width: info.width, height: info.height }])
}
let brightness = 0
function fresh(only = cameras) {
  brightness++
  const brighter = ({ data, ...size }) => ({ data: data.map((value) => (value + brightness) & 255), ...size })
  const changed = base.filter(([camera]) => only.includes(camera))
  return Object.fromEntries(changed.map(([camera, picture]) => [camera, brighter(picture)]))
}

const questions = Array.from(
  { length: count },
  (_, i) => `Question ${i + 1}: is there a car in front of the ego car, and what should the ego car do about it?`,
)
const fixed = { minNewTokens: tokens, maxNewTokens: tokens, speculate: false }
const one = { minNewTokens: 1, maxNewTokens: 1 }
// A question of DriveLM with its answers: what an object does.
const choices = ['Going ahead.', 'Turn left.', 'Turn right.', 'Stopped.']

const model = await loadModel(values.model, {
  precision: values.precision,
  device: values.device,
  threads: number('threads'),
  maxBatch: number('max-batch'),
})
const warm = await model.see(fresh())
await warm.askAll(questions.slice(0, 2), fixed)
await warm.choose(questions[0], choices)
warm.dispose()

const found = {}
const note = (name, ms) => {
  found[name] ??= []
  found[name].push(ms)
}
const late = []
const raw = rawFrames(cameras)
let info
let scene
for (let run = 0; run < runs; run++) {
  scene?.dispose()
  const seenAt = performance.now()
  scene = await model.see(fresh())
  await scene.ask(questions[0], one)
  note('first', performance.now() - seenAt)
  info = scene.info
  note('seeVision', scene.info.timings.visionMs)
  note('see', scene.info.timings.totalMs)
  note('second', (await scene.ask(questions[1], one)).timings.firstTokenMs)

  note(
    'oneByOne',
    await timed(async () => {
      for (const question of questions) await scene.ask(question, fixed)
    }),
  )
  let due = performance.now() + 5
  const timer = setInterval(() => {
    late.push(Math.max(0, performance.now() - due))
    due = performance.now() + 5
  }, 5)
  note('together', await timed(async () => scene.askAll(questions, fixed)))
  // A small model is done before the timer is due.
  while (late.length === 0) await setTimeout(1)
  clearInterval(timer)

  const { held, preprocess } = await raw(model)
  note('rawHeld', held)
  note('rawPreprocess', preprocess)

  const next = await scene.update(fresh(['CAM_FRONT']))
  note('updateVision', next.info.timings.visionMs)
  note('update', next.info.timings.totalMs)
  note('question', await timed(() => next.ask(questions[1], one)))
  note('choose', await timed(() => next.choose(questions[1], choices)))
  note('chooseLetter', await timed(() => next.choose(questions[1], ['A', 'B', 'C', 'D'])))
  next.dispose()
}

// Guessing, in turns, with the model's own answers about the last moment.
const asked = questions.slice(0, 8)
const guesses = [0, 2, 4, 8].map((speculate) => ({ speculate, ms: [], drafted: 0, accepted: 0, steps: 0, tokens: 0 }))
for (let run = 0; run < runs; run++) {
  for (const guess of guesses) {
    const before = model.stats()
    for (const question of asked) await scene.ask(question, { maxNewTokens: tokens, speculate: guess.speculate })
    const after = model.stats()
    guess.ms.push((after.decodeMs - before.decodeMs) / (after.decodeTokens - before.decodeTokens))
    for (const key of ['drafted', 'accepted', 'steps']) guess[key] += after[key] - before[key]
    guess.tokens += after.decodeTokens - before.decodeTokens
  }
}
scene.dispose()
await model.dispose()

const m = Object.fromEntries(Object.entries(found).map(([name, list]) => [name, median(list)]))
const percent = (part, whole) => `${((100 * part) / whole).toFixed(1)} %`
const ms = (value) => `${value.toFixed(value < 100 ? 1 : 0)} ms`
const rows = [
  ['first word about new views', ms(m.first), ''],
  ['first word of a second question', ms(m.second), `${percent(m.second, m.first)} of the first`],
  [`${count} questions of ${tokens} tokens, one by one`, ms(m.oneByOne), ''],
  ['the same through askAll', ms(m.together), `${percent(m.together, m.oneByOne)} of one by one`],
  ['seeing six new views', ms(m.see), `vision ${ms(m.seeVision)}`],
  ['six raw 1600 x 900 hold the event loop', ms(m.rawHeld), `preprocessing ${ms(m.rawPreprocess)}`],
  ['update of one camera', ms(m.update), `${percent(m.update, m.see)} of seeing`],
  ['its vision', ms(m.updateVision), `${percent(m.updateVision, m.seeVision)} of seeing's`],
  ['a question up to its first word', ms(m.question), ''],
  ['choose among four sentences', ms(m.choose), `${(m.choose / m.question).toFixed(2)} x that question`],
  ['choose among four letters', ms(m.chooseLetter), `${(m.chooseLetter / m.question).toFixed(2)} x that question`],
  ['a 5 ms timer during askAll is late by', ms(median(late)), `p99 ${ms(percentile(late, 0.99))}`],
  ...guesses.map((guess) => [
    guess.speculate === 0 ? 'a token, nothing guessed' : `a token, ${guess.speculate} guessed a step`,
    `${median(guess.ms).toFixed(2)} ms`,
    `${(guess.steps / guess.tokens).toFixed(3)} steps` +
      (guess.drafted > 0 ? `, ${percent(guess.accepted, guess.drafted)} of the guesses right` : ''),
  ]),
]
const { name, device, precision } = model.info
const cpu = `${os.cpus()[0].model}, ${os.availableParallelism()} cores`
console.log(
  `${name}, ${device} (${cpu}), ${precision}, ${info.tiles} tiles, ${info.tokens} tokens a scene, ${runs} runs`,
)
for (const [what, value, more] of rows) console.log(`  ${what.padEnd(42)} ${value.padStart(10)}  ${more}`)

if (values.json !== undefined) {
  const setup = {
    name,
    device,
    precision,
    cpu,
    tiles: info.tiles,
    sceneTokens: info.tokens,
    questions: count,
    tokens,
    runs,
  }
  const lateMs = { median: median(late), p99: percentile(late, 0.99) }
  const told = guesses.map((guess) => ({ ...guess, ms: median(guess.ms) }))
  writeFileSync(values.json, `${JSON.stringify({ setup, medianMs: m, lateMs, guesses: told }, null, 2)}\n`)
}

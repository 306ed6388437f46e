// A robot's process: a control loop at 50 Hz, camera frames at 2 Hz, a question a second, one event loop for all of it.
// Frames that come while the model is busy are dropped, but for the latest. Run it with: node examples/control-loop.mjs [--seconds 10]
import { parseArgs } from 'node:util'
import { bundledModel, cameras, loadModel } from 'drivlm'
import sharp from 'sharp'

const { values } = parseArgs({ options: { seconds: { type: 'string', default: '10' } } })
const seconds = Number(values.seconds)
if (!(seconds > 0)) throw new Error(`--seconds: expected a number above 0, received ${values.seconds}`)

// The camera driver: frames of three drawn moments, as raw RGB in memory.
const frames = []
for (const moment of ['day', 'dusk', 'rain']) {
  const views = {}
  for (const camera of cameras) {
    const file = `${bundledModel}/moments/${moment}/${camera}.png`
    const { data, info } = await sharp(file).removeAlpha().raw().toBuffer({ resolveWithObject: true })
    views[camera] = { data, width: info.width, height: info.height }
  }
  frames.push(views)
}

// A core is left to the control loop. Two scenes are enough: the one that is asked about and the one that is being seen.
const model = await loadModel({ threads: 1, maxScenes: 2 })
let scene = await model.see(frames[0])

const late = []
let [ticks, came, seen, dropped, answered] = [0, 0, 0, 0, 0]
let latest // the newest frame that was not looked at yet
let looking = false

// 50 Hz: what steers the vehicle. It must not wait for anybody.
const startedAt = performance.now()
const period = 20
function control() {
  late.push(Math.max(0, performance.now() - (startedAt + ++ticks * period)))
  timers.control = setTimeout(control, Math.max(0, startedAt + (ticks + 1) * period - performance.now()))
}

// 2 Hz: a frame. Here the front camera sees something new every time, the others every third.
function onFrame() {
  came++
  if (latest !== undefined) dropped++
  const next = frames[came % frames.length]
  latest = came % 3 === 0 ? next : { CAM_FRONT: next.CAM_FRONT }
  look().catch(fail)
}

async function look() {
  if (looking) return
  looking = true
  try {
    while (latest !== undefined) {
      const changed = latest
      latest = undefined
      const next = await scene.update(changed) // only what changed is encoded
      scene.dispose() // questions that are running end well
      scene = next
      seen++
    }
  } finally {
    looking = false
  }
}

// 1 Hz: a question about the newest moment there is, given up if it takes longer than until the next.
async function onQuestion() {
  const askedAt = performance.now()
  const signal = AbortSignal.timeout(1000)
  const { choice } = await scene.choose('Should the ego car stop?', ['Yes', 'No'], { signal })
  const { text } = await scene.ask('What should the ego car do next?', { signal, maxNewTokens: 40 })
  answered++
  console.log(`${choice.padEnd(4)} ${text}  (${(performance.now() - askedAt).toFixed(0)} ms)`)
}

function fail(error) {
  // A question that came too late is no disaster; everything else is.
  if (error.code === 'ABORTED' || error.code === 'DISPOSED') return
  console.error(error)
  process.exitCode = 1
}

const timers = {
  control: setTimeout(control, period),
  frame: setInterval(onFrame, 500),
  question: setInterval(() => onQuestion().catch(fail), 1000),
}
await new Promise((resolve) => setTimeout(resolve, seconds * 1000 + 50))
clearTimeout(timers.control)
clearInterval(timers.frame)
clearInterval(timers.question)
await model.dispose()

late.sort((a, b) => a - b)
const at = (share) => late[Math.min(late.length - 1, Math.floor(late.length * share))].toFixed(2)
console.log(`${ticks} control ticks, late by ${at(0.5)} ms (median), ${at(0.99)} ms (p99), ${at(1)} ms (worst)`)
console.log(`${came} frames: ${seen} seen, ${dropped} dropped; ${answered} questions answered`)

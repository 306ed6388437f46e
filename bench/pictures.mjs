// What six raw frames of 1600 x 900 cost before the model sees them: how long `see` holds the event loop, and how long its preprocessing takes.
//
//   node bench/pictures.mjs [--against DIR] [--runs 15] [--model DIR]
//
// Held is the processor time of the JavaScript thread from the call until the scene is there, as the kernel counts it: other programs do not
// add to it. Preprocessing is `timings.preprocessMs`, wall time; with DIR, another checkout of the package, built, both are measured in turns, each
// in a process of its own that keeps its model.
//
// Floor of preprocessing: the frames are read once (26 MB) and DriveLM's tiles written once (7.8 MB); at 10 GB/s that is 3.4 ms. What is above
// it is arithmetic: Pillow's two passes are 30 M multiply-adds a view and 34 M for the thumbnail, 0.2 G in all.
import { fork } from 'node:child_process'
import { readFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

const [width, height] = [1600, 900]
const nap = new Int32Array(new SharedArrayBuffer(4))

/** Milliseconds of processor time of this thread, the main one. A nap makes the kernel count up to now. */
function threadMs() {
  Atomics.wait(nap, 0, 0, 1)
  return Number(readFileSync(`/proc/self/task/${process.pid}/schedstat`, 'utf8').split(' ')[0]) / 1e6
}

function frame(seed) {
  const data = new Uint8Array(width * height * 3)
  for (let i = 0; i < data.length; i++) data[i] = (i * seed * 7 + (i >> 9) * 5) & 255
  return { data, width, height }
}

/** Sees six frames that were never seen, and gives the milliseconds. */
export function rawFrames(cameras) {
  const frames = cameras.map((_, i) => frame(i + 1))
  let run = 0
  return async (model) => {
    run++
    for (const { data } of frames) for (let at = run; at < data.length; at += 65_537) data[at] ^= 255
    const views = Object.fromEntries(cameras.map((camera, i) => [camera, frames[i]]))
    const [first, begun] = [threadMs(), threadMs()]
    const scene = await model.see(views)
    const held = Math.max(0, threadMs() - begun - (begun - first)) // less what looking at the clock takes
    scene.dispose()
    return { held, preprocess: scene.info.timings.preprocessMs }
  }
}

/** In a process of its own: a message is a run. */
async function serve(root, model) {
  const { bundledModel, cameras, loadModel } = await import(path.join(root, 'dist/index.js'))
  const loaded = await loadModel(model || bundledModel)
  const run = rawFrames(cameras)
  for (let i = 0; i < 5; i++) await run(loaded)
  process.on('message', async () => process.send(await run(loaded)))
  process.send('ready')
}

const quantile = (list, share) => [...list].sort((a, b) => a - b)[Math.floor((list.length - 1) * share)]

async function main() {
  const here = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..')
  const { values } = parseArgs({
    options: {
      against: { type: 'string' },
      runs: { type: 'string', default: '15' },
      model: { type: 'string', default: '' },
    },
  })
  const sides = { ...(values.against && { before: path.resolve(values.against) }), now: here }
  const children = {}
  for (const [name, root] of Object.entries(sides)) {
    children[name] = fork(fileURLToPath(import.meta.url), ['--serve', root, values.model])
    await new Promise((resolve) => children[name].once('message', resolve))
  }
  const found = {}
  for (let run = 0; run < Number(values.runs); run++) {
    for (const [name, child] of Object.entries(children)) {
      const answer = new Promise((resolve) => child.once('message', resolve))
      child.send('run')
      for (const [what, ms] of Object.entries(await answer)) {
        found[what] ??= {}
        found[what][name] ??= []
        found[what][name].push(ms)
      }
    }
  }
  for (const child of Object.values(children)) child.kill()
  const names = { held: 'see of six raw frames holds the loop', preprocess: 'its preprocessing' }
  for (const [what, lists] of Object.entries(found)) {
    const told = Object.entries(lists).map(
      ([name, list]) => `${name} ${quantile(list, 0.5).toFixed(2)} ms (least ${quantile(list, 0).toFixed(2)})`,
    )
    const ratio = lists.before && `, ${(quantile(lists.now, 0.5) / quantile(lists.before, 0.5)).toFixed(2)} x`
    console.log(`${names[what].padEnd(38)} ${told.join(', ')}${ratio ?? ''}`)
  }
}

if (process.argv[2] === '--serve') await serve(process.argv[3], process.argv[4])
else if (process.argv[1] === fileURLToPath(import.meta.url)) await main()

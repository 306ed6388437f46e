// What worker.test.ts runs in workers and child processes: one task each, on the compiled package.
import path from 'node:path'
import { parentPort, workerData } from 'node:worker_threads'
import { bundledModel, cameras, loadModel } from '../../dist/index.js'
import { loadAddon } from '../../dist/native.js'

const task = workerData?.task ?? process.argv[2]
const say = (word, value) => parentPort?.postMessage({ word, value })
const views = Object.fromEntries(
  cameras.map((camera) => [camera, path.join(bundledModel, 'moments', 'day', `${camera}.png`)]),
)
const question = 'What is the weather like?'
const long = { minNewTokens: 3000, maxNewTokens: 3000 }

// Resolves at the first piece of an answer that goes on for long.
async function answering(model) {
  await new Promise((resolve) => {
    model.ask(views, question, { ...long, onText: resolve })
  })
}

const tasks = {
  async ask() {
    const model = await loadModel()
    say('answer', (await model.ask(views, question)).text)
    await model.dispose()
  },
  async loading() {
    for (let i = 0; i < 200; i++) {
      const loads = Array.from({ length: 4 }, () => loadModel())
      say('begun')
      for (const model of await Promise.all(loads)) await model.dispose()
    }
  },
  async seeing() {
    const model = await loadModel()
    const scenes = Array.from({ length: 20 }, () => model.see(views))
    say('begun')
    await Promise.all(scenes)
  },
  async answering() {
    const model = await loadModel()
    await answering(model)
    say('begun')
  },
  async several() {
    const models = await Promise.all([loadModel(), loadModel()])
    await Promise.all(models.flatMap((model) => [answering(model), answering(model)]))
    say('begun')
  },
  async tiles() {
    const rgb = new Uint8Array(800 * 600 * 3)
    const grid = { columns: 4, rows: 3, thumbnail: true }
    const cut = Array.from({ length: 4 }, () => loadAddon().prepareTiles({ rgb, width: 800, height: 600 }, grid, 448))
    say('begun')
    await Promise.all(cut)
  },
  async exit() {
    await answering(await loadModel())
    process.exit(7)
  },
  async 'exit-loading'() {
    loadModel()
    loadModel({ onProgress: () => process.exit(7) })
  },
  async 'exit-callback'() {
    const model = await loadModel()
    await model.ask(views, question, { onText: () => process.exit(7) })
  },
  async throw() {
    await answering(await loadModel())
    setTimeout(() => {
      throw new Error('on purpose')
    })
  },
  async end() {
    const model = await loadModel()
    await model.see(views)
  },
}
await tasks[task]()

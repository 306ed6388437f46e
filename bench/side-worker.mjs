// One group of stages of one build, in a process of its own, for bench/side-by-side.mjs. The build may be an older one: what is called here is what
// builds since 29d9aa3 have. Sends { rows: { stage: { value, unit } } }, or { refused } for what the build does not know.
//
//   fork('side-worker.mjs', [JSON.stringify({ build, model, load, stages, threads, quick, cold })])
import { readFileSync } from 'node:fs'
import path from 'node:path'
import { pathToFileURL } from 'node:url'

const { build, model: dir, load, stages, threads, quick, cold } = JSON.parse(process.argv[2])
const of = (file) => import(pathToFileURL(path.join(build, file)).href)
const steps = quick ? 2 : 16
const rows = {}
const note = (name, value, unit) => {
  rows[name] = { value, unit }
}
const seconds = async (work) => {
  const started = performance.now()
  await work()
  return (performance.now() - started) / 1000
}
const best = async (times, run) => {
  let least = Number.POSITIVE_INFINITY
  for (let i = 0; i < times; i++) least = Math.min(least, await run())
  return least
}

/** Bytes that this process has had from the disk, where the system says so. */
function diskBytes() {
  try {
    return Number(/^read_bytes: (\d+)$/m.exec(readFileSync('/proc/self/io', 'latin1'))?.[1] ?? 0)
  } catch {
    return 0
  }
}

/**
 * `loadModel` in a process that has loaded nothing yet; with a cache, which an earlier process has written. Of the page cache: some machines give pages back
 * while there is memory for them, so that a load finds part of a file on the disk. That one does not count, unless `cold`.
 */
async function loading() {
  const { loadModel } = await of('dist/index.js')
  let model
  const options = { ...load, device: 'cpu', threads }
  const before = diskBytes()
  const took = await seconds(async () => {
    model = await loadModel(dir, options)
  })
  const fromDisk = diskBytes() - before
  const cached = model.info.cache?.state
  await model.dispose()
  if (!stages.includes('load_cached')) return note('load', took, 's')
  if (cached === 'read' && fromDisk > 1e6 && !cold) rows.again = true
  else if (cached === 'read') note('load_cached', took, 's')
  else rows.again = cached === 'written'
}

/** Twenty questions of one scene at once: until all have their first text, and what each further step of all takes. */
async function questions() {
  const [{ cameras, loadModel }, { pictures }] = [await of('dist/index.js'), await of('bench/workload.mjs')]
  const model = await loadModel(dir, { ...load, device: 'cpu', threads })
  const frames = pictures().map(({ rgb, width, height }) => ({ data: rgb, width, height }))
  const views = Object.fromEntries(cameras.map((camera, i) => [camera, frames[i]]))
  let scene
  const fixed = (tokens) => ({ minNewTokens: tokens, maxNewTokens: tokens, speculate: false })
  const seen = await seconds(async () => {
    scene = await model.see(views)
    await scene.ask('What is in front of the ego car?', fixed(1))
  })
  note('first_token_13', seen, 's')
  let asked = 0
  const twenty = () =>
    Array.from(
      { length: 20 },
      () => `Question ${++asked}: is there a car in front, and what should the ego car do about it?`,
    )
  const all = async (tokens) => {
    const texts = twenty()
    return seconds(() => scene.askAll(texts, fixed(tokens)))
  }
  await all(2)
  const first = await best(2, () => all(1))
  const long = await best(2, () => all(1 + steps))
  note('first_20', 1000 * first, 'ms')
  note('step_20', (1000 * (long - first)) / steps, 'ms')
  scene.dispose()
  await model.dispose()
}

/** Stages at the native seam, where ids can be given: every run decodes the same. */
async function native() {
  const { loadAddon } = await of('dist/native.js')
  const { readCheckpoint } = await of('dist/checkpoint/load-checkpoint.js')
  const { resolveOptions } = await of('dist/load-model.js')
  const { plainRequest } = await of('bench/checks.mjs')
  const { imagesOf, pictures, promptOf, randomIds } = await of('bench/workload.mjs')
  const addon = loadAddon()
  const checkpoint = await readCheckpoint(dir)
  const { network } = checkpoint
  const { vocab } = network.language
  const maxContext = Math.min(checkpoint.maxPositions, 4096)
  const options = resolveOptions(addon, checkpoint, { ...load, device: 'cpu', threads, maxBatch: 8, maxContext })
  const model = await addon.load(checkpoint, { ...options, visionCacheBytes: 0 })
  const plain = plainRequest(vocab)
  let job = 0
  let views

  async function see(tiles) {
    const { ids, question } = promptOf(tiles, network, 11)
    views ??= pictures()
    const started = performance.now()
    // Before tiles were prepared apart from `see`, it took three arguments.
    const { tileSize } = network.vision
    const images =
      imagesOf.length === 3 ? imagesOf(views, tiles, tileSize) : await imagesOf(addon, views, tiles, tileSize)
    const scene = await model.see({ job: ++job, ids, images })
    await model.generate({ job: ++job, ...plain, scene: scene.scene, ids: question, maxNewTokens: 1 })
    const first = (performance.now() - started) / 1000
    model.release(scene.scene)
    return { first, vision: scene.visionMs / 1000 }
  }
  async function prefill(tokens) {
    const ids = randomIds(tokens, vocab, 100)
    const result = await model.generate({ job: ++job, ...plain, ids, maxNewTokens: 1, keep: true })
    return { scene: result.scene, took: result.prefillMs / 1000 }
  }
  const decode = (times, scene, ahead) =>
    best(times, async () => {
      const ids = randomIds(Math.max(ahead, 1), vocab, 200)
      const forced = randomIds(steps + 1, vocab, 201)
      const result = await model.generate({ job: ++job, ...plain, scene, ids, forced, maxNewTokens: steps + 1 })
      return result.decodeMs / 1000 / steps
    })

  if (stages.includes('vit_tile')) {
    await see(1)
    note('vit_tile', await best(2, async () => (await see(1)).vision), 's')
  }
  if (stages.includes('first_token_13')) note('first_token_13', (await see(13)).first, 's')
  if (stages.includes('decode_0')) note('decode_0', 1 / (await decode(4, 0, 0)), 'tok/s')
  const context = stages.includes('decode_3400') ? 3400 : 3500
  if (stages.includes('prefill_3328') || stages.includes(`decode_${context}`)) {
    const { scene, took } = await prefill(3328)
    if (stages.includes('prefill_3328')) note('prefill_3328', 3328 / took, 'tok/s')
    if (stages.includes(`decode_${context}`))
      note(`decode_${context}`, 1 / (await decode(3, scene, context - 3328)), 'tok/s')
    model.release(scene)
  }
  if (stages.includes('kv_bytes')) note('kv_bytes', model.memory().kvBytesPerToken, 'B')
  await model.dispose()
}

try {
  if (stages.includes('ask_all_20')) await questions()
  else if (stages.some((stage) => stage.startsWith('load'))) await loading()
  else await native()
  process.send({ rows })
} catch (error) {
  if (error.code === 'BAD_ARGUMENT') process.send({ refused: `${error.code}: ${error.message}` })
  else process.send({ failed: error.stack ?? String(error) })
}
process.disconnect()

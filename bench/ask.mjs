// One mode of one model, stage by stage, in a process of its own: its memory is its own, and its first run of a stage is a first run.
// bench/main.mjs starts it and turns what it sends into rows.
//
// A stage is sent as { name, unit, per, cost, seconds: [first, …], peaks }: `per` units of work in so many seconds, the first run apart, and
// what the machine could do just before and just after.
import { readFileSync } from 'node:fs'
import { readCheckpoint } from '../dist/checkpoint/load-checkpoint.js'
import { resolveOptions } from '../dist/load-model.js'
import { loadAddon } from '../dist/native.js'
import { checkAnswers, checkDecoding, plainRequest } from './checks.mjs'
import { decodeCost, firstTokenCost, prefillCost, visionCost } from './floors.mjs'
import { contexts, modes, prefills, tileCounts } from './modes.mjs'
import { betterPeaks, measurePeaks, measureReading } from './peaks.mjs'
import { quantile } from './statistics.mjs'
import { imagesOf, pictures, promptOf, randomIds } from './workload.mjs'

const options = JSON.parse(process.argv[2])
const addon = loadAddon()
const mode = modes.find(({ name }) => name === options.mode)
const mostRuns = options.quick ? 2 : 9
const stageSeconds = 8
const steps = options.quick ? 4 : 16

const send = (message) => new Promise((resolve) => process.send(message, resolve))
let lastJob = 0
const nextJob = () => ++lastJob

function peaksNow() {
  if (options.peaks === undefined) return undefined
  const measured = measurePeaks(options.peaks, options.threads, 0.1)
  send({ measured: betterPeaks([measured]) })
  return measured
}
let latestPeaks = peaksNow()
/** The better of the peaks before and after what was just timed: other programs only take from them. */
function peaksAround() {
  const before = latestPeaks
  latestPeaks = peaksNow()
  return before && betterPeaks([before, latestPeaks])
}

// Nobody is there to be told: the bench was stopped.
const orphaned = () => process.exit(1)
process.on('disconnect', orphaned)

try {
  await bench()
  await send({ done: true })
} catch (error) {
  await send({ failed: { code: error.code ?? 'INTERNAL', message: error.message } })
}
process.off('disconnect', orphaned)
process.disconnect()

async function bench() {
  const load = { ...mode.load, device: options.device, threads: options.threads, maxBatch: 8 }
  const checkpoint = await readCheckpoint(options.model)
  const { network } = checkpoint
  const maxContext = Math.min(checkpoint.maxPositions, 4096)
  // Without a vision cache: every tile of every run is encoded.
  const native = { ...resolveOptions(addon, checkpoint, { ...load, maxContext }), visionCacheBytes: 0 }

  await send(await checkAnswers(mode, options.device, options.threads))

  const started = performance.now()
  const model = await addon.load(checkpoint, native)
  const loadSeconds = (performance.now() - started) / 1000
  try {
    await send(await checkDecoding(model, network.language, mode, nextJob))
    await send({ name: 'load', unit: 's', per: 1, cost: null, seconds: [loadSeconds] })
    await stages(model, network, maxContext)
    const { weightsBytes, kvBytes, arenaBytes } = model.memory()
    await send({
      name: 'peak_memory',
      unit: 'MiB',
      value: peakBytes() / 2 ** 20,
      floor: (weightsBytes + kvBytes + arenaBytes) / 2 ** 20,
    })
  } finally {
    await model.dispose()
  }
}

async function stages(model, network, maxContext) {
  const views = pictures()
  await seeing(model, network, views, 1)
  for (const tokens of prefills) {
    const kept = await prefilling(model, network, tokens)
    for (const context of contexts.filter((one) => one >= tokens && one < tokens + 512)) {
      await decoding(model, network, context, kept, tokens)
    }
    model.release(kept)
  }
  await decoding(model, network, 0, 0, 0)
  for (const tiles of [...tileCounts].reverse()) {
    if (tiles > 1 && promptOf(tiles, network, 1).ids.length + 64 <= maxContext)
      await seeing(model, network, views, tiles)
  }
}

/** Runs a stage until it has enough runs or enough time; each run gives the seconds of one or more names. */
async function repeat(run) {
  const seconds = {}
  const began = performance.now()
  for (let count = 0; count < mostRuns; count++) {
    for (const [name, value] of Object.entries(await run(count))) {
      seconds[name] = [...(seconds[name] ?? []), value]
    }
    const each = (performance.now() - began) / 1000 / (count + 1)
    // A second run is what makes a value a warm one; it is left out where the first touch of memory is lost in so long a run.
    if (count === 0 ? each > 20 : (count + 2) * each > stageSeconds) break
  }
  return seconds
}

/** Pixels of so many tiles to the first token of an answer. */
async function seeing(model, network, views, tiles) {
  const { ids, question } = promptOf(tiles, network, 11)
  const seconds = await repeat(async () => {
    const started = performance.now()
    const images = await imagesOf(addon, views, tiles, network.vision.tileSize)
    const prepared = performance.now() - started
    const scene = await model.see({ job: nextJob(), ids, images })
    const plain = plainRequest(network.language.vocab)
    const answer = await model.generate({
      job: nextJob(),
      ...plain,
      scene: scene.scene,
      ids: question,
      maxNewTokens: 1,
    })
    const first = performance.now() - started
    model.release(scene.scene)
    if (scene.cachedTiles > 0 || scene.sharedTokens > 0)
      throw new Error('a run was answered from the cache of the one before')
    return {
      preprocess: (prepared + scene.preprocessMs) / 1000,
      vit: scene.visionMs / 1000,
      prefill: (scene.prefillMs + answer.prefillMs) / 1000,
      first_token: first / 1000,
    }
  })
  const peaks = peaksAround()
  const tokens = ids.length + question.length
  const name = tiles === 1 ? '1_tile' : `${tiles}_tiles`
  const vit = tiles === 1 ? 'vit_tile' : `vit_${name}`
  const parts = { preprocess: null, vit: visionCost(network, tiles, mode), prefill: prefillCost(network, tokens, mode) }
  parts.first_token = firstTokenCost(network, tiles, tokens, mode)
  for (const [part, cost] of Object.entries(parts)) {
    const unit = part === 'preprocess' ? 'ms' : 's'
    await send({ name: part === 'vit' ? vit : `${part}_${name}`, unit, per: 1, cost, seconds: seconds[part], peaks })
  }
}

/** So many tokens into an empty context. Returns the last run as a scene. */
async function prefilling(model, network, tokens) {
  const { vocab } = network.language
  let kept = 0
  const seconds = await repeat(async (count) => {
    if (kept !== 0) model.release(kept)
    const ids = randomIds(tokens, vocab, 100 + count)
    const plain = plainRequest(vocab)
    const result = await model.generate({ job: nextJob(), ...plain, ids, maxNewTokens: 1, keep: true })
    kept = result.scene
    return { prefill: result.prefillMs / 1000 }
  })
  const cost = prefillCost(network, tokens, mode)
  await send({
    name: `prefill_${tokens}`,
    unit: 'tok/s',
    per: tokens,
    cost,
    seconds: seconds.prefill,
    peaks: peaksAround(),
  })
  return kept
}

/**
 * Tokens one by one after `context` others, of which `cached` stand in the scene. Their ids are given: every run decodes the same. What
 * bounds it, reading, is measured before every run: the median of the runs is held against the median of these.
 */
async function decoding(model, network, context, scene, cached) {
  const { vocab } = network.language
  const ids = randomIds(Math.max(context - cached, 1), vocab, 200)
  const forced = randomIds(steps + 1, vocab, 201)
  const reads = []
  const seconds = await repeat(async () => {
    if (options.peaks !== undefined) reads.push(measureReading(options.peaks, options.threads))
    const plain = plainRequest(vocab)
    const result = await model.generate({ job: nextJob(), ...plain, scene, ids, forced, maxNewTokens: steps + 1 })
    if (result.ids.length !== steps + 1) throw new Error(`decoded ${result.ids.length} tokens in place of ${steps + 1}`)
    return { decode: result.decodeMs / 1000 }
  })
  const cost = decodeCost(network, context + steps / 2, mode)
  const around = peaksAround()
  const peaks = around && { ...around, read_gbs: quantile(reads, 0.5) }
  const each = seconds.decode.map((one) => one / steps)
  await send({ name: `decode_${context}`, unit: 'tok/s', per: 1, cost, seconds: each, peaks })
}

/** The most memory this process ever had. getrusage would count what the parent had before exec. */
function peakBytes() {
  try {
    return 1024 * Number(readFileSync('/proc/self/status', 'utf8').match(/^VmHWM:\s+(\d+) kB$/m)[1])
  } catch {
    return 1024 * process.resourceUsage().maxRSS
  }
}

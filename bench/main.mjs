#!/usr/bin/env node
// npm run bench: how fast, and how near to what this machine can do at most. README.md says what is measured and how.
import { fork } from 'node:child_process'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

const usage = `usage: npm run bench -- [kernels | ask | scenes | all | train | serve] [options]
  --json FILE        write the result to FILE
  --compare OLD      compare with the result in OLD
  --fail-below R     with --compare: fail if a row is below R times as good as in OLD
  --model DIR        a model folder (default: a stand-in of InternVL2-1B in .cache/)
  --device DEVICE    cpu (default), cuda or cuda:N
  --threads N        threads of the CPU backend (default: the cores there are)
  --modes LIST       out of bf16,int8,int4,f32 (default: all)
  --peaks FILE       peaks in place of measured ones: a JSON object with bf16_gflops, u8s8_gops, f32_gflops, read_gbs
  --quick            the bundled model and few runs: shows that everything works, not how fast`

const ofAll = ['kernels', 'ask', 'scenes']
const parts = [...ofAll, 'train', 'serve']
const here = path.dirname(fileURLToPath(import.meta.url))
const refusals = ['BAD_ARGUMENT', 'DEVICE_UNAVAILABLE', 'UNSUPPORTED_MODEL'] // what a build says to a mode it lacks
const optionalSeconds = 40 // for a mode that is there for comparison only

function fail(message) {
  console.error(message)
  process.exit(2)
}

function readArguments() {
  const string = { type: 'string' }
  const names = ['json', 'compare', 'fail-below', 'model', 'device', 'threads', 'modes', 'peaks']
  const options = {
    ...Object.fromEntries(names.map((name) => [name, string])),
    quick: { type: 'boolean' },
    help: { type: 'boolean' },
  }
  const { values, positionals } = parseArgs({ options, allowPositionals: true })
  if (values.help) {
    console.log(usage)
    process.exit(0)
  }
  const [part = 'all'] = positionals
  if (positionals.length > 1 || !['all', ...parts].includes(part))
    fail(`Expected one of all, ${parts.join(', ')}.\n${usage}`)
  const threads = Number(values.threads ?? os.availableParallelism())
  if (!Number.isInteger(threads) || threads < 1 || threads > 256)
    fail('Expected --threads to be an integer from 1 to 256.')
  const failBelow = values['fail-below'] === undefined ? undefined : Number(values['fail-below'])
  if (failBelow !== undefined && !(failBelow > 0)) fail('Expected --fail-below to be a number above 0, such as 0.95.')
  if (part === 'train' && (values.device ?? 'cpu') !== 'cpu') fail('Training runs on the CPU only: leave --device out.')
  if (failBelow !== undefined && values.compare === undefined) fail('--fail-below needs --compare OLD.')
  return {
    ...values,
    failBelow,
    threads,
    device: values.device ?? 'cpu',
    quick: values.quick ?? false,
    parts: part === 'all' ? ofAll : [part],
  }
}

const readJson = (file) => {
  try {
    return JSON.parse(readFileSync(file, 'utf8'))
  } catch (error) {
    return fail(`${file}: ${error.message}`)
  }
}

let options
try {
  options = readArguments()
} catch (error) {
  fail(`${error.message}\n${usage}`)
}
if (!existsSync(path.join(here, '..', 'dist', 'index.js'))) fail('Run `npm run build:native` and `npx tsc -p .` first.')

const { modes } = await import('./modes.mjs')
const { bundledModel } = await import('../dist/index.js')
const { describeDevice, warningsOf } = await import('./device.mjs')
const { buildBenches, runGpuCheck, runToFile } = await import('./native.mjs')
const { betterPeaks, measurePeaks } = await import('./peaks.mjs')
const { nativeRow, sceneRows, serveRows, skippedRow, stageRow } = await import('./rows.mjs')
const { percent, show, table } = await import('./statistics.mjs')
const { comparisonText, compareRows } = await import('./compare.mjs')
const { decodeStage } = await import('./workload.mjs')
const { standIn } = await import('./stand-in.mjs')

const log = (text) => console.error(text)
const old = options.compare === undefined ? undefined : readJson(options.compare)
const wantedModes = options.modes?.split(',') ?? modes.map(({ name }) => name)
const unknown = wantedModes.find((name) => !modes.some((mode) => mode.name === name))
if (unknown !== undefined)
  fail(`Expected --modes out of ${modes.map(({ name }) => name).join(', ')}, received '${unknown}'.`)

const device = describeDevice(options.device, options.threads)
const programs = buildBenches(options.device)
const onGpu = programs.gpuCheck !== undefined
const peakRuns = []

const gpuCheck = (...args) =>
  runGpuCheck(programs.gpuCheck, options.device, [...args, ...(options.quick ? ['--small'] : [])])

/** Peaks are measured before and after everything, and around every stage. */
function peaksNow() {
  if (options.peaks !== undefined) return peakRuns.push(readJson(options.peaks))
  log('Measuring the peaks of this machine')
  if (onGpu) return peakRuns.push(gpuCheck('--peaks').peaks)
  peakRuns.push(measurePeaks(programs.peaks, options.threads, options.quick ? 0.1 : 1))
}

/** Runs bench/ask.mjs for one mode and collects what it sends. */
function askMode(mode, model) {
  const { device: on, threads, quick } = options
  const peaks = onGpu || quick || options.peaks !== undefined ? undefined : programs.peaks
  const sent = { mode, stages: [], checks: [], refused: undefined, broken: false }
  return new Promise((resolve, reject) => {
    const child = fork(path.join(here, 'ask.mjs'), [
      JSON.stringify({ mode: mode.name, model, device: on, threads, quick, peaks }),
    ])
    const limit = mode.optional ? setTimeout(() => child.kill(), optionalSeconds * 1000) : undefined
    child.on('message', (message) => {
      if (message.failed !== undefined) {
        const { code, message: text } = message.failed
        sent.refused = `${code}: ${text}`
        sent.broken = !refusals.includes(code)
      } else if (message.check !== undefined) {
        sent.checks.push({ mode: mode.name, ...message })
        log(`  ${message.passed ? 'right' : 'WRONG'}: ${message.check}, ${message.detail}`)
        if (!message.passed) child.kill()
      } else if (message.measured !== undefined) {
        peakRuns.push(message.measured)
      } else if (message.name !== undefined) {
        sent.stages.push(message)
        const { name, value, unit } = stageRow(message, mode, undefined)
        log(`  ${name} ${show(value)} ${unit}`)
      }
    })
    child.on('error', reject)
    child.on('close', (code, signal) => {
      clearTimeout(limit)
      const wrong = sent.checks.find(({ passed }) => !passed)
      const late = signal === 'SIGTERM' && mode.optional && !wrong
      sent.broken ||= wrong !== undefined || (sent.refused === undefined && code !== 0 && !late)
      if (wrong) sent.refused = `wrong answers: ${wrong.check}, ${wrong.detail}`
      else if (late) sent.refused = `more than ${optionalSeconds} s`
      else if (code !== 0) sent.refused ??= `the process ended with ${signal ?? code}`
      if (sent.refused !== undefined) log(`  stopped: ${sent.refused}`)
      resolve(sent)
    })
  })
}

/** Runs, questions and tokens of an answer for bench/scenes.mjs: within everything, there is time for one run. */
function sceneSizes() {
  if (options.quick) return [1, 4, 4]
  return [options.parts.length === 1 ? 3 : 1, 20, 32]
}

function scenes(model) {
  const [runs, questions, tokens] = sceneSizes()
  const { device: on, threads } = options
  const sizes = { model, device: on, threads, runs, questions, tokens }
  const args = Object.entries(sizes).flatMap(([name, value]) => [`--${name}`, String(value)])
  return runToFile(process.execPath, [path.join(here, 'scenes.mjs'), ...args])
}

const started = performance.now()
peaksNow()
const asked = []
let kernels = []
let trained = []
let seen = []
const needsModel = options.parts.some((part) => part === 'ask' || part === 'scenes')
const model = !needsModel ? null : path.resolve(options.model ?? (options.quick ? bundledModel : await standIn(log)))

if (options.parts.includes('kernels')) {
  log('Kernels')
  // The quick run takes one row that is soon done.
  const only = options.quick && !onGpu ? ['--only', 'vit_layer_norm'] : []
  const { rows, peaks: measured } = onGpu
    ? gpuCheck('--bench')
    : runToFile(programs.kernels, ['--threads', String(options.threads), ...only])
  kernels = rows
  peakRuns.push(measured)
}
if (options.parts.includes('train')) {
  log('Training')
  const only = options.quick ? ['--only', 'street_step_f32'] : []
  const { rows, peaks: measured } = runToFile(programs.train, ['--threads', String(options.threads), ...only])
  trained = rows
  peakRuns.push(measured)
}
const shared = []
if (options.parts.includes('ask')) {
  shared.push(await decodeStage(options.quick ? 3 : 9))
  for (const mode of modes.filter(({ name }) => wantedModes.includes(name))) {
    log(`Asking ${path.basename(model)}, ${mode.name}`)
    asked.push(await askMode(mode, model))
  }
}
if (options.parts.includes('scenes')) {
  log(`Scenes of ${path.basename(model)}`)
  seen = sceneRows(scenes(model))
}
if (options.parts.includes('serve')) {
  log('Serving')
  const sizes = options.quick ? ['--requests', '200', '--rounds', '16'] : []
  seen = serveRows(runToFile(process.execPath, [path.join(here, 'serve.mjs'), ...sizes]))
}
peaksNow()

// Rows of modes that were stopped: the stages that other modes have.
const peaks = peakRuns.length === 0 ? undefined : betterPeaks(peakRuns)
const units = new Map(asked.flatMap(({ stages }) => stages.map(({ name, unit }) => [name, unit])))
const askRows = asked.flatMap(({ mode, stages, refused }) => {
  const missing = [...units].filter(([name]) => !stages.some((stage) => stage.name === name))
  return [
    ...stages.map((stage) => stageRow(stage, mode, peaks)),
    ...missing.map(([name, unit]) => skippedRow(`${name}_${mode.name}`, unit, refused ?? 'not part of this run')),
  ]
})
const result = {
  device,
  model: model === null ? null : path.basename(model),
  quick: options.quick,
  peaks: peaks ?? null,
  peakRuns,
  warnings: warningsOf(device, peakRuns),
  checks: asked.flatMap(({ checks }) => checks),
  rows: [
    ...kernels.map((row) => nativeRow('kernel', row)),
    ...trained.map((row) => nativeRow('train', row)),
    ...shared.map((stage) => stageRow(stage, undefined, peaks)),
    ...askRows,
    ...seen,
  ],
  seconds: Math.round((performance.now() - started) / 100) / 10,
}

const { cpu, threads, tier, compiler, commit, node } = device
console.log(`${cpu}, ${threads} threads, ${tier}; compiler ${compiler}, Node ${node}, commit ${commit ?? 'unknown'}`)
if (peaks) {
  const { bf16_gflops: bf16, u8s8_gops: u8s8, f32_gflops: f32, read_gbs: read } = peaks
  console.log(
    `peaks: bf16 ${show(bf16)} GFLOP/s, u8*s8 ${show(u8s8)} GOP/s, f32 ${show(f32)} GFLOP/s, read ${show(read)} GB/s`,
  )
}
const cells = result.rows
  .filter(({ value }) => value !== null)
  .map((row) => {
    const range = row.p10 === undefined ? '' : `${show(row.p10)} .. ${show(row.p90)}`
    return [row.name, row.unit, show(row.value), show(row.floor), percent(row.share), range, show(row.cold)]
  })
console.log(`\n${table(['row', 'unit', 'median', 'floor', 'share', 'p10 .. p90', 'first run'], cells)}`)
for (const { mode, refused } of asked) if (refused !== undefined) console.log(`${mode.name} stopped: ${refused}`)
for (const warning of result.warnings) console.log(`warning: ${warning}`)
console.log(`${result.seconds} s`)
if (options.json !== undefined) writeFileSync(options.json, `${JSON.stringify(result, null, 2)}\n`)

let failed = asked.some(({ broken }) => broken) || result.rows.every(({ value }) => value === null)
if (old !== undefined) {
  console.log(`\n${comparisonText(old, result)}`)
  const slower = compareRows(old, result).filter(({ ratio }) => ratio < (options.failBelow ?? 0))
  for (const { name, ratio } of slower)
    console.log(`${name} is ${ratio.toFixed(3)} times as good as before, less than ${options.failBelow}`)
  failed ||= slower.length > 0
}
process.exitCode = failed ? 1 : 0

#!/usr/bin/env node
// This build, an older one and llama.cpp in turn on one machine in one sitting: every row that has a goal, as ratios. README.md says how.
//
//   node bench/side-by-side.mjs --old DIR [--peer DIR] --json FILE [--rounds 3] [--only GROUP,…] [--stages STAGE,…] [--threads N]
//        [--model DIR] [--model-4b DIR]
//
// What is done stands in FILE.rounds, a line a round of a group: the same command goes on behind what a killed one had done.
import { fork, spawnSync } from 'node:child_process'
import { appendFileSync, existsSync, linkSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { bundledModel } from '../dist/index.js'
import { packageRoot } from '../dist/native.js'
import { describeDevice } from './device.mjs'
import { filesOf, findPeer, timeFormat } from './peers/llama-cpp.mjs'
import { busySeconds, goalText, groups, ownSeconds, summarise } from './sides.mjs'
import { standIn } from './stand-in.mjs'
import { percent, show, table } from './statistics.mjs'

const here = path.dirname(fileURLToPath(import.meta.url))
const log = (text) => console.error(text)
/** Most of the processors that others may take during a turn of a round that counts, and how often a round is tried. */
const mostForeign = 0.3
const mostTries = 4

function readArguments() {
  const text = { type: 'string' }
  const { values } = parseArgs({
    options: {
      old: text,
      peer: text,
      json: text,
      rounds: text,
      only: text,
      stages: text,
      threads: text,
      model: text,
      'model-4b': text,
      'most-foreign': text,
      quick: { type: 'boolean' },
    },
  })
  if (values.old === undefined || values.json === undefined)
    throw new Error('Expected --old DIR, a checkout of an older commit that is built, and --json FILE.')
  for (const file of ['dist/index.js', 'build/Release/drivlm.node'])
    if (!existsSync(path.join(values.old, file)))
      throw new Error(
        `Expected ${path.join(values.old, file)}: build there first (npm run build:native && npx tsc -p .).`,
      )
  const whole = (name, otherwise) => {
    const value = Number(values[name] ?? otherwise)
    if (!Number.isInteger(value) || value < 1) throw new Error(`Expected --${name} to be an integer above 0.`)
    return value
  }
  const share = Number(values['most-foreign'] ?? mostForeign)
  if (!(share > 0)) throw new Error('Expected --most-foreign to be a number above 0.')
  const some = (option, known) => {
    const names = values[option]?.split(',') ?? known
    const unknown = names.find((name) => !known.includes(name))
    if (unknown !== undefined) throw new Error(`Expected --${option} out of ${known.join(', ')}, received ${unknown}.`)
    return names
  }
  const only = some(
    'only',
    groups.map(({ name }) => name),
  )
  const stages = some('stages', [...new Set(groups.flatMap((group) => group.stages))])
  return {
    ...values,
    share,
    wanted: groups
      .filter(({ name }) => only.includes(name))
      .map((group) => ({ ...group, stages: group.stages.filter((stage) => stages.includes(stage)) }))
      .filter((group) => group.stages.length > 0),
    rounds: whole('rounds', 3),
    threads: whole('threads', os.availableParallelism()),
  }
}

/** Nothing where the folder is no checkout of its own. */
function commitOf(dir) {
  const said = spawnSync('git', ['-C', dir, 'rev-parse', '--short=12', 'HEAD'], { encoding: 'utf8' })
  return existsSync(path.join(dir, '.git')) && said.status === 0 ? said.stdout.trim() : null
}

/** The model's files once more for one side, so that each build keeps its own cache of packed weights. */
function ownFolder(model, side) {
  const dir = `${path.resolve(model)}.${side}`
  mkdirSync(dir, { recursive: true })
  for (const name of readdirSync(model))
    if (!/\.cache/.test(name) && !existsSync(path.join(dir, name)))
      linkSync(path.join(model, name), path.join(dir, name))
  return dir
}

function runWorker(argument) {
  return new Promise((resolve, reject) => {
    const child = fork(path.join(here, 'side-worker.mjs'), [JSON.stringify(argument)], { cwd: argument.build })
    let said
    child.on('message', (message) => {
      said = message
    })
    child.on('error', reject)
    child.on('close', (code, signal) => {
      if (said?.rows !== undefined || said?.refused !== undefined) resolve(said)
      else reject(new Error(said?.failed ?? `${argument.build}: the process ended with ${signal ?? code}`))
    })
  })
}

/** Stages of a build. A load that wrote the cache, or found it on the disk, says that it must be done again; the fifth time it counts as it is. */
async function timeBuild(argument) {
  for (let tries = 1; ; tries++) {
    const said = await runWorker({ ...argument, cold: tries >= 5 })
    if (said.refused !== undefined) return { refused: said.refused }
    if (said.rows.again === undefined) return { rows: said.rows }
    if (said.rows.again === false) return { refused: 'this build keeps no cache of this format' }
  }
}

async function timePeer(setup, group) {
  const rows = {}
  for (const format of group.peer) {
    const lengths = (of) => of.filter(([stage]) => group.stages.includes(stage)).map(([, tokens]) => tokens)
    const options = {
      threads: setup.threads,
      runs: 1,
      prefills: lengths([['prefill_3328', 3328]]),
      contexts: lengths([
        ['decode_0', 0],
        ['decode_3500', 3500],
      ]),
    }
    const timed = await timeFormat(setup.peer, setup.peerFiles, format, options)
    setup.version = timed.version
    for (const { name, value, unit } of timed.rows) rows[`${name}_${format}`] = { value, unit }
  }
  return { rows }
}

/** One side of one round, and what part of the processors others took meanwhile. */
async function turn(setup, group, side) {
  const [started, busy, own] = [performance.now(), busySeconds(), ownSeconds()]
  const { name, stages, load } = group
  const model = group.model === '4b' ? setup.model4b : setup.folders[side]
  const build = setup.builds[side]
  const { threads, quick } = setup
  const result =
    side === 'peer' ? await timePeer(setup, group) : await timeBuild({ build, model, load, stages, threads, quick })
  const wall = (performance.now() - started) / 1000
  const foreign =
    busy === undefined ? null : Math.max(0, (busySeconds() - busy - (ownSeconds() - own)) / (wall * os.cpus().length))
  const values = Object.entries(result.rows ?? {}).map(([stage, { value, unit }]) => `${stage} ${show(value)} ${unit}`)
  log(
    `  ${side} ${name}: ${result.refused ?? values.join(', ')} (others took ${percent(foreign)}, ${Math.round(wall)} s)`,
  )
  return { ...result, foreign }
}

/** The turns of a round, in an order that moves on from round to round. */
async function roundOf(setup, group, round) {
  const sides = ['old', 'new', 'peer'].filter((side) =>
    side === 'peer' ? setup.peer !== undefined && group.peer.length > 0 : (group.only ?? side) === side,
  )
  const order = sides.map((_, i) => sides[(i + round) % sides.length])
  const [turns, refused] = [{}, {}]
  let foreign = 0
  for (const side of order) {
    const said = await turn(setup, group, side)
    foreign = Math.max(foreign, said.foreign ?? 0)
    if (said.refused !== undefined) refused[side] = said.refused
    else turns[side] = said.rows
  }
  return {
    group: group.name,
    round,
    turns,
    refused,
    foreign,
    kept: foreign <= setup.share,
    at: new Date().toISOString(),
  }
}

/** Models and peer's files, before anything is timed. */
async function prepare(options) {
  const setup = { ...options, builds: { old: path.resolve(options.old), new: packageRoot } }
  const model = options.quick ? bundledModel : path.resolve(options.model ?? (await standIn(log)))
  const cached = options.wanted.some(({ stages }) => stages.includes('load_cached'))
  setup.model = path.basename(model)
  const folder = (side) => (cached && !options.quick ? ownFolder(model, side) : model)
  setup.folders = { old: folder('old'), new: folder('new') }
  if (options.wanted.some((group) => group.model === '4b'))
    setup.model4b = options.quick ? bundledModel : path.resolve(options['model-4b'] ?? (await standIn(log, fourB)))
  setup.peer = undefined
  if (options.peer !== undefined) {
    setup.peer = findPeer(options.peer)
    const formats = options.wanted.flatMap(({ peer }) => peer)
    if (formats.length > 0) setup.peerFiles = await filesOf(setup.peer, model, formats)
  }
  return setup
}

/** Keys and values are to weights as in the 32 layers of the 4B; a prompt takes a quarter of its time. */
const fourB = { family: 'internvl2-4b', layers: 8 }

let options
let setup
try {
  options = readArguments()
  setup = await prepare(options)
} catch (error) {
  console.error(error.message)
  process.exit(2)
}
const journal = `${options.json}.rounds`
const device = describeDevice('cpu', options.threads)
// What a journal must agree with to be gone on with.
const sitting = JSON.stringify({ old: setup.builds.old, commit: device.commit, peer: options.peer, model: setup.model })
let done = []
if (existsSync(journal)) {
  const [head, ...lines] = readFileSync(journal, 'utf8').trimEnd().split('\n')
  if (head !== sitting) {
    console.error(`${journal} is of another sitting: ${head}. Remove it, or name another file.`)
    process.exit(2)
  }
  done = lines.map((line) => JSON.parse(line))
} else writeFileSync(journal, `${sitting}\n`)

for (let round = 0; round < options.rounds; round++) {
  for (const group of options.wanted) {
    const tries = () => done.filter((one) => one.group === group.name && one.round === round)
    while (!tries().some(({ kept }) => kept) && tries().length < mostTries) {
      log(`Round ${round + 1} of ${options.rounds}, ${group.name}`)
      const result = await roundOf(setup, group, round)
      result.version = setup.version
      if (!result.kept) log(`  dropped: others took ${percent(result.foreign)} of the processors`)
      appendFileSync(journal, `${JSON.stringify(result)}\n`)
      done.push(result)
    }
  }
}

const kept = done.filter((one) => one.kept)
const found = summarise(kept)
const result = {
  what: 'this build beside an older one and llama.cpp, in turn in one sitting',
  device,
  builds: { old: commitOf(setup.builds.old), new: device.commit },
  peer: done.find(({ version }) => version !== undefined)?.version ?? null,
  model: setup.model,
  mostForeign: options.share,
  rows: found,
  rounds: kept.map(({ version, kept: _, ...one }) => one),
  dropped: done.filter((one) => !one.kept).map(({ group, round, foreign, at }) => ({ group, round, foreign, at })),
}
writeFileSync(options.json, `${JSON.stringify(result, null, 2)}\n`)

const cells = found.map(({ row, unit, new: value, beside, ratio, ratios, goal, reached }) => [
  row,
  unit,
  show(value),
  `${show(beside.value)} (${beside.side})`,
  ratio === null ? '-' : `${ratio.toFixed(2)} x`,
  ratios.length < 2 ? '' : `${Math.min(...ratios).toFixed(2)} .. ${Math.max(...ratios).toFixed(2)}`,
  goalText(goal, unit),
  { true: 'yes', false: 'no' }[reached] ?? '',
])
console.log(table(['row', 'unit', 'new', 'beside', 'ratio', 'rounds', 'goal', 'reached'], cells))
for (const { group, round, foreign } of result.dropped)
  console.log(`dropped: round ${round + 1} of ${group}, others took ${percent(foreign)}`)

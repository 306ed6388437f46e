#!/usr/bin/env node
// Compares this package with reference outputs: `npm run golden -- DIR [DIR ...]`.
//
// A folder is known by the files in it (one checkpoint with golden.json, preprocess, canvas, tokenizer, prompts, drivelm, training, a street
// model with val/golden.json, logs with NAME.expected.json); any other folder is searched for such folders. Prints a table of stage, error and
// bound, names what could not be run and why, and exits with 1 if anything failed or nothing ran.
//
//   --precision f32|bf16   only this one (models; default both)
//   --device NAME          cpu (default), cuda, cuda:N
//   --every N              of street models, each N-th scene only
//   --failed               print only rows that failed
//   --errors               models only, in bf16 and without bounds: the error of every stage, and a table of them. Fails where a value is no number, or
//                          where a street model loses more than one point of accuracy
//   --weights FORMAT       with --errors: bf16 (default), int8, int4
//   --activations FORMAT   with --errors: bf16 (default), int8
//   --kv-cache FORMAT      with --errors: bf16 (default), int8

import { existsSync, readdirSync, statSync } from 'node:fs'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { runDrivelmGolden } from './golden/drivelm.mjs'
import { errorTable } from './golden/errors.mjs'
import { hasLogs, runLogsGolden } from './golden/logs.mjs'
import { runModelGolden, runStreetGolden } from './golden/models.mjs'
import { runCanvasGolden, runPreprocessGolden } from './golden/pictures.mjs'
import { runPromptsGolden, runTokenizerGolden } from './golden/text.mjs'
import { runTrainingGolden } from './golden/training.mjs'

const kinds = [
  { marks: ['golden.json', 'golden.safetensors', 'config.json'], run: runModelGolden },
  { marks: ['val/golden.json', 'config.json'], run: runStreetGolden },
  { marks: ['preprocess.json'], run: runPreprocessGolden },
  { marks: ['canvas.json'], run: runCanvasGolden },
  { marks: ['strings.json'], run: runTokenizerGolden },
  { marks: ['prompts.json'], run: runPromptsGolden },
  { marks: ['pairs_main.json'], run: runDrivelmGolden },
  { marks: ['labels.json', 'packing.json'], run: runTrainingGolden },
  { holds: hasLogs, run: runLogsGolden },
]

/** Golden folders at or below `dir`, with the runner of each. */
function findGoldens(dir, depth = 0) {
  const found = kinds.filter(({ marks, holds }) =>
    marks === undefined ? holds(dir) : marks.every((mark) => existsSync(path.join(dir, mark))),
  )
  if (found.length > 0) return found.map(({ run }) => ({ dir, run }))
  if (depth === 4) return []
  return readdirSync(dir, { withFileTypes: true })
    .filter((entry) => entry.isDirectory() && !entry.name.startsWith('.') && entry.name !== 'node_modules')
    .sort((a, b) => (a.name < b.name ? -1 : 1))
    .flatMap((entry) => findGoldens(path.join(dir, entry.name), depth + 1))
}

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    precision: { type: 'string' },
    device: { type: 'string', default: 'cpu' },
    every: { type: 'string', default: '1' },
    failed: { type: 'boolean', default: false },
    errors: { type: 'boolean', default: false },
    weights: { type: 'string' },
    activations: { type: 'string' },
    'kv-cache': { type: 'string' },
  },
})
if (positionals.length === 0) {
  console.error('Usage: npm run golden -- DIR [DIR ...]   with folders of reference outputs')
  process.exit(2)
}
if (!options.errors && ['weights', 'activations', 'kv-cache'].some((name) => options[name] !== undefined)) {
  console.error(
    'The goldens have bounds for bf16 and f32 only: --weights, --activations and --kv-cache go with --errors.',
  )
  process.exit(2)
}
if (options.errors && options.precision === 'f32') {
  console.error('--errors is of bf16 and the formats beside it; in f32 the goldens have bounds: leave --errors out.')
  process.exit(2)
}

/** A number of at most `digits` significant digits, or the text as it is. */
function show(value) {
  return typeof value === 'number'
    ? Number.isInteger(value)
      ? String(value)
      : value.toPrecision(3)
    : String(value ?? '')
}

let passed = 0
let failed = 0
const notRun = []
const allRows = []
for (const argument of positionals) {
  const dir = path.resolve(argument)
  if (!existsSync(dir) || !statSync(dir).isDirectory()) {
    console.error(`${argument}: not a folder`)
    failed += 1
    continue
  }
  const models = [runModelGolden, runStreetGolden]
  const goldens = findGoldens(dir).filter(({ run }) => !options.errors || models.includes(run))
  if (goldens.length === 0) notRun.push(`${argument}: no golden folder in it`)
  for (const golden of goldens) {
    const label = path.relative(path.dirname(dir), golden.dir)
    console.log(`\n${label}`)
    const started = performance.now()
    let rows
    try {
      rows = await golden.run(golden.dir, options)
    } catch (error) {
      rows = [
        {
          name: path.basename(golden.dir),
          stage: 'run',
          error: `${error.code ?? error.name}: ${error.message}`,
          ok: false,
        },
      ]
    }
    for (const row of rows) {
      if (row.skipped) {
        notRun.push(`${label} ${row.name} ${row.stage ?? ''}: ${row.skipped}`)
        continue
      }
      allRows.push(row)
      if (row.ok) passed += 1
      else failed += 1
      if (!row.ok || !options.failed) {
        console.log(
          `  ${row.ok ? 'ok  ' : 'FAIL'} ${String(row.name).padEnd(22)} ${String(row.stage).padEnd(30)} ${show(row.error).padStart(12)}  bound ${show(row.bound)}`,
        )
      }
    }
    console.log(`  ${((performance.now() - started) / 1000).toFixed(1)} s`)
  }
}
if (options.errors) console.log(`\n${errorTable(allRows)}`)
if (notRun.length > 0) {
  console.log('\nNot run:')
  for (const line of notRun) console.log(`  ${line}`)
}
if (passed + failed === 0) {
  console.error('\nNothing was compared.')
  failed = 1
}
console.log(`\n${passed} passed, ${failed} failed`)
process.exit(failed > 0 ? 1 : 0)

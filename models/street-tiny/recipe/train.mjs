#!/usr/bin/env node
// npm run street:train: trains street-tiny on, by `drivlm adapt` alone, as recipe.json says.
//
//   node models/street-tiny/recipe/train.mjs [--out DIR] [--first N] [--last N] [--start DIR] [--threads N] [--validate N]
//
// Sitting N goes on from the result of sitting N - 1, which is DIR/sitting-<N - 1>; the first one from --start. One that is done is passed over,
// one that was stopped goes on, so the same command is right at any time. Drawn moments of a sitting are removed when it is done.

import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { mkdir, readFile, rename, rm } from 'node:fs/promises'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { drawSitting } from './draw.mjs'

const here = path.dirname(fileURLToPath(import.meta.url))
const root = path.resolve(here, '../../..')
const recipe = JSON.parse(await readFile(path.join(here, 'recipe.json'), 'utf8'))
const { values } = parseArgs({
  options: {
    out: { type: 'string', default: path.join(root, '.cache', 'street-train') },
    start: { type: 'string', default: path.resolve(here, '..') },
    first: { type: 'string', default: '1' },
    last: { type: 'string', default: String(recipe.sittings.length) },
    threads: { type: 'string', default: '2' },
    validate: { type: 'string', default: '500' },
  },
})
const out = path.resolve(values.out)

/** One command of the package; ends this program if it fails. What would end this program ends the command, which saves. */
async function drivlm(...args) {
  const child = spawn(process.execPath, [path.join(root, 'dist', 'cli', 'main.js'), ...args.map(String)], {
    stdio: ['ignore', 'inherit', 'inherit'],
  })
  const wait = () => undefined // a terminal sends it to the command too
  const pass = () => child.kill('SIGTERM')
  process.on('SIGINT', wait).on('SIGTERM', pass)
  const [status] = await new Promise((resolve) => child.on('exit', (...found) => resolve(found)))
  process.off('SIGINT', wait).off('SIGTERM', pass)
  if (status !== 0) process.exit(status ?? 1)
}

/** A folder that is whole or not there. */
async function once(folder, make) {
  if (existsSync(folder)) return
  const partial = `${folder}.partial`
  await rm(partial, { recursive: true, force: true })
  await make(partial)
  await rename(partial, folder)
}

const weights = await readFile(path.join(values.start, 'model.safetensors'))
const found = createHash('sha256').update(weights).digest('hex')
if (found !== recipe.start) {
  console.error(
    `${values.start}: the recipe starts from the weights ${recipe.start}, these are ${found}; name a folder of them with --start.`,
  )
  process.exit(1)
}
await mkdir(out, { recursive: true })
const { choice, training, sittings } = recipe
const choiceFolder = path.join(out, 'choice')
await once(choiceFolder, (to) =>
  drivlm('street', '--out', to, '--seed', choice.seed, '--scenes', choice.moments, '--questions', choice.questions),
)
for (let n = Number(values.first); n <= Number(values.last); n++) {
  const sitting = sittings[n - 1]
  const start = n === 1 ? values.start : path.join(out, `sitting-${n - 1}`)
  const result = path.join(out, `sitting-${n}`)
  if (existsSync(path.join(result, 'adapt.json'))) continue
  const data = path.join(out, `data-${n}`)
  const parts = [sitting.data].flat().map((part, i) => ({ part, folder: `${data}-${i + 1}` }))
  for (const { part, folder } of parts)
    await once(folder, async (to) => console.log(`Sitting ${n}: ${JSON.stringify(await drawSitting(to, part))}`))
  const flags = Object.entries({ ...training, ...sitting.training }).flatMap(([key, value]) => [`--${key}`, value])
  await drivlm(
    ...['adapt', '--model', start, '--out', result, '--check', 'headers', '--threads', values.threads, ...flags],
    ...parts
      .flatMap(({ folder }) => ['moments.jsonl', 'practice.jsonl'].map((name) => path.join(folder, name)))
      .flatMap((file) => (existsSync(file) ? ['--data', file] : [])),
    ...['--validate', path.join(choiceFolder, 'drivelm.json'), '--validate-every', values.validate],
  )
  for (const { folder } of parts) await rm(folder, { recursive: true })
}

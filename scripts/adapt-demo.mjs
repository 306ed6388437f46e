#!/usr/bin/env node
// npm run adapt:demo: adapts the bundled model to a drawn domain that it does not know, night with traffic on the left, and prints how many
// answers are right before and after: of that domain, and of the one it came from, of which a share is trained along.
// The report has a moment with the answers of both. Data, model and report go to .cache/adapt-demo/, or to the folder that is given; earlier ones
// there are replaced.

import { spawnSync } from 'node:child_process'
import { mkdirSync, readFileSync, rmSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..')
const out = path.resolve(process.argv[2] ?? path.join(root, '.cache', 'adapt-demo'))
const started = performance.now()

function drivlm(...args) {
  const { status, error } = spawnSync(process.execPath, [path.join(root, 'dist', 'cli', 'main.js'), ...args], {
    stdio: ['ignore', 'inherit', 'inherit'],
  })
  if (error) throw error
  if (status !== 0) process.exit(status ?? 1)
}

/** Moments that no other part of the demo has: each its own seeds. */
function draw(name, domain, scenes, seed) {
  const folder = path.join(out, name)
  drivlm('street', '--out', folder, '--domain', domain, '--scenes', scenes, '--seed', seed, '--questions', '16')
  return path.join(folder, 'drivelm.json')
}

rmSync(out, { recursive: true, force: true })
mkdirSync(out, { recursive: true })
const night = draw('night', 'night-left', '80', '100000')
const nightHeldOut = draw('night-held-out', 'night-left', '12', '200000')
const day = draw('day', 'day-city', '40', '300000')
const dayHeldOut = draw('day-held-out', 'day-city', '12', '400000')

const adapted = path.join(out, 'adapted')
const data = ['--data', night, '--general', day, '--general-ratio', '0.5', '--passes', '2']
const packs = ['--packs-per-step', '1', '--max-pack-tiles', '12', '--learning-rate', '4e-4', '--weight-decay', '0']
const validation = ['--validate', nightHeldOut, '--validate-general', dayHeldOut, '--validate-every', '100000']
drivlm('adapt', '-m', path.join(root, 'models', 'street-tiny'), '--out', adapted, ...data, ...packs, ...validation)

const scores = readFileSync(path.join(`${adapted}.run`, 'validations.jsonl'), 'utf8')
  .trim()
  .split('\n')
  .map((line) => JSON.parse(line))
const percent = ({ exact }) => `${(100 * exact).toFixed(1)} %`.padStart(9)
const row = (name, set) => {
  const own = scores.filter((score) => score.set === set)
  return `${name.padEnd(36)}${percent(own[0])}${percent(own.at(-1))}`
}
console.log(`\n${'right answers'.padEnd(36)}   before    after`)
console.log(row('night, traffic on the left (domain)', 'domain'))
console.log(row('day in the city (general)', 'general'))
console.log(`\nDone in ${((performance.now() - started) / 1000).toFixed(0)} s. The run: ${adapted}.run/report.html`)

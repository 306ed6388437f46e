#!/usr/bin/env node
// npm run eval:demo: evaluates the bundled model on its bundled moments and, in a checkout, on street-tiny's whole validation set.
// Answers and reports go to .cache/eval-demo/, or to the folder that is given; earlier ones there are replaced.

import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..')
const out = path.resolve(process.argv[2] ?? path.join(root, '.cache', 'eval-demo'))
const model = path.join(root, 'models', 'street-tiny')
const moments = path.join(model, 'moments')
const validation = path.join(root, 'test', 'fixtures', 'street-tiny-val')
const started = performance.now()

function evaluate(name, data, images) {
  const folder = path.join(out, name)
  rmSync(folder, { recursive: true, force: true })
  const cli = path.join(root, 'dist', 'cli', 'main.js')
  const flags = ['--data', data, '--images', images, '--model', model, '--out', path.relative('', folder)]
  const { status, error } = spawnSync(process.execPath, [cli, 'eval', ...flags], { stdio: 'inherit' })
  if (error) throw error
  if (status !== 0) process.exit(status ?? 1)
}

// The moments as a question set of the plain form: a question a line.
mkdirSync(out, { recursive: true })
const questions = path.join(out, 'moments.jsonl')
const lines = JSON.parse(readFileSync(path.join(moments, 'moments.json'), 'utf8')).moments.flatMap((moment) => {
  const pictures = readdirSync(path.join(moments, moment.folder)).filter((name) => /^CAM_\w+\.png$/.test(name))
  const views = Object.fromEntries(pictures.map((name) => [path.parse(name).name, `${moment.folder}/${name}`]))
  return moment.questions.map(({ type, question, truth }, i) =>
    JSON.stringify({ id: `${moment.folder}_${i}`, views, question, answer: truth, kind: type }),
  )
})
writeFileSync(questions, `${lines.join('\n')}\n`)
evaluate('moments', questions, moments)

const val = path.join(validation, 'val.json')
if (existsSync(val)) {
  console.log()
  evaluate('val', val, validation)
}
console.log(`\nDone in ${((performance.now() - started) / 1000).toFixed(1)} s.`)

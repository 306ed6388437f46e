#!/usr/bin/env node
// npm run street:evaluate: how often a model is right about drawn moments that no sitting has, by kind of question, and how much of it can be said blind.
//
//   node models/street-tiny/recipe/evaluate.mjs [--model DIR] [--seed 910000000] [--scenes 150] [--questions 16] [--weights int8] [--out DIR]
//
// `grey`: the same model is shown even grey in place of the pictures. `guess`: the most frequent answer to the same text, or to the same kind,
// among the questions of ten times as many other moments; of boxes the median of each side. A box is right from an overlap (IoU) of 0.5 on.

import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { copyFile, mkdir, readFile, rm } from 'node:fs/promises'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { drawScene, loadDomain } from 'drivlm/street'
import sharp from 'sharp'

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../../..')
const { values } = parseArgs({
  options: {
    model: { type: 'string', default: path.join(root, 'models', 'street-tiny') },
    seed: { type: 'string', default: '910000000' },
    scenes: { type: 'string', default: '150' },
    questions: { type: 'string', default: '16' },
    weights: { type: 'string', default: 'bf16' },
    threads: { type: 'string', default: '2' },
    out: { type: 'string', default: path.join(root, '.cache', 'street-evaluate') },
  },
})
const out = path.resolve(values.out)
const scenes = Number(values.scenes)
const seed = Number(values.seed)
const guessSeed = 800_000_000
const boxAt = /\[\[(\d+),(\d+),(\d+),(\d+)\]\]/

async function drivlm(...args) {
  const child = spawn(process.execPath, [path.join(root, 'dist', 'cli', 'main.js'), ...args], {
    stdio: ['ignore', 'ignore', 'inherit'],
  })
  const [status] = await new Promise((resolve) => child.on('exit', (...found) => resolve(found)))
  if (status !== 0) process.exit(status ?? 1)
}

/** Shares of right answers by kind: exact ones, of boxes those that overlap enough. */
async function ask(name, images) {
  const run = path.join(out, name)
  await rm(run, { recursive: true, force: true })
  const flags = ['--weights', values.weights, '--threads', values.threads]
  await drivlm('eval', '--model', values.model, '--data', file, '--images', images, '--out', run, ...flags)
  const { byKind } = JSON.parse(await readFile(path.join(run, 'report.json'), 'utf8'))
  return new Map(byKind.map((kind) => [kind.name, kind.name === 'locate' ? kind.lenient.value : kind.exact.value]))
}

function median(numbers) {
  return numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)]
}

function overlap(a, b) {
  const area = ([x0, y0, x1, y1]) => Math.max(0, x1 - x0) * Math.max(0, y1 - y0)
  const both = area([Math.max(a[0], b[0]), Math.max(a[1], b[1]), Math.min(a[2], b[2]), Math.min(a[3], b[3])])
  return both / (area(a) + area(b) - both)
}

/** The best answer without a look, as learned from other moments. */
async function guesser() {
  const domain = await loadDomain('day-city')
  const lists = new Map()
  const put = (key, answer) => {
    if (!lists.has(key)) lists.set(key, [])
    lists.get(key).push(answer)
  }
  for (let i = 0; i < 10 * scenes; i++) {
    for (const { type, question, answer } of drawScene(guessSeed + i, domain, { questions: 16 }).questions) {
      put(`${type} ${question}`, answer)
      put(type, answer)
    }
  }
  const best = (answers) => {
    if (boxAt.test(answers[0])) {
      const boxes = answers.map((answer) => boxAt.exec(answer).slice(1).map(Number))
      return `[[${[0, 1, 2, 3].map((side) => median(boxes.map((box) => box[side])))}]]`
    }
    const counts = new Map()
    for (const answer of answers) counts.set(answer, (counts.get(answer) ?? 0) + 1)
    return [...counts].sort((a, b) => b[1] - a[1])[0][0]
  }
  const known = new Map([...lists].map(([key, answers]) => [key, best(answers)]))
  return ({ tag, Q }) => known.get(`${tag} ${Q}`) ?? known.get(tag)
}

const drawn = path.join(out, `drawn-${seed}-${scenes}-${values.questions}`)
const file = path.join(drawn, 'drivelm.json')
await mkdir(out, { recursive: true })
if (!existsSync(drawn))
  await drivlm(
    'street',
    '--out',
    drawn,
    '--seed',
    values.seed,
    '--scenes',
    values.scenes,
    '--questions',
    values.questions,
  )

const questions = []
const grey = path.join(out, 'grey')
await rm(grey, { recursive: true, force: true })
await mkdir(grey)
const picture = path.join(out, 'grey.png')
const even = { width: 112, height: 112, channels: 3, background: { r: 124, g: 124, b: 124 } }
await sharp({ create: even }).png().toFile(picture)
for (const { key_frames } of Object.values(JSON.parse(await readFile(file, 'utf8')))) {
  for (const { QA, image_paths } of Object.values(key_frames)) {
    questions.push(...Object.values(QA).flat())
    for (const name of Object.values(image_paths)) {
      await mkdir(path.join(grey, path.dirname(name)), { recursive: true })
      await copyFile(picture, path.join(grey, name))
    }
  }
}

const seen = await ask('seen', drawn)
const unseen = await ask('unseen', grey)
const guess = await guesser()
const guessed = new Map()
for (const question of questions) {
  const said = guess(question)
  const { tag, A } = question
  const [wanted, found] = [boxAt.exec(A), boxAt.exec(said)].map((match) => match?.slice(1).map(Number))
  const right = tag === 'locate' ? overlap(found, wanted) >= 0.5 : said === A
  const list = guessed.get(tag) ?? []
  list.push(right ? 1 : 0)
  guessed.set(tag, list)
}

const mean = (numbers) => numbers.reduce((sum, number) => sum + number, 0) / numbers.length
const percent = (share) => `${(100 * share).toFixed(1)} %`
const kinds = [...guessed.keys()].sort((a, b) => seen.get(b) - seen.get(a))
const row = (name, of, count) =>
  console.log(
    `| ${name} | ${[seen, unseen, new Map([...guessed].map(([k, v]) => [k, mean(v)]))].map(of).map(percent).join(' | ')} | ${count} |`,
  )
console.log(`\n| kind | right | grey | guess | questions |\n|---|---|---|---|---|`)
for (const kind of kinds) row(`\`${kind}\``, (shares) => shares.get(kind), guessed.get(kind).length)
row('mean of all kinds', (shares) => mean(kinds.map((kind) => shares.get(kind))), questions.length)
const asked = kinds.filter((kind) => kind !== 'locate')
const others = questions.filter(({ tag }) => tag !== 'locate').length
row('mean without `locate`', (shares) => mean(asked.map((kind) => shares.get(kind))), others)

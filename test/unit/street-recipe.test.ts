/** The recipe that street-tiny is trained on with: its seeds are its own, and `adapt` takes what it draws. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { afterAll, expect, test } from 'vitest'
import { openTrainingData } from '../../lib/train/index.ts'
import { streetTiny } from './street-tiny.ts'

interface Drawn {
  seed: number
  moments: number
  practice?: number
}

const folder = join(streetTiny, 'recipe')
const { sittings, choice } = JSON.parse(readFileSync(join(folder, 'recipe.json'), 'utf8')) as {
  sittings: { data: Drawn | Drawn[] }[]
  choice: Drawn
}
const drawn = sittings.flatMap(({ data }) => data)
const { drawSitting } = (await import(pathToFileURL(join(folder, 'draw.mjs')).href)) as {
  drawSitting: (out: string, data: object) => Promise<Record<string, number>>
}
const dir = mkdtempSync(join(tmpdir(), 'drivlm-recipe-'))
afterAll(() => rmSync(dir, { recursive: true, force: true }))

test('no moment is drawn twice, and none of those that are kept for choices, tests and demos', () => {
  const kept = [
    { seed: 100_000, moments: 400_000 }, // adapt:demo
    { seed: 800_000_000, moments: 10_000_000 }, // what evaluate.mjs learns to guess from
    { seed: 900_000_000, moments: 10_000_000 }, // the validation set
    { seed: 910_000_000, moments: 10_000_000 }, // tests
    choice,
    { seed: 921_000_000, moments: 500 }, // the wide choice set
  ]
  const ranges = [...kept, ...drawn].sort((a, b) => a.seed - b.seed)
  for (const [i, { seed, moments }] of ranges.slice(0, -1).entries())
    expect(seed + moments).toBeLessThanOrEqual(ranges[i + 1]!.seed)
})

test('sittings are read whole: questions of moments, and text alone', async () => {
  for (const [n, data] of drawn.entries()) {
    const out = join(dir, String(n))
    const { practice = 0, ...counts } = await drawSitting(out, { ...data, moments: 2 })
    expect(practice).toBe(2 * (data.practice ?? 0))
    const files = [join(out, 'moments.jsonl'), ...(practice > 0 ? [join(out, 'practice.jsonl')] : [])]
    const opened = await openTrainingData(streetTiny, { data: files, packsPerStep: 1, maxPackTiles: 6 })
    const asked = Object.values(counts).reduce((sum, count) => sum + count, 0)
    expect(opened.surveys.map(({ used, leftOut }) => [used, leftOut])).toEqual([
      [asked, {}],
      ...(practice > 0 ? [[practice, {}]] : []),
    ])
    expect(opened.bounds.tiles).toBe(6)
    await opened.close()
  }
})

test('practice says what is true: letters of colours, and places of boxes', async () => {
  const out = join(dir, 'forms')
  const data = { seed: 1, moments: 8, questions: 60, shares: {}, most: { colour: 9, locate: 9 } }
  await drawSitting(out, { ...data, forms: { letters: 2, named: 2, places: 6 } })
  const lines = readFileSync(join(out, 'moments.jsonl'), 'utf8').trim().split('\n')
  const asked = lines.map((line) => JSON.parse(line) as { id: string; question: string; answer: string })
  const known = new Map(asked.map(({ id, question, answer }) => [`${id.split('_')[0]} ${question}`, answer]))
  const checked = { letters: 0, named: 0, places: 0 }
  for (const { id, question, answer } of asked) {
    const moment = id.split('_')[0]
    for (const [, kind, where, letter] of answer.matchAll(/The (\w+) ([^.]*?) is ([A-D])\./g)) {
      const colour = known.get(`${moment} What is the colour of the ${kind} ${where}?`)
      if (!colour) continue
      expect(question).toContain(`${letter}. ${colour}`)
      checked.letters++
    }
    for (const [, colour, letter] of answer.matchAll(/ is (\w+), ([A-D])\./g)) {
      expect(question.toLowerCase()).toContain(`${letter!.toLowerCase()}. ${colour}.`)
      checked.named++
    }
    const where = /^Where are objects (.*)\?$/.exec(question)?.[1]
    for (const [, kind, ...place] of answer.matchAll(/(?:^| )([a-z ]+) (\d+),(\d+),(\d+),(\d+)\./g)) {
      const box = /\[\[(.*)\]\]/.exec(known.get(`${moment} Where is the ${kind} ${where}?`) ?? '')?.[1]?.split(',')
      if (!box) continue
      for (const [i, side] of box.entries())
        expect(Math.abs(Number(side) / 10 - Number(place[i]))).toBeLessThanOrEqual(1)
      checked.places++
    }
  }
  for (const count of Object.values(checked)) expect(count).toBeGreaterThan(3)
})

test('practice says what is true: which way somebody walks, who crosses if that is towards the lane ahead', async () => {
  const out = join(dir, 'ways')
  await drawSitting(out, {
    seed: 5,
    moments: 40,
    people: true,
    questions: 60,
    shares: { cross: 20 },
    most: { cross: 9 },
    forms: { way: 6 },
  })
  const lines = readFileSync(join(out, 'moments.jsonl'), 'utf8').trim().split('\n')
  const asked = lines.map((line) => JSON.parse(line) as { id: string; question: string; answer: string })
  const viewOf = (id: string, text: string) => {
    const side = /FRONT_(LEFT|RIGHT)|front (left|right)/.exec(text)
    return side && `${id.split('_')[0]} ${(side[1] ?? side[2])!.toUpperCase()}`
  }
  const ways = new Map<string, string>()
  for (const { id, question, answer } of asked) {
    const view = question.startsWith('Which way is the pedestrian') && viewOf(id, question)
    if (view) ways.set(view, answer)
  }
  let checked = 0
  for (const { id, question, answer } of asked) {
    const view = / cross /.test(question) && viewOf(id, question)
    const way = view && ways.get(view)
    if (!way) continue
    expect(answer, question).toBe(way === (view.endsWith('LEFT') ? 'RIGHT' : 'LEFT') ? 'Yes.' : 'No.')
    checked++
  }
  expect(checked).toBeGreaterThan(20)
  expect(new Set(ways.values()).size).toBe(3)
})

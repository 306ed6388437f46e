/** The recipe that street-tiny is trained on with: its seeds are its own, and `adapt` takes what it draws. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { afterAll, expect, test } from 'vitest'
import { openTrainingData } from '../../lib/train/index.ts'
import { streetTiny } from './street-tiny.ts'

interface Sitting {
  data: { seed: number; moments: number; practice: number }
}

const folder = join(streetTiny, 'recipe')
const { sittings, choice } = JSON.parse(readFileSync(join(folder, 'recipe.json'), 'utf8')) as {
  sittings: Sitting[]
  choice: { seed: number; moments: number }
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
  ]
  const ranges = [...kept, ...sittings.map(({ data }) => data)].sort((a, b) => a.seed - b.seed)
  for (const [i, { seed, moments }] of ranges.slice(0, -1).entries())
    expect(seed + moments).toBeLessThanOrEqual(ranges[i + 1]!.seed)
})

test('sittings are read whole: questions of moments, and text alone', async () => {
  const { drawSitting } = (await import(pathToFileURL(join(folder, 'draw.mjs')).href)) as {
    drawSitting: (out: string, data: object) => Promise<Record<string, number>>
  }
  for (const [n, { data }] of [sittings[0]!, sittings.at(-1)!].entries()) {
    const out = join(dir, String(n))
    const counts = await drawSitting(out, { ...data, moments: 2 })
    expect(counts.practice).toBe(2 * data.practice)
    const files = ['moments.jsonl', 'practice.jsonl'].map((name) => join(out, name))
    const opened = await openTrainingData(streetTiny, { data: files, packsPerStep: 1, maxPackTiles: 6 })
    const asked = Object.values(counts).reduce((sum, count) => sum + count, 0)
    expect(opened.surveys.map(({ used, leftOut }) => [used, leftOut])).toEqual([
      [asked - counts.practice!, {}],
      [counts.practice, {}],
    ])
    expect(opened.bounds.tiles).toBe(6)
    await opened.close()
  }
})

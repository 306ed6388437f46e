import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { compareRows, comparisonText } from '../../bench/compare.mjs'
import { decodeCost, firstTokenCost, floorSeconds, prefillCost, visionCost } from '../../bench/floors.mjs'
import { modes } from '../../bench/modes.mjs'
import { betterPeaks } from '../../bench/peaks.mjs'
import { sceneRows, stageRow } from '../../bench/rows.mjs'
import { quantile } from '../../bench/statistics.mjs'
import { packageRoot } from '../../lib/native.ts'

// InternVL2-1B, and peaks of a machine whose floors were worked out by hand.
const network = {
  vision: { dim: 1024, ffnDim: 4096, patchSize: 14, tileSize: 448, outputLayer: 24 },
  language: { dim: 896, ffnDim: 4864, layers: 24, heads: 14, kvHeads: 2, headDim: 64, vocab: 151655 },
}
const peaks = { bf16_gflops: 955, u8s8_gops: 1930, f32_gflops: 480, read_gbs: 46 }
const mode = (name: string) => modes.find((one) => one.name === name)!

describe('floors', () => {
  it.each([
    ['bf16', 0.76],
    ['int8', 0.43],
  ])('of a tile, %s', (name, seconds) => {
    expect(floorSeconds(visionCost(network, 1, mode(name)), mode(name), peaks)).toBeCloseTo(seconds, 2)
  })

  it.each([
    ['bf16', 512, 1346],
    ['bf16', 3328, 1157],
    ['int8', 3328, 1999],
  ])('of a prompt, %s, %i tokens', (name, tokens, rate) => {
    const seconds = floorSeconds(prefillCost(network, tokens, mode(name)), mode(name), peaks)
    expect(Math.abs(tokens / seconds / rate - 1)).toBeLessThan(0.01)
  })

  it.each([
    ['bf16', 45],
    ['int8', 86],
    ['int4', 122],
  ])('of decoding after 3500 tokens, %s', (name, rate) => {
    const seconds = floorSeconds(decodeCost(network, 3500, mode(name)), mode(name), peaks)
    expect(Math.abs(1 / seconds / rate - 1)).toBeLessThan(0.015)
  })

  it.each([
    ['bf16', 12.76],
    ['int8', 7.26],
  ])('of the first token after 13 tiles, %s', (name, seconds) => {
    const cost = firstTokenCost(network, 13, 3328, mode(name))
    expect(Math.abs(floorSeconds(cost, mode(name), peaks) - seconds)).toBeLessThan(0.05)
  })

  it('of a prompt after another is what the longer prompt takes more', () => {
    const cost = (tokens: number, past: number) => prefillCost(network, tokens, mode('bf16'), { past, head: false })
    expect(cost(300, 0).attention + cost(212, 300).attention).toBe(cost(512, 0).attention)
    expect(cost(300, 0).linear + cost(212, 300).linear).toBe(cost(512, 0).linear)
  })
})

it('the tables of floors by card in docs/kernels.md are what the script computes', () => {
  const printed = execFileSync(process.execPath, ['scripts/gpu-floors.mjs'], { cwd: packageRoot, encoding: 'utf8' })
  const tables = printed.trimEnd().split('\n\n')
  const page = readFileSync(path.join(packageRoot, 'docs/kernels.md'), 'utf8')
  expect(tables).toHaveLength(2)
  for (const table of tables) expect(page).toContain(`\n${table}\n\n`)
})

describe('rows', () => {
  const cost = { linear: 955e9, attention: 0, bytes: 0 }

  it('have the median of the warm runs, the first apart', () => {
    const row = stageRow({ name: 'vit_tile', unit: 's', per: 1, cost, seconds: [9, 2, 1, 4] }, mode('bf16'), peaks)
    expect(row).toMatchObject({ name: 'vit_tile_bf16', value: 2, unit: 's', floor: 1, share: 0.5, runs: 3, cold: 9 })
  })

  it('turn times into rates', () => {
    const stage = { name: 'prefill_512', unit: 'tok/s', per: 512, cost, seconds: [4, 2] }
    expect(stageRow(stage, mode('bf16'), peaks)).toMatchObject({ value: 256, floor: 512, share: 0.5, cold: 128 })
  })

  it('of scenes are named after what was measured', () => {
    const scenes = { medianMs: { oneByOne: 5 }, lateMs: { p99: 0 }, guesses: [{ speculate: 4, ms: 2 }] }
    expect(sceneRows(scenes).map(({ name, value, unit }) => [name, value, unit])).toEqual([
      ['scene_one_by_one', 5, 'ms'],
      ['scene_token_guessing_4', 2, 'ms'],
    ])
  })

  it('without peaks have no floor', () => {
    const stage = { name: 'load', unit: 's', per: 1, cost, seconds: [1] }
    expect(stageRow(stage, mode('bf16'), undefined)).toMatchObject({ value: 1, floor: null, share: null })
  })

  it('are held against the peaks measured around them', () => {
    const stage = { name: 'vit_tile', unit: 's', per: 1, cost, seconds: [2], peaks: { ...peaks, bf16_gflops: 955 / 2 } }
    expect(stageRow(stage, mode('bf16'), peaks)).toMatchObject({ floor: 2, share: 1 })
    expect(betterPeaks([peaks, { ...peaks, bf16_gflops: 900, read_gbs: 50 }])).toEqual({ ...peaks, read_gbs: 50 })
  })

  it('have no floor where the peak they need is not known', () => {
    const card = { bf16_gflops: 955, read_gbs: 46 }
    const stage = { name: 'vit_tile', unit: 's', per: 1, cost, seconds: [2] }
    expect(stageRow(stage, mode('bf16'), card)).toMatchObject({ floor: 1, share: 0.5 })
    expect(stageRow(stage, mode('int8'), card)).toMatchObject({ value: 2, floor: null, share: null })
  })
})

it('interpolates quantiles', () => {
  expect([0, 0.5, 0.9, 1].map((part) => quantile([3, 1, 2], part))).toEqual([1, 2, 2.8, 3])
})

it('compares: above 1 is better, for times and for rates', () => {
  const result = (vit: number, decode: number | null) => ({
    device: { cpu: 'x' },
    rows: [
      { name: 'vit', value: vit, unit: 's', share: 0.5 },
      { name: 'decode', value: decode, unit: 'tok/s', share: null },
    ],
  })
  const ratios = (rows: { name: string; ratio: number }[]) => rows.map(({ name, ratio }) => [name, ratio])
  expect(ratios(compareRows(result(2, 10), result(1, 5)))).toEqual([
    ['vit', 2],
    ['decode', 0.5],
  ])
  expect(ratios(compareRows(result(2, 10), result(1, null)))).toEqual([['vit', 2]])
  expect(comparisonText(result(2, 10), result(1, null))).toMatch(/2\.000x[\s\S]*without a value now: decode/)
})

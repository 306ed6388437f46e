// `npm run bench -- --quick` on the bundled model: that it works and what it writes, not how fast this machine is.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { type Ran, run } from './run.ts'

interface Row {
  name: string
  value: number | null
  unit: string
  floor: number | null
  share: number | null
  skipped?: string
}

const folder = mkdtempSync(path.join(os.tmpdir(), 'drivlm-bench-test-'))
const file = path.join(folder, 'result.json')
const bench = (...args: string[]) => run(['bench/main.mjs', '--quick', ...args])
let first: Ran
let result: { device: Record<string, unknown>; peaks: Record<string, number>; rows: Row[]; checks: unknown[] }

beforeAll(async () => {
  first = await bench('--json', file)
  expect(first.code, first.stderr).toBe(0)
  result = JSON.parse(readFileSync(file, 'utf8'))
}, 600_000)

afterAll(() => rmSync(folder, { recursive: true, force: true }))

it('measures the peaks', () => {
  expect(Object.keys(result.peaks)).toEqual(['bf16_gflops', 'u8s8_gops', 'f32_gflops', 'read_gbs'])
  for (const value of Object.values(result.peaks)) expect(value).toBeGreaterThan(0)
})

it('names the machine', () => {
  expect(result.device).toMatchObject({ device: 'cpu', cpu: expect.any(String), tier: expect.any(String) })
  expect(first.stdout).toContain(result.device.cpu)
})

it('checks answers before it times', () => {
  expect(result.checks).toContainEqual(
    expect.objectContaining({ mode: 'bf16', check: 'street-tiny answers', passed: true }),
  )
  expect(result.checks).toContainEqual(expect.objectContaining({ check: 'decoding as prefill', passed: true }))
})

it('has the rows that are asked for, each with a value or a reason', () => {
  const stages = ['vit_tile', 'prefill_512', 'prefill_3328', 'decode_3500', 'first_token_13_tiles']
  const names = stages.flatMap((stage) => ['bf16', 'int8', 'int4'].map((mode) => `${stage}_${mode}`))
  expect(result.rows.map(({ name }) => name)).toEqual(expect.arrayContaining(names))
  for (const { name, value, unit, floor, share, skipped } of result.rows) {
    expect(typeof unit, name).toBe('string')
    if (value === null) {
      expect(skipped, name).toMatch(/\w/)
      expect({ floor, share }, name).toEqual({ floor: null, share: null })
      continue
    }
    expect(value, name).toBeGreaterThan(0)
    expect(Number.isFinite(value), name).toBe(true)
    if (floor !== null) expect(share! > 0 && Number.isFinite(share) && floor > 0, name).toBe(true)
  }
  expect(result.rows).toContainEqual(expect.objectContaining({ name: 'kernel_vit_layer_norm', unit: 'us' }))
  expect(result.rows).toContainEqual(expect.objectContaining({ name: 'scene_one_by_one', unit: 'ms' }))
  const measured = result.rows.filter(({ value }) => value !== null).map(({ name }) => name)
  expect(measured).toEqual(expect.arrayContaining(stages.map((stage) => `${stage}_bf16`)))
})

it('compares with an older result, and fails only where it is told to', { timeout: 600_000 }, async () => {
  const args = ['scenes', '--modes', 'bf16', '--compare', file]
  const { code, stdout } = await bench(...args)
  expect(code).toBe(0)
  expect(stdout).toMatch(/^scene_one_by_one +ms +\d.* \d+\.\d+x /m)
  const strict = await bench(...args, '--fail-below', '1e9')
  expect(strict.code).toBe(1)
  expect(strict.stdout).toMatch(/scene_one_by_one is \d+\.\d+ times as good as before, less than 1000000000/)
})

it.each([
  [['nonsense'], 'Expected one of all, kernels, ask, scenes'],
  [['--modes', 'int3'], "Expected --modes out of bf16, int8, int4, f32, received 'int3'."],
  [['--fail-below', '0.9'], '--fail-below needs --compare'],
  [['--compare', 'no-such-file.json'], 'no-such-file.json'],
])('refuses %j', async (args, message) => {
  const { code, stderr } = await bench(...args)
  expect(code).toBe(2)
  expect(stderr).toContain(message)
})

import { execFile } from 'node:child_process'
import path from 'node:path'
import { promisify } from 'node:util'
import { beforeAll, expect, test } from 'vitest'
import { packageRoot } from '../../lib/native.ts'

const run = promisify(execFile)

beforeAll(async () => {
  await run(process.execPath, [path.join(packageRoot, 'node_modules/typescript/bin/tsc'), '-p', packageRoot])
})

test('the control loop keeps its time while frames are seen and questions answered', async () => {
  const script = path.join(packageRoot, 'examples/control-loop.mjs')
  const { stdout, stderr } = await run(process.execPath, [script, '--seconds', '4'], { timeout: 50_000 })
  expect(stderr).toBe('')
  const [, ticks, median] = /^(\d+) control ticks, late by ([\d.]+) ms/m.exec(stdout)!.map(Number)
  const [, came, seen, dropped, answered] = /^(\d+) frames: (\d+) seen, (\d+) dropped; (\d+) questions/m
    .exec(stdout)!
    .map(Number)
  expect(ticks).toBeGreaterThan(100) // 200 where nobody else is at work
  expect(median).toBeLessThan(10)
  expect(came).toBeGreaterThanOrEqual(4)
  expect(seen).toBeGreaterThanOrEqual(2)
  expect(came! - seen! - dropped!).toBeLessThanOrEqual(2) // the one being seen, and the one that waits
  expect(answered).toBeGreaterThanOrEqual(1)
})

test('a wrong number of seconds is an error', async () => {
  const script = path.join(packageRoot, 'examples/control-loop.mjs')
  await expect(run(process.execPath, [script, '--seconds', 'soon'])).rejects.toMatchObject({ code: 1 })
})

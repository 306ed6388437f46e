// Random interleavings, in a process of their own: an unheard rejection or a crash is then its exit. DRIVLM_SECONDS makes it longer.
import { spawnSync } from 'node:child_process'
import path from 'node:path'
import { expect, test } from 'vitest'
import { packageRoot } from '../../lib/native.ts'

const seconds = Number(process.env.DRIVLM_SECONDS ?? 20)

test('random interleavings of calls, abuse and garbage collection', { timeout: (seconds + 300) * 1000 }, () => {
  const script = path.join(packageRoot, 'test', 'interleavings.mjs')
  const { status, signal, stdout, stderr } = spawnSync(process.execPath, ['--expose-gc', script], { encoding: 'utf8' })
  expect({ status, signal, stderr }).toEqual({ status: 0, signal: null, stderr: '' })
  expect(stdout).toMatch(/^seed \d+: \d+ actions/)
})

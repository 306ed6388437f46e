/** A disk that is full while a run writes: a clear error, and what was good before is kept. */
import { spawn } from 'node:child_process'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type Checkpoint, readCheckpoint } from '../../lib/checkpoint/load-checkpoint.ts'
import { adapt } from '../../lib/train/adapt.ts'
import type { AdaptOptions } from '../../lib/train/types.ts'
import { root } from './checkpoint-folder.ts'
import { tinySource } from './tiny-packs.ts'

const start = join(root, 'test', 'fixtures', 'golden', 'e1-qwen3')
const weightsOf = (out: string) => readFileSync(join(dir, out, 'model.safetensors'))
const full = '/dev/full' // every write to it fails with ENOSPC
let dir: string
let checkpoint: Checkpoint

const options = (out: string, more: Partial<AdaptOptions> = {}): AdaptOptions => ({
  data: tinySource(checkpoint.network),
  out: join(dir, out),
  learningRate: 1e-3,
  threads: 2,
  ...more,
})

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'drivlm-full-'))
  checkpoint = await readCheckpoint(start)
  await adapt(start, options('whole')).folder
})
afterAll(() => rmSync(dir, { recursive: true, force: true }))

test.skipIf(!existsSync(full))('a state that finds no room is a clear error, and the run goes on', async () => {
  for await (const { step } of adapt(start, options('state'))) if (step === 2) break
  const state = join(dir, 'state.run', 'state')
  for (let tries = 0; tries < 2; tries++) {
    symlinkSync(full, `${state}.partial`)
    await expect(adapt(start, options('state', { saveEvery: 1 })).folder).rejects.toMatchObject({
      code: 'BAD_DATA',
      message: expect.stringMatching(/state\.partial: cannot be written \(No space left on device\)\. Make room there/),
    })
    expect(readdirSync(join(dir, 'state.run')).sort()).toEqual(['run.json', 'state', 'steps.jsonl'])
  }
  await adapt(start, options('state')).folder
  expect(weightsOf('state').equals(weightsOf('whole'))).toBe(true)
})

describe('where files may not grow beyond a size, in a process of its own', { timeout: 120_000 }, () => {
  const run = (out: string, settings: object, kilobytes: number | 'unlimited' = 'unlimited') => {
    const script = join(root, 'test', 'unit', 'adapt-script.mjs')
    const own = JSON.stringify({ learningRate: 1e-3, ...settings })
    const args = [script, pathToFileURL(join(root, 'dist')).href, start, join(dir, out), own]
    const command = `ulimit -f ${kilobytes} && exec "$0" "$@"`
    const child = spawn('bash', ['-c', command, process.execPath, ...args], { stdio: ['ignore', 'ignore', 'pipe'] })
    let stderr = ''
    child.stderr.on('data', (chunk) => {
      stderr += chunk
    })
    return new Promise<{ code: number | null; stderr: string }>((resolve) =>
      child.on('close', (code) => resolve({ code, stderr })),
    )
  }
  const kilobytes = () => Math.floor(readFileSync(join(start, 'model.safetensors')).length / 1024)
  const kept = ['run.json', 'state', 'steps.jsonl']

  test('the last state stays, where the next one does not fit', async () => {
    expect(await run('next', { leaveAfter: 4 })).toMatchObject({ code: 0 })
    const state = join(dir, 'next.run', 'state')
    const before = readFileSync(state)
    const { code, stderr } = await run('next', {}, kilobytes())
    expect(code).toBe(1)
    expect(stderr).toMatch(/state\.partial: cannot be written \(File too large\)/)
    expect(readFileSync(state).equals(before)).toBe(true)
    expect(readdirSync(join(dir, 'next.run')).sort()).toEqual(kept)
    expect(await run('next', {})).toMatchObject({ code: 0 })
    expect(await run('undisturbed', {})).toMatchObject({ code: 0 })
    expect(weightsOf('next').equals(weightsOf('undisturbed'))).toBe(true)
  })

  test('what a frozen tower gives is done without, with a warning, where it does not fit', async () => {
    const { tileSize, patchSize } = checkpoint.network.vision
    const pictures = { tiles: 40, tokens: (tileSize / patchSize) ** 2 / 4, bytes: 3 * tileSize ** 2 }
    const train = { train: 'projector', pictures }
    expect(await run('pictures', train)).toEqual({ code: 0, stderr: '' })
    expect(await run('tower', { ...train, leaveAfter: 0 })).toEqual({ code: 0, stderr: '' })
    expect(readdirSync(join(dir, 'tower.run')).sort()).toEqual([...kept, 'tower'])
    const size = (name: string) => readFileSync(join(dir, 'tower.run', name)).length
    const room = size('state') + size('tower')
    const { code, stderr } = await run('tower', { ...train, leaveAfter: 10 }, Math.ceil(room / 1024))
    expect(stderr).toMatch(/DrivlmWarning: .*tower: what the tower gives could not be written \(EFBIG\)/)
    expect(stderr.match(/DrivlmWarning/g)).toHaveLength(1)
    expect(code).toBe(0)
    expect(readdirSync(join(dir, 'tower.run')).sort()).toEqual(kept)
    expect(await run('tower', train)).toEqual({ code: 0, stderr: '' })
    expect(weightsOf('tower').equals(weightsOf('pictures'))).toBe(true)
  })

  test('so it does where the checkpoint at the end does not', async () => {
    const train = { train: 'projector' } // its state is small, the weights of the whole are not
    const { code, stderr } = await run('end', train, kilobytes())
    expect(code).toBe(1)
    expect(stderr).toMatch(/model\.safetensors\.partial: cannot be written \(File too large\)/)
    expect(existsSync(join(dir, 'end'))).toBe(false)
    expect(readdirSync(join(dir, 'end.run')).sort()).toEqual(['checkpoint', ...kept])
    expect(await run('end', train)).toMatchObject({ code: 0 })
    expect(await run('projector', train)).toMatchObject({ code: 0 })
    expect(weightsOf('end').equals(weightsOf('projector'))).toBe(true)
  })
})

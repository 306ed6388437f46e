/** Runs of `drivlm adapt` that are interrupted, or killed, wherever they are: the same command goes on to the same weights. */
import { spawn } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { lockFolder } from '../../lib/folder-lock.ts'
import { loadDomain, writeStreet } from '../../lib/street/index.ts'
import { drivlm } from './run.ts'

const dir = mkdtempSync(join(tmpdir(), 'drivlm-ends-'))
const night = join(dir, 'night', 'drivelm.json')
const settings = ['--packs-per-step', '1', '--max-pack-tiles', '6', '--steps', '5', '--learning-rate', '3e-3']
const validation = ['--validate', night, '--validate-limit', '6', '--validate-every', '2']
const flags = (out: string, more: readonly string[] = []) => [
  ...['adapt', '-m', 'models/street-tiny', '--data', night, '--out', join(dir, out), '--save-every', '2'],
  ...settings,
  ...more,
]
const weightsOf = (out: string) => readFileSync(join(dir, out, 'model.safetensors'))

/** Runs a command and sends it a signal when `ready`, if it lives by then. */
async function interrupted(args: readonly string[], signal: NodeJS.Signals, ready: (stderr: string) => boolean) {
  const child = spawn(process.execPath, ['dist/cli/main.js', ...args], { stdio: ['ignore', 'ignore', 'pipe'] })
  let stderr = ''
  child.stderr.on('data', (chunk) => {
    stderr += chunk
  })
  const ended = new Promise<number | null>((resolve) => child.on('close', (code) => resolve(code)))
  let sent = false
  while (child.exitCode === null && child.signalCode === null && !sent) {
    if (ready(stderr)) sent = child.kill(signal)
    else await new Promise((resolve) => setTimeout(resolve, 1))
  }
  return { code: await ended, sent, stderr }
}

beforeAll(async () => {
  await writeStreet(await loadDomain('night-left'), {
    scenes: 3,
    seed: 910_000_200,
    questions: 3,
    out: join(dir, 'night'),
  })
  // An answer that is false and soon learned, so that there are weights better than the first.
  writeFileSync(night, readFileSync(night, 'utf8').replaceAll(/"A": *"[^"]*"/g, '"A":"Red."'))
  const { code, stderr } = await drivlm(flags('whole', validation))
  expect({ code, stderr: code === 0 ? '' : stderr }).toEqual({ code: 0, stderr: '' })
  expect(existsSync(join(dir, 'whole.best'))).toBe(true)
}, 120_000)
afterAll(() => rmSync(dir, { recursive: true, force: true }))

const log = (out: string) => join(dir, `${out}.run`, 'steps.jsonl')
const updates = (out: string) => (existsSync(log(out)) ? readFileSync(log(out), 'utf8').split('\n').length - 1 : 0)
const validates = (out: string, after: number) => existsSync(join(dir, `${out}.run`, 'validation', `domain-${after}`))

it('a second command is refused before it touches anything of the first', async () => {
  const run = join(dir, 'twice.run')
  const unlock = await lockFolder(run)
  mkdirSync(join(run, 'validation'))
  writeFileSync(join(run, 'validations.jsonl'), '')
  const { code, stderr } = await drivlm(flags('twice', validation))
  await unlock()
  expect(stderr).toMatch(/^ModelError \[BAD_ARGUMENT\] .*twice\.run is being written by process \d+ on /m)
  expect(code).toBe(1)
  expect(readdirSync(run).sort()).toEqual(['validation', 'validations.jsonl'])
})

describe('Ctrl-C', () => {
  it.each([
    [
      'training',
      (out: string) => updates(out) >= 1,
      /^Stopped\.\nWhat was learned is kept in .*; the same command goes on/m,
    ],
    [
      'validation',
      (out: string) => validates(out, 2),
      /^Stopped\.\nWhat was learned is kept in .*; the same command goes on/m,
    ],
    ['the first validation', (out: string) => validates(out, 0), /^Stopped\.\nNothing had been learned yet\./m],
  ])('within %s ends with 130, and the same command goes on', { timeout: 120_000 }, async (name, ready, message) => {
    const out = name.replaceAll(' ', '-')
    const { code, sent, stderr } = await interrupted(flags(out, validation), 'SIGINT', () => ready(out))
    expect({ sent, code }).toEqual({ sent: true, code: 130 })
    expect(stderr).toMatch(message)
    expect(existsSync(join(dir, out))).toBe(false)
    const state = existsSync(join(dir, `${out}.run`, 'state'))
    expect(state).toBe(name !== 'the first validation')
    const done = updates(out)
    expect((await drivlm(flags(out, validation))).code).toBe(0)
    expect(updates(out)).toBeGreaterThan(done)
    expect(weightsOf(out).equals(weightsOf('whole'))).toBe(true)
    const scores = (of: string) => readFileSync(join(dir, `${of}.run`, 'validations.jsonl'), 'utf8')
    expect(scores(out)).toBe(scores('whole'))
  })

  it('while samples are looked through ends with 130, and nothing is there', { timeout: 120_000 }, async () => {
    const long = join(dir, 'long.jsonl')
    const line = {
      conversations: [
        { from: 'human', value: 'Is the light red?' },
        { from: 'gpt', value: 'No. '.repeat(99) },
      ],
    }
    writeFileSync(long, `${JSON.stringify(line)}\n`.repeat(100_000))
    const args = ['adapt', '-m', 'models/street-tiny', '--data', long, '--out', join(dir, 'early')]
    const { code, sent, stderr } = await interrupted(args, 'SIGINT', (text) => text.includes('Looking through'))
    expect({ sent, code }).toEqual({ sent: true, code: 130 })
    expect(stderr).toMatch(/^Stopped\.\nNothing had been learned yet\./m)
    expect(existsSync(join(dir, 'early.run'))).toBe(false)
  })
})

it.each([
  ['validates', (out: string) => validates(out, 2)],
  ['copies the best weights', (out: string) => existsSync(join(dir, `${out}.best.partial`))],
  ['writes its state', (out: string) => updates(out) > 2 && existsSync(join(dir, `${out}.run`, 'state.partial'))],
  [
    'writes the checkpoint',
    (out: string) => existsSync(join(dir, `${out}.run`, 'checkpoint', 'model.safetensors.partial')),
  ],
])('killed while it %s, the same command gives the same weights', { timeout: 120_000 }, async (name, ready) => {
  const out = name.replaceAll(' ', '-')
  const { sent } = await interrupted(flags(out, validation), 'SIGKILL', () => ready(out))
  expect(sent).toBe(true)
  expect((await drivlm(flags(out, validation))).code).toBe(0)
  expect(weightsOf(out).equals(weightsOf('whole'))).toBe(true)
  expect(weightsOf(`${out}.best`).equals(weightsOf('whole.best'))).toBe(true)
  expect(existsSync(join(dir, `${out}.best.partial`))).toBe(false)
  expect(updates(out)).toBe(5)
})

it('a plan or a run that does not fit into the memory it may take is refused, with what would fit', async () => {
  for (const more of [['--plan'], ['--plan', '--json'], []]) {
    const { code, stderr } = await drivlm(flags('large', ['--memory', '0.86', ...more]))
    expect(code).toBe(1)
    expect(stderr).toMatch(/Training would take \d+ MiB .* \d+ MiB are missing\. What would fit: .*train 'projector'/)
    expect(existsSync(join(dir, 'large.run', 'state'))).toBe(false)
  }
})

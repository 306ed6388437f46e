/** Worker threads, and every way out of a process or worker while the model is at work: none crashes, none hangs. */
import { spawn } from 'node:child_process'
import path from 'node:path'
import { Worker } from 'node:worker_threads'
import { expect, test } from 'vitest'
import { loadAddon } from '../../lib/native.ts'

// Under a sanitizer everything takes some ten times as long.
const sanitized = loadAddon().build.sanitizer !== ''
const script = path.join(import.meta.dirname, 'worker-script.mjs') // on the compiled package, as users have it

function start(task: string): { worker: Worker; said: (word: string) => Promise<unknown>; ended: Promise<number> } {
  const worker = new Worker(script, { workerData: { task } })
  const heard = new Map<string, unknown>()
  const waiting = new Map<string, (value: unknown) => void>()
  const ended = new Promise<number>((resolve, reject) => {
    worker.once('exit', resolve)
    worker.once('error', reject)
  })
  worker.on('message', ({ word, value }) => {
    heard.set(word, value)
    waiting.get(word)?.(value)
  })
  const said = (word: string) =>
    new Promise((resolve, reject) => {
      if (heard.has(word)) resolve(heard.get(word))
      waiting.set(word, resolve)
      ended.then((code) => reject(new Error(`the worker ended with ${code}`)), reject)
    })
  return { worker, said, ended }
}

test('a worker answers, and two of them at once', async () => {
  const workers = [start('ask'), start('ask')]
  for (const { said, ended } of workers) {
    expect(await said('answer')).toBe('It is a clear day.')
    expect(await ended).toBe(0)
  }
})

test.each([
  ['loading', 'loading'],
  ['seeing', 'seeing'],
  ['an answer', 'answering'],
  ['several answers', 'several'],
  ['cutting tiles', 'tiles'],
])('terminate() in the middle of %s', { timeout: 120_000 }, async (_, task) => {
  for (let i = 0; i < (sanitized ? 2 : 5); i++) {
    const { worker, said } = start(task)
    await said('begun')
    await new Promise((resolve) => setTimeout(resolve, 2 * i))
    const started = performance.now()
    expect(await worker.terminate()).toBe(1)
    expect(performance.now() - started).toBeLessThan(sanitized ? 20_000 : 2000)
  }
})

async function run(task: string): Promise<{ code: number | null; signal: string | null; ms: number; output: string }> {
  const started = performance.now()
  const child = spawn(process.execPath, [script, task], { stdio: ['ignore', 'pipe', 'pipe'] })
  let output = ''
  child.stdout.on('data', (data) => {
    output += data
  })
  child.stderr.on('data', (data) => {
    output += data
  })
  const [code, signal] = await new Promise<[number | null, string | null]>((resolve) => {
    child.once('close', (code, signal) => resolve([code, signal]))
  })
  return { code, signal, ms: performance.now() - started, output }
}

test.each([
  ['process.exit() in the middle of an answer', 'exit', 7],
  ['process.exit() in the middle of loading', 'exit-loading', 7],
  ['process.exit() in a token callback', 'exit-callback', 7],
  ['an uncaught error in the middle of an answer', 'throw', 1],
  ['the end of the program with a model that was never disposed of', 'end', 0],
])('%s', { timeout: 120_000 }, async (_, task, code) => {
  for (let i = 0; i < (sanitized ? 1 : 3); i++) {
    const result = await run(task)
    expect(result, result.output).toMatchObject({ code, signal: null })
    expect(result.ms).toBeLessThan(sanitized ? 60_000 : 20_000)
  }
})

/** Runs of training: the folder they make, and that nothing is lost or left half done however they end. */
import { spawn } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { Worker } from 'node:worker_threads'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type Checkpoint, readCheckpoint } from '../../lib/checkpoint/load-checkpoint.ts'
import { loadModel } from '../../lib/load-model.ts'
import { loadAddon } from '../../lib/native.ts'
import { adapt } from '../../lib/train/adapt.ts'
import { memoryOfTraining, refuseWhatCannotFit } from '../../lib/train/plan.ts'
import { settingsOf } from '../../lib/train/settings.ts'
import { type AdaptOptions, publishedSettings } from '../../lib/train/types.ts'
import { fixture, root, write } from './checkpoint-folder.ts'
import { tinySource } from './tiny-packs.ts'

const start = join(root, 'test', 'fixtures', 'golden', 'e1-qwen3')
const weights = 'model.safetensors'
let dir: string
let checkpoint: Checkpoint
let whole: Buffer

const settings = { learningRate: 1e-3, dropPath: 0.3, saveEvery: 2 }
const options = (out: string, more: Partial<AdaptOptions> = {}): AdaptOptions => ({
  ...settings,
  data: tinySource(checkpoint.network),
  out: join(dir, out),
  threads: 2,
  ...more,
})
const weightsOf = (out: string) => readFileSync(join(dir, out, weights))
const stepsOf = async (run: ReturnType<typeof adapt>) => {
  const steps: number[] = []
  for await (const { step } of run) steps.push(step)
  return steps
}

/** Of each parameter, whether two files of weights have the same values. */
const comparedValues = (one: Buffer, other: Buffer) =>
  checkpoint.tensors.map(({ role, shape, dtype, spans }) => {
    const rowBytes = shape.slice(1).reduce((product, size) => product * size, dtype === 'F32' ? 4 : 2)
    const of = (file: Buffer, offset: number, rows: number) => file.subarray(offset, offset + rows * rowBytes)
    return { role, same: spans.every(({ offset, rows }) => of(one, offset, rows).equals(of(other, offset, rows))) }
  })

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'drivlm-adapt-'))
  checkpoint = await readCheckpoint(start)
  await adapt(start, options('whole')).folder
  whole = weightsOf('whole')
})
afterAll(() => rmSync(dir, { recursive: true, force: true }))

describe('the folder that a run makes', () => {
  test('is the start with other weights, in its names and dtypes, and a record', async () => {
    const out = join(dir, 'whole')
    const own = readdirSync(start).filter((name) => name !== 'golden.safetensors') // no file of the checkpoint
    expect(readdirSync(out).sort()).toEqual([...own, 'adapt.json'].sort())
    for (const name of own.filter((name) => name !== weights))
      expect(readFileSync(join(out, name)), name).toEqual(readFileSync(join(start, name)))
    const before = readFileSync(join(start, weights))
    const header = 8 + Number(before.readBigUInt64LE(0))
    expect(whole.length).toBe(before.length)
    expect(whole.subarray(0, header)).toEqual(before.subarray(0, header))
    expect(whole.equals(before)).toBe(false)
    const record = JSON.parse(readFileSync(join(out, 'adapt.json'), 'utf8'))
    expect(record).toMatchObject({
      drivlm: loadAddon().version,
      start: { name: 'e1-qwen3', files: { [weights]: expect.stringMatching(/^[0-9a-f]{64}$/) } },
      data: { digest: 'tiny 1 2', lists: [{ name: 'tiny', used: 12 }] },
      settings: { ...publishedSettings, learningRate: 1e-3, visionLearningRate: 1e-3, dropPath: 0.3 },
      weights: { [weights]: expect.stringMatching(/^[0-9a-f]{64}$/) },
    })
    expect(record.steps.map(({ step }: { step: number }) => step)).toEqual([0, 1, 2, 3, 4, 5])
    expect(record.steps[0]).toMatchObject({ targets: 10, tiles: 2, questions: 6 })
    expect(readdirSync(join(dir, 'whole.run'))).toEqual(['steps.jsonl'])
    const model = await loadModel(out, { precision: 'f32' })
    await model.dispose()
  })

  test('is what the run gives again at once', async () => {
    const run = adapt(start, options('whole'))
    expect(await stepsOf(run)).toEqual([])
    expect(await run.folder).toBe(join(dir, 'whole'))
    expect(weightsOf('whole').equals(whole)).toBe(true)
  })

  test('has the values that were trained, and the others as they were', async () => {
    const trained: Record<string, RegExp> = {
      projector: /^projector\./,
      'language+projector': /^(projector|language)\./,
    }
    const before = readFileSync(join(start, weights))
    for (const [train, of] of Object.entries(trained) as [AdaptOptions['train'] & string, RegExp][]) {
      await adapt(start, options(train, { train, emaDecay: train === 'projector' ? 0.5 : 0 })).folder
      const after = weightsOf(train)
      for (const { role, same } of comparedValues(before, after))
        expect({ train, role, same }).toEqual({ train, role, same: !of.test(role) })
    }
  })

  test('has a tower that learns at its own rate, in the record, and after a break', async () => {
    const own = { visionLearningRate: 2e-4, warmupSteps: 2, checkpoints: { every: 6, use: () => undefined } }
    const rates: [number, number][] = []
    for await (const { learningRate, visionLearningRate } of adapt(start, options('two-rates', own)))
      rates.push([learningRate, visionLearningRate])
    expect(rates.slice(0, 3)).toEqual([
      [0, 0],
      [5e-4, 1e-4],
      [1e-3, 2e-4],
    ])
    for (const [rate, towerRate] of rates) expect(towerRate).toBeCloseTo(rate / 5, 12)
    const record = JSON.parse(readFileSync(join(dir, 'two-rates', 'adapt.json'), 'utf8'))
    expect(record.settings).toMatchObject({ learningRate: 1e-3, visionLearningRate: 2e-4, warmupSteps: 2 })
    expect(record.steps[2]).toMatchObject({ learningRate: 1e-3, visionLearningRate: 2e-4 })
    for await (const { step } of adapt(start, options('two-rates-left', own))) if (step === 3) break
    await adapt(start, options('two-rates-left', own)).folder
    expect(weightsOf('two-rates-left').equals(weightsOf('two-rates'))).toBe(true)

    // A tower at rate 0 stays as it was.
    await adapt(start, options('still-tower', { visionLearningRate: 0 })).folder
    const [before, after] = [readFileSync(join(start, weights)), weightsOf('still-tower')]
    for (const { role, same } of comparedValues(before, after))
      expect({ role, same }).toEqual({ role, same: role.startsWith('vision.') })
  })

  test('is what was learned so far, where a stopped run is finished', async () => {
    let after3: Buffer | undefined
    const checkpoints = {
      every: 3,
      use: (folder: string, updates: number) => {
        if (updates === 3) after3 = readFileSync(join(folder, weights))
      },
    }
    const finish = () => adapt(start, options('finished', { finish: true }))
    await expect(finish().folder).rejects.toMatchObject({
      code: 'BAD_ARGUMENT',
      message: expect.stringMatching(/finished\.run has no saved state/),
    })
    for await (const { step } of adapt(start, options('finished', { checkpoints }))) if (step === 2) break
    expect(await stepsOf(finish())).toEqual([])
    expect(weightsOf('finished').equals(after3!)).toBe(true)
    expect(JSON.parse(readFileSync(join(dir, 'finished', 'adapt.json'), 'utf8')).steps).toHaveLength(3)
    expect(readdirSync(join(dir, 'finished.run'))).toEqual(['steps.jsonl'])
    expect(await stepsOf(adapt(start, options('finished')))).toEqual([]) // it is over
  })

  test('follows from drop path, its seed and the precision of products', async () => {
    const ways = { off: { dropPath: 0 }, seed: { seed: 43 }, bf16: { precision: 'bf16' } } as const
    const losses: number[] = []
    for (const [name, more] of Object.entries(ways)) {
      for await (const { step, loss } of adapt(start, options(name, more))) if (step === 5) losses.push(loss)
      if (name !== 'bf16') expect({ name, same: weightsOf(name).equals(whole) }).toEqual({ name, same: false }) // small products may stay f32
    }
    const log = readFileSync(join(dir, 'whole.run', 'steps.jsonl'), 'utf8')
      .trim()
      .split('\n')
    const { loss } = JSON.parse(log[5]!) as { loss: number }
    for (const other of losses) expect(Math.abs(other - loss)).toBeLessThan(0.1 * loss)
  })

  test('leaves drop path, which is of training, out of its configuration, and stale files behind', async () => {
    const copy = join(dir, 'dropping')
    cpSync(start, copy, { recursive: true })
    const config = JSON.parse(readFileSync(join(copy, 'config.json'), 'utf8'))
    config.vision_config.drop_path_rate = 0.1
    writeFileSync(join(copy, 'config.json'), `\ufeff${JSON.stringify(config)}`) // with a byte order mark, as it may be loaded
    for (const name of ['drivlm-int8.cache', 'pytorch_model.bin']) writeFileSync(join(copy, name), 'stale')
    await adapt(copy, options('dropped')).folder
    expect(JSON.parse(readFileSync(join(dir, 'dropped', 'config.json'), 'utf8'))).toEqual({
      ...config,
      vision_config: { ...config.vision_config, drop_path_rate: 0 },
    })
    expect(readdirSync(join(dir, 'dropped')).filter((name) => /cache|bin/.test(name))).toEqual([])
    expect(weightsOf('dropped').equals(whole)).toBe(true)
  })
})

describe('the weights at the end are the same', () => {
  test.each([1, 3])('for %i threads', async (threads) => {
    await adapt(start, options(`threads-${threads}`, { threads })).folder
    expect(weightsOf(`threads-${threads}`).equals(whole)).toBe(true)
  })

  test('after an end by break, by a signal within a step, and by a signal before one', async () => {
    for await (const { step } of adapt(start, options('left', { saveEvery: 100 }))) if (step === 0) break
    expect(existsSync(join(dir, 'left'))).toBe(false)
    const within = new AbortController()
    const source = tinySource(checkpoint.network)
    const data = {
      ...source,
      packsOfStep: async (step: number) => {
        const [first, second] = await source.packsOfStep(step)
        const late = {
          ...second!,
          get ids() {
            if (step === 3) within.abort() // the first pack's gradients are added by now
            return second!.ids
          },
        }
        return [first!, late]
      },
    }
    const aborted = adapt(start, options('left', { data, signal: within.signal }))
    await expect(stepsOf(aborted)).rejects.toMatchObject({ code: 'ABORTED' })
    await expect(aborted.folder).rejects.toMatchObject({ code: 'ABORTED' })
    await expect(adapt(start, options('left', { signal: AbortSignal.abort() })).folder).rejects.toMatchObject({
      code: 'ABORTED',
    })
    expect(existsSync(join(dir, 'left.run', 'run.lock'))).toBe(false)
    const rest = await stepsOf(adapt(start, options('left', { threads: 1 })))
    expect(rest).toEqual([3, 4, 5])
    expect(weightsOf('left').equals(whole)).toBe(true)
    expect(readFileSync(join(dir, 'left.run', 'steps.jsonl'))).toEqual(
      readFileSync(join(dir, 'whole.run', 'steps.jsonl')),
    )
  })

  test('after kill -9 at random moments', { timeout: 180_000 }, async () => {
    const script = join(root, 'test', 'unit', 'adapt-script.mjs')
    const dist = pathToFileURL(join(root, 'dist')).href
    const child = (out: string) =>
      spawn(process.execPath, [script, dist, start, join(dir, out), JSON.stringify(settings)], { stdio: 'ignore' })
    const ended = (one: ReturnType<typeof child>) => new Promise<void>((resolve) => one.on('close', () => resolve()))
    const began = performance.now()
    await ended(child('undisturbed'))
    const took = performance.now() - began
    expect(weightsOf('undisturbed').equals(readFileSync(join(start, weights)))).toBe(false)
    // A machine may be faster or slower than at the first run, so kills are counted, and a run that ended first is taken back.
    const wanted = Number(process.env.DRIVLM_KILLS ?? 5)
    let kills = 0
    for (let tries = 0; tries < 20 * wanted && kills < wanted; tries++) {
      const one = child('killed')
      const end = ended(one)
      await Promise.race([end, new Promise((resolve) => setTimeout(resolve, Math.random() * took))])
      if (one.exitCode === null && one.kill('SIGKILL')) kills++
      await end
      if (!existsSync(join(dir, 'killed'))) continue
      expect(weightsOf('killed').equals(weightsOf('undisturbed'))).toBe(true)
      for (const name of ['killed', 'killed.run']) rmSync(join(dir, name), { recursive: true, force: true })
    }
    expect(kills).toBe(wanted)
    await ended(child('killed'))
    expect(weightsOf('killed').equals(weightsOf('undisturbed'))).toBe(true)
    expect(readdirSync(join(dir, 'killed')).sort()).toEqual(readdirSync(join(dir, 'undisturbed')).sort())
    expect(readdirSync(join(dir, 'killed.run'))).toEqual(['steps.jsonl'])
  })
})

test('a worker that is terminated while it trains takes its thread with it, and its run goes on', async () => {
  const script = join(root, 'test', 'unit', 'adapt-script.mjs')
  const out = join(dir, 'worker')
  const argv = [pathToFileURL(join(root, 'dist')).href, start, out, JSON.stringify(settings)]
  const worker = new Worker(script, { argv })
  const log = join(dir, 'worker.run', 'steps.jsonl')
  const lines = () => (existsSync(log) ? readFileSync(log, 'utf8').split('\n').length - 1 : 0)
  await expect.poll(lines, { timeout: 30_000, interval: 1 }).toBeGreaterThan(0)
  await worker.terminate()
  const again = new Worker(script, { argv })
  await new Promise((resolve, reject) => again.on('exit', resolve).on('error', reject))
  expect(lines()).toBe(12)
  expect(existsSync(join(out, weights))).toBe(true)
})

describe('what cannot be is refused, and what was good is kept', () => {
  const refused = async (code: string, message: RegExp, more: Partial<AdaptOptions>, out = 'refused', from = start) => {
    const error = await adapt(from, options(out, more)).folder.then(
      () => undefined,
      (caught: unknown) => caught,
    )
    expect(error).toMatchObject({ code, message: expect.stringMatching(message) })
  }

  test('settings out of range and unknown options', async () => {
    await refused('BAD_ARGUMENT', /a number from 0 to 1000 for options\.learningRate, received -1/, {
      learningRate: -1,
    })
    await refused('BAD_ARGUMENT', /options\.weightDecay, received NaN/, { weightDecay: Number.NaN })
    await refused('BAD_ARGUMENT', /options\.beta1/, { beta1: 1 })
    await refused('BAD_ARGUMENT', /options\.train/, { train: 'tower' as 'all' })
    await refused('BAD_ARGUMENT', /options\.towerLayers/, { towerLayers: 2 })
    await refused('BAD_ARGUMENT', /at most \d for options\.towerLayers/, { train: 'head', towerLayers: 9 })
    await refused('BAD_ARGUMENT', /options\.visionLearningRate, received -1/, { visionLearningRate: -1 })
    await refused('BAD_ARGUMENT', /trains nothing of the tower, for options\.visionLearningRate/, {
      train: 'projector',
      visionLearningRate: 1e-4,
    })
    await refused('BAD_ARGUMENT', /options\.threads/, { threads: 0 })
    await refused('BAD_ARGUMENT', /options\.saveEvery/, { saveEvery: 0.5 })
    await refused('BAD_ARGUMENT', /options\.data/, { data: {} as AdaptOptions['data'] })
    await refused('BAD_ARGUMENT', /options\.learningrate is unknown; known are train, /, { learningrate: 1 } as object)
    expect(existsSync(join(dir, 'refused.run'))).toBe(false)
  })

  test('an output folder that is not empty, or no folder', async () => {
    mkdirSync(join(dir, 'full'))
    writeFileSync(join(dir, 'full', 'notes.txt'), 'mine')
    await refused('BAD_ARGUMENT', /full is not empty, and holds no result of this run/, {}, 'full')
    expect(readdirSync(join(dir, 'full'))).toEqual(['notes.txt'])
    writeFileSync(join(dir, 'file'), '')
    await refused('BAD_ARGUMENT', /cannot be an output folder: ENOTDIR/, {}, 'file')
    await refused('BAD_ARGUMENT', /is not empty/, { learningRate: 2e-3 }, 'whole')
    expect(weightsOf('whole').equals(whole)).toBe(true)
    mkdirSync(join(dir, 'empty'))
    await adapt(start, options('empty')).folder
    expect(weightsOf('empty').equals(whole)).toBe(true)
  })

  test('another run in its place, named by what differs', async () => {
    for await (const { step } of adapt(start, options('begun'))) if (step === 2) break
    await refused('BAD_ARGUMENT', /has a run with another learningRate/, { learningRate: 2e-3 }, 'begun')
    const other = tinySource(checkpoint.network, { digest: 'changed' })
    await refused('BAD_DATA', /a file, or an option of the data, has changed since it began/, { data: other }, 'begun')
    const longer = tinySource(checkpoint.network, { steps: 7 })
    await refused('BAD_DATA', /over other data/, { data: longer }, 'begun')
    const copy = join(dir, 'other-start')
    cpSync(start, copy, { recursive: true })
    const bytes = readFileSync(join(copy, weights))
    bytes[bytes.length - 1]! ^= 1
    writeFileSync(join(copy, weights), bytes)
    await refused('BAD_ARGUMENT', /began from another checkpoint/, {}, 'begun', copy)
    expect(await stepsOf(adapt(start, options('begun')))).toEqual([3, 4, 5])
    expect(weightsOf('begun').equals(whole)).toBe(true)
  })

  test('a second run in the same folder', async () => {
    const first = adapt(start, options('both'))
    await first.next()
    await refused('BAD_ARGUMENT', /is being written by process/, {}, 'both')
    await first.folder
    expect(weightsOf('both').equals(whole)).toBe(true)
  })

  test('a damaged state', async () => {
    for await (const { step } of adapt(start, options('damaged'))) if (step === 2) break
    const file = join(dir, 'damaged.run', 'state')
    const bytes = readFileSync(file)
    bytes[bytes.length >> 1]! ^= 4
    writeFileSync(file, bytes)
    await refused('BAD_DATA', /this saved state is damaged/, {}, 'damaged')
    await refused('BAD_DATA', /this saved state is damaged/, {}, 'damaged') // and again: nothing was begun anew
    writeFileSync(join(dir, 'damaged.run', 'run.json'), '{')
    await refused('BAD_DATA', /run\.json: no JSON/, {}, 'damaged')
  })

  test('a loss that is no number, with the samples; the state before it stays', async () => {
    const hot = { learningRate: 1000, maxNorm: Number.POSITIVE_INFINITY, schedule: 'constant', saveEvery: 1 } as const
    const run = adapt(start, options('hot', { ...hot, data: tinySource(checkpoint.network, { steps: 400 }) }))
    const steps: number[] = []
    const read = async () => {
      for await (const { step, loss } of run) {
        expect(Number.isFinite(loss)).toBe(true)
        steps.push(step)
      }
    }
    const error = await read().catch((caught) => caught)
    expect(error).toMatchObject({ code: 'BAD_DATA' })
    const line = 2 * steps.length
    expect(error.message).toMatch(/^Training stopped before an update, because .* is (NaN|-?Infinity)\. The samples: /)
    expect(error.message).toMatch(new RegExp(`tiny\\.jsonl:(${line + 1}|${line + 2})\\b`))
    const log = readFileSync(join(dir, 'hot.run', 'steps.jsonl'), 'utf8')
      .trim()
      .split('\n')
    expect(log).toHaveLength(steps.length)
    expect(existsSync(join(dir, 'hot.run', 'state'))).toBe(true)
    expect(existsSync(join(dir, 'hot'))).toBe(false)
  })

  test('a state or a folder that cannot be written', async () => {
    const blocked = join(dir, 'blocked.run', 'state.partial')
    mkdirSync(blocked, { recursive: true })
    await refused('BAD_DATA', /state\.partial: cannot be written \(Is a directory\)/, {}, 'blocked')
    rmSync(blocked, { recursive: true })
    const place = join(dir, 'blocked.run', 'checkpoint')
    writeFileSync(place, '')
    await adapt(start, options('blocked')).folder // what stands in the place of the unfinished folder goes
    expect(weightsOf('blocked').equals(whole)).toBe(true)
  })

  test('packs that do not fit their bounds, and files that fail while packs are made', async () => {
    const data = { ...tinySource(checkpoint.network), bounds: { rows: 5, tiles: 1 } }
    await refused('BAD_ARGUMENT', /pack: expected 1 to 5 rows as planned/, { data }, 'bounds')
    const broken = { ...tinySource(checkpoint.network), packsOfStep: () => Promise.reject(new Error('gone')) }
    await refused('INTERNAL', /gone/, { data: broken }, 'gone')
  })

  test('weights that cannot be trained, and adapters', async () => {
    const stored = fixture('a1-qwen2')
    const name = Object.keys(stored.tensors)[3]!
    stored.tensors[name]![0] = 'I8'
    await refused('BAD_WEIGHTS', /found i8 in .*Quantised weights/, {}, 'int8', write(stored))
    const adapter = fixture('a1-qwen2')
    adapter.tensors['language_model.model.layers.0.self_attn.q_proj.lora_A.default.weight'] = ['BF16', [8, 8], weights]
    await refused('UNSUPPORTED_MODEL', /belongs to a LoRA adapter\. Merge/, {}, 'lora', write(adapter))
    expect(existsSync(join(dir, 'int8.run'))).toBe(false)
  })

  test('what would not fit into memory, with what is missing', () => {
    const memory = memoryOfTraining(checkpoint.network, settingsOf({ emaDecay: 0.9 }), { rows: 100, tiles: 2 })
    const { totalBytes, availableBytes, ...kinds } = memory
    expect(Object.values(kinds).reduce((sum, bytes) => sum + bytes, 0)).toBe(totalBytes)
    expect(memory.momentsBytes).toBe(2 * memory.gradientsBytes)
    expect(availableBytes).toBeGreaterThan(totalBytes)
    const bounds = { rows: 100, tiles: 2 }
    const refuse = (bytes: number, settings = {}) =>
      refuseWhatCannotFit({ ...memory, availableBytes: bytes }, checkpoint.network, settingsOf(settings), bounds)
    refuse(totalBytes)
    expect(() => refuse(totalBytes - 2 ** 30)).toThrow(/: 1\.0 GiB are missing\. By itself neither .* the least is /)
    const without = memoryOfTraining(checkpoint.network, settingsOf({}), bounds).totalBytes
    expect(() => refuse(without, { emaDecay: 0.9 })).toThrow(
      /What would fit: no emaDecay \(\d+ MiB\); .*packs of 25 tokens and 1 tiles at most \(.*train 'projector' \(.*\)\.$/,
    )
    const small = memoryOfTraining(checkpoint.network, settingsOf({ train: 'projector' }), { rows: 100, tiles: 2 })
    expect(small.gradientsBytes).toBeLessThan(memory.gradientsBytes)
    expect(small.activationsBytes).toBeLessThan(memory.activationsBytes)
  })
})

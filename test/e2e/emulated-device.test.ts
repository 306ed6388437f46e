/**
 * What a CUDA device that is short of something does to the package: the addon over the emulated backend, in processes of their own because the
 * emulator reads its environment once. `npm test` builds it where there are CUDA headers; without them these are skipped.
 */
import { spawnSync } from 'node:child_process'
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'

const root = path.resolve(import.meta.dirname, '../..')
const addon = path.join(root, '.cmake-build/test/emulator/drivlm_emulated_fast.node')

const prelude = `
import { cameras, loadModel } from ${JSON.stringify(path.join(root, 'dist/index.js'))}
import { readdirSync } from 'node:fs'
const dir = ${JSON.stringify(path.join(root, 'test/fixtures/street-tiny-val/images'))}
const views = Object.fromEntries(cameras.map((camera) => [camera, dir + '/' + camera + '/scene-00.png']))
const question = 'What are objects to the front of the ego car?'
const caught = (promise) => promise.then(() => 'nothing', ({ code, message }) => ({ code, message }))
const told = (value) => console.log(JSON.stringify(value))
`

/** Runs a script in a Node of its own with the emulated addon; what it told, and what the emulator said at the end. */
function emulatedWith(body: string, env: Record<string, string>) {
  const { status, stdout, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', prelude + body], {
    env: { ...process.env, DRIVLM_ADDON: addon, ...env },
    encoding: 'utf8',
  })
  expect(status, stderr).toBe(0)
  return { told: JSON.parse(stdout), said: stderr }
}

function emulated(body: string, env: Record<string, string> = {}) {
  const { told, said } = emulatedWith(body, env)
  expect(said).toBe('')
  return told
}

const MiB = 2 ** 20
const scratch = mkdtempSync(path.join(os.tmpdir(), 'drivlm-emulated-'))
afterAll(() => rmSync(scratch, { recursive: true }))

/** The bundled model with its tensors on a multiple of 16 bytes, where kernels can read them; safetensors files promise 8. */
function alignedCopy(): string {
  const bundled = path.join(root, 'models/street-tiny')
  cpSync(bundled, scratch, { recursive: true })
  const file = readFileSync(path.join(bundled, 'model.safetensors'))
  const header = 8 + Number(file.readBigUInt64LE())
  const padding = (16 - (header % 16)) % 16
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(header - 8 + padding))
  const parts = [length, file.subarray(8, header), Buffer.alloc(padding, ' '), file.subarray(header)]
  writeFileSync(path.join(scratch, 'model.safetensors'), Buffer.concat(parts))
  return scratch
}

const weightsFile = statSync(path.join(root, 'models/street-tiny/model.safetensors')).size

describe.skipIf(!existsSync(addon))('an emulated CUDA device', () => {
  it('answers, and times its stages', () => {
    const { text, timings, memory } = emulated(`
      const model = await loadModel({ device: 'cuda', maxContext: 512 })
      const { text, timings } = await model.ask(views, question)
      told({ text, timings, memory: model.info.memory })`)
    expect(text).toBe('There are two pedestrians to the front of the ego car.')
    expect(timings.visionMs).toBeGreaterThan(0)
    expect(timings.prefillMs).toBeGreaterThan(0)
    expect(memory.weightsBytes).toBeGreaterThan(MiB)
  })

  it('allocates all its memory at load, and times every stage with events', () => {
    const asking = (asks: number) => {
      const { said } = emulatedWith(
        `const model = await loadModel({ device: 'cuda', maxContext: 512, maxBatch: 4 })
         for (let i = 0; i < ${asks}; i++) {
           const scene = await model.see(views)
           await scene.askAll([question, question, question], { maxNewTokens: 4 })
           scene.dispose()
         }
         await model.dispose()
         told(0)`,
        { EMULATOR_STATS: '1' },
      )
      const [, allocations, events] = /(\d+) allocations, (\d+) events/.exec(said)!.map(Number)
      return { allocations, events: events! }
    }
    const none = asking(0)
    const two = asking(2)
    expect(two.allocations).toBe(none.allocations)
    expect(two.events).toBeGreaterThan(none.events)
  })

  it('keeps to maxMemory, and says what would fit', () => {
    const { info, tight, kv, context, bytes, none } = emulated(`
      const model = await loadModel({ device: 'cuda', maxContext: 1024 })
      const { weightsBytes, kvBytes, arenaBytes } = model.info.memory
      await model.dispose()
      const total = weightsBytes + kvBytes + arenaBytes
      const exact = await loadModel({ device: 'cuda', maxContext: 1024, maxMemory: total })
      const info = { total, text: (await exact.ask(views, question)).text }
      await exact.dispose()
      const load = (options) => loadModel({ device: 'cuda', maxContext: 1024, ...options })
      const tight = await caught(load({ maxMemory: total - 1 }))
      const least = Number(/kvMemory: (\\d+)/.exec(tight.message)[1])
      const kv = await load({ maxMemory: total - 1, kvMemory: least }).then((model) => model.info.memory.kvBytes - least)
      const limit = Number(/maxContext: (\\d+)/.exec(tight.message)[1])
      const context = await load({ maxMemory: total - 1, maxContext: limit }).then((model) => model.info.maxContext)
      const small = await load({ maxMemory: total - 1, kvCache: 'int8' })
      const bytes = { kv: small.info.memory.kvBytes / kvBytes, text: (await small.ask(views, question)).text }
      await small.dispose()
      told({ info, tight, kv, context, bytes, none: await caught(load({ maxMemory: 100_000 })) })`)
    expect(info.text).toContain('pedestrians')
    expect(tight).toMatchObject({ code: 'OUT_OF_MEMORY' })
    expect(tight.message).toMatch(/options\.maxMemory allows .* MiB, 0\.0 MiB are missing\. It would fit with kvMemory/)
    expect(tight.message).toContain(`kvCache: 'int8'; or weights: 'int8'`)
    // One scale for the 32 values of a head.
    expect(bytes).toEqual({ kv: (32 + 4) / (2 * 32), text: info.text })
    expect(kv).toBe(0)
    expect(context).toBe(512)
    expect(none).toMatchObject({ code: 'OUT_OF_MEMORY', message: expect.stringContaining('load a smaller model') })
  })

  it('says at load what a GPU that is too small lacks', () => {
    const found = emulated(`told(await caught(loadModel({ device: 'cuda' })))`, { EMULATOR_MEMORY_MIB: '40' })
    expect(found).toMatchObject({ code: 'OUT_OF_MEMORY', message: expect.stringContaining('are missing') })
  })

  it.each([
    ['in place', '0', true],
    ['from a copy', '9', false],
  ])('of integrated kind reads weights %s', (_, cost, inPlace) => {
    const { told, said } = emulatedWith(
      `const model = await loadModel(${JSON.stringify(alignedCopy())}, { device: 'cuda', maxContext: 512 })
       const { text } = await model.ask(views, question)
       await model.dispose()
       told(text)`,
      { EMULATOR_INTEGRATED: '1', EMULATOR_MAPPED_COST: cost, EMULATOR_STRICT: '1', EMULATOR_STATS: '1' },
    )
    // Without it only the four timed passes over the file read it where it lies.
    const reads = Number(/(\d+) mapped reads/.exec(said)![1])
    expect(reads > (4 * weightsFile) / 16).toBe(inPlace)
    expect(told).toBe('There are two pedestrians to the front of the ego car.')
  })

  it('of 8 GB, six of them free, holds what doctor proposes', () => {
    const lines = emulated(
      `const { cardLines, cardPlanner, proposeForCard } = await import(${JSON.stringify(path.join(root, 'dist/cli/doctor-card.js'))})
       const { loadAddon } = await import(${JSON.stringify(path.join(root, 'dist/native.js'))})
       told(cardLines(proposeForCard(cardPlanner(loadAddon(), 'cuda:0'))))`,
      { EMULATOR_MEMORY_MIB: '6144' },
    )
    expect(lines).toEqual([
      expect.stringMatching(/^1B: weights bf16, KV cache bf16, context 8192 /),
      expect.stringMatching(/^2B: weights bf16, KV cache bf16, context 8192 /),
      expect.stringMatching(/^4B: weights int8, KV cache int8, context 4096 /),
    ])
  })

  it('says what a model takes in each format, and what is free', () => {
    const cli = path.join(root, 'dist/cli/main.js')
    const asked = 'inspect --weights int4 --activations int8 --kv-cache int8 --max-context 512'.split(' ')
    const { stdout } = spawnSync(process.execPath, [cli, ...asked], {
      env: { ...process.env, DRIVLM_ADDON: addon, EMULATOR_MEMORY_MIB: '6144' },
      encoding: 'utf8',
    })
    expect(stdout).toMatch(/memory .* on cuda:0 in int4, activations int8, KV cache int8, context 512/)
    expect(stdout).toMatch(/by weights +bf16 .*; with a KV cache in int8: .*, int4 .* MiB; 6\.00 GiB are free\n/)
  })

  it('tells settings that do together where no single one makes a model fit', () => {
    const { message, text } = emulated(
      `const load = (options) => loadModel({ device: 'cuda', maxMemory: 30_000_000, ...options })
       const { message } = await caught(load({}))
       const [, weights, kvCache, maxContext] =
         /It would fit with weights: '(.*)', kvCache: '(.*)' and maxContext: (\\d+) together\\.$/.exec(message)
       const model = await load({ weights, kvCache, maxContext: Number(maxContext) })
       told({ message, text: (await model.ask(views, question)).text })`,
    )
    expect(message).toContain("weights: 'int8', kvCache: 'bf16' and maxContext: 256 together")
    expect(text).toContain('pedestrians')
  })

  it('keeps weights in 8 bits in the folder, and reads them the next time', () => {
    const folder = alignedCopy()
    const { first, second, damaged, texts } = emulated(
      `const { readFileSync, writeFileSync } = await import('node:fs')
       const texts = []
       const load = async (asked) => {
         const model = await loadModel(${JSON.stringify(folder)}, { device: 'cuda', maxContext: 512, weights: 'int8', cache: true })
         if (asked) texts.push((await model.ask(views, question, { maxNewTokens: 4 })).text)
         await model.dispose()
         return model.info.cache
       }
       const [first, second] = [await load(true), await load(true)]
       const bytes = readFileSync(first.file)
       bytes[bytes.length - 300] ^= 1
       writeFileSync(first.file, bytes)
       told({ first, second, damaged: await load(false), texts })`,
    )
    const file = path.join(folder, 'drivlm-int8-cuda.cache')
    expect({ first, second }).toEqual({ first: { file, state: 'written' }, second: { file, state: 'read' } })
    expect(damaged).toEqual({ file, state: 'written', reason: expect.stringContaining('is damaged') })
    expect(texts[0]).toBe(texts[1])
    expect(texts[0]).toContain('There are')
  })

  it.each([
    ['no GPU', { EMULATOR_DEVICES: '0' }, /no CUDA-capable device|no NVIDIA GPU/],
    ['a driver that is too old', { EMULATOR_DRIVER: '11080' }, /driver is too old: it supports CUDA 11\.8/],
    ['a driver that is not running', { EMULATOR_DRIVER: '0' }, /driver is not running/],
    ['a GPU without code for it', { EMULATOR_CAPABILITY: '75' }, /compute capability 7\.5/],
  ])('%s: a sentence for cuda, the CPU for auto', (_, env, why) => {
    const { error, device, reason } = emulated(
      `const error = await caught(loadModel({ device: 'cuda' }))
       const model = await loadModel({ device: 'auto' })
       told({ error, device: model.info.device, reason: model.info.deviceReason })`,
      env,
    )
    expect(error).toMatchObject({ code: 'DEVICE_UNAVAILABLE', message: expect.stringMatching(why) })
    expect(error.message).toContain("{ device: 'cpu' }")
    expect(device).toBe('cpu')
    expect(reason).toMatch(why)
  })

  it('a kernel that fails in use ends that model alone', () => {
    const { lost, later, dispose, text } = emulated(
      `const model = await loadModel({ device: 'cuda', maxContext: 512 })
       const other = await loadModel({ device: 'cpu', precision: 'f32', maxContext: 512 })
       const lost = await caught(model.ask(views, question))
       const later = await caught(model.ask(views, question))
       const dispose = await caught(model.dispose())
       told({ lost, later, dispose, text: (await other.ask(views, question)).text })`,
      { EMULATOR_FAIL_LAUNCH: '30' },
    )
    expect(lost).toMatchObject({ code: 'DEVICE_LOST', message: expect.stringContaining('can no longer be used') })
    expect(later).toMatchObject({ code: 'DEVICE_LOST' })
    expect(dispose).toBe('nothing')
    expect(text).toContain('pedestrians')
  })
})

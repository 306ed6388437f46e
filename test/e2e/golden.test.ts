// The golden runner itself: right on reference data, wrong on damaged data, and never content with nothing.
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { run } from './run.ts'

const root = path.resolve(import.meta.dirname, '..', '..')
const fixtures = path.join(root, 'test', 'fixtures')
let dir: string
beforeAll(() => {
  dir = mkdtempSync(path.join(os.tmpdir(), 'drivlm-golden-test-'))
})
afterAll(() => rmSync(dir, { recursive: true, force: true }))

const golden = (...args: string[]) => run([path.join(root, 'scripts', 'golden.mjs'), ...args])

it('every fixture is reproduced', async () => {
  const folders = ['golden', 'preprocess', 'canvas', 'prompts', 'drivelm', 'logs'].map((name) =>
    path.join(fixtures, name),
  )
  const { code, stdout } = await golden(...folders)
  expect(stdout).toMatch(/\n\d+ passed, 0 failed\n$/)
  for (const stage of ['llm.layer1 f32', 'greedy ids (16) f32', 'projector bf16', 'prompt ids', 'moments at 2 Hz'])
    expect(stdout).toContain(stage)
  expect(code).toBe(0)
})

it('says so when a stored value differs', async () => {
  const copy = path.join(dir, 'changed')
  cpSync(path.join(fixtures, 'golden', 'b2-internlm2-ntk'), copy, { recursive: true })
  const file = path.join(copy, 'golden.safetensors')
  const bytes = readFileSync(file)
  const header = Number(bytes.readBigUInt64LE())
  const [begin] = JSON.parse(bytes.subarray(8, 8 + header).toString())['c1.llm.layer0'].data_offsets
  bytes.writeFloatLE(bytes.readFloatLE(8 + header + begin) + 0.01, 8 + header + begin)
  writeFileSync(file, bytes)
  const { code, stdout } = await golden('--precision', 'f32', copy)
  expect(stdout).toMatch(/FAIL b2-internlm2-ntk c1 +llm\.layer0 f32/)
  expect(stdout).toMatch(/ 1 failed\n$/)
  expect(code).toBe(1)
})

it('compares labels, packing and schedules of training, and says so when a label differs', async () => {
  const copy = path.join(dir, 'training')
  cpSync(path.join(fixtures, 'training'), copy, { recursive: true })
  rmSync(path.join(copy, 'models'), { recursive: true }) // network.test.ts has them
  symlinkSync(path.join(fixtures, 'tokenizer'), path.join(dir, 'tokenizer'))
  const right = await golden(copy)
  for (const stage of ['labels, a1-qwen2', 'labels, b1-internlm2', 'packing', 'schedule'])
    expect(right.stdout).toMatch(new RegExp(`ok .*${stage}`))
  expect(right.stdout).toMatch(/\n\d+ passed, 0 failed\n$/)
  expect(right.code).toBe(0)
  const file = path.join(copy, 'labels.json')
  const labels = JSON.parse(readFileSync(file, 'utf8'))
  labels.templates[1].cases[0].labels.fill(-100)
  writeFileSync(file, JSON.stringify(labels))
  const wrong = await golden(copy)
  expect(wrong.stdout).toMatch(/FAIL internlm2-chat +labels, b1-internlm2 +1 {2}bound 0/)
  expect(wrong.stdout).toMatch(/ 1 failed\n$/)
  expect(wrong.code).toBe(1)
})

it('tells the errors of other formats, which have no bounds', async () => {
  const e1 = path.join(fixtures, 'golden', 'e1-qwen3')
  const { code, stdout } = await golden('--errors', '--weights', 'int8', '--activations', 'int8', e1)
  expect(stdout).toMatch(/ok {3}e1-qwen3 c1 +logits bf16 +0\.0\d+ {2}bound none/)
  const percent = '\\d\\.\\d\\d %'
  expect(stdout).toMatch(new RegExp(`\\| e1-qwen3 (\\| ${percent} ){4}\\| \\d\\.\\d{3} \\| \\d+ of \\d+ \\|`))
  expect(stdout).toMatch(/\n\d+ passed, 0 failed\n$/)
  expect(code).toBe(0)
  const bf16 = await golden('--errors', e1)
  const logits = (text: string) => Number(/e1-qwen3 c1 +logits bf16 +(\S+)/.exec(text)![1])
  expect(logits(stdout)).toBeGreaterThan(1.5 * logits(bf16.stdout))
})

it('fails at what is no number, and refuses formats that have no bounds without --errors', async () => {
  const copy = path.join(dir, 'nan')
  cpSync(path.join(fixtures, 'golden', 'e1-qwen3'), copy, { recursive: true })
  const file = path.join(copy, 'model.safetensors')
  const bytes = readFileSync(file)
  // NaN in bf16 and f32, in a matrix: vectors are looked through when they are loaded.
  const header = Number(bytes.readBigUInt64LE(0))
  const [begin] = JSON.parse(bytes.toString('utf8', 8, 8 + header))['mlp1.3.weight'].data_offsets
  bytes.fill(0xff, 8 + header + begin, 8 + header + begin + 64)
  writeFileSync(file, bytes)
  const { code, stdout } = await golden('--errors', copy)
  expect(stdout).toMatch(/FAIL .* not a number at \d+/)
  expect(code).toBe(1)
  expect((await golden('--weights', 'int8', copy)).code).toBe(2)
  expect((await golden('--errors', '--precision', 'f32', copy)).code).toBe(2)
})

it('fails when there is nothing to run', async () => {
  mkdirSync(path.join(dir, 'empty'))
  const { code, stdout, stderr } = await golden(path.join(dir, 'empty'))
  expect(stdout).toContain('no golden folder in it')
  expect(stderr).toContain('Nothing was compared.')
  expect(code).toBe(1)
  expect((await golden(path.join(dir, 'absent'))).code).toBe(1)
  expect((await golden()).code).toBe(2)
})

#!/usr/bin/env node
// npm run test:kernels: the CUDA kernels without a GPU. Builds the emulated backend and runs, in both flavours, every op case with three
// seeds; then the planted bugs, the reference checkpoints and the bundled model through the addon over the emulated backend.
//
//   node scripts/test-kernels.mjs [--out=DIR] [--quick]      --quick: one seed, no planted bugs
//
// Reference outputs are looked for in the folder DRIVLM_SHARED, or `shared` beside the repository; without them those phases say
// so. Without CUDA headers the whole says that it is skipped, and why.

import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..')
const outArgument = process.argv.find((argument) => argument.startsWith('--out='))
const out = path.resolve(root, outArgument?.slice('--out='.length) ?? '.cmake-build')
const quick = process.argv.includes('--quick')
const shared = process.env.DRIVLM_SHARED ?? path.resolve(root, '..', 'shared')
const emulator = path.join(out, 'test', 'emulator')
const flavours = ['fast', 'checked']
let failed = 0

function run(command, args, env = {}) {
  const { status, stdout, stderr } = spawnSync(command, args, {
    cwd: root,
    env: { ...process.env, ...env },
    encoding: 'utf8',
    maxBuffer: 1 << 28,
    timeout: 600_000,
  })
  return { ok: status === 0, output: `${stdout}${stderr}`, stdout }
}

function phase(name, body) {
  const started = performance.now()
  const { ok, output } = body()
  const seconds = ((performance.now() - started) / 1000).toFixed(1)
  const lines = output.trimEnd().split('\n')
  console.log(`${ok ? 'ok  ' : 'FAIL'} ${name}: ${lines.at(-1)} (${seconds} s)`)
  if (ok) return
  failed++
  console.log(
    lines
      .filter((line) => !/^\s*ok /.test(line))
      .slice(0, 60)
      .join('\n'),
  )
}

const build = spawnSync(process.execPath, [path.join(root, 'scripts', 'build-native.mjs'), `--out=${out}`], {
  env: { ...process.env, DRIVLM_TESTS: 'ON', DRIVLM_EMULATOR: 'ON', DRIVLM_CUDA: process.env.DRIVLM_CUDA ?? 'OFF' },
  stdio: 'inherit',
})
if (build.status !== 0) process.exit(1)
if (!existsSync(path.join(emulator, 'cuda_test_fast'))) {
  console.log(
    'test:kernels: skipped, there are no CUDA headers here (cuda_bf16.h; set CUDA_PATH to a toolkit of 12.2 or newer)',
  )
  process.exit(0)
}

for (const flavour of flavours) {
  for (const seed of quick ? ['0'] : ['0', '1', '2']) {
    phase(`ops, ${flavour}, seed ${seed}`, () =>
      run(path.join(emulator, `cuda_test_${flavour}`), [], { EMULATOR_SEED: seed }),
    )
  }
}
if (!quick) {
  phase('planted bugs', () => run(process.execPath, [path.join(root, 'test', 'emulator', 'planted.mjs'), out]))
}

phase('typescript', () =>
  run(process.execPath, [path.join(root, 'node_modules', 'typescript', 'bin', 'tsc'), '-p', root]),
)
const models = ['b1-internlm2', 'c1-phi3', 'e1-qwen3', 'f1-hf-qwen2'].map((name) =>
  path.join(shared, 'golden', 'models', name),
)
for (const flavour of flavours) {
  const env = { DRIVLM_ADDON: path.join(emulator, `drivlm_emulated_${flavour}.node`), EMULATOR_STRICT: '1' }
  if (models.every((dir) => existsSync(dir))) {
    const args = [
      path.join(root, 'scripts', 'golden.mjs'),
      '--device',
      'cuda',
      '--precision',
      'bf16',
      '--failed',
      ...models,
    ]
    phase(`reference checkpoints, ${flavour}`, () => run(process.execPath, args, env))
  } else {
    console.log(`skip reference checkpoints, ${flavour}: ${path.join(shared, 'golden', 'models')} is not there`)
  }
}

// The bundled model's answers on the emulated GPU are those of the CPU in f32.
for (const flavour of flavours)
  phase(`street-tiny, ${flavour}`, () => {
    const demo = (args, env) => {
      const told = run(process.execPath, [path.join(root, 'dist', 'cli', 'main.js'), 'demo', '--json', ...args], env)
      if (!told.ok) throw new Error(told.output)
      return [...told.stdout.matchAll(/"answer": *"((?:[^"\\]|\\.)*)"/g)].map((match) => match[1])
    }
    try {
      const addon = path.join(emulator, `drivlm_emulated_${flavour}.node`)
      const got = demo(['--device', 'cuda'], { DRIVLM_ADDON: addon, EMULATOR_STRICT: '1' })
      const want = demo(['--device', 'cpu', '--precision', 'f32'], { DRIVLM_ADDON: addon })
      const wrong = got.map((answer, i) => [answer, want[i]]).filter(([a, b]) => a !== b)
      const ok = want.length > 0 && got.length === want.length && wrong.length === 0
      return { ok, output: `${wrong.map(([a, b]) => `cuda "${a}", cpu "${b}"\n`).join('')}${got.length} answers` }
    } catch (error) {
      return { ok: false, output: String(error.message) }
    }
  })

console.log(failed === 0 ? 'test:kernels: all passed' : `test:kernels: ${failed} phases failed`)
process.exit(failed === 0 ? 0 : 1)

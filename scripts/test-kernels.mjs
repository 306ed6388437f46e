#!/usr/bin/env node
// npm run test:kernels: the CUDA kernels without a GPU. Builds the emulated backend and runs, in both flavours, every op case with three
// seeds; then the planted bugs, the reference checkpoints and street-tiny's validation set through the addon over the emulated backend.
//
//   node scripts/test-kernels.mjs [--out=DIR] [--quick | --whole] [--seeds=0,1,2]
//
//   --seeds    of the op cases; "npm test" runs them with 0
//   --quick    one seed, no planted bugs, a tenth of street-tiny
//   --whole    both flavours run all of street-tiny; without it the fast one runs a sixth, the checked one a fifteenth
//   JOBS=2     phases at a time; the cores this process may use unless told otherwise
//
// Reference outputs are looked for in the folder DRIVLM_SHARED, or `shared` beside the repository; without them those phases say
// so. The emulator needs a toolkit's headers, not nvcc; without them the whole says that it is skipped, and why.

import { spawn, spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..')
const outArgument = process.argv.find((argument) => argument.startsWith('--out='))
const out = path.resolve(root, outArgument?.slice('--out='.length) ?? '.cmake-build')
const quick = process.argv.includes('--quick')
const whole = process.argv.includes('--whole')
const seedArgument = process.argv.find((argument) => argument.startsWith('--seeds='))
const seeds = seedArgument?.slice('--seeds='.length).split(',') ?? (quick ? ['0'] : ['0', '1', '2'])
const shared = process.env.DRIVLM_SHARED ?? path.resolve(root, '..', 'shared')
const emulator = path.join(out, 'test', 'emulator')
const flavours = ['fast', 'checked']
const started = performance.now()

const build = spawnSync(process.execPath, [path.join(root, 'scripts', 'build-native.mjs'), `--out=${out}`], {
  env: { ...process.env, DRIVLM_TESTS: 'ON', DRIVLM_EMULATOR: 'ON' },
  stdio: 'inherit',
})
if (build.status !== 0) process.exit(1)
if (!existsSync(path.join(emulator, 'cuda_test_fast'))) {
  console.log(
    'test:kernels: skipped, there are no CUDA headers here (cuda_bf16.h; set CUDA_PATH to a toolkit of 12.2 or newer)',
  )
  process.exit(0)
}
const compiler = path.join(root, 'node_modules', 'typescript', 'bin', 'tsc')
if (spawnSync(process.execPath, [compiler, '-p', root], { stdio: 'inherit' }).status !== 0) process.exit(1)

const phases = []
function phase(name, command, args, env = {}) {
  phases.push({ name, command, args, env })
}

/** Folders of reference outputs, compared on the emulated GPU. */
function golden(name, flavour, folders, options = []) {
  const missing = folders.find((dir) => !existsSync(dir))
  if (missing) {
    console.log(`skip ${name}, ${flavour}: ${missing} is not there`)
    return
  }
  const fixed = ['--device', 'cuda', '--precision', 'bf16', '--failed']
  phase(
    `${name}, ${flavour}`,
    process.execPath,
    [path.join(root, 'scripts', 'golden.mjs'), ...fixed, ...options, ...folders],
    {
      DRIVLM_ADDON: path.join(emulator, `drivlm_emulated_${flavour}.node`),
      EMULATOR_STRICT: '1',
    },
  )
}

// The longest first, so that the last ones even out.
const models = [path.join(shared, 'golden', 'models')]
const street = [path.join(shared, 'models', 'street-tiny')]
const scenesOf = { fast: whole ? 1 : quick ? 10 : 6, checked: whole ? 1 : quick ? 60 : 15 }
for (const flavour of flavours) {
  const every = scenesOf[flavour]
  golden(every === 1 ? 'street-tiny' : `street-tiny, one scene in ${every}`, flavour, street, ['--every', `${every}`])
}
for (const [weights, activations, kvCache] of [
  ['int8', 'int8', 'bf16'],
  ['int4', 'bf16', 'int8'],
]) {
  const formats = ['--weights', weights, '--activations', activations, '--kv-cache', kvCache, '--errors']
  const what = `street-tiny in ${weights}, activations ${activations}, cache ${kvCache}, one scene in 20`
  golden(what, 'fast', street, ['--every', '20', ...formats])
}
if (!quick) phase('planted bugs', process.execPath, [path.join(root, 'test', 'emulator', 'planted.mjs'), out])
for (const flavour of [...flavours].reverse()) {
  for (const seed of seeds) {
    phase(`ops, ${flavour}, seed ${seed}`, path.join(emulator, `cuda_test_${flavour}`), [], { EMULATOR_SEED: seed })
  }
  golden('reference checkpoints', flavour, models)
}

function run({ name, command, args, env }) {
  const began = performance.now()
  return new Promise((resolve) => {
    const child = spawn(command, args, { cwd: root, env: { ...process.env, ...env }, timeout: 1_800_000 })
    let output = ''
    for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text) => (output += text))
    child.on('error', (error) => (output += error.message))
    child.on('close', (status) => {
      const lines = output.trimEnd().split('\n')
      const ok = status === 0
      console.log(
        `${ok ? 'ok  ' : 'FAIL'} ${name}: ${lines.at(-1)} (${((performance.now() - began) / 1000).toFixed(1)} s)`,
      )
      if (!ok) {
        const shown = lines.filter((line) => !/^\s*ok /.test(line)).slice(0, 60)
        console.log(shown.join('\n'))
      }
      resolve(ok)
    })
  })
}

const queue = [...phases]
let failed = 0
async function work() {
  for (let next = queue.shift(); next; next = queue.shift()) if (!(await run(next))) failed++
}
const workers = Math.max(1, Number(process.env.JOBS ?? os.availableParallelism()))
await Promise.all(Array.from({ length: workers }, work))

const seconds = ((performance.now() - started) / 1000).toFixed(0)
const verdict = failed === 0 ? 'all passed' : `${failed} phases failed`
console.log(`test:kernels: ${phases.length} phases in ${seconds} s, ${verdict}`)
process.exit(failed === 0 ? 0 : 1)

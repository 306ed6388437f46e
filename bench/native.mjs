// The native benches: built where they are missing or old, run, and their JSON read.
import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { packageRoot } from '../dist/native.js'

const folder = path.join(packageRoot, '.cmake-build')
const cache = path.join(folder, 'CMakeCache.txt')

/** Whether the folder was configured with benches; its other options stay as they are. */
const configured = () => existsSync(cache) && /^DRIVLM_(BENCH|TESTS):\w+=ON$/m.test(readFileSync(cache, 'utf8'))

/** Options that the folder was configured with, so that turning the benches on changes nothing else. */
function keptOptions() {
  if (!existsSync(cache)) return {}
  const found = [...readFileSync(cache, 'utf8').matchAll(/^(DRIVLM_(?:CUDA|TESTS|EMULATOR|SANITIZE)):\w+=(.*)$/gm)]
  return Object.fromEntries(found.map(([, name, value]) => [name, value]))
}

const executable = (name) => path.join(folder, name)

/**
 * Builds the benches and returns their paths; on CUDA, `gpuCheck` too. What the compiler says goes to stderr. DRIVLM_GPU_CHECK names a
 * program that is built already.
 */
export function buildBenches(device) {
  const given = process.env.DRIVLM_GPU_CHECK
  const onGpu = device.startsWith('cuda')
  const targets = [
    'drivlm_peaks',
    'drivlm_bench',
    'drivlm_train_bench',
    ...(onGpu && !given ? ['drivlm_gpu_check'] : []),
  ]
  const stdio = ['ignore', 2, 2]
  if (!configured()) {
    const script = path.join(packageRoot, 'scripts', 'build-native.mjs')
    const env = { ...keptOptions(), ...process.env, DRIVLM_BENCH: 'ON' }
    spawnSync(process.execPath, [script], { env, stdio })
  } else {
    const quiet = ['ignore', 'ignore', 2]
    spawnSync('cmake', ['--build', folder, '--parallel', '2', '--target', ...targets], { stdio: quiet })
  }
  const missing = targets.filter((name) => !existsSync(executable(name)))
  if (missing.length > 0) throw new Error(`The native benches could not be built (${missing.join(', ')}); see above.`)
  return {
    peaks: executable('drivlm_peaks'),
    kernels: executable('drivlm_bench'),
    train: executable('drivlm_train_bench'),
    ...(onGpu ? { gpuCheck: given ?? executable('drivlm_gpu_check') } : {}),
  }
}

/** Runs drivlm_gpu_check on the card that `cuda` or `cuda:N` names: its peaks under the names of the CPU's, and its rows. */
export function runGpuCheck(program, device, args) {
  const [, index = '0'] = device.split(':')
  // The program takes the first card that it sees.
  const card = process.env.CUDA_VISIBLE_DEVICES?.split(',')[Number(index)] ?? index
  const { peaks, rows } = runToFile(program, args, { CUDA_VISIBLE_DEVICES: card })
  const { matrix_tflops: bf16, byte_tops: u8s8, copy_gbs } = peaks
  return { peaks: { bf16_gflops: 1000 * bf16, u8s8_gops: 1000 * u8s8, read_gbs: copy_gbs }, rows }
}

/** Runs a bench that prints its result as JSON. */
export function runJson(program, args) {
  const run = spawnSync(program, args, { encoding: 'utf8', maxBuffer: 1 << 26, stdio: ['ignore', 'pipe', 2] })
  if (run.status !== 0)
    throw new Error(`${path.basename(program)} ended with ${run.signal ?? run.status ?? run.error}.`)
  return JSON.parse(run.stdout)
}

/** Runs a bench that prints for people and writes its result to the file it is given with --json. */
export function runToFile(program, args, env = {}) {
  const scratch = mkdtempSync(path.join(os.tmpdir(), 'drivlm-bench-'))
  const file = path.join(scratch, 'result.json')
  try {
    const options = { env: { ...process.env, ...env }, stdio: ['ignore', 2, 2] }
    const run = spawnSync(program, [...args, '--json', file], options)
    const name = path.basename(program === process.execPath ? args[0] : program)
    if (run.status !== 0) throw new Error(`${name} ended with ${run.signal ?? run.status ?? run.error}.`)
    return JSON.parse(readFileSync(file, 'utf8'))
  } finally {
    rmSync(scratch, { recursive: true, force: true })
  }
}

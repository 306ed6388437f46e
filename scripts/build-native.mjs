#!/usr/bin/env node
// The one way the addon is built: cmake-js configures and builds CMakeLists.txt, which leaves build/Release/drivlm.node.
//
// Called by `npm run build:native`, by the install script, by binding.gyp's action, and by prebuildify in place of node-gyp, whose
// arguments are ignored.
//
//   --install          first try the prebuilt addon; build only if it cannot be loaded
//   --clean            start from an empty build folder
//   --out=DIR          build folder, .cmake-build unless told otherwise
//   DRIVLM_CUDA=OFF …  every DRIVLM_* option of CMakeLists.txt, from the environment
//   JOBS=2             compilers at a time
//
// CUDA code is built for the GPUs of this machine; without one as PTX, which the driver compiles on first use; for every architecture
// we ship under prebuildify. DRIVLM_CUDA_ARCHS says otherwise (CMAKE_CUDA_ARCHITECTURES).

import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync, rmSync } from 'node:fs'
import { createRequire } from 'node:module'
import os from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..')
const require = createRequire(import.meta.url)
const installing = process.argv.includes('--install')
const outArgument = process.argv.find((argument) => argument.startsWith('--out='))
const out = path.resolve(root, outArgument?.slice('--out='.length) ?? '.cmake-build')

if (installing) {
  // In a process of its own: a damaged binary can kill the process that loads it.
  const loaded = spawnSync(
    process.execPath,
    ['-e', 'require(process.argv[1])(process.argv[2])', require.resolve('node-gyp-build'), root],
    { encoding: 'utf8' },
  )
  if (loaded.status === 0) process.exit(0)
  const reason = loaded.stderr.match(/^Error: (.*)/m)?.[1] ?? `loading it ended with ${loaded.signal ?? loaded.status}`
  console.error(`drivlm: no usable prebuilt addon (${reason.slice(0, 160)}); building from source`)
  // What cannot be loaded must not be found again before the build's own result.
  rmSync(path.join(root, 'build', 'Release', 'drivlm.node'), { force: true })
}

const cmakeJsPackage = require.resolve('cmake-js/package.json')
const cmakeJs = path.join(path.dirname(cmakeJsPackage), require(cmakeJsPackage).bin['cmake-js'])
const jobs = process.env.JOBS ?? String(os.availableParallelism())

/** CMAKE_CUDA_ARCHITECTURES for this build; undefined for CMakeLists.txt's list, which is what we ship. */
function cudaArchitectures() {
  if (process.argv.includes('rebuild')) return undefined // as prebuildify calls node-gyp
  const query = spawnSync('nvidia-smi', ['--query-gpu=compute_cap', '--format=csv,noheader'], { encoding: 'utf8' })
  const found = [...(query.stdout ?? '').matchAll(/^(\d+)\.(\d)$/gm)].map(([, major, minor]) => `${major}${minor}-real`)
  if (found.length > 0) return [...new Set(found)].join(';')
  const board = existsSync('/proc/device-tree/compatible') ? readFileSync('/proc/device-tree/compatible', 'utf8') : ''
  if (board.includes('tegra234')) return '87-real' // Jetson Orin
  if (board.includes('tegra264')) return '110-real' // Jetson Thor
  return '80-virtual'
}

// Configuration options are passed every time, so that none goes stale in the cache.
const defaults = {
  DRIVLM_CUDA: 'AUTO',
  DRIVLM_TESTS: 'OFF',
  DRIVLM_BENCH: 'OFF',
  DRIVLM_EMULATOR: 'OFF',
  DRIVLM_SANITIZE: '',
}
const optionNames = ['CUDA', 'CUDA_ARCHS', 'NODE', 'TESTS', 'BENCH', 'EMULATOR', 'SANITIZE'].map(
  (name) => `DRIVLM_${name}`,
)
const options = optionNames.flatMap((name) => {
  const value = process.env[name] ?? (name === 'DRIVLM_CUDA_ARCHS' ? cudaArchitectures() : defaults[name])
  return value === undefined ? [] : [`--CD${name}=${value}`]
})
// node-gyp's make may be our parent, and its settings are not for ours.
const { MAKEFLAGS, MFLAGS, MAKELEVEL, ...env } = process.env

if (process.argv.includes('--clean')) rmSync(out, { recursive: true, force: true })
for (const step of ['configure', 'build']) {
  const parallel = step === 'build' ? ['-p', jobs] : []
  const run = spawnSync(
    process.execPath,
    [cmakeJs, step, '-d', root, '-O', out, '-l', 'warn', ...parallel, ...options],
    {
      cwd: root,
      env,
      stdio: 'inherit',
    },
  )
  if (run.status !== 0) {
    console.error(
      'drivlm: the native build failed. It needs cmake >= 3.22, make or ninja, and a C++20 compiler (g++ >= 11).',
    )
    process.exit(run.status ?? 1)
  }
}
if (installing && !existsSync(path.join(root, '.git'))) rmSync(out, { recursive: true, force: true })

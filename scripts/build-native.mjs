#!/usr/bin/env node
// The one way the addon is built: CMake configures and builds CMakeLists.txt, which leaves build/Release/drivlm.node.
//
// Called by `npm run build:native`, by `drivlm build` at a user's, by scripts/prebuild, by binding.gyp's action, and by npm as the
// `prepare` script: after `npm ci` in a checkout.
//
//   --prepare          in a checkout, the TypeScript and the addon; in an installed package nothing
//   --clean            start from an empty build folder
//   --out=DIR          build folder, .cmake-build unless told otherwise
//   --arch=ARCH        fail unless the addon comes out for this architecture, as Node names it
//   DRIVLM_CUDA=OFF …  every DRIVLM_* option of CMakeLists.txt, from the environment
//   JOBS=2             compilers at a time
//
// CUDA code is built for the GPUs of this machine; without one as PTX, which the driver compiles on first use. DRIVLM_CUDA_ARCHS says
// otherwise (CMAKE_CUDA_ARCHITECTURES). CMAKE_TOOLCHAIN_FILE and CXXFLAGS are CMake's own.

import { spawnSync } from 'node:child_process'
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { createRequire } from 'node:module'
import os from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..')
const argument = (name) => process.argv.find((one) => one.startsWith(`--${name}=`))?.slice(name.length + 3)
const out = path.resolve(root, argument('out') ?? '.cmake-build')
const cmake = process.env.CMAKE ?? 'cmake'

if (process.argv.includes('--prepare')) {
  // npm runs `prepare` of a linked package too, where there is nothing to compile from.
  if (!existsSync(path.join(root, 'lib', 'native.ts'))) process.exit(0)
  run(process.execPath, [path.join(root, 'scripts', 'embed-page.mjs')])
  run(process.execPath, [path.join(root, 'node_modules', 'typescript', 'bin', 'tsc'), '-p', root])
  // What is packed has no addon of this machine: neither for `npm pack`, nor for npm's clone of a git dependency, which it packs.
  const packing = ['pack', 'publish'].includes(process.env.npm_command) || process.env._PACOTE_NO_PREPARE_ !== undefined
  if (packing) process.exit(0)
}

function run(command, args, options = {}) {
  const { status, error } = spawnSync(command, args, { cwd: root, stdio: 'inherit', ...options })
  if (error?.code === 'ENOENT') console.error(`drivlm: ${command} was not found.`)
  if (status === 0) return
  if (command === cmake) {
    console.error(
      'drivlm: the native build failed. It needs cmake >= 3.22, make or ninja, and a C++20 compiler (g++ >= 11).',
    )
  }
  process.exit(status ?? 1)
}

/**
 * Include folders of Node-API: development dependencies in a checkout; where `drivlm build` put them, in DRIVLM_HEADERS. Copies in the build
 * folder, so that a compiler cache knows them wherever they come from.
 */
function headers() {
  const require = createRequire(path.join(process.env.DRIVLM_HEADERS ?? root, 'package.json'))
  const folder = (name) => path.dirname(require.resolve(`${name}/package.json`))
  const found = {
    'node-api-headers': path.join(folder('node-api-headers'), 'include'),
    'node-addon-api': folder('node-addon-api'),
  }
  return Object.entries(found).map(([name, from]) => {
    const to = path.join(out, 'headers', name)
    mkdirSync(to, { recursive: true })
    for (const file of readdirSync(from).filter((one) => one.endsWith('.h'))) {
      const text = readFileSync(path.join(from, file))
      // What did not change keeps its time, and nothing is compiled again.
      if (!existsSync(path.join(to, file)) || !text.equals(readFileSync(path.join(to, file))))
        writeFileSync(path.join(to, file), text)
    }
    return to
  })
}

/** CMAKE_CUDA_ARCHITECTURES for this machine. */
function cudaArchitectures() {
  const query = spawnSync('nvidia-smi', ['--query-gpu=compute_cap', '--format=csv,noheader'], { encoding: 'utf8' })
  const found = [...(query.stdout ?? '').matchAll(/^(\d+)\.(\d)$/gm)].map(([, major, minor]) => `${major}${minor}-real`)
  if (found.length > 0) return [...new Set(found)].join(';')
  const board = existsSync('/proc/device-tree/compatible') ? readFileSync('/proc/device-tree/compatible', 'utf8') : ''
  if (board.includes('tegra234')) return '87-real' // Jetson Orin
  if (board.includes('tegra264')) return '110-real' // Jetson Thor
  return '80-virtual'
}

/** Node's name for what an ELF file was built for. */
function machineOf(file) {
  const head = Buffer.alloc(20)
  const descriptor = openSync(file, 'r')
  readSync(descriptor, head, 0, 20, 0)
  closeSync(descriptor)
  return { 62: 'x64', 183: 'arm64' }[head.readUInt16LE(18)]
}

if (process.argv.includes('--clean')) rmSync(out, { recursive: true, force: true })
// Options are passed every time, so that none goes stale in the cache.
const addonFolder = process.env.DRIVLM_ADDON_DIR ?? path.join(root, 'build', 'Release')
const defaults = {
  DRIVLM_CUDA: 'AUTO',
  DRIVLM_CUDA_ARCHS: cudaArchitectures(),
  DRIVLM_NODE: 'ON',
  DRIVLM_TESTS: 'OFF',
  DRIVLM_BENCH: 'OFF',
  DRIVLM_EMULATOR: 'OFF',
  DRIVLM_SANITIZE: '',
  DRIVLM_LINE_INFO: 'ON',
  DRIVLM_ADDON_DIR: addonFolder,
}
const options = Object.entries(defaults).map(([name, value]) => `-D${name}=${process.env[name] ?? value}`)
options.push('-DCMAKE_BUILD_TYPE=Release', `-DDRIVLM_NODE_INCLUDE=${headers().join(';')}`)
// node-gyp's make may be our parent, and its settings are not for ours.
const { MAKEFLAGS, MFLAGS, MAKELEVEL, ...env } = process.env
env.CCACHE_BASEDIR ??= root // CMAKE_CXX_COMPILER_LAUNCHER=ccache then knows the same sources in another folder
const ninja = spawnSync('ninja', ['--version'], { stdio: 'ignore' }).status === 0
const jobs = process.env.JOBS ?? String(os.availableParallelism())

const generator = ninja && !existsSync(path.join(out, 'CMakeCache.txt')) ? ['-G', 'Ninja'] : []
run(cmake, ['-S', root, '-B', out, '--log-level=NOTICE', ...generator, ...options], { env })
run(cmake, ['--build', out, '--parallel', jobs], { env })

const wanted = argument('arch')
const file = path.join(addonFolder, 'drivlm.node')
if (wanted !== undefined && machineOf(file) !== wanted) {
  console.error(
    `drivlm: an addon for ${wanted} was asked for, and the compiler in force made one for ${machineOf(file)}. ` +
      `Cross compilers are named by CMAKE_TOOLCHAIN_FILE; \`npm run prebuild\` does that.`,
  )
  process.exit(1)
}

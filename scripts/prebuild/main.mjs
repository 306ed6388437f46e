#!/usr/bin/env node
// npm run prebuild: the addons that are shipped, prebuilds/linux-{x64,arm64}/drivlm.glibc.node, made on Debian 12 x64 and checked.
//
//   npm run prebuild                    both, with CUDA 12.4 kernels
//   npm run prebuild -- arm64 --cpu     one of them, without GPU code: minutes less, and 13 MB to fetch in place of 2 GB
//
// JOBS=2 says how many compilers run at a time.

import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import path from 'node:path'
import { checkAddon } from './check.mjs'
import { cuda, sysroot } from './fetch.mjs'

const root = path.resolve(import.meta.dirname, '../..')
const targets = {
  // Machine code for every card of a CUDA 12 driver, whose JIT takes no newer PTX; PTX of 90 for Blackwell and later, whose drivers are newer.
  x64: { processor: 'x86_64', architectures: '80-real;86-real;89-real;90-real;90-virtual' },
  arm64: { processor: 'aarch64', architectures: '80-real;86-real;87-real;89-real;90-real;90-virtual' },
}
const known = [...Object.keys(targets), '--cpu']
const unknown = process.argv.slice(2).filter((argument) => !known.includes(argument))
if (unknown.length > 0) fail(`Unknown: ${unknown.join(' ')}. Known are ${known.join(', ')}.`)
const cpuOnly = process.argv.includes('--cpu')
const chosen = Object.keys(targets).filter((arch) => process.argv.includes(arch))
const wanted = chosen.length > 0 ? chosen : Object.keys(targets)

const programs = wanted.flatMap((arch) => [
  `${targets[arch].processor}-linux-gnu-g++-12`,
  `${targets[arch].processor}-linux-gnu-strip`,
])
const missing = ['cmake', 'readelf', 'dpkg-deb', ...programs].filter(
  (name) => spawnSync(name, ['--version'], { stdio: 'ignore' }).status !== 0,
)
if (missing.length > 0) {
  fail(
    `Missing: ${missing.join(', ')}. On Debian 12 x64: apt-get install cmake ninja-build g++-12 g++-12-aarch64-linux-gnu binutils`,
  )
}

for (const arch of wanted) {
  const started = performance.now()
  const { processor, architectures } = targets[arch]
  const toolkit = cpuOnly ? undefined : await cuda(arch)
  const out = path.join(root, `.cmake-build-prebuild-${arch}${cpuOnly ? '-cpu' : ''}`)
  const env = {
    ...process.env,
    CMAKE_TOOLCHAIN_FILE: path.join(import.meta.dirname, 'toolchain.cmake'),
    DRIVLM_TARGET: processor,
    DRIVLM_SYSROOT: await sysroot(arch),
    DRIVLM_ADDON_DIR: out,
    DRIVLM_CUDA: cpuOnly ? 'OFF' : 'ON',
    DRIVLM_CUDA_ARCHS: architectures,
    DRIVLM_LINE_INFO: 'OFF',
    ...(cpuOnly ? {} : { CUDACXX: path.join(toolkit, 'bin', 'nvcc') }),
  }
  run(process.execPath, [path.join(root, 'scripts', 'build-native.mjs'), `--out=${out}`, `--arch=${arch}`], env)

  const folder = path.join(root, 'prebuilds', `linux-${arch}`)
  const scratch = path.join(out, 'stripped.node')
  copyFileSync(path.join(out, 'drivlm.node'), scratch)
  run(`${processor}-linux-gnu-strip`, ['--strip-all', scratch], process.env)
  const cuobjdump = cpuOnly ? undefined : path.join(toolkit, 'bin', 'cuobjdump')
  let found
  try {
    found = checkAddon(scratch, arch, cuobjdump && { cuobjdump, architectures })
  } catch (error) {
    fail(error.message)
  }
  rmSync(folder, { recursive: true, force: true })
  mkdirSync(folder, { recursive: true })
  renameSync(scratch, path.join(folder, 'drivlm.glibc.node'))
  console.log(
    `prebuilds/linux-${arch}/drivlm.glibc.node: ${found}, in ${((performance.now() - started) / 1000).toFixed(0)} s`,
  )
}

const prebuilds = path.join(root, 'prebuilds')
const files = readdirSync(prebuilds)
  .map((name) => path.join(name, 'drivlm.glibc.node'))
  .filter((file) => existsSync(path.join(prebuilds, file)))
const sums = files.map(
  (file) =>
    `${createHash('sha256')
      .update(readFileSync(path.join(prebuilds, file)))
      .digest('hex')}  ${file}\n`,
)
writeFileSync(path.join(prebuilds, 'SHA256SUMS'), sums.join(''))

function run(command, args, env) {
  const { status, error } = spawnSync(command, args, { cwd: root, env, stdio: ['ignore', 'inherit', 'inherit'] })
  if (status !== 0) fail(`${path.basename(command)} failed${error ? `: ${error.message}` : ''}.`)
}

function fail(message) {
  console.error(`prebuild: ${message}`)
  process.exit(1)
}

#!/usr/bin/env node
// npm run test:arm64: the C++ tests of the CPU's kernels for arm64, cross-compiled and run by qemu-user. It needs Debian's g++-12-aarch64-linux-gnu,
// cmake, ninja-build and qemu-user-static.
//
//   npm run test:arm64                 tests of code that has forms of its own for NEON, but for the longest
//   npm run test:arm64 -- eviction     those whose names contain it; '' is all, in three minutes
//
// JOBS=2 says how many compilers run at a time; the cores this process may use unless told otherwise.

import { spawnSync } from 'node:child_process'
import os from 'node:os'
import path from 'node:path'

const root = path.resolve(import.meta.dirname, '..')
const out = path.join(root, '.cmake-build-arm64')
const jobs = process.env.JOBS ?? String(os.availableParallelism())
const named = process.argv.slice(2)
const forms =
  'cpu_gemm cpu_stream cpu_attention_in cpu_attention_paged cpu_attention_vision cpu_packed training packing products gradients resize'
const names = named.length > 0 ? named : forms.split(' ')
const options = {
  CMAKE_SYSTEM_NAME: 'Linux',
  CMAKE_SYSTEM_PROCESSOR: 'aarch64',
  CMAKE_CXX_COMPILER: 'aarch64-linux-gnu-g++-12',
  CMAKE_EXE_LINKER_FLAGS: '-static', // no libraries of that processor are needed to run it
  DRIVLM_NODE: 'OFF',
  DRIVLM_CUDA: 'OFF',
  DRIVLM_TESTS: 'ON',
}

run('cmake', [
  '-S',
  root,
  '-B',
  out,
  '-G',
  'Ninja',
  ...Object.entries(options).map(([key, value]) => `-D${key}=${value}`),
])
run('cmake', ['--build', out, '--target', 'drivlm_tests', '-j', jobs])
run('qemu-aarch64-static', [path.join(out, 'drivlm_tests'), ...names], { DRIVLM_CPU: 'neon' })

// The compiler may be set for this machine's processor.
function run(command, args, env = {}) {
  const { CXX, ...inherited } = process.env
  const { status, error } = spawnSync(command, args, { cwd: root, env: { ...inherited, ...env }, stdio: 'inherit' })
  if (error) console.error(`test:arm64: ${command} did not start: ${error.message}`)
  if (status !== 0) process.exit(1)
}

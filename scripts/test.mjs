#!/usr/bin/env node
// npm test: everything, from sources. Builds the addon and the C++ tests, runs those, compiles the TypeScript, runs vitest, and last
// packs and installs the package. Prints what each phase took, and ends with `N passed, N failed`.
//
//   node scripts/test.mjs              all of it
//   node scripts/test.mjs native       only the phases whose names are given: native emulator typescript network unit threads package
//
// DRIVLM_SANITIZE=address,undefined makes it a sanitizer build in a folder of its own; of vitest's tests it runs those that drive the
// addon hard. DRIVLM_SANITIZE=thread (`npm run test:threads`) runs random operations on scenes in their place, without vitest, whose
// own threads would be most of the work; any report that names the addon fails.

import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..')
const wanted = process.argv.slice(2)
const sanitizer = process.env.DRIVLM_SANITIZE ?? ''
const out = path.join(root, sanitizer === '' ? '.cmake-build' : `.cmake-build-${sanitizer.replace(/\W/g, '-')}`)
const scratch = mkdtempSync(path.join(os.tmpdir(), 'drivlm-test-'))
process.on('exit', () => rmSync(scratch, { recursive: true, force: true }))

const totals = { passed: 0, failed: 0, skipped: 0 }
const times = []

// With `capture` what it says is shown when it has ended, since another may run beside it.
async function run(command, args, env = {}, capture = false) {
  const child = spawn(command, args, {
    cwd: root,
    env: { ...process.env, ...env },
    stdio: ['ignore', capture ? 'pipe' : 'inherit', 'inherit'],
  })
  let stdout = ''
  child.stdout?.setEncoding('utf8').on('data', (text) => {
    stdout += text
  })
  const [status] = await once(child, 'close')
  if (capture) process.stdout.write(stdout)
  return { status, stdout }
}

// A phase that fails without counting anything counts as one failure.
async function phase(name, body) {
  if (wanted.length > 0 && !wanted.includes(name) && name !== 'build') return
  console.log(`\n== ${name}`)
  const started = performance.now()
  const before = totals.failed
  let sound = false
  try {
    sound = await body()
  } catch (error) {
    console.error(error)
  }
  if (!sound && totals.failed === before) totals.failed++
  times.push(`${name} ${((performance.now() - started) / 1000).toFixed(1)} s`)
}

// A test asks for more memory than there is: sanitizers are to refuse it as the system does.
const nativeSanitizers = {
  ASAN_OPTIONS: 'detect_leaks=1:allocator_may_return_null=1',
  TSAN_OPTIONS: 'allocator_may_return_null=1',
}

// Counts of a C++ test program, from its last line.
async function program(file, env = {}, args = []) {
  const { status, stdout } = await run(file, args, env, true)
  const counts = stdout.match(/(\d+) passed, (\d+) failed\s*$/)
  if (!counts) return false
  totals.passed += Number(counts[1])
  totals.failed += Number(counts[2])
  return status === 0
}

// A Node that runs the sanitized addon needs the sanitizer's runtime before everything else.
function sanitizerRuntime() {
  if (sanitizer === '') return {}
  const library = sanitizer.startsWith('thread') ? 'libtsan.so' : 'libasan.so'
  const found = spawnSync('g++', [`-print-file-name=${library}`], { encoding: 'utf8' }).stdout.trim()
  return {
    DRIVLM_ADDON: path.join(out, 'drivlm.node'),
    LD_PRELOAD: found,
    ASAN_OPTIONS: 'detect_leaks=0',
    UBSAN_OPTIONS: 'print_stacktrace=1',
  }
}

async function vitest(files, env) {
  const report = path.join(scratch, `${files.join('-').replace(/\W/g, '-')}.json`)
  const reporters = ['--reporter=default', '--reporter=json', `--outputFile.json=${report}`]
  const bin = path.join(root, 'node_modules', 'vitest', 'vitest.mjs')
  const { status } = await run(process.execPath, [bin, 'run', ...reporters, ...files], env)
  if (!existsSync(report)) return false
  const { numPassedTests, numFailedTests, numPendingTests, numTodoTests, testResults } = JSON.parse(
    readFileSync(report, 'utf8'),
  )
  // A file that cannot be run at all has no tests to fail.
  const broken = testResults.filter((file) => file.status === 'failed' && file.assertionResults.length === 0).length
  totals.passed += numPassedTests
  totals.failed += numFailedTests + broken
  totals.skipped += numPendingTests + numTodoTests
  return status === 0
}

// Node is not compiled for the sanitizer: what it finds there alone is told, and is not ours.
async function threads() {
  const log = path.join(scratch, 'tsan')
  const suppressions = path.join(root, 'test', 'native', 'thread-sanitizer.supp')
  const env = { ...sanitizerRuntime(), TSAN_OPTIONS: `log_path=${log} exitcode=0 suppressions=${suppressions}` }
  const { status, stdout } = await run(process.execPath, [path.join(root, 'test', 'threads.mjs')], env, true)
  const reports = readdirSync(scratch)
    .filter((name) => name.startsWith('tsan.'))
    .flatMap((name) => readFileSync(path.join(scratch, name), 'utf8').split(/^(?==+\n)/m))
    .filter((text) => text.includes('WARNING: ThreadSanitizer'))
  const ours = reports.filter((text) => text.includes('drivlm.node'))
  for (const report of ours) console.log(report)
  console.log(`${reports.length} reports of ThreadSanitizer, ${ours.length} of them with a frame of the addon`)
  const sound = status === 0 && ours.length === 0 && stdout.includes('sanitizer: thread')
  if (sound) totals.passed++
  return sound
}

// Without the CUDA headers CMake leaves the emulator out, and says so.
await phase('build', async () => {
  const build = [path.join(root, 'scripts', 'build-native.mjs'), `--out=${out}`]
  const options = { DRIVLM_TESTS: 'ON', DRIVLM_EMULATOR: sanitizer === '' ? 'ON' : 'OFF' }
  if (sanitizer !== '') options.DRIVLM_CUDA = 'OFF'
  return (await run(process.execPath, build, options)).status === 0
})

if (totals.failed === 0) {
  const native = phase('native', () => program(path.join(out, 'drivlm_tests'), nativeSanitizers))
  const emulator = phase('emulator', async () => {
    const programs = ['fast', 'checked'].map((flavour) => path.join(out, 'test', 'emulator', `cuda_test_${flavour}`))
    const built = programs.filter((file) => existsSync(file))
    if (built.length === 0) {
      console.log('not built: no CUDA headers here')
      return true
    }
    return (await Promise.all(built.map((file) => program(file)))).every(Boolean)
  })
  // Under a sanitizer the C++ tests are most of the work, and of one core: the others run beside them.
  await (sanitizer === '' ? Promise.all([native, emulator]) : emulator)
  await phase('typescript', async () => {
    const bin = path.join(root, 'node_modules', 'typescript', 'bin', 'tsc')
    const compiled = async (project) => (await run(process.execPath, [bin, '-p', project])).status === 0
    return (await compiled(root)) && (await compiled(path.join(root, 'test')))
  })
  // The network without engine, addon and Node, and its gradients, over the fixtures that have goldens. Its threads are those of the C++ tests.
  const network = async () => {
    const goldens = path.join(root, 'test', 'fixtures', 'golden')
    const folders = readdirSync(goldens).map((name) => path.join(goldens, name))
    const training = path.join(root, 'test', 'fixtures', 'training')
    const files = []
    for (const [script, ...args] of [
      ['dump-network.mjs', ...folders, scratch],
      ['dump-training.mjs', training, goldens, scratch],
    ]) {
      const { status, stdout } = await run(process.execPath, [path.join(root, 'scripts', script), ...args], {}, true)
      if (status !== 0) return false
      files.push(...stdout.trim().split('\n'))
    }
    return program(path.join(out, 'drivlm_network_test'), { ASAN_OPTIONS: 'detect_leaks=1' }, files)
  }
  if (sanitizer !== 'thread') await phase('network', network)
  const files =
    sanitizer === '' ? ['--exclude=test/package.test.ts'] : ['test/unit/addon', 'test/unit/model', 'test/unit/worker']
  if (sanitizer === 'thread') await phase('threads', threads)
  else await phase('unit', () => vitest(files, sanitizerRuntime()))
  if (sanitizer === '') await phase('package', () => vitest(['test/package.test.ts']))
  await native
}

console.log(`\n${times.join(', ')}`)
const skipped = totals.skipped > 0 ? `, ${totals.skipped} skipped` : ''
console.log(`${totals.passed} passed, ${totals.failed} failed${skipped}`)
process.exitCode = totals.failed > 0 || totals.passed === 0 ? 1 : 0

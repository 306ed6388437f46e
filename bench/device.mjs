// The machine a result comes from, as far as it says what it is.
import { execFileSync, spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import os from 'node:os'
import { loadAddon, packageRoot } from '../dist/native.js'

function readLine(file) {
  try {
    return readFileSync(file, 'utf8').replaceAll('\0', '').trim() || undefined
  } catch {
    return undefined
  }
}

function outputOf(command, args) {
  try {
    const options = { cwd: packageRoot, encoding: 'utf8', timeout: 10_000, stdio: ['ignore', 'pipe', 'ignore'] }
    return execFileSync(command, args, options).trim() || undefined
  } catch {
    return undefined
  }
}

function commit() {
  const hash = outputOf('git', ['rev-parse', '--short=12', 'HEAD'])
  if (hash === undefined) return undefined
  const clean = spawnSync('git', ['diff', '--quiet', 'HEAD'], { cwd: packageRoot }).status === 0
  return clean ? hash : `${hash} with changes`
}

/** The power mode of a Jetson, as nvpmodel keeps it, and of a desktop card. */
function power() {
  const jetson = readLine('/var/lib/nvpmodel/status')
  const card = outputOf('nvidia-smi', ['--query-gpu=name,power.limit,pstate,driver_version', '--format=csv,noheader'])
  return { ...(jetson ? { nvpmodel: jetson } : {}), ...(card ? { nvidia: card.split('\n') } : {}) }
}

export function describeDevice(device, threads) {
  const addon = loadAddon()
  const system = addon.system()
  const board = readLine('/proc/device-tree/model')
  return {
    device,
    ...(board === undefined ? {} : { board }),
    cpu: os.cpus()[0]?.model.trim() ?? 'unknown',
    cores: os.availableParallelism(),
    threads,
    tier: system.cpuTarget,
    features: system.cpuFeatures,
    governor: readLine('/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor') ?? null,
    memoryGiB: Math.round(os.totalmem() / 2 ** 30),
    gpus: system.cuda.devices,
    ...power(),
    os: `${os.type()} ${os.release()} ${os.arch()}`,
    node: process.version,
    compiler: addon.build.compiler,
    commit: commit() ?? null,
    loadAverage: os.loadavg().map((value) => Math.round(100 * value) / 100),
    date: new Date().toISOString(),
  }
}

const peakNames = ['bf16_gflops', 'u8s8_gops', 'f32_gflops', 'read_gbs']

/** Why figures of this run may be worse than the machine: sentences. */
export function warningsOf(device, peakRuns) {
  const warnings = []
  const [load] = device.loadAverage
  if (load > 0.5) {
    warnings.push(
      `The load average was ${load} at the start: other programs were running, and the figures are too low.`,
    )
  }
  const given = Math.min(...peakRuns.map((run) => run.cpu_share ?? 1))
  if (given < 0.95) {
    const share = `${Math.round(100 * given)} %`
    warnings.push(
      `The threads were given only ${share} of the processor time they asked for while the peaks were measured.`,
    )
  }
  for (const name of peakNames) {
    const values = peakRuns.map((run) => run[name]).filter((value) => value > 0)
    if (values.length > 0 && Math.max(...values) > 1.1 * Math.min(...values)) {
      warnings.push(
        `${name} was between ${Math.min(...values)} and ${Math.max(...values)}: the machine was not steady.`,
      )
    }
  }
  if (device.governor !== null && device.governor !== 'performance') {
    warnings.push(`The CPU governor is '${device.governor}'; 'performance' gives steadier figures.`)
  }
  return warnings
}

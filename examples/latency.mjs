// A table to paste where machines are compared. Run it with: node examples/latency.mjs [model folder] [cpu | cuda | cuda:1]
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import os from 'node:os'
import { bundledModel, cameras, loadModel } from 'drivlm'

const [dir = bundledModel, device = 'auto'] = process.argv.slice(2)
const question = 'What are the important objects in the current scene?'
const answerTokens = 32

const tryTo = (read) => {
  try {
    return read()
  } catch {
    return undefined
  }
}

// A Jetson's power mode by name, a card's name and limits, else the governor of the CPU.
function powerMode(onGpu) {
  const jetson = tryTo(() => {
    const id = Number(readFileSync('/var/lib/nvpmodel/status', 'utf8').match(/pmode:(\d+)/)[1])
    const names = readFileSync('/etc/nvpmodel.conf', 'utf8').matchAll(/POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)/g)
    return [...names].find(([, known]) => Number(known) === id)?.[2] ?? `mode ${id}`
  })
  if (jetson) return jetson
  if (onGpu) return nvidiaSmi('power.limit,clocks.max.sm') ?? 'unknown'
  return tryTo(() => readFileSync('/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor', 'utf8').trim()) ?? 'unknown'
}

function nvidiaSmi(fields) {
  const args = [`--query-gpu=${fields}`, '--format=csv,noheader']
  const options = { encoding: 'utf8', timeout: 10_000, stdio: ['ignore', 'pipe', 'ignore'] }
  return tryTo(() => execFileSync('nvidia-smi', args, options).trim().split('\n')[index]?.trim())
}

function deviceName(onGpu) {
  const board = tryTo(() => readFileSync('/proc/device-tree/model', 'utf8').replaceAll('\0', '').trim())
  const cpu = `${os.cpus()[0]?.model.trim() || os.arch()}, ${os.availableParallelism()} cores`
  return [board, onGpu ? (nvidiaSmi('name') ?? 'NVIDIA GPU') : cpu].filter(Boolean).join(', ')
}

const median = (values) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)]
const ms = (value) => `${value < 10 ? value.toFixed(1) : value.toFixed(0)} ms`
const mib = (bytes) => `${(bytes / 2 ** 20).toFixed(0)} MiB`

const started = performance.now()
const model = await loadModel(dir, { device })
const loadMs = performance.now() - started

// Three different moments: nothing of one is in a cache when the next is seen. The first is the warm-up, and is shown apart.
const rounds = []
for (const moment of ['day', 'dusk', 'rain']) {
  const views = Object.fromEntries(cameras.map((camera) => [camera, `${bundledModel}/moments/${moment}/${camera}.png`]))
  const scene = await model.see(views)
  const answer = await scene.ask(question, { minNewTokens: answerTokens, maxNewTokens: answerTokens })
  rounds.push({ info: scene.info, answer })
  scene.dispose()
}
const { info } = model
await model.dispose()

const onGpu = info.device.startsWith('cuda')
const index = Number(info.device.split(':')[1] ?? 0)
const [first, ...warm] = rounds
const see = (round) => round.info.timings.totalMs
const toFirst = (round) => see(round) + round.answer.timings.firstTokenMs
const rate = ({ answer }) => ((answer.usage.answerTokens - 1) / answer.timings.generateMs) * 1000
const { weightsBytes, kvBytes, arenaBytes } = info.memory

const rows = [
  ['model', `${info.name}, ${(info.parameters / 1e6).toFixed(1)} million parameters, ${info.precision}`],
  ['device', `${info.device}: ${deviceName(onGpu)}`],
  ['power mode', powerMode(onGpu)],
  ['load', ms(loadMs)],
  [`see ${cameras.length} views, ${first.info.tiles} tiles, first time`, ms(see(first))],
  ['see, after that', ms(median(warm.map(see)))],
  ['of it vision', ms(median(warm.map((round) => round.info.timings.visionMs)))],
  ['of it prefill', ms(median(warm.map((round) => round.info.timings.prefillMs)))],
  ['files to first token', ms(median(warm.map(toFirst)))],
  ['question to first token, scene seen', ms(median(warm.map((round) => round.answer.timings.firstTokenMs)))],
  [`tokens a second, after ${first.info.tokens}`, median(warm.map(rate)).toFixed(1)],
  ['memory reserved', mib(weightsBytes + kvBytes + arenaBytes)],
  ['memory of the process, at most', mib(process.resourceUsage().maxRSS * 1024)],
]
const width = Math.max(...rows.map(([name]) => name.length))
const widest = Math.max(...rows.map(([, value]) => value.length))
const line = (name, value) => `| ${name.padEnd(width)} | ${value.padEnd(widest)} |`
console.log([line('drivlm', 'latency'), `|${'-'.repeat(width + 2)}|${'-'.repeat(widest + 2)}|`].join('\n'))
for (const [name, value] of rows) console.log(line(name, value))

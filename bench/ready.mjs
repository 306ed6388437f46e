// From nothing to a model that answers: loads of every format, as they are and from the file that `cache: true` keeps, each in a process of its own.
//
//   node bench/ready.mjs [--model DIR] [--device cpu] [--threads N] [--runs 3] [--builds FOLDER,FOLDER] [--json FILE]
//
// A round has every format, way and build once, so that what else the machine does meets all of them alike. Beside the time on the clock stands
// that of the processors, which a busy machine changes less. Builds are folders of the package that were built (default: this one); their ratios
// are to the first. The model's files are linked into a folder of its own, where caches are written and are gone afterwards: 3.3 GB for
// InternVL2-1B. Files are in the page cache, since a load that is not counted comes before.
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { parseArgs } from 'node:util'
import { packageRoot } from '../dist/native.js'
import { standIn } from './stand-in.mjs'
import { quantile, table } from './statistics.mjs'

const formats = ['bf16', 'int8', 'int4']
const ways = ['packed', 'cached']
const { values, positionals } = parseArgs({
  options: {
    model: { type: 'string' },
    device: { type: 'string', default: 'cpu' },
    threads: { type: 'string', default: String(os.availableParallelism()) },
    runs: { type: 'string', default: '3' },
    builds: { type: 'string', default: packageRoot },
    json: { type: 'string' },
  },
  allowPositionals: true,
})

/** One load, in this process. */
async function loadOnce(build, model, weights, way) {
  const { loadModel } = await import(pathToFileURL(path.join(build, 'dist', 'index.js')).href)
  const options = { device: values.device, threads: Number(values.threads), weights, cache: way === 'cached' }
  const [begun, before] = [performance.now(), process.cpuUsage()]
  try {
    const { info } = await loadModel(model, { ...options, maxContext: 4096 })
    const ms = performance.now() - begun
    const { user, system } = process.cpuUsage(before)
    return { ms, cpuMs: (user + system) / 1000, peakMiB: peakMiB(), cache: info.cache?.state, loading: info.loading }
  } catch (error) {
    return { refused: `${error.code}: ${error.message}` }
  }
}

function peakMiB() {
  const peak = process.platform === 'linux' && /VmHWM:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))?.[1]
  return peak ? Number(peak) / 1024 : undefined
}

if (positionals.length > 0) {
  console.log(JSON.stringify(await loadOnce(...positionals)))
  process.exit()
}

function load(build, model, weights, way) {
  const flags = ['--device', values.device, '--threads', values.threads]
  const args = [fileURLToPath(import.meta.url), ...flags, build, model, weights, way]
  const child = spawnSync(process.execPath, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 2] })
  if (child.status !== 0) throw new Error(`A load ended with ${child.signal ?? child.status}.`)
  return JSON.parse(child.stdout.trim().split('\n').at(-1))
}

/** A folder with the model's files, without caches. */
function linked(model) {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'drivlm-ready-'))
  for (const name of readdirSync(model)) {
    if (!name.endsWith('.cache')) symlinkSync(path.join(model, name), path.join(folder, name))
  }
  return folder
}

const model = path.resolve(values.model ?? (await standIn(console.error)))
const builds = values.builds.split(',').map((build) => path.resolve(build))
const folders = builds.map(() => linked(model))
const cases = formats.flatMap((weights) =>
  ways.flatMap((way) => builds.map((build, i) => ({ build, folder: folders[i], weights, way, loads: [] }))),
)
try {
  for (let round = -1; round < Number(values.runs); round++) {
    for (const { build, folder, weights, way, loads } of cases) {
      const one = load(build, folder, weights, way)
      if (round >= 0) loads.push(one) // the first writes the cache, and reads the files from the disk
    }
  }
} finally {
  for (const folder of folders) rmSync(folder, { recursive: true, force: true })
}

const rows = cases.map(({ build, weights, way, loads }) => {
  const median = (name) => quantile(loads.map(name), 0.5)
  const row = { name: `ready_${weights}${way === 'cached' ? '_cached' : ''}`, build }
  const refused = loads.find((one) => one.refused !== undefined)?.refused
  if (refused !== undefined) return { ...row, refused }
  const loading = loads[0].loading && {
    loading: Object.fromEntries(
      Object.keys(loads[0].loading).map((part) => [part, median((one) => one.loading[part])]),
    ),
  }
  const peak = loads[0].peakMiB === undefined ? {} : { peakMiB: median((one) => one.peakMiB) }
  return { ...row, ms: median((one) => one.ms), cpuMs: median((one) => one.cpuMs), ...peak, ...loading }
})
const parts = ({ loading = {} }) => Object.entries(loading).map(([part, ms]) => `${part.slice(0, -2)} ${ms.toFixed(0)}`)
const cells = rows.map((row) => {
  const first = rows.find(({ name }) => name === row.name)
  const told = builds.length > 1 ? [path.basename(row.build)] : []
  if (row.refused !== undefined) return [row.name, ...told, '', '', '', '', row.refused.split(':', 1)[0]]
  const ratio = first === row || first.refused !== undefined ? '' : (row.cpuMs / first.cpuMs).toFixed(2)
  const memory = row.peakMiB === undefined ? '' : row.peakMiB.toFixed(0)
  return [row.name, ...told, row.ms.toFixed(0), row.cpuMs.toFixed(0), ratio, memory, parts(row).join(', ')]
})
const build = builds.length > 1 ? ['build'] : []
console.log(table(['row', ...build, 'ms', 'cpu ms', 'cpu ratio', 'peak MiB', 'of which, ms'], cells))
if (values.json !== undefined)
  writeFileSync(values.json, `${JSON.stringify({ runs: Number(values.runs), rows }, null, 2)}\n`)

// A log of a drive: how long listing and reading it take, and how much memory annotating it takes.
//
//   node bench/logs.mjs [--gigabytes 2] [--moments 60] [--log FILE] [--model DIR]
//
// Makes the log in the temporary folder: six cameras at 12 Hz, 1600 x 900, each picture with noise of its own kind so that it is as large as a
// photograph's JPEG, chunks of 768 KiB without compression as rosbag2 writes them, with an index. `--log` takes one that is there, or makes it there, and leaves it.
// Listing is `drivlm log` as a whole process, reading is the planning of moments twice a second and the pictures of 20 of them, both also in
// time of the processor, which other programs do not add to. Memory is the most that a process of `drivlm annotate` had, with the small bundled
// model (its weights take 2 MB), over `--moments` moments of the long log, and over one moment of one second of it.
import { spawn, spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs'
import { open } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { parseArgs } from 'node:util'
import sharp from 'sharp'
import { openLog, planMoments } from '../dist/logs/index.js'
import { packageRoot } from '../dist/native.js'
import { cameras } from '../dist/views/cameras.js'
import { mcapWriter, topicOf } from '../test/made-logs.mjs'

const { values } = parseArgs({
  options: Object.fromEntries(['gigabytes', 'moments', 'log', 'model'].map((name) => [name, { type: 'string' }])),
})
const gigabytes = Number(values.gigabytes ?? 2)
const moments = Number(values.moments ?? 60)
const dir = mkdtempSync(path.join(os.tmpdir(), 'drivlm-bench-logs-'))
const median = (list) => [...list].sort((a, b) => a - b)[(list.length - 1) >> 1]
const seconds = (ms) => `${(ms / 1000).toFixed(2)} s`

/** JPEGs of 1600 x 900 of the drawn moments, by camera. */
async function pictures() {
  const [width, height] = [1600, 900]
  const noise = { create: { width, height, channels: 3, noise: { type: 'gaussian', mean: 128, sigma: 12 } } }
  const found = new Map(cameras.map((camera) => [camera, []]))
  for (const camera of cameras) {
    for (const name of ['day', 'dusk', 'rain']) {
      const drawn = path.join(packageRoot, 'models', 'street-tiny', 'moments', name, `${camera}.png`)
      const grain = await sharp(noise).png({ compressionLevel: 0 }).toBuffer()
      const picture = sharp(drawn)
        .resize(width, height)
        .composite([{ input: grain, blend: 'overlay' }])
      found.get(camera).push(await picture.removeAlpha().jpeg({ quality: 85 }).toBuffer())
    }
  }
  return found
}

async function makeLog(file, bytes) {
  const found = await pictures()
  const handle = await open(file, 'w')
  let had = 0
  const writer = await mcapWriter(async (part) => {
    await handle.write(part)
    had += part.length
  })
  let frame = 0
  for (; had < bytes; frame++) {
    const own = Math.floor(frame / 6)
    for (const [place, camera] of cameras.entries()) {
      const time = 1_700_000_000_000_000_000n + BigInt(frame) * 83_333_333n + BigInt(place) * 7_000_000n
      await writer.add(topicOf(camera), time, found.get(camera)[own % 3])
    }
  }
  await writer.end()
  await handle.close()
  return frame
}

/** Runs a command of drivlm to its end: its milliseconds, and the most memory it had. */
async function drivlm(...args) {
  const startedAt = performance.now()
  const child = spawn(process.execPath, [path.join(packageRoot, 'dist', 'cli', 'main.js'), ...args], {
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  let said = ''
  child.stderr.on('data', (text) => {
    said += text
  })
  let most = 0
  const timer = setInterval(() => {
    try {
      const kibibytes = /VmHWM:\s+(\d+)/.exec(readFileSync(`/proc/${child.pid}/status`, 'utf8'))?.[1]
      most = Math.max(most, Number(kibibytes ?? 0))
    } catch {
      // It has ended.
    }
  }, 100)
  const code = await new Promise((resolve) => child.on('close', resolve))
  clearInterval(timer)
  if (code !== 0) throw new Error(`drivlm ${args.join(' ')} ended with ${code}: ${said}`)
  return { ms: performance.now() - startedAt, mebibytes: Math.round(most / 1024) }
}

/** Milliseconds of the clock and of the processor of `drivlm log` as a process, which the shell counts. */
function listed(file) {
  const startedAt = performance.now()
  const program = path.join(packageRoot, 'dist', 'cli', 'main.js')
  const shell = 'TIMEFORMAT="%U %S"; time "$@" >/dev/null'
  const { stderr, status } = spawnSync('bash', ['-c', shell, 'bash', process.execPath, program, 'log', file])
  if (status !== 0) throw new Error(`drivlm log ended with ${status}: ${stderr}`)
  const times = String(stderr).trim().split('\n').at(-1).split(' ').map(Number)
  return { ms: performance.now() - startedAt, processorMs: 1000 * (times[0] + times[1]) }
}

/** Milliseconds of the clock and of the processor. */
async function timed(work) {
  const [startedAt, before] = [performance.now(), process.cpuUsage()]
  const result = await work()
  const { user, system } = process.cpuUsage(before)
  return { result, ms: performance.now() - startedAt, processorMs: (user + system) / 1000 }
}

try {
  const file = values.log ?? path.join(dir, 'drive.mcap')
  if (!existsSync(file)) {
    console.error(`Making a log of ${gigabytes} GB: ${file}`)
    await makeLog(file, gigabytes * 1e9)
  }
  const cpu = os.cpus()[0].model
  console.log(
    `${(statSync(file).size / 1e9).toFixed(2)} GB; ${cpu}, ${os.cpus().length} cores, load ${os.loadavg()[0].toFixed(1)}`,
  )

  const runs = []
  const listings = []
  for (let i = 0; i < 5; i++) {
    runs.push(listed(file))
    listings.push(await timed(async () => (await openLog(file)).close()))
  }
  const both = (list, one) =>
    `${seconds(median(list.map(({ ms }) => ms)))} (${seconds(median(list.map(one)))} of processor)`
  const [whole, inside] = [runs, listings].map((list) => both(list, ({ processorMs }) => processorMs))
  console.log(`listing by its index, median of 5: drivlm log as a process ${whole}, openLog in it ${inside}`)

  const log = await openLog(file)
  const topics = log.guessCameras().cameras
  const planned = await timed(() => planMoments(log, { cameras: topics, every: 0.5 }))
  const plan = planned.result.moments
  const chosen = plan.filter((_, i) => i % Math.ceil(plan.length / 20) === 0)
  const read = await timed(async () => {
    for (const moment of chosen) await moment.views()
  })
  await log.close()
  const share = (key) => planned[key] / plan.length + read[key] / chosen.length
  console.log(
    `reading: ${plan.length} moments planned in ${seconds(planned.ms)} (${seconds(planned.processorMs)} of processor), and ${(read.ms / chosen.length).toFixed(1)} ms a moment for its pictures: in all ${share('ms').toFixed(1)} ms a moment (${share('processorMs').toFixed(1)} of processor)`,
  )

  const ask = ['--ask', 'What is the weather like?', ...(values.model === undefined ? [] : ['-m', values.model])]
  const short = await drivlm(
    'annotate',
    file,
    ...ask,
    '--to',
    '1',
    '--moments',
    '1',
    '--out',
    path.join(dir, 'short.mcap'),
  )
  const long = await drivlm(
    'annotate',
    file,
    ...ask,
    '--moments',
    String(moments),
    '--out',
    path.join(dir, 'long.mcap'),
  )
  console.log(
    `annotate: at most ${long.mebibytes} MiB for ${moments} moments of the log, ${short.mebibytes} MiB for one of its first second; ${seconds(long.ms)}`,
  )
} finally {
  rmSync(dir, { recursive: true, force: true })
}

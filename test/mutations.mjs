// Logs with random damage, in processes of their own: whatever is flipped, cut, doubled or overwritten, reading ends in a typed error or a note, in
// bounded time and memory. A crash, a hang, an error of another kind or too much memory is told with the number that makes it again:
//
//   node test/mutations.mjs --count 100000              for each container and each encoding of messages
//   node test/mutations.mjs --only bag --from 4711 --count 1
//
// The numbers of one --seed (1) are the same mutations everywhere. Files go to the temporary folder; TMPDIR=/dev/shm spares the disk.
import { fork } from 'node:child_process'
import { mkdtempSync, openSync, readFileSync, rmSync, writeFileSync, writeSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { smallLogs } from './made-logs.mjs'

const fixtures = path.join(path.dirname(fileURLToPath(import.meta.url)), 'fixtures', 'logs')
const jazzy = 'db3-jazzy-zstd-message/db3-jazzy-zstd-message_0.db3'
/** Files that are damaged as a whole, and files whose messages are damaged one by one. */
const targets = {
  mcap: ['ros2-lz4-disordered.mcap', 'ros2-six-fastwrite.mcap', 'foxglove-json.mcap', 'foxglove-protobuf-raw.mcap'],
  bag: [
    'ros1-raw-lz4.bag',
    'ros1-unindexed.bag.active',
    'ros1-raw-lz4.bag',
    'ros1-unindexed.bag.active',
    'ros1-bz2.bag',
  ],
  db3: [jazzy],
  cdr: ['ros2-raw.mcap', 'ros2-six-fastwrite.mcap'],
  ros1: ['ros1-raw-lz4.bag', 'ros1-bz2.bag'],
  protobuf: ['foxglove-protobuf-raw.mcap', 'foxglove-video-h264.mcap'],
  json: ['foxglove-json.mcap'],
}
const containers = ['mcap', 'bag', 'db3']
const maxGrowth = 400 * 1024 * 1024
const hangMs = 120_000 // of wall time, on a machine that does other things too; the slowest is told by its processor time
const maxFindings = 20

/** Mulberry32. */
function randomOf(start) {
  let state = start >>> 0
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = Math.imul(state ^ (state >>> 15), state | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return Math.floor((((t ^ (t >>> 14)) >>> 0) / 2 ** 32) * below)
  }
}

/** Where most of a structure stands: its beginning, its end, or anywhere. */
function placeIn(length, random) {
  const near = Math.min(length, 4096)
  return [random(near), length - 1 - random(near), random(length)][random(3)]
}

function mutated(sound, random) {
  let bytes = Buffer.from(sound)
  for (let i = 1 + random(4); i > 0 && bytes.length > 0; i--) {
    const at = placeIn(bytes.length, random)
    const kind = random(7)
    if (kind === 0) bytes[at] ^= 1 << random(8)
    else if (kind === 1) bytes[at] = random(256)
    else if (kind === 2) bytes.fill([0, 255][random(2)], at, Math.min(at + 1 + random(64), bytes.length))
    else if (kind === 3 && bytes.length >= 8)
      bytes.writeBigUInt64LE(1n << BigInt(random(64)), Math.max(0, Math.min(at, bytes.length - 8)))
    else if (kind === 4) bytes = Buffer.from(bytes.subarray(0, Math.max(1, at)))
    else if (kind === 5) bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + random(40))])
    else bytes.copyWithin(placeIn(bytes.length, random), at, at + random(200))
  }
  return bytes
}

/** Where a process says which mutation it is at: a file of one number, which survives a crash and costs next to nothing. */
function progressOf(folder, pid) {
  return path.join(folder, `at-${pid}`)
}

/** Mutations of one target, one after another; each is announced before it begins. */
async function work({ target, from, to, seed, folder }) {
  const announced = openSync(progressOf(folder, process.pid), 'w')
  const number = new Float64Array(1)
  const judge = containers.includes(target) ? await judgeOfFiles(target, folder) : await judgeOfMessages(target)
  const mostMemory = () => process.resourceUsage().maxRSS * 1024
  for (let i = 0; i < 3; i++) await judge(undefined, i)
  const before = mostMemory()
  const sum = { damaged: 0, slowestMs: 0, slowest: from }
  for (let i = from; i < to; i++) {
    number[0] = i
    writeSync(announced, number, 0, 8, 0)
    const started = process.cpuUsage()
    try {
      sum.damaged += Number(await judge(randomOf(seed * 1_000_003 + i), i))
    } catch (error) {
      process.send({ found: { i, what: error.stack } })
    }
    const { user, system } = process.cpuUsage(started)
    const ms = (user + system) / 1000
    if (ms > sum.slowestMs) Object.assign(sum, { slowestMs: ms, slowest: i })
    if (mostMemory() - before > maxGrowth) {
      process.send({
        found: { i, what: `${Math.round((mostMemory() - before) / 2 ** 20)} MiB more memory than sound logs take` },
      })
      process.send({ end: i + 1, sum })
      process.exit()
    }
  }
  process.send({ end: to, sum: { ...sum, growth: mostMemory() - before } })
  process.disconnect()
}

/** Reads a damaged file to its end, as annotate does. */
async function judgeOfFiles(target, folder) {
  const { openLog, planMoments } = await import('../dist/logs/index.js')
  const { decodePicture } = await import('../dist/views/decode.js')
  const { ModelError } = await import('../dist/errors.js')
  const large = targets[target].map((name) => readFileSync(path.join(fixtures, name)))
  const small = await smallLogs(target, folder)
  // Most are of a few messages: a mutation meets their structure more often, and takes less time.
  const soundOf = (i) => (i % 10 === 0 ? large[(i / 10) % large.length] : small[i % small.length])
  const file = path.join(folder, `${target}-${process.pid}`)
  const typed = (error, codes) => {
    if (error instanceof ModelError && codes.includes(error.code)) return true
    throw error
  }
  return async (random, i) => {
    const sound = soundOf(i)
    writeFileSync(file, random === undefined ? sound : mutated(sound, random))
    let log
    try {
      log = await openLog(file, { scan: random?.(2) === 0 })
      const topics = log.topics.filter(({ kind, problem }) => kind !== undefined && problem === undefined)
      let refused = false
      if (topics.length > 0) {
        const cameras = Object.fromEntries(topics.slice(0, 6).map(({ topic }, k) => [`CAMERA_${k}`, topic]))
        const plan = await planMoments(log, { cameras, every: 0, missing: 'keep' })
        for (const [k, moment] of plan.moments.slice(0, 20).entries()) {
          try {
            const views = Object.entries(await moment.views())
            // One moment is decoded, as it is for a model.
            if (k === 0) for (const [camera, view] of views) await decodePicture(view, camera)
          } catch (error) {
            refused = typed(error, ['BAD_LOG', 'BAD_VIEW'])
          }
        }
      }
      return refused || log.damage.length > 0 || topics.length === 0
    } catch (error) {
      return typed(error, ['BAD_LOG', 'BAD_ARGUMENT'])
    } finally {
      await log?.close()
    }
  }
}

/** Reads a damaged message, and its pixels. */
async function judgeOfMessages(target) {
  const { openFile } = await import('../dist/logs/sources.js')
  const { pictureReader } = await import('../dist/logs/message.js')
  const { pictureSource } = await import('../dist/logs/index.js')
  const { ModelError } = await import('../dist/errors.js')
  const sounds = []
  for (const name of targets[target]) {
    const { container } = await openFile(path.join(fixtures, name), 0)
    const options = { wants: (channel) => typeof pictureReader(channel) === 'object', onDamage: () => undefined }
    for await (const { channel, data } of container.scan(options))
      sounds.push({ reader: pictureReader(channel), data: Buffer.from(data) })
    await container.close()
  }
  return async (random, i) => {
    const { reader, data } = sounds[i % sounds.length]
    const bytes = random === undefined ? data : mutated(data, random)
    let picture
    try {
      picture = reader.read(bytes)
    } catch (error) {
      // Readers throw sentences, which are put into an error with the message's place.
      if (error.constructor === Error) return true
      throw error
    }
    try {
      pictureSource(picture, 'CAM_FRONT')
      return false
    } catch (error) {
      if (error instanceof ModelError && error.code === 'BAD_LOG') return true
      throw error
    }
  }
}

/** A run of numbers in processes: one that crashes or hangs is told, and the next goes on behind it. */
async function watch(target, from, to, seed, folder) {
  const total = { damaged: 0, slowestMs: 0, slowest: from, growth: 0, findings: [] }
  let next = from
  while (next < to && total.findings.length < maxFindings) {
    const child = fork(fileURLToPath(import.meta.url), [
      '--work',
      JSON.stringify({ target, from: next, to, seed, folder }),
    ])
    next = await new Promise((resolve) => {
      let end
      let at = next
      let since = performance.now()
      const now = () => {
        try {
          const bytes = readFileSync(progressOf(folder, child.pid))
          return bytes.length === 8 ? bytes.readDoubleLE(0) : at
        } catch {
          return at
        }
      }
      const found = ({ i, what }) => {
        total.findings.push(i)
        console.log(`${target}, mutation ${i}: ${what}`)
      }
      let hung = false
      const timer = setInterval(() => {
        if (now() !== at) {
          at = now()
          since = performance.now()
        } else if (performance.now() - since > hangMs) {
          hung = true
          child.kill('SIGKILL')
        }
      }, 500)
      child.on('message', (message) => {
        if (message.found !== undefined) found(message.found)
        if (message.end === undefined) return
        end = message.end
        const { damaged, slowestMs, slowest, growth = maxGrowth } = message.sum
        total.damaged += damaged
        total.growth = Math.max(total.growth, growth)
        if (slowestMs > total.slowestMs) Object.assign(total, { slowestMs, slowest })
      })
      child.on('exit', (code, signal) => {
        clearInterval(timer)
        at = now()
        if (end === undefined) {
          found({
            i: at,
            what: hung ? `it did not end in ${hangMs / 1000} s` : `the process ended: ${signal ?? `code ${code}`}`,
          })
        }
        resolve(end ?? at + 1)
      })
    })
  }
  return total
}

async function main() {
  const string = { type: 'string' }
  const names = ['count', 'from', 'seed', 'jobs', 'only']
  const { values } = parseArgs({ options: Object.fromEntries(names.map((name) => [name, string])) })
  const number = (name, usual) => {
    const value = Number(values[name] ?? usual)
    if (Number.isSafeInteger(value) && value >= 0) return value
    throw new Error(`Expected a whole number for --${name}, received ${values[name]}.`)
  }
  const [count, first, seed] = [number('count', 1000), number('from', 0), number('seed', 1)]
  const jobs = Math.max(1, number('jobs', os.availableParallelism()))
  const chosen = values.only?.split(',') ?? Object.keys(targets)
  const unknown = chosen.find((name) => !Object.hasOwn(targets, name))
  if (unknown !== undefined)
    throw new Error(`Expected --only out of ${Object.keys(targets).join(', ')}, received ${unknown}.`)
  const folder = mkdtempSync(path.join(os.tmpdir(), 'drivlm-mutations-'))
  try {
    for (const target of chosen) {
      const started = performance.now()
      const part = (k) => first + Math.floor((count * k) / jobs)
      const parts = await Promise.all(
        Array.from({ length: jobs }, (_, k) => watch(target, part(k), part(k + 1), seed, folder)),
      )
      const slowest = parts.reduce((a, b) => (b.slowestMs > a.slowestMs ? b : a))
      const damaged = parts.reduce((sum, part) => sum + part.damaged, 0)
      const growth = Math.max(...parts.map((part) => part.growth))
      const seconds = Math.round((performance.now() - started) / 1000)
      console.log(
        `${target}: ${count} mutations from ${first}, seed ${seed}: ${damaged} noticed; slowest ${slowest.slowest} with ${Math.round(slowest.slowestMs)} ms of processor; ${Math.round(growth / 2 ** 20)} MiB more memory than sound logs; ${seconds} s`,
      )
      if (parts.some(({ findings }) => findings.length > 0)) process.exitCode = 1
      // One that notices nothing would find nothing.
      if (count >= 20 && damaged < count / 10) {
        process.exitCode = 1
        console.log(`  only ${damaged} were noticed`)
      }
    }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

if (process.argv[2] === '--work') await work(JSON.parse(process.argv[3]))
else await main()

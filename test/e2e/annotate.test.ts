// drivlm annotate: answers written beside a log, whatever is stopped in between, and read by the readers of @mcap/core.
import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import { createRequire } from 'node:module'
import os from 'node:os'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { McapIndexedReader, McapStreamReader, type McapTypes } from '@mcap/core'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { logTimes, seconds, shardOfEnvironment } from '../../lib/cli/flags.ts'
import { openLog } from '../../lib/logs/index.ts'
import { cameras } from '../../lib/views/cameras.ts'
import { cdrCompressed, type MadeMessage, mcap } from '../unit/logs-files.ts'
import { drivlm, type Ran } from './run.ts'

const zstd = createRequire(import.meta.url)('@foxglove/wasm-zstd')
const dir = mkdtempSync(path.join(os.tmpdir(), 'drivlm-annotate-'))
const opened: FileHandle[] = []
afterAll(async () => {
  for (const handle of opened) await handle.close()
  rmSync(dir, { recursive: true })
})
const at = (name: string) => path.join(dir, name)
const count = 9
const questions = [
  '--ask',
  'How many cars are in CAM_BACK?',
  '--ask',
  'What is the weather like?',
  '--locate',
  'Where is the cyclist in CAM_FRONT_LEFT?',
]
const commandOf = (out: string, args: readonly string[] = []): string[] => [
  'dist/cli/main.js',
  'annotate',
  at('drive.mcap'),
  ...questions,
  '--out',
  at(out),
  ...args,
]
const annotate = (out: string, args: readonly string[] = [], env: Record<string, string> = {}): Promise<Ran> =>
  drivlm(['annotate', at('drive.mcap'), ...questions, '--out', at(out), ...args], { env })
let whole: Buffer

const topicOf = (camera: string) => `/${camera.slice(4).toLowerCase()}/image_raw/compressed`
const msOf = (moment: number, place: number) => moment * 500 + place * 7

/** A drive of so many moments. */
async function drive(count: number): Promise<Buffer> {
  const moments = ['dusk', 'rain']
  const messages = Array.from({ length: count }, (_, i) => i).flatMap((i) =>
    cameras.map((camera, place): MadeMessage => {
      const ms = msOf(i, place)
      const file = readFileSync(`models/street-tiny/moments/${moments[i % 2]}/${camera}.png`)
      const stamp = { sec: 1000 + Math.floor(ms / 1000), nsec: (ms % 1000) * 1e6 }
      const logTime = BigInt(1000 * 1000 + ms + 20) * 1_000_000n
      return { topic: topicOf(camera), logTime, data: cdrCompressed(file, { ...stamp, format: 'png' }) }
    }),
  )
  return mcap(messages, { chunkSize: 100_000 })
}

beforeAll(async () => {
  await zstd.isLoaded
  writeFileSync(at('drive.mcap'), await drive(count))
  expect(await annotate('whole.mcap')).toMatchObject({ code: 0 })
  whole = readFileSync(at('whole.mcap'))
})

interface Read {
  topic: string
  schema: string
  time: bigint
  content: Record<string, never>
}

/** All messages, by the stream reader of @mcap/core. */
function streamed(bytes: Uint8Array): Read[] {
  const reader = new McapStreamReader({
    decompressHandlers: { zstd: (data, size) => zstd.decompress(data, Number(size)) },
  })
  reader.append(bytes)
  const schemas = new Map<number, McapTypes.Schema>()
  const channels = new Map<number, McapTypes.Channel>()
  const found: Read[] = []
  for (let record = reader.nextRecord(); record !== undefined; record = reader.nextRecord()) {
    if (record.type === 'Schema') schemas.set(record.id, record)
    if (record.type === 'Channel') channels.set(record.id, record)
    if (record.type !== 'Message') continue
    const { topic, schemaId } = channels.get(record.channelId)!
    const content = JSON.parse(Buffer.from(record.data).toString())
    found.push({ topic, schema: schemas.get(schemaId)!.name, time: record.logTime, content })
  }
  expect(reader.done()).toBe(true)
  return found
}

async function indexed(file: string): Promise<McapIndexedReader> {
  const handle = await open(file)
  opened.push(handle)
  const readable = {
    size: async () => BigInt((await handle.stat()).size),
    read: async (offset: bigint, size: bigint) => {
      const made = new Uint8Array(Number(size))
      await handle.read(made, 0, made.length, Number(offset))
      return made
    },
  }
  return McapIndexedReader.Initialize({
    readable,
    decompressHandlers: { zstd: (data, size) => zstd.decompress(data, Number(size)) },
  })
}

describe('what it writes', () => {
  it('answers of every moment, with the times of their pictures', async () => {
    const found = streamed(whole)
    const answers = found.filter(({ topic }) => topic === '/drivlm/answers')
    expect(answers).toHaveLength(count * 3)
    expect(answers.every(({ schema }) => schema === 'drivlm.Answer')).toBe(true)
    expect(answers[0]!.content).toMatchObject({
      moment: 0,
      question: questions[1],
      model: 'street-tiny',
      cameras: { CAM_FRONT: { topic: topicOf('CAM_FRONT'), timestamp: { sec: 1000, nsec: 0 } } },
    })
    expect(answers.map(({ time }) => time)).toEqual(
      Array.from({ length: 3 * count }, (_, i) => BigInt(1_000_000 + msOf(Math.floor(i / 3), 0)) * 1_000_000n),
    )
    const notes = found.filter(({ schema }) => schema === 'foxglove.Log')
    expect(notes[0]!.content).toMatchObject({
      level: 2,
      name: 'drivlm',
      message: expect.stringMatching(/^Q How many.* A /),
    })
    const messages: unknown[] = []
    for await (const message of (await indexed(at('whole.mcap'))).readMessages()) messages.push(message)
    expect(messages).toHaveLength(found.length)
  })

  it('boxes beside the picture they lie in, by its own stamp', () => {
    const boxes = streamed(whole).filter(({ schema }) => schema === 'foxglove.ImageAnnotations')
    expect(boxes).toHaveLength(count * 6)
    let drawn = 0
    for (const { topic, time, content } of boxes) {
      const camera = cameras.findIndex((one) => topic === topicOf(one).replace(/compressed$/, 'drivlm_annotations'))
      const ms = Number(time / 1_000_000n) - 1_000_000
      expect((ms - camera * 7) % 500).toBe(0)
      const stamp = { sec: Number(time / 1_000_000_000n), nsec: Number(time % 1_000_000_000n) }
      const { timestamp, points } = content as unknown as { timestamp: object; points: Record<string, unknown>[] }
      expect(timestamp).toEqual(stamp)
      for (const point of points) {
        drawn += 1
        expect(Object.keys(point).sort()).toEqual(
          ['fill_color', 'outline_color', 'outline_colors', 'points', 'thickness', 'timestamp', 'type'].sort(),
        )
        expect(point).toMatchObject({ type: 2, timestamp: stamp })
        for (const { x, y } of point.points as { x: number; y: number }[]) {
          expect(x >= 0 && x <= 112 && y >= 0 && y <= 112).toBe(true)
        }
      }
    }
    expect(drawn).toBeGreaterThan(0)
  })

  it('schemas as readers want them: an object at the root, enumerations as numbers', async () => {
    const { schemasById } = await indexed(at('whole.mcap'))
    const schemas = [...schemasById.values()]
    expect(schemas.map(({ name }) => name).sort()).toEqual(
      ['drivlm.Answer', 'drivlm.Moment', 'foxglove.ImageAnnotations', 'foxglove.Log'].sort(),
    )
    for (const { encoding, data } of schemas) {
      expect(encoding).toBe('jsonschema')
      expect(JSON.parse(Buffer.from(data).toString())).toMatchObject({ type: 'object', properties: {} })
    }
  })

  it('leaves nothing else behind', () => {
    expect(readdirSync(dir).sort()).toEqual(['drive.mcap', 'whole.mcap'])
  })
})

/** Runs until so many moments are written, and sends a signal. */
async function stopAt(
  moments: number,
  signal: NodeJS.Signals,
  out: string,
  args: readonly string[],
): Promise<number | null> {
  const child = spawn(process.execPath, commandOf(out, args), { stdio: 'ignore' })
  // The command makes the file and removes it again to see whether it can be written, so it may go between two looks.
  const lines = () => {
    try {
      return readFileSync(at(`${out}.journal`), 'utf8').split('\n').length - 2
    } catch {
      return -1
    }
  }
  const timer = setInterval(() => {
    if (lines() < moments) return
    clearInterval(timer) // a second interrupt would end it at once
    child.kill(signal)
  }, 2)
  return new Promise((resolve) => {
    child.on('close', (code) => {
      clearInterval(timer)
      resolve(code)
    })
  })
}

describe('a run that is stopped', () => {
  it('killed again and again: the same answers in the end, each once', async () => {
    for (const moments of [0, 2, 5]) {
      await stopAt(moments, 'SIGKILL', 'killed.mcap', moments === 0 ? [] : ['--resume'])
      if (!existsSync(at('killed.mcap.journal'))) break // it was done before it was killed
    }
    if (existsSync(at('killed.mcap.journal'))) {
      writeFileSync(at('killed.mcap.journal'), '{"moment":8,"answ', { flag: 'a' }) // cut while it was written
      expect(await annotate('killed.mcap', ['--resume'])).toMatchObject({ code: 0 })
    }
    expect(readFileSync(at('killed.mcap')).equals(whole)).toBe(true)
    expect(existsSync(at('killed.mcap.journal'))).toBe(false)
  })

  it('interrupted: what is there can be read, and goes on', async () => {
    const code = await stopAt(1, 'SIGINT', 'interrupted.mcap', [])
    const answered = streamed(readFileSync(at('interrupted.mcap'))).filter(({ schema }) => schema === 'drivlm.Moment')
    expect(answered.length).toBeGreaterThan(0)
    if (code === 130) {
      expect(await annotate('interrupted.mcap')).toMatchObject({
        code: 1,
        stderr: expect.stringMatching(/go on with it/),
      })
      expect(await annotate('interrupted.mcap', ['--resume'])).toMatchObject({ code: 0 })
    }
    expect(readFileSync(at('interrupted.mcap')).equals(whole)).toBe(true)
  })

  it('is not gone on with by two at once: the second is refused, and the first is whole', async () => {
    const first = spawn(process.execPath, commandOf('twice.mcap'), { stdio: 'ignore' })
    const ended = once(first, 'close')
    while (!existsSync(at('twice.mcap.journal'))) await sleep(2)
    first.kill('SIGSTOP') // else it may be done before the second has looked
    const refused = /\[BAD_ARGUMENT\] .*twice\.mcap is being written by process \d+ on .*another --out/
    const second = await annotate('twice.mcap', ['--resume'])
    first.kill('SIGCONT')
    expect(second).toMatchObject({ code: 1, stderr: expect.stringMatching(refused) })
    expect(await ended).toEqual([0, null])
    expect(readFileSync(at('twice.mcap')).equals(whole)).toBe(true)
    expect(readdirSync(dir).filter((name) => name.startsWith('twice.'))).toEqual(['twice.mcap'])
  })

  it('goes on with nothing else: other questions, or a run that is complete', async () => {
    writeFileSync(at('other.mcap.journal'), `${JSON.stringify({ drivlm: 1, run: { settings: 'x' } })}\n`)
    expect(await annotate('other.mcap', ['--resume'])).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/another log, model/),
    })
    expect(await annotate('whole.mcap', ['--resume', '--max-new-tokens', '3'])).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/is complete/),
    })
  })

  it('is there already where it is complete: a job that is started again has what it wants', async () => {
    const again = await annotate('whole.mcap', ['--resume', '--jsonl', '-'])
    expect(again).toMatchObject({ code: 0, stderr: expect.stringMatching(/27 answers about 9 moments are in/) })
    expect(again.stdout.trim().split('\n')).toHaveLength(count)
    expect(readFileSync(at('whole.mcap')).equals(whole)).toBe(true)
  })

  it('goes on with no other log of the same name, and no other precision', async () => {
    await stopAt(1, 'SIGKILL', 'changed.mcap', [])
    mkdirSync(at('other'))
    writeFileSync(at('other/drive.mcap'), await drive(5))
    const other = ['annotate', at('other/drive.mcap'), ...questions, '--out', at('changed.mcap'), '--resume']
    const refused = { code: 1, stderr: expect.stringMatching(/another log, model/) }
    expect(await drivlm(other)).toMatchObject(refused)
    expect(await annotate('changed.mcap', ['--resume', '--precision', 'f32'])).toMatchObject(refused)
  })
})

describe('shards', () => {
  it('of a job put together are the whole, byte for byte, one that died and ran again too', async () => {
    const env = (index: number) => ({ JOB_COMPLETION_INDEX: String(index), DRIVLM_SHARDS: '3' })
    await stopAt(1, 'SIGKILL', 'part-1.mcap', ['--shard', '2/3'])
    rmSync(at('part-1.mcap.journal'), { force: true })
    rmSync(at('part-1.mcap'), { force: true })
    const runs = [0, 1, 2].map((index) => annotate(`part-${index}.mcap`, [], env(index)))
    expect((await Promise.all(runs)).map(({ code }) => code)).toEqual([0, 0, 0])
    const parts = [2, 0, 1].map((index) => at(`part-${index}.mcap`))
    expect(await drivlm(['merge', ...parts, '--out', at('merged.mcap')])).toMatchObject({ code: 0 })
    expect(readFileSync(at('merged.mcap')).equals(whole)).toBe(true)

    const two = await drivlm(['merge', ...parts.slice(1), '--out', at('two.mcap')])
    expect(two).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/3 of 9 moments are in no file, the first of them 6/),
    })
    expect(await drivlm(['merge', ...parts.slice(1), '--partial', '--out', at('two.mcap')])).toMatchObject({ code: 0 })
    const twice = await drivlm(['merge', ...parts, at('whole.mcap'), '--out', at('twice.mcap')])
    expect(twice).toMatchObject({ code: 1, stderr: expect.stringMatching(/which another file has too/) })
    const none = await drivlm(['merge', at('drive.mcap'), '--out', at('none.mcap')])
    expect(none).toMatchObject({ code: 1, stderr: expect.stringMatching(/no answers of drivlm annotate/) })
  })

  it('are taken from what Kubernetes and Slurm set', () => {
    expect(shardOfEnvironment({})).toBe(undefined)
    expect(shardOfEnvironment({ JOB_COMPLETION_INDEX: '0', DRIVLM_SHARDS: '4' })).toEqual({ index: 1, count: 4 })
    const slurm = { SLURM_ARRAY_TASK_ID: '7', SLURM_ARRAY_TASK_MIN: '5', SLURM_ARRAY_TASK_COUNT: '4' }
    expect(shardOfEnvironment(slurm)).toEqual({ index: 3, count: 4 })
    expect(shardOfEnvironment({ ...slurm, DRIVLM_SHARDS: '4' })).toEqual({ index: 3, count: 4 })
    const stepped = { SLURM_ARRAY_TASK_MIN: '0', SLURM_ARRAY_TASK_STEP: '2', SLURM_ARRAY_TASK_COUNT: '5' }
    expect(shardOfEnvironment({ ...stepped, SLURM_ARRAY_TASK_ID: '8' })).toEqual({ index: 5, count: 5 })
    // Submitted again for some of its tasks: 3 of 1-8, 3 and 7, 4-7 of 0-7.
    const again = { SLURM_ARRAY_TASK_ID: '3', SLURM_ARRAY_TASK_MIN: '3', SLURM_ARRAY_TASK_COUNT: '1' }
    expect(() => shardOfEnvironment(again)).toThrow(/Task 3 of this array of 1 .*--shard i\/n/)
    expect(() => shardOfEnvironment({ ...again, DRIVLM_SHARDS: '8' })).toThrow(/--shard i\/n/)
    expect(() => shardOfEnvironment({ ...again, SLURM_ARRAY_TASK_ID: '7', SLURM_ARRAY_TASK_COUNT: '2' })).toThrow(
      /--shard/,
    )
    expect(() => shardOfEnvironment({ ...slurm, DRIVLM_SHARDS: '8' })).toThrow(/--shard i\/n/)
    expect(() => shardOfEnvironment({ JOB_COMPLETION_INDEX: '2' })).toThrow(/set DRIVLM_SHARDS/)
    expect(() => shardOfEnvironment({ JOB_COMPLETION_INDEX: '4', DRIVLM_SHARDS: '4' })).toThrow(/shard/)
  })
})

describe('with the pictures that were seen', () => {
  const images = (name: string, args: readonly string[] = []) => annotate(name, ['--with-images', ...args])

  it('copies their messages byte for byte, with shards and resuming too', async () => {
    expect(await images('images.mcap')).toMatchObject({ code: 0 })
    const source = new Map<string, string>()
    const of = async (name: string, each: (picture: { topic: string; logTime: bigint; data: Uint8Array }) => void) => {
      const log = await openLog(at(name), { scan: true })
      for await (const picture of log.pictures()) each(picture)
      expect([log.damage, log.guessCameras().cameras]).toEqual([
        [],
        Object.fromEntries(cameras.map((camera) => [camera, topicOf(camera)])),
      ])
      await log.close()
    }
    const digest = (data: Uint8Array) => createHash('sha256').update(data).digest('hex')
    await of('drive.mcap', ({ topic, logTime, data }) => source.set(`${topic} ${logTime}`, digest(data)))
    let copied = 0
    await of('images.mcap', ({ topic, logTime, data }) => {
      expect(source.get(`${topic} ${logTime}`)).toBe(digest(data))
      copied += 1
    })
    expect(copied).toBe(count * 6)
    const { channelsById, schemasById } = await indexed(at('images.mcap'))
    const channel = [...channelsById.values()].find(({ topic }) => topic === topicOf('CAM_BACK'))!
    expect(channel).toMatchObject({ messageEncoding: 'cdr' })
    expect(schemasById.get(channel.schemaId)).toMatchObject({ name: 'sensor_msgs/msg/CompressedImage' })

    await Promise.all([images('half-1.mcap', ['--shard', '1/2']), stopAt(1, 'SIGKILL', 'half-2.mcap', imagesOfHalf)])
    if (existsSync(at('half-2.mcap.journal')))
      expect(await images('half-2.mcap', ['--shard', '2/2', '--resume'])).toMatchObject({ code: 0 })
    const parts = ['half-2.mcap', 'half-1.mcap'].map(at)
    expect(await drivlm(['merge', ...parts, '--out', at('joined.mcap')])).toMatchObject({ code: 0 })
    expect(readFileSync(at('joined.mcap')).equals(readFileSync(at('images.mcap')))).toBe(true)
  })
  const imagesOfHalf = ['--with-images', '--shard', '2/2']
})

describe('choices', () => {
  it('of moments and cameras', async () => {
    writeFileSync(at('map.json'), JSON.stringify({ CAM_FRONT: topicOf('CAM_FRONT') }))
    const when = ['--at', '0.6s,1002000000000', '--time', 'stamp']
    const ran = await annotate('front.mcap', ['--map', at('map.json'), '--missing', 'black', ...when, '--jsonl', '-'])
    const lines = ran.stdout
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line))
    expect(lines.map(({ timestamp, cameras: own }) => [timestamp, Object.keys(own)])).toEqual([
      [{ sec: 1000, nsec: 5e8 }, ['CAM_FRONT']],
      [{ sec: 1002, nsec: 0 }, ['CAM_FRONT']],
    ])
  })

  it.each([
    [['--map', 'CAM_FRONT'], /Expected --map CAMERA=TOPIC or a JSON file of them; CAM_FRONT is neither \(ENOENT\)/],
    [['--map', 'package-lock.json'], /is no object of topics by camera/],
    [['--map', 'README.md'], /is no JSON/],
    [['--ffmpeg', '/none/ffmpeg'], /cannot be started \(ENOENT\)/],
    [['--changed', '300'], /options\.changed/],
    [['--map', 'CAM_FRONT=/none'], /no topic \/none/],
    [['--map', 'CAM_FRONT=/a', '--map', 'CAM_FRONT=/b'], /gives CAM_FRONT twice/],
    [['--every', '1', '--moments', '2'], /both say which moments/],
  ])('%o', async (args, message) => {
    expect(await annotate('refused.mcap', args)).toMatchObject({ code: 1, stderr: expect.stringMatching(message) })
    expect(existsSync(at('refused.mcap.journal'))).toBe(false)
  })

  it('reads times with their unit', () => {
    expect(['0.5', '0.5s', '500ms', '1e-3'].map(seconds)).toEqual([0.5, 0.5, 0.5, 0.001])
    expect(logTimes('12.5,1500ms,1532402927612460000')).toEqual([12.5, 1.5, 1532402927612460000n])
    for (const text of ['', 's', '5m', '-1', '1,', 'ms']) expect(() => logTimes(text)).toThrow(/a number/)
  })

  it('prints the map to fill in where names tell no camera', async () => {
    const raw = 'test/fixtures/logs/ros2-raw.mcap'
    const ran = await drivlm(['annotate', raw, '--ask', 'What is there?', '--out', at('raw.mcap')])
    expect(ran).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/Fill in[\s\S]*--map CAM_FRONT=TOPIC\n[\s\S]*\/raw\/rgb8/),
    })
  })

  it('leaves nothing of a run that failed before its first answer', async () => {
    const ran = await drivlm(['annotate', at('drive.mcap'), '--ask', ' ', '--out', at('empty.mcap')])
    expect(ran).toMatchObject({ code: 1, stderr: expect.stringMatching(/The question is empty/) })
    expect(readdirSync(dir).filter((name) => name.startsWith('empty.'))).toEqual([])
  })

  it('asks for something to ask', async () => {
    const ran = await drivlm(['annotate', at('drive.mcap'), '--out', at('nothing.mcap')])
    expect(ran).toMatchObject({ code: 1, stderr: expect.stringMatching(/nothing to ask/) })
  })
})

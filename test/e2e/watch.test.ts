// drivlm watch: a robot's cameras over the network, answers on stdout, as JSON and as channels; and the examples of logs and of live robots.
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { FoxgloveClient } from '@foxglove/ws-protocol'
import { afterAll, afterEach, describe, expect, test } from 'vitest'
import { WebSocket } from 'ws'
import { cameras } from '../../lib/views/cameras.ts'
import { FoxgloveRobot, picture, RosbridgeRobot, topicOf } from '../unit/live-robots.ts'
import { mcap } from '../unit/logs-files.ts'
import { drivlm, run } from './run.ts'

const dir = mkdtempSync(path.join(os.tmpdir(), 'drivlm-watch-'))
afterAll(() => rmSync(dir, { recursive: true }))
const ends: (() => unknown)[] = []
afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end()
})

/** A program that runs, and what it has written so far. */
class Running {
  readonly child: ChildProcess
  readonly ended: Promise<number | null>
  stdout = ''
  stderr = ''
  #heard: (() => void)[] = []

  constructor(args: readonly string[]) {
    this.child = spawn(process.execPath, args)
    for (const name of ['stdout', 'stderr'] as const) {
      this.child[name]!.on('data', (chunk) => {
        this[name] += chunk
        for (const resolve of this.#heard.splice(0)) resolve()
      })
    }
    this.ended = new Promise((resolve) => {
      this.child.on('close', (code) => {
        resolve(code)
        for (const hear of this.#heard.splice(0)) hear()
      })
    })
    ends.push(() => this.child.kill('SIGKILL'))
  }

  async says(name: 'stdout' | 'stderr', pattern: RegExp): Promise<RegExpExecArray> {
    for (;;) {
      const found = pattern.exec(this[name])
      if (found !== null) return found
      if (this.child.exitCode !== null) throw new Error(`It ended with ${this.child.exitCode}: ${this.stderr}`)
      await new Promise<void>((resolve) => this.#heard.push(resolve))
    }
  }
}

const watch = (...args: string[]) => new Running(['dist/cli/main.js', 'watch', ...args])

test("Foxglove's protocol: answers on stdout, in a file, and as channels of a server", async () => {
  const robot = new FoxgloveRobot('foxglove.sdk.v1').advertise(...cameras)
  ends.push(() => robot.close())
  const jsonl = path.join(dir, 'answers.jsonl')
  const questions = ['--ask', 'What is the weather like?', '--locate', 'the cyclist']
  const running = watch(
    await robot.url(),
    ...questions,
    '--deadline',
    '600000',
    '--every',
    '0',
    '--serve',
    '0',
    '--jsonl',
    jsonl,
    '--moments',
    '2',
  )
  const [, url] = await running.says('stderr', /Answers are served on (\S+)/)
  const client = new FoxgloveClient({ ws: new WebSocket(url!, ['foxglove.websocket.v1']) as never })
  ends.push(() => client.close())
  const channels = await new Promise<{ id: number; topic: string }[]>((resolve) =>
    client.on('advertise', resolve as never),
  )
  const understood = new Promise((resolve) => client.on('status', resolve))
  client.subscribe(channels.find(({ topic }) => topic === '/drivlm/answers')!.id)
  client.subscribe('the server says that this is none' as never)
  await understood
  const served = new Promise<Record<string, unknown>>((resolve) => {
    client.on('message', ({ data }) =>
      resolve(JSON.parse(Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString())),
    )
  })
  await robot.ready()
  robot.show('dusk', 1000)
  await running.says('stdout', /It is dusk\./)
  expect(await served).toMatchObject({
    question: 'What is the weather like?',
    answer: 'It is dusk.',
    model: 'street-tiny',
    moment: 0,
  })
  robot.show('rain', 1500)
  expect(await running.ended).toBe(0)
  expect(running.stdout.split('\n')[0]).toMatch(
    /^00:00:01\.000 {2}What is the weather like\? {2}It is dusk\. {2}\([\d.]+ ms\)$/,
  )
  expect(running.stderr).toMatch(/CAM_FRONT {2}\/front\/image_raw\/compressed\n/)
  expect(running.stderr).toMatch(/2 moments asked about, 0 late, 0 not readable, 0 dropped\.\n$/)
  const lines = readFileSync(jsonl, 'utf8')
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line))
  expect(lines).toHaveLength(2)
  expect(lines[1]).toMatchObject({
    moment: 1,
    timestamp: { sec: 1, nsec: 500_000_000 },
    answers: [{ answer: 'It is raining.', kind: 'ask' }, { kind: 'locate' }],
    cameras: { CAM_BACK: { topic: topicOf('CAM_BACK'), timestamp: { sec: 1 } } },
    late: false,
    dropped: 0,
  })
  expect(lines[1].timings.totalMs).toBeGreaterThan(0)
})

test('rosbridge, until Ctrl-C', async () => {
  const type = 'sensor_msgs/msg/CompressedImage'
  const robot = new RosbridgeRobot(Object.fromEntries(cameras.map((camera) => [topicOf(camera), type])))
  ends.push(() => robot.close())
  const running = watch(await robot.url(), '--rosbridge', '--ask', 'What is the weather like?', '--jsonl', '-')
  await robot.ready(6)
  for (const camera of cameras) robot.sendRaw(topicOf(camera), picture(camera, 'day', 1000), 1010)
  await running.says('stdout', /\n/)
  expect(JSON.parse(running.stdout)).toMatchObject({ answers: [{ answer: 'It is a clear day.' }] })
  running.child.kill('SIGINT')
  expect(await running.ended).toBe(0)
  expect(running.stderr).toMatch(/1 moment asked about, 0 late/)
})

test.each([
  [['http://robot', '--ask', 'What?'], /Expected an address such as ws:\/\/robot:8765/],
  [['ws://robot'], /nothing to ask/],
  [['ws://robot', '--ask', 'What?', '--map', 'CAM_FRONT=/a', '--map', 'CAM_FRONT=/b'], /gives CAM_FRONT twice/],
])('%o', async (args, message) => {
  expect(await drivlm(['watch', ...args])).toMatchObject({ code: 1, stderr: expect.stringMatching(message) })
})

describe('examples', () => {
  test('log.mjs', async () => {
    const log = [0, 500].flatMap((ms) =>
      cameras.map((camera) => {
        const data = picture(camera, ms === 0 ? 'day' : 'rain', 1000 + ms)
        return { topic: topicOf(camera), logTime: BigInt(1000 + ms) * 1_000_000n, data }
      }),
    )
    const file = path.join(dir, 'drive.mcap')
    writeFileSync(file, await mcap(log))
    const { code, stdout, stderr } = await run(['examples/log.mjs', file])
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    expect(stdout).toMatch(/^1000000000 ns: It is a clear day\. .+\n1500000000 ns: It is raining\. .+\n$/)
  })

  test('live.mjs', async () => {
    const robot = new FoxgloveRobot('foxglove.websocket.v1').advertise(...cameras)
    ends.push(() => robot.close())
    const running = new Running(['examples/live.mjs', await robot.url(), '--moments', '2', '--port', '0'])
    await robot.ready()
    robot.show('day', 1000)
    await running.says('stdout', /^1000000000 ns: (Yes|No) \(\d+ ms, 0 dropped\)\n/)
    robot.show('rain', 1500)
    expect(await running.ended).toBe(0)
    expect(running.stdout).toMatch(/\n1500000000 ns: (Yes|No) \(\d+ ms, 0 dropped\)\n$/)
    expect(running.stderr).toBe('')
  })
})

// Robots' logs: moments out of stamps, cameras out of names. What containers hold is compared by scripts/golden/logs.mjs.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import sharp from 'sharp'
import { afterAll, describe, expect, it, test } from 'vitest'
import { readAnswers } from '../../lib/logs/answers.ts'
import { guessCameras } from '../../lib/logs/camera-names.ts'
import { type LogTopic, openLog } from '../../lib/logs/log.ts'
import { knownDefinition, pictureReader } from '../../lib/logs/message.ts'
import { type MomentOptions, momentsOf, planMoments } from '../../lib/logs/moments.ts'
import { replay } from '../../lib/logs/replay.ts'
import { distanceOf, thumbnailOf } from '../../lib/logs/thumbnail.ts'
import { openTrainingData } from '../../lib/train/index.ts'
import { cdrCompressed, mcap } from './logs-files.ts'

const ms = (value: number) => BigInt(Math.round(value * 1e6))
const listOf = (times: readonly number[]) => ({ length: times.length, stamp: (i: number) => ms(times[i]!) })
const every = (period: number, from: number, count: number) =>
  Array.from({ length: count }, (_, i) => from + i * period)

/** Stamps in ms of each moment made. */
function made(cameras: Record<string, readonly number[]>, maxSkew = 100) {
  const lists = Object.fromEntries(Object.entries(cameras).map(([name, times]) => [name, listOf(times)]))
  const { reference, moments } = momentsOf(lists, ms(maxSkew))
  const times = moments.map(({ pictures }) =>
    Object.fromEntries(Object.entries(pictures).map(([name, i]) => [name, cameras[name]![i!]])),
  )
  return { reference, times }
}

describe('moments', () => {
  it('pairs cameras by their usual offset, not with the nearest picture of the moment before', () => {
    const front = every(83.3, 0, 12)
    const { times } = made({ CAM_FRONT: front, CAM_BACK_LEFT: front.map((time) => time + 35) })
    expect(times).toEqual(front.map((time) => ({ CAM_FRONT: time, CAM_BACK_LEFT: time + 35 })))
  })

  it('goes by the slowest camera only where it is half as slow again, over ten pictures', () => {
    const fast = every(100, 0, 20)
    expect(made({ CAM_FRONT: fast, CAM_BACK: every(200, 10, 10) }).reference).toBe('CAM_BACK')
    expect(made({ CAM_FRONT: fast, CAM_BACK: every(200, 10, 9) }).reference).toBe('CAM_FRONT')
    expect(made({ CAM_FRONT: fast, CAM_BACK: every(140, 10, 14) }).reference).toBe('CAM_FRONT')
    // One that lost a picture is not the slowest.
    expect(made({ CAM_FRONT: fast, CAM_BACK: fast.slice(1) }).reference).toBe('CAM_FRONT')
    expect(made({ CAM_BACK_LEFT: fast, CAM_FRONT_RIGHT: fast }).reference).toBe('CAM_FRONT_RIGHT')
  })

  it('leaves a camera out where its picture is lost or late, or it stopped or began midway, and uses none twice', () => {
    const front = every(100, 0, 6)
    const { times } = made({ CAM_FRONT: front, CAM_BACK: [5, 105, 305, 580] })
    expect(times.map((time) => time.CAM_BACK)).toEqual([5, 105, undefined, 305, undefined, 580])
    const late = made({ CAM_FRONT: front, CAM_BACK: [305, 405, 505] }).times
    expect(late.map((time) => time.CAM_BACK)).toEqual([undefined, undefined, undefined, 305, 405, 505])
    expect(made({ CAM_FRONT: front, CAM_BACK: [50] }, 20).times.every((time) => time.CAM_BACK === undefined)).toBe(true)
  })

  it('of messages that came twice, one by one or both: the distance of two copies is no period', () => {
    const front = every(83, 0, 30)
    const twice = front.flatMap((time) => [time, time])
    const whole = (cameras: Record<string, readonly number[]>) =>
      made(cameras).times.filter((time) => Object.keys(time).length === 2).length
    const back = (times: readonly number[]) => times.map((time) => time + 5)
    expect(whole({ CAM_FRONT: front, CAM_BACK: back(twice) })).toBe(30)
    expect(whole({ CAM_FRONT: twice, CAM_BACK: back(front) })).toBe(30)
    expect(whole({ CAM_FRONT: twice, CAM_BACK: back(twice) })).toBe(60)
    const still = Array.from({ length: 12 }, () => 7)
    expect(whole({ CAM_FRONT: still, CAM_BACK: still })).toBe(12)
    expect(made({ CAM_FRONT: still, CAM_BACK: front }).reference).toBe('CAM_FRONT')
    expect(made({ CAM_FRONT: front, CAM_BACK: still }).reference).toBe('CAM_FRONT')
  })

  it('takes the earlier of two as near, and stands equal stamps', () => {
    expect(made({ CAM_FRONT: [100], CAM_BACK: [90, 110] }).times).toEqual([{ CAM_FRONT: 100, CAM_BACK: 90 }])
    expect(made({ CAM_FRONT: [7, 7, 7], CAM_BACK: [7, 7, 7] }).times).toHaveLength(3)
    expect(made({ CAM_FRONT: [], CAM_BACK: [] })).toEqual({ reference: '', times: [] })
  })
})

it.each<[string, (...given: never[]) => unknown, unknown[], RegExp]>([
  ['a log that was not awaited', planMoments, [Promise.resolve(), {}], /a log, as `await openLog` gives it/],
  ['no options', planMoments, [{ topics: [] }], /options with cameras.*undefined/],
  ['moments that are none', replay, [[]], /Expected moments/],
  ['answers without a name', readAnswers, [undefined], /path of a file of answers/],
  ['training data without a checkpoint', openTrainingData, [undefined], /path of a model folder/],
])('%s: said in a sentence', async (_, call, given, message) => {
  const refused = async () => call(...(given as never[]))
  await expect(refused()).rejects.toMatchObject({ code: 'BAD_ARGUMENT', message: expect.stringMatching(message) })
})

describe('which moments of a log', () => {
  const file = 'test/fixtures/logs/ros2-six-fastwrite.mcap'
  const first = 1532402927612460000n
  const seconds = async (options: object) => {
    const log = await openLog(file)
    const cameras = log.guessCameras().cameras as Record<string, string>
    const { moments, report } = await planMoments(log, { cameras, ...options }).finally(() => log.close())
    expect(report).toMatchObject({ reference: 'CAM_FRONT', made: 3, incomplete: 0, medianSkew: 42_579_000n })
    return moments.map(({ stamp }) => Number(stamp - first) / 1e9)
  }

  it.each([
    [{}, [0, 0.5, 1]],
    [{ every: 0 }, [0, 0.5, 1]],
    [{ every: 1e-10 }, [0, 0.5, 1]], // less than a nanosecond
    [{ every: 1 }, [0, 1]],
    [{ every: 1000 }, [0]],
    [{ at: [0.6] }, [0.5]],
    [{ at: [first + 990_000_000n, 0] }, [0, 1]],
    [{ count: 1 }, [0]],
    [{ count: 2 }, [0, 1]],
    [{ count: 50 }, [0, 0.5, 1]],
    [{ on: '/camera/back/image_raw/compressed' }, [0, 0.5, 1]],
  ])('%o', async (options, expected) => expect(await seconds(options)).toEqual(expected))

  it('ends for whose signal is aborted, and for nobody else', async () => {
    const log = await openLog(file)
    const cameras = log.guessCameras().cameras as Record<string, string>
    const stop = new AbortController()
    const stopped = planMoments(log, { cameras, signal: stop.signal })
    const other = planMoments(log, { cameras })
    stop.abort()
    await expect(stopped).rejects.toMatchObject({ code: 'ABORTED' })
    const { moments } = await other
    expect(moments).toHaveLength(3)
    await expect(moments[0]!.views(stop.signal)).rejects.toMatchObject({ code: 'ABORTED' })
    await expect(planMoments(log, { cameras, signal: stop.signal })).rejects.toMatchObject({ code: 'ABORTED' })
    expect([...(await log.tables({})).keys()].sort()).toEqual(Object.values(cameras).sort())
    await log.close()
  })

  it.each([file, 'test/fixtures/logs/db3-jazzy-zstd-message', 'test/fixtures/logs/ros1-bz2.bag'])(
    'of a log that was closed: %s',
    async (name) => {
      const log = await openLog(name)
      const [topic] = log.topics.filter(({ kind }) => kind !== undefined).map((one) => one.topic)
      const to = 10n ** 30n // beyond any stamp
      const [moment] = (await planMoments(log, { cameras: { CAM_FRONT: topic! }, to })).moments
      await log.close()
      await log.close()
      const late = [
        () => moment!.views(),
        () => moment!.published('CAM_FRONT'),
        () => log.times(topic!),
        () => log.tables({}),
        () => log.pictures().next(),
      ]
      for (const call of late) await expect(call()).rejects.toMatchObject({ code: 'DISPOSED' })
    },
  )

  it('reads the pictures of a moment', async () => {
    const log = await openLog(file)
    const { moments } = await planMoments(log, {
      cameras: { CAM_FRONT: '/camera/front/image_raw/compressed' },
      from: 0.4,
    })
    expect(moments.map(({ stamp }) => stamp - first)).toEqual([500_000_000n, 1_000_000_000n])
    const views = await moments[0]!.views()
    expect(Buffer.from(views.CAM_FRONT as Uint8Array).toString('hex', 0, 3)).toBe('ffd8ff')
    await log.close()
  })

  it.each([
    [{ every: -1 }, /options\.every/],
    [{ at: ['1'] }, /options\.at/],
    [{ count: 0 }, /options\.count/],
    [{ every: 1, count: 2 }, /options\.every and options\.count/],
    [{ on: '/none' }, /no topic '\/none'/],
    [{ cameras: {} }, /No topic is given/],
    [{ cameras: { CAM_FRONT: '/none' } }, /no topic \/none.*CAM_FRONT.*\/camera\/back\//],
    [
      { cameras: { A: '/camera/back/image_raw/compressed', B: '/camera/back/image_raw/compressed' } },
      /for A and for B/,
    ],
  ])('refuses %o', async (options, message) => {
    await expect(seconds(options)).rejects.toThrow(message)
    await expect(seconds(options)).rejects.toMatchObject({ code: 'BAD_ARGUMENT' })
  })
})

describe('moments at which the picture changed', () => {
  const dir = mkdtempSync(path.join(os.tmpdir(), 'drivlm-changed-'))
  afterAll(() => rmSync(dir, { recursive: true }))
  const picture = (grey: number) =>
    sharp({ create: { width: 40, height: 20, channels: 3, background: { r: grey, g: grey, b: grey } } })
      .png()
      .toBuffer()

  it('are those that differ from the one taken before, not from their neighbour; what cannot be decoded is taken', async () => {
    const greys = [50, 54, 58, 62, 50, undefined, 52, 90]
    const messages = await Promise.all(
      greys.map(async (grey, i) => {
        const data = grey === undefined ? Buffer.from('\xff\xd8\xff', 'latin1') : await picture(grey)
        return { data: cdrCompressed(data, { sec: 100 + i }), logTime: BigInt(100 + i) * 1_000_000_000n }
      }),
    )
    const file = path.join(dir, 'changed.mcap')
    writeFileSync(file, await mcap(messages))
    const log = await openLog(file)
    const seconds = async (options: Partial<MomentOptions>) => {
      const { moments } = await planMoments(log, { cameras: { CAM_FRONT: '/front/image' }, ...options })
      expect(moments.map(({ index }) => index)).toEqual(moments.map((_, i) => i))
      return moments.map(({ stamp }) => Number(stamp / 1_000_000_000n) - 100)
    }
    expect(await seconds({ changed: 10 })).toEqual([0, 3, 4, 5, 7])
    expect(await seconds({ changed: 4, every: 2 })).toEqual([0, 2, 4, 7])
    expect(await seconds({ changed: 0, every: 0 })).toHaveLength(8)
    expect(await seconds({ changed: 255 })).toEqual([0, 5])
    await expect(seconds({ changed: 256 })).rejects.toThrow(/options\.changed/)
    await expect(seconds({ changed: 1, at: [0] })).rejects.toThrow(/options\.changed and options\.at/)
    await log.close()
  })

  it('by thumbnails: luma of the parts of a picture, of any size', async () => {
    const data = new Uint8Array(32 * 16 * 3)
    data.fill(255, 0, 32 * 3) // the first row is white
    const grey = await thumbnailOf({ data, width: 32, height: 16 }, 'front')
    expect([...grey.subarray(0, 16), ...grey.subarray(16, 32)]).toEqual([...Array(16).fill(255), ...Array(16).fill(0)])
    expect(distanceOf(grey, new Uint8Array(256))).toBe(255 / 16)
    const one = await thumbnailOf({ data: Uint8Array.of(255, 0, 0), width: 1, height: 1 }, 'front')
    expect([...one]).toEqual(Array(256).fill(76))
  })
})

describe('cameras by words', () => {
  const topic = (name: string, facts: Partial<LogTopic> = {}): LogTopic => ({
    topic: name,
    schema: 'sensor_msgs/msg/CompressedImage',
    encoding: 'cdr',
    count: 10,
    hz: 2,
    first: 0n,
    last: 5n,
    kind: 'compressed',
    problem: undefined,
    note: undefined,
    format: 'jpeg',
    width: 1,
    height: 1,
    frameId: '',
    ...facts,
  })

  it.each([
    ['/cam_front/image_rect_compressed', 'CAM_FRONT'],
    ['/front_camera/image_color/compressed', 'CAM_FRONT'],
    ['/camera/front_wide/image', 'CAM_FRONT'],
    ['CAM_BACK_RIGHT', 'CAM_BACK_RIGHT'],
    ['/rear/left/image', 'CAM_BACK_LEFT'],
    ['/left_front_camera1/image', 'CAM_FRONT_LEFT'],
    ['/cam-fl/image', 'CAM_FRONT_LEFT'],
    ['/frontright/image', 'CAM_FRONT_RIGHT'],
    ['/front_stereo_camera/left/image_compressed', 'CAM_FRONT'],
    ['/front_stereo_camera/right/image_compressed', undefined],
    ['/side_left/image', undefined],
    ['/camera0/image', undefined],
    ['/image_raw', undefined],
    ['/confront/image', undefined],
    ['', undefined],
  ])('%s', (name, camera) => {
    expect(Object.keys(guessCameras([topic(name)]).cameras)).toEqual(camera === undefined ? [] : [camera])
  })

  test('the frame tells where the topic does not; depth and video are no cameras', () => {
    expect(guessCameras([topic('/camera0', { frameId: 'cam_back' })]).cameras).toEqual({ CAM_BACK: '/camera0' })
    const { cameras, unmapped } = guessCameras([
      topic('/front/depth', { problem: 'it is depth' }),
      topic('/imu', { kind: undefined }),
    ])
    expect({ cameras, unmapped }).toEqual({ cameras: {}, unmapped: ['/front/depth'] })
  })

  test('compressed goes before raw, rectified before raw, then the higher count', () => {
    const guess = guessCameras([
      topic('/front/image_raw', { kind: 'raw' }),
      topic('/front/image_raw/compressed', { count: 20 }),
      topic('/front/image_rect/compressed'),
      topic('/front/video', { kind: 'video', count: 90 }),
    ])
    expect(guess.cameras.CAM_FRONT).toBe('/front/image_rect/compressed')
    expect(guess.doubtful).toEqual([
      {
        camera: 'CAM_FRONT',
        taken: '/front/image_rect/compressed',
        others: ['/front/image_raw/compressed', '/front/image_raw', '/front/video'],
      },
    ])
  })
})

describe('definitions for logs that have none', () => {
  it.each(['sensor_msgs/msg/CompressedImage', 'sensor_msgs/msg/Image', 'foxglove_msgs/msg/RawImage'])(
    '%s',
    (schema) => {
      const definition = knownDefinition(schema, 'cdr')
      expect(typeof pictureReader({ topic: '/a', schema, definition, encoding: 'cdr', metadata: new Map() })).toBe(
        'object',
      )
      const text = Buffer.from(definition.data).toString()
      expect(text).toMatch(/\n={80}\nMSG: builtin_interfaces\/Time\nint32 sec\nuint32 nanosec\n$/)
      if (schema === 'sensor_msgs/msg/CompressedImage') {
        expect(text.slice(0, text.indexOf('==='))).toBe('std_msgs/Header header\nstring format\nuint8[] data\n')
      }
    },
  )

  it('are of ROS 2 only', () => {
    expect(knownDefinition('sensor_msgs/Image', 'ros1')).toEqual({ encoding: '', data: new Uint8Array(0) })
    expect(knownDefinition('std_msgs/msg/String', 'cdr').encoding).toBe('')
  })
})

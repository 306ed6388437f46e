// Robots' logs: moments out of stamps, cameras out of names. What containers hold is compared by scripts/golden/logs.mjs.
import { describe, expect, it, test } from 'vitest'
import { guessCameras } from '../../lib/logs/camera-names.ts'
import { type LogTopic, openLog } from '../../lib/logs/log.ts'
import { momentsOf, planMoments } from '../../lib/logs/moments.ts'

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

  it('leaves a camera out where its picture is lost, late or stopped, and uses none twice', () => {
    const front = every(100, 0, 6)
    const { times } = made({ CAM_FRONT: front, CAM_BACK: [5, 105, 305, 580] })
    expect(times.map((time) => time.CAM_BACK)).toEqual([5, 105, undefined, 305, undefined, 580])
    expect(made({ CAM_FRONT: front, CAM_BACK: [50] }, 20).times.every((time) => time.CAM_BACK === undefined)).toBe(true)
  })

  it('takes the earlier of two as near, and stands equal stamps', () => {
    expect(made({ CAM_FRONT: [100], CAM_BACK: [90, 110] }).times).toEqual([{ CAM_FRONT: 100, CAM_BACK: 90 }])
    expect(made({ CAM_FRONT: [7, 7, 7], CAM_BACK: [7, 7, 7] }).times).toHaveLength(3)
    expect(made({ CAM_FRONT: [], CAM_BACK: [] })).toEqual({ reference: '', times: [] })
  })
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
    [{ every: 1 }, [0, 1]],
    [{ every: 1000 }, [0]],
    [{ at: [0.6] }, [0.5]],
    [{ at: [first + 990_000_000n, 0] }, [0, 1]],
    [{ count: 1 }, [0]],
    [{ count: 2 }, [0, 1]],
    [{ count: 50 }, [0, 0.5, 1]],
    [{ on: '/camera/back/image_raw/compressed' }, [0, 0.5, 1]],
  ])('%o', async (options, expected) => expect(await seconds(options)).toEqual(expected))

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
    ])
    expect(guess.cameras.CAM_FRONT).toBe('/front/image_rect/compressed')
    expect(guess.doubtful).toEqual([
      {
        camera: 'CAM_FRONT',
        taken: '/front/image_rect/compressed',
        others: ['/front/image_raw/compressed', '/front/image_raw'],
      },
    ])
  })
})

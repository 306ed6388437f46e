// Cameras over the network as a source of moments, against real servers, and answers served in turn.
import { FoxgloveClient } from '@foxglove/ws-protocol'
import { afterEach, describe, expect, test } from 'vitest'
import { WebSocket } from 'ws'
import { serveAnswers } from '../../lib/live/answer-server.ts'
import * as live from '../../lib/live/cameras.ts'
import { readCbor } from '../../lib/live/cbor.ts'
import { FoxgloveInput } from '../../lib/live/foxglove.ts'
import { LiveCameras, type LiveMoment, type LiveOptions } from '../../lib/live/live-cameras.ts'
import type { AnsweredMoment } from '../../lib/logs/answers.ts'
import { StreetRandom } from '../../lib/street/random.ts'
import { cameras } from '../../lib/views/cameras.ts'
import { cbor, FoxgloveRobot, picture, pictureOf, RosbridgeRobot, topicOf } from './live-robots.ts'
import { bytes } from './logs-files.ts'

const ms = (value: number) => BigInt(value) * 1_000_000n
const ends: (() => Promise<unknown>)[] = []
afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end()
})

/** A robot and its cameras, as they are seen here. */
async function foxglove(options: LiveOptions & { map?: Record<string, string> } = {}, robot = new FoxgloveRobot()) {
  ends.push(() => robot.close())
  const warnings: string[] = []
  const statuses: string[] = []
  const heard = { onWarning: (text: string) => warnings.push(text), onStatus: (text: string) => statuses.push(text) }
  const input = new FoxgloveInput(await robot.url(), options.map, { backOffMs: 1, mostBackOffMs: 4 })
  const expected = options.map === undefined ? cameras : Object.keys(options.map)
  const source = new LiveCameras(input, expected, { ...heard, ...options })
  ends.push(() => source.return())
  return { robot, source, warnings, statuses }
}

async function value(next: Promise<IteratorResult<LiveMoment, undefined>>): Promise<LiveMoment> {
  const { value } = await next
  if (value === undefined) throw new Error('the source ended')
  return value
}

describe("Foxglove's protocol", () => {
  test.each(['foxglove.sdk.v1', 'foxglove.websocket.v1'])(
    'as %s: pictures of six cameras are moments',
    async (name) => {
      const { robot, source, statuses, warnings } = await foxglove({}, new FoxgloveRobot(name).advertise(...cameras))
      const first = source.next()
      await robot.ready()
      robot.show('day', 1000)
      const moment = await value(first)
      expect(moment).toMatchObject({ stamp: ms(1000), skew: ms(35), missing: [], dropped: 0 })
      expect(moment.stamps).toEqual(Object.fromEntries(cameras.map((camera, i) => [camera, ms(1000 + 7 * i)])))
      expect(moment.topics.CAM_BACK).toBe('/back/image_raw/compressed')
      const views = await moment.views()
      for (const camera of cameras) expect(pictureOf(camera, 'day').equals(views[camera] as Buffer)).toBe(true)
      const second = source.next()
      robot.show('rain', 1500)
      expect((await value(second)).stamp).toBe(ms(1500))
      expect(statuses[0]).toContain(name)
      expect(statuses).toContain('CAM_FRONT  /front/image_raw/compressed')
      expect(warnings).toEqual([])
    },
  )

  test('a moment waits for its last picture; what nobody takes is replaced by the next', async () => {
    const { robot, source } = await foxglove({}, new FoxgloveRobot().advertise(...cameras))
    const first = source.next()
    await robot.ready()
    robot.show('day', 1000, cameras.slice(0, 5))
    robot.send('CAM_BACK_RIGHT', picture('CAM_BACK_RIGHT', 'day', 1040), 1090)
    expect((await value(first)).stamps.CAM_BACK_RIGHT).toBe(ms(1040))
    robot.show('day', 2000, cameras.slice(0, 5)) // lacks one
    for (const at of [3000, 4000, 5000]) robot.show('rain', at)
    for (const at of [6000, 7000]) robot.send('CAM_FRONT', picture('CAM_FRONT', 'rain', at), at)
    while (source.incomplete < 2) await new Promise(setImmediate) // then all before it has come
    expect(await value(source.next())).toMatchObject({ stamp: ms(5000), dropped: 2 })
  })

  test('a sweep at 12 Hz: each camera gives the picture of its own sweep, as in a log', async () => {
    const { robot, source } = await foxglove({}, new FoxgloveRobot().advertise(...cameras))
    const first = source.next()
    await robot.ready()
    // As the lidar of nuScenes passes them: the front left camera begins, 7.6 ms before the front.
    const order = ['CAM_FRONT_LEFT', 'CAM_FRONT', 'CAM_FRONT_RIGHT', 'CAM_BACK_RIGHT', 'CAM_BACK', 'CAM_BACK_LEFT']
    const phases = [0, 8, 16, 23, 33, 43]
    const sweeps = 6
    for (let sweep = 0; sweep < sweeps; sweep++) {
      for (const [i, camera] of order.entries()) {
        const at = 1000 + 83 * sweep + phases[i]!
        robot.send(camera, picture(camera, 'day', at), at)
      }
    }
    const last = 1000 + 83 * (sweeps - 1)
    let moment = await value(first)
    while (moment.stamp < ms(last + 8)) moment = await value(source.next())
    expect(moment.stamps).toEqual(Object.fromEntries(order.map((camera, i) => [camera, ms(last + phases[i]!)])))
    expect(moment.skew).toBe(ms(43))
  })

  test("missing: 'keep' gives it without the camera", async () => {
    const { robot, source } = await foxglove({ missing: 'keep' }, new FoxgloveRobot().advertise(...cameras))
    const next = source.next()
    await robot.ready()
    const five = cameras.filter((camera) => camera !== 'CAM_BACK')
    for (const at of [1000, 1500, 2000]) robot.show('day', at, five)
    const found = [await value(next)]
    while (found.at(-1)!.stamp < ms(2000)) found.push(await value(source.next()))
    // From now on nobody waits for it.
    robot.show('day', 2500, five)
    found.push(await value(source.next()))
    expect(found[0]!.stamp).toBe(ms(1000))
    expect(found.at(-1)!.stamp).toBe(ms(2500))
    expect(found.map(({ missing }) => missing)).toEqual(found.map(() => ['CAM_BACK']))
  })

  test('topics may come later, vanish and come back; --map takes what names do not tell', async () => {
    const map = { CAM_FRONT: '/odd', CAM_BACK: topicOf('CAM_BACK') }
    const { robot, source, statuses } = await foxglove({ map })
    const next = source.next()
    await robot.until(() => robot.sockets.clients.size > 0)
    robot.advertise('CAM_BACK', 'CAM_FRONT_LEFT')
    await robot.ready(1)
    const schema = { schemaName: 'sensor_msgs/msg/CompressedImage', schema: '', schemaEncoding: 'ros2msg' }
    const odd = () =>
      robot.channels.set('CAM_FRONT', robot.server.addChannel({ topic: '/odd', encoding: 'cdr', ...schema }))
    odd()
    await robot.ready(2)
    robot.show('day', 1000, ['CAM_FRONT', 'CAM_BACK'])
    expect((await value(next)).topics).toEqual(map)
    robot.server.removeChannel(robot.channels.get('CAM_FRONT')!)
    robot.subscribed.delete(robot.channels.get('CAM_FRONT')!)
    odd()
    await robot.ready(2)
    const again = source.next()
    robot.show('day', 2000, ['CAM_FRONT', 'CAM_BACK'])
    expect((await value(again)).stamp).toBe(ms(2000))
    expect(statuses).toContain('CAM_FRONT  /odd is gone')
  })

  test('a connection that is lost is made again, to a robot that was started anew too', async () => {
    const { robot, source, statuses } = await foxglove({}, new FoxgloveRobot().advertise(...cameras))
    const first = source.next()
    await robot.ready()
    robot.raw((socket) => socket.close(1001, 'going away'))
    await robot.until(() => robot.sockets.clients.size === 1 && robot.subscribed.size === 6)
    const port = Number((await robot.url()).split(':').at(-1))
    await robot.close()
    while (!statuses.some((text) => text.includes('nothing listens there'))) await new Promise(setImmediate)
    const second = new FoxgloveRobot('foxglove.websocket.v1', port).advertise(...cameras)
    ends.push(() => second.close())
    await second.ready()
    second.show('day', 1000)
    expect((await value(first)).stamp).toBe(ms(1000))
    expect(statuses.some((text) => /going away; next try in 0.001 s/.test(text))).toBe(true)
  })

  test('a password in the address is not said', async () => {
    const statuses: string[] = []
    const robot = new FoxgloveRobot()
    ends.push(() => robot.close())
    const url = (await robot.url()).replace('ws://', 'ws://me:secret@')
    const source = live.fromFoxglove(url, { onStatus: (text) => statuses.push(text) })
    ends.push(() => source.return())
    void source.next()
    await robot.until(() => robot.sockets.clients.size === 1)
    while (statuses.length === 0) await new Promise(setImmediate)
    expect(statuses[0]).toMatch(/^Connected to ws:\/\/127\.0\.0\.1:\d+\/ /)
    await source.return()
  })

  test('a robot that is out of reach is given up', async () => {
    const robot = new FoxgloveRobot()
    ends.push(() => robot.close())
    const connections: WebSocket[] = []
    const second = new Promise<void>((resolve) => {
      robot.sockets.on('connection', (socket: WebSocket & { _socket?: { pause: () => void } }) => {
        socket._socket?.pause() // it reads nothing more, and answers no ping
        if (connections.push(socket) === 2) resolve()
      })
    })
    const times = { backOffMs: 1, silenceMs: 5 }
    const source = new LiveCameras(new FoxgloveInput(await robot.url(), undefined, times), cameras, {})
    ends.push(() => source.return())
    const next = source.next()
    await second
    await source.return()
    expect(await next).toEqual({ done: true, value: undefined })
  })
})

describe('servers that do wrong', () => {
  test('cost what they send, and nothing else', async () => {
    const { robot, source, warnings } = await foxglove({}, new FoxgloveRobot().advertise(...cameras))
    const next = source.next()
    await robot.ready()
    const odd = [null, 7, { id: -1 }, { id: 1.5, topic: 3 }, { id: 9e9, topic: 'x', encoding: 1, schemaName: 'y' }]
    const nested = '['.repeat(100_000)
    robot.raw((socket) => {
      for (const text of [
        '',
        'no JSON',
        '[]',
        'null',
        '{"op":7}',
        nested,
        '{"op":"advertise"}',
        '{"op":"unadvertise"}',
      ]) {
        socket.send(text)
      }
      socket.send(JSON.stringify({ op: 'advertise', channels: odd }))
      socket.send(JSON.stringify({ op: 'unadvertise', channelIds: [null, 'x', {}, 99] }))
      socket.send(JSON.stringify({ op: 'status', level: 2, message: 'hot\u001b[31m' }))
      const cut = bytes([1, 1], [4, 1])
      for (const data of [Buffer.alloc(0), cut, bytes([1, 9]), bytes([1, 1], [4, 4_000_000_000], [8, 5])])
        socket.send(data)
    })
    const whole = picture('CAM_FRONT', 'day', 1000)
    for (const length of [0, 3, 4, 11, 30, 60, whole.length - 1])
      robot.send('CAM_FRONT', whole.subarray(0, length), 1000)
    robot.send('CAM_FRONT', Buffer.concat([Buffer.from([1, 2, 3, 4]), whole]), 1000)
    robot.show('day', 900_000_000) // then the clock goes back
    robot.show('day', 1000)
    const found = await value(next)
    const moment = found.stamp === ms(1000) ? found : await value(source.next())
    expect(moment.stamp).toBe(ms(1000))
    const said = warnings.join('\n')
    expect(said).toMatch(/5 of the topics .* are not as the protocol has them/)
    expect(said).toMatch(/A message of the server was left out: it is no object of JSON/)
    expect(said).toMatch(/too short/)
    expect(said).toMatch(/A picture of \/front\/image_raw\/compressed was left out/)
    expect(said).toContain('The server says: hot�[31m')
    expect(said).not.toContain('\u001b')
  })

  test('a picture without a believable stamp has the time it came with', async () => {
    const { robot, source, warnings } = await foxglove({ map: { CAM_FRONT: topicOf('CAM_FRONT') } })
    const next = source.next()
    robot.advertise('CAM_FRONT')
    await robot.ready()
    robot.send('CAM_FRONT', picture('CAM_FRONT', 'day', 0), 5000)
    expect((await value(next)).stamp).toBe(ms(5000))
    robot.send('CAM_FRONT', picture('CAM_FRONT', 'day', 6000), 60_000)
    expect((await value(source.next())).stamp).toBe(ms(60_000))
    expect(warnings).toEqual([expect.stringMatching(/have no stamp/), expect.stringMatching(/more than 10 s/)])
  })

  test('100,000 topics are looked at, 10,000 with pictures are kept', async () => {
    const { robot, source, warnings } = await foxglove()
    const next = source.next()
    await robot.until(() => robot.sockets.clients.size > 0)
    const kinds = ['std_msgs/msg/String', 'sensor_msgs/msg/Image']
    const channels = Array.from({ length: 100_000 }, (_, i) => {
      return { id: i + 100, topic: `/t${i}`, encoding: 'cdr', schemaName: kinds[i % 2], schema: '' }
    })
    robot.advertise(...cameras) // before the crowd
    robot.raw((socket) => socket.send(JSON.stringify({ op: 'advertise', channels })))
    await robot.ready()
    robot.show('day', 1000)
    expect((await value(next)).stamp).toBe(ms(1000))
    expect(warnings).toEqual([expect.stringMatching(/more than 10000 topics with pictures/)])
  })

  test('a frame of 1 GB is refused by its head, a server that closes at once is tried again', async () => {
    const robot = new FoxgloveRobot().advertise(...cameras)
    let connections = 0
    robot.sockets.on('connection', (socket: WebSocket & { _socket?: { write: (data: Buffer) => void } }) => {
      connections++
      if (connections === 1) socket._socket!.write(bytes([1, 0x82], [1, 127], Buffer.from('0000000040000000', 'hex')))
      if (connections === 2) socket.terminate()
    })
    const { source, statuses } = await foxglove({}, robot)
    const next = source.next()
    await robot.until(() => connections === 3)
    await robot.ready()
    robot.show('day', 1000)
    expect((await value(next)).stamp).toBe(ms(1000))
    expect(statuses.join('\n')).toMatch(/a message of more than 80 MiB; next try/)
  })

  test('one that speaks another protocol, and one that never advertises', async () => {
    const { source, statuses } = await foxglove({}, new FoxgloveRobot('other.v1'))
    const next = source.next()
    while (statuses.length < 3) await new Promise(setImmediate)
    expect(statuses[0]).toMatch(/Not connected to .*subprotocol/)
    await source.return()
    expect(await next).toEqual({ done: true, value: undefined })

    const stop = new AbortController()
    const silent = await foxglove({ signal: stop.signal })
    const waiting = silent.source.next()
    await silent.robot.until(() => silent.robot.sockets.clients.size > 0)
    stop.abort()
    await expect(waiting).rejects.toMatchObject({ code: 'ABORTED' })
    expect(await silent.source.next()).toEqual({ done: true, value: undefined })
  })
})

describe('rosbridge', () => {
  const types = Object.fromEntries(cameras.map((camera) => [topicOf(camera), 'sensor_msgs/msg/CompressedImage']))

  async function rosbridge(robot: RosbridgeRobot, options: Parameters<typeof live.fromRosbridge>[1] = {}) {
    ends.push(() => robot.close())
    const warnings: string[] = []
    const source = live.fromRosbridge(await robot.url(), { onWarning: (text) => warnings.push(text), ...options })
    ends.push(() => source.return())
    return { source, warnings, next: source.next() }
  }

  test('cbor-raw of ROS 2', async () => {
    const robot = new RosbridgeRobot({ ...types, '/chatter': 'std_msgs/msg/String' })
    const { next, warnings } = await rosbridge(robot)
    await robot.ready(6)
    const how = { compression: 'cbor-raw', throttle_rate: 0, queue_length: 1 }
    expect(robot.subscriptions[0]).toEqual({
      op: 'subscribe',
      topic: topicOf('CAM_FRONT'),
      type: types[topicOf('CAM_FRONT')],
      ...how,
    })
    robot.sendRaw('/chatter', Buffer.from('nobody asked'), 1000)
    for (const camera of cameras) robot.sendRaw(topicOf(camera), picture(camera, 'day', 1000), 1010)
    const moment = await value(next)
    expect(moment.stamp).toBe(ms(1000))
    expect(pictureOf('CAM_BACK', 'day').equals((await moment.views()).CAM_BACK as Buffer)).toBe(true)
    expect(warnings).toEqual([])
  })

  test('cbor-raw of ROS 1, without rosapi, and JSON', async () => {
    const robot = new RosbridgeRobot()
    const map = { CAM_FRONT: '/one/compressed', CAM_BACK: '/two/image' }
    const { next, warnings } = await rosbridge(robot, { map })
    await robot.ready(2)
    expect(robot.subscriptions.every(({ type }) => type === undefined)).toBe(true)
    const file = pictureOf('CAM_FRONT', 'day')
    const word = (text: string) => bytes([4, text.length], text)
    const ros1 = bytes([4, 7], [4, 5], [4, 0], word('front'), word('png'), [4, file.length], file)
    robot.sendRaw('/one/compressed', ros1, 5010)
    const header = { stamp: { secs: 5, nsecs: 20_000_000 }, frame_id: 'back' }
    const image = { header, width: 2, height: 1, step: 6, encoding: 'rgb8', is_bigendian: 0, data: 'AQIDBAUG' }
    // JSON has no clock of its own: a stamp so far from ours is not believed.
    const seconds = Math.floor(Date.now() / 1000)
    robot.send({ op: 'publish', topic: '/two/image', msg: { ...image, data: 'not base64!' } })
    robot.send({
      op: 'publish',
      topic: '/two/image',
      msg: { ...image, header: { stamp: { sec: seconds, nanosec: 0 }, frame_id: '' } },
    })
    const bytesNow = bytes([4, 8], [4, seconds], [4, 1000], word('front'), word('png'), [4, file.length], file)
    robot.sendRaw('/one/compressed', bytesNow, seconds * 1000)
    const moment = await value(next)
    const views = await moment.views()
    expect(file.equals(views.CAM_FRONT as Buffer)).toBe(true)
    expect(views.CAM_BACK).toMatchObject({ width: 2, height: 1, data: Uint8Array.of(1, 2, 3, 4, 5, 6) })
    expect(warnings).toEqual([expect.stringMatching(/A picture of \/two\/image was left out: 'data' is no base64/)])
  })

  test('what cannot be read is a warning', async () => {
    const robot = new RosbridgeRobot({ [topicOf('CAM_FRONT')]: 'sensor_msgs/msg/CompressedImage' })
    const { next, warnings } = await rosbridge(robot, { cameras: ['CAM_FRONT'] })
    await robot.ready(1)
    const whole = cbor({ op: 'publish', topic: topicOf('CAM_FRONT'), msg: { bytes: Buffer.alloc(9) } })
    for (const message of [whole.subarray(0, 30), Buffer.from([0xff]), whole, Buffer.concat([whole, whole])])
      robot.send(message)
    robot.send({ op: 'status', level: 'error', msg: 'no such topic' })
    robot.send({ op: 'png', data: '' })
    robot.sendRaw(topicOf('CAM_FRONT'), picture('CAM_FRONT', 'day', 1000), 1010)
    expect((await value(next)).stamp).toBe(ms(1000))
    expect(warnings.join('\n')).toMatch(
      /CBOR is cut[\s\S]*has not begun[\s\S]*left out[\s\S]*bytes before the message[\s\S]*no such topic[\s\S]*'png'/,
    )
  })
})

describe('CBOR', () => {
  // Examples of RFC 8949, appendix A.
  test.each<[string, unknown]>([
    ['00', 0],
    ['1903e8', 1000],
    ['1b000000e8d4a51000', 1e12],
    ['29', -10],
    ['3903e7', -1000],
    ['f93e00', 1.5],
    ['f90001', 2 ** -24],
    ['f97c00', Number.POSITIVE_INFINITY],
    ['fa47c35000', 100_000],
    ['fb3ff199999999999a', 1.1],
    ['f4', false],
    ['f6', undefined],
    ['c11a514b67b0', 1363896240],
    ['4401020304', Buffer.from([1, 2, 3, 4])],
    ['6449455446', 'IETF'],
    ['83010203', [1, 2, 3]],
    ['a26161016162820203', { a: 1, b: [2, 3] }],
    ['5f42010243030405ff', Buffer.from([1, 2, 3, 4, 5])],
    ['7f657374726561646d696e67ff', 'streaming'],
    ['9f018202039f0405ffff', [1, [2, 3], [4, 5]]],
    ['bf61610161629f0203ffff', { a: 1, b: [2, 3] }],
  ])('%s', (hex, expected) => {
    const data = Buffer.from(hex, 'hex')
    const found = readCbor(data)
    const plain = found !== null && typeof found === 'object' && !Array.isArray(found) && !(found instanceof Uint8Array)
    expect(plain ? { ...found } : found).toEqual(expected)
    for (let length = 0; length < data.length; length++)
      expect(() => readCbor(data.subarray(0, length))).toThrow(/CBOR/)
  })

  test.each([
    ['8'.repeat(2) + '81'.repeat(40), /cut|deep/],
    ['81'.repeat(40), /deep/],
    ['9bffffffffffffffff', /cut/],
    ['5bffffffffffffffff', /cut/],
    ['1c', /form 28/],
    ['1f', /without a size/],
    ['f8ff', /simple value/],
    ['5f6161ff', /something else/],
    ['bf01ff', /without a value/],
    ['81ff', /too early/],
    ['0000', /1 bytes before/],
  ])('%s is refused', (hex, message) => {
    expect(() => readCbor(Buffer.from(hex, 'hex'))).toThrow(message)
  })

  test('with any bytes changed ends in a value or its own error', () => {
    const whole = cbor({
      op: 'publish',
      topic: '/front/image',
      msg: { secs: 70_000, nsecs: 5, bytes: Buffer.alloc(60, 7) },
    })
    const random = new StreetRandom(5)
    let errors = 0
    for (let i = 0; i < 20_000; i++) {
      const data = Buffer.from(whole)
      for (let n = 0; n <= i % 3; n++) data[random.below(data.length)] = random.below(256)
      try {
        readCbor(data)
      } catch (error) {
        errors++
        expect((error as Error).message).toMatch(/^its CBOR/)
      }
    }
    expect(errors).toBeGreaterThan(1000)
  })

  test('with too many values is refused', () => {
    expect(() => readCbor(Buffer.concat([Buffer.from([0x9a, 0, 2, 0, 0]), Buffer.alloc(131_072)]))).toThrow(
      /more than 100000/,
    )
  })
})

describe('a node of rclnodejs', () => {
  const stamp = () => ({ sec: Math.floor(Date.now() / 1000), nanosec: 0 })

  function standIn() {
    const made: { type: string; topic: string; options: { qos: object }; callback: (message: unknown) => void }[] = []
    const destroyed: unknown[] = []
    const node = {
      createSubscription(type: string, topic: string, options: object, callback: (message: unknown) => void) {
        const subscription = { type, topic, options: options as { qos: object }, callback }
        made.push(subscription)
        return subscription
      },
      destroySubscription: (subscription: unknown) => destroyed.push(subscription),
      getTopicNamesAndTypes: () => [{ name: '/raw', types: ['sensor_msgs/msg/Image'] }],
    }
    return { node, made, destroyed }
  }

  test('is subscribed to as sensor data, and given back', async () => {
    const { node, made, destroyed } = standIn()
    const warnings: string[] = []
    const map = {
      CAM_FRONT: '/front/compressed',
      CAM_BACK: '/raw',
      CAM_BACK_LEFT: { topic: '/x', type: 'sensor_msgs/msg/Image' },
    }
    const source = live.fromRclnodejs(node, map, { onWarning: (text) => warnings.push(text) })
    expect(made).toEqual([])
    const next = source.next()
    expect(made.map(({ type, topic }) => [type, topic])).toEqual([
      ['sensor_msgs/msg/CompressedImage', '/front/compressed'],
      ['sensor_msgs/msg/Image', '/raw'],
      ['sensor_msgs/msg/Image', '/x'],
    ])
    expect(made[0]!.options.qos).toMatchObject({ depth: 1, reliability: 2, durability: 2 })
    const header = { stamp: stamp(), frame_id: 'front' }
    const file = pictureOf('CAM_FRONT', 'day')
    const raw = {
      header,
      width: 1,
      height: 1,
      step: 3,
      encoding: 'bgr8',
      is_bigendian: 0,
      data: Uint8Array.of(3, 2, 1),
    }
    made[0]!.callback({ header, format: 'png', data: new Uint8Array(file) })
    made[1]!.callback({ ...raw, width: 'wide' })
    made[1]!.callback(raw)
    made[2]!.callback({ ...raw, data: [3, 2, 1] })
    const moment = await value(next)
    const views = await moment.views()
    expect(views.CAM_BACK).toMatchObject({ data: Uint8Array.of(1, 2, 3), width: 1, height: 1 })
    expect(views.CAM_BACK_LEFT).toEqual(views.CAM_BACK)
    expect(file.equals(views.CAM_FRONT as Uint8Array)).toBe(true)
    expect(warnings).toEqual([expect.stringMatching(/'width' is no whole number/)])
    await source.return()
    expect(destroyed).toEqual(made)
    made[0]!.callback({ header, format: 'png', data: new Uint8Array(file) }) // one that was on its way
    expect(await source.next()).toEqual({ done: true, value: undefined })
  })

  test.each([
    [undefined, { CAM_FRONT: '/x' }, /node of rclnodejs/],
    [standIn().node, {}, /a topic for each camera/],
    [standIn().node, { CAM_FRONT: { topic: '/x', type: 'std_msgs/msg/String' } }, /is of std_msgs/],
  ])('%o, %o is refused', (node, map, message) => {
    expect(() => live.fromRclnodejs(node as never, map as never)).toThrow(message)
  })
})

test.each([
  ['http://robot', {}, /ws:\/\/robot:8765/],
  [7, {}, /address/],
  ['ws://robot', { maxSkew: -1 }, /maxSkew/],
  ['ws://robot', { missing: 'black' }, /missing/],
  ['ws://robot', { cameras: [] }, /cameras/],
  ['ws://robot', { map: { CAM_FRONT: 7 } }, /map/],
])('%s with %o is refused', (url, options, message) => {
  expect(() => live.fromFoxglove(url as string, options as object)).toThrow(message)
  expect(() => live.fromRosbridge(url as string, options as object)).toThrow(message)
})

describe('answers served', () => {
  const moment = (boxes: AnsweredMoment['answers'][0]['boxes'] = []): AnsweredMoment => ({
    moment: 0,
    moments: 1,
    model: 'street-tiny',
    timestamp: { sec: 5, nsec: 6 },
    cameras: { CAM_FRONT: { topic: '/front/image', timestamp: { sec: 5, nsec: 7 } } },
    answers: [{ question: 'What?', answer: 'That.', kind: boxes.length > 0 ? 'locate' : 'ask', boxes }],
  })

  async function client(url: string, protocol: string) {
    const socket = new WebSocket(url, [protocol])
    const client = new FoxgloveClient({ ws: socket as never })
    ends.push(async () => client.close())
    type Channels = { id: number; topic: string; schemaName: string; schema: string; encoding: string }[]
    const channels = (): Promise<Channels> =>
      new Promise((resolve) => client.on('advertise', (list) => resolve(list as Channels)))
    return { client, channels, first: channels() }
  }

  test.each(['foxglove.sdk.v1', 'foxglove.websocket.v1'])('as %s', async (protocol) => {
    const server = await serveAnswers({ port: 0 })
    ends.push(() => server.close())
    const { client: one, channels, first } = await client(server.url, protocol)
    const offered = await first
    expect(offered.map(({ topic, schemaName, encoding }) => [topic, schemaName, encoding])).toEqual([
      ['/drivlm/answers', 'drivlm.Answer', 'json'],
      ['/drivlm/log', 'foxglove.Log', 'json'],
    ])
    expect(JSON.parse(offered[0]!.schema)).toMatchObject({
      type: 'object',
      properties: { question: { type: 'string' } },
    })
    const heard: { id: number; time: bigint; content: unknown }[] = []
    const until = (count: number) =>
      new Promise<void>((resolve) => {
        one.on('message', ({ subscriptionId, timestamp, data }) => {
          const content = JSON.parse(Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString())
          if (heard.push({ id: subscriptionId, time: timestamp, content }) === count) resolve()
        })
      })
    const answers = one.subscribe(offered[0]!.id)
    const boxes = [{ camera: 'CAM_FRONT', label: 'cyclist', box: [1, 2, 3, 4] as const }]
    const more = channels()
    server.send(moment(boxes)) // nobody is known to want it yet; its annotations are a channel of their own
    const annotations = one.subscribe((await more)[0]!.id)
    expect((await more)[0]).toMatchObject({
      topic: '/front/drivlm_annotations',
      schemaName: 'foxglove.ImageAnnotations',
    })
    const done = until(2)
    // Subscriptions have no answer: what is asked for after them has.
    const understood = new Promise((resolve) => one.on('status', resolve))
    ;(one as unknown as { sendMessage: (id: number, data: Uint8Array) => void }).sendMessage(1, Buffer.from('no'))
    one.subscribe('x' as never)
    expect(await understood).toMatchObject({ level: 2, message: expect.stringMatching(/an id and a channelId/) })
    server.send(moment(boxes))
    await done
    expect(heard[0]).toMatchObject({
      id: answers,
      time: 5_000_000_006n,
      content: { question: 'What?', answer: 'That.', model: 'street-tiny' },
    })
    expect(heard[1]).toMatchObject({ id: annotations, time: 5_000_000_007n, content: { points: [{ type: 2 }] } })
  })

  test('clients without the protocol are sent away, a port that is taken is an error', async () => {
    const server = await serveAnswers({ port: 0 })
    ends.push(() => server.close())
    const closed = new Promise<number>((resolve) => new WebSocket(server.url).on('close', resolve))
    expect(await closed).toBe(1002)
    const port = Number(server.url.split(':').at(-1))
    await expect(serveAnswers({ port })).rejects.toMatchObject({
      code: 'BAD_ARGUMENT',
      message: expect.stringMatching(/EADDRINUSE/),
    })
    server.send(moment())
  })
})

/**
 * Cameras of a rosbridge server. Pictures come as `cbor-raw`, the bytes of the ROS message, or, from servers that have no such thing, as JSON.
 * https://github.com/RobotWebTools/rosbridge_suite/blob/ros2/ROSBRIDGE_PROTOCOL.md
 */
import { visible } from '../logs/files.ts'
import { pictureReader } from '../logs/message.ts'
import { readCbor } from './cbor.ts'
import { Connection, type ConnectionTimes, checkAddress, parseObject } from './connection.ts'
import type { LiveCameras, LiveInput, LiveTopics } from './live-cameras.ts'
import { readRosObject, rosPictureKind, usualType } from './ros-message.ts'
import { camerasOf, maxTopics, type OfferedTopic, offeredTopic } from './topics.ts'

const listId = 'drivlm:topics'
/** From one look at the topics to the next, while cameras are missing, ms. */
const lookAgainMs = 2000

type RosbridgeTopic = OfferedTopic<string>

export class RosbridgeInput implements LiveInput {
  readonly #url: URL
  readonly #map: LiveTopics | undefined
  readonly #times: Partial<ConnectionTimes>
  /** Cameras by the topics that are subscribed to. */
  readonly #subscribed = new Map<string, { camera: string; type: string; encoding: 'cdr' | 'ros1' | undefined }>()
  #connection: Connection | undefined
  #send: (message: object) => void = () => {}
  #timer: NodeJS.Timeout | undefined

  constructor(url: string, map: LiveTopics | undefined, times: Partial<ConnectionTimes> = {}) {
    this.#url = checkAddress(url)
    this.#map = map
    this.#times = times
  }

  start(cameras: LiveCameras): void {
    const events = {
      onOpen: (send: (message: object) => void) => {
        this.#send = send
        this.#look()
      },
      onText: (text: string) => this.#onMessage(parseObject(text), cameras),
      onBinary: (data: Uint8Array) => this.#onMessage(readCbor(data), cameras),
      onClose: () => {
        clearTimeout(this.#timer)
        this.#subscribed.clear()
      },
      onStatus: (status: string) => cameras.say(status),
      onWarning: (warning: string) => cameras.warn(warning),
    }
    this.#connection = new Connection(this.#url, [], events, this.#times)
    this.#connection.start().catch((error) => cameras.fail(error))
  }

  stop(): void {
    clearTimeout(this.#timer)
    this.#connection?.stop()
  }

  /** Topics are not announced: they are asked for. */
  #look(): void {
    this.#send({ op: 'call_service', id: listId, service: '/rosapi/topics', args: {} })
  }

  #onMessage(message: unknown, cameras: LiveCameras): void {
    const { op, id, topic, msg, level, result, values } = Object(message) as Record<string, unknown>
    if (op === 'publish' && typeof topic === 'string') this.#onPicture(topic, msg, cameras)
    else if (op === 'service_response' && id === listId) {
      const { topics, types } = Object(values) as Record<string, unknown>
      if (result !== false && Array.isArray(topics) && Array.isArray(types)) this.#onTopics(topics, types, cameras)
      else this.#onNoTopics(cameras)
    } else if (op === 'status' && (level === 'error' || level === 'warning') && typeof msg === 'string') {
      cameras.warn(`The server says: ${visible(msg)}`)
    } else if (op === 'png' || op === 'fragment') {
      cameras.warn(`The server sends messages in the form '${op}', which is not read.`)
    }
  }

  #onTopics(topics: readonly unknown[], types: readonly unknown[], cameras: LiveCameras): void {
    const offered: RosbridgeTopic[] = []
    for (const [i, topic] of topics.entries()) {
      const type = types[i]
      if (typeof topic !== 'string' || typeof type !== 'string') continue
      const channel = { topic, schema: type, encoding: encodingOf(type), definition: undefined, metadata: new Map() }
      const one = offeredTopic(type, channel)
      if (one !== undefined && offered.push(one) === maxTopics) {
        cameras.warn(`The server has ${maxTopics} topics with pictures or more; the others are not looked at.`)
        break
      }
    }
    const wanted = camerasOf(offered, this.#map, cameras)
    for (const [topic, { camera }] of this.#subscribed) {
      if (wanted.get(camera)?.channel.topic === topic) wanted.delete(camera)
      else {
        this.#send({ op: 'unsubscribe', topic })
        this.#subscribed.delete(topic)
        cameras.forget(camera)
        cameras.say(`${camera}  ${visible(topic)} is gone`)
      }
    }
    for (const [camera, { key, channel }] of wanted) this.#subscribe(camera, channel.topic, key, cameras)
    this.#lookLater()
  }

  /** One look at a time, however often a server answers. */
  #lookLater(): void {
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => this.#look(), lookAgainMs)
  }

  /** rosapi does not run. Topics that are given are subscribed to by their usual types. */
  #onNoTopics(cameras: LiveCameras): void {
    if (this.#map === undefined) {
      cameras.warn('The server cannot say what topics it has; start rosapi beside it, or give a topic for each camera.')
      this.#lookLater()
      return
    }
    for (const [camera, topic] of Object.entries(this.#map)) this.#subscribe(camera, topic, undefined, cameras)
  }

  #subscribe(camera: string, topic: string, type: string | undefined, cameras: LiveCameras): void {
    const encoding = type === undefined ? undefined : encodingOf(type)
    this.#subscribed.set(topic, { camera, type: type ?? usualType(topic), encoding })
    const how = { compression: 'cbor-raw', throttle_rate: 0, queue_length: 1 }
    this.#send({ op: 'subscribe', topic, ...(type === undefined ? {} : { type }), ...how })
    cameras.say(`${camera}  ${visible(topic)}`)
  }

  #onPicture(topic: string, msg: unknown, cameras: LiveCameras): void {
    const subscribed = this.#subscribed.get(topic)
    if (subscribed === undefined) return
    const { camera, type, encoding } = subscribed
    try {
      const { bytes, secs, nsecs } = Object(msg) as Record<string, unknown>
      const now = BigInt(Math.round(Date.now())) * 1_000_000n
      if (bytes instanceof Uint8Array) {
        const channel = {
          topic,
          schema: type,
          encoding: encoding ?? sniffed(bytes),
          definition: undefined,
          metadata: new Map(),
        }
        const reader = pictureReader(channel)
        if (typeof reader !== 'object') throw new Error(reader ?? `it is of the type ${visible(type)}`)
        const known = Number.isSafeInteger(secs) && Number.isSafeInteger(nsecs)
        const clock = known ? BigInt(secs as number) * 1_000_000_000n + BigInt(nsecs as number) : now
        cameras.put(camera, topic, reader.read(bytes), clock)
      } else {
        const kind = rosPictureKind(type)
        if (kind === undefined) throw new Error(`it is of the type ${visible(type)}`)
        cameras.put(camera, topic, readRosObject(msg, kind), now)
      }
    } catch (error) {
      cameras.warn(`A picture of ${visible(topic)} was left out: ${visible((error as Error).message)}.`)
    }
  }
}

/** ROS 2 writes `pkg/msg/Name`, ROS 1 `pkg/Name`. */
function encodingOf(type: string): 'cdr' | 'ros1' {
  return type.includes('/msg/') ? 'cdr' : 'ros1'
}

/** Where nobody said the type: the first bytes of CDR are no sequence number that a message of ROS 1 is likely to have. */
function sniffed(bytes: Uint8Array): 'cdr' | 'ros1' {
  return bytes[0] === 0 && bytes[1]! <= 1 && bytes[2] === 0 && bytes[3] === 0 ? 'cdr' : 'ros1'
}

/**
 * Cameras of a server of Foxglove's WebSocket protocol: foxglove_bridge, and what is built with Foxglove's SDK.
 * https://github.com/foxglove/ws-protocol/blob/main/docs/spec.md
 */
import type { Channel } from '../logs/container.ts'
import { visible } from '../logs/files.ts'
import type { PictureReader } from '../logs/message.ts'
import { Connection, type ConnectionTimes, checkAddress, parseObject } from './connection.ts'
import type { LiveCameras, LiveInput, LiveTopics } from './live-cameras.ts'
import { camerasOf, maxTopics, type OfferedTopic, offeredTopic } from './topics.ts'

/** Names of the protocol: of the SDK, and of older servers. */
export const subprotocols: readonly string[] = ['foxglove.sdk.v1', 'foxglove.websocket.v1']

/** The first byte of a binary message with a message of a topic. */
export const messageData = 1

interface Subscription {
  camera: string
  topic: string
  channelId: number
  reader: PictureReader
}

export class FoxgloveInput implements LiveInput {
  readonly #url: URL
  readonly #map: LiveTopics | undefined
  readonly #times: Partial<ConnectionTimes>
  readonly #offered = new Map<number, OfferedTopic<number>>()
  readonly #subscriptions = new Map<number, Subscription>()
  #connection: Connection | undefined
  #send: (message: object) => void = () => {}
  #lastId = 0

  constructor(url: string, map: LiveTopics | undefined, times: Partial<ConnectionTimes> = {}) {
    this.#url = checkAddress(url)
    this.#map = map
    this.#times = times
  }

  start(cameras: LiveCameras): void {
    const events = {
      onOpen: (send: (message: object) => void) => {
        this.#send = send
      },
      onText: (text: string) => this.#onText(text, cameras),
      onBinary: (data: Uint8Array) => this.#onBinary(data, cameras),
      onClose: () => {
        this.#offered.clear()
        this.#subscriptions.clear()
      },
      onStatus: (status: string) => cameras.say(status),
      onWarning: (warning: string) => cameras.warn(warning),
    }
    this.#connection = new Connection(this.#url, [...subprotocols], events, this.#times)
    this.#connection.start().catch((error) => cameras.fail(error))
  }

  stop(): void {
    this.#connection?.stop()
  }

  #onText(text: string, cameras: LiveCameras): void {
    const { op, channels, channelIds, level, message } = parseObject(text)
    if (op === 'advertise' && Array.isArray(channels)) {
      let unread = 0
      for (const channel of channels) if (!this.#offer(channel, cameras)) unread++
      if (unread > 0)
        cameras.warn(`${unread} of the topics that the server advertised are not as the protocol has them.`)
      this.#subscribe(cameras)
    } else if (op === 'unadvertise' && Array.isArray(channelIds)) {
      for (const id of channelIds) this.#offered.delete(id as number)
      this.#subscribe(cameras)
    } else if (op === 'status' && (level === 1 || level === 2) && typeof message === 'string') {
      cameras.warn(`The server says: ${visible(message)}`)
    }
  }

  /** @returns False for what is no channel. */
  #offer(given: unknown, cameras: LiveCameras): boolean {
    const { id, topic, encoding, schemaName, schema, schemaEncoding } = Object(given) as Record<string, unknown>
    if (
      !Number.isInteger(id) ||
      typeof topic !== 'string' ||
      typeof encoding !== 'string' ||
      typeof schemaName !== 'string'
    )
      return false
    const definition = typeof schema === 'string' ? definitionOf(schema, schemaEncoding, encoding) : undefined
    const channel: Channel = { topic, schema: schemaName, encoding, definition, metadata: new Map() }
    const offered = offeredTopic(id as number, channel)
    this.#offered.delete(id as number)
    if (offered === undefined) return true
    if (this.#offered.size < maxTopics) this.#offered.set(id as number, offered)
    else cameras.warn(`The server has more than ${maxTopics} topics with pictures; the others are not looked at.`)
    return true
  }

  /** Holds the subscriptions against the topics that there are. */
  #subscribe(cameras: LiveCameras): void {
    const wanted = camerasOf([...this.#offered.values()], this.#map, cameras)
    for (const [id, { camera, topic, channelId }] of this.#subscriptions) {
      if (wanted.get(camera)?.key === channelId) {
        wanted.delete(camera)
        continue
      }
      this.#subscriptions.delete(id)
      this.#send({ op: 'unsubscribe', subscriptionIds: [id] })
      cameras.forget(camera)
      cameras.say(`${camera}  ${visible(topic)} is gone`)
    }
    const subscriptions: { id: number; channelId: number }[] = []
    for (const [camera, { key, channel, reader }] of wanted) {
      const id = ++this.#lastId
      this.#subscriptions.set(id, { camera, topic: channel.topic, channelId: key, reader })
      subscriptions.push({ id, channelId: key })
      cameras.say(`${camera}  ${visible(channel.topic)}`)
    }
    if (subscriptions.length > 0) this.#send({ op: 'subscribe', subscriptions })
  }

  #onBinary(data: Uint8Array, cameras: LiveCameras): void {
    const view = new DataView(data.buffer, data.byteOffset, data.byteLength)
    if (data.length < 1 || view.getUint8(0) !== messageData) return
    if (data.length < 13) throw new Error(`a message of ${data.length} bytes is too short`)
    const subscription = this.#subscriptions.get(view.getUint32(1, true))
    if (subscription === undefined) return // it was on its way when the subscription ended
    const { camera, topic, reader } = subscription
    try {
      cameras.put(camera, topic, reader.read(data.subarray(13)), view.getBigUint64(5, true))
    } catch (error) {
      cameras.warn(`A picture of ${visible(topic)} was left out: ${visible((error as Error).message)}.`)
    }
  }
}

const schemaEncodings: Readonly<Record<string, string>> = {
  cdr: 'ros2msg',
  ros1: 'ros1msg',
  protobuf: 'protobuf',
  json: 'jsonschema',
}

function definitionOf(schema: string, given: unknown, messages: string): Channel['definition'] {
  const encoding = typeof given === 'string' ? given : (schemaEncodings[messages] ?? '')
  const binary = encoding === 'protobuf' || encoding === 'flatbuffer'
  return { encoding, data: Buffer.from(schema, binary ? 'base64' : 'utf8') }
}

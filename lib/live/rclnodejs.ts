/** Cameras of a node of rclnodejs, which is the user's own: this package does not depend on it. */
import { ModelError } from '../errors.ts'
import { visible } from '../logs/files.ts'
import { describeValue, isRecord } from '../messages.ts'
import type { LiveCameras, LiveInput } from './live-cameras.ts'
import { readRosObject, rosPictureKind, usualType } from './ros-message.ts'

/** What is used of a node of rclnodejs. */
export interface RosNode {
  /** Subscribes to a topic. */
  createSubscription(type: string, topic: string, options: object, callback: (message: unknown) => void): unknown
  /** Ends a subscription. */
  destroySubscription(subscription: never): void
  /** Topics that the node knows of, with their types. */
  getTopicNamesAndTypes?(): readonly { name: string; types: readonly string[] }[]
}

/** A topic of each camera; its type may be said where the node does not know it yet. */
export type RosTopics = Readonly<Record<string, string | { topic: string; type: string }>>

/** Sensor data: the newest message, and none again. The numbers are those of rmw. */
const sensorData = { history: 1, depth: 1, reliability: 2, durability: 2, avoidRosNameSpaceConventions: false }

export class RosNodeInput implements LiveInput {
  readonly #node: RosNode
  readonly #topics: readonly (readonly [camera: string, topic: string, type: string | undefined])[]
  readonly #subscriptions: unknown[] = []

  constructor(node: RosNode, map: RosTopics) {
    const { createSubscription, destroySubscription } = Object(node) as Partial<RosNode>
    if (typeof createSubscription !== 'function' || typeof destroySubscription !== 'function') {
      throw new ModelError('BAD_ARGUMENT', `Expected a node of rclnodejs, received ${describeValue(node)}.`)
    }
    if (!isRecord(map) || Object.keys(map).length === 0) {
      throw new ModelError('BAD_ARGUMENT', `Expected a topic for each camera, received ${describeValue(map)}.`)
    }
    this.#node = node
    this.#topics = Object.entries(map).map(([camera, given]) => {
      const { topic, type } =
        typeof given === 'string'
          ? { topic: given, type: undefined }
          : (Object(given) as { topic: string; type: string })
      if (typeof topic !== 'string') throw new ModelError('BAD_ARGUMENT', `Expected a topic for ${visible(camera)}.`)
      if (type !== undefined && rosPictureKind(String(type)) === undefined) {
        const types = 'sensor_msgs/msg/CompressedImage and sensor_msgs/msg/Image'
        throw new ModelError('BAD_ARGUMENT', `${visible(topic)} is of ${visible(String(type))}; ${types} are read.`)
      }
      return [camera, topic, type] as const
    })
  }

  get cameras(): string[] {
    return this.#topics.map(([camera]) => camera)
  }

  start(cameras: LiveCameras): void {
    const node = this.#node
    const known = new Map(node.getTopicNamesAndTypes?.().map(({ name, types }) => [name, types]) ?? [])
    for (const [camera, topic, given] of this.#topics) {
      const type = given ?? known.get(topic)?.find((one) => rosPictureKind(one) !== undefined) ?? usualType(topic)
      const kind = rosPictureKind(type)!
      const callback = (message: unknown) => {
        try {
          const clock = BigInt(Math.round(Date.now())) * 1_000_000n
          const picture = readRosObject(message, kind)
          // What rclnodejs does with the memory of a message after its callback is not said.
          cameras.put(camera, topic, { ...picture, data: picture.data.slice() }, clock)
        } catch (error) {
          cameras.warn(`A picture of ${visible(topic)} was left out: ${visible((error as Error).message)}.`)
        }
      }
      const options = { qos: sensorData, enableTypedArray: true, isRaw: false }
      this.#subscriptions.push(node.createSubscription(type, topic, options, callback))
      cameras.say(`${camera}  ${visible(topic)}`)
    }
  }

  stop(): void {
    for (const subscription of this.#subscriptions.splice(0)) this.#node.destroySubscription(subscription as never)
  }
}

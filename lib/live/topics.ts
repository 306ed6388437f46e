/** Which of the topics that a robot has now is which camera. */
import { guessCameras } from '../logs/camera-names.ts'
import type { Channel } from '../logs/container.ts'
import { visible } from '../logs/files.ts'
import type { LogTopic } from '../logs/log.ts'
import { type PictureReader, pictureReader } from '../logs/message.ts'
import type { LiveCameras, LiveTopics } from './live-cameras.ts'

/** Most topics with pictures that are kept. */
export const maxTopics = 10_000

/** A topic that a robot offers. `key` is how the protocol names it. */
export interface OfferedTopic<Key> {
  key: Key
  channel: Channel
  reader: PictureReader | string
}

/** @returns Undefined for topics of other things than pictures. */
export function offeredTopic<Key>(key: Key, channel: Channel): OfferedTopic<Key> | undefined {
  const reader = pictureReader(channel)
  return reader === undefined ? undefined : { key, channel, reader }
}

/**
 * The topic of each camera.
 *
 * @param map - In place of what names tell.
 */
export function camerasOf<Key>(
  offered: readonly OfferedTopic<Key>[],
  map: LiveTopics | undefined,
  cameras: LiveCameras,
): Map<string, OfferedTopic<Key> & { reader: PictureReader }> {
  const found = new Map<string, OfferedTopic<Key> & { reader: PictureReader }>()
  const topics = map ?? guessCameras(offered.map(logTopic)).cameras
  if (map === undefined && offered.length > 0 && Object.keys(topics).length === 0) {
    const names = offered.slice(0, 12).map(({ channel }) => visible(channel.topic, 60))
    cameras.warn(`No topic can be told to be a camera; say which is which. Topics with pictures: ${names.join(', ')}.`)
  }
  for (const [camera, topic] of Object.entries(topics)) {
    const own = offered.filter(({ channel }) => channel.topic === topic)
    const readable = own.find((one): one is typeof one & { reader: PictureReader } => typeof one.reader !== 'string')
    if (readable !== undefined) found.set(camera, readable)
    else if (own.length > 0) cameras.warn(`${visible(topic)}, given for ${camera}, cannot be seen: ${own[0]!.reader}.`)
    else if (offered.length > 0)
      cameras.warn(`The server has no topic ${visible(topic)} yet, which is given for ${camera}.`)
  }
  return found
}

function logTopic<Key>({ channel, reader }: OfferedTopic<Key>): LogTopic {
  const { topic, schema, encoding } = channel
  const problem = typeof reader === 'string' ? reader : undefined
  const kind = typeof reader === 'string' ? 'video' : reader.kind
  const unknown = {
    hz: undefined,
    format: undefined,
    width: undefined,
    height: undefined,
    frameId: undefined,
    note: undefined,
  }
  return { topic, schema, encoding, kind, problem, count: 0, first: 0n, last: 0n, ...unknown }
}

/** ROS messages with pictures as objects of JavaScript: rosbridge's JSON, and what rclnodejs gives. */
import { types } from 'node:util'
import { base64 } from '../logs/foxglove.ts'
import { plainSchema } from '../logs/message.ts'
import { emptyPicture, type PictureMessage, stampOf, textOf } from '../logs/picture.ts'

/** The two messages that are read: sensor_msgs/CompressedImage and sensor_msgs/Image. */
export type RosPictureKind = 'compressed' | 'raw'

/** @returns Undefined for messages of other things. */
export function rosPictureKind(type: string): RosPictureKind | undefined {
  const plain = plainSchema(type)
  return plain === 'sensor_msgs/CompressedImage' ? 'compressed' : plain === 'sensor_msgs/Image' ? 'raw' : undefined
}

/** By what drivers call their topics, where nobody says the type. */
export function usualType(topic: string): string {
  return /compressed|jpe?g|png/i.test(topic) ? 'sensor_msgs/msg/CompressedImage' : 'sensor_msgs/msg/Image'
}

/**
 * @param message - `data` is bytes, numbers, or base64.
 * @throws Error that says which field is not as it should be.
 */
export function readRosObject(message: unknown, kind: RosPictureKind): PictureMessage {
  const picture = emptyPicture(kind)
  const { header, data, ...fields } = Object(message) as Record<string, unknown>
  const { stamp, frame_id: frame } = Object(header) as Record<string, unknown>
  picture.stamp = timeOf(stamp)
  picture.frameId = text(frame ?? '', 'header.frame_id')
  if (kind === 'compressed') picture.format = text(fields.format ?? '', 'format')
  else {
    picture.encoding = text(fields.encoding, 'encoding')
    for (const name of ['width', 'height', 'step'] as const) picture[name] = whole(fields[name], name)
    picture.bigEndian = whole(fields.is_bigendian ?? 0, 'is_bigendian') === 1
  }
  picture.data = bytesOf(data)
  return picture
}

/** `sec` and `nanosec` are of ROS 2, `secs` and `nsecs` of ROS 1. */
function timeOf(stamp: unknown): bigint | undefined {
  const { sec, nanosec, secs = sec, nsecs = nanosec } = Object(stamp) as Record<string, unknown>
  if (!Number.isSafeInteger(secs) || !Number.isSafeInteger(nsecs)) return undefined
  return stampOf(BigInt(secs as number), BigInt(nsecs as number))
}

function text(value: unknown, name: string): string {
  if (typeof value !== 'string') throw new Error(`'${name}' is no text`)
  return textOf(Buffer.from(value), name, false)
}

function whole(value: unknown, name: string): number {
  if (typeof value === 'boolean') return Number(value)
  if (Number.isSafeInteger(value) && (value as number) >= 0) return value as number
  throw new Error(`'${name}' is no whole number`)
}

function bytesOf(data: unknown): Uint8Array {
  if (types.isUint8Array(data) || types.isUint8ClampedArray(data)) {
    return new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
  }
  if (Array.isArray(data)) return Uint8Array.from(data as number[])
  return base64(data)
}

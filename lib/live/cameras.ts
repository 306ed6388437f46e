/**
 * Cameras that send by themselves, as sources of moments for `model.watch`.
 *
 * @module
 */
import { ModelError } from '../errors.ts'
import { describeValue, isRecord } from '../messages.ts'
import { cameras as allCameras } from '../views/cameras.ts'
import { FoxgloveInput } from './foxglove.ts'
import { LiveCameras, type LiveInput, type LiveOptions, type LiveTopics } from './live-cameras.ts'
import { type RosNode, RosNodeInput, type RosTopics } from './rclnodejs.ts'
import { RosbridgeInput } from './rosbridge.ts'

/** Options of {@link fromFoxglove} and {@link fromRosbridge}. */
export interface ServerOptions extends LiveOptions {
  /** A topic for each camera, in place of what names tell. */
  map?: LiveTopics | undefined
}

/**
 * Cameras of a server of Foxglove's WebSocket protocol, under both of its names. Topics may be advertised later, or vanish; a connection that is
 * lost is tried again after 0.5 s, later each time up to 10 s.
 *
 * @param url - Such as `ws://robot:8765`.
 * @throws {@link ModelError} `BAD_ARGUMENT` at once; `ABORTED` where it is iterated.
 */
export function fromFoxglove(url: string, options: ServerOptions = {}): LiveCameras {
  return live(new FoxgloveInput(url, options.map), options.map, options)
}

/**
 * Cameras of a rosbridge server, as {@link fromFoxglove}. Pictures are taken in the form `cbor-raw`, or in JSON.
 *
 * @param url - Such as `ws://robot:9090`.
 * @throws {@link ModelError} `BAD_ARGUMENT` at once; `ABORTED` where it is iterated.
 */
export function fromRosbridge(url: string, options: ServerOptions = {}): LiveCameras {
  return live(new RosbridgeInput(url, options.map), options.map, options)
}

/**
 * Cameras of a node of rclnodejs, which is yours and goes on spinning afterwards. Subscriptions are those of sensor data: best effort, depth 1.
 *
 * @param node - Made by rclnodejs; `drivlm` does not depend on it.
 * @param map - A topic of sensor_msgs/CompressedImage or sensor_msgs/Image for each camera.
 * @throws {@link ModelError} `BAD_ARGUMENT` at once; `ABORTED` where it is iterated.
 */
export function fromRclnodejs(node: RosNode, map: RosTopics, options: LiveOptions = {}): LiveCameras {
  const input = new RosNodeInput(node, map)
  return live(input, Object.fromEntries(input.cameras.map((camera) => [camera, ''])), options)
}

function live(input: LiveInput, map: Readonly<Record<string, unknown>> | undefined, options: LiveOptions): LiveCameras {
  const { maxSkew, missing } = options
  if (maxSkew !== undefined && !(typeof maxSkew === 'number' && maxSkew >= 0 && maxSkew <= 3600)) {
    throw bad('seconds from 0 to 3600', 'maxSkew', maxSkew)
  }
  if (missing !== undefined && missing !== 'skip' && missing !== 'keep') {
    throw bad("'skip' or 'keep'", 'missing', missing)
  }
  const wanted = options.cameras
  if (wanted !== undefined && (!Array.isArray(wanted) || wanted.length === 0)) {
    throw bad('a list of cameras', 'cameras', wanted)
  }
  if (map !== undefined && (!isRecord(map) || Object.values(map).some((topic) => typeof topic !== 'string'))) {
    throw bad('a topic for each camera', 'map', map)
  }
  return new LiveCameras(input, map === undefined ? allCameras : Object.keys(map), options)
}

function bad(expectation: string, name: string, value: unknown): ModelError {
  return new ModelError(
    'BAD_ARGUMENT',
    `Expected ${expectation} for options.${name}, received ${describeValue(value)}.`,
  )
}

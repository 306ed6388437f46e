/** Which topic is which of the six cameras, by words. Numbers have no common meaning from one vehicle to the next, and are not guessed. */
import { ModelError } from '../errors.ts'
import { type Camera, cameras } from '../views/cameras.ts'
import { visible } from './files.ts'
import type { LogTopic } from './log.ts'

/** Topics by camera. */
export type CameraTopics = Readonly<Record<string, string>>

/** What {@link Log.guessCameras} found. */
export interface CameraGuess {
  /** A topic for each camera that was told. */
  cameras: Partial<Record<Camera, string>>
  /** Topics with pictures that are no camera's by their words. */
  unmapped: string[]
  /** Cameras with several topics: the one that was taken, and the others. */
  doubtful: { camera: Camera; taken: string; others: string[] }[]
}

const abbreviations: Record<string, readonly string[]> = {
  fl: ['front', 'left'],
  fr: ['front', 'right'],
  bl: ['back', 'left'],
  br: ['back', 'right'],
  rl: ['back', 'left'],
  rr: ['back', 'right'],
}

/** Words of directions in a name. Two of them may stand together: `frontleft`. */
function directions(name: string): Set<string> {
  const words = name
    .slice(0, 1000)
    .toLowerCase()
    .replace(/(?<=[a-z])(?=[0-9])|(?<=[0-9])(?=[a-z])/g, ' ')
    .split(/[^a-z0-9]+/)
    .flatMap((word) => /^(front|rear|back)(left|right)$/.exec(word)?.slice(1) ?? abbreviations[word] ?? [word])
    .map((word) => (word === 'rear' ? 'back' : word))
  return new Set(words)
}

/** The camera that a name tells of; `other` if it tells of a place that none of the six has. */
function cameraOf(name: string): Camera | 'other' | undefined {
  const words = directions(name)
  const front = words.has('front')
  const back = words.has('back')
  // The two eyes of a stereo camera are at one place; the left one is taken.
  const stereo = words.has('stereo')
  if (stereo && words.has('right') && front !== back) return 'other'
  const left = words.has('left') && !stereo
  const right = words.has('right') && !stereo
  if (front === back) return front || left || right ? 'other' : undefined
  if (left && right) return 'other'
  return `CAM_${front ? 'FRONT' : 'BACK'}${left ? '_LEFT' : right ? '_RIGHT' : ''}` as Camera
}

export function guessCameras(topics: readonly LogTopic[]): CameraGuess {
  const pictures = topics.filter(({ kind }) => kind !== undefined)
  const usable = pictures.filter(({ problem }) => problem === undefined)
  const found = new Map<Camera, LogTopic[]>()
  const unmapped: string[] = pictures.filter(({ problem }) => problem !== undefined).map(({ topic }) => topic)
  for (const topic of usable) {
    const camera = cameraOf(topic.topic) ?? cameraOf(topic.frameId ?? '')
    if (camera === undefined || camera === 'other') unmapped.push(topic.topic)
    else found.set(camera, [...(found.get(camera) ?? []), topic])
  }
  const rect = ({ topic }: LogTopic) => (/rect/i.test(topic) ? 1 : 0)
  const raw = ({ kind }: LogTopic) => ['video', 'raw', 'compressed'].indexOf(kind!)
  const better = (a: LogTopic, b: LogTopic) =>
    raw(b) - raw(a) || rect(b) - rect(a) || b.count - a.count || (a.topic < b.topic ? -1 : 1)
  const guess: CameraGuess = { cameras: {}, unmapped: unmapped.sort(), doubtful: [] }
  for (const camera of cameras) {
    const [taken, ...others] = (found.get(camera) ?? []).sort(better).map(({ topic }) => topic)
    if (taken === undefined) continue
    guess.cameras[camera] = taken
    if (others.length > 0) guess.doubtful.push({ camera, taken, others })
  }
  return guess
}

/**
 * Holds a map of topics against those of a log.
 *
 * @throws {@link ModelError} `BAD_ARGUMENT` if it is empty, or names a topic twice, one that is not there, or one without pictures; it lists those
 * that have some.
 */
export function checkCameras(map: CameraTopics, topics: readonly LogTopic[]): void {
  const candidates = topics.filter(({ kind, problem }) => kind !== undefined && problem === undefined)
  const list = candidates.length === 0 ? 'none' : candidates.map(({ topic }) => visible(topic)).join(', ')
  const entries = Object.entries(map)
  const bad = (what: string) => new ModelError('BAD_ARGUMENT', `${what} Topics with pictures: ${list}.`)
  if (entries.length === 0) throw bad('No topic is given for any camera.')
  const before = new Map<string, string>()
  for (const [camera, topic] of entries) {
    if (!/^\w{1,64}$/.test(camera))
      throw bad(`'${visible(camera)}' is no name of a camera; expected one such as CAM_FRONT.`)
    if (typeof topic !== 'string') throw bad(`Expected a topic for ${camera}.`)
    const twice = before.get(topic)
    if (twice !== undefined) throw bad(`${visible(topic)} is given for ${twice} and for ${camera}.`)
    before.set(topic, camera)
    const own = topics.filter((one) => one.topic === topic)
    if (own.length === 0) throw bad(`The log has no topic ${visible(topic)}, which is given for ${camera}.`)
    if (own.some(({ kind, problem }) => kind !== undefined && problem === undefined)) continue
    const problem = own.find((one) => one.problem !== undefined)?.problem
    throw bad(`${visible(topic)}, given for ${camera}, cannot be seen: ${problem ?? 'it has no pictures'}.`)
  }
}

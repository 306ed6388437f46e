// Reads DriveLM-nuScenes v1.1 files by key frame: train, val (questions only), test and test_eval, which share one layout, and lists of
// such scenes. Only what is used of a frame is checked: what no question needs is left out and listed, and a bad question costs itself.

import type { ModelError } from '../../errors.ts'
import type { TextReading } from '../../text/placeholders.ts'
import { cameras, isCamera } from '../../views/cameras.ts'
import { answerOf, isAbsent, isRecord, record, show, tagsOf, text } from './fields.ts'
import { badData, JsonCursor, type Place, parseJson, textChunks } from './json-stream.ts'
import { type Category, categories, type Frame, type KeyObject, type Qa } from './types.ts'

/** A part of a file that no question needs and that was not read. */
export interface LeftOut {
  /** What it is, the same for all frames that have it: `image_paths.LIDAR_TOP`. */
  what: string
  /** File, scene, frame or item of this one. */
  where: string
}

/** How files are read, and what becomes of what is wrong in them. */
export interface ReadOptions {
  /** Called for what is wrong with one frame, question or item, which is then left out. Without it the first one throws. */
  onProblem?: ((error: ModelError) => void) | undefined
  /** Called for parts that are not needed and were left out. */
  onLeftOut?: ((part: LeftOut) => void) | undefined
  /** `placeholders` (default): `<image>` before a question stands for its pictures. `literal`: it is the letters. */
  text?: TextReading | undefined
}

/**
 * Key frames of a file in its order, one at a time: the 400 MB of the train file are read in bounded memory.
 *
 * @throws {@link ModelError} `BAD_DATA` with file, scene, frame and index, e.g.
 *   `v1_1_train_nus.json, scene f0f1…, frame 4a1b…, perception 3: expected a string for Q, found null.`
 *
 * @example
 * for await (const frame of readFrames('v1_1_train_nus.json')) console.log(frame.token, frame.objects.length)
 */
export async function* readFrames(path: string, options: ReadOptions = {}): AsyncGenerator<Frame> {
  yield* framesIn(textChunks(path), path, options)
}

/** The same of a file that is open. */
export async function* framesIn(
  chunks: AsyncIterable<string>,
  path: string,
  options: ReadOptions,
): AsyncGenerator<Frame> {
  const cursor = new JsonCursor(chunks)
  const file: Place = [path]
  try {
    if ((await cursor.peek()) === '[') {
      for await (const index of cursor.indices(file)) {
        const place = [...file, `item ${index}`]
        yield* sceneOfItem(await cursor.raw(place), place, options)
      }
    } else {
      for await (const token of cursor.keys(file)) {
        yield* readScene(cursor, [...file, `scene ${token}`], token, options)
      }
    }
    await cursor.end(file)
  } finally {
    await cursor.close()
  }
}

/** Frames of a scene that stands in a list, with its token as a field. Read as text, since frames keep the order of the file. */
export async function* sceneOfItem(raw: string, place: Place, options: ReadOptions): AsyncGenerator<Frame> {
  const pieces = async function* (): AsyncGenerator<string> {
    yield raw
  }
  let token: unknown
  try {
    const cursor = new JsonCursor(pieces())
    for await (const key of cursor.keys(place)) {
      if (key === 'scene_token') token = await cursor.value(place)
      else await cursor.raw(place)
    }
    yield* readScene(new JsonCursor(pieces()), place, text(token, 'scene_token', place), options)
  } catch (error) {
    problem(options, error)
  }
}

async function* readScene(
  cursor: JsonCursor,
  place: Place,
  token: string,
  options: ReadOptions,
): AsyncGenerator<Frame> {
  const scene: Frame['scene'] = { token }
  let found = false
  for await (const key of cursor.keys(place)) {
    if (key === 'key_frames') {
      found = true
      for await (const frameToken of cursor.keys(place)) {
        const framePlace = [...place, `frame ${frameToken}`]
        const raw = await cursor.raw(framePlace) // broken brackets cannot be skipped over; all else of a frame can
        const frame = attempt(options, () => parseFrame(raw, scene, frameToken, framePlace, options))
        if (frame) yield frame
      }
    } else if (key === 'scene_description') {
      const description = await cursor.value(place)
      if (typeof description === 'string') scene.description = description
      else if (!isAbsent(description)) leaveOut(options, key, place)
    } else await cursor.raw(place)
  }
  if (!found) attempt(options, () => fail(place, 'expected the key key_frames, found none.'))
}

/** What `read` gives; undefined where it fails and `onProblem` was told. */
function attempt<T>(options: ReadOptions, read: () => T): T | undefined {
  try {
    return read()
  } catch (error) {
    problem(options, error)
    return undefined
  }
}

function problem({ onProblem }: ReadOptions, error: unknown): void {
  if (!onProblem) throw error
  onProblem(error as ModelError)
}

/** Lists a part that is not needed. */
export function leaveOut({ onLeftOut }: ReadOptions, what: string, place: Place): void {
  onLeftOut?.({ what, where: place.join(', ') })
}

function parseFrame(raw: string, scene: Frame['scene'], token: string, place: Place, options: ReadOptions): Frame {
  const { QA, key_object_infos: infos, image_paths: paths } = record(parseJson(raw, place), 'the frame', place)
  const qa = record(QA, 'QA', place)
  for (const key of Object.keys(qa)) {
    if (!categories.includes(key as Category)) leaveOut(options, `QA.${key}`, place)
  }
  const images = imagesOf(paths, place, options)
  if (!isAbsent(infos) && !isRecord(infos)) leaveOut(options, 'key_object_infos', place)
  return {
    scene,
    token,
    annotated: isRecord(infos),
    objects: Object.entries(isRecord(infos) ? infos : {}).map(([tag, info]) => objectOf(tag, info)),
    qa: Object.fromEntries(
      categories.map((category) => {
        const records = qa[category] ?? []
        if (!Array.isArray(records)) fail(place, `expected a list for QA.${category}, found ${show(records)}.`)
        const read = (item: unknown, i: number): Qa => parseQa(item, [...place, `${category} ${i}`])
        return [category, records.map((item, i) => attempt(options, () => read(item, i)) ?? unread)]
      }),
    ) as Frame['qa'],
    images,
  }
}

/** Stands where a question could not be read, so that the others keep their numbers. */
const unread: Qa = { question: '', answer: '', rest: {}, unread: true }

/** Cameras with a picture; answers can be scored without any. */
function imagesOf(paths: unknown, place: Place, options: ReadOptions): Frame['images'] {
  if (isAbsent(paths)) return []
  const given = Object.entries(record(paths, 'image_paths', place)).filter(([, path]) => !isAbsent(path))
  const known = given.filter(([name]) => isCamera(name))
  const [other] = given.filter(([name]) => !isCamera(name))
  if (known.length === 0 && other !== undefined) {
    fail(place, `unknown camera ${show(other[0])} in image_paths; known are ${cameras.join(', ')}.`)
  }
  for (const [name] of given) if (!isCamera(name)) leaveOut(options, `image_paths.${name}`, place)
  return known.map(([camera, path]) => ({
    camera: camera as Frame['images'][number]['camera'],
    path: text(path, `image_paths.${camera}`, place),
  }))
}

/** An object with what is there of it. Who needs a field that is not there says so. */
function objectOf(tag: string, value: unknown): KeyObject {
  const info = isRecord(value) ? value : {}
  const box = info['2d_bbox']
  const sound = Array.isArray(box) && box.length === 4 && box.every((side) => Number.isFinite(side))
  const word = (field: unknown): string | null => (typeof field === 'string' ? field : null)
  return {
    tag,
    category: word(info.Category),
    status: word(info.Status),
    description: word(info.Visual_description),
    box: sound ? (box as KeyObject['box']) : null,
  }
}

function parseQa(value: unknown, place: Place): Qa {
  const { Q, A, tag, ...rest } = record(value, 'the question', place)
  return { question: text(Q, 'Q', place), answer: answerOf(A, 'A', place) ?? '', rest, ...tagsOf(tag, 'tag', place) }
}

function fail(place: Place, message: string): never {
  throw badData(place, message)
}

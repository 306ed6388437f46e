// Reads DriveLM-nuScenes v1.1 files by key frame: train, val (questions only), test and test_eval, which share one layout.

import type { ModelError } from '../errors.ts'
import { cameras, isCamera } from '../views/cameras.ts'
import { badData, JsonCursor, type Place, textChunks } from './json-stream.ts'
import { type Category, categories, type Frame, type KeyObject, type Qa } from './types.ts'

export interface ReadOptions {
  /** Called for what is wrong with one frame or item, which is then left out. Without it the first one throws. */
  onProblem?: (error: ModelError) => void
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
  const cursor = new JsonCursor(textChunks(path))
  const file: Place = [path]
  try {
    for await (const token of cursor.keys(file)) yield* readScene(cursor, file, token, options)
    await cursor.end(file)
  } finally {
    await cursor.close()
  }
}

async function* readScene(cursor: JsonCursor, file: Place, token: string, options: ReadOptions): AsyncGenerator<Frame> {
  const place = [...file, `scene ${token}`]
  const scene: Frame['scene'] = { token }
  let found = false
  for await (const key of cursor.keys(place)) {
    if (key === 'key_frames') {
      found = true
      for await (const frameToken of cursor.keys(place)) {
        const framePlace = [...place, `frame ${frameToken}`]
        const raw = await cursor.raw(framePlace) // broken brackets cannot be skipped over; all else of a frame can
        const frame = attempt(options, () => parseFrame(raw, scene, frameToken, framePlace))
        if (frame) yield frame
      }
    } else if (key === 'scene_description')
      scene.description = text(await cursor.value(place), 'scene_description', place)
    else await cursor.raw(place)
  }
  if (!found) attempt(options, () => fail(place, 'expected the key key_frames, found none.'))
}

function attempt<T>({ onProblem }: ReadOptions, read: () => T): T | undefined {
  if (!onProblem) return read()
  try {
    return read()
  } catch (error) {
    onProblem(error as ModelError)
    return undefined
  }
}

function parseFrame(raw: string, scene: Frame['scene'], token: string, place: Place): Frame {
  const frame = record(parse(raw, place), 'the frame', place)
  const infos = frame.key_object_infos
  const qa = record(frame.QA, 'QA', place)
  const unknown = Object.keys(qa).find((key) => !categories.includes(key as Category))
  if (unknown !== undefined) fail(place, `expected QA to hold ${categories.join(', ')}, found ${show(unknown)}.`)
  const images = Object.entries(record(frame.image_paths, 'image_paths', place))
  return {
    scene,
    token,
    annotated: infos !== undefined,
    objects: Object.entries(record(infos ?? {}, 'key_object_infos', place)).map(([tag, info]) =>
      parseObject(tag, info, [...place, `object ${tag}`]),
    ),
    qa: Object.fromEntries(
      categories.map((category) => {
        const records = qa[category] ?? []
        if (!Array.isArray(records)) fail(place, `expected a list for QA.${category}, found ${show(records)}.`)
        return [category, records.map((item, i) => parseQa(item, [...place, `${category} ${i}`]))]
      }),
    ) as Frame['qa'],
    images: images.map(([camera, path]) => {
      if (!isCamera(camera)) {
        return fail(place, `unknown camera ${show(camera)} in image_paths; known are ${cameras.join(', ')}.`)
      }
      return { camera, path: text(path, `image_paths.${camera}`, place) }
    }),
  }
}

function parse(raw: string, place: Place): unknown {
  try {
    return JSON.parse(raw)
  } catch (error) {
    throw badData(place, `broken JSON: ${(error as Error).message}`, error)
  }
}

function parseObject(tag: string, value: unknown, place: Place): KeyObject {
  const info = record(value, 'the object', place)
  const box = info['2d_bbox']
  if (!Array.isArray(box) || box.length !== 4 || !box.every((side) => Number.isFinite(side))) {
    fail(place, `expected four numbers for 2d_bbox, found ${show(box)}.`)
  }
  const status = info.Status ?? null
  return {
    tag,
    category: text(info.Category, 'Category', place),
    status: status === null ? null : text(status, 'Status', place),
    description: text(info.Visual_description, 'Visual_description', place),
    box: box as KeyObject['box'],
  }
}

function parseQa(value: unknown, place: Place): Qa {
  const { Q, A, tag, ...rest } = record(value, 'the question', place)
  const qa: Qa = { question: text(Q, 'Q', place), answer: text(A, 'A', place), rest }
  if (Array.isArray(tag) && tag.every(Number.isInteger)) qa.tags = tag
  else if (typeof tag === 'string') qa.kind = tag
  else if (tag !== undefined && tag !== null)
    fail(place, `expected a list of whole numbers for tag, found ${show(tag)}.`)
  return qa
}

function fail(place: Place, message: string): never {
  throw badData(place, message)
}

/** A value that must be a JSON object. */
export function record(value: unknown, what: string, place: Place): Record<string, unknown> {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Record<string, unknown>
  return fail(place, `expected an object for ${what}, found ${show(value)}.`)
}

/** A value that must be a string. */
export function text(value: unknown, what: string, place: Place): string {
  return typeof value === 'string' ? value : fail(place, `expected a string for ${what}, found ${show(value)}.`)
}

/** A JSON value in a few characters, for error messages. */
export function show(value: unknown): string {
  if (value === undefined) return 'nothing'
  const json = JSON.stringify(value)
  return json.length > 80 ? `${json.slice(0, 80)}…` : json
}

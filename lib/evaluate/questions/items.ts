// One question of a list or of JSON lines, in the forms that are in use:
//
//   own          {"id", "views", "question", "answer"?, "kind"?, "hop"?, "tags"?}
//   chat data    {"id", "image", "conversations"}: DriveLM's test_llama.json with six paths, InternVL's training data with one picture or more
//   DriveBench   {"scene_token", "frame_token", "image_path", "question", "answer", "question_type"}
//
// A form is told by the keys of the item, and an error is that of its form.

import { ModelError } from '../../errors.ts'
import { pictureHead, placeholder } from '../../text/placeholders.ts'
import { cameras, camerasOfPath, isCamera } from '../../views/cameras.ts'
import { answerOf, idOf, isAbsent, isRecord, optionalText, record, show, tagsOf, text } from './fields.ts'
import { leaveOut, type ReadOptions } from './frames.ts'
import { badData, type Place } from './json-stream.ts'
import { type Question, questionKind } from './types.ts'

/** A question with the pictures it is about. */
export interface QuestionItem {
  views: Record<string, string>
  question: Question
}

/** Numbers questions of a frame that come without ids, in the order of the file. */
export type Numbering = Map<string, number>

const itemKeys = new Set(
  'id views question answer kind hop tags image conversations image_path scene_token frame_token'.split(' '),
)

/** Whether an object with these keys is an item, and not a file of scenes, whose keys are tokens. */
export function isItem(keys: readonly string[]): boolean {
  return keys.some((key) => itemKeys.has(key))
}

/** Whether an item is of DriveLM's flat list: a conversation about pictures whose paths name their cameras. */
export function isLlamaItem(value: unknown): boolean {
  if (!isRecord(value) || !Array.isArray(value.conversations) || !Array.isArray(value.image)) return false
  return value.image.every((path) => typeof path === 'string' && camerasOfPath(path).length === 1)
}

/** Reads an item of any form. */
export function parseItem(value: unknown, place: Place, numbering: Numbering, options: ReadOptions): QuestionItem {
  const item = record(value, 'the item', place)
  if ('conversations' in item) return chatItem(item, place, options)
  if ('image_path' in item && 'scene_token' in item) return driveBenchItem(item, place, numbering, options)
  if ('views' in item || 'question' in item) return ownItem(item, place, options)
  const keys = Object.keys(item).slice(0, 8).map(show).join(', ')
  throw badData(
    place,
    `expected a question: an item with views and question, with image and conversations (chat data), with scene_token and ` +
      `image_path (DriveBench), or a scene with key_frames; found ${keys === '' ? 'no keys' : keys}.`,
  )
}

function ownItem(item: Record<string, unknown>, place: Place, options: ReadOptions): QuestionItem {
  const id = idOf(item.id, place)
  const here = [...place, show(id)]
  const { question, answer, kind, hop } = item
  const views = parseViews(item.views, here, options)
  const tagged = tagsOf(item.tags ?? item.tag, 'tags', here)
  const made = makeQuestion(
    id,
    plainText(text(question, 'question', here), Object.keys(views).length, here, options),
    answerOf(answer, 'answer', here),
    optionalText(kind, 'kind', here) ?? tagged.kind,
  )
  if (!isAbsent(hop)) {
    if (!Number.isInteger(hop)) throw badData(here, `expected a whole number for hop, found ${show(hop)}.`)
    made.hop = hop as number
  }
  if (tagged.tags) made.tags = tagged.tags
  return { views, question: made }
}

function chatItem(item: Record<string, unknown>, place: Place, options: ReadOptions): QuestionItem {
  const id = idOf(item.id, place)
  const here = [...place, show(id)]
  const { image, conversations, video } = item
  if (!isAbsent(video) && video !== '')
    throw badData(here, 'the item is about a video, which is not read; give pictures.')
  if (!Array.isArray(conversations)) {
    throw badData(here, `expected a list for conversations, found ${show(conversations)}.`)
  }
  const turns = conversations.map((turn) => {
    const { from, value } = record(turn, 'a turn of conversations', here)
    return { from, value }
  })
  const order = turns.map(({ from }) => (typeof from === 'string' ? from : show(from))).join(', ')
  const [first, second] = turns
  if (first?.from !== 'human' || turns.length > 2 || (second !== undefined && second.from !== 'gpt')) {
    throw badData(
      here,
      `expected one question in conversations, a human turn and at most one gpt turn behind it, found ${order === '' ? 'none' : order}. ` +
        'Make an item of each question that stands by itself.',
    )
  }
  const given = chatPictures(image, here)
  // One path is one picture as it is; a list says by its paths which cameras it is of.
  const views = typeof image === 'string' ? { image } : pictures(given, here, options)
  const asked = plainText(text(first.value, 'the value of the human turn', here), given.length, here, options, true)
  const tagged = tagsOf(item.tags ?? item.tag, 'tag', here)
  const answer = second && answerOf(second.value, 'the value of the gpt turn', here)
  const question = makeQuestion(id, asked, answer, tagged.kind)
  if (tagged.tags) question.tags = tagged.tags
  return { views, question }
}

/** Numbered within its frame by its place in the file. Its tags are not DriveLM's, and its score is another one. */
function driveBenchItem(
  item: Record<string, unknown>,
  place: Place,
  numbering: Numbering,
  options: ReadOptions,
): QuestionItem {
  const { scene_token: scene, frame_token: frame, question, answer, question_type: kind } = item
  const key = `${text(scene, 'scene_token', place)}_${text(frame, 'frame_token', place)}`
  const number = numbering.get(key) ?? 0
  numbering.set(key, number + 1)
  const id = isAbsent(item.id) ? `${key}_${number}` : idOf(item.id, place)
  const here = [...place, show(id)]
  if (!isAbsent(item.tag)) leaveOut(options, 'tag (of DriveBench)', here)
  const views = parseViews(item.image_path, here, options, 'image_path')
  const asked = plainText(text(question, 'question', here), Object.keys(views).length, here, options)
  return {
    views,
    question: makeQuestion(id, asked, answerOf(answer, 'answer', here), optionalText(kind, 'question_type', here)),
  }
}

function makeQuestion(id: string, asked: string, answer: string | undefined, kind: string | undefined): Question {
  return {
    id,
    text: asked,
    kind: kind ?? questionKind(asked),
    ...(answer === undefined || answer === '' ? {} : { reference: answer }),
  }
}

/**
 * A question without the placeholders in front of it. As many as pictures, or the one that DriveLM's list has for all of them; labelled
 * ones stay, since only the model that is asked knows what its layout prints.
 *
 * @param marked - The form has a placeholder of its own, which goes with `text: 'literal'` too.
 */
export function plainText(
  asked: string,
  pictures: number,
  place: Place,
  { text: reading }: ReadOptions,
  marked = false,
): string {
  if (reading === 'literal') return marked ? asked.replace(/^<image>\n/, '') : asked
  try {
    const head = pictureHead(asked)
    if (asked.trim() === '' || head?.question.trim() === '') throw badData(place, 'the question is empty.')
    if (head === undefined) return asked
    const { labels, question } = head
    const bare = labels.every((label) => label === undefined)
    if (labels.length === pictures || (bare && labels.length === 1)) return bare ? question : asked
    const wanted = pictures === 1 ? 'one picture' : `${pictures} pictures`
    throw badData(
      place,
      `the question has ${labels.length} ${placeholder} for ${wanted}; expected one a picture, or none. Who means the letters reads it ` +
        "with text: 'literal' (--text literal).",
    )
  } catch (error) {
    if (!(error instanceof ModelError) || error.code === 'BAD_DATA') throw error
    throw badData(place, error.message, error)
  }
}

/** `{ CAM_FRONT: path, … }`, a list of paths whose names or folders tell the cameras, or one path. */
function parseViews(views: unknown, place: Place, options: ReadOptions, what = 'views'): Record<string, string> {
  if (typeof views === 'string') return { image: views }
  if (Array.isArray(views)) {
    if (views.length === 1) return { image: text(views[0], `${what}[0]`, place) }
    return pictures(views, place, options)
  }
  const entries = Object.entries(record(views, what, place)).filter(([, path]) => !isAbsent(path))
  if (entries.length === 0) throw badData(place, `expected at least one picture in ${what}, found none.`)
  const known = entries.filter(([camera]) => camera === 'image' || isCamera(camera))
  if (known.length === 0) {
    throw badData(place, `unknown camera ${show(entries[0]![0])} in ${what}; known are ${cameras.join(', ')}.`)
  }
  if (known.length > 1 && known.some(([camera]) => camera === 'image')) {
    throw badData(place, `${what} has pictures of cameras and the one picture 'image'; which of them is it about?`)
  }
  for (const [camera, path] of entries) {
    if (!known.some(([name]) => name === camera)) leaveOut(options, `${what}.${camera}`, place)
    else text(path, `${what}.${camera}`, place)
  }
  return Object.fromEntries(known) as Record<string, string>
}

/** Paths of chat data: one, or a list. */
function chatPictures(image: unknown, place: Place): unknown[] {
  if (typeof image === 'string' && image !== '') return [image]
  if (Array.isArray(image) && image.length > 0) return image
  if (isAbsent(image) || image === '' || Array.isArray(image)) {
    throw badData(
      place,
      'expected at least one picture for image, found none; questions without pictures are not asked.',
    )
  }
  throw badData(place, `expected a path or a list of paths for image, found ${show(image)}.`)
}

const otherSensor = /(^|__|[/\\])(LIDAR|RADAR)_[A-Z_]+([/\\.]|__|$)/

/** Paths by the cameras they name. A single one that names none is the one picture there is, a stitched one for instance. */
function pictures(paths: readonly unknown[], place: Place, options: ReadOptions): Record<string, string> {
  const views: Record<string, string> = {}
  for (const path of paths) {
    const name = text(path, 'a path', place)
    const [camera, other] = camerasOfPath(name)
    if (other !== undefined) {
      throw badData(place, `the path ${show(name)} names ${camera} and ${other}; which camera is it of?`)
    }
    if (camera === undefined) {
      if (paths.length === 1) return { image: name }
      const sensor = otherSensor.exec(name)
      if (sensor === null) {
        throw badData(place, `no known camera in the path ${show(name)}; known are ${cameras.join(', ')}.`)
      }
      leaveOut(options, `a picture of ${sensor[0].replaceAll(/^[/\\_]+|[/\\_.]+$/g, '')}`, place)
      continue
    }
    if (views[camera] !== undefined) {
      throw badData(place, `two pictures of ${camera}: ${show(views[camera])}, ${show(name)}.`)
    }
    views[camera] = name
  }
  if (Object.keys(views).length === 0) throw badData(place, 'expected at least one picture, found none.')
  return views
}

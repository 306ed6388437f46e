// Everything that can be asked, as one stream of moments: DriveLM scene files, the flat test_llama list, and the plain JSONL
// form for other driving question sets. The lists of predictions and judgements are read here as well.

import { ModelError } from '../errors.ts'
import { cameras, isCamera } from '../views/cameras.ts'
import { type ReadOptions, readFrames, record, show, text } from './frames.ts'
import { badData, JsonCursor, type Place, parseJson, textChunks, textLines } from './json-stream.ts'
import { parseJudgement } from './judge.ts'
import { frameKey, type Moment, type Prediction, type Question, questionKind, questionsOf } from './types.ts'

/** What a question file is: by key frame, a flat list, or a question a line. */
export type QuestionFileForm = 'frames' | 'llama' | 'jsonl'

const lineKeys = new Set(['id', 'views', 'question', 'answer', 'kind', 'hop', 'tags'])

/**
 * Looks at the beginning of a file to tell its form.
 *
 * @throws {@link ModelError} `BAD_DATA` if it is none of them.
 */
export async function questionFileForm(path: string): Promise<QuestionFileForm> {
  if (/\.(jsonl|ndjson)$/i.test(path)) return 'jsonl'
  const cursor = new JsonCursor(textChunks(path, 1 << 16))
  try {
    const first = await cursor.peek()
    if (first === '[') return 'llama'
    if (first !== '{') {
      throw badData([path], `expected a JSON object, a list or a question a line, found ${show(first)} at the start.`)
    }
    for await (const key of cursor.keys([path])) return lineKeys.has(key) ? 'jsonl' : 'frames'
    return 'frames' // {}: a file without scenes
  } finally {
    await cursor.close()
  }
}

/**
 * Moments of any question file in its order, one at a time. Every id comes once in the whole file.
 *
 * @throws {@link ModelError} `BAD_DATA` with file and scene, frame, item or line.
 *
 * @example
 * for await (const { views, questions } of readMoments('v1_1_val_nus_q_only.json')) …
 */
export async function* readMoments(path: string, options: ReadOptions = {}): AsyncGenerator<Moment> {
  const form = await questionFileForm(path)
  const ids = new Set<string>()
  const moments = form === 'frames' ? frameMoments(path, options) : grouped(flatItems(path, form, options))
  for await (const moment of moments) {
    const fresh: Question[] = []
    for (const question of moment.questions) {
      if (!ids.has(question.id)) fresh.push(question)
      else {
        const error = badData([path], `the question id ${show(question.id)} is there twice.`)
        if (!options.onProblem) throw error
        options.onProblem(error)
      }
      ids.add(question.id)
    }
    if (fresh.length > 0 || moment.questions.length === 0) yield { ...moment, questions: fresh }
  }
}

async function* frameMoments(path: string, options: ReadOptions): AsyncGenerator<Moment> {
  for await (const frame of readFrames(path, options)) {
    const views = Object.fromEntries(frame.images.map((image) => [image.camera, image.path]))
    yield { key: frameKey(frame), views, questions: questionsOf(frame), frame }
  }
}

interface FlatItem {
  views: Record<string, string>
  question: Question
}

/** Neighbours with the same pictures are one moment. */
async function* grouped(items: AsyncIterable<FlatItem>): AsyncGenerator<Moment> {
  let moment: Moment | undefined
  let pictures = ''
  for await (const { views, question } of items) {
    const now = JSON.stringify(views)
    if (moment && now === pictures) moment.questions.push(question)
    else {
      if (moment) yield moment
      moment = { key: question.id.replace(/_\d+$/, ''), views, questions: [question] }
      pictures = now
    }
  }
  if (moment) yield moment
}

async function* flatItems(path: string, form: 'llama' | 'jsonl', options: ReadOptions): AsyncGenerator<FlatItem> {
  const parse = form === 'llama' ? parseLlamaItem : parseLine
  const values = form === 'llama' ? arrayValues(path) : lineValues(path)
  for await (const { place, read } of values) {
    try {
      yield parse(read(), place)
    } catch (error) {
      if (!options.onProblem || !(error instanceof ModelError)) throw error
      options.onProblem(error)
    }
  }
}

interface Located {
  place: Place
  read: () => unknown
}

async function* arrayValues(path: string): AsyncGenerator<Located> {
  const cursor = new JsonCursor(textChunks(path))
  try {
    for await (const index of cursor.indices([path])) {
      const place = [path, `item ${index}`]
      const raw = await cursor.raw(place)
      yield { place, read: () => parseJson(raw, place) }
    }
    await cursor.end([path])
  } finally {
    await cursor.close()
  }
}

async function* lineValues(path: string): AsyncGenerator<Located> {
  for await (const { line, text: json } of textLines(path)) {
    const place = [path, `line ${line}`]
    if (json.trim() !== '') yield { place, read: () => parseJson(json, place) }
  }
}

function parseLlamaItem(value: unknown, place: Place): FlatItem {
  const { id, image, conversations } = record(value, 'the item', place)
  const here = [...place, show(id)]
  if (!Array.isArray(image)) throw badData(here, `expected a list of paths for image, found ${show(image)}.`)
  if (!Array.isArray(conversations))
    throw badData(here, `expected a list for conversations, found ${show(conversations)}.`)
  const says = (from: string): string | undefined => {
    const turn = conversations.map((turn) => record(turn, 'a turn', here)).find((turn) => turn.from === from)
    return turn && text(turn.value, `the value of the ${from} turn`, here)
  }
  const asked = says('human')
  if (asked === undefined) throw badData(here, 'expected a human turn in conversations, found none.')
  const answer = says('gpt')
  return {
    views: viewsOfPaths(image, here),
    question: makeQuestion(text(id, 'id', here), asked.replace(/^<image>\n/, ''), answer, undefined),
  }
}

function parseLine(value: unknown, place: Place): FlatItem {
  const line = record(value, 'the line', place)
  const id = typeof line.id === 'number' ? String(line.id) : text(line.id, 'id', place)
  const here = [...place, show(id)]
  const { views, question, answer, kind, hop, tags } = line
  const made = makeQuestion(
    id,
    text(question, 'question', here),
    answer === undefined || answer === null ? undefined : text(answer, 'answer', here),
    kind === undefined ? undefined : text(kind, 'kind', here),
  )
  if (hop !== undefined) {
    if (!Number.isInteger(hop)) throw badData(here, `expected a whole number for hop, found ${show(hop)}.`)
    made.hop = hop as number
  }
  if (tags !== undefined) {
    if (!Array.isArray(tags) || !tags.every(Number.isInteger)) {
      throw badData(here, `expected a list of whole numbers for tags, found ${show(tags)}.`)
    }
    made.tags = tags
  }
  return { views: parseViews(views, here), question: made }
}

function makeQuestion(id: string, asked: string, answer: string | undefined, kind: string | undefined): Question {
  return {
    id,
    text: asked,
    kind: kind ?? questionKind(asked),
    ...(answer === undefined || answer === '' ? {} : { reference: answer }),
  }
}

/** `{ CAM_FRONT: path, … }`, a list of paths whose folders or names tell the cameras, or one path. */
function parseViews(views: unknown, place: Place): Record<string, string> {
  if (typeof views === 'string') return { image: views }
  if (Array.isArray(views))
    return views.length === 1 ? { image: text(views[0], 'views[0]', place) } : viewsOfPaths(views, place)
  const entries = Object.entries(record(views, 'views', place))
  if (entries.length === 0) throw badData(place, 'expected at least one picture in views, found none.')
  for (const [camera, path] of entries) {
    text(path, `views.${camera}`, place)
    if (camera !== 'image' && !isCamera(camera)) {
      throw badData(place, `unknown camera ${show(camera)} in views; known are ${cameras.join(', ')}.`)
    }
  }
  return Object.fromEntries(entries) as Record<string, string>
}

const longestFirst = [...cameras].sort((a, b) => b.length - a.length)

function viewsOfPaths(paths: unknown[], place: Place): Record<string, string> {
  const views: Record<string, string> = {}
  for (const path of paths) {
    const name = text(path, 'a path', place)
    const camera = longestFirst.find((camera) => new RegExp(`(^|[/\\\\]|__)${camera}([/\\\\.]|__|$)`).test(name))
    if (!camera) throw badData(place, `no known camera in the path ${show(name)}; known are ${cameras.join(', ')}.`)
    if (views[camera] !== undefined)
      throw badData(place, `two pictures of ${camera}: ${show(views[camera])}, ${show(name)}.`)
    views[camera] = name
  }
  if (paths.length === 0) throw badData(place, 'expected at least one picture, found none.')
  return views
}

/**
 * Predictions in the challenge's form: a list of `{ id, question, answer }`, or a submission that wraps one in `results`.
 *
 * @throws {@link ModelError} `BAD_DATA` with file and index, for an id that is there twice too.
 */
export async function readPredictions(path: string, options: ReadOptions = {}): Promise<Map<string, Prediction>> {
  const predictions = new Map<string, Prediction>()
  const cursor = new JsonCursor(textChunks(path))
  const list = async (): Promise<void> => {
    for await (const index of cursor.indices([path])) {
      const place = [path, `item ${index}`]
      const raw = await cursor.raw(place)
      try {
        const item = record(parseJson(raw, place), 'the item', place)
        const id = text(item.id, 'id', place)
        if (predictions.has(id)) throw badData(place, `the id ${show(id)} is there twice.`)
        const question = typeof item.question === 'string' ? item.question : ''
        predictions.set(id, { id, question, answer: text(item.answer, `the answer to ${id}`, place) })
      } catch (error) {
        if (!options.onProblem || !(error instanceof ModelError)) throw error
        options.onProblem(error)
      }
    }
  }
  try {
    if ((await cursor.peek()) !== '{') await list()
    else {
      let found = false
      for await (const key of cursor.keys([path])) {
        if (key === 'results') {
          found = true
          await list()
        } else await cursor.raw([path])
      }
      if (!found) throw badData([path], 'expected a list of answers or a submission with results, found neither.')
    }
    await cursor.end([path])
  } finally {
    await cursor.close()
  }
  return predictions
}

/**
 * Judgements by question id: a JSON object `{ id: number }`, a list of `{ id, score }`, or such an object a line. A score may
 * also be the judge's raw reply.
 *
 * @throws {@link ModelError} `BAD_DATA` with file and place.
 */
export async function readJudgements(path: string): Promise<Map<string, number>> {
  const judgements = new Map<string, number>()
  const add = (id: string, value: unknown, place: Place): void => {
    if (judgements.has(id)) throw badData(place, `the id ${show(id)} is there twice.`)
    if (typeof value === 'string') judgements.set(id, parseJudgement(value, place.join(', ')))
    else if (typeof value === 'number') judgements.set(id, value)
    else throw badData(place, `expected a number for ${show(id)}, found ${show(value)}.`)
  }
  const addItem = ({ place, read }: Located): void => {
    const { id, score } = record(read(), 'the judgement', place)
    add(text(id, 'id', place), score, place)
  }
  if (/\.(jsonl|ndjson)$/i.test(path)) {
    for await (const item of lineValues(path)) addItem(item)
    return judgements
  }
  const cursor = new JsonCursor(textChunks(path))
  try {
    if ((await cursor.peek()) === '{') {
      for await (const id of cursor.keys([path])) add(id, await cursor.value([path, id]), [path])
      await cursor.end([path])
      return judgements
    }
  } finally {
    await cursor.close()
  }
  for await (const item of arrayValues(path)) addItem(item)
  return judgements
}

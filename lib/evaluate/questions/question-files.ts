// Everything that can be asked, as one stream of moments: DriveLM scene files and lists of scenes, flat lists, and questions a line.

import { ModelError } from '../../errors.ts'
import { show } from './fields.ts'
import { framesIn, type ReadOptions, sceneOfItem } from './frames.ts'
import { isItem, isLlamaItem, type Numbering, parseItem, plainText, type QuestionItem } from './items.ts'
import { badData } from './json-stream.ts'
import { type OpenedFile, openFile, type Row, rowsOf } from './rows.ts'
import { type Frame, frameKey, type Moment, type Question, questionsOf } from './types.ts'

/**
 * What a question file is. `frames`: questions by key frame. `llama`: DriveLM's flat list, conversations about pictures of cameras.
 * `jsonl`: any other question an item, as JSON lines or as a list.
 */
export type QuestionFileForm = 'frames' | 'llama' | 'jsonl'

/**
 * Looks at the beginning of a file to tell its form.
 *
 * @throws {@link ModelError} `BAD_DATA` if it is none of them.
 */
export async function questionFileForm(path: string): Promise<QuestionFileForm> {
  const file = await openFile(path, isItem)
  if (file.kind === 'object') {
    await file.chunks.return(undefined)
    return 'frames'
  }
  for await (const row of rowsOf(file)) {
    try {
      const value = row.read()
      if (isScene(value)) return 'frames'
      return isLlamaItem(value) ? 'llama' : 'jsonl'
    } catch (error) {
      if (!(error instanceof ModelError)) throw error // a broken item is told where all are read
    }
  }
  return 'jsonl'
}

/**
 * Moments of any question file in its order, one at a time. Every id comes once in the whole file.
 *
 * @throws {@link ModelError} `BAD_DATA` with file and scene, frame, item or line.
 *
 * @example
 * for await (const { views, questions } of readMoments('v1_1_val_nus_q_only.json')) console.log(views, questions.length)
 */
export async function* readMoments(path: string, options: ReadOptions = {}): AsyncGenerator<Moment> {
  const file = await openFile(path, isItem)
  const ids = new Set<string>()
  const moments =
    file.kind === 'object'
      ? frameMoments(framesIn(file.chunks, path, options), path, options)
      : rowMoments(file, options)
  for await (const moment of moments) {
    const fresh: Question[] = []
    for (const question of moment.questions) {
      if (!ids.has(question.id)) fresh.push(question)
      else tell(options, badData([path], `the question id ${show(question.id)} is there twice.`))
      ids.add(question.id)
    }
    if (fresh.length > 0 || moment.questions.length === 0) yield { ...moment, questions: fresh }
  }
}

function tell({ onProblem }: ReadOptions, error: unknown): void {
  if (!onProblem || !(error instanceof ModelError)) throw error
  onProblem(error)
}

async function* frameMoments(frames: AsyncIterable<Frame>, path: string, options: ReadOptions): AsyncGenerator<Moment> {
  for await (const frame of frames) {
    const views = Object.fromEntries(frame.images.map((image) => [image.camera, image.path]))
    const questions = questionsOf(frame).flatMap((question) => {
      try {
        return { ...question, text: plainText(question.text, frame.images.length, [path, question.id], options) }
      } catch (error) {
        tell(options, error)
        return []
      }
    })
    yield { key: frameKey(frame), views, questions, frame }
  }
}

/** Neighbours with the same pictures are one moment; a scene among the items is read frame by frame. */
async function* rowMoments(file: OpenedFile, options: ReadOptions): AsyncGenerator<Moment> {
  const { path } = file
  const numbering: Numbering = new Map()
  let moment: Moment | undefined
  let pictures = ''
  for await (const row of rowsOf(file)) {
    const item = readRow(row, numbering, options)
    if (item === undefined) continue
    if (item === 'scene') {
      if (moment) yield moment
      moment = undefined
      yield* frameMoments(sceneOfItem(row.raw, row.place, options), path, options)
      continue
    }
    const { views, question } = item
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

function readRow(row: Row, numbering: Numbering, options: ReadOptions): QuestionItem | 'scene' | undefined {
  try {
    const value = row.read()
    return isScene(value) ? 'scene' : parseItem(value, row.place, numbering, options)
  } catch (error) {
    tell(options, error)
    return undefined
  }
}

function isScene(value: unknown): boolean {
  return typeof value === 'object' && value !== null && 'key_frames' in value
}

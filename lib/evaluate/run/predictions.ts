// Answers and judgements that were collected before: lists, JSON lines, and what wraps them.

import { ModelError } from '../../errors.ts'
import { parseJudgement } from '../metrics/judge.ts'
import { answerOf, idOf, record, show } from '../questions/fields.ts'
import type { ReadOptions } from '../questions/frames.ts'
import { badData, JsonCursor, type Place } from '../questions/json-stream.ts'
import { cursorRows, type OpenedFile, openFile, type Row, rowsOf } from '../questions/rows.ts'
import type { Prediction } from '../questions/types.ts'

const isLine = (keys: readonly string[]): boolean => keys.includes('id')

/**
 * Predictions in the challenge's form: a list of `{ id, question, answer }`, such an object a line, or a submission that wraps a list in
 * `results`.
 *
 * @throws {@link ModelError} `BAD_DATA` with file and item or line, for an id that is there twice too.
 */
export async function readPredictions(path: string, options: ReadOptions = {}): Promise<Map<string, Prediction>> {
  const predictions = new Map<string, Prediction>()
  const add = ({ place, read }: Row): void => {
    try {
      const item = record(read(), 'the item', place)
      const id = idOf(item.id, place)
      if (predictions.has(id)) throw badData(place, `the id ${show(id)} is there twice.`)
      const answer = answerOf(item.answer, `the answer to ${id}`, place)
      if (answer === undefined) {
        throw badData(
          place,
          `expected a string for the answer to ${id}, found ${show(item.answer)}; leave out what has none.`,
        )
      }
      predictions.set(id, { id, question: typeof item.question === 'string' ? item.question : '', answer })
    } catch (error) {
      if (!options.onProblem || !(error instanceof ModelError)) throw error
      options.onProblem(error)
    }
  }
  const file = await openFile(path, isLine)
  for await (const row of file.kind === 'object' ? resultRows(file) : rowsOf(file)) add(row)
  return predictions
}

/** Items of `results` in a submission. */
async function* resultRows({ path, chunks }: OpenedFile): AsyncGenerator<Row> {
  const cursor = new JsonCursor(chunks)
  try {
    let found = false
    for await (const key of cursor.keys([path])) {
      if (key === 'results') {
        found = true
        yield* cursorRows(cursor, [path])
      } else await cursor.raw([path])
    }
    if (!found) throw badData([path], 'expected a list of answers or a submission with results, found neither.')
    await cursor.end([path])
  } finally {
    await cursor.close()
  }
}

/**
 * Judgements by question id: a JSON object `{ id: number }`, a list of `{ id, score }`, or such an object a line. A score is a number from
 * 0 to 100, or the judge's raw reply.
 *
 * @throws {@link ModelError} `BAD_DATA` with file and place.
 */
export async function readJudgements(path: string): Promise<Map<string, number>> {
  const judgements = new Map<string, number>()
  const add = (id: string, value: unknown, place: Place): void => {
    if (judgements.has(id)) throw badData(place, `the id ${show(id)} is there twice.`)
    if (typeof value !== 'string' && typeof value !== 'number') {
      throw badData(place, `expected a number for ${show(id)}, found ${show(value)}.`)
    }
    judgements.set(id, parseJudgement(value, [...place, id].join(', ')))
  }
  const file = await openFile(path, isLine)
  if (file.kind !== 'object') {
    for await (const { place, read } of rowsOf(file)) {
      const { id, score } = record(read(), 'the judgement', place)
      add(idOf(id, place), score, place)
    }
    return judgements
  }
  const cursor = new JsonCursor(file.chunks)
  try {
    for await (const id of cursor.keys([path])) add(id, await cursor.value([path, id]), [path])
    await cursor.end([path])
  } finally {
    await cursor.close()
  }
  return judgements
}

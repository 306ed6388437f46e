/** A pass over all samples before the first step: what will be trained, what is left out and why. */
import { ModelError } from '../errors.ts'
import { type LeftOut, leftOut, type Preparation, prepareSample } from './prepare.ts'
import type { SampleList } from './sample-lists.ts'

/** What was found in one list. */
export interface ListSurvey {
  name: string
  general: boolean
  /** Lines of the file. */
  samples: number
  used: number
  /** Samples left out, by reason; where the first few stand. */
  leftOut: Partial<Record<LeftOut, { count: number; examples: string[] }>>
  /** Samples whose last question nobody answers: used without it. */
  trailingQuestions: number
  /** Of the samples used. */
  tokens: number
  learned: number
  tiles: number
  /** Lines that can be used, by number from 0. */
  usable: Uint32Array
}

export interface SurveyOptions {
  /** Share of a list that may be left out before the run is refused; default 0.01. */
  maxLeftOut?: number
  signal?: AbortSignal
  onProgress?: (done: number, total: number) => void
}

const examples = 3
const atOnce = 8

/**
 * Prepares every sample of every list once.
 *
 * @throws {@link ModelError} `BAD_DATA` for a broken line, or if too many samples of a list are left out, or all; the message names the commonest
 *   reason and where to look. `ABORTED`.
 */
export async function surveyLists(
  lists: readonly { list: SampleList; general: boolean }[],
  preparation: Preparation,
  { maxLeftOut = 0.01, signal, onProgress }: SurveyOptions = {},
): Promise<ListSurvey[]> {
  if (!(maxLeftOut >= 0 && maxLeftOut <= 1))
    throw new ModelError('BAD_ARGUMENT', `maxLeftOut: expected a share from 0 to 1, received ${maxLeftOut}.`)
  const total = lists.reduce((sum, { list }) => sum + list.lines, 0)
  const surveys: ListSurvey[] = []
  let before = 0
  for (const { list, general } of lists) {
    const survey: ListSurvey = {
      name: list.entry.name,
      general,
      samples: list.lines,
      used: 0,
      leftOut: {},
      trailingQuestions: 0,
      tokens: 0,
      learned: 0,
      tiles: 0,
      usable: new Uint32Array(list.lines),
    }
    for (let first = 0; first < list.lines; first += atOnce) {
      if (signal?.aborted) throw new ModelError('ABORTED', 'The look through the samples was aborted.')
      const numbers = Array.from({ length: Math.min(atOnce, list.lines - first) }, (_, i) => first + i)
      const results = await Promise.all(
        numbers.map(async (number) => prepareSample(await list.read(number), preparation, list.entry.maxTiles)),
      )
      for (const [i, result] of results.entries()) {
        const number = numbers[i]!
        if ('leftOut' in result) {
          const seen = survey.leftOut[result.leftOut] ?? { count: 0, examples: [] }
          survey.leftOut[result.leftOut] = seen
          seen.count++
          if (seen.examples.length < examples) seen.examples.push(list.where(number))
          continue
        }
        survey.usable[survey.used++] = number
        survey.tokens += result.ids.length
        survey.learned += result.learned
        survey.tiles += result.tiles
        if (result.trailingQuestion) survey.trailingQuestions++
      }
      onProgress?.(before + first + numbers.length, total)
    }
    survey.usable = survey.usable.slice(0, survey.used)
    before += list.lines
    refuseIfPoor(survey, maxLeftOut)
    surveys.push(survey)
  }
  return surveys
}

function refuseIfPoor(survey: ListSurvey, maxLeftOut: number): void {
  const lost = survey.samples - survey.used
  if (survey.used > 0 && lost <= survey.samples * maxLeftOut) return
  const reasons = Object.entries(survey.leftOut).sort(([, a], [, b]) => b.count - a.count)
  const [reason, { count, examples: where }] = reasons[0]! as [LeftOut, { count: number; examples: string[] }]
  const allowed = survey.used === 0 ? 'none can be trained on' : `at most ${(100 * maxLeftOut).toFixed(1)} % may be`
  throw new ModelError(
    'BAD_DATA',
    `${survey.name}: ${lost} of ${survey.samples} samples are left out, ${allowed}. ${count} of them because ${leftOut[reason]}: ${where.join('; ')}${count > where.length ? '; …' : ''}. Mend the list, or allow more with maxLeftOut.`,
  )
}

/** A pass over all samples before the first step: what will be trained, what is left out and why. */
import { createHash, type Hash } from 'node:crypto'
import { ModelError } from '../errors.ts'
import { type LeftOut, leftOut, type Preparation, type PreparedSample, prepareSample } from './prepare.ts'
import type { ListedSample, SampleSource } from './sample-lists.ts'

/** What was found in one list. */
export interface ListSurvey {
  /** As messages name it. */
  name: string
  /** Whether it is general data, not of the domain. */
  general: boolean
  /** Lines of the file. */
  samples: number
  /** Samples that are learned from. */
  used: number
  /** Samples left out, by reason; where the first few stand. */
  leftOut: Partial<Record<LeftOut, { count: number; examples: string[] }>>
  /** Samples whose last question nobody answers: used without it. */
  trailingQuestions: number
  /** Tokens of the samples used. */
  tokens: number
  /** Of these, tokens that are learned. */
  learned: number
  /** Tiles of the samples used. */
  tiles: number
  /** Hexadecimal SHA-256 of ids, labels, tiles and the sizes and times of pictures of the samples used. */
  digest: string
  /** What is kept of each sample used. */
  usable: UsableSamples
}

/** Samples that are used, by number from 0. */
export interface UsableSamples {
  /** Its number in the file, from 0. */
  index: Uint32Array
  tokens: Uint32Array
  learned: Uint32Array
  tiles: Uint16Array
  /** See {@link PreparedSample.head}. */
  head: Uint32Array
  /** Neighbours with the same number have the same pictures and the same ids before their questions. */
  moment: Uint32Array
  /** Tells the sample as it was prepared from what its files may become. */
  fingerprint: Uint32Array
}

export interface SurveyOptions {
  /** Share of a list that may be left out before the run is refused; default 0.01. */
  maxLeftOut?: number
  signal?: AbortSignal | undefined
  onProgress?: ((done: number, total: number) => void) | undefined
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
  lists: readonly { list: SampleSource; general: boolean }[],
  preparation: Preparation,
  { maxLeftOut = 0.01, signal, onProgress }: SurveyOptions = {},
): Promise<ListSurvey[]> {
  if (!(maxLeftOut >= 0 && maxLeftOut <= 1))
    throw new ModelError('BAD_ARGUMENT', `maxLeftOut: expected a share from 0 to 1, received ${maxLeftOut}.`)
  const total = lists.reduce((sum, { list }) => sum + list.lines, 0)
  const surveys: ListSurvey[] = []
  let before = 0
  for (const { list, general } of lists) {
    const survey: Omit<ListSurvey, 'digest' | 'usable'> = {
      name: list.entry.name,
      general,
      samples: list.lines,
      used: 0,
      leftOut: {},
      trailingQuestions: 0,
      tokens: 0,
      learned: 0,
      tiles: 0,
    }
    const usable = new UsableWriter(list.lines)
    for (let first = 0; first < list.lines; first += atOnce) {
      if (signal?.aborted) throw new ModelError('ABORTED', 'The look through the samples was aborted.')
      const numbers = Array.from({ length: Math.min(atOnce, list.lines - first) }, (_, i) => first + i)
      const results = await Promise.all(
        numbers.map(async (number) => {
          const sample = await list.read(number)
          return { sample, result: await prepareSample(sample, preparation, list.entry.maxTiles) }
        }),
      )
      for (const [i, { sample, result }] of results.entries()) {
        const number = numbers[i]!
        if ('leftOut' in result) {
          const seen = survey.leftOut[result.leftOut] ?? { count: 0, examples: [] }
          survey.leftOut[result.leftOut] = seen
          seen.count++
          if (seen.examples.length < examples) seen.examples.push(list.where(number))
          continue
        }
        usable.add(number, sample, result)
        survey.used++
        survey.tokens += result.ids.length
        survey.learned += result.learned
        survey.tiles += result.tiles
        if (result.trailingQuestion) survey.trailingQuestions++
      }
      onProgress?.(before + first + numbers.length, total)
    }
    before += list.lines
    const whole = { ...survey, ...usable.finish() }
    refuseIfPoor(whole, maxLeftOut)
    surveys.push(whole)
  }
  return surveys
}

/** 32 bits of what a sample was prepared to. */
export function fingerprintOf({ ids, labels, tiles, stamp }: PreparedSample): number {
  return createHash('sha256').update(ids).update(labels).update(`${tiles} ${stamp}`).digest().readUInt32LE(0)
}

class UsableWriter {
  readonly #hash: Hash = createHash('sha256')
  readonly #samples: UsableSamples
  #count = 0
  #moment = -1
  #pictures = ''
  #head: Int32Array = new Int32Array()

  constructor(most: number) {
    this.#samples = {
      index: new Uint32Array(most),
      tokens: new Uint32Array(most),
      learned: new Uint32Array(most),
      tiles: new Uint16Array(most),
      head: new Uint32Array(most),
      moment: new Uint32Array(most),
      fingerprint: new Uint32Array(most),
    }
  }

  add(index: number, sample: ListedSample, prepared: PreparedSample): void {
    const { ids, learned, tiles, head } = prepared
    const own = ids.subarray(0, head)
    const pictures = head === 0 ? '' : `${sample.moment ?? ''} ${sample.pictures.join('\n')}`
    const goesOn = head > 0 && pictures === this.#pictures && equal(own, this.#head)
    if (!goesOn) this.#moment++
    this.#pictures = pictures
    this.#head = own
    const fingerprint = fingerprintOf(prepared)
    const row = { index, tokens: ids.length, learned, tiles, head, moment: this.#moment, fingerprint }
    for (const [key, value] of Object.entries(row)) this.#samples[key as keyof UsableSamples][this.#count] = value
    this.#count++
    this.#hash.update(ids).update(prepared.labels).update(`${index} ${tiles} ${prepared.stamp}\n`)
  }

  finish(): { digest: string; usable: UsableSamples } {
    const cut = Object.entries(this.#samples).map(([key, values]) => [key, values.slice(0, this.#count)])
    return { digest: this.#hash.digest('hex'), usable: Object.fromEntries(cut) as UsableSamples }
  }
}

function equal(a: Int32Array, b: Int32Array): boolean {
  return a.length === b.length && a.every((value, i) => value === b[i])
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

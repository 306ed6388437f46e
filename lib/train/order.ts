/**
 * Which samples a pass takes, and in which order (spec/adaptation.md, section 13). Both follow from the seed, the pass and the lengths of the
 * lists alone: not from threads, time or what was done before.
 */
import { ModelError } from '../errors.ts'
import { Random, shuffle } from './random.ts'

/** A list of units, each of one sample or several, as far as the order is concerned. */
export interface OrderedList {
  /** Units. */
  length: number
  /** Samples of a unit; one each where it is not given. */
  samplesOf?: (unit: number) => number
  /** General data: drawn by the ratio. */
  general: boolean
}

export interface PassOptions {
  seed: number
  /** Number of the pass, from 0. */
  pass: number
  /** General samples for each domain sample. */
  generalRatio: number
}

/** A unit: the number of its list, its index there, and how many of its samples are taken. */
export interface Place {
  list: number
  index: number
  samples: number
}

/** The units of a pass, by number. */
export class Pass {
  readonly length: number
  /** Samples of all units. */
  readonly samples: { domain: number; general: number }
  /** General samples that the ratio asked for, and that there are. */
  readonly general: { wanted: number; taken: number }
  readonly #lists: readonly OrderedList[]
  readonly #order: Uint32Array
  readonly #starts: number[]
  /** The unit that reaches the ratio, and how many of its samples it takes for that. */
  #cut: { unit: number; samples: number } | undefined

  /**
   * @throws {@link ModelError} `BAD_ARGUMENT` for a ratio that is none, or above 0 without general data; `BAD_DATA` for too many samples.
   */
  constructor(lists: readonly OrderedList[], { seed, pass, generalRatio }: PassOptions) {
    if (!(generalRatio >= 0 && generalRatio < Number.POSITIVE_INFINITY))
      throw new ModelError('BAD_ARGUMENT', `generalRatio: expected a number of at least 0, found ${generalRatio}.`)
    this.#lists = lists
    this.#starts = []
    let total = 0
    for (const { length } of lists) {
      this.#starts.push(total)
      total += length
    }
    if (total >= 2 ** 32) throw new ModelError('BAD_DATA', `${total} samples; at most ${2 ** 32 - 1} are trained on.`)
    const all = count(lists, true)
    if (generalRatio > 0 && all === 0) throw noGeneralData(generalRatio)
    const domainSamples = count(lists, false)
    const wanted = Math.round(generalRatio * domainSamples)
    this.general = { wanted, taken: Math.min(wanted, all) }
    this.samples = { domain: domainSamples, general: this.general.taken }
    // A draw over all general units takes each list in proportion to its length.
    const pool = numbersOf(lists, this.#starts, true)
    shuffle(pool, new Random(seed, pass, 1), Math.min(pool.length, this.general.taken))
    let taken = 0
    let units = 0
    while (taken < this.general.taken) {
      const unit = pool[units++]!
      const samples = this.#samplesOf(unit)
      if (taken + samples > this.general.taken) this.#cut = { unit, samples: this.general.taken - taken }
      taken += samples
    }
    const domain = numbersOf(lists, this.#starts, false)
    this.#order = new Uint32Array(domain.length + units)
    this.#order.set(domain)
    this.#order.set(pool.subarray(0, units), domain.length)
    shuffle(this.#order, new Random(seed, pass, 2))
    this.length = this.#order.length
  }

  /** Unit `number` of the pass. */
  at(number: number): Place {
    const unit = this.#order[number]!
    const list = this.#listOf(unit)
    const samples = unit === this.#cut?.unit ? this.#cut.samples : this.#samplesOf(unit)
    return { list, index: unit - this.#starts[list]!, samples }
  }

  #listOf(unit: number): number {
    let list = this.#starts.length - 1
    while (this.#starts[list]! > unit) list--
    return list
  }

  #samplesOf(unit: number): number {
    const list = this.#listOf(unit)
    return this.#lists[list]!.samplesOf?.(unit - this.#starts[list]!) ?? 1
  }
}

export function noGeneralData(ratio: number): ModelError {
  return new ModelError(
    'BAD_ARGUMENT',
    `A general ratio of ${ratio} was asked for, but there is no general data; name a list of it, or set the ratio to 0.`,
  )
}

function count(lists: readonly OrderedList[], general: boolean): number {
  let samples = 0
  for (const list of lists) {
    if (list.general !== general) continue
    for (let unit = 0; unit < list.length; unit++) samples += list.samplesOf?.(unit) ?? 1
  }
  return samples
}

function numbersOf(lists: readonly OrderedList[], starts: readonly number[], general: boolean): Uint32Array {
  const chosen = lists.flatMap((list, i) =>
    list.general === general ? [{ start: starts[i]!, length: list.length }] : [],
  )
  const out = new Uint32Array(chosen.reduce((sum, { length }) => sum + length, 0))
  let at = 0
  for (const { start, length } of chosen) for (let i = 0; i < length; i++) out[at++] = start + i
  return out
}

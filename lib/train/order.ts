/**
 * Which samples a pass takes, and in which order (spec/adaptation.md, section 13). Both follow from the seed, the pass and the lengths of the
 * lists alone: not from threads, time or what was done before.
 */
import { ModelError } from '../errors.ts'
import { Random, shuffle } from './random.ts'

/** A list of samples, as far as the order is concerned. */
export interface OrderedList {
  length: number
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

/** A sample: the number of its list, and its index there. */
export interface Place {
  list: number
  index: number
}

/** The samples of a pass, by number. */
export class Pass {
  readonly length: number
  /** General samples that the ratio asked for, and that there are. */
  readonly general: { wanted: number; taken: number }
  readonly #order: Uint32Array
  readonly #starts: number[]

  /**
   * @throws {@link ModelError} `BAD_ARGUMENT` for a ratio that is none, or above 0 without general data; `BAD_DATA` for too many samples.
   */
  constructor(lists: readonly OrderedList[], { seed, pass, generalRatio }: PassOptions) {
    if (!(generalRatio >= 0 && generalRatio < Number.POSITIVE_INFINITY))
      throw new ModelError('BAD_ARGUMENT', `generalRatio: expected a number of at least 0, found ${generalRatio}.`)
    this.#starts = []
    let total = 0
    for (const { length } of lists) {
      this.#starts.push(total)
      total += length
    }
    if (total >= 2 ** 32) throw new ModelError('BAD_DATA', `${total} samples; at most ${2 ** 32 - 1} are trained on.`)
    const count = (general: boolean) =>
      lists.reduce((sum, list) => sum + (list.general === general ? list.length : 0), 0)
    const all = count(true)
    if (generalRatio > 0 && all === 0) {
      throw new ModelError(
        'BAD_ARGUMENT',
        `A general ratio of ${generalRatio} was asked for, but there is no general data; name a list of it, or set the ratio to 0.`,
      )
    }
    const wanted = Math.round(generalRatio * count(false))
    const taken = Math.min(wanted, all)
    this.general = { wanted, taken }
    // A draw over all general samples takes each list in proportion to its length.
    const pool = numbersOf(lists, this.#starts, true)
    shuffle(pool, new Random(seed, pass, 1), taken)
    const domain = numbersOf(lists, this.#starts, false)
    this.#order = new Uint32Array(domain.length + taken)
    this.#order.set(domain)
    this.#order.set(pool.subarray(0, taken), domain.length)
    shuffle(this.#order, new Random(seed, pass, 2))
    this.length = this.#order.length
  }

  /** Sample `number` of the pass. */
  at(number: number): Place {
    const sample = this.#order[number]!
    let list = this.#starts.length - 1
    while (this.#starts[list]! > sample) list--
    return { list, index: sample - this.#starts[list]! }
  }
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

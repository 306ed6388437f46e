/**
 * What is packed: units of samples that go through the network together. A unit is one sample, or several questions of one moment, whose
 * pictures and whose ids before the question then go through it once.
 */
import { Random, shuffle } from './random.ts'
import type { UsableSamples } from './survey.ts'

/** What a unit takes in a pack. */
export interface UnitSize {
  tokens: number
  tiles: number
}

/** The units of one list in a pass. */
export class UnitTable {
  readonly length: number
  readonly #usable: UsableSamples
  /** [units]: first sample of its moment, samples of the moment, which part of how many it is. */
  readonly #first: Uint32Array
  readonly #count: Uint32Array
  readonly #part: Uint32Array
  readonly #parts: Uint32Array

  /**
   * @param lines - Samples of the file, used or not: `repeat` counts them.
   * @param most - Questions of a moment that go together; 1 for none.
   * @param maxTokens - Of a pack. A moment is cut into parts of nearly equal size that fit, whatever questions fall into them.
   */
  constructor(
    usable: UsableSamples,
    { lines, repeat, most, maxTokens }: { lines: number; repeat: number; most: number; maxTokens: number },
  ) {
    this.#usable = usable
    const units: [first: number, count: number, part: number, parts: number][] = []
    let left = Math.trunc(lines * repeat)
    while (left > 0) {
      const end = lowerBound(usable.index, Math.min(left, lines))
      for (let first = 0; first < end; ) {
        let count = 1
        while (most > 1 && first + count < end && usable.moment[first + count] === usable.moment[first]) count++
        const parts = Math.ceil(count / Math.min(most, this.#fitting(first, count, maxTokens)))
        for (let part = 0; part < parts; part++) units.push([first, count, part, parts])
        first += count
      }
      left -= lines
    }
    this.length = units.length
    this.#first = Uint32Array.from(units, (unit) => unit[0])
    this.#count = Uint32Array.from(units, (unit) => unit[1])
    this.#part = Uint32Array.from(units, (unit) => unit[2])
    this.#parts = Uint32Array.from(units, (unit) => unit[3])
  }

  /** Samples in a unit. */
  samplesOf(unit: number): number {
    const [count, part, parts] = [this.#count[unit]!, this.#part[unit]!, this.#parts[unit]!]
    return Math.floor(((part + 1) * count) / parts) - Math.floor((part * count) / parts)
  }

  /** Numbers of its samples among the usable ones. Questions of a moment that is cut are drawn into its parts anew in each pass. */
  members(unit: number, { seed, pass, list }: { seed: number; pass: number; list: number }): number[] {
    const [first, count, part, parts] = [this.#first[unit]!, this.#count[unit]!, this.#part[unit]!, this.#parts[unit]!]
    const order = Uint32Array.from({ length: count }, (_, i) => first + i)
    if (parts > 1) shuffle(order, new Random(seed, pass, 3, list, first))
    return [...order.subarray(Math.floor((part * count) / parts), Math.floor(((part + 1) * count) / parts))]
  }

  /** Rows and tiles of samples that go together. */
  sizeOf(members: readonly number[]): UnitSize {
    const { tokens, head, tiles } = this.#usable
    const [first] = members as [number]
    const shared = members.length > 1 ? head[first]! : 0
    return {
      tokens: members.reduce((sum, member) => sum + tokens[member]! - shared, shared),
      tiles: tiles[first]!,
    }
  }

  /** How many of a moment's samples fit into a pack, whichever they are. */
  #fitting(first: number, count: number, maxTokens: number): number {
    const { tokens, head } = this.#usable
    const shared = head[first]!
    let longest = 0
    for (let i = first; i < first + count; i++) longest = Math.max(longest, tokens[i]! - shared)
    return Math.max(1, Math.floor((maxTokens - shared) / longest))
  }
}

/** Entries of an ascending list that are below `limit`. */
function lowerBound(list: Uint32Array, limit: number): number {
  let low = 0
  let high = list.length
  while (low < high) {
    const middle = (low + high) >> 1
    if (list[middle]! < limit) low = middle + 1
    else high = middle
  }
  return low
}

let sums = new Float64Array(0)

/** The generator's random numbers: a counter through a mixing function, so that a seed gives the same world everywhere. */
export class StreetRandom {
  #state: number

  constructor(seed: number) {
    this.#state = (seed ^ 0x9e3779b9) >>> 0
    this.next()
    this.next()
  }

  /** A number of [0, 1). */
  next(): number {
    this.#state = (this.#state + 0x9e3779b9) >>> 0
    let z = this.#state
    z = Math.imul(z ^ (z >>> 16), 0x85ebca6b)
    z = Math.imul(z ^ (z >>> 13), 0xc2b2ae35)
    return ((z ^ (z >>> 16)) >>> 0) / 4294967296
  }

  /** Sums of two numbers each, as of calls of {@link next} in turn; valid until the next call. */
  pairs(count: number): Float64Array {
    if (sums.length < count) sums = new Float64Array(count)
    let state = this.#state
    for (let i = 0; i < count; i++) {
      state = (state + 0x9e3779b9) | 0
      let a = Math.imul(state ^ (state >>> 16), 0x85ebca6b)
      a = Math.imul(a ^ (a >>> 13), 0xc2b2ae35)
      state = (state + 0x9e3779b9) | 0
      let b = Math.imul(state ^ (state >>> 16), 0x85ebca6b)
      b = Math.imul(b ^ (b >>> 13), 0xc2b2ae35)
      sums[i] = ((a ^ (a >>> 16)) >>> 0) / 4294967296 + ((b ^ (b >>> 16)) >>> 0) / 4294967296
    }
    this.#state = state >>> 0
    return sums
  }

  between(low: number, high: number): number {
    return low + (high - low) * this.next()
  }

  /** A whole number of [0, count). */
  below(count: number): number {
    return Math.floor(this.next() * count)
  }

  pick<T>(list: readonly T[]): T {
    return list[this.below(list.length)]!
  }

  /** An index, as likely as its weight. */
  weighted(weights: readonly number[]): number {
    let total = 0
    for (const weight of weights) total += weight
    let left = this.next() * total
    for (let i = 0; i < weights.length; i++) {
      left -= weights[i]!
      if (left < 0) return i
    }
    return weights.length - 1
  }

  /** The list itself, in random order. */
  shuffle<T>(list: T[]): T[] {
    for (let i = list.length - 1; i > 0; i--) {
      const j = this.below(i + 1)
      const value = list[i]!
      list[i] = list[j]!
      list[j] = value
    }
    return list
  }
}

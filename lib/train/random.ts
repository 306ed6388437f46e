/** Random numbers that are the same on every machine, for every number of threads and after a resume: keyed, never shared. */

/** A generator (xoshiro128**) of a seed and what it is used for: other keys give other numbers. */
export class Random {
  readonly #state = new Uint32Array(4)

  constructor(seed: number, ...key: number[]) {
    let mixed = 0x9e3779b9
    for (const part of [seed, ...key]) {
      for (const word of [part >>> 0, Math.floor(part / 2 ** 32) >>> 0]) mixed = mix(mixed ^ word) + 0x6d2b79f5
    }
    for (let i = 0; i < 4; i++) this.#state[i] = mix(mixed + 0x9e3779b9 * (i + 1))
    if (this.#state.every((word) => word === 0)) this.#state[0] = 1
  }

  /** A whole number of 32 bits. */
  word(): number {
    const s = this.#state
    const product = Math.imul(s[1]!, 5)
    const result = Math.imul((product << 7) | (product >>> 25), 9) >>> 0
    const shifted = s[1]! << 9
    s[2]! ^= s[0]!
    s[3]! ^= s[1]!
    s[1]! ^= s[2]!
    s[0]! ^= s[3]!
    s[2]! ^= shifted
    s[3] = (s[3]! << 11) | (s[3]! >>> 21)
    return result
  }

  /** A whole number of [0, limit), each as likely; limit at most 2^32. */
  below(limit: number): number {
    const most = 2 ** 32 - (2 ** 32 % limit)
    for (;;) {
      const word = this.word()
      if (word < most) return word % limit
    }
  }

  /** A number of [0, 1). */
  unit(): number {
    return this.word() / 2 ** 32
  }
}

function mix(value: number): number {
  let x = value | 0
  x = Math.imul(x ^ (x >>> 16), 0x21f0aaad)
  x = Math.imul(x ^ (x >>> 15), 0x735a2d97)
  return (x ^ (x >>> 15)) >>> 0
}

/** Puts the first `count` entries of a list in random order, drawn from the whole list; the rest is left in some order. */
export function shuffle(list: Uint32Array, random: Random, count: number = list.length): void {
  for (let i = 0; i < count && i < list.length - 1; i++) {
    const j = i + random.below(list.length - i)
    const value = list[i]!
    list[i] = list[j]!
    list[j] = value
  }
}

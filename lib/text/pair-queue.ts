/** Binary heap of symbol pairs: higher score first, then the smaller left symbol. */
export class PairQueue {
  readonly #scores: number[] = []
  readonly #lefts: number[] = []
  readonly #rights: number[] = []
  readonly #sizes: number[] = []
  score = 0
  left = 0
  right = 0
  size = 0

  push(score: number, left: number, right: number, size: number): void {
    let at = this.#scores.length
    this.#set(at, score, left, right, size)
    while (at > 0) {
      const parent = (at - 1) >> 1
      if (!this.#before(at, parent)) break
      this.#swap(at, parent)
      at = parent
    }
  }

  /** Takes the best pair into `score`, `left`, `right`, `size`; false when there is none. */
  pop(): boolean {
    const last = this.#scores.length - 1
    if (last < 0) return false
    this.score = this.#scores[0]!
    this.left = this.#lefts[0]!
    this.right = this.#rights[0]!
    this.size = this.#sizes[0]!
    this.#swap(0, last)
    this.#scores.length = last
    this.#lefts.length = last
    this.#rights.length = last
    this.#sizes.length = last
    for (let at = 0; ; ) {
      let best = at
      for (const child of [2 * at + 1, 2 * at + 2]) if (child < last && this.#before(child, best)) best = child
      if (best === at) return true
      this.#swap(at, best)
      at = best
    }
  }

  #before(a: number, b: number): boolean {
    const difference = this.#scores[a]! - this.#scores[b]!
    return difference > 0 || (difference === 0 && this.#lefts[a]! < this.#lefts[b]!)
  }

  #set(at: number, score: number, left: number, right: number, size: number): void {
    this.#scores[at] = score
    this.#lefts[at] = left
    this.#rights[at] = right
    this.#sizes[at] = size
  }

  #swap(a: number, b: number): void {
    const score = this.#scores[a]!
    const left = this.#lefts[a]!
    const right = this.#rights[a]!
    const size = this.#sizes[a]!
    this.#set(a, this.#scores[b]!, this.#lefts[b]!, this.#rights[b]!, this.#sizes[b]!)
    this.#set(b, score, left, right, size)
  }
}

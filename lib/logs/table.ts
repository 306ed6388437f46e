/** Pictures of a topic in columns: 56 bytes each, however long the log is. */
import type { Place } from './container.ts'

/** A picture's place and times, ns. */
export interface PictureEntry {
  /** When it was taken, by the clock that is trusted. */
  stamp: bigint
  logTime: bigint
  publishTime: bigint
  place: Place
}

export class PictureTable {
  length = 0
  #times = new BigInt64Array(3 * 64)
  #places = new Float64Array(4 * 64)
  /** Rows in order of their stamps; of equal ones the earlier in the log first. */
  #order: Uint32Array | undefined

  push({ stamp, logTime, publishTime, place: { file, chunk, at, size } }: PictureEntry): void {
    if (3 * this.length === this.#times.length) {
      const [times, places] = [this.#times, this.#places]
      this.#times = new BigInt64Array(2 * times.length)
      this.#places = new Float64Array(2 * places.length)
      this.#times.set(times)
      this.#places.set(places)
    }
    this.#times.set([stamp, logTime, publishTime], 3 * this.length)
    this.#places.set([file, chunk, at, size], 4 * this.length)
    this.length += 1
    this.#order = undefined
  }

  /** The stamp of the i-th picture in order of stamps. */
  stamp(i: number): bigint {
    return this.#times[3 * this.#row(i)]!
  }

  /** The i-th picture in order of stamps. */
  entry(i: number): PictureEntry {
    const row = this.#row(i)
    const [stamp, logTime, publishTime] = this.#times.subarray(3 * row)
    const [file, chunk, at, size] = this.#places.subarray(4 * row)
    const place = { file: file!, chunk: chunk!, at: at!, size: size! }
    return { stamp: stamp!, logTime: logTime!, publishTime: publishTime!, place }
  }

  #row(i: number): number {
    if (this.#order === undefined) {
      const stamp = (row: number) => this.#times[3 * row]!
      this.#order = Uint32Array.from({ length: this.length }, (_, row) => row)
      this.#order.sort((a, b) => (stamp(a) < stamp(b) ? -1 : stamp(a) > stamp(b) ? 1 : a - b))
    }
    return this.#order[i]!
  }
}

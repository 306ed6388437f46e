// A longest-match scanner: runs the automaton of `patterns.ts` as a lazily built deterministic one, whose states are made when first walked into.
//
// JavaScript's regular expressions take the first alternative that works and can go exponential; this takes the longest and
// costs one table look-up a code unit. A scan that runs on in vain remembers where (`Vain`), so that text is not walked
// again and again from each of its tokens: hostile input stays linear as well.

import type { Automaton } from './patterns.ts'

/** The longest match: where it ends, and the number of the accepting state's label. */
export interface Match {
  end: number
  label: number
}

/** States and positions of one text from which no match is reached any more; see the top of the file. */
export type Vain = Set<number>

const dead = -1
const unknown = -2
/** The cache of states starts over beyond this; real text needs a few hundred. */
const maxStates = 20_000
/** A scan this far past its last match begins to remember and to look up. */
const vainAfter = 64

/** Runs one start state of a sealed automaton. */
export class Machine {
  readonly #automaton: Automaton
  readonly #start: number
  readonly #labels: ReadonlyMap<number, number>
  #ids = new Map<string, number>()
  #cores: number[][] = []
  #label: number[] = []
  #next: Int32Array[] = []

  /** `labels`: accepting states; of several reached at once, the lowest label counts. */
  constructor(automaton: Automaton, start: number, labels: ReadonlyMap<number, number>) {
    this.#automaton = automaton
    this.#start = start
    this.#labels = labels
  }

  /** The longest match at `from`, undefined if there is none. */
  longest(subject: string, from: number, vain: Vain): Match | undefined {
    if (this.#cores.length > maxStates) {
      this.#ids = new Map()
      this.#cores = []
      this.#label = []
      this.#next = []
      vain.clear()
    }
    const classOf = this.#automaton.classOf
    let state = this.#first()
    let end = -1
    let label = -1
    const tail: number[] = []
    for (let at = from; at < subject.length; ) {
      const unitClass = classOf[subject.charCodeAt(at)]!
      let next = this.#next[state]![unitClass]!
      if (next === unknown) next = this.#make(state, unitClass)
      if (next === dead) break
      state = next
      at++
      if (this.#label[state]! >= 0) {
        end = at
        label = this.#label[state]!
        tail.length = 0
      } else if (at - Math.max(end, from) > vainAfter) {
        const key = at * 0x20_0000 + state
        if (vain.has(key)) break
        tail.push(key)
      }
    }
    for (const key of tail) vain.add(key)
    return end < 0 ? undefined : { end, label }
  }

  /** All ends of matches at `from`, up to `limit`, ascending. */
  ends(subject: string, from: number, limit: number): number[] {
    const classOf = this.#automaton.classOf
    const ends: number[] = []
    let state = this.#first()
    if (this.#label[state]! >= 0) ends.push(from)
    for (let at = from; at < limit; ) {
      const unitClass = classOf[subject.charCodeAt(at)]!
      let next = this.#next[state]![unitClass]!
      if (next === unknown) next = this.#make(state, unitClass)
      if (next === dead) break
      state = next
      at++
      if (this.#label[state]! >= 0) ends.push(at)
    }
    return ends
  }

  #first(): number {
    return this.#cores.length > 0 ? 0 : this.#intern(this.#automaton.closure([this.#start]))
  }

  #make(state: number, unitClass: number): number {
    const core = this.#automaton.move(this.#cores[state]!, unitClass)
    const next = core.length === 0 ? dead : this.#intern(this.#automaton.closure(core))
    this.#next[state]![unitClass] = next
    return next
  }

  #intern(states: number[]): number {
    const key = states.join()
    let id = this.#ids.get(key)
    if (id === undefined) {
      id = this.#cores.push(states) - 1
      this.#ids.set(key, id)
      const labels = states.flatMap((state) => this.#labels.get(state) ?? [])
      this.#label.push(labels.length > 0 ? Math.min(...labels) : -1)
      this.#next.push(new Int32Array(this.#automaton.classes).fill(unknown))
    }
    return id
  }
}

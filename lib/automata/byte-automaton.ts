/**
 * From a pattern of bytes to the smallest automaton of the same language: subsets of the states of `patterns.ts`, Hopcroft's partition. Bytes that
 * no part of the pattern tells apart are one column until the table is written.
 */
import { ModelError } from '../errors.ts'
import type { NativeAutomaton } from '../native.ts'
import { Automaton, type Pattern } from './patterns.ts'

/** Most states of an automaton; its table takes 1 KiB a state. */
export const maxStates = 8192

const maxParts = 1 << 17
const maxWork = 1 << 23

/** @throws {@link ModelError} `BAD_ARGUMENT` if the automaton would be too large. */
export function compile(pattern: Pattern): NativeAutomaton {
  const automaton = new Automaton(256, maxParts, tooLarge)
  const start = automaton.state()
  const end = pattern(automaton, start)
  automaton.seal()
  return table(minimise(determinise(automaton, start, end), automaton.classes), automaton.classOf)
}

function tooLarge(): ModelError {
  return new ModelError(
    'BAD_ARGUMENT',
    `options.answerFormat allows too much: its automaton would have more than ${maxStates} states. ` +
      'Give fewer or shorter choices, smaller maxLength and maxItems, or fewer properties.',
  )
}

/** [states][columns] next states, −1 for none; state 0 starts. */
interface Dfa {
  next: Int32Array[]
  accepting: boolean[]
}

function determinise(automaton: Automaton, start: number, end: number): Dfa {
  const dfa: Dfa = { next: [], accepting: [] }
  const known = new Map<string, number>()
  const sets: number[][] = []
  const { classes } = automaton
  let steps = 0

  /** The state of the table for these states and what is free to reach from them. */
  const intern = (from: readonly number[]): number => {
    const set = automaton.closure(from)
    if (automaton.work + steps > maxWork) throw tooLarge()
    const key = set.join()
    let id = known.get(key)
    if (id === undefined) {
      id = sets.length
      if (id >= 4 * maxStates) throw tooLarge()
      known.set(key, id)
      sets.push(set)
      dfa.next.push(new Int32Array(classes).fill(-1))
      dfa.accepting.push(set.includes(end))
    }
    return id
  }

  intern([start])
  for (let id = 0; id < sets.length; id++) {
    const set = sets[id]!
    steps += (set.length * classes) >> 3
    for (let column = 0; column < classes; column++) {
      const to = automaton.move(set, column)
      if (to.length > 0) dfa.next[id]![column] = intern(to)
    }
  }
  return dfa
}

/** Hopcroft: blocks of states that nothing tells apart, split until none splits any more. The missing state is one more, the last. */
function minimise(dfa: Dfa, columns: number): Dfa {
  const count = dfa.next.length + 1
  const none = count - 1
  const target = (state: number, column: number): number => {
    const to = state === none ? -1 : dfa.next[state]![column]!
    return to < 0 ? none : to
  }
  // For each column, the states that lead to each state, one list after the other.
  const firsts: Int32Array[] = []
  const sources: Int32Array[] = []
  for (let column = 0; column < columns; column++) {
    const first = new Int32Array(count + 1)
    for (let state = 0; state < count; state++) first[target(state, column) + 1]!++
    for (let state = 0; state < count; state++) first[state + 1]! += first[state]!
    const fill = first.slice()
    const source = new Int32Array(count)
    for (let state = 0; state < count; state++) source[fill[target(state, column)]!++] = state
    firsts.push(first)
    sources.push(source)
  }

  const partition = new Partition(count)
  const finals = dfa.accepting.flatMap((accepting, state) => (accepting ? [state] : []))
  for (const state of finals) partition.mark(state)
  partition.splitMarked()
  const pending = new Set(Array.from({ length: partition.blocks }, (_, block) => block))
  for (const splitter of pending) {
    pending.delete(splitter)
    const members = partition.members(splitter)
    for (let column = 0; column < columns; column++) {
      const first = firsts[column]!
      const source = sources[column]!
      for (const member of members) {
        for (let i = first[member]!; i < first[member + 1]!; i++) partition.mark(source[i]!)
      }
      // The smaller half is new; the larger one stays pending if it was.
      for (const fresh of partition.splitMarked()) pending.add(fresh)
    }
  }
  return merged(dfa, partition, none, columns)
}

/** States in blocks, each a stretch of one list; the marked ones of a block stand first in it. */
class Partition {
  readonly blockOf: Int32Array
  readonly #states: Int32Array
  readonly #places: Int32Array
  readonly #first: number[] = [0]
  readonly #end: number[]
  readonly #marked: number[] = [0]
  #touched: number[] = []

  constructor(count: number) {
    this.blockOf = new Int32Array(count)
    this.#states = Int32Array.from({ length: count }, (_, state) => state)
    this.#places = this.#states.slice()
    this.#end = [count]
  }

  get blocks(): number {
    return this.#first.length
  }

  members(block: number): Int32Array {
    return this.#states.slice(this.#first[block]!, this.#end[block]!)
  }

  mark(state: number): void {
    const block = this.blockOf[state]!
    const to = this.#first[block]! + this.#marked[block]!
    const at = this.#places[state]!
    if (at < to) return
    if (this.#marked[block] === 0) this.#touched.push(block)
    const other = this.#states[to]!
    this.#states[to] = state
    this.#states[at] = other
    this.#places[state] = to
    this.#places[other] = at
    this.#marked[block]!++
  }

  /** Splits every block of which a part is marked; the smaller parts become new blocks, whose numbers it returns. */
  splitMarked(): number[] {
    const fresh: number[] = []
    for (const block of this.#touched) {
      const [first, end, marked] = [this.#first[block]!, this.#end[block]!, this.#marked[block]!]
      this.#marked[block] = 0
      if (marked === end - first) continue
      const middle = first + marked
      const takesMarked = marked * 2 <= end - first
      const id = this.blocks
      this.#first.push(takesMarked ? first : middle)
      this.#end.push(takesMarked ? middle : end)
      this.#marked.push(0)
      if (takesMarked) this.#first[block] = middle
      else this.#end[block] = middle
      for (let i = this.#first[id]!; i < this.#end[id]!; i++) this.blockOf[this.#states[i]!] = id
      fresh.push(id)
    }
    this.#touched = []
    return fresh
  }
}

/** One state a block, numbered as they are reached from the start. */
function merged(dfa: Dfa, { blockOf }: Partition, none: number, columns: number): Dfa {
  const out: Dfa = { next: [], accepting: [] }
  const numbers = new Map<number, number>()
  const queue: number[] = []
  const number = (state: number): number => {
    const block = blockOf[state]!
    let id = numbers.get(block)
    if (id === undefined) {
      id = queue.length
      if (id >= maxStates) throw tooLarge()
      numbers.set(block, id)
      queue.push(state)
    }
    return id
  }
  number(0)
  for (let id = 0; id < queue.length; id++) {
    const state = queue[id]!
    const row = new Int32Array(columns)
    for (let column = 0; column < columns; column++) {
      const to = dfa.next[state]![column]!
      row[column] = to < 0 || blockOf[to] === blockOf[none] ? -1 : number(to)
    }
    out.next.push(row)
    out.accepting.push(dfa.accepting[state]!)
  }
  return out
}

function table(dfa: Dfa, columnOf: Uint16Array): NativeAutomaton {
  const transitions = new Int32Array(dfa.next.length * 256)
  for (const [state, row] of dfa.next.entries()) {
    for (let byte = 0; byte < 256; byte++) transitions[state * 256 + byte] = row[columnOf[byte]!]!
  }
  return { transitions, accepting: Uint8Array.from(dfa.accepting, Number) }
}

// A longest-match scanner: patterns become one nondeterministic automaton, run as a lazily built deterministic one.
//
//   patterns  ->  NFA states and edges over character sets      (Automaton)
//             ->  classes of code units no set tells apart      (a table of 65,536 entries)
//             ->  DFA states, made when first walked into       (Machine)
//
// JavaScript's regular expressions take the first alternative that works and can go exponential; this takes the longest and
// costs one table look-up a code unit. A scan that runs on in vain remembers where (`Vain`), so that text is not walked
// again and again from each of its tokens: hostile input stays linear as well.

/** A set of UTF-16 code units: first and last of each range. Compared by identity, so make one and share it. */
export type CharSet = readonly (readonly [first: number, last: number])[]

/** Adds a pattern to the automaton behind `from` and returns the state where the pattern has matched. */
export type Pattern = (automaton: Automaton, from: number) => number

/** Ranges from single characters, `a-z` pairs given as two-element arrays, and other sets. */
export function charSet(...parts: (string | readonly [number, number] | CharSet)[]): CharSet {
  const ranges: [number, number][] = []
  for (const part of parts) {
    if (typeof part === 'string')
      for (let i = 0; i < part.length; i++) ranges.push([part.charCodeAt(i), part.charCodeAt(i)])
    else if (typeof part[0] === 'number') ranges.push([part[0], part[1] as number])
    else for (const [first, last] of part as CharSet) ranges.push([first, last])
  }
  ranges.sort((a, b) => a[0] - b[0])
  const merged: [number, number][] = []
  for (const [first, last] of ranges) {
    const top = merged.at(-1)
    if (top && first <= top[1] + 1) top[1] = Math.max(top[1], last)
    else merged.push([first, last])
  }
  return merged
}

/** Every code unit that is not in the set made of `parts`. */
export function except(...parts: Parameters<typeof charSet>): CharSet {
  const gaps: [number, number][] = []
  let next = 0
  for (const [first, last] of charSet(...parts)) {
    if (first > next) gaps.push([next, first - 1])
    next = last + 1
  }
  if (next <= 0xffff) gaps.push([next, 0xffff])
  return gaps
}

export function one(set: CharSet): Pattern {
  return (automaton, from) => automaton.step(from, set)
}

const letterSets = new Map<string, CharSet>()

/** The text itself. */
export function text(literal: string): Pattern {
  return seq(...Array.from({ length: literal.length }, (_, i) => one(sharedSet(literal[i]!))))
}

/** The text in any mixture of ASCII cases. */
export function word(literal: string): Pattern {
  return seq(...Array.from({ length: literal.length }, (_, i) => one(bothCases(literal[i]!))))
}

function bothCases(char: string): CharSet {
  return /[a-z]/i.test(char) ? sharedSet(char.toUpperCase() + char.toLowerCase()) : sharedSet(char)
}

function sharedSet(chars: string): CharSet {
  const set = letterSets.get(chars) ?? charSet(chars)
  letterSets.set(chars, set)
  return set
}

export function seq(...patterns: Pattern[]): Pattern {
  return (automaton, from) => patterns.reduce((at, pattern) => pattern(automaton, at), from)
}

export function alt(...patterns: Pattern[]): Pattern {
  return (automaton, from) => {
    const end = automaton.state()
    for (const pattern of patterns) automaton.free(pattern(automaton, automaton.after(from)), end)
    return end
  }
}

export function opt(pattern: Pattern): Pattern {
  return alt(pattern, (_, from) => from)
}

/** None or more. */
export function many(pattern: Pattern): Pattern {
  return (automaton, from) => {
    const loop = automaton.after(from)
    automaton.free(pattern(automaton, loop), loop)
    return automaton.after(loop)
  }
}

/** One or more. */
export function some(pattern: Pattern): Pattern {
  return seq(pattern, many(pattern))
}

export function times(min: number, max: number, pattern: Pattern): Pattern {
  const optional = Array.from({ length: max - min }).reduce<Pattern>(
    (rest) => opt(seq(pattern, rest)),
    (_, from) => from,
  )
  return seq(...Array.from({ length: min }, () => pattern), optional)
}

/**
 * A pattern in the short form the abbreviation lists are written in: letters match both cases, `[xy]` one of exactly these,
 * `x?` may be missing.
 */
export function short(form: string): Pattern {
  const parts: Pattern[] = []
  for (let i = 0; i < form.length; i++) {
    if (form[i] === '[') {
      const close = form.indexOf(']', i)
      parts.push(one(sharedSet(form.slice(i + 1, close))))
      i = close
    } else if (form[i] === '?') parts.push(opt(parts.pop()!))
    else parts.push(one(bothCases(form[i]!)))
  }
  return seq(...parts)
}

/** States, their steps over character sets, and their free moves. */
export class Automaton {
  readonly #steps: { set: number; to: number }[][] = []
  readonly #free: number[][] = []
  readonly #sets: CharSet[] = []
  readonly #setIds = new Map<CharSet, number>()
  /** Class of every code unit, once {@link seal} has run. */
  classOf: Uint16Array = new Uint16Array(0)
  classes = 0
  /** Which classes a set holds: `members[set][class]`. */
  #members: Uint8Array[] = []

  state(): number {
    this.#free.push([])
    return this.#steps.push([]) - 1
  }

  /** A new state reached from `from` for nothing. */
  after(from: number): number {
    const to = this.state()
    this.free(from, to)
    return to
  }

  free(from: number, to: number): void {
    this.#free[from]!.push(to)
  }

  step(from: number, set: CharSet): number {
    const to = this.state()
    const id = this.#setIds.get(set) ?? this.#sets.push(set) - 1
    this.#setIds.set(set, id)
    this.#steps[from]!.push({ set: id, to })
    return to
  }

  /** Splits the code units into classes that no set tells apart. Nothing can be added afterwards. */
  seal(): void {
    const classOf = new Uint16Array(65_536)
    const sizes = [65_536]
    for (const set of this.#sets) {
      const inside = new Map<number, number>()
      for (const [first, last] of set) {
        for (let unit = first; unit <= last; unit++) inside.set(classOf[unit]!, (inside.get(classOf[unit]!) ?? 0) + 1)
      }
      const split = new Map<number, number>()
      for (const [old, count] of inside) {
        if (count === sizes[old]) continue // the whole class is inside
        sizes[old]! -= count
        split.set(old, sizes.push(count) - 1)
      }
      if (split.size === 0) continue
      for (const [first, last] of set) {
        for (let unit = first; unit <= last; unit++) classOf[unit] = split.get(classOf[unit]!) ?? classOf[unit]!
      }
    }
    const classes = sizes.length
    const sample = new Uint32Array(classes)
    for (let unit = 0; unit < 65_536; unit++) sample[classOf[unit]!] = unit
    this.classes = classes
    this.classOf = classOf
    this.#members = this.#sets.map((set) =>
      Uint8Array.from(sample, (unit) => Number(set.some(([first, last]) => unit >= first && unit <= last))),
    )
  }

  /** `states` and what is free from them, ascending. */
  closure(states: Iterable<number>): number[] {
    const seen = new Set<number>()
    const stack = [...states]
    for (let state = stack.pop(); state !== undefined; state = stack.pop()) {
      if (seen.has(state)) continue
      seen.add(state)
      stack.push(...this.#free[state]!)
    }
    return [...seen].sort((a, b) => a - b)
  }

  /** Where a code unit of this class leads from `states`. */
  move(states: readonly number[], unitClass: number): number[] {
    const next: number[] = []
    for (const state of states) {
      for (const { set, to } of this.#steps[state]!) if (this.#members[set]![unitClass]) next.push(to)
    }
    return next
  }
}

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

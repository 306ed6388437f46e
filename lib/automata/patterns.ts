// Patterns, and the nondeterministic automaton that they become. Two engines go on from it: `scanner.ts` runs it on text, making deterministic
// states as they are walked into; `byte-automaton.ts` writes all of them out as the smallest table, for the addon.
//
//   patterns  ->  states and steps over sets of units           (Automaton)
//             ->  classes of units that no set tells apart      (seal)

/** A set of units, bytes or UTF-16 code units: first and last of each range. Compared by identity, so make one and share it. */
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

/** From `min` to `max` times, which may be Infinity. */
export function times(min: number, max: number, pattern: Pattern): Pattern {
  return (automaton, from) => {
    let at = from
    for (let i = 0; i < min; i++) at = pattern(automaton, at)
    if (max === Number.POSITIVE_INFINITY) return many(pattern)(automaton, at)
    if (max <= min) return at
    const end = automaton.state()
    for (let i = min; i < max; i++) {
      automaton.free(at, end)
      at = pattern(automaton, at)
    }
    automaton.free(at, end)
    return end
  }
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

/** States, their steps over sets of units, and their free moves: nondeterministic, and run or turned into a table by others. */
export class Automaton {
  readonly #units: number
  readonly #mostStates: number
  readonly #tooLarge: () => Error
  readonly #steps: { set: number; to: number }[][] = []
  readonly #free: number[][] = []
  readonly #sets: CharSet[] = []
  readonly #setIds = new Map<CharSet, number>()
  /** Class of every unit, once {@link seal} has run. */
  classOf: Uint16Array = new Uint16Array(0)
  classes = 0
  /** States that {@link closure} has come through, all in all. */
  work = 0
  /** Which classes a set holds: `members[set][class]`. */
  #members: Uint8Array[] = []
  #seen = new Int32Array(0)
  #round = 0

  /**
   * @param units - How many there are: 256 bytes, or 65,536 code units.
   * @param tooLarge - What is thrown where there would be more than `mostStates`.
   */
  constructor(
    units: number,
    mostStates: number = Number.POSITIVE_INFINITY,
    tooLarge: () => Error = () => new RangeError('Too many states.'),
  ) {
    this.#units = units
    this.#mostStates = mostStates
    this.#tooLarge = tooLarge
  }

  state(): number {
    if (this.#free.length >= this.#mostStates) throw this.#tooLarge()
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

  /** Splits the units into classes that no set tells apart. Nothing can be added afterwards. */
  seal(): void {
    const classOf = new Uint16Array(this.#units)
    const sizes = [this.#units]
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
    for (let unit = 0; unit < this.#units; unit++) sample[classOf[unit]!] = unit
    this.classes = classes
    this.classOf = classOf
    this.#seen = new Int32Array(this.#free.length)
    this.#members = this.#sets.map((set) =>
      Uint8Array.from(sample, (unit) => Number(set.some(([first, last]) => unit >= first && unit <= last))),
    )
  }

  /** `states` and what is free from them, ascending, without those that are only passed through. */
  closure(states: readonly number[]): number[] {
    const round = ++this.#round
    const found: number[] = []
    const stack = [...states]
    for (let state = stack.pop(); state !== undefined; state = stack.pop()) {
      if (this.#seen[state] === round) continue
      this.#seen[state] = round
      this.work++
      const free = this.#free[state]!
      if (free.length === 0 || this.#steps[state]!.length > 0) found.push(state)
      for (const to of free) stack.push(to)
    }
    return found.sort((a, b) => a - b)
  }

  /** Where a unit of this class leads from `states`. */
  move(states: readonly number[], unitClass: number): number[] {
    const next: number[] = []
    for (const state of states) {
      for (const { set, to } of this.#steps[state]!) if (this.#members[set]![unitClass]) next.push(to)
    }
    return next
  }
}

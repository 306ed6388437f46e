/**
 * Normalisers of a `tokenizer.json`: a closed list of steps, and where each character of the result came from, so that what holds for a part of a
 * text (whether it is trusted) still holds for that part of what it became.
 */
import { ModelError } from '../errors.ts'
import { leadingSpace, type Ranges, trailingSpace } from './added-tokens.ts'
import { patternOf, type SplitPattern } from './split-pattern.ts'
import { describe, type JsonObject, objectOf } from './tokenizer-files.ts'

/** A text and the stretch of the input that each unit of it came from; without `starts` and `ends` it is the input. */
export interface AlignedText {
  text: string
  starts?: Int32Array
  ends?: Int32Array
}

export type Normalizer = (text: string) => AlignedText

/** Growth that no sensible normaliser exceeds: compatibility forms make 18 characters of one. */
const maxGrowth = 32
const maxContent = 64
const maxSteps = 32

type Step = (text: string) => AlignedText

/** The normaliser that a tokenizer.json describes; undefined for none. */
export function readNormalizer(value: unknown): Normalizer | undefined {
  const steps = readSteps(value, 'tokenizer.json: normalizer', 0)
  if (steps.length === 0) return undefined
  if (steps.length > maxSteps) return refuse(`${steps.length} steps, at most ${maxSteps} are supported`)
  return (text) => {
    let whole: AlignedText = { text }
    for (const step of steps) {
      const next = step(whole.text)
      checkGrowth(next.text.length, text.length)
      whole = chain(whole, next)
    }
    return whole
  }
}

function checkGrowth(length: number, from: number): void {
  if (length <= 1024 + maxGrowth * from) return
  throw new ModelError(
    'BAD_TOKENIZER',
    `tokenizer.json: the normalizer makes more than ${maxGrowth} times as many characters of a text; take the file from the model's repository.`,
  )
}

/** Stretches of the input as stretches of what it became. */
export function alignedRanges({ text, starts, ends }: AlignedText, ranges: Ranges): Ranges {
  if (!starts || !ends || ranges.length === 0) return ranges
  const out: [number, number][] = []
  for (let i = 0, range = 0; i < text.length; i++) {
    while (range > 0 && ranges[range - 1]![1] > starts[i]!) range--
    while (range < ranges.length && ranges[range]![1] <= starts[i]!) range++
    const touched = range < ranges.length && ranges[range]![0] < Math.max(ends[i]!, starts[i]! + 1)
    if (!touched) continue
    const last = out.at(-1)
    if (last?.[1] === i) last[1] = i + 1
    else out.push([i, i + 1])
  }
  return out
}

/** Where a stretch of the aligned text stood in the input. */
export function originOf({ starts, ends }: AlignedText, from: number, to: number): [number, number] {
  if (!starts || !ends || from >= to) return [from, to]
  return [starts[from]!, ends[to - 1]!]
}

function chain(first: AlignedText, second: AlignedText): AlignedText {
  const { starts, ends } = first
  if (!starts || !ends) return second
  if (!second.starts || !second.ends) return { ...first, text: second.text }
  const from = second.starts.map((at) => starts[at] ?? ends.at(-1) ?? 0)
  const to = second.ends.map((at) => (at > 0 ? ends[at - 1]! : 0))
  return { text: second.text, starts: from, ends: to }
}

function refuse(what: string): never {
  throw new ModelError(
    'BAD_TOKENIZER',
    `tokenizer.json: normalizer: ${what}; this package cannot run such a tokenizer.`,
  )
}

const forms = ['NFC', 'NFD', 'NFKC', 'NFKD'] as const

function readSteps(value: unknown, name: string, depth: number): Step[] {
  if (value === null || value === undefined) return []
  const step = objectOf(value, name)!
  const form = forms.find((known) => known === step.type)
  if (form) return [(text) => mapPieces(text, clusters, (piece) => piece.normalize(form), text.normalize(form))]
  switch (step.type) {
    case 'Sequence': {
      if (!Array.isArray(step.normalizers))
        return refuse(`normalizers is ${describe(step.normalizers)}, expected a list`)
      if (depth > 0) return refuse('a Sequence within a Sequence')
      return step.normalizers.flatMap((one, i) => readSteps(one, `${name}.normalizers[${i}]`, depth + 1))
    }
    case 'Lowercase':
      return [(text) => mapPieces(text, characters, (piece) => piece.toLowerCase())]
    case 'StripAccents':
      return [(text) => mapPieces(text, characters, (piece) => piece.replace(/\p{Mn}/gu, ''))]
    case 'Strip': {
      const left = flag(step, 'strip_left')
      const right = flag(step, 'strip_right')
      return [(text) => strip(text, left, right)]
    }
    case 'Prepend': {
      const prepend = content(step, 'prepend')
      return [(text) => (text === '' ? { text } : insertFirst(text, prepend))]
    }
    case 'Replace': {
      const pattern = patternOf(step.pattern, `${name}.pattern`)
      const by = content(step, 'content')
      return [(text) => replace(text, pattern, by)]
    }
    default:
      return refuse(`step ${describe(step.type)} is not supported`)
  }
}

function flag(step: JsonObject, key: string): boolean {
  const value = step[key]
  if (typeof value !== 'boolean') return refuse(`${key} is ${describe(value)}, expected true or false`)
  return value
}

function content(step: JsonObject, key: string): string {
  const value = step[key]
  if (typeof value !== 'string' || value.length > maxContent)
    return refuse(`${key} is ${describe(value)}, expected a text of at most ${maxContent} characters`)
  return value
}

/** Composition happens inside of a character with its marks, or between the parts of a Hangul syllable. */
const clusters = /[\u1100-\u11ff\uac00-\ud7a3]+\p{M}*|\P{M}\p{M}*|\p{M}+/gu
const characters = /[\s\S]/gu

/** Each piece changed by itself. `expected` is the change of the whole: if it is another, the pieces were no boundaries, and nothing is aligned. */
function mapPieces(text: string, pieces: RegExp, change: (piece: string) => string, expected?: string): AlignedText {
  if (expected === text) return { text }
  const builder = new AlignedBuilder(text.length)
  for (const { 0: piece, index } of text.matchAll(pieces)) {
    const changed = change(piece)
    if (changed === piece) builder.copy(text, index, index + piece.length)
    else builder.put(changed, index, index + piece.length)
  }
  const out = builder.finish()
  if (expected === undefined || out.text === expected) return out
  const whole = new AlignedBuilder(text.length)
  whole.put(expected, 0, text.length)
  return whole.finish()
}

function strip(text: string, left: boolean, right: boolean): AlignedText {
  const end = right ? trailingSpace(text, 'unicode') : text.length
  const start = left ? Math.min(end, leadingSpace(text, 'unicode')) : 0
  if (start === 0 && end === text.length) return { text }
  const builder = new AlignedBuilder(text.length)
  builder.copy(text, start, end)
  return builder.finish()
}

function insertFirst(text: string, prepend: string): AlignedText {
  const builder = new AlignedBuilder(text.length)
  builder.put(prepend, 0, 0)
  builder.copy(text, 0, text.length)
  return builder.finish()
}

function replace(text: string, pattern: SplitPattern, by: string): AlignedText {
  const found = pattern.find(text)
  if (found.length === 0) return { text }
  const builder = new AlignedBuilder(text.length)
  let from = 0
  for (const [start, end] of found) {
    builder.copy(text, from, start)
    builder.put(by, start, end)
    from = end
  }
  builder.copy(text, from, text.length)
  return builder.finish()
}

class AlignedBuilder {
  readonly #parts: string[] = []
  readonly #starts: number[] = []
  readonly #ends: number[] = []
  readonly #from: number

  constructor(from: number) {
    this.#from = from
  }

  copy(text: string, start: number, end: number): void {
    this.#parts.push(text.slice(start, end))
    for (let at = start; at < end; at++) {
      this.#starts.push(at)
      this.#ends.push(at + 1)
    }
  }

  put(text: string, start: number, end: number): void {
    checkGrowth(this.#starts.length + text.length, this.#from)
    this.#parts.push(text)
    for (let i = 0; i < text.length; i++) {
      this.#starts.push(start)
      this.#ends.push(end)
    }
  }

  finish(): AlignedText {
    return { text: this.#parts.join(''), starts: Int32Array.from(this.#starts), ends: Int32Array.from(this.#ends) }
  }
}

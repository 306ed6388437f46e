/**
 * Pre-tokenisers of a `tokenizer.json`: a closed list of steps that cut a text into words, each as the compiled library does it. The step that
 * writes bytes as characters (`ByteLevel`) is the last one, and the merging does it by itself.
 */
import { ModelError } from '../errors.ts'
import { patternOf, regexPattern, type SplitPattern } from './split-pattern.ts'
import { describe, type JsonObject, objectOf } from './tokenizer-files.ts'

export interface PreTokenizer {
  /** Words of a text; `first` says that it stands at the beginning of the whole input. */
  split(text: string, first: boolean): string[]
  /** The words are to be merged by bytes. */
  bytes: boolean
}

interface Word {
  text: string
  first: boolean
}

type Step = (word: Word) => Word[]

const maxSteps = 16
const gpt2Pattern = /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu
const punctuation = /[!-/:-@[-`{-~\p{P}]/gu
const word = '[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}]'
const wordsAndSigns = new RegExp(`${word}+|[^${word.slice(1, -1)}\\s]+`, 'gu')
const whiteSpace = /\p{White_Space}/gu

const behaviors = ['Removed', 'Isolated', 'MergedWithPrevious', 'MergedWithNext', 'Contiguous'] as const
type Behavior = (typeof behaviors)[number]

/** The pre-tokeniser that a tokenizer.json describes. */
export function readPreTokenizer(value: unknown): PreTokenizer {
  const described = flatten(value, 'tokenizer.json: pre_tokenizer', 0)
  if (described.length > maxSteps) refuse(`${described.length} steps, at most ${maxSteps} are supported`)
  const steps: Step[] = []
  let bytes = false
  for (const [i, step] of described.entries()) {
    if (step.type === 'ByteLevel') {
      if (i + 1 < described.length) refuse('ByteLevel is not the last step')
      bytes = true
    }
    // Any of these makes a text longer; a second one would do it again.
    if (
      ['ByteLevel', 'Metaspace'].includes(String(step.type)) &&
      described.findIndex(({ type }) => type === step.type) < i
    )
      refuse(`${describe(step.type)} stands there twice`)
    steps.push(...readStep(step))
  }
  return {
    bytes,
    split: (text, first) =>
      steps
        .reduce((words, step) => words.flatMap((one) => step(one)).filter((one) => one.text !== ''), [{ text, first }])
        .map((one) => one.text),
  }
}

function refuse(what: string): never {
  throw new ModelError(
    'BAD_TOKENIZER',
    `tokenizer.json: pre_tokenizer: ${what}; this package cannot run such a tokenizer.`,
  )
}

function flatten(value: unknown, name: string, depth: number): JsonObject[] {
  if (value === null || value === undefined) return []
  const step = objectOf(value, name)!
  if (step.type !== 'Sequence') return [step]
  if (!Array.isArray(step.pretokenizers))
    return refuse(`pretokenizers is ${describe(step.pretokenizers)}, expected a list`)
  if (depth > 0) return refuse('a Sequence within a Sequence')
  return step.pretokenizers.flatMap((one, i) => flatten(one, `${name}.pretokenizers[${i}]`, depth + 1))
}

function readStep(step: JsonObject): Step[] {
  switch (step.type) {
    case 'Split':
      return [
        cut(
          patternOf(step.pattern, 'tokenizer.json: pre_tokenizer Split.pattern'),
          behaviorOf(step),
          flag(step, 'invert'),
        ),
      ]
    case 'ByteLevel': {
      flag(step, 'trim_offsets', false)
      const lead = flag(step, 'add_prefix_space', false) ? [leading(' ', 'always')] : []
      return flag(step, 'use_regex', true) ? [...lead, cut(regexPattern(gpt2Pattern), 'Isolated')] : lead
    }
    case 'Metaspace':
      return metaspace(step)
    case 'Digits':
      return [cut(regexPattern(/\p{N}/gu), flag(step, 'individual_digits') ? 'Isolated' : 'Contiguous')]
    case 'Punctuation':
      return [cut(regexPattern(punctuation), step.behavior === undefined ? 'Isolated' : behaviorOf(step))]
    case 'Whitespace':
      return [cut(regexPattern(wordsAndSigns), 'Removed', true)]
    case 'WhitespaceSplit':
      return [cut(regexPattern(whiteSpace), 'Removed')]
    case 'BertPreTokenizer':
      return [cut(regexPattern(whiteSpace), 'Removed'), cut(regexPattern(punctuation), 'Isolated')]
    default:
      return refuse(`step ${describe(step.type)} is not supported`)
  }
}

function flag(step: JsonObject, key: string, fallback?: boolean): boolean {
  const value = step[key] ?? fallback
  if (typeof value !== 'boolean') return refuse(`${key} is ${describe(step[key])}, expected true or false`)
  return value
}

function behaviorOf(step: JsonObject): Behavior {
  const found = behaviors.find((known) => known === step.behavior)
  return found ?? refuse(`behavior is ${describe(step.behavior)}, expected ${behaviors.join(', ')}`)
}

/** Puts `mark` before a word that does not begin with it. */
function leading(mark: string, where: 'always' | 'first'): Step {
  return ({ text, first }) => {
    const put = !text.startsWith(mark) && (where === 'always' || first)
    return [{ text: put ? mark + text : text, first }]
  }
}

function metaspace(step: JsonObject): Step[] {
  const { replacement } = step
  if (typeof replacement !== 'string' || [...replacement].length !== 1)
    return refuse(`replacement is ${describe(replacement)}, expected one character`)
  // Files of older versions say `add_prefix_space: false` for `never`.
  const scheme = step.prepend_scheme ?? (step.add_prefix_space === false ? 'never' : 'always')
  if (scheme !== 'always' && scheme !== 'first' && scheme !== 'never')
    return refuse(`prepend_scheme is ${describe(scheme)}, expected always, first or never`)
  const steps: Step[] = [({ text, first }) => [{ text: text.replaceAll(' ', replacement), first }]]
  if (scheme !== 'never') steps.push(leading(replacement, scheme))
  if (flag(step, 'split', true)) {
    steps.push(cut(patternOf({ String: replacement }, 'tokenizer.json: pre_tokenizer Metaspace'), 'MergedWithNext'))
  }
  return steps
}

interface Piece {
  start: number
  end: number
  match: boolean
}

/** `NormalizedString::split`: cuts at matches, or with `invert` at what lies between them. */
function cut(pattern: SplitPattern, behavior: Behavior, invert = false): Step {
  return ({ text, first }) => {
    const pieces: Piece[] = []
    let from = 0
    for (const [start, end] of pattern.find(text)) {
      if (from < start) pieces.push({ start: from, end: start, match: invert })
      pieces.push({ start, end, match: !invert })
      from = end
    }
    if (from < text.length) pieces.push({ start: from, end: text.length, match: invert })
    return joined(pieces, behavior).map(({ start, end }) => ({
      text: text.slice(start, end),
      first: first && start === 0,
    }))
  }
}

function joined(pieces: Piece[], behavior: Behavior): Piece[] {
  if (behavior === 'Isolated') return pieces
  if (behavior === 'Removed') return pieces.filter((piece) => !piece.match)
  const out: Piece[] = []
  let previous = false
  if (behavior === 'MergedWithNext') {
    for (const piece of pieces.toReversed()) {
      const last = out.at(-1)
      if (piece.match && !previous && last) last.start = piece.start
      else out.push({ ...piece })
      previous = piece.match
    }
    return out.reverse()
  }
  for (const piece of pieces) {
    const last = out.at(-1)
    const joins = behavior === 'Contiguous' ? piece.match === previous : piece.match && !previous
    if (joins && last) last.end = piece.end
    else out.push({ ...piece })
    previous = piece.match
  }
  return out
}

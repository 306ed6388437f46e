/** Patterns of a `tokenizer.json`: plain texts, and regular expressions of Oniguruma, which @huggingface/tokenizers turns into JavaScript's. */
import vm from 'node:vm'
import { Tokenizer as Library } from '@huggingface/tokenizers'
import { ModelError } from '../errors.ts'
import { describe, objectOf } from './tokenizer-files.ts'

export interface SplitPattern {
  /** Matches from left to right, as [start, end). */
  find(text: string): [number, number][]
}

export const qwenPattern =
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

/** Patterns of published vocabularies. An unknown one may take exponential time and is watched. */
const knownPatterns = new Set([qwenPattern, qwenPattern.replace('|\\p{N}|', '|\\p{N}{1,3}|')])

const maxPatternLength = 8192

/** A `pattern` of a step: `{ "String": … }` or `{ "Regex": … }`. */
export function patternOf(value: unknown, name: string): SplitPattern {
  const pattern = objectOf(value, name) ?? {}
  const [text, regex] = [pattern.String, pattern.Regex]
  if (typeof text === 'string' && text !== '' && regex === undefined) return textPattern(text)
  if (typeof regex === 'string' && regex !== '' && regex.length <= maxPatternLength && text === undefined) {
    return regexPattern(translate(regex, name))
  }
  throw new ModelError(
    'BAD_TOKENIZER',
    `${name} is ${describe(value)}, expected { "String": text } or { "Regex": pattern of at most ${maxPatternLength} characters }.`,
  )
}

function textPattern(wanted: string): SplitPattern {
  return {
    find(text) {
      const found: [number, number][] = []
      for (let at = text.indexOf(wanted); at >= 0; at = text.indexOf(wanted, at + wanted.length))
        found.push([at, at + wanted.length])
      return found
    },
  }
}

export function regexPattern(pattern: RegExp): SplitPattern {
  return {
    find(text) {
      const found: [number, number][] = []
      let last = -1
      for (const { 0: piece, index } of text.matchAll(pattern)) {
        const end = index + piece.length
        // An empty match right behind another is none.
        if (end === last) continue
        found.push([index, end])
        last = end
      }
      return found
    },
  }
}

/** Whether a step, or one in a list of steps, has a regular expression that this package does not know. */
export function hasUnknownPattern(value: unknown): boolean {
  if (Array.isArray(value)) return value.some((one) => hasUnknownPattern(one))
  if (typeof value !== 'object' || value === null) return false
  const { pattern, normalizers, pretokenizers } = value as Record<string, unknown>
  const regex = typeof pattern === 'object' && pattern !== null ? (pattern as Record<string, unknown>).Regex : undefined
  return (
    (regex !== undefined && !(typeof regex === 'string' && knownPatterns.has(regex))) ||
    hasUnknownPattern(normalizers) ||
    hasUnknownPattern(pretokenizers)
  )
}

let watch: { context: vm.Context; script: vm.Script } | undefined

/** Runs what may not end. Node ends code that was begun in `vm` after a time, regular expressions too. */
export function runWatched<T>(run: () => T, limitMs: number): T {
  watch ??= { context: vm.createContext({}), script: new vm.Script('run()') }
  watch.context.run = run
  try {
    return watch.script.runInContext(watch.context, { timeout: limitMs }) as T
  } catch (error) {
    if (error instanceof ModelError) throw error
    const late = (error as NodeJS.ErrnoException | undefined)?.code === 'ERR_SCRIPT_EXECUTION_TIMEOUT'
    throw new ModelError(
      'BAD_TOKENIZER',
      `tokenizer.json: a pattern ${late ? `took more than ${limitMs} ms on a text` : `failed on a text (${(error as Error).message})`}; take the file from the model's repository.`,
      { cause: error },
    )
  } finally {
    watch.context.run = undefined
  }
}

/** The library makes the regular expression of a Split step; its own way of splitting is not used. */
function translate(regex: string, name: string): RegExp {
  try {
    const step = { type: 'Split', pattern: { Regex: regex }, behavior: 'Isolated', invert: false }
    const model = { type: 'BPE', vocab: {}, merges: [] }
    const library = new Library(
      { normalizer: null, pre_tokenizer: step, post_processor: null, decoder: null, added_tokens: [], model },
      {},
    )
    const { pattern } = library.pre_tokenizer as unknown as { pattern?: unknown }
    if (pattern instanceof RegExp && pattern.global) return pattern
    throw new Error('the library made no pattern of it')
  } catch (error) {
    throw new ModelError(
      'BAD_TOKENIZER',
      `${name}: ${(error as Error).message}; this package cannot run such a pattern.`,
      {
        cause: error,
      },
    )
  }
}

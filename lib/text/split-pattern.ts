/** Patterns of a `tokenizer.json`: plain texts, and regular expressions of Oniguruma, which @huggingface/tokenizers turns into JavaScript's. */
import vm from 'node:vm'
import { Tokenizer as Library } from '@huggingface/tokenizers'
import { ModelError } from '../errors.ts'
import { describe, objectOf } from './tokenizer-files.ts'

export interface GuardedPattern {
  /** Matches from left to right, as [start, end). */
  find(text: string): [number, number][]
}

export const qwenPattern =
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

/** Patterns of published vocabularies. They need no watch; an unknown one may take exponential time. */
const knownPatterns = new Set([qwenPattern, qwenPattern.replace('|\\p{N}|', '|\\p{N}{1,3}|')])

const maxPatternLength = 8192
const maxMatchMs = 1000

/** A `pattern` of a step: `{ "String": … }` or `{ "Regex": … }`. */
export function patternOf(value: unknown, name: string): GuardedPattern {
  const pattern = objectOf(value, name) ?? {}
  const [text, regex] = [pattern.String, pattern.Regex]
  if (typeof text === 'string' && text !== '' && regex === undefined) return textPattern(text)
  if (typeof regex === 'string' && regex !== '' && regex.length <= maxPatternLength && text === undefined) {
    return regexPattern(translate(regex, name), knownPatterns.has(regex) ? undefined : name)
  }
  throw new ModelError(
    'BAD_TOKENIZER',
    `${name} is ${describe(value)}, expected { "String": text } or { "Regex": pattern of at most ${maxPatternLength} characters }.`,
  )
}

function textPattern(wanted: string): GuardedPattern {
  return {
    find(text) {
      const found: [number, number][] = []
      for (let at = text.indexOf(wanted); at >= 0; at = text.indexOf(wanted, at + wanted.length))
        found.push([at, at + wanted.length])
      return found
    },
  }
}

/** A pattern that this package wrote, or, with `watched`, one of that name which may not take more than {@link maxMatchMs}. */
export function regexPattern(pattern: RegExp, watched?: string): GuardedPattern {
  return {
    find(text) {
      const found: [number, number][] = []
      const run = (): void => {
        let last = -1
        for (const { 0: piece, index } of text.matchAll(pattern)) {
          const end = index + piece.length
          // An empty match right behind another is none.
          if (end === last) continue
          found.push([index, end])
          last = end
        }
      }
      if (watched === undefined) run()
      else runWatched(run, watched)
      return found
    },
  }
}

let watch: { context: vm.Context; script: vm.Script } | undefined

/** Node ends code that was begun in `vm` after a time, regular expressions too. */
function runWatched(run: () => void, name: string): void {
  watch ??= { context: vm.createContext({}), script: new vm.Script('run()') }
  watch.context.run = run
  try {
    watch.script.runInContext(watch.context, { timeout: maxMatchMs })
  } catch (error) {
    throw new ModelError(
      'BAD_TOKENIZER',
      `${name}: the pattern ${timedOut(error) ? `took more than ${maxMatchMs} ms on a text` : `failed (${String(error)})`}; take the file from the model's repository.`,
      { cause: error },
    )
  } finally {
    watch.context.run = undefined
  }
}

function timedOut(error: unknown): boolean {
  return (error as NodeJS.ErrnoException | undefined)?.code === 'ERR_SCRIPT_EXECUTION_TIMEOUT'
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

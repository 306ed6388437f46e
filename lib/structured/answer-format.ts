/** Answers of a given form: one of some strings, or JSON of a schema. What is allowed is compiled once and kept for the next question. */

import { compile } from '../automata/byte-automaton.ts'
import { choice, literal, optional, type Pattern, sequence } from '../automata/byte-patterns.ts'
import { ModelError } from '../errors.ts'
import type { NativeAutomaton, NativeModel } from '../native.ts'
import type { Tokenizer } from '../text/tokenizer.ts'
import { type JsonSchema, schemaPattern } from './schema.ts'

/**
 * What an answer must be.
 *
 * - `{ enum: [...] }`: one of these strings.
 * - `{ schema: {...} }`: JSON of this schema, see {@link JsonSchema}.
 */
export type AnswerFormat = { readonly enum: readonly string[] } | { readonly schema: JsonSchema }

/** A format that was checked and compiled. */
export interface CompiledFormat {
  kind: 'enum' | 'schema'
  automaton: NativeAutomaton
}

const mostKept = 32
const mostChoices = 4096
const mostBytes = 1 << 20

/** The formats of one model. */
export class AnswerFormats {
  readonly #native: NativeModel
  readonly #tokenizer: Tokenizer
  /** By what was asked for, the latest last. */
  readonly #kept = new Map<string, CompiledFormat>()
  #vocabularySet = false

  constructor(native: NativeModel, tokenizer: Tokenizer) {
    this.#native = native
    this.#tokenizer = tokenizer
  }

  /** @throws {@link ModelError} `BAD_ARGUMENT` for a format that is not understood, or allows too much. */
  compile(format: AnswerFormat): CompiledFormat {
    const kind = kindOf(format)
    const key = keyOf(format)
    const compiled = this.#kept.get(key) ?? { kind, automaton: compile(this.#pattern(format)) }
    this.#kept.delete(key)
    this.#kept.set(key, compiled)
    if (this.#kept.size > mostKept) this.#kept.delete(this.#kept.keys().next().value!)
    this.#setVocabulary()
    return compiled
  }

  #pattern(format: AnswerFormat): Pattern {
    const pattern =
      'enum' in format ? choice(...format.enum.map(literal)) : schemaPattern(format.schema, 'answerFormat.schema')
    // Their models begin an answer with a piece that carries a blank, which is not part of the answer.
    return this.#tokenizer.leadingBlank ? sequence(optional(literal(' ')), pattern) : pattern
  }

  /** Made when it is first needed: a trie of all tokens takes some tens of MiB for the larger vocabularies. */
  #setVocabulary(): void {
    if (this.#vocabularySet) return
    const { bytes, offsets } = vocabularyBytes(this.#tokenizer)
    this.#native.setVocabulary(bytes, offsets)
    this.#vocabularySet = true
  }
}

/** The bytes of all tokens, one after the other, and where each begins. */
export function vocabularyBytes(tokenizer: Tokenizer): { bytes: Uint8Array; offsets: Uint32Array } {
  const tokens = Array.from({ length: tokenizer.size }, (_, id) => tokenizer.bytesOf(id))
  const offsets = new Uint32Array(tokens.length + 1)
  for (const [id, token] of tokens.entries()) offsets[id + 1] = offsets[id]! + token.length
  const bytes = new Uint8Array(offsets[tokens.length]!)
  for (const [id, token] of tokens.entries()) bytes.set(token, offsets[id]!)
  return { bytes, offsets }
}

/** The text of a constrained answer, from the bytes of its tokens: no rule of decoding may change what was held to the format. */
export class FormattedText {
  readonly #tokenizer: Tokenizer
  readonly #utf8 = new TextDecoder('utf-8', { ignoreBOM: true })
  #begun = false

  constructor(tokenizer: Tokenizer) {
    this.#tokenizer = tokenizer
  }

  readonly stopped: undefined

  push(ids: Iterable<number>): string {
    let text = ''
    for (const id of ids) text += this.#utf8.decode(this.#tokenizer.bytesOf(id), { stream: true })
    return this.#withoutBlank(text)
  }

  finish(): string {
    return this.#withoutBlank(this.#utf8.decode())
  }

  #withoutBlank(text: string): string {
    if (this.#begun || text === '') return text
    this.#begun = true
    return this.#tokenizer.leadingBlank && text.startsWith(' ') ? text.slice(1) : text
  }
}

function kindOf(format: unknown): 'enum' | 'schema' {
  if (typeof format === 'object' && format !== null && !Array.isArray(format)) {
    const keys = Object.keys(format)
    if (keys.length === 1 && keys[0] === 'schema') return 'schema'
    if (keys.length === 1 && keys[0] === 'enum') {
      checkChoices((format as { enum: unknown }).enum)
      return 'enum'
    }
  }
  throw new ModelError('BAD_ARGUMENT', 'Expected { enum: [...] } or { schema: {...} } for options.answerFormat.')
}

function checkChoices(list: unknown): void {
  const sound =
    Array.isArray(list) &&
    list.length > 0 &&
    list.length <= mostChoices &&
    list.every(
      (one) => typeof one === 'string' && one.trim() !== '' && one.trim() === one && !/\p{Surrogate}/u.test(one),
    )
  if (sound) return
  throw new ModelError(
    'BAD_ARGUMENT',
    `Expected a list of 1 to ${mostChoices} strings for options.answerFormat.enum, none of them empty or with white space at an end.`,
  )
}

function keyOf(format: AnswerFormat): string {
  let key: string
  try {
    key = JSON.stringify(format)
  } catch (error) {
    throw new ModelError('BAD_ARGUMENT', `options.answerFormat is not plain JSON (${(error as Error).message}).`, {
      cause: error,
    })
  }
  if (key.length <= mostBytes) return key
  throw new ModelError(
    'BAD_ARGUMENT',
    `options.answerFormat takes ${key.length} characters, expected at most ${mostBytes}.`,
  )
}

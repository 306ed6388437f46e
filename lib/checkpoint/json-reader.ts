/**
 * Typed access to one JSON object of a model folder. Messages name the file, the full key, what was expected and what
 * was found; nothing is ever defaulted behind the caller's back.
 */
import { type ErrorCode, ModelError } from '../errors.ts'
import { describe } from './files.ts'

/** Bounds of an integer, both included. */
export interface Range {
  min?: number
  max?: number
}

export class JsonReader {
  /** File the object came from, for messages. */
  readonly file: string
  /** Keys that lead to this object: `llm_config`; empty at the top. */
  readonly prefix: string
  readonly code: ErrorCode
  readonly #object: Record<string, unknown>

  constructor(file: string, object: Record<string, unknown>, prefix = '', code: ErrorCode = 'BAD_CHECKPOINT') {
    this.file = file
    this.prefix = prefix
    this.code = code
    this.#object = object
  }

  /** Full name of a key, as messages and documentation spell it. */
  path(key: string): string {
    return this.prefix === '' ? key : `${this.prefix}.${key}`
  }

  /** The raw value; `undefined` if the key is absent. */
  raw(key: string): unknown {
    return Object.hasOwn(this.#object, key) ? this.#object[key] : undefined
  }

  keys(): string[] {
    return Object.keys(this.#object)
  }

  /** Present and not null. */
  has(key: string): boolean {
    return (this.raw(key) ?? undefined) !== undefined
  }

  fail(key: string, expected: string, hint = ''): ModelError {
    const value = this.raw(key)
    const found = value === undefined ? 'the key is missing' : `found ${describe(value)}`
    return new ModelError(
      this.code,
      `${this.file}: expected ${this.path(key)} to be ${expected}, ${found}.${hint && ` ${hint}`}`,
    )
  }

  /** A setting this package does not run, refused by name. */
  unsupported(key: string, supported: string): ModelError {
    return new ModelError(
      'UNSUPPORTED_MODEL',
      `${this.file}: ${this.path(key)} is ${describe(this.raw(key))}; this package runs ${supported} only.`,
    )
  }

  integer(key: string, { min = 1, max = Number.MAX_SAFE_INTEGER }: Range = {}): number {
    const value = this.raw(key)
    if (!Number.isSafeInteger(value) || (value as number) < min || (value as number) > max) {
      const range = max === Number.MAX_SAFE_INTEGER ? `of at least ${min}` : `from ${min} to ${max}`
      throw this.fail(key, `an integer ${range}`)
    }
    return value as number
  }

  /** A number above 0, at most `max`. */
  number(key: string, max: number): number {
    const value = this.raw(key)
    if (typeof value !== 'number' || !(value > 0 && value <= max))
      throw this.fail(key, `a number above 0, at most ${max}`)
    return value
  }

  boolean(key: string): boolean {
    const value = this.raw(key)
    if (typeof value !== 'boolean') throw this.fail(key, 'true or false')
    return value
  }

  string(key: string): string {
    const value = this.raw(key)
    if (typeof value !== 'string' || value === '') throw this.fail(key, 'a string')
    return value
  }

  object(key: string): JsonReader {
    const value = this.raw(key)
    if (typeof value !== 'object' || value === null || Array.isArray(value)) throw this.fail(key, 'an object')
    return new JsonReader(this.file, value as Record<string, unknown>, this.path(key), this.code)
  }

  /** Finite positive numbers, exactly `length` of them. */
  numbers(key: string, length: number): number[] {
    const value = this.raw(key)
    const fits = (entry: unknown) => typeof entry === 'number' && Number.isFinite(entry) && entry > 0
    if (!Array.isArray(value) || value.length !== length || !value.every(fits)) {
      throw this.fail(key, `a list of ${length} positive numbers`)
    }
    return value as number[]
  }

  strings(key: string): string[] {
    const value = this.raw(key)
    if (!Array.isArray(value) || value.length === 0 || !value.every((entry) => typeof entry === 'string')) {
      throw this.fail(key, 'a list of strings')
    }
    return value as string[]
  }

  /** A square size: `448` or `[448, 448]`. */
  square(key: string, range: Range): number {
    const value = this.raw(key)
    if (!Array.isArray(value)) return this.integer(key, range)
    const [first] = value
    if (value.length === 0 || value.length > 2 || value.some((side) => side !== first)) {
      throw this.fail(key, 'an integer or a list of two equal integers')
    }
    if (!Number.isSafeInteger(first) || first < (range.min ?? 1) || first > (range.max ?? Number.MAX_SAFE_INTEGER)) {
      throw this.fail(key, `an integer or a list of two equal integers from ${range.min ?? 1} to ${range.max}`)
    }
    return first
  }

  /** One of the strings that are supported; another string is an unsupported model, anything else a broken file. */
  oneOf<T extends string>(key: string, supported: readonly T[]): T {
    const value = this.string(key)
    const match = supported.find((entry) => entry === value)
    if (match === undefined) throw this.unsupported(key, supported.map((entry) => `"${entry}"`).join(', '))
    return match
  }

  /** A setting that may be absent or null, which means off, and must be off. */
  mustBeOff(key: string, meaning: string): void {
    const value = this.raw(key)
    if (value === undefined || value === null || value === false || value === 0) return
    throw new ModelError('UNSUPPORTED_MODEL', `${this.file}: ${this.path(key)} is ${describe(value)}; ${meaning}.`)
  }

  /** `read()` if the key is present and not null. */
  optional<T>(key: string, read: (key: string) => T): T | undefined {
    return this.has(key) ? read(key) : undefined
  }
}

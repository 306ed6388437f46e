// The one reading of what every file of questions, predictions and judgements holds: ids, texts, numbers, and what is absent.

import { badData, type Place } from './json-stream.ts'

/** A JSON value in a few characters, for error messages. */
export function show(value: unknown): string {
  if (value === undefined) return 'nothing'
  const json = JSON.stringify(value)
  return json.length > 80 ? `${json.slice(0, 80)}…` : json
}

/** Whether a field says nothing: left out, or null. */
export function isAbsent(value: unknown): value is undefined | null {
  return value === undefined || value === null
}

/** A value that must be a JSON object. */
export function record(value: unknown, what: string, place: Place): Record<string, unknown> {
  if (isRecord(value)) return value
  throw badData(place, `expected an object for ${what}, found ${show(value)}.`)
}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** A value that must be a string. */
export function text(value: unknown, what: string, place: Place): string {
  if (typeof value === 'string') return value
  throw badData(place, `expected a string for ${what}, found ${show(value)}.`)
}

/** A string that may be absent. */
export function optionalText(value: unknown, what: string, place: Place): string | undefined {
  return isAbsent(value) ? undefined : text(value, what, place)
}

/**
 * An id: a string, or a whole number, which is the string of its digits. So `7` and `"7"` are the same question in every file.
 * Larger numbers than JSON readers agree on are refused, since two of them may be read as one.
 */
export function idOf(value: unknown, place: Place): string {
  if (typeof value === 'string' && value !== '') return value
  if (Number.isSafeInteger(value)) return String(value)
  const expected = typeof value === 'number' ? 'a string or a whole number up to 2^53' : 'a string or a whole number'
  throw badData(place, `expected ${expected} for id, found ${show(value)}.`)
}

/** An answer: a string, or a whole number, which is the string of its digits. Undefined where it is absent. */
export function answerOf(value: unknown, what: string, place: Place): string | undefined {
  if (isAbsent(value) || typeof value === 'string') return value ?? undefined
  if (Number.isSafeInteger(value)) return String(value)
  throw badData(place, `expected a string or a whole number for ${what}, found ${show(value)}.`)
}

/** Tags or a kind: `[0]`, `0` and `"0"` are tags, another string is a kind. Nothing where it is absent. */
export function tagsOf(value: unknown, what: string, place: Place): { tags?: number[]; kind?: string } {
  if (isAbsent(value)) return {}
  if (Number.isSafeInteger(value)) return { tags: [value as number] }
  if (Array.isArray(value) && value.every(Number.isSafeInteger)) return { tags: value }
  if (typeof value === 'string') return /^\d{1,3}$/.test(value) ? { tags: [Number(value)] } : { kind: value }
  throw badData(place, `expected a list of whole numbers for ${what}, found ${show(value)}.`)
}

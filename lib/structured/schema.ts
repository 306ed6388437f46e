/**
 * A subset of JSON Schema as a pattern of JSON text. What the text looks like is fixed, so that only the values are left to the model:
 * properties in the order of the schema, one blank after `:` and `,`, no other white space.
 */

import {
  choice,
  literal,
  oneOf,
  optional,
  type Pattern,
  repeat,
  separated,
  sequence,
} from '../automata/byte-patterns.ts'
import { ModelError } from '../errors.ts'
import { integers, largestInteger, numbers } from './numbers.ts'

/** JSON values, for `enum` and `const`. */
export type JsonValue = null | boolean | number | string | readonly JsonValue[] | { readonly [key: string]: JsonValue }

/**
 * The subset of JSON Schema that answers can be held to. Other keywords are an error, but for those that constrain nothing
 * (`title`, `description`, `default`, `examples`, `$schema`, `$id`, `$comment`).
 */
export interface JsonSchema {
  /** What the value is; one of a list. Needed unless there is `enum`, `const` or `anyOf`. */
  type?: JsonType | readonly JsonType[]
  /** The values there are, in place of `type`. */
  enum?: readonly JsonValue[]
  /** The one value there is, in place of `type`. */
  const?: JsonValue
  /** Schemas of which one holds, in place of `type`. */
  anyOf?: readonly JsonSchema[]
  /** Of an object: its members, written in this order. */
  properties?: Readonly<Record<string, JsonSchema>>
  /** Of an object: members that are written. Those that are not named may be left out. Default: all are written. */
  required?: readonly string[]
  /** Of an object: either value is taken, and answers have no members but `properties`. */
  additionalProperties?: boolean
  /** Of an array: what each of its items is; needed unless `maxItems` is 0. */
  items?: JsonSchema
  /** Of an array; default 0. */
  minItems?: number
  /** Of an array; without it there may be any number. */
  maxItems?: number
  /** Of a string, in characters; default 0. */
  minLength?: number
  /** Of a string, in characters. Without it a string may go on to the end of the answer. */
  maxLength?: number
  /** Least number; a whole one of at most 15 digits. */
  minimum?: number
  /** Greatest number; a whole one of at most 15 digits. */
  maximum?: number
  /** Of an integer: it is above this whole number. */
  exclusiveMinimum?: number
  /** Of an integer: it is below this whole number. */
  exclusiveMaximum?: number
  /** Constrains nothing. */
  title?: string
  /** Constrains nothing, and the model does not see it. */
  description?: string
  /** Constrains nothing. */
  default?: unknown
  /** Constrains nothing. */
  examples?: readonly unknown[]
  /** Constrains nothing. */
  $schema?: string
  /** Constrains nothing. */
  $id?: string
  /** Constrains nothing. */
  $comment?: string
}

/** Names of types that a schema may ask for. */
export type JsonType = 'object' | 'array' | 'string' | 'integer' | 'number' | 'boolean' | 'null'

const maxDepth = 32

const anywhere = [
  'type',
  'enum',
  'const',
  'anyOf',
  'title',
  'description',
  'default',
  'examples',
  '$schema',
  '$id',
  '$comment',
]
const ofType: Readonly<Record<JsonType, readonly string[]>> = {
  object: ['properties', 'required', 'additionalProperties'],
  array: ['items', 'minItems', 'maxItems'],
  string: ['minLength', 'maxLength'],
  integer: ['minimum', 'maximum', 'exclusiveMinimum', 'exclusiveMaximum'],
  number: ['minimum', 'maximum', 'exclusiveMinimum', 'exclusiveMaximum'],
  boolean: [],
  null: [],
}
const types = Object.keys(ofType) as JsonType[]

/** @throws {@link ModelError} `BAD_ARGUMENT` for what is not in the subset, with its place. */
export function schemaPattern(schema: unknown, place: string, depth = 0): Pattern {
  if (depth > maxDepth) throw bad(place, `is nested more than ${maxDepth} deep`)
  const it = objectAt(schema, place)
  const given = typesOf(it, place)
  const allowed = [...anywhere, ...given.flatMap((type) => ofType[type])]
  const unknown = Object.keys(it).find((key) => !allowed.includes(key) && it[key] !== undefined)
  if (unknown !== undefined) {
    const why = given.length === 0 ? '' : ` for type ${given.join(' or ')}`
    throw bad(
      place,
      `has the keyword ${JSON.stringify(unknown.slice(0, 60))}, which is not supported${why}; supported are ${allowed.slice(0, 4).concat(allowed.slice(anywhere.length)).join(', ')}`,
    )
  }
  const fixed = it.const !== undefined ? [it.const] : it.enum
  if (fixed !== undefined) return fixedValues(fixed, it, place)
  if (it.anyOf !== undefined) {
    if (given.length > 0) throw bad(place, 'has both anyOf and type; put the type into the alternatives')
    const options = listAt(it.anyOf, `${place}.anyOf`)
    return choice(...options.map((one, i) => schemaPattern(one, `${place}.anyOf[${i}]`, depth + 1)))
  }
  if (given.length === 0) throw bad(place, 'has none of type, enum, const and anyOf')
  return choice(...given.map((type) => typePattern(type, it, place, depth)))
}

type Schema = Record<string, unknown>

function typePattern(type: JsonType, it: Schema, place: string, depth: number): Pattern {
  switch (type) {
    case 'object':
      return objectPattern(it, place, depth)
    case 'array':
      return arrayPattern(it, place, depth)
    case 'string': {
      const [least, most] = sizes(it, 'minLength', 'maxLength', place)
      return sequence(literal('"'), repeat(stringCharacter, least, most), literal('"'))
    }
    case 'integer': {
      const [low, high] = bounds(it, place, true)
      return integers(low, high)
    }
    case 'number': {
      const [low, high] = bounds(it, place, false)
      return numbers(low, high)
    }
    case 'boolean':
      return choice(literal('true'), literal('false'))
    case 'null':
      return literal('null')
  }
}

const tail = oneOf([0x80, 0xbf])

/** One character of well-formed UTF-8 that needs no escape in JSON, or one of the short escapes. */
const stringCharacter: Pattern = choice(
  oneOf([0x20, 0x21], [0x23, 0x5b], [0x5d, 0x7e]),
  sequence(oneOf([0xc2, 0xdf]), tail),
  sequence(literalByte(0xe0), oneOf([0xa0, 0xbf]), tail),
  sequence(oneOf([0xe1, 0xec], [0xee, 0xef]), tail, tail),
  sequence(literalByte(0xed), oneOf([0x80, 0x9f]), tail),
  sequence(literalByte(0xf0), oneOf([0x90, 0xbf]), tail, tail),
  sequence(oneOf([0xf1, 0xf3]), tail, tail, tail),
  sequence(literalByte(0xf4), oneOf([0x80, 0x8f]), tail, tail),
  sequence(literal('\\'), choice(...[...'"\\/bfnrt'].map(literal))),
)

function literalByte(byte: number): Pattern {
  return oneOf([byte, byte])
}

function arrayPattern(it: Schema, place: string, depth: number): Pattern {
  const [least, most] = sizes(it, 'minItems', 'maxItems', place)
  if (it.items === undefined && most > 0) throw bad(place, 'is an array without items; say what its items are')
  if (most === 0) return literal('[]')
  const item = schemaPattern(it.items, `${place}.items`, depth + 1)
  const list = separated(item, literal(', '), least, most)
  return sequence(literal('['), least === 0 ? optional(list) : list, literal(']'))
}

function objectPattern(it: Schema, place: string, depth: number): Pattern {
  const properties = objectAt(it.properties === undefined ? {} : it.properties, `${place}.properties`)
  const names = Object.keys(properties)
  if (it.additionalProperties !== undefined && typeof it.additionalProperties !== 'boolean') {
    throw bad(place, 'has additionalProperties that are a schema; list them under properties')
  }
  const required = it.required === undefined ? names : listAt(it.required, `${place}.required`, 0)
  const missing = required.find((name) => typeof name !== 'string' || !Object.hasOwn(properties, name))
  if (missing !== undefined) throw bad(place, `requires ${JSON.stringify(missing)}, which is none of its properties`)
  const members = names.map((name) => ({
    must: required.includes(name),
    pattern: sequence(
      literal(`${JSON.stringify(name)}: `),
      schemaPattern(properties[name], `${place}.properties.${name}`, depth + 1),
    ),
  }))
  // Whichever property comes first has no comma before it; a required one is the last that can.
  const options: Pattern[] = []
  let mayBeEmpty = true
  for (let first = 0; first < members.length && mayBeEmpty; first++) {
    const rest = members.slice(first + 1).map(({ must, pattern }) => {
      const member = sequence(literal(', '), pattern)
      return must ? member : optional(member)
    })
    options.push(sequence(members[first]!.pattern, ...rest))
    mayBeEmpty = !members[first]!.must
  }
  if (mayBeEmpty) options.push(literal(''))
  return sequence(literal('{'), choice(...options), literal('}'))
}

function fixedValues(values: unknown, it: Schema, place: string): Pattern {
  const list = listAt(values, `${place}.enum`)
  const others = ['anyOf', ...Object.values(ofType).flat()].find((key) => it[key] !== undefined)
  if (others !== undefined) throw bad(place, `has both fixed values and ${others}; leave ${others} out`)
  return choice(...list.map((value) => literal(jsonText(value, place))))
}

/** JSON in the form answers have: one blank after `:` and `,`. */
function jsonText(value: unknown, place: string, depth = 0): string {
  if (depth > maxDepth) throw bad(place, `has a value that is nested more than ${maxDepth} deep`)
  if (Array.isArray(value)) return `[${value.map((one) => jsonText(one, place, depth + 1)).join(', ')}]`
  if (typeof value === 'object' && value !== null) {
    const members = Object.entries(value).map(
      ([key, one]) => `${JSON.stringify(key)}: ${jsonText(one, place, depth + 1)}`,
    )
    return `{${members.join(', ')}}`
  }
  const plain = value === null || typeof value === 'boolean' || typeof value === 'string' || Number.isFinite(value)
  if (!plain) throw bad(place, `has a value that is not JSON: ${String(value)}`)
  return JSON.stringify(value)
}

function typesOf(it: Schema, place: string): JsonType[] {
  if (it.type === undefined) return []
  const list: unknown[] = Array.isArray(it.type) ? it.type : [it.type]
  const wrong = list.find((type) => !types.includes(type as JsonType))
  if (list.length === 0 || wrong !== undefined) {
    throw bad(place, `has type ${JSON.stringify(wrong)}; expected ${types.join(', ')} or a list of these`)
  }
  return [...new Set(list as JsonType[])].filter((type, _, all) => type !== 'integer' || !all.includes('number'))
}

function sizes(it: Schema, leastKey: string, mostKey: string, place: string): [number, number] {
  const size = (key: string, fallback: number): number => {
    const value = it[key] ?? fallback
    if (value === fallback || (Number.isSafeInteger(value) && (value as number) >= 0)) return value as number
    throw bad(place, `has ${key} ${String(value)}; expected a whole number of at least 0`)
  }
  const least = size(leastKey, 0)
  const most = size(mostKey, Number.POSITIVE_INFINITY)
  if (least > most) throw bad(place, `has ${leastKey} ${least} above ${mostKey} ${most}`)
  // Before anything of that length is built.
  if (Math.max(least, most === Number.POSITIVE_INFINITY ? 0 : most) > 1 << 16) {
    throw bad(place, `has ${most === Number.POSITIVE_INFINITY ? leastKey : mostKey} above ${1 << 16}`)
  }
  return [least, most]
}

function bounds(it: Schema, place: string, whole: boolean): [number, number] {
  const bound = (key: string): number | undefined => {
    const value = it[key]
    if (value === undefined) return undefined
    if (Number.isInteger(value) && Math.abs(value as number) <= largestInteger) return value as number
    throw bad(place, `has ${key} ${String(value)}; expected a whole number of at most 15 digits`)
  }
  const exclusiveLow = bound('exclusiveMinimum')
  const exclusiveHigh = bound('exclusiveMaximum')
  if (!whole && (exclusiveLow !== undefined || exclusiveHigh !== undefined)) {
    throw bad(place, 'has an exclusive bound, which is supported for integers only; use minimum and maximum')
  }
  const low = Math.max(
    bound('minimum') ?? -largestInteger,
    exclusiveLow === undefined ? -largestInteger : exclusiveLow + 1,
  )
  const high = Math.min(
    bound('maximum') ?? largestInteger,
    exclusiveHigh === undefined ? largestInteger : exclusiveHigh - 1,
  )
  if (low > high) throw bad(place, 'has bounds that no number lies between')
  return [low, high]
}

function objectAt(value: unknown, place: string): Schema {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Schema
  throw bad(place, `is ${value === null ? 'null' : Array.isArray(value) ? 'a list' : typeof value}; expected an object`)
}

function listAt(value: unknown, place: string, least = 1): unknown[] {
  if (Array.isArray(value) && value.length >= least) return value
  throw bad(place, least > 0 ? 'must be a list that is not empty' : 'must be a list')
}

function bad(place: string, what: string): ModelError {
  return new ModelError('BAD_ARGUMENT', `${place} ${what}.`)
}

import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { compile, maxStates } from '../../lib/automata/byte-automaton.ts'
import { choice, literal, oneOf, optional, type Pattern, repeat, sequence } from '../../lib/automata/byte-patterns.ts'
import { ModelError } from '../../lib/errors.ts'
import type { NativeAutomaton, NativeModel } from '../../lib/native.ts'
import { type AnswerFormat, AnswerFormats, FormattedText, vocabularyBytes } from '../../lib/structured/answer-format.ts'
import { integers, numbers } from '../../lib/structured/numbers.ts'
import { type JsonSchema, schemaPattern } from '../../lib/structured/schema.ts'
import { loadTokenizer } from '../../lib/text/load-tokenizer.ts'
import { processorSeconds } from './processor-time.js'
import { streetTiny } from './street-tiny.ts'

const fixtures = path.resolve(import.meta.dirname, '../fixtures/tokenizer')
const utf8 = new TextEncoder()

function walk({ transitions }: NativeAutomaton, bytes: Iterable<number>): number {
  let state = 0
  for (const byte of bytes) {
    state = transitions[state * 256 + byte]!
    if (state < 0) break
  }
  return state
}

function accepts(automaton: NativeAutomaton, text: string | Uint8Array): boolean {
  const state = walk(automaton, typeof text === 'string' ? utf8.encode(text) : text)
  return state >= 0 && automaton.accepting[state] === 1
}

const states = ({ accepting }: NativeAutomaton): number => accepting.length

/** Park and Miller's generator: the same cases every time. */
function random(seed: number): (below: number) => number {
  let state = seed
  return (below) => {
    state = (state * 48271) % 2147483647
    return state % below
  }
}

/** A random pattern over a, b, c with the same language as a JavaScript expression. */
function randomPattern(next: (below: number) => number, depth: number): { pattern: Pattern; source: string } {
  const kind = depth === 0 ? next(2) : next(5)
  if (kind === 0) {
    const text = 'abc'[next(3)]!.repeat(next(3))
    return { pattern: literal(text), source: `(?:${text})` }
  }
  if (kind === 1) {
    const [low, high] = next(2) ? [0x61, 0x62] : [0x62, 0x63]
    return { pattern: oneOf([low, high]), source: `[${String.fromCharCode(low)}-${String.fromCharCode(high)}]` }
  }
  const inner = Array.from({ length: 1 + next(3) }, () => randomPattern(next, depth - 1))
  const patterns = inner.map(({ pattern }) => pattern)
  const sources = inner.map(({ source }) => source)
  if (kind === 2) return { pattern: sequence(...patterns), source: `(?:${sources.join('')})` }
  if (kind === 3) return { pattern: choice(...patterns), source: `(?:${sources.join('|')})` }
  const least = next(3)
  const most = next(3) === 0 ? Number.POSITIVE_INFINITY : least + next(3)
  const count = `{${least},${most === Number.POSITIVE_INFINITY ? '' : most}}`
  return { pattern: repeat(patterns[0]!, least, most), source: `(?:${sources[0]}${count})` }
}

describe('automata', () => {
  test('accept what regular expressions of the same language do', () => {
    const next = random(7)
    const words = ['']
    for (let i = 0; words.length < 364; i++) for (const letter of 'abc') words.push(words[i]! + letter)
    let accepted = 0
    for (let round = 0; round < 400; round++) {
      const { pattern, source } = randomPattern(next, 3)
      const automaton = compile(pattern)
      const expression = new RegExp(`^${source}$`)
      for (const word of words) {
        const right = expression.test(word)
        accepted += Number(right)
        if (accepts(automaton, word) !== right) expect.fail(`${source} and ${JSON.stringify(word)}: expected ${right}`)
      }
    }
    expect(accepted).toBeGreaterThan(1000)
  })

  test('are minimal: no two states have the same language', () => {
    const next = random(11)
    for (let round = 0; round < 100; round++) {
      const automaton = compile(randomPattern(next, 3).pattern)
      const count = states(automaton)
      // Moore's way, by hand: split by acceptance, then by where each letter leads, until nothing changes.
      let block = Array.from(automaton.accepting, Number)
      for (let blocks = 0; ; ) {
        const names = new Map<string, number>()
        const key = (state: number) =>
          [block[state], ...[97, 98, 99].map((byte) => block[automaton.transitions[state * 256 + byte]!] ?? -1)].join()
        const refined = block.map((_, state) => {
          const name = key(state)
          if (!names.has(name)) names.set(name, names.size)
          return names.get(name)!
        })
        if (names.size === blocks) break
        blocks = names.size
        block = refined
      }
      expect(new Set(block).size).toBe(count)
    }
  })

  test('lead to an accepting state from everywhere', () => {
    const automaton = compile(schemaPattern({ type: 'array', items: { type: 'string', maxLength: 3 } }, 'schema'))
    const live = new Set(Array.from(automaton.accepting.keys()).filter((state) => automaton.accepting[state]))
    for (let size = -1; size !== live.size; ) {
      size = live.size
      for (let state = 0; state < states(automaton); state++) {
        const row = automaton.transitions.subarray(state * 256, state * 256 + 256)
        if (row.some((to) => live.has(to))) live.add(state)
      }
    }
    expect(live.size).toBe(states(automaton))
  })

  test.each([
    ['a long repetition', repeat(oneOf([97, 98]), 0, maxStates + 1)],
    ['one that would not fit into memory', repeat(repeat(oneOf([97, 98]), 1000, 1000), 1000, 60_000)],
    // The last letter but 20 is an a: 2^20 states.
    [
      'one whose subsets explode',
      sequence(repeat(oneOf([97, 98]), 0, Number.POSITIVE_INFINITY), literal('a'), repeat(oneOf([97, 98]), 20, 20)),
    ],
  ])('that would be too large are refused in time: %s', (_, pattern) => {
    const started = processorSeconds()
    expect(() => compile(pattern)).toThrow(expect.objectContaining({ code: 'BAD_ARGUMENT' }))
    expect(processorSeconds() - started).toBeLessThan(5)
  })
})

describe('numbers', () => {
  test('whole ones are those between the bounds', () => {
    const next = random(3)
    for (let round = 0; round < 60; round++) {
      const low = next(2400) - 1200
      const high = low + next(round % 2 ? 30 : 2000)
      const automaton = compile(integers(low, high))
      for (let value = -1300; value <= 3300; value++) {
        if (accepts(automaton, String(value)) !== (value >= low && value <= high)) {
          expect.fail(`${value} in ${low}..${high}`)
        }
      }
      for (const text of ['', '-', '-0', '007', '+1', '1.0', ' 1']) expect(accepts(automaton, text)).toBe(false)
    }
  })

  test.each([
    [0, 0],
    [0, 999_999_999_999_999],
    [-999_999_999_999_999, 999_999_999_999_999],
    [99, 100],
    [-1, 0],
    [100, 100],
  ])('bounds %d to %d are in, what is beside them is not', (low, high) => {
    const automaton = compile(integers(low, high))
    for (const inside of [low, high]) expect(accepts(automaton, String(inside))).toBe(true)
    for (const outside of [low - 1, high + 1]) expect(accepts(automaton, String(outside))).toBe(false)
  })

  test('with fractions keep to the bounds too', () => {
    const next = random(5)
    for (let round = 0; round < 60; round++) {
      const low = next(60) - 30
      const high = low + next(40)
      const automaton = compile(numbers(low, high))
      for (let hundredths = -3300; hundredths <= 4300; hundredths += 7) {
        const text = (hundredths / 100).toFixed(2)
        const value = Number(text)
        if (accepts(automaton, text) !== (value >= low && value <= high)) {
          // -0.00 is 0, and is left to negative ranges only.
          if (!(value === 0 && text.startsWith('-'))) expect.fail(`${text} in ${low}..${high}`)
        }
      }
      expect(accepts(automaton, String(high))).toBe(true)
      for (const text of ['.5', '5.', '1e3', '-', '--1', '01.5']) expect(accepts(automaton, text)).toBe(false)
    }
  })
})

describe('schemas', () => {
  const cases: [name: string, schema: JsonSchema, yes: string[], no: string[]][] = [
    ['a boolean', { type: 'boolean' }, ['true', 'false'], ['True', '1', '', ' true']],
    ['null or a string', { type: ['null', 'string'], maxLength: 2 }, ['null', '""', '"ab"', '"äö"', '"\\"\\n"', '"🚗🚗"'], ['"abc"', 'nul', '"a', '"\n"', '"\\x"']],
    ['a string of exact length', { type: 'string', minLength: 2, maxLength: 2 }, ['"ab"'], ['"a"', '"abc"', '""']],
    ['fixed values', { enum: ['a"b', 1, null, { k: [1, true] }] }, ['"a\\"b"', '1', 'null', '{"k": [1, true]}'], ['2', '"a"', '{"k":[1,true]}']],
    ['a constant', { const: 'x' }, ['"x"'], ['"y"', 'x']],
    ['a list', { type: 'array', items: { type: 'integer', minimum: 1, maximum: 9 }, minItems: 1, maxItems: 3 }, ['[1]', '[1, 2, 3]'], ['[]', '[1, 2, 3, 4]', '[1,2]', '[0]']],
    ['a list without end', { type: 'array', items: { type: 'null' } }, ['[]', '[null]', '[null, null, null, null]'], ['[null,]', '[', '[null null]']],
    ['an empty list', { type: 'array', maxItems: 0 }, ['[]'], ['[1]']],
    ['an object', { type: 'object', properties: { a: { type: 'integer' }, 'b"': { type: 'boolean' } } }, ['{"a": 1, "b\\"": true}', '{"a": -20, "b\\"": false}'], ['{"a": 1}', '{"b\\"": true, "a": 1}', '{"a":1,"b\\"":true}', '{}']],
    ['an object with properties to leave out', { type: 'object', properties: { a: { const: 1 }, b: { const: 2 }, c: { const: 3 } }, required: ['b'] }, ['{"b": 2}', '{"a": 1, "b": 2}', '{"b": 2, "c": 3}', '{"a": 1, "b": 2, "c": 3}'], ['{}', '{"a": 1}', '{"a": 1, "c": 3}', '{, "b": 2}', '{"a": 1 "b": 2}']],
    ['an object of options only', { type: 'object', properties: { a: { const: 1 }, b: { const: 2 } }, required: [] }, ['{}', '{"a": 1}', '{"b": 2}', '{"a": 1, "b": 2}'], ['{"b": 2, "a": 1}', '{, "b": 2}']],
    ['an empty object', { type: 'object' }, ['{}'], ['{ }']],
    ['alternatives', { anyOf: [{ type: 'integer', minimum: 5 }, { const: 'none' }] }, ['5', '77', '"none"'], ['4', 'none']],
    ['exclusive bounds', { type: 'integer', exclusiveMinimum: 2, exclusiveMaximum: 5 }, ['3', '4'], ['2', '5']],
    ['nested', { type: 'object', title: 'T', properties: { o: { type: 'array', items: { type: 'object', properties: { n: { type: 'number', minimum: 0, maximum: 1 } } }, maxItems: 2 } } }, ['{"o": []}', '{"o": [{"n": 0.25}, {"n": 1}]}', '{"o": [{"n": 1.0}]}'], ['{"o": [{"n": 1.1}]}', '{"o": [{}]}']],
  ] // biome-ignore format: one case a line
  test.each(cases)('%s', (_, schema, yes, no) => {
    const automaton = compile(schemaPattern(schema, 'schema'))
    for (const text of yes) {
      expect(accepts(automaton, text), text).toBe(true)
      JSON.parse(text)
    }
    for (const text of no) expect(accepts(automaton, text), text).toBe(false)
  })

  test('strings hold well-formed UTF-8 only', () => {
    const automaton = compile(schemaPattern({ type: 'string' }, 'schema'))
    const next = random(13)
    const strict = new TextDecoder('utf-8', { fatal: true })
    let sound = 0
    for (let round = 0; round < 20_000; round++) {
      // Mostly bytes beyond ASCII, where the rules are.
      const inner = Array.from({ length: 1 + next(4) }, () => (next(4) ? 0x80 + next(128) : 0x20 + next(95)))
      if (inner.includes(0x22) || inner.includes(0x5c)) continue
      let right = true
      try {
        strict.decode(Uint8Array.from(inner))
      } catch {
        right = false
      }
      sound += Number(right)
      if (accepts(automaton, Uint8Array.from([0x22, ...inner, 0x22])) !== right) expect.fail(inner.join())
    }
    expect(sound).toBeGreaterThan(500)
  })

  const circular: Record<string, unknown> = { type: 'array' }
  circular.items = circular
  test.each<[string, unknown, RegExp]>([
    ['no object', 3, /expected an object/],
    ['nothing', {}, /none of type, enum, const and anyOf/],
    ['a pattern', { type: 'string', pattern: 'a+' }, /"pattern", which is not supported/],
    ['a reference', { $ref: '#' }, /"\$ref"/],
    ['a keyword of another type', { type: 'boolean', maxLength: 3 }, /"maxLength"/],
    ['an unknown type', { type: 'date' }, /type "date"/],
    ['bounds between which nothing lies', { type: 'integer', minimum: 3, maximum: 2 }, /no number lies between/],
    ['a bound that is not whole', { type: 'number', minimum: 0.5 }, /whole number/],
    ['an empty enum', { enum: [] }, /not empty/],
    ['a negative length', { type: 'string', maxLength: -1 }, /maxLength -1/],
    ['lengths the wrong way round', { type: 'string', minLength: 3, maxLength: 2 }, /above maxLength/],
    ['a list of anything', { type: 'array' }, /without items/],
    ['no table of properties', { type: 'object', properties: null }, /properties/],
    ['an unknown requirement', { type: 'object', properties: {}, required: ['a'] }, /requires "a"/],
    [
      'a place deep inside',
      { type: 'object', properties: { a: { type: 'array', items: { type: 'x' } } } },
      /^answerFormat\.schema\.properties\.a\.items /,
    ],
    ['one without end', circular, /nested more than 32 deep/],
  ])('%s is refused with its place', (_, schema, message) => {
    const refused = () => schemaPattern(schema, 'answerFormat.schema')
    expect(refused).toThrow(ModelError)
    expect(refused).toThrow(message)
  })
})

/** Formats with a model that only takes note of the vocabulary. */
async function formatsOf(dir: string) {
  const tokenizer = await loadTokenizer(dir)
  const vocabularies: { bytes: Uint8Array; offsets: Uint32Array }[] = []
  const native = {
    setVocabulary: (bytes: Uint8Array, offsets: Uint32Array) => vocabularies.push({ bytes, offsets }),
  } as unknown as NativeModel
  return { tokenizer, vocabularies, formats: new AnswerFormats(native, tokenizer) }
}

describe('formats', () => {
  test.each<[string, unknown]>([
    ['a string', 'yes'],
    ['a list', ['yes']],
    ['both', { enum: ['a'], schema: {} }],
    ['neither', {}],
    ['no choices', { enum: [] }],
    ['an empty choice', { enum: ['a', ''] }],
    ['a choice with a blank at its end', { enum: ['a '] }],
    ['half a character', { enum: ['\ud800'] }],
    ['a number', { enum: [1] }],
  ])('%s is refused', async (_, format) => {
    const { formats } = await formatsOf(streetTiny)
    expect(() => formats.compile(format as AnswerFormat)).toThrow(expect.objectContaining({ code: 'BAD_ARGUMENT' }))
  })

  test('a schema that is no plain JSON is refused', async () => {
    const { formats } = await formatsOf(streetTiny)
    const circular: Record<string, unknown> = { type: 'array' }
    circular.items = circular
    for (const schema of [circular, { const: 1n }]) {
      expect(() => formats.compile({ schema } as unknown as AnswerFormat)).toThrow(/not plain JSON/)
    }
  })

  test('are compiled once, and the vocabulary is set once', async () => {
    const { formats, vocabularies } = await formatsOf(streetTiny)
    const first = formats.compile({ enum: ['yes', 'no'] })
    expect(formats.compile({ enum: ['yes', 'no'] })).toBe(first)
    for (let i = 0; i < 40; i++) formats.compile({ enum: [`a${i}`] })
    expect(formats.compile({ enum: ['yes', 'no'] })).not.toBe(first)
    expect(vocabularies.length).toBe(1)
  })

  test('a long string and a list of objects compile fast enough for an event loop', async () => {
    const { formats } = await formatsOf(streetTiny)
    const objects = {
      type: 'array',
      maxItems: 6,
      items: {
        type: 'object',
        properties: { label: { type: 'string', maxLength: 24 }, x: { type: 'integer', minimum: 0, maximum: 1600 } },
      },
    } satisfies JsonSchema
    const started = processorSeconds()
    const { automaton } = formats.compile({
      schema: { type: 'object', properties: { note: { type: 'string', maxLength: 200 }, objects } },
    })
    expect(processorSeconds() - started).toBeLessThan(2)
    expect(states(automaton)).toBeGreaterThan(1000)
  })
})

describe('the bytes of tokens', () => {
  const texts = [
    'Yes, a red car is 12.5 m ahead.',
    'naïve Straße 你好 🚗 ok',
    '{"a": [1, 2], "b": "x"}',
    '  two  blanks',
  ]

  test.each(['a1-qwen2', 'b1-internlm2', 'c1-phi3', 'e1-qwen3', '../../../models/street-tiny'])(
    'of %s are those of the text they encode',
    async (folder) => {
      const tokenizer = await loadTokenizer(path.join(fixtures, folder))
      for (const text of texts) {
        const ids = tokenizer.encode(text, { addBos: false })
        const joined = Buffer.concat(ids.map((id) => tokenizer.bytesOf(id))).toString()
        // Llama's rule puts a blank before a text.
        expect(joined).toBe(tokenizer.rules === 'llama' ? ` ${text}` : text)
      }
      for (const id of [...tokenizer.addedIds, ...tokenizer.specialIds]) expect(tokenizer.bytesOf(id).length).toBe(0)
      expect(tokenizer.bytesOf(tokenizer.size + 5).length).toBe(0)
      const { bytes, offsets } = vocabularyBytes(tokenizer)
      expect(offsets.length).toBe(tokenizer.size + 1)
      expect(offsets.at(-1)).toBe(bytes.length)
      // Every byte can be written by itself, so no format runs into a dead end.
      const single = new Set<number>()
      for (let id = 0; id < tokenizer.size; id++) {
        const own = tokenizer.bytesOf(id)
        if (own.length === 1) single.add(own[0]!)
      }
      expect(single.size).toBe(256)
    },
  )

  test('an answer may begin with a blank of SentencePiece, which is not part of it', async () => {
    const byteLevel = await formatsOf(path.join(fixtures, 'a1-qwen2'))
    const pieces = await formatsOf(path.join(fixtures, 'c1-phi3'))
    const format: AnswerFormat = { enum: ['Yes', 'No'] }
    expect(accepts(byteLevel.formats.compile(format).automaton, ' Yes')).toBe(false)
    const { automaton } = pieces.formats.compile(format)
    for (const text of [' Yes', 'Yes', 'No']) expect(accepts(automaton, text)).toBe(true)
    expect(accepts(automaton, '  Yes')).toBe(false)
    for (const text of ['Yes', ' Yes']) {
      const ids = pieces.tokenizer.encode([{ text, trusted: false }], { after: '<|assistant|>' })
      const reader = new FormattedText(pieces.tokenizer)
      expect(ids.map((id) => reader.push([id])).join('') + reader.finish()).toBe('Yes')
    }
  })

  test('text comes in whole characters, whatever the tokens are', async () => {
    const { tokenizer } = await formatsOf(path.join(fixtures, 'b1-internlm2'))
    const text = 'a . b 你好 🚗' // the reference's own decoding would remove the blank before the dot
    const reader = new FormattedText(tokenizer)
    const parts = tokenizer.encode(text, { addBos: false }).map((id) => reader.push([id]))
    expect(parts.join('') + reader.finish()).toBe(text)
    expect(parts.join('')).not.toContain('\ufffd')
  })

  test('a repetition of nothing and an empty choice are harmless', () => {
    expect(accepts(compile(repeat(optional(literal('a')), 0, Number.POSITIVE_INFINITY)), 'aaa')).toBe(true)
    expect(accepts(compile(literal('')), '')).toBe(true)
  })
})

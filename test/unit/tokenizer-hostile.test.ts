/** A tokenizer.json that means harm: whatever it holds, loading and encoding end, stay small, and fail by name if they fail. */
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { ModelError } from '../../lib/errors.ts'
import { loadTokenizer } from '../../lib/text/load-tokenizer.ts'
import { fixtures, folder, json } from './tokenizer-shared.ts'

vi.setConfig({ testTimeout: 120_000 })

const base = json(fixtures, 'tokenizer', 'd1-qwen25', 'tokenizer.json')
const config = json(fixtures, 'tokenizer', 'd1-qwen25', 'tokenizer_config.json')
const byteLevel = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: false, use_regex: false }
const texts = [
  '',
  'Hello  wörld 123',
  '車é🚗é'.repeat(8),
  '<|im_start|>user\n ab\u0338<|im_end|>',
  `\u1100\u1161 \ufb01 ${'a'.repeat(60)}`,
]

type Json = Record<string, unknown>

/** Loads and uses a tokenizer; the message of what it refused. */
async function use(change: Json): Promise<string | undefined> {
  try {
    const tokenizer = await loadTokenizer(
      folder({ 'tokenizer.json': { ...base, ...change }, 'tokenizer_config.json': config }),
    )
    for (const text of texts) {
      const ids = tokenizer.encode([
        { text, trusted: true },
        { text, trusted: false },
      ])
      expect(ids.every((id) => Number.isInteger(id) && id >= 0 && id < tokenizer.size)).toBe(true)
      expect(ids.length).toBeLessThan(20_000 + 300 * text.length)
      expect(tokenizer.decode(ids).length).toBeLessThan(1_000_000)
      tokenizer.addedTokensIn(text)
    }
    return undefined
  } catch (error) {
    if (!(error instanceof ModelError)) throw error
    expect(error.code).toBe('BAD_TOKENIZER')
    return error.message
  }
}

describe('hostile tokenizer.json', () => {
  const printed = (['log', 'warn', 'error', 'info', 'debug'] as const).map((name) => [name, console[name]] as const)
  beforeEach(() => {
    for (const [name] of printed) vi.spyOn(console, name)
  })
  afterEach(() => {
    for (const [name] of printed) expect(console[name]).not.toHaveBeenCalled()
    vi.restoreAllMocks()
  })

  const sequence = (...pretokenizers: unknown[]): Json => ({ pre_tokenizer: { type: 'Sequence', pretokenizers } })
  const nested = (depth: number): unknown =>
    depth === 0 ? byteLevel : { type: 'Sequence', pretokenizers: [nested(depth - 1)] }

  test.each<[string, Json, RegExp]>([
    ['bytes of bytes', sequence(...Array(8).fill(byteLevel)), /ByteLevel/],
    ['bytes before another step', sequence(byteLevel, { type: 'Digits', individual_digits: true }), /ByteLevel/],
    [
      'marks of marks',
      sequence(...['a', 'b'].map((replacement) => ({ type: 'Metaspace', replacement })), byteLevel),
      /Metaspace/,
    ],
    [
      'a behavior that is a number',
      sequence({ type: 'Split', pattern: { Regex: 'a' }, behavior: 5, invert: false }),
      /behavior/,
    ],
    [
      'a behavior that is an object',
      sequence({ type: 'Split', pattern: { Regex: 'a' }, behavior: {}, invert: false }),
      /behavior/,
    ],
    ['no pattern', sequence({ type: 'Split', behavior: 'Isolated', invert: false }), /pattern/],
    [
      'a pattern of an unknown kind',
      sequence({ type: 'Split', pattern: { Glob: '*' }, behavior: 'Isolated', invert: false }),
      /pattern/,
    ],
    [
      'a pattern that is none',
      sequence({ type: 'Split', pattern: { Regex: '(' }, behavior: 'Isolated', invert: false }),
      /pattern/,
    ],
    [
      'a step that the reference lacks',
      sequence({ type: 'Replace', pattern: { String: 'a' }, content: 'aa' }),
      /Replace/,
    ],
    ['steps in steps', { pre_tokenizer: nested(300) }, /Sequence within/],
    ['too many steps', sequence(...Array(100).fill({ type: 'Digits', individual_digits: true })), /100 steps/],
    [
      'one letter becomes many, again and again',
      {
        normalizer: {
          type: 'Sequence',
          normalizers: Array(20).fill({ type: 'Replace', pattern: { String: 'a' }, content: 'aa' }),
        },
      },
      /32 times/,
    ],
    [
      'a long text for each letter',
      { normalizer: { type: 'Replace', pattern: { Regex: '.' }, content: 'x'.repeat(1e6) } },
      /64 characters/,
    ],
    ['a long text before each', { normalizer: { type: 'Prepend', prepend: 'x'.repeat(1e6) } }, /64 characters/],
    [
      'a normaliser that the library has and the reference of this family does not',
      { normalizer: { type: 'Precompiled', precompiled_charsmap: 'AA==' } },
      /Precompiled/,
    ],
    [
      'decoding that doubles',
      {
        decoder: {
          type: 'Sequence',
          decoders: Array(60).fill({ type: 'Replace', pattern: { String: 'a' }, content: 'aa' }),
        },
      },
      /twice/,
    ],
    [
      'a decoder that makes a book of a letter',
      { decoder: { type: 'Replace', pattern: { String: 'a' }, content: 'a'.repeat(1e6) } },
      /not supported/,
    ],
    [
      'many tokens around a text',
      {
        post_processor: {
          type: 'TemplateProcessing',
          single: [{ SpecialToken: { id: 'x' } }, { Sequence: { id: 'A' } }],
          special_tokens: { x: { ids: Array(1e5).fill(1) } },
        },
      },
      /16 tokens/,
    ],
    [
      'an added token as long as a book',
      { added_tokens: [...base.added_tokens, { id: 5000, content: 'a'.repeat(1e6), special: false }] },
      /1024 characters/,
    ],
    [
      'a token as long as a book',
      { model: { ...base.model, vocab: { ...base.model.vocab, ['a'.repeat(1e6)]: 5000 } } },
      /4096/,
    ],
  ])('%s is refused by name', async (_, change, message) => {
    expect(await use(change)).toMatch(message)
  })

  test('a pattern that takes for ever is ended', async () => {
    const step = { type: 'Split', pattern: { Regex: '(a+)+$' }, behavior: 'Isolated', invert: false }
    const dir = folder({ 'tokenizer.json': { ...base, ...sequence(step, byteLevel) }, 'tokenizer_config.json': config })
    const tokenizer = await loadTokenizer(dir)
    expect(tokenizer.encode('aab')).toEqual(
      (await loadTokenizer(join(fixtures, 'tokenizer', 'd1-qwen25'))).encode('aab'),
    )
    const hostile = `${'a'.repeat(200)}b`
    const bad = expect.objectContaining({ code: 'BAD_TOKENIZER', message: expect.stringContaining('took more than') })
    expect(() => tokenizer.encode(hostile)).toThrowError(bad)
    // It goes on being one.
    expect(tokenizer.encode('aab').length).toBeGreaterThan(0)
  })

  test('random changes: named errors or small results', async () => {
    let state = 20261129
    const random = (): number => {
      state = (state + 0x6d2b79f5) | 0
      let t = Math.imul(state ^ (state >>> 15), 1 | state)
      t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
      return ((t ^ (t >>> 14)) >>> 0) / 4294967296
    }
    const pick = <T>(list: readonly T[]): T => list[Math.floor(random() * list.length)]!
    const odd = (): unknown =>
      pick([
        null,
        true,
        false,
        0,
        -1,
        1.5,
        1e9,
        '',
        'a',
        'x'.repeat(100),
        [],
        {},
        ['a'],
        { String: 'a' },
        { Regex: '\\s+' },
        { Regex: '[' },
        { Regex: '' },
        'Isolated',
        'first',
        'never',
        '\u2581',
        ' ',
      ])
    const types = [
      'Sequence',
      'Split',
      'ByteLevel',
      'Metaspace',
      'Digits',
      'Punctuation',
      'Whitespace',
      'WhitespaceSplit',
      'BertPreTokenizer',
      'FixedLength',
      'Replace',
      'NFC',
      'NFKD',
      'Lowercase',
      'Strip',
      'StripAccents',
      'Prepend',
      'Precompiled',
      'BertNormalizer',
      'Fuse',
      'ByteFallback',
      'TemplateProcessing',
      'constructor',
      '__proto__',
      5,
      null,
    ]
    const keys = [
      'pattern',
      'behavior',
      'invert',
      'content',
      'prepend',
      'replacement',
      'prepend_scheme',
      'split',
      'individual_digits',
      'strip_left',
      'strip_right',
      'use_regex',
      'add_prefix_space',
      'trim_offsets',
      'normalizers',
      'pretokenizers',
      'decoders',
      'processors',
      'single',
      'special_tokens',
      'start',
      'stop',
      'length',
    ]
    const good: Json = {
      pattern: { String: 'a' },
      behavior: 'Isolated',
      invert: false,
      content: 'b',
      prepend: '\u2581',
      replacement: '\u2581',
      individual_digits: true,
      strip_left: true,
      strip_right: false,
      trim_offsets: false,
    }
    const step = (depth: number): unknown => {
      const out: Json = { type: pick(types), ...(random() < 0.7 ? good : {}) }
      for (let i = Math.floor(random() * 3); i > 0; i--) out[pick(keys)] = odd()
      for (const list of ['normalizers', 'pretokenizers', 'decoders', 'processors']) {
        if (depth > 0)
          out[list] = Array.from({ length: Math.floor(random() * 5) }, () => (random() < 0.1 ? odd() : step(depth - 1)))
      }
      return out
    }
    const seen = { refused: 0, used: 0 }
    for (let i = 0; i < 600; i++) {
      const change: Json = {}
      for (const key of ['normalizer', 'pre_tokenizer', 'decoder', 'post_processor']) {
        if (random() < 0.4) change[key] = random() < 0.1 ? odd() : step(2)
      }
      if (random() < 0.2)
        change.model = {
          ...base.model,
          [pick(['type', 'vocab', 'merges', 'unk_token', 'byte_fallback', 'fuse_unk', 'ignore_merges', 'dropout'])]:
            odd(),
        }
      if (random() < 0.2)
        change.added_tokens = [
          ...base.added_tokens,
          {
            id: pick([600, 601, -1, 1e9]),
            content: pick(['a', 'ab', '', 'Hello', '<x>']),
            [pick(['lstrip', 'rstrip', 'single_word', 'normalized', 'special'])]: odd(),
          },
        ]
      const message = await use(change)
      seen[message === undefined ? 'used' : 'refused']++
    }
    // Both ways were tried.
    expect(Math.min(seen.refused, seen.used)).toBeGreaterThan(50)
  })
})

import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test, vi } from 'vitest'
import { ModelError } from '../../lib/errors.ts'
import { loadTokenizer } from '../../lib/text/load-tokenizer.ts'
import type { Tokenizer } from '../../lib/text/tokenizer.ts'
import { fixtures, folder, json } from './tokenizer-shared.ts'

// Two shared cores may be slow; a hang is still found.
vi.setConfig({ testTimeout: 120_000 })

const dir = join(fixtures, 'tokenizer')
const names = readdirSync(dir)
const sideFiles = [
  'vocab.json',
  'merges.txt',
  'tokenizer.json',
  'tokenizer.model',
  'added_tokens.json',
  'tokenizer_config.json',
  'special_tokens_map.json',
]

/** Files of a fixture, changed: undefined removes one. */
function changed(name: string, changes: Record<string, string | Uint8Array | object | undefined>): string {
  const files: Record<string, string | Uint8Array | object> = {}
  const present = readdirSync(join(dir, name))
  for (const file of sideFiles) if (present.includes(file)) files[file] = readFileSync(join(dir, name, file))
  for (const [file, content] of Object.entries(changes)) {
    if (content === undefined) delete files[file]
    else files[file] = content
  }
  return folder(files)
}

async function failure(path: string): Promise<string> {
  const error = await loadTokenizer(path).then(
    () => undefined,
    (reason: unknown) => reason,
  )
  expect(error).toBeInstanceOf(ModelError)
  expect((error as ModelError).code).toBe('BAD_TOKENIZER')
  return (error as ModelError).message
}

describe('reference ids and texts', () => {
  test.each(names)('%s', async (name) => {
    const golden = json(dir, name, 'golden.json')
    const tokenizer = await loadTokenizer(join(dir, name))
    expect(tokenizer.size).toBe(golden.vocab_tokens)
    for (const [id, entry] of Object.entries<Record<string, string & number[]>>(golden.cases)) {
      expect(tokenizer.encode(entry.prompt!), id).toEqual(entry.input_ids)
      expect(tokenizer.decode(entry.token_ids!), id).toBe(entry.decoded_with_special)
      expect(tokenizer.decode(entry.token_ids!, { skipSpecial: true }), id).toBe(entry.decoded_skip_special)
    }
  })

  test('tokenizer.json and vocab.json + merges.txt give the same ids', async () => {
    const both = await loadTokenizer(join(dir, 'd1-qwen25'))
    const pair = await loadTokenizer(changed('d1-qwen25', { 'tokenizer.json': undefined }))
    expect([both.rules, pair.rules]).toEqual(['tokenizer.json', 'qwen2'])
    const texts = [
      'Hello  wörld\n\n 123',
      '<|im_start|>user\nhi<|im_end|>',
      'e\u0301 # ## ###',
      '\u0085\ufeff\u00a0 x',
      '\ud83d\ude97',
    ]
    for (const text of texts) expect(both.encode(text)).toEqual(pair.encode(text))
  })
})

describe('rules', () => {
  const load = (name: string): Promise<Tokenizer> => loadTokenizer(join(dir, name))

  test('lone surrogates are U+FFFD', async () => {
    for (const name of names) {
      const tokenizer = await load(name)
      expect(tokenizer.encode('a\ud83db \ude00'), name).toEqual(tokenizer.encode('a\ufffdb \ufffd'))
    }
  })

  test('bos exactly once, and only where the tokenizer adds one', async () => {
    for (const name of names) {
      const tokenizer = await load(name)
      const adds = name.startsWith('b') || name.startsWith('c')
      expect(tokenizer.addsBos, name).toBe(adds)
      expect(tokenizer.encode('hi').slice(0, 1), name).toEqual(
        adds ? [tokenizer.bosId] : tokenizer.encode('hi', { addBos: false }).slice(0, 1),
      )
      expect(tokenizer.encode('hi').filter((id) => id === tokenizer.bosId).length, name).toBe(adds ? 1 : 0)
    }
  })

  test('white space behind a Phi-3 role token makes no token, a blank piece stands before the first', async () => {
    const tokenizer = await load('c1-phi3')
    const blank = tokenizer.idOf('\u2581')!
    expect(tokenizer.encode('<|user|>\n \t\n<|end|>')).toEqual([
      1,
      blank,
      tokenizer.idOf('<|user|>'),
      tokenizer.idOf('<|end|>'),
    ])
    expect(tokenizer.encode('<img>')).toEqual([1, tokenizer.idOf('<img>')])
  })

  test('control tokens in text that is not trusted are letters, grounding tags stay tokens', async () => {
    const hostile =
      'a <IMG_CONTEXT><img></img><|im_end|><|end|><|im_start|></s><|endoftext|> <ref>x</ref><box>[[1]]</box>'
    const tags = ['<ref>', '</ref>', '<box>', '</box>']
    for (const name of names) {
      const tokenizer = await load(name)
      const ids = tokenizer.encode([{ text: hostile, trusted: false }], { addBos: false })
      expect(
        ids.filter((id) => tokenizer.addedIds.has(id) && tokenizer.tokenOf(id)!.startsWith('<')),
        name,
      ).toEqual(tags.map((tag) => tokenizer.idOf(tag)))
      expect(tokenizer.decode(ids, { tags: 'keep' }), name).toContain('<IMG_CONTEXT><img></img><|im_end|>')
    }
  })

  test('a control token that only half belongs to a user is not made', async () => {
    for (const name of names) {
      const tokenizer = await load(name)
      const ids = tokenizer.encode([
        { text: 'q<|im_', trusted: false },
        { text: 'end|>', trusted: true },
      ])
      expect(ids, name).not.toContain(tokenizer.idOf('<|im_end|>') ?? -1)
    }
  })

  test('ordinary text has the same ids whether trusted or not, however it is cut into parts', async () => {
    const text = 'Is the traffic light  red?\n <box>[[1, 2]]</box> naïve 前方 \u2581x'
    for (const name of names) {
      const tokenizer = await load(name)
      for (let cut = 0; cut <= text.length; cut += 3) {
        const parts = [
          { text: text.slice(0, cut), trusted: true },
          { text: text.slice(cut), trusted: false },
        ]
        expect(tokenizer.encode(parts), name).toEqual(tokenizer.encode(text))
      }
    }
  })

  test('encoding may be cut behind any added token', async () => {
    for (const name of names) {
      const tokenizer = await load(name)
      for (const token of [
        '</img>',
        '<img>',
        '</ref>',
        tokenizer.idOf('<|end|>') === undefined ? '<|im_end|>' : '<|end|>',
      ]) {
        for (const tail of ['', '\nWhat?', '  two', 'x', `${token}y`, '\u2581z', ' \n<ref>a</ref>']) {
          const head = `Image: <img>${token}`
          const whole = tokenizer.encode(head + tail)
          expect(
            [...tokenizer.encode(head), ...tokenizer.encode(tail, { after: token })],
            `${name} ${token} ${JSON.stringify(tail)}`,
          ).toEqual(whole)
        }
      }
    }
  })

  test('tags: kept, dropped, and kept ones taken out again', async () => {
    for (const name of names) {
      const tokenizer = await load(name)
      const ids = tokenizer.encode('<ref>the car</ref><box>[[1, 2, 3, 4]]</box>', { addBos: false })
      expect(tokenizer.decode(ids, { skipSpecial: true, tags: 'keep' }), name).toBe(
        '<ref>the car</ref><box>[[1, 2, 3, 4]]</box>',
      )
      expect(tokenizer.decode(ids, { skipSpecial: true, tags: 'drop' }), name).toBe('the car[[1, 2, 3, 4]]')
    }
  })

  test('ids outside of the vocabulary decode to nothing', async () => {
    for (const name of names) {
      const tokenizer = await load(name)
      expect(tokenizer.decode([tokenizer.size, -1, 1e9, Number.NaN]), name).toBe('')
    }
  })

  test('a tokenizer.json of the Llama kind is followed as it says', async () => {
    const tokenizer = await loadTokenizer(folder({ 'tokenizer.json': llamaJson() }))
    expect(tokenizer.encode('a b').map((id) => tokenizer.tokenOf(id))).toEqual(['<s>', '\u2581a', '\u2581', 'b'])
    expect(tokenizer.encode('<|end|> a').map((id) => tokenizer.tokenOf(id))).toEqual(['<s>', '<|end|>', '\u2581a'])
    expect(tokenizer.encode('é', { addBos: false }).map((id) => tokenizer.tokenOf(id))).toEqual([
      '\u2581',
      '<0xC3>',
      '<0xA9>',
    ])
    expect(tokenizer.decode(tokenizer.encode('a é b'), { skipSpecial: true })).toBe('a é b')
    const [first, second] = [tokenizer.idOf('<0xC3>')!, tokenizer.idOf('b')!]
    expect(tokenizer.decode([first, second, first, first])).toBe('\ufffdb\ufffd\ufffd')
  })
})

describe('which rules', () => {
  test('tokenizer.model counts before tokenizer.json for the slow classes, unless the caller says otherwise', async () => {
    const both = changed('c1-phi3', {
      'tokenizer.json': llamaJson(),
      'tokenizer_config.json': { tokenizer_class: 'LlamaTokenizer', legacy: false },
      'added_tokens.json': undefined,
      'special_tokens_map.json': undefined,
    })
    expect((await loadTokenizer(both)).rules).toBe('llama')
    expect((await loadTokenizer(both, { rules: 'tokenizer.json' })).rules).toBe('tokenizer.json')
  })

  test.each([
    ['b1-internlm2', 'internlm2'],
    ['c1-phi3', 'llama'],
  ])('%s without its config, or with a class of another name', async (name, rules) => {
    const original = json(dir, name, 'tokenizer_config.json')
    for (const config of [
      { ...original, tokenizer_class: undefined },
      { ...original, tokenizer_class: 'SomeTokenizer' },
    ]) {
      const tokenizer = await loadTokenizer(changed(name, { 'tokenizer_config.json': config }))
      expect(tokenizer.rules).toBe(rules)
      const { prompt, input_ids } = json(dir, name, 'golden.json').cases.c1
      expect(tokenizer.encode(prompt)).toEqual(input_ids)
    }
  })

  test('the slow tokenizer skips what the config lists, the compiled one what is flagged', async () => {
    const config = json(dir, 'd1-qwen25', 'tokenizer_config.json')
    const listed = { ...config, additional_special_tokens: ['<|im_start|>', '<|im_end|>'] }
    const text = '<ref>car</ref><|im_end|>'
    const slow = await loadTokenizer(changed('d1-qwen25', { 'tokenizer_config.json': listed }))
    expect(slow.decode(slow.encode(text), { skipSpecial: true })).toBe('<ref>car</ref>')
    for (const fast of [
      { ...listed, processor_class: 'InternVLProcessor' },
      { ...listed, tokenizer_class: 'Qwen2TokenizerFast' },
    ]) {
      const tokenizer = await loadTokenizer(changed('d1-qwen25', { 'tokenizer_config.json': fast }))
      expect(tokenizer.decode(tokenizer.encode(text), { skipSpecial: true })).toBe('car')
    }
    const alone = await loadTokenizer(
      changed('d1-qwen25', { 'tokenizer_config.json': listed, 'vocab.json': undefined, 'merges.txt': undefined }),
    )
    expect(alone.decode(alone.encode(text), { skipSpecial: true })).toBe('car')
  })

  test('legacy Llama rules give every stretch its blank', async () => {
    const config = { ...json(dir, 'c1-phi3', 'tokenizer_config.json'), legacy: true }
    const tokenizer = await loadTokenizer(changed('c1-phi3', { 'tokenizer_config.json': config }))
    const tokens = tokenizer.encode('a<img>a').map((id) => tokenizer.tokenOf(id))
    expect(tokens).toEqual(['<s>', '\u2581a', '<img>', '\u2581a'])
  })
})

/** A tiny vocabulary in the form of DA-4B's tokenizer.json. */
function llamaJson(): object {
  const vocab: Record<string, number> = { '<unk>': 0, '<s>': 1, '</s>': 2 }
  for (let byte = 0; byte < 256; byte++) vocab[`<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`] = byte + 3
  for (const piece of ['\u2581', 'a', 'b', '\u2581a']) vocab[piece] = Object.keys(vocab).length
  const flags = { single_word: false, lstrip: false, normalized: false, special: true }
  return {
    version: '1.0',
    added_tokens: [
      { id: 0, content: '<unk>', rstrip: false, ...flags },
      { id: 1, content: '<s>', rstrip: false, ...flags },
      { id: 263, content: '<|end|>', rstrip: true, ...flags },
    ],
    normalizer: {
      type: 'Sequence',
      normalizers: [
        { type: 'Prepend', prepend: '\u2581' },
        { type: 'Replace', pattern: { String: ' ' }, content: '\u2581' },
      ],
    },
    pre_tokenizer: null,
    post_processor: {
      type: 'TemplateProcessing',
      single: [{ SpecialToken: { id: '<s>', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
      pair: [],
      special_tokens: { '<s>': { id: '<s>', ids: [1], tokens: ['<s>'] } },
    },
    decoder: {
      type: 'Sequence',
      decoders: [
        { type: 'Replace', pattern: { String: '\u2581' }, content: ' ' },
        { type: 'ByteFallback' },
        { type: 'Fuse' },
        { type: 'Strip', content: ' ', start: 1, stop: 0 },
      ],
    },
    model: { type: 'BPE', unk_token: '<unk>', fuse_unk: true, byte_fallback: true, vocab, merges: ['\u2581 a'] },
  }
}

describe('broken folders', () => {
  const added = (name: string): Record<string, number> => json(dir, name, 'added_tokens.json')

  test('nothing there, or half of a pair', async () => {
    expect(await failure(folder({}))).toMatch(/no tokenizer found/)
    expect(await failure(changed('a1-qwen2', { 'merges.txt': undefined }))).toMatch(/merges\.txt/)
    expect(await failure(changed('a1-qwen2', { 'vocab.json': undefined }))).toMatch(/vocab\.json/)
    expect(await failure(changed('b1-internlm2', { 'tokenizer.model': undefined }))).toMatch(/tokenizer\.model/)
    expect(await failure('/nowhere/at/all')).toMatch(/no tokenizer found/)
  })

  test.each([
    ['vocab.json', '{"a": 1,'],
    ['vocab.json', '[]'],
    ['vocab.json', '{}'],
    ['vocab.json', '{"a": -1}'],
    ['vocab.json', '{"a": 1e300}'],
    ['vocab.json', '{"a": "1"}'],
    ['vocab.json', '{"a": 0, "b": 0}'],
    ['merges.txt', '#version: 0.2\na b c\n'],
    ['merges.txt', '#version: 0.2\nzzzz yyyy\n'],
    ['added_tokens.json', '{"<img>": null}'],
    ['added_tokens.json', '"text"'],
    ['tokenizer_config.json', '{"added_tokens_decoder": []}'],
    ['tokenizer_config.json', '{"added_tokens_decoder": {"x": {"content": "a"}}}'],
    ['tokenizer_config.json', '{"added_tokens_decoder": {"1": null}}'],
    ['tokenizer_config.json', '{"tokenizer_class": 7}'],
    ['special_tokens_map.json', '{"bos_token": 5}'],
    ['special_tokens_map.json', '\u0000'],
  ])('%s: %s', async (file, content) => {
    const config = file === 'special_tokens_map.json' ? { 'tokenizer_config.json': '{}' } : {}
    expect(await failure(changed('a1-qwen2', { ...config, [file]: content }))).toContain(file)
  })

  test('a vocabulary without all bytes', async () => {
    const vocab = json(dir, 'a1-qwen2', 'vocab.json')
    const rest = Object.fromEntries(Object.entries(vocab).filter(([token]) => token !== 'Ġ'))
    expect(await failure(changed('a1-qwen2', { 'vocab.json': rest, 'merges.txt': '' }))).toMatch(/byte 32/)
  })

  test.each(['a1-qwen2', 'b1-internlm2', 'c1-phi3', 'd1-qwen25'])('%s: one id, two contents', async (name) => {
    const table = added(name)
    const message = await failure(
      changed(name, { 'added_tokens.json': { ...table, '<img>': undefined, '<other>': table['<img>'] } }),
    )
    expect(message).toMatch(/added_tokens\.json/)
    expect(message).toMatch(name === 'd1-qwen25' ? /tokenizer\.json/ : /tokenizer_config\.json/)
  })

  test.each(['a1-qwen2', 'b1-internlm2', 'c1-phi3', 'd1-qwen25'])('%s: one content, two ids', async (name) => {
    const table = added(name)
    const message = await failure(changed(name, { 'added_tokens.json': { ...table, '<img>': table['<img>']! + 1000 } }))
    expect(message).toMatch(/"<img>" has id/)
    expect(message).toMatch(/added_tokens\.json/)
  })

  test('an added token at odds with the vocabulary', async () => {
    const message = await failure(changed('a1-qwen2', { 'added_tokens.json': { '<other>': 5 } }))
    expect(message).toMatch(/added_tokens\.json/)
    expect(message).toMatch(/vocab\.json/)
  })

  test.each([
    { model: { type: 'Unigram', vocab: [] } },
    { model: { type: 'WordPiece', vocab: {} } },
    { model: null },
    { decoder: null },
    { decoder: { type: 'WordPiece' } },
    { normalizer: { type: 'NoSuch' } },
    { pre_tokenizer: { type: 'NoSuch' } },
    { post_processor: { type: 'BertProcessing' } },
    { added_tokens: {} },
    { added_tokens: [null] },
    { model: { type: 'BPE', vocab: { a: 0 }, merges: 'x' } },
  ])('tokenizer.json with %j', async (change) => {
    const original = json(dir, 'd1-qwen25', 'tokenizer.json')
    expect(await failure(changed('d1-qwen25', { 'tokenizer.json': { ...original, ...change } }))).toMatch(
      /tokenizer\.json/,
    )
  })
})

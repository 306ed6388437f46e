import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test, vi } from 'vitest'
import { loadTokenizer } from '../../lib/text/load-tokenizer.ts'
import { parseSentencePiece } from '../../lib/text/sentencepiece.ts'
import { folder, json, missing, readIds, realFolder, shared } from './tokenizer-shared.ts'

// Two shared cores may be slow; a hang is still found.
vi.setConfig({ testTimeout: 120_000 })

const absent = missing('golden', 'tokenizer', 'strings.json')
const tokenizers: [string, 'tokenizer.json' | 'vocab' | undefined, string][] = [
  ['qwen2-internvl2', 'vocab', 'qwen2'],
  ['qwen25-internvl25', 'vocab', 'qwen2'],
  ['qwen3-internvl35', 'vocab', 'qwen2'],
  ['qwen3-internvl35', 'tokenizer.json', 'tokenizer.json'],
  ['internlm2-internvl2', undefined, 'internlm2'],
  ['phi3-internvl2', undefined, 'llama'],
]

describe.skipIf(absent !== undefined)(`real vocabularies${absent ? `: ${absent}` : ''}`, () => {
  test.each(tokenizers)('%s from %s', async (name, form, rules) => {
    const golden = json(shared, 'golden', 'tokenizer', `${name}.json`)
    const strings: string[] = json(shared, 'golden', 'tokenizer', 'strings.json')
    const tokenizer = await loadTokenizer(realFolder(name, form))
    expect(tokenizer.rules).toBe(rules)
    expect(strings.map((text) => tokenizer.encode(text))).toEqual(golden.encode)
    const bare = golden.encode_without_bos ?? golden.encode
    expect(strings.map((text) => tokenizer.encode(text, { addBos: false }))).toEqual(bare)
    expect(golden.encode.map((ids: number[]) => tokenizer.decode(ids))).toEqual(golden.decode_keep_special)
    expect(golden.encode.map((ids: number[]) => tokenizer.decode(ids, { skipSpecial: true }))).toEqual(
      golden.decode_skip_special,
    )
    for (const [token, id] of Object.entries<number | null>(golden.special)) {
      if (id) expect(tokenizer.idOf(token), token).toBe(id)
    }
    const prompts = json(shared, 'golden', 'prompts', 'prompts.json').cases
    for (const { template, id, ids } of golden.prompts) {
      const found = prompts.find(
        (entry: { template: string; id: string }) => entry.template === template && entry.id === id,
      )
      expect(tokenizer.encode(found.prompt), `${template}/${id}`).toEqual(ids)
    }
  })
})

/** The conversion of a Llama `tokenizer.model` to a tokenizer.json, as the library does it: DA-4B ships only such a file. */
function converted(dir: string): object {
  const { pieces, scores, types } = parseSentencePiece(readFileSync(join(dir, 'tokenizer.model')), 'tokenizer.model')
  const vocab = Object.fromEntries(pieces.map((piece, id) => [piece, id]))
  const ids = new Map(pieces.map((piece, id) => [piece, id]))
  const merges: { left: string; right: string; score: number; order: [number, number] }[] = []
  for (const [id, piece] of pieces.entries()) {
    if (types[id] !== 1) continue
    const units = [...piece]
    for (let cut = 1; cut < units.length; cut++) {
      const left = units.slice(0, cut).join('')
      const right = units.slice(cut).join('')
      if (ids.has(left) && ids.has(right))
        merges.push({ left, right, score: scores[id]!, order: [ids.get(left)!, ids.get(right)!] })
    }
  }
  merges.sort((a, b) => b.score - a.score || a.order[0] - b.order[0] || a.order[1] - b.order[1])
  const config = json(dir, 'tokenizer_config.json')
  return {
    added_tokens: Object.entries<object>(config.added_tokens_decoder).map(([id, flags]) => ({
      id: Number(id),
      ...flags,
    })),
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
    model: {
      type: 'BPE',
      unk_token: '<unk>',
      fuse_unk: true,
      byte_fallback: true,
      vocab,
      merges: merges.map(({ left, right }) => `${left} ${right}`),
    },
  }
}

test.skipIf(absent !== undefined).each([false, true])(
  'phi3-internvl2 as a tokenizer.json (side files: %s): the ids of the compiled library',
  async (sides) => {
    const golden = json(shared, 'golden', 'tokenizer', 'phi3-internvl2.json')
    const strings: string[] = json(shared, 'golden', 'tokenizer', 'strings.json')
    const data = join(shared, 'golden', 'tokenizer', 'data', 'phi3-internvl2')
    const side = (name: string): Record<string, object> => (sides ? { [name]: json(data, name) } : {})
    const files = { ...side('tokenizer_config.json'), ...side('added_tokens.json'), 'tokenizer.json': converted(data) }
    const tokenizer = await loadTokenizer(folder(files))
    expect(tokenizer.rules).toBe('tokenizer.json')
    const encode = golden.encode.map((ids: number[], i: number) => golden.alternative_encode[i] ?? ids)
    expect(strings.map((text) => tokenizer.encode(text))).toEqual(encode)
    for (const [i, ids] of golden.encode.entries()) {
      if (golden.alternative_encode[i]) continue
      expect(tokenizer.decode(ids), strings[i]).toBe(
        golden.alternative_decode_keep_special[i] ?? golden.decode_keep_special[i],
      )
      const skipped = golden.alternative_decode_skip_special[i] ?? golden.decode_skip_special[i]
      expect(tokenizer.decode(ids, { skipSpecial: true }), strings[i]).toBe(skipped)
    }
  },
)

const models = missing('golden', 'models') ? [] : readdirSync(join(shared, 'golden', 'models'))

describe.skipIf(models.length === 0)(
  `tokenizers of the reference models${models.length === 0 ? `: ${missing('golden', 'models')}` : ''}`,
  () => {
    test.each(models)('%s', async (name) => {
      const dir = join(shared, 'golden', 'models', name)
      const golden = json(dir, 'golden.json')
      const tokenizer = await loadTokenizer(dir)
      expect(tokenizer.size).toBe(golden.vocab_tokens)
      for (const [id, entry] of Object.entries<Record<string, unknown>>(golden.cases)) {
        expect(tokenizer.encode(entry.prompt as string), id).toEqual(
          readIds(join(dir, 'golden.safetensors'), `${id}.input_ids`),
        )
        expect(tokenizer.decode(entry.token_ids as number[]), id).toBe(entry.decoded_with_special)
        expect(tokenizer.decode(entry.token_ids as number[], { skipSpecial: true }), id).toBe(
          entry.decoded_skip_special,
        )
      }
    })
  },
)

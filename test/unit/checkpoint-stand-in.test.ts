import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { readCheckpoint } from '../../lib/checkpoint/load-checkpoint.ts'
import { readWeights } from '../../lib/checkpoint/safetensors.ts'
import { loadTokenizer } from '../../lib/text/load-tokenizer.ts'
import { type StandIn, standIns } from '../../scripts/stand-in/families.ts'
import { makeCheckpoint } from '../../scripts/stand-in/make-checkpoint.ts'
import {
  byteLevelVocabulary,
  letterMerges,
  type TokenizerKind,
  tokenizerFiles,
} from '../../scripts/stand-in/tokenizer.ts'
import { WeightSource } from '../../scripts/stand-in/weights.ts'
import { modelError, root, shared, temporaryFolder } from './checkpoint-folder.ts'

/** A published family with small layers; the vocabulary stays as it is. */
function small(family: string): StandIn {
  const standIn = standIns[family]!
  const factors = { short_factor: Array(8).fill(1), long_factor: Array(8).fill(2) }
  return {
    ...standIn,
    vision: { dim: 64, layers: 2, heads: 1, ffn: 128, patch: 14, image: 56 },
    dim: 64,
    layers: 2,
    heads: 4,
    kvHeads: 2,
    headDim: standIn.decoder === 'qwen3' ? 32 : 16,
    ffn: 128,
    ...(standIn.decoder === 'phi3' ? { rope: { type: 'su', ...factors } } : {}),
  }
}

/** bf16 values of a buffer. */
function valuesOf(bytes: Uint8Array): Float32Array {
  const bits = new Uint32Array(bytes.length / 2)
  for (let i = 0; i < bits.length; i++) bits[i] = ((bytes[2 * i + 1]! << 8) | bytes[2 * i]!) << 16
  return new Float32Array(bits.buffer)
}

function spreadOf(values: Float32Array): { mean: number; deviation: number } {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length
  const square = values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length
  return { mean, deviation: Math.sqrt(square) }
}

describe('a made folder', () => {
  test.each(['internvl2-1b', 'internvl2-2b', 'internvl2-4b', 'internvl2.5-1b', 'internvl3.5-1b'])(
    '%s is read back as that family, in shards too',
    async (family) => {
      const out = temporaryFolder(family)
      const made = await makeCheckpoint({ family: small(family), out, maxShardBytes: 6e6 })
      const checkpoint = await readCheckpoint(out)
      expect(checkpoint.parameters).toBe(made.parameters)
      expect(checkpoint.weightsBytes).toBe(made.weightsBytes)
      expect(checkpoint.files.length).toBeGreaterThan(1)
      expect(checkpoint).toMatchObject({
        weightsDType: 'BF16',
        vocab: standIns[family]!.vocab,
        eosIds: standIns[family]!.eos ?? [],
      })
      expect(checkpoint.template).toBe(standIns[family]!.template)
    },
  )

  test('has the same bytes for the same seed, others for another', async () => {
    const make = async (seed: number) => {
      const out = temporaryFolder()
      await makeCheckpoint({ family: small('internvl2-1b'), out, seed })
      return readFileSync(path.join(out, 'model.safetensors'))
    }
    const first = await make(5)
    expect(first.equals(await make(5))).toBe(true)
    expect(first.equals(await make(6))).toBe(false)
  })

  test('has weights around 0, norms around 1, layer scales around 0.1, and no two rows alike', async () => {
    const out = temporaryFolder()
    await makeCheckpoint({ family: small('internvl2-1b'), out })
    const { tensors } = await readWeights(out)
    const data = readFileSync(path.join(out, 'model.safetensors'))
    const bytes = (name: string) => {
      const { offset, bytes: size } = tensors.get(name)!
      return data.subarray(offset, offset + size)
    }
    const embedding = bytes('language_model.model.embed_tokens.weight')
    const { mean, deviation } = spreadOf(valuesOf(embedding))
    expect(Math.abs(mean)).toBeLessThan(1e-4)
    expect(deviation).toBeCloseTo(0.02, 3)
    const rows = new Set<string>()
    for (let at = 0; at < embedding.length; at += 128) rows.add(embedding.toString('latin1', at, at + 128))
    expect(rows.size).toBe(151655)
    expect(spreadOf(valuesOf(bytes('language_model.model.norm.weight'))).mean).toBeCloseTo(1, 1)
    expect(spreadOf(valuesOf(bytes('vision_model.encoder.layers.0.ls1'))).mean).toBeCloseTo(0.1, 1)
    expect(bytes('language_model.lm_head.weight').equals(embedding)).toBe(false)
  })

  test('goes into an empty folder only, and only for what is known', async () => {
    const out = temporaryFolder()
    expect(await modelError(makeCheckpoint({ family: 'internvl9', out }), 'BAD_ARGUMENT')).toMatch(
      /out of internvl2-1b, .*"internvl9"/,
    )
    expect(await modelError(makeCheckpoint({ family: 'toString', out }), 'BAD_ARGUMENT')).toMatch(/"toString"/)
    for (const layers of [0, -1, 1.5, Number.NaN]) {
      expect(await modelError(makeCheckpoint({ family: 'internvl2-1b', out, layers }), 'BAD_ARGUMENT')).toMatch(
        /layers/,
      )
    }
    expect(await modelError(makeCheckpoint({ family: 'internvl2-1b', out, seed: 0.5 }), 'BAD_ARGUMENT')).toMatch(/seed/)
    writeFileSync(path.join(out, 'other'), '')
    expect(await modelError(makeCheckpoint({ family: 'internvl2-1b', out }), 'BAD_ARGUMENT')).toMatch(/an empty folder/)
  })
})

test('large tensors come in chunks that add up, odd sizes included', () => {
  const source = new WeightSource(3)
  for (const elements of [1, 2, 3, 2 ** 21 - 1, 2 ** 21, 2 ** 21 + 1, 5_000_001]) {
    let bytes = 0
    for (const chunk of source.fill('x', elements, 'weight')) bytes += chunk.length
    expect(bytes).toBe(2 * elements)
  }
})

describe('the vocabularies made by rule', () => {
  test('byte-level: every merge joins two tokens into a third, every id once', () => {
    const { vocab, merges } = byteLevelVocabulary(151643)
    const ids = Object.values(vocab).sort((a, b) => a - b)
    expect(ids.length).toBe(151643)
    expect(ids.every((id, i) => id === i)).toBe(true)
    expect(merges.length).toBe(151643 - 256)
    const joins = ([left, right]: [string, string], i: number) =>
      vocab[left + right] === 256 + i && vocab[left]! < 256 + i && vocab[right]! < 256 + i
    expect(merges.findIndex((pair, i) => !joins(pair, i))).toBe(-1)
    expect(vocab['!']).toBe(0)
    expect(vocab.Ġ).toBe(220)
  })

  test('letters: no run twice, up to all of them', () => {
    const runs = letterMerges(' ', 1e9).map(([left, right]) => left + right)
    expect(new Set(runs).size).toBe(runs.length)
    expect(runs.length).toBe(26 ** 2 + 26 + 26 ** 2 + 2 * 26 ** 3 + 26 ** 4)
  })

  /** Pieces of a SentencePiece model, by a reader of its own. */
  function piecesOf(model: Uint8Array): { text: string; score: number; kind: number }[] {
    const data = Buffer.from(model)
    const varint = (at: number): [value: number, next: number] => {
      for (let value = 0, shift = 1, i = at; ; i++, shift *= 128) {
        value += (data[i]! & 127) * shift
        if (data[i]! < 128) return [value, i + 1]
      }
    }
    const pieces: { text: string; score: number; kind: number }[] = []
    for (let at = 0; at < data.length; ) {
      const [tag, start] = varint(at)
      const [length, body] = varint(start)
      at = body + length
      if (tag !== 10) continue
      const [textBytes, text] = varint(body + 1)
      const rest = text + textBytes
      const kind = rest + 5 < at ? data[rest + 6]! : 1
      pieces.push({ text: data.toString('utf8', text, rest), score: data.readFloatLE(rest + 1), kind })
    }
    return pieces
  }

  test.each<[TokenizerKind, number]>([
    ['internlm2', 92544],
    ['phi3', 32000],
  ])('SentencePiece, %s: %i pieces, each once, each reachable', (kind, size) => {
    const pieces = piecesOf(tokenizerFiles(kind).get('tokenizer.model') as Uint8Array)
    const byText = new Map(pieces.map((piece, id) => [piece.text, id]))
    expect(pieces.length).toBe(size)
    expect(byText.size).toBe(size)
    expect(pieces.slice(0, 4).map((piece) => [piece.text, piece.kind])).toEqual([
      ['<unk>', 2],
      ['<s>', 3],
      ['</s>', 3],
      ['<0x00>', 6],
    ])
    const reachable = (text: string) =>
      Array.from({ length: text.length - 1 }, (_, i) => i + 1).some(
        (i) => byText.has(text.slice(0, i)) && byText.has(text.slice(i)),
      )
    const merged = pieces.filter(({ text, kind: type }) => type === 1 && [...text].length > 1)
    expect(merged.find(({ text }) => !reachable(text))).toBeUndefined()
    if (kind === 'phi3') expect(byText.get('▁')).toBe(29871)
    else expect(byText.get('[UNUSED_TOKEN_145]')).toBe(92542)
  })

  test.each<[TokenizerKind, rules: string, ids: Record<string, number>]>([
    ['qwen2', 'qwen2', { '<|im_end|>': 151645, '<img>': 151646, '<IMG_CONTEXT>': 151648 }],
    ['qwen2.5', 'qwen2', { '<|im_end|>': 151645, '<img>': 151665, '<IMG_CONTEXT>': 151667 }],
    ['qwen3', 'qwen2', { '<|im_end|>': 151645, '<think>': 151667, '<img>': 151669, '<IMG_CONTEXT>': 151671 }],
    ['internlm2', 'internlm2', { '<|im_end|>': 92542, '<img>': 92544, '<IMG_CONTEXT>': 92546 }],
    ['phi3', 'llama', { '<|end|>': 32007, '<|user|>': 32010, '<img>': 32011, '<IMG_CONTEXT>': 32013 }],
  ])('%s loads by the %s rules, has the published ids and gives every text back', async (kind, rules, ids) => {
    const dir = temporaryFolder()
    for (const [name, data] of tokenizerFiles(kind)) writeFileSync(path.join(dir, name), data)
    const tokenizer = await loadTokenizer(dir)
    expect(tokenizer.rules).toBe(rules)
    for (const [token, id] of Object.entries(ids)) expect(tokenizer.idOf(token)).toBe(id)
    for (const text of [
      'What are the important objects in the current scene?',
      '你是由上海人工智能实验室',
      'a\n\tB 12 😀 ü',
    ]) {
      const encoded = tokenizer.encode(text, { addBos: false })
      expect(tokenizer.decode(encoded)).toBe(text)
      // Not far from what a trained vocabulary would make: lengths of prompts are part of what is measured. Phi-3's small
      // one has few ideographs, here as there.
      expect(encoded.length).toBeLessThan((kind === 'phi3' ? 3 : 1.6) * text.length)
    }
  })

  const golden = path.join(shared, 'golden/tokenizer/data')
  const published: [TokenizerKind, string][] = [
    ['qwen2', 'qwen2-internvl2'],
    ['qwen2.5', 'qwen25-internvl25'],
    ['qwen3', 'qwen3-internvl35'],
    ['internlm2', 'internlm2-internvl2'],
    ['phi3', 'phi3-internvl2'],
  ]
  // Without the golden set, in shared/golden or where DRIVLM_SHARED says, there is nothing to compare with.
  test.skipIf(!existsSync(golden)).each(published)('%s has the added tokens of %s', (kind, folder) => {
    const files = tokenizerFiles(kind)
    for (const name of ['added_tokens.json', 'tokenizer_config.json']) {
      const expected = JSON.parse(readFileSync(path.join(golden, folder, name), 'utf8')) as object
      expect(JSON.parse(files.get(name) as string)).toMatchObject(expected)
    }
  })
})

test('the command says what it made, or why it did not', () => {
  const script = path.join(root, 'scripts/make-checkpoint.mjs')
  const run = (...args: string[]) => {
    try {
      return execFileSync(process.execPath, [script, ...args], { encoding: 'utf8', stdio: 'pipe' })
    } catch (error) {
      const { status, stderr } = error as { status: number; stderr: string }
      return `${status}: ${stderr}`
    }
  }
  expect(run()).toMatch(/^1: usage: npm run make-checkpoint/)
  expect(run('--what')).toMatch(/^1: .*--what[\s\S]*usage/)
  expect(run('--family', 'x', '--out', temporaryFolder())).toMatch(/^1: Expected a family out of/)
})

/** Folders as people have them: test/fixtures/cases/checkpoint.json says what is changed in a fixture, and what is expected. */
import { cpSync, mkdirSync, readFileSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { readCheckpoint } from '../../lib/checkpoint/load-checkpoint.ts'
import { modelIdentity } from '../../lib/cli/eval-model.ts'
import type { ErrorCode } from '../../lib/errors.ts'
import { differences } from '../../lib/evaluate/run/journal.ts'
import { loadModel, templateFor } from '../../lib/load-model.ts'
import type { LoadOptions } from '../../lib/options.ts'
import { type Folder, fixture, type Json, modelError, root, temporaryFolder, write } from './checkpoint-folder.ts'

interface Case {
  case: string
  base: string
  /** Where the folder stands, below a new one. */
  at?: string
  merge?: Record<'config.json' | 'preprocessor_config.json', Json>
  write?: Record<string, string>
  remove?: string[]
  /** Put in front of, or taken from, every tensor name; tensors that are kept; tensors of BF16 that become F32. */
  prefix?: string
  strip?: string
  only?: string
  f32?: string
  expect: {
    code?: ErrorCode
    message?: string
    note?: string
    system?: string
    name?: string
    rope?: Json
    mean?: number[]
    std?: number[]
    maxTiles?: number
    /** Roles that become f32 on load. */
    wide?: string[]
  }
}

const cases: Case[] = JSON.parse(readFileSync(path.join(root, 'test/fixtures/cases/checkpoint.json'), 'utf8'))

function merge(into: Json, patch: Json): Json {
  for (const [key, value] of Object.entries(patch)) {
    if (value === '$delete') delete into[key]
    else if (typeof value === 'object' && value !== null && !Array.isArray(value))
      into[key] = merge(into[key] ?? {}, value)
    else into[key] = value
  }
  return into
}

function build(one: Case): string {
  const folder: Folder = fixture(one.base)
  merge(folder.config, one.merge?.['config.json'] ?? {})
  folder.preprocessor = merge(folder.preprocessor ?? {}, one.merge?.['preprocessor_config.json'] ?? {})
  const kept = Object.entries(folder.tensors).filter(([name]) => new RegExp(one.only ?? '').test(name))
  folder.tensors = Object.fromEntries(
    kept.map(([name, [dtype, shape, file]]) => {
      const wide = one.f32 !== undefined && dtype === 'BF16' && new RegExp(one.f32).test(name)
      return [(one.prefix ?? '') + name.slice(one.strip?.length ?? 0), [wide ? 'F32' : dtype, shape, file]]
    }),
  )
  folder.files = { ...folder.files, ...one.write }
  const dir = write(folder)
  for (const name of one.remove ?? []) rmSync(path.join(dir, name))
  if (one.at === undefined) return dir
  const moved = path.join(temporaryFolder(), one.at)
  mkdirSync(path.dirname(moved), { recursive: true })
  renameSync(dir, moved)
  return moved
}

describe('folders as people have them', () => {
  test.each(cases)('$case', async (one) => {
    const { code, message, note, system, name, rope, mean, std, maxTiles, wide } = one.expect
    const dir = build(one)
    if (code !== undefined) {
      expect(await modelError(readCheckpoint(dir), code)).toMatch(new RegExp(message!))
      return
    }
    const checkpoint = await readCheckpoint(dir)
    if (note !== undefined) expect(checkpoint.notes.join('\n')).toMatch(new RegExp(note))
    if (system !== undefined)
      expect((await templateFor(checkpoint, undefined)).template.systemMessage?.startsWith(system)).toBe(true)
    if (name !== undefined) expect(checkpoint.name).toBe(name)
    if (rope !== undefined) expect(checkpoint.network.language.rope).toMatchObject(rope)
    const { vision } = checkpoint.network
    for (const [i, value] of (mean ?? []).entries()) expect(vision.mean[i]).toBeCloseTo(value, 12)
    for (const [i, value] of (std ?? []).entries()) expect(vision.std[i]).toBeCloseTo(value, 12)
    if (maxTiles !== undefined) expect(checkpoint.tiling.maxTiles).toBe(maxTiles)
    if (wide !== undefined) {
      const mixed = checkpoint.tensors.filter(({ spans }) => spans.some(({ dtype }) => dtype !== undefined))
      expect(mixed.map(({ role }) => role).sort()).toEqual([...wide].sort())
      for (const { dtype, spans } of mixed) {
        expect(dtype).toBe('F32')
        expect(spans.filter((span) => span.dtype === 'BF16').length).toBeGreaterThan(0)
      }
      expect(checkpoint.weightsDType).toBe('BF16')
    }
  })

  test('an unchanged processor changes no number', async () => {
    const { vision } = (await readCheckpoint(write(fixture('f1-hf-qwen2')))).network
    expect([vision.mean, vision.std]).toEqual([
      [0.485, 0.456, 0.406],
      [0.229, 0.224, 0.225],
    ])
  })

  test('a root of the hub’s cache, its snapshots and the cache itself: the snapshot is offered', async () => {
    const cache = temporaryFolder('hub')
    const repository = path.join(cache, 'models--org--Model')
    const snapshots = path.join(repository, 'snapshots')
    for (const revision of ['0000000000', '1111111111']) {
      mkdirSync(snapshots, { recursive: true })
      renameSync(write(fixture('a1-qwen2')), path.join(snapshots, revision))
    }
    mkdirSync(path.join(repository, 'refs'))
    writeFileSync(path.join(repository, 'refs/main'), '1111111111')
    for (const dir of [repository, snapshots, cache]) {
      expect(await modelError(readCheckpoint(dir), 'BAD_CHECKPOINT')).toContain(path.join(snapshots, '1111111111'))
    }
    const checkpoints = temporaryFolder('run')
    renameSync(write(fixture('a1-qwen2')), path.join(checkpoints, 'checkpoint-500'))
    expect(await modelError(readCheckpoint(checkpoints), 'BAD_CHECKPOINT')).toMatch(
      /pass one of them: .*checkpoint-500/,
    )
  })

  test.each(['model.safetensors', 'config.json', 'preprocessor_config.json'])(
    '%s is a link whose blob is gone',
    async (file) => {
      const dir = write(fixture('f1-hf-qwen2'))
      rmSync(path.join(dir, file))
      symlinkSync('../../blobs/abc', path.join(dir, file))
      const code = file === 'model.safetensors' ? 'BAD_WEIGHTS' : 'BAD_CHECKPOINT'
      expect(await modelError(readCheckpoint(dir), code)).toMatch(
        /is a link to \.\.\/\.\.\/blobs\/abc, which is not there/,
      )
    },
  )

  test('a run is the model’s, wherever its folder stands', async () => {
    const dir = write(fixture('a1-qwen2'))
    const one = await modelIdentity(await readCheckpoint(dir))
    const moved = path.join(path.dirname(dir), 'other')
    renameSync(dir, moved)
    const run = { data: 'd', model: one, settings: {}, seed: 0, shard: '1/1' }
    expect(differences(run, { ...run, model: await modelIdentity(await readCheckpoint(moved)) })).toEqual([])
    writeFileSync(path.join(moved, 'drivlm.json'), '{}')
    expect(differences(run, { ...run, model: await modelIdentity(await readCheckpoint(moved)) })).toHaveLength(1)
  })
})

/** The safetensors file of a folder, rewritten: `change` gives the new name of a tensor and whether it is widened; `undefined` leaves it out. */
function rewrite(
  file: string,
  change: (name: string) => { name: string; wide?: boolean } | undefined,
  metadata: Record<string, string> = {},
): void {
  const bytes = readFileSync(file)
  const length = Number(bytes.readBigUInt64LE(0))
  const { __metadata__, ...tensors } = JSON.parse(bytes.subarray(8, 8 + length).toString())
  const header: Json = { __metadata__: { ...__metadata__, ...metadata } }
  const parts: Buffer[] = []
  let at = 0
  for (const [name, { dtype, shape, data_offsets: offsets }] of Object.entries<Json>(tensors)) {
    const to = change(name)
    if (to === undefined) continue
    let data = bytes.subarray(8 + length + offsets[0], 8 + length + offsets[1])
    if (to.wide && dtype === 'BF16') {
      const wide = Buffer.alloc(2 * data.length)
      for (let i = 0; i < data.length; i += 2) wide.writeUInt16LE(data.readUInt16LE(i), 2 * i + 2)
      data = wide
    }
    header[to.name] = { dtype: to.wide ? 'F32' : dtype, shape, data_offsets: [at, at + data.length] }
    at += data.length
    parts.push(data)
  }
  const text = Buffer.from(JSON.stringify(header))
  const size = Buffer.alloc(8)
  size.writeBigUInt64LE(BigInt(text.length))
  writeFileSync(file, Buffer.concat([size, text, ...parts]))
}

describe('answers', () => {
  const streetTiny = path.join(root, 'models/street-tiny')
  const copy = (): string => {
    const dir = temporaryFolder()
    cpSync(streetTiny, dir, { recursive: true })
    return dir
  }
  const view = {
    data: new Uint8Array(64 * 48 * 3).map((_, i) => (i * 37 + ((i / 7) | 0) * 11) & 255),
    width: 64,
    height: 48,
  }
  const answer = async (dir: string, options: LoadOptions) => {
    const model = await loadModel(dir, { device: 'cpu', threads: 1, ...options })
    try {
      const { text, logprobs } = await model.ask(view, 'What is ahead?', { maxNewTokens: 8, logprobs: true })
      return { text, logprobs }
    } finally {
      await model.dispose()
    }
  }

  test.each([{ precision: 'f32' }, { precision: 'bf16' }, { weights: 'int8' }] as const)(
    'parts in f32 beside parts in bf16 answer as before, bit for bit: %o',
    async (options) => {
      const dir = copy()
      const mixed = /self_attn\.[qv]_proj\.(weight|bias)$|gate_proj\.weight$/
      rewrite(path.join(dir, 'model.safetensors'), (name) => ({ name, wide: mixed.test(name) }))
      const { notes } = await readCheckpoint(dir)
      expect(notes.join('\n')).toMatch(/self_attn\.q_proj/)
      expect(await answer(dir, options)).toEqual(await answer(streetTiny, options))
    },
  )

  test('a tied table under either name is one model', async () => {
    const config = (dir: string) => {
      const file = path.join(dir, 'config.json')
      const json = JSON.parse(readFileSync(file, 'utf8'))
      json.tie_word_embeddings = true
      json.llm_config.tie_word_embeddings = true
      writeFileSync(file, JSON.stringify(json))
      return path.join(dir, 'model.safetensors')
    }
    const embedding = 'language_model.model.embed_tokens.weight'
    const head = 'language_model.lm_head.weight'
    const first = copy()
    rewrite(config(first), (name) => (name === head ? undefined : { name }))
    const second = copy()
    const renamed = (name: string) => (name === head ? undefined : { name: name === embedding ? head : name })
    rewrite(config(second), renamed, { [embedding]: head })
    expect(await answer(second, { precision: 'f32' })).toEqual(await answer(first, { precision: 'f32' }))
    expect((await readCheckpoint(second)).notes.join('\n')).toMatch(/it is the embedding as well/)
    const unnoted = copy()
    rewrite(config(unnoted), renamed)
    expect(await modelError(readCheckpoint(unnoted), 'BAD_WEIGHTS')).toMatch(/There is language_model\.lm_head\.weight/)
  })

  test.each([
    ['language_model.model.norm.weight', 'language.norm.weight'],
    ['vision_model.encoder.layers.0.attn.qkv.bias', 'vision.layers.0.qkv.bias'],
    ['vision_model.embeddings.position_embedding', 'vision.position'],
  ])('%s with a NaN is named on load', async (stored, role) => {
    const dir = copy()
    const file = path.join(dir, 'model.safetensors')
    const bytes = readFileSync(file)
    const length = Number(bytes.readBigUInt64LE(0))
    const { dtype, data_offsets: offsets } = JSON.parse(bytes.subarray(8, 8 + length).toString())[stored]
    expect(dtype).toBe('BF16')
    bytes.writeUInt16LE(0x7fc0, 8 + length + offsets[0] + 6)
    writeFileSync(file, bytes)
    const message = await modelError(loadModel(dir, { device: 'cpu', threads: 1 }), 'BAD_WEIGHTS')
    expect(message).toContain(`${role}: expected finite numbers, found nan at 3`)
  })
})

/** What is learned of a sample, what goes together, and how fast: held to the reference's own decisions. */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { loadAddon } from '../../lib/native.ts'
import { loadTokenizer } from '../../lib/text/load-tokenizer.ts'
import { templateOf } from '../../lib/text/templates.ts'
import { emptyReasons, labelConversation, type Message, rejections } from '../../lib/train/labels.ts'
import { Packer } from '../../lib/train/packing.ts'
import { type Schedule, scheduleFactor, warmupSteps } from '../../lib/train/schedule.ts'
import { fixtures, json, missing, realFolder, shared } from './tokenizer-shared.ts'

const training = join(fixtures, 'training')
const sizes: Record<string, [number, number]> = {
  'left.png': [90, 90],
  'right.png': [120, 64],
  'street.png': [170, 115],
  'tall.png': [60, 150],
}

interface Sample {
  id: string
  image?: string | string[]
  conversations: Message[]
}

interface Expected {
  id: string
  input_ids?: number[]
  labels?: number[]
  tiles?: number
  max_length?: number
  nothing_learned?: boolean
  rejected?: string
}

interface Expectation {
  template: string
  tokenizer_of: string
  num_image_token: number
  image_size: number
  max_dynamic_patch: number
  cases: Expected[]
}

const samples: Sample[] = readFileSync(join(training, 'labels.jsonl'), 'utf8')
  .trim()
  .split('\n')
  .map((line) => JSON.parse(line))

/** Tiles of each picture of a sample, as the reference tiles it. */
function tilesOf(sample: Sample, { image_size, max_dynamic_patch }: Expectation): number[] {
  const names = typeof sample.image === 'string' ? [sample.image] : (sample.image ?? [])
  const most =
    typeof sample.image === 'string' ? max_dynamic_patch : Math.max(1, Math.floor(max_dynamic_patch / names.length))
  return names
    .filter((name) => name !== '')
    .map((name) => {
      const grid = loadAddon().chooseGrid(...sizes[name]!, image_size, 1, most, true)
      return grid.columns * grid.rows + (grid.thumbnail ? 1 : 0)
    })
}

async function check(expectation: Expectation, folder: string): Promise<void> {
  const tokenizer = await loadTokenizer(folder)
  const template = templateOf(expectation.template)
  const found = expectation.cases.map((expected, i) => {
    const sample = samples[i]!
    const tiles = tilesOf(sample, expectation)
    const result = labelConversation(
      tokenizer,
      template,
      {
        messages: sample.conversations,
        imageTokens: tiles.map((count) => count * expectation.num_image_token),
        single: typeof sample.image === 'string',
      },
      expected.max_length === undefined ? {} : { maxLength: expected.max_length },
    )
    if ('rejected' in result) {
      expect(Object.keys(rejections), sample.id).toContain(result.rejected)
      return { id: sample.id, rejected: true }
    }
    if (result.nothing !== undefined) expect(Object.keys(emptyReasons), sample.id).toContain(result.nothing)
    return {
      id: sample.id,
      ids: [...result.ids],
      labels: [...result.labels],
      nothing: result.nothing !== undefined,
      ...(tiles.length > 0 ? { tiles: tiles.reduce((sum, count) => sum + count) } : {}),
    }
  })
  const expected = expectation.cases.map((entry, i) => {
    if (entry.rejected) return { id: entry.id, rejected: true }
    const pictures = (samples[i]!.image ?? '').length > 0
    return {
      id: entry.id,
      ids: entry.input_ids,
      labels: entry.labels,
      nothing: entry.nothing_learned ?? false,
      ...(pictures ? { tiles: entry.tiles } : {}),
    }
  })
  expect(found).toEqual(expected)
}

describe('labels are the reference’s', () => {
  const { templates } = json(training, 'labels.json') as { templates: Expectation[] }
  test.each(templates)('$template with the tokenizer of $tokenizer_of', (expectation) =>
    check(expectation, join(fixtures, 'tokenizer', expectation.tokenizer_of)),
  )

  const absent = missing('golden', 'training', 'labels_real.json')
  const real: Expectation[] = absent ? [] : json(shared, 'golden', 'training', 'labels_real.json').templates
  test.skipIf(absent !== undefined).for(real)('$template with the real vocabulary of $tokenizer_of', (expectation) => {
    const name = expectation.tokenizer_of.split('/').at(-1)!
    return check(expectation, realFolder(name, name.startsWith('qwen') ? 'vocab' : undefined))
  })
})

describe('why a sample teaches nothing', () => {
  const folder = join(fixtures, 'tokenizer', 'a1-qwen2')
  const label = async (messages: Message[], imageTokens: number[] = [], maxLength?: number) => {
    const options = maxLength === undefined ? {} : { maxLength }
    return labelConversation(await loadTokenizer(folder), templateOf('Hermes-2'), { messages, imageTokens }, options)
  }
  const human = (value: string): Message => ({ from: 'human', value })
  const gpt = (value: string): Message => ({ from: 'gpt', value })

  test.each([
    ['empty-answer', [human('Wet?'), gpt('')], undefined],
    ['no-answer', [human('Wet?')], undefined],
    ['ends-with-a-question', [human('Wet?'), gpt('Yes.'), human('Sure?')], undefined],
    ['turn-end-in-text', [human('Say it.'), gpt('I say <|im_end|> now.')], undefined],
    ['padding-in-text', [human('Say it.'), gpt('The end <|endoftext|> of it.')], undefined],
    ['answer-cut', [human('Wet?'), gpt('Yes.')], 20],
  ] as const)('%s', async (reason, messages, maxLength) => {
    expect(await label([...messages], [], maxLength)).toMatchObject({ nothing: reason, learned: 0 })
  })

  test.each([
    ['no-conversation', [], []],
    ['system-entry', [{ from: 'system', value: 'Be brief.' } as Message, human('Wet?'), gpt('Yes.')], []],
    ['roles-do-not-alternate', [human('Wet?'), human('Well?'), gpt('Yes.')], []],
    ['roles-do-not-alternate', [gpt('Yes.')], []],
    ['marker-count', [human('<image> Wet?'), gpt('Yes.')], [4, 4]],
    ['image-token-in-text', [human('<IMG_CONTEXT> Wet?'), gpt('Yes.')], []],
    ['pictures-cut', [human('<image></img> Wet?'), gpt('Yes.')], [4]],
  ] as const)('%s is refused', async (reason, messages, imageTokens) => {
    expect(await label([...messages], [...imageTokens])).toEqual({ rejected: reason })
  })

  test('a template without training rules is refused by name', async () => {
    const tokenizer = await loadTokenizer(folder)
    expect(() =>
      labelConversation(tokenizer, templateOf('chatml-hf'), { messages: [human('a'), gpt('b')], imageTokens: [] }),
    ).toThrow(/chatml-hf has no training rules/)
  })
})

describe('packing', () => {
  const { cases } = json(training, 'packing.json') as {
    cases: {
      max_tiles: number
      max_tokens: number
      max_buffer: number
      samples: [number, number][]
      packs: number[][]
      dropped: number[]
    }[]
  }
  test.each(cases)('$max_tiles tiles, $max_tokens tokens, $max_buffer open', (golden) => {
    const packer = new Packer<{ number: number; tokens: number; tiles: number }>({
      maxTiles: golden.max_tiles,
      maxTokens: golden.max_tokens,
      maxOpen: golden.max_buffer,
    })
    const packs = golden.samples.flatMap(([tokens, tiles], number) => packer.add({ number, tokens, tiles }))
    packs.push(...packer.finish())
    expect(packs.map((pack) => pack.map(({ number }) => number))).toEqual(golden.packs)
    expect(packer.dropped.map(({ number }) => number)).toEqual(golden.dropped)
    expect(packer.open).toEqual([])
  })

  test('a sample longer than a pack, and limits that are none, are refused', () => {
    expect(() => new Packer({ maxTokens: 10 }).add({ tokens: 11, tiles: 1 })).toThrow(
      /11 tokens does not fit into packs of 10/,
    )
    for (const maxTiles of [0, -1, 1.5, Number.NaN])
      expect(() => new Packer({ maxTiles })).toThrow(/maxTiles: expected/)
  })
})

describe('learning rates', () => {
  const { cases } = json(training, 'schedule.json') as {
    cases: { steps: number; warmup_ratio: number; warmup_steps: number; at: number[]; factor: number[] }[]
  }
  const factor = (at: number, schedule: Schedule, steps: number, warmupRatio: number) =>
    scheduleFactor(at, { schedule, steps, warmupRatio })

  test.each(cases)(
    'cosine over $steps updates, warm-up $warmup_ratio',
    ({ steps, warmup_ratio, warmup_steps, at, factor: golden }) => {
      expect(warmupSteps({ schedule: 'cosine', steps, warmupRatio: warmup_ratio })).toBe(warmup_steps)
      for (const [i, update] of at.entries())
        expect(factor(update, 'cosine', steps, warmup_ratio), `update ${update}`).toBeCloseTo(golden[i]!, 14)
    },
  )

  test('linear falls to just above 0, constant stays', () => {
    expect([0, 1, 2, 6, 9].map((update) => factor(update, 'linear', 10, 0.2))).toEqual([0, 0.5, 1, 0.5, 0.125])
    expect([0, 1, 2, 9].map((update) => factor(update, 'constant', 10, 0.2))).toEqual([0, 0.5, 1, 1])
    expect(scheduleFactor(3, { schedule: 'constant', steps: 10, warmupRatio: 0.9, warmupSteps: 4 })).toBe(0.75)
  })

  test.each([
    { steps: 0 },
    { steps: 1.5 },
    { warmupRatio: -0.1 },
    { warmupRatio: 2 },
    { warmupRatio: Number.NaN },
    { warmupSteps: -1.5 },
  ])('%o is refused', (bad) => {
    const refused = { schedule: 'cosine' as const, steps: 10, ...bad }
    if ('warmupSteps' in bad) expect(scheduleFactor(0, refused)).toBe(0)
    else expect(() => scheduleFactor(0, refused)).toThrow(/expected a/)
  })
})

test('the training fixtures are a part of the shared goldens', () => {
  const file = join(shared, 'golden', 'training', 'labels.json')
  if (existsSync(file)) expect(json(training, 'labels.json')).toEqual(json(file))
})

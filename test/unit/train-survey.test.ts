/** Samples on their way to a step: tiles, what is mended, what is left out and said. */
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import sharp from 'sharp'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { defaultLayout } from '../../lib/checkpoint/layout.ts'
import { loadAddon } from '../../lib/native.ts'
import { loadTokenizer } from '../../lib/text/load-tokenizer.ts'
import { templateOf } from '../../lib/text/templates.ts'
import { PictureChecks } from '../../lib/train/pictures.ts'
import { type Preparation, prepareSample } from '../../lib/train/prepare.ts'
import { type ListedSample, parseSample, SampleList } from '../../lib/train/sample-lists.ts'
import { surveyLists } from '../../lib/train/survey.ts'
import { fixtures, json } from './tokenizer-shared.ts'

const dir = mkdtempSync(join(tmpdir(), 'drivlm-survey-'))
const images = join(fixtures, 'training', 'images')
let hermes: Preparation
let internlm: Preparation

beforeAll(async () => {
  for (const name of ['left', 'right', 'street', 'tall'])
    copyFileSync(join(images, `${name}.png`), join(dir, `${name}.png`))
  await sharp({ create: { width: 1, height: 1, channels: 3, background: 'red' } })
    .png()
    .toFile(join(dir, 'one.png'))
  writeFileSync(join(dir, 'text.png'), 'no picture')
  const whole = readFileSync(join(images, 'street.png'))
  writeFileSync(join(dir, 'half.png'), whole.subarray(0, whole.length / 2))
  const tiling = { tileSize: 56, minTiles: 1, maxTiles: 6, dynamic: true, useThumbnail: true }
  const of = async (tokenizer: string, template: string): Promise<Preparation> => ({
    tokenizer: await loadTokenizer(join(fixtures, 'tokenizer', tokenizer)),
    template: templateOf(template),
    tiling,
    layout: defaultLayout(undefined, tiling),
    numbered: true,
    tileTokens: 4,
    addon: loadAddon(),
    pictures: new PictureChecks('whole'),
    maxLength: 8192,
    maxSampleTiles: 48,
  })
  hermes = await of('a1-qwen2', 'Hermes-2')
  internlm = await of('b1-internlm2', 'internlm2-chat')
})
afterAll(() => rmSync(dir, { recursive: true, force: true }))

const turns = [
  { from: 'human', value: 'Is it wet?' },
  { from: 'gpt', value: 'Yes.' },
]

function sample(more: object): ListedSample {
  return parseSample(JSON.stringify({ id: 1, conversations: turns, ...more }), 'here', dir)
}

describe('a sample', () => {
  test('has the ids, labels and tiles of the reference', async () => {
    const [expectation] = json(fixtures, 'training', 'labels.json').templates
    const [golden] = expectation.cases
    const prepared = await prepareSample(
      sample({
        image: 'street.png',
        conversations: [
          { from: 'human', value: '<image>\nIs the light red?' },
          { from: 'gpt', value: 'Yes, it is red.' },
        ],
      }),
      hermes,
    )
    expect(prepared).toMatchObject({
      tiles: golden.tiles,
      learned: golden.labels.filter((label: number) => label >= 0).length,
    })
    expect('ids' in prepared && [...prepared.ids]).toEqual(golden.input_ids)
  })

  test('shares its tiles among pictures of a list, and takes the limit of its data set', async () => {
    const tiles = async (more: object, most?: number) => {
      const prepared = await prepareSample(sample(more), hermes, most)
      return 'tiles' in prepared ? prepared.tiles : prepared.leftOut
    }
    const two = [{ from: 'human', value: '<image>\n<image>\nWet?' }, turns[1]]
    expect(await tiles({ image: 'street.png' })).toBe(7)
    expect(await tiles({ image: 'tall.png' }, 2)).toBe(3)
    expect(await tiles({ image: ['tall.png', 'street.png'], conversations: two })).toBe(5)
    expect(await tiles({ image: 'one.png' })).toBe('picture-tiny')
    const few = { ...hermes, maxSampleTiles: 6 }
    expect(await prepareSample(sample({ image: 'street.png' }), few)).toEqual({ leftOut: 'too-many-tiles' })
    expect(await tiles({})).toBe(0)
  })

  test('without a marker gets one in its first question, also behind a system message', async () => {
    const marked = await prepareSample(
      sample({ image: 'left.png', conversations: [{ from: 'human', value: '<image>\nIs it wet?' }, turns[1]] }),
      hermes,
    )
    const bare = await prepareSample(sample({ image: 'left.png' }), hermes)
    expect(bare).toEqual(marked)
    const system = [{ from: 'system', value: 'Be brief.' }, ...turns]
    const of25: Preparation = {
      ...hermes,
      tokenizer: await loadTokenizer(join(fixtures, 'tokenizer', 'd1-qwen25')),
      template: templateOf('internvl2_5'),
    }
    const prepared = await prepareSample(sample({ image: 'left.png', conversations: system }), of25)
    expect(prepared).toMatchObject({ learned: expect.any(Number), tiles: 5 })
  })

  test('whose last question nobody answers is trained without it, for every template alike', async () => {
    for (const preparation of [hermes, internlm]) {
      const asked = await prepareSample(
        sample({ conversations: [...turns, { from: 'human', value: 'Sure?' }] }),
        preparation,
      )
      const plain = await prepareSample(sample({}), preparation)
      expect(asked).toEqual({ ...plain, trailingQuestion: true })
    }
  })

  test.each([
    ['picture-missing', { image: 'none.png' }],
    ['picture-broken', { image: 'text.png' }],
    ['picture-broken', { image: 'half.png' }],
    ['picture-tiny', { image: 'one.png' }],
    ['marker-count', { image: ['left.png', 'right.png'] }],
    ['empty-answer', { conversations: [turns[0], { from: 'gpt', value: '' }] }],
    ['no-answer', { conversations: [turns[0]] }],
    ['system-entry', { conversations: [{ from: 'system', value: 'x' }, ...turns] }],
  ])('is left out: %s', async (leftOut, more) => {
    expect(await prepareSample(sample(more), hermes)).toEqual({ leftOut })
  })
})

describe('the look through all samples', () => {
  async function list(name: string, lines: object[]): Promise<SampleList> {
    const annotation = join(dir, `${name}.jsonl`)
    writeFileSync(annotation, lines.map((line) => JSON.stringify({ conversations: turns, ...line })).join('\n'))
    return SampleList.open({ name, root: dir, annotation, augment: false, repeat: 1, maxTiles: undefined })
  }

  test('counts what is used and what is left out, with places', async () => {
    const domain = await list('domain', [
      { image: 'left.png' },
      { image: 'none.png' },
      {},
      { conversations: [turns[0]] },
      { conversations: [...turns, turns[0]] },
    ])
    const general = await list('general', [{}, {}])
    const steps: number[] = []
    const [a, b] = await surveyLists(
      [
        { list: domain, general: false },
        { list: general, general: true },
      ],
      hermes,
      { maxLeftOut: 0.5, onProgress: (done) => steps.push(done) },
    )
    expect(a).toMatchObject({ name: 'domain', samples: 5, used: 3, tiles: 5, trailingQuestions: 1 })
    expect([...a!.usable.index]).toEqual([0, 2, 4])
    expect(a!.leftOut).toEqual({
      'picture-missing': { count: 1, examples: [expect.stringMatching(/domain\.jsonl, line 2$/)] },
      'no-answer': { count: 1, examples: [expect.stringMatching(/line 4$/)] },
    })
    expect(b).toMatchObject({ name: 'general', general: true, used: 2, leftOut: {} })
    expect(steps).toEqual([5, 7])
    await domain.close()
    await general.close()
  })

  test('refuses a list of which too much is left out, and names why and where', async () => {
    const poor = await list('poor', [{}, { image: 'none.png' }])
    await expect(surveyLists([{ list: poor, general: false }], hermes)).rejects.toThrow(
      /^poor: 1 of 2 samples are left out, at most 1\.0 % may be\. 1 of them because a picture is not there: .*poor\.jsonl, line 2\. Mend/,
    )
    await poor.close()
    const empty = await list('empty', [{ conversations: [turns[0]] }])
    await expect(surveyLists([{ list: empty, general: false }], hermes, { maxLeftOut: 1 })).rejects.toThrow(
      /none can be trained on.*because it has no answer/,
    )
    await empty.close()
  })

  test('names a broken line, and ends when told to', async () => {
    const annotation = join(dir, 'broken.jsonl')
    writeFileSync(annotation, '{"conversations": 3}')
    const broken = await SampleList.open({
      name: 'b',
      root: dir,
      annotation,
      augment: false,
      repeat: 1,
      maxTiles: undefined,
    })
    await expect(surveyLists([{ list: broken, general: false }], hermes)).rejects.toThrow(
      /broken\.jsonl, line 1: expected conversations/,
    )
    await expect(
      surveyLists([{ list: broken, general: false }], hermes, { signal: AbortSignal.abort() }),
    ).rejects.toMatchObject({ code: 'ABORTED' })
    await expect(surveyLists([], hermes, { maxLeftOut: Number.NaN })).rejects.toThrow(/maxLeftOut: expected a share/)
    await broken.close()
  })
})

/** Packs of a run: against the reference's own samples, a moment's questions behind one prefix, and what happens to data that change. */
import { createHash } from 'node:crypto'
import {
  copyFileSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { crc32 } from 'node:zlib'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { defaultLayout } from '../../lib/checkpoint/layout.ts'
import { bundledModel } from '../../lib/load-model.ts'
import { drawScene, loadDomain, writeStreet } from '../../lib/street/index.ts'
import { recompressTiles } from '../../lib/train/augment.ts'
import { openLists } from '../../lib/train/lists.ts'
import { normaliseWeights, tokenWeight } from '../../lib/train/loss-weights.ts'
import { Random } from '../../lib/train/random.ts'
import { openTrainingData, type TrainingData, type TrainingDataOptions } from '../../lib/train/training-data.ts'
import type { TrainedPart, TrainingPack } from '../../lib/train/types.ts'
import { fixtures, shared } from './tokenizer-shared.ts'

const dir = mkdtempSync(join(tmpdir(), 'drivlm-packs-'))
const images = join(fixtures, 'training', 'images')
const open: TrainingData[] = []

async function data(options: TrainingDataOptions, model = bundledModel): Promise<TrainingData> {
  const opened = await openTrainingData(model, options)
  open.push(opened)
  return opened
}

const street = join(dir, 'street', 'drivelm.json')
const general = join(dir, 'general.jsonl')

beforeAll(async () => {
  await writeStreet(await loadDomain('day-city'), { scenes: 3, seed: 910_000_000, out: join(dir, 'street') })
  const lines = Array.from({ length: 20 }, (_, i) => ({
    id: i,
    conversations: [
      { from: 'human', value: `Is the light red, ${i}?` },
      { from: 'gpt', value: i % 2 === 0 ? 'Yes.' : 'No, it is green.' },
    ],
  }))
  writeFileSync(general, lines.map((line) => JSON.stringify(line)).join('\n'))
})
afterAll(async () => {
  for (const one of open) await one.close()
  rmSync(dir, { recursive: true, force: true })
})

/** Integer tensors of a safetensors file. */
function integers(file: string): (name: string) => number[] {
  const bytes = readFileSync(file)
  const length = Number(bytes.readBigUInt64LE(0))
  const header = JSON.parse(bytes.toString('utf8', 8, 8 + length))
  return (name) => {
    const { dtype, data_offsets: at } = header[name]
    const own = bytes.buffer.slice(bytes.byteOffset + 8 + length + at[0], bytes.byteOffset + 8 + length + at[1])
    if (dtype === 'I64') return [...new BigInt64Array(own)].map(Number)
    return dtype === 'I32' ? [...new Int32Array(own)] : [...new Float32Array(own)]
  }
}

/** Tells packs from others, all of their numbers. */
function digestOf(packs: readonly TrainingPack[]): string {
  const hash = createHash('sha256')
  for (const { ids, tiles, targets, ...rest } of packs) {
    hash
      .update(ids)
      .update(tiles ?? '')
      .update(targets.rows)
      .update(targets.labels)
      .update(targets.weights)
    hash.update(JSON.stringify(rest))
  }
  return hash.digest('hex')
}

/** The samples of a pack by their names, each as if it were alone: ids and labels. */
function samplesOf(
  pack: TrainingPack,
): Map<string, { ids: number[]; labels: number[]; weight: number; position: number }> {
  const prefixes = new Set(pack.spans.filter(({ prefixRows }) => prefixRows > 0).map(({ prefixRow }) => prefixRow))
  const spans = pack.spans.filter(({ row }) => !prefixes.has(row))
  expect(spans.length).toBe(pack.names.length)
  return new Map(
    spans.map(({ row, rows, prefixRow, prefixRows }, i) => {
      const ids = [...pack.ids.subarray(prefixRow, prefixRow + prefixRows), ...pack.ids.subarray(row, row + rows)]
      const labels = ids.map(() => -100)
      let weight = 0
      for (const [t, target] of pack.targets.rows.entries()) {
        if (target < row || target >= row + rows) continue
        labels[target - row + prefixRows + 1] = pack.targets.labels[t]!
        weight += pack.targets.weights[t]!
      }
      return [pack.names[i]!, { ids, labels, weight, position: prefixRows }]
    }),
  )
}

describe.each([
  ['e1-qwen3', join(fixtures, 'golden'), join(fixtures, 'training', 'models')],
  ['a1-qwen2', join(shared, 'golden', 'models'), join(shared, 'golden', 'training', 'models')],
])('the samples of the golden runs, %s', (name, models, goldens) => {
  const absent = !existsSync(join(models, name))

  test.skipIf(absent)('have the ids, labels and pixels of the reference', async () => {
    const golden = integers(join(goldens, name, 'golden.safetensors'))
    const meta = join(dir, `${name}.json`)
    const annotation = join(fixtures, 'training', 'samples.jsonl')
    const entry = { root: images, annotation, data_augment: false, repeat_time: 1, max_dynamic_patch: 6 }
    writeFileSync(meta, JSON.stringify({ samples: entry }))
    const made = await data({ data: meta, packsPerStep: 1, pictures: 'headers' }, join(models, name))
    expect(made.steps).toBe(1)
    const [pack] = (await made.packsOfStep(0)) as [TrainingPack]
    const samples = samplesOf(pack)
    const tileBytes = pack.tiles!.length / (7 + 4 + 4)
    const crcs = Array.from({ length: 15 }, (_, i) => crc32(pack.tiles!.subarray(i * tileBytes, (i + 1) * tileBytes)))
    const expected: number[] = []
    const ids = ['one-picture', 'two-pictures', 'text', 'no-marker']
    for (const [where, { ids: found, labels }] of samples) {
      const id = ids[Number(/line (\d+)$/.exec(where)![1]) - 1]!
      const context = golden(`${id}.input_ids`)
      expect(found.map((value, i) => (value === -1 ? context[i] : value))).toEqual(context)
      expect(labels).toEqual(golden(`${id}.labels`))
      if (id !== 'text') expected.push(...golden(`${id}.tiles_crc_u8`))
    }
    expect(crcs).toEqual(expected)
    expect(pack.targets.weights.reduce((sum, weight) => sum + weight, 0)).toBeCloseTo(1, 12)
  })

  test.skipIf(absent || name !== 'a1-qwen2')('have the reference’s weights in a pack', () => {
    const golden = integers(join(goldens, name, 'golden.safetensors'))
    const found = ['one-picture', 'two-pictures', 'text'].flatMap((id) => {
      const labels = golden(`${id}.labels`)
      const learned = labels.filter((label) => label !== -100).length
      return labels.map((label) => (label === -100 ? 0 : tokenWeight('square', learned)))
    })
    for (const [i, weight] of golden('pack.loss_weight').entries()) expect(found[i]).toBeCloseTo(weight, 6)
  })
})

describe('questions of a moment', () => {
  test('behind one prefix are the separate samples, each with its weight', async () => {
    const settings = { data: street, packsPerStep: 100 }
    const together = await data(settings)
    const apart = await data({ ...settings, questionsPerMoment: 1 })
    const [a, b] = [await together.packsOfStep(0), await apart.packsOfStep(0)]
    const join = (packs: TrainingPack[]) => packs.flatMap((pack) => [...samplesOf(pack)])
    const separate = new Map(join(b))
    expect(a.flatMap((pack) => pack.spans).some(({ prefixRows }) => prefixRows > 96)).toBe(true)
    expect(b.flatMap((pack) => pack.spans).every(({ prefixRows }) => prefixRows === 0)).toBe(true)
    const all = join(a)
    expect(all.length).toBeGreaterThan(10)
    for (const [where, { ids, labels, weight }] of all) {
      expect(separate.get(where)).toMatchObject({ ids, labels })
      expect(separate.get(where)!.weight).toBeCloseTo(weight, 12)
    }
    expect(together.operations.samples).toBe(apart.operations.samples)
    expect(together.operations.separate).toBe(apart.operations.shared)
    expect(together.operations.shared).toBeLessThan(together.operations.separate / 3)
    const of = (train: TrainedPart, towerLayers = 0) => together.operationsOf({ train, towerLayers }).shared
    expect(of('all')).toBe(together.operations.shared)
    expect(of('head')).toBeLessThan(of('projector'))
    expect(of('projector')).toBeLessThan(of('language+projector'))
    expect(of('language+projector')).toBeLessThan(of('language+projector', 2))
    expect(of('language+projector', 2)).toBeLessThan(of('all'))
  })

  test('are cut where it is asked for, and none is lost', async () => {
    const made = await data({ data: street, questionsPerMoment: 4, packsPerStep: 1, maxPackTiles: 12, seed: 3 })
    const names: string[] = []
    for (let step = 0; step < made.steps; step++) {
      for (const { spans, tiles, names: own, ids } of await made.packsOfStep(step)) {
        names.push(...own)
        expect(tiles!.length).toBeLessThanOrEqual(12 * 112 * 112 * 3)
        expect(ids.length).toBeLessThanOrEqual(made.bounds.rows)
        const families = spans.filter(({ prefixRows }) => prefixRows === 0)
        for (const { row } of families)
          expect(spans.filter((span) => span.prefixRow === row && span.prefixRows > 0).length).toBeLessThanOrEqual(4)
        expect(spans.reduce((at, { row, rows }) => (row === at ? at + rows : Number.NaN), 0)).toBe(ids.length)
      }
    }
    expect(made.bounds.tiles).toBe(12)
    expect(new Set(names).size).toBe(names.length)
    expect(names.length).toBe(made.surveys[0]!.used)
  })

  test('of an InternVL list go together where it is asked for', async () => {
    const lines = ['Wet?', 'Red?', 'Green?'].map((value, id) => ({
      id,
      image: 'street.png',
      conversations: [
        { from: 'human', value: id === 2 ? `${value}\n<image>` : value },
        { from: 'gpt', value: 'No.' },
      ],
    }))
    const file = join(dir, 'list.jsonl')
    writeFileSync(file, lines.map((line) => JSON.stringify(line)).join('\n'))
    const prefixes = async (questionsPerMoment?: number) => {
      const made = await data({ data: file, images, questionsPerMoment, packsPerStep: 1 })
      const [pack] = await made.packsOfStep(0)
      return pack!.spans.filter(({ prefixRows }) => prefixRows > 0).length
    }
    expect(await prefixes()).toBe(0)
    expect(await prefixes(8)).toBe(2) // the third has its picture elsewhere
  })
})

describe('a run’s packs', () => {
  const settings = { data: street, general, generalRatio: 0.5, steps: 6, packsPerStep: 2, maxPackTiles: 12 }

  test('follow from seed and step, in any order they are asked for', async () => {
    const [a, b] = [await data(settings), await data({ ...settings, aheadBytes: 0 })]
    const forward: string[] = []
    for (let step = 0; step < 6; step++) forward.push(digestOf(await a.packsOfStep(step)))
    for (const step of [4, 0, 5, 1]) expect(digestOf(await b.packsOfStep(step))).toBe(forward[step])
    expect(a.digest).toBe(b.digest)
    const other = await data({ ...settings, seed: 7 })
    expect(digestOf(await other.packsOfStep(0))).not.toBe(forward[0])
    expect(other.digest).not.toBe(a.digest)
  })

  test('have general samples by the ratio, and weights that add up to 1 over a step', async () => {
    const made = await data({ ...settings, steps: undefined, passes: 2, packsPerStep: 100, lossReduction: 'token' })
    const [packs] = [await made.packsOfStep(0)]
    const names = packs.flatMap((pack) => pack.names)
    const domain = names.filter((where) => where.includes('drivelm.json')).length
    expect(domain).toBe(2 * made.surveys[0]!.used)
    expect(names.length - domain).toBe(2 * Math.round(0.5 * made.surveys[0]!.used))
    const weights = packs.flatMap((pack) => [...pack.targets.weights])
    expect(weights.reduce((sum, weight) => sum + weight, 0)).toBeCloseTo(1, 12)
    expect(new Set(weights).size).toBe(1)
    expect(made.summary).toMatchObject({ steps: 1, pass: { domain: domain / 2 } })
    expect(JSON.parse(JSON.stringify(made.summary))).toEqual(made.summary)
  })

  test('end when told to, and when closed', async () => {
    const made = await data(settings)
    await expect(made.packsOfStep(0, AbortSignal.abort())).rejects.toMatchObject({ code: 'ABORTED' })
    await made.packsOfStep(0)
    await expect(made.packsOfStep(1, AbortSignal.abort())).rejects.toMatchObject({ code: 'ABORTED' })
    await expect(made.packsOfStep(6)).rejects.toThrow(/step: expected a whole number below 6, found 6/)
    await made.close()
    await expect(made.packsOfStep(2)).rejects.toMatchObject({ code: 'DISPOSED' })
  })
})

describe('data that change during a run', () => {
  const file = join(dir, 'changing.jsonl')
  const picture = join(dir, 'changing.png')
  const write = () =>
    writeFileSync(
      file,
      JSON.stringify({
        id: 0,
        image: 'changing.png',
        conversations: [
          { from: 'human', value: 'Wet?' },
          { from: 'gpt', value: 'No.' },
        ],
      }),
    )
  const begin = () => {
    write()
    copyFileSync(join(images, 'street.png'), picture)
    return data({ data: file, steps: 3, packsPerStep: 1, aheadBytes: 0 })
  }

  test('a picture that is gone or another one, a list that was written anew', async () => {
    const gone = await begin()
    await gone.packsOfStep(0)
    renameSync(picture, `${picture}.away`)
    await expect(gone.packsOfStep(1)).rejects.toMatchObject({
      code: 'BAD_VIEW',
      message: expect.stringMatching(/changing\.jsonl, line 1: .*a picture is not there/),
    })
    const other = await begin()
    copyFileSync(join(images, 'tall.png'), picture)
    await expect(other.packsOfStep(1)).rejects.toThrow(/line 1: the sample or a picture of it was changed since/)
    const rewritten = await begin()
    utimesSync(file, 1, 1)
    await expect(rewritten.packsOfStep(1)).rejects.toThrow(/changing\.jsonl: was changed since the run began/)
    rmSync(file)
    await expect(rewritten.packsOfStep(1)).rejects.toThrow(/changing\.jsonl: cannot be read any more \(ENOENT\)/)
  })
})

describe('settings and files that are refused', () => {
  test.each([
    [{ generalRatio: 0.25 }, /there is no general data/],
    [{ generalRatio: -1, general }, /generalRatio: expected a number of at least 0, found -1/],
    [{ generalRatio: Number.NaN, general }, /generalRatio: .* found NaN/],
    [{ steps: 0 }, /steps: expected a whole number of at least 1, found 0/],
    [{ passes: 1.5 }, /passes: expected a whole number/],
    [{ packsPerStep: Number.NaN }, /packsPerStep: .* found NaN/],
    [{ questionsPerMoment: 0 }, /questionsPerMoment/],
    [{ maxLength: -1 }, /maxLength/],
    [{ maxLength: 8192 }, /maxLength: expected up to 4096/],
    [{ maxLength: 512, maxPackTokens: 500 }, /a sample of 512 tokens does not fit into packs of 500/],
    [{ maxPackTiles: 0 }, /maxPackTiles/],
    [{ maxLeftOut: Number.NaN }, /maxLeftOut: expected a share/],
    [{ seed: -1 }, /seed: expected/],
    [{ aheadBytes: Number.NaN }, /aheadBytes/],
    [{ lossReduction: 'mean' as 'token' }, /lossReduction: expected token, sample, square, found "mean"/],
    [{ data: [] }, /There is nothing to learn from/],
  ])('%o', async (more, message) => {
    await expect(data({ data: street, ...more })).rejects.toThrow(message)
    await expect(data({ data: street, ...more })).rejects.toMatchObject({ code: 'BAD_ARGUMENT' })
  })

  test.each([
    ['meta.json', '{"a": {"annotation": "a.jsonl"', /meta\.json: expected a meta file/],
    ['lines.jsonl', '{"id": 1, "views": {"CAM_FRONT": "a.png"}, "question": "Wet?"}\n{"id": 2', /lines\.jsonl, line 2/],
    [
      'chat.jsonl',
      '{"conversations": [{"from": "human", "value": "a"}]}\n{"conv',
      /chat\.jsonl, line 2: expected JSON/,
    ],
    ['nothing.json', '', /nothing\.json: expected a JSON object/],
    [
      'open.jsonl',
      '{"id": 1, "views": {"image": "street.png"}, "question": "Wet?"}',
      /none can be trained on.*it has no answer/,
    ],
    [
      'few.jsonl',
      '{"id": 1, "views": {"CAM_FRONT": "street.png"}, "question": "Wet?", "answer": "No."}',
      /its cameras are not those of the canvas/,
    ],
  ])('%s', async (name, text, message) => {
    const file = join(dir, name)
    writeFileSync(file, text)
    const failure = data({ data: file, images })
    await expect(failure).rejects.toThrow(message)
    await expect(failure).rejects.toMatchObject({ code: 'BAD_DATA' })
  })

  test('a file that is not there', async () => {
    await expect(data({ data: join(dir, 'none.json') })).rejects.toThrow(/none\.json: cannot be read \(ENOENT\)/)
  })
})

describe('files of other forms', () => {
  const tiling = { tileSize: 448, minTiles: 1, maxTiles: 12, dynamic: true, useThumbnail: true }

  test('DriveLM’s JSON has its tags on the canvas, and the sentence of the adapted checkpoints', async () => {
    const frame = {
      QA: {
        perception: [
          { Q: 'What is the moving status of <c1,CAM_BACK,1088.3,497.5>?', A: '<c1,CAM_BACK,1088.3,497.5> stands.' },
        ],
        prediction: [],
        planning: [],
        behavior: [],
      },
      image_paths: { CAM_FRONT: 'a.png' },
    }
    const file = join(dir, 'official.json')
    writeFileSync(file, JSON.stringify({ scene: { key_frames: { frame } } }))
    const [list] = await openLists(file, { layout: defaultLayout(undefined, tiling) })
    const { messages, views } = await list!.read(0)
    expect(messages[0]!.value).toMatch(
      /^What is the moving status of <c1,CAM_BACK,\[560, 776\]>\? Objects are encoded using/,
    )
    expect(messages[1]!.value).toBe('<c1,CAM_BACK,[560, 776]> stands.')
    expect(views).toEqual({ CAM_FRONT: join(dir, 'a.png') })
    expect(list!.where(0)).toMatch(/official\.json, question scene_frame_0$/)
    const [plain] = await openLists(file, { layout: defaultLayout(undefined, tiling), conversion: 'none' })
    expect((await plain!.read(0)).messages[1]!.value).toContain('1088.3,497.5')
  })

  test('a meta file gives a list an entry; pictures by camera are separate images of a model without a canvas', async () => {
    writeFileSync(
      join(dir, 'meta-two.json'),
      JSON.stringify({
        a: {
          root: images,
          annotation: join(fixtures, 'training', 'samples.jsonl'),
          data_augment: true,
          repeat_time: 2,
        },
        b: { root: '.', annotation: 'general.jsonl', data_augment: false, repeat_time: 0.5 },
      }),
    )
    const views = { CAM_FRONT: 'left.png', CAM_BACK: 'right.png' }
    writeFileSync(join(dir, 'two.jsonl'), JSON.stringify({ id: 1, views, question: 'Wet?', answer: 'No.' }))
    const made = await data(
      { data: [join(dir, 'meta-two.json'), join(dir, 'two.jsonl')], images, packsPerStep: 100, maxPackTokens: 8192 },
      join(fixtures, 'golden', 'e1-qwen3'),
    )
    const packs = await made.packsOfStep(0)
    expect(packs.flatMap((pack) => pack.names).length).toBe(2 * 4 + 10 + 1)
    expect(made.surveys.map(({ name, used }) => [name, used])).toEqual([
      ['a', 4],
      ['b', 20],
      ['two.jsonl', 1],
    ])
  })
})

test('tiles re-encoded as JPEG are near what they were, the same for a seed, and others for another', async () => {
  const [view] = drawScene(1, await loadDomain('day-city')).views
  const tile = Uint8Array.from(view!.data)
  const once = async (seed: number) => {
    const tiles = Uint8Array.from([...tile, ...tile])
    await recompressTiles(tiles, view!.width, new Random(seed))
    return tiles
  }
  const [a, b, c] = [await once(1), await once(1), await once(2)]
  expect(Buffer.compare(a, b)).toBe(0)
  expect(Buffer.compare(a, c)).not.toBe(0)
  expect(Buffer.compare(a.subarray(0, tile.length), a.subarray(tile.length))).not.toBe(0) // a quality each
  const difference = tile.reduce((sum, value, i) => sum + Math.abs(value - a[i]!), 0) / tile.length
  expect(difference).toBeGreaterThan(0)
  expect(difference).toBeLessThan(6)
})

test('weights of a step add up to 1 over all of its packs, in the shares that the reduction says', () => {
  const packs = [{ weights: Float64Array.of(1, 1) }, { weights: Float64Array.of(2) }]
  normaliseWeights(packs)
  expect(packs.map(({ weights }) => [...weights])).toEqual([[0.25, 0.25], [0.5]])
  expect((['token', 'sample', 'square'] as const).map((reduction) => 16 * tokenWeight(reduction, 16))).toEqual([
    16, 1, 4,
  ])
})

/** What a frozen tower gives is kept: a picture goes through it once, and the result is that of going through it each time, bit for bit. */
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { readCheckpoint } from '../../lib/checkpoint/load-checkpoint.ts'
import { bundledModel } from '../../lib/load-model.ts'
import { loadDomain, writeStreet } from '../../lib/street/index.ts'
import { adapt } from '../../lib/train/adapt.ts'
import { keepsTower, towerCacheBytesOf } from '../../lib/train/plan.ts'
import { settingsOf } from '../../lib/train/settings.ts'
import { openTrainingData, type TrainingDataOptions } from '../../lib/train/training-data.ts'
import type { AdaptOptions, AdaptStep } from '../../lib/train/types.ts'

const dir = mkdtempSync(join(tmpdir(), 'drivlm-tower-'))
const moments = 3
const tiles = 6 * moments
const passes = 3

beforeAll(async () => {
  const domain = await loadDomain('night-left')
  await writeStreet(domain, { scenes: moments, seed: 910_000_300, questions: 3, out: join(dir, 'street') })
})
afterAll(() => rmSync(dir, { recursive: true, force: true }))

/** Packs of up to two moments, others in each pass. */
const open = (more: Partial<TrainingDataOptions> = {}) =>
  openTrainingData(bundledModel, {
    data: join(dir, 'street', 'drivelm.json'),
    passes,
    packsPerStep: 1,
    maxPackTiles: 12,
    ...more,
  })

/** Runs until `last`, or to the end. */
async function run(name: string, more: Partial<AdaptOptions> = {}, last = Number.POSITIVE_INFINITY) {
  const data = await open()
  const steps: AdaptStep[] = []
  try {
    const options = { data, out: join(dir, name), train: 'projector', learningRate: 1e-3, threads: 2, ...more } as const
    for await (const step of adapt(bundledModel, options)) {
      steps.push(step)
      if (step.step === last) break
    }
  } finally {
    await data.close()
  }
  const encoded = steps.reduce((sum, { encodedTiles }) => sum + encodedTiles, 0)
  return { encoded, steps, losses: steps.map(({ loss }) => loss) }
}
const weightsOf = (name: string) => readFileSync(join(dir, name, 'model.safetensors'))
const towerOf = (name: string) => join(dir, `${name}.run`, 'tower')

describe.each([
  ['projector', 'f32'],
  ['language+projector', 'bf16'],
] as const)('with train %s in %s', (train, precision) => {
  const settings = { train, precision, saveEvery: 1 }
  const name = (of: string) => `${of}-${train}`
  let plain: Awaited<ReturnType<typeof run>>

  beforeAll(async () => {
    plain = await run(name('plain'), { ...settings, towerCacheBytes: 0 })
    expect(plain.encoded).toBe(passes * tiles)
  })

  test('the second pass does not go through the tower, and all numbers are the same', async () => {
    const kept = await run(name('kept'), settings)
    expect(kept.encoded).toBe(tiles)
    let seen = 0
    for (const step of kept.steps) {
      if (seen >= tiles) expect(step.encodedTiles).toBe(0)
      seen += step.tiles
    }
    expect(kept.losses).toEqual(plain.losses)
    expect(weightsOf(name('kept')).equals(weightsOf(name('plain')))).toBe(true)
    expect(readdirSync(join(dir, `${name('kept')}.run`))).toEqual(['steps.jsonl'])
  })

  test('so does a run that goes on, with what was kept', async () => {
    const left = name('left')
    const first = await run(left, settings, 2) // some way into the second pass
    expect(first.encoded).toBe(tiles)
    const rest = await run(left, settings)
    expect(rest.encoded).toBe(0)
    expect([...first.losses, ...rest.losses]).toEqual(plain.losses)
    expect(weightsOf(left).equals(weightsOf(name('plain')))).toBe(true)
  })
})

describe('the file', () => {
  let expected: Buffer
  beforeAll(async () => {
    await run('expected', { towerCacheBytes: 0 })
    expected = weightsOf('expected')
  })

  const goesOn = async (name: string, change: (file: string) => void) => {
    await run(name, { saveEvery: 1 }, 2)
    change(towerOf(name))
    const { encoded } = await run(name, { saveEvery: 1 })
    expect(weightsOf(name).equals(expected)).toBe(true)
    return encoded
  }

  test('has the size that the plan says', async () => {
    const { network } = await readCheckpoint(bundledModel)
    const data = await open()
    await data.close()
    expect(data.tiles).toEqual({ all: passes * tiles, different: tiles })
    const planned = towerCacheBytesOf(network, settingsOf({ train: 'projector' }), data)
    await run('size', { saveEvery: 1 }, 2)
    expect(statSync(towerOf('size')).size - planned).toBeLessThan(256) // its head
    expect(statSync(towerOf('size')).size - planned).toBeGreaterThan(0)
  })

  test('is used where it is whole, if a record of it is damaged or cut off', async () => {
    expect(
      await goesOn('damaged', (file) =>
        edit(file, (bytes) => {
          bytes[bytes.length >> 1]! ^= 1
        }),
      ),
    ).toBe(1)
    expect(await goesOn('cut', (file) => writeFileSync(file, readFileSync(file).subarray(0, -7)))).toBe(1)
  })

  test('is made anew where it is of something else, or gone', async () => {
    expect(
      await goesOn('foreign', (file) =>
        edit(file, (bytes) => {
          bytes[20]! ^= 1
        }),
      ),
    ).toBe(tiles)
    expect(await goesOn('noise', (file) => writeFileSync(file, 'not ours'))).toBe(tiles)
    expect(await goesOn('gone', (file) => rmSync(file))).toBe(tiles)
  })

  test('takes no more than it may', async () => {
    const { size } = statSync(towerOf('size'))
    const limit = Math.round(size / 2)
    const { encoded } = await run('half', { towerCacheBytes: limit, saveEvery: 1 })
    expect(encoded).toBeGreaterThan(tiles)
    expect(encoded).toBeLessThan(passes * tiles)
    expect(weightsOf('half').equals(expected)).toBe(true)
  })

  test('is not there where nothing would be found in it again', async () => {
    const once = await open({ passes: 1 })
    await once.close()
    expect(once.tiles).toEqual({ all: tiles, different: tiles })
    expect(keepsTower(settingsOf({ train: 'projector' }), once)).toBe(false)
    const augmented = await open({ augment: true })
    await augmented.close()
    expect(keepsTower(settingsOf({ train: 'projector' }), augmented)).toBe(false)
    const again = await open()
    await again.close()
    for (const part of [{}, { train: 'projector', towerLayers: 1 }] as const)
      expect(keepsTower(settingsOf(part), again)).toBe(false)
    await run('trained', { train: 'all', saveEvery: 1 }, 0)
    expect(existsSync(towerOf('trained'))).toBe(false)
  })

  test('that cannot be one is an error that names it', async () => {
    mkdirSync(towerOf('blocked'), { recursive: true })
    await expect(run('blocked')).rejects.toMatchObject({
      code: 'BAD_DATA',
      message: expect.stringMatching(/blocked\.run\/tower: cannot be written/),
    })
    await expect(run('bad', { towerCacheBytes: -1 })).rejects.toMatchObject({ code: 'BAD_ARGUMENT' })
  })
})

function edit(file: string, change: (bytes: Buffer) => void): void {
  const bytes = readFileSync(file)
  change(bytes)
  writeFileSync(file, bytes)
}

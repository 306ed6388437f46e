/** Quantised weights and activations: how far the answers of street-tiny are from the truth, against bf16. */

import { readFileSync } from 'node:fs'
import path from 'node:path'
import { beforeAll, describe, expect, test } from 'vitest'
import { loadModel } from '../../lib/load-model.ts'
import type { LoadOptions } from '../../lib/options.ts'
import { cameras } from '../../lib/views/cameras.ts'

const val = path.resolve(import.meta.dirname, '..', 'fixtures', 'street-tiny-val')
const golden: { answers: { scene: string; question: string; truth: string }[] } = JSON.parse(
  readFileSync(path.join(val, 'golden.json'), 'utf8'),
)
const scenes = [...new Set(golden.answers.map(({ scene }) => scene))]

/** Right answers of the whole set. */
async function rightAnswers(options: LoadOptions): Promise<number> {
  const model = await loadModel({ ...options, device: 'cpu' })
  let right = 0
  for (const name of scenes) {
    const scene = await model.see(
      Object.fromEntries(cameras.map((camera) => [camera, path.join(val, 'images', camera, `${name}.png`)])),
    )
    // One by one: how questions are batched depends on time, and quantised weights tell batches apart.
    for (const { question, truth } of golden.answers.filter((one) => one.scene === name)) {
      if ((await scene.ask(question)).text === truth) right++
    }
    scene.dispose()
  }
  await model.dispose()
  return right
}

describe('street-tiny, all 720 questions', () => {
  const onePoint = golden.answers.length / 100
  let exact: number
  beforeAll(async () => {
    exact = await rightAnswers({})
  }, 240_000)

  test.each<[string, LoadOptions]>([
    ['int8 weights', { weights: 'int8' }],
    ['int8 weights and activations', { weights: 'int8', activations: 'int8' }],
    ['int4 weights, activations in int8 by default', { weights: 'int4' }],
    ['int4 weights alone', { weights: 'int4', activations: 'bf16' }],
    ['KV cache in int8', { kvCache: 'int8' }],
  ])(
    '%s: within one point of bf16',
    async (_, options) => {
      expect(exact - (await rightAnswers(options))).toBeLessThanOrEqual(onePoint)
    },
    240_000,
  )
})

test.each<[LoadOptions, string]>([
  [{}, 'bf16'],
  [{ weights: 'int8' }, 'bf16'],
  [{ weights: 'int4' }, 'int8'],
  [{ weights: 'int4', activations: 'bf16' }, 'bf16'],
])('%j on the CPU: activations in %s', async (options, activations) => {
  const model = await loadModel({ ...options, device: 'cpu' })
  expect(model.info.activations).toBe(activations)
  await model.dispose()
})

test('formats that cannot be are refused', async () => {
  const bad = { name: 'ModelError', code: 'BAD_ARGUMENT' }
  await expect(loadModel({ weights: 'int2' as never })).rejects.toMatchObject(bad)
  await expect(loadModel({ activations: 'int8' })).rejects.toMatchObject(bad)
  await expect(loadModel({ weights: 'int8', precision: 'f32' })).rejects.toMatchObject(bad)
  await expect(loadModel({ kvCache: 'int8', precision: 'f32' })).rejects.toMatchObject(bad)
})

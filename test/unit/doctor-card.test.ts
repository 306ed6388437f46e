/** `drivlm doctor` on a machine with a GPU: which models and formats it proposes. */
import { expect, test } from 'vitest'
import { cardLines, drivingModels, type Planner, proposeForCard } from '../../lib/cli/doctor-card.ts'

const bits = { bf16: 16, int8: 8, int4: 5 }

/** Only weights and cache, in round numbers. */
const planOn =
  (freeBytes: number | undefined): Planner =>
  ({ language }, { weights = 'bf16', kvCache = 'bf16', maxContext }) => {
    const kvBytesPerToken = 2 * language.layers * language.kvHeads * language.headDim * (bits[kvCache] / 8)
    const weightsBytes = (language.layers * 12 * language.dim ** 2 * bits[weights]) / 8
    const plan = { weightsBytes, kvBytes: 2 * maxContext * kvBytesPerToken, arenaBytes: 1e8, kvBytesPerToken }
    return { ...plan, pageTokens: 64, ...(freeBytes === undefined ? {} : { freeBytes }) }
  }

const GB = 1e9

test('the checkpoint as it is where there is room', () => {
  const found = proposeForCard(planOn(80 * GB))
  expect(found.map(({ model }) => model)).toEqual(Object.keys(drivingModels))
  for (const { fits } of found) expect(fits).toMatchObject({ weights: 'bf16', kvCache: 'bf16', maxContext: 8192 })
  expect(proposeForCard(planOn(undefined)).every(({ fits }) => fits?.weights === 'bf16')).toBe(true)
})

test('smaller formats where there is less, a shorter context before those', () => {
  const [small, , large] = proposeForCard(planOn(6 * GB))
  expect(small!.fits).toMatchObject({ weights: 'bf16', kvCache: 'bf16', maxContext: 8192 })
  expect(large!.fits).toMatchObject({ weights: 'int8', kvCache: 'int8', maxContext: 4096 })
  expect(large!.fits!.totalBytes).toBeLessThanOrEqual(6 * GB)
})

test('what is missing where nothing fits', () => {
  const [small, , large] = proposeForCard(planOn(2 * GB))
  expect(small!.fits).toBeDefined()
  expect(large!.fits).toBeUndefined()
  expect(large!.leastBytes).toBeGreaterThan(2 * GB)
  expect(cardLines([small!, large!])).toEqual([
    expect.stringMatching(/^1B: weights bf16, KV cache bf16, context 8192 \(.+\)$/),
    expect.stringMatching(/^4B: needs .+ at least, more than is free$/),
  ])
})

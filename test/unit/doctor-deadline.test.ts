// What drivlm doctor --deadline proposes, from numbers as they could be measured.
import { expect, test } from 'vitest'
import { deadlineLines, type Measured, propose, searchBudget } from '../../lib/cli/doctor-deadline.ts'

const made = (totalMs: number, choice: Partial<Measured> = {}): Measured => ({
  weights: 'bf16',
  activations: 'bf16',
  tileBudget: undefined,
  tiles: 36,
  seeMs: totalMs * 0.75,
  answerMs: totalMs * 0.25,
  totalMs,
  ...choice,
})
const lines = (measured: Measured[], deadlineMs: number) =>
  deadlineLines({ measured, deadlineMs, answerTokens: 32, proposal: propose(measured, deadlineMs) })

test('the model as it is goes before everything else', () => {
  expect(lines([made(400), made(300, { weights: 'int8' })], 500).at(-1)).toBe('The model as it is meets the deadline.')
})

test('fewer tiles and another format are both proposed: the most tiles, the first format', () => {
  const measured = [
    made(900),
    made(700, { tileBudget: 18, tiles: 18 }),
    made(350, { tileBudget: 6, tiles: 6 }),
    made(480, { tileBudget: 12, tiles: 12 }),
    made(600, { weights: 'int8' }),
    made(450, { weights: 'int8', activations: 'int8' }),
  ]
  const found = lines(measured, 500)
  expect(found).toHaveLength(measured.length + 2)
  expect(found[3]).toBe(
    '  ✓ weights bf16, a tile budget of 12: 12 tiles seen in 360 ms, 32 tokens answered in 120 ms, together 480 ms',
  )
  expect(found.slice(-2)).toEqual([
    'The deadline is met with weights bf16, a tile budget of 12.',
    'The deadline is met with weights int8, activations int8.',
  ])
})

test('none: the fastest is named, and how long an answer it could give', () => {
  const measured = [made(900), made(640, { weights: 'int4' })]
  expect(lines(measured, 500).at(-1)).toBe(
    'None of these meets the deadline; the fastest, weights int4, activations bf16, takes 640 ms. With answers of at most 4 tokens it would.',
  )
  expect(lines(measured, 100).at(-1)).toMatch(/takes 640 ms\.$/)
})

test.each([1, 3, 7, 12])('the search finds %i tiles an image, if so many are in time', async (most) => {
  const tried: number[] = []
  let best = 0
  await searchBudget(6 * 12, 500, async (tileBudget) => {
    tried.push(tileBudget)
    const inTime = tileBudget <= 6 * most
    if (inTime) best = Math.max(best, tileBudget)
    return made(inTime ? 499 : 501, { tileBudget })
  })
  expect(best).toBe(6 * most)
  expect(tried.length).toBeLessThanOrEqual(4)
})

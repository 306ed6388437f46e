/** Operations of training are counted where they are done: by hand, on a network of small numbers. */
import { expect, test } from 'vitest'
import type { NetworkDescription } from '../../lib/native.ts'
import { unitOperations } from '../../lib/train/operations.ts'
import { partsOf } from '../../lib/train/settings.ts'
import type { TrainedPart } from '../../lib/train/types.ts'

const network = {
  vision: { dim: 2, ffnDim: 3, heads: 1, headDim: 2, patchSize: 2, tileSize: 4, layers: 4, outputLayer: 3 },
  language: { dim: 5, layers: 2, heads: 1, kvHeads: 1, headDim: 4, ffnDim: 7, vocab: 11 },
} as NetworkDescription

// Forward, of a tile and of the decoder behind 6 shared rows: two samples of 3 and 2 rows, of which 2 and 1 are learned.
const patches = 2 * 4 * 12 * 2
const layer = 2 * 5 * (2 * 6 + 2 * 2 + 2 * 2 * 3) + 4 * 5 * 5 * 2
const projector = 2 * (4 * 2 * 5 + 5 * 5)
const rows = (count: number, before: number) =>
  2 * (2 * count * (5 * 12 + 4 * 5 + 3 * 5 * 7) + 4 * (count * before + (count * (count + 1)) / 2) * 4)
const decoder = rows(6, 0) + rows(3, 6) + rows(2, 6)
const head = 3 * 2 * 5 * 11

test.each<[TrainedPart, number, number]>([
  ['all', 0, 2 * patches + 4 * (3 * layer + projector + decoder) + 3 * head],
  ['projector', 0, patches + 3 * layer + 4 * projector + 3 * decoder + 2 * head],
  ['language+projector', 0, patches + 3 * layer + 4 * (projector + decoder) + 3 * head],
  ['language+projector', 1, patches + (2 + 4) * layer + 4 * (projector + decoder) + 3 * head],
  ['head', 0, patches + 3 * layer + projector + decoder + 2 * head],
  ['head', 2, patches + (1 + 2 * 4) * layer + 3 * (projector + decoder) + 3 * head],
])('%s and %i layers of the tower', (train, towerLayers, expected) => {
  const samples = [
    { rows: 3, learned: 2 },
    { rows: 2, learned: 1 },
  ]
  const found = unitOperations(network, { tiles: 1, head: 6, samples }, partsOf({ train, towerLayers }, network))
  expect(found.shared).toBe(expected)
})

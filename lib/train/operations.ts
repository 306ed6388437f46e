/** Floating-point operations of training, counted by the shapes of the network: a multiplication and its addition are two. */
import type { NetworkDescription } from '../native.ts'

/** What goes through the network together: a shared beginning, and what follows it. */
export interface CountedUnit {
  tiles: number
  /** Rows that all samples have in common; 0 for one sample. */
  head: number
  /** Rows of each sample behind them, and how many of its labels are learned. */
  samples: { rows: number; learned: number }[]
}

/** Forward, its recomputation and the two products of backward: four times the forward pass. */
const passes = 4

/**
 * Operations of a unit, as it is trained and as its samples would be trained one by one, each with its pictures and its own copy of the
 * beginning. Norms, activations and the optimiser are not counted.
 */
export function unitOperations(network: NetworkDescription, unit: CountedUnit): { shared: number; separate: number } {
  const tower = unit.tiles * tileOperations(network)
  let shared = tower + decoderOperations(network, unit.head, 0)
  let separate = 0
  for (const { rows, learned } of unit.samples) {
    const head = learned * 2 * network.language.dim * network.language.vocab
    shared += decoderOperations(network, rows, unit.head) + head
    separate += tower + decoderOperations(network, unit.head + rows, 0) + head
  }
  return { shared: passes * shared, separate: passes * separate }
}

/** A tile through the tower and the projector, forward. */
function tileOperations({ vision, language }: NetworkDescription): number {
  const { dim, ffnDim, heads, headDim, patchSize, tileSize, outputLayer } = vision
  const patches = (tileSize / patchSize) ** 2
  const rows = patches + 1
  const inner = heads * headDim
  const layer = 2 * rows * (dim * 3 * inner + inner * dim + 2 * dim * ffnDim) + 4 * rows * rows * inner
  const tokens = patches / 4
  const projector = 2 * tokens * (4 * dim * language.dim + language.dim ** 2)
  return 2 * patches * 3 * patchSize ** 2 * dim + outputLayer * layer + projector
}

/** So many rows through the decoder's layers, forward, behind `before` rows that they attend to. */
function decoderOperations({ language }: NetworkDescription, rows: number, before: number): number {
  const { dim, layers, heads, kvHeads, headDim, ffnDim } = language
  const products = dim * (heads + 2 * kvHeads) * headDim + heads * headDim * dim + 3 * dim * ffnDim
  const pairs = rows * before + (rows * (rows + 1)) / 2
  return layers * (2 * rows * products + 4 * pairs * heads * headDim)
}

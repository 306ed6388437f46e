/** Floating-point operations of training, counted by the shapes of the network: a multiplication and its addition are two. */
import type { NetworkDescription } from '../native.ts'
import type { NativeTrainedParts } from '../native-training.ts'

/** What goes through the network together: a shared beginning, and what follows it. */
export interface CountedUnit {
  tiles: number
  /** Rows that all samples have in common; 0 for one sample. */
  head: number
  /** Rows of each sample behind them, and how many of its labels are learned. */
  samples: { rows: number; learned: number }[]
}

/** How often the operations of the forward pass are done, by part. */
interface Passes {
  patches: number
  /** Of the tower from its first trained layer on; those below it are gone through once. */
  tower: number
  projector: number
  decoder: number
  head: number
}

/**
 * What has a backward is done forward, once more where that begins, and again for the gradient of what went in; a gradient of its weights costs as
 * much. Nothing is asked for behind the first part that is trained, and of the logits nothing is done again.
 */
function passesOf({ vision }: NetworkDescription, parts: NativeTrainedParts): Passes {
  const tower = parts.firstTowerLayer < vision.outputLayer
  const imageTokens = parts.patches || parts.projector || tower
  const decoder = parts.decoder || imageTokens
  const of = (backward: boolean, weights: boolean) => (backward ? 3 : 1) + (weights ? 1 : 0)
  return {
    patches: parts.patches ? 2 : 1,
    tower: of(true, true),
    projector: of(imageTokens, parts.projector),
    decoder: of(decoder, parts.decoder),
    head: 1 + (decoder ? 1 : 0) + (parts.head ? 1 : 0),
  }
}

/**
 * Operations of a unit, as it is trained and as its samples would be trained one by one, each with its pictures and its own copy of the
 * beginning. Norms, activations and the optimiser are not counted, nor that a picture which comes again may be known. `parts`: those that are
 * trained.
 */
export function unitOperations(
  network: NetworkDescription,
  unit: CountedUnit,
  parts: NativeTrainedParts,
): { shared: number; separate: number } {
  const passes = passesOf(network, parts)
  const tower = unit.tiles * tileOperations(network, passes, parts)
  const rowsBehind = (rows: number, before: number) => passes.decoder * decoderOperations(network, rows, before)
  let shared = tower + rowsBehind(unit.head, 0)
  let separate = 0
  for (const { rows, learned } of unit.samples) {
    const head = passes.head * learned * 2 * network.language.dim * network.language.vocab
    shared += rowsBehind(rows, unit.head) + head
    separate += tower + rowsBehind(unit.head + rows, 0) + head
  }
  return { shared, separate }
}

/** A tile through the tower and the projector. */
function tileOperations({ vision, language }: NetworkDescription, passes: Passes, parts: NativeTrainedParts): number {
  const { dim, ffnDim, heads, headDim, patchSize, tileSize, outputLayer } = vision
  const patches = (tileSize / patchSize) ** 2
  const rows = patches + 1
  const inner = heads * headDim
  const layer = 2 * rows * (dim * 3 * inner + inner * dim + 2 * dim * ffnDim) + 4 * rows * rows * inner
  const tokens = patches / 4
  const projector = 2 * tokens * (4 * dim * language.dim + language.dim ** 2)
  const frozen = parts.patches ? 0 : Math.min(parts.firstTowerLayer, outputLayer)
  return (
    passes.patches * 2 * patches * 3 * patchSize ** 2 * dim +
    (frozen + passes.tower * (outputLayer - frozen)) * layer +
    passes.projector * projector
  )
}

/** So many rows through the decoder's layers, forward, behind `before` rows that they attend to. */
function decoderOperations({ language }: NetworkDescription, rows: number, before: number): number {
  const { dim, layers, heads, kvHeads, headDim, ffnDim } = language
  const products = dim * (heads + 2 * kvHeads) * headDim + heads * headDim * dim + 3 * dim * ffnDim
  const pairs = rows * before + (rows * (rows + 1)) / 2
  return layers * (2 * rows * products + 4 * pairs * heads * headDim)
}

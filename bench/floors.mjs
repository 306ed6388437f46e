// What each stage must at least cost: operations and bytes of the network description, divided by the peaks of the machine.
// README.md writes the formulas out.

/** Bits that a weight of a linear layer takes in memory: 4-bit weights carry a 16-bit scale for 32 of them. */
const weightBits = { bf16: 16, int8: 8, int4: 4 + 16 / 32 }

/** @typedef {{ linear: number, attention: number, bytes: number }} Cost operations of linear layers and of attention, bytes read */

const plus = (a, b) => ({
  linear: a.linear + b.linear,
  attention: a.attention + b.attention,
  bytes: a.bytes + b.bytes,
})
const times = (count, cost) => ({
  linear: count * cost.linear,
  attention: count * cost.attention,
  bytes: cost.bytes, // weights are read once for all
})

/** Elements of the language model's linear layers, without embedding and head. */
export function layerWeights({ dim, heads, kvHeads, headDim, ffnDim, layers }) {
  const qkv = (heads + 2 * kvHeads) * headDim * dim
  const out = dim * heads * headDim
  return layers * (qkv + out + 3 * ffnDim * dim)
}

/**
 * Pixels of tiles to image tokens.
 *
 * @returns {Cost}
 */
export function visionCost({ vision, language }, tiles, mode) {
  const { dim, ffnDim, patchSize, tileSize, outputLayer } = vision
  const patches = (tileSize / patchSize) ** 2
  const positions = patches + 1
  const tokens = patches / 4
  const block = 4 * dim * dim + 2 * dim * ffnDim
  const patch = dim * 3 * patchSize * patchSize
  const projector = 4 * dim * language.dim + language.dim * language.dim
  const tile = {
    linear: 2 * (positions * outputLayer * block + patches * patch + tokens * projector),
    attention: 4 * outputLayer * positions * positions * dim,
    bytes: ((outputLayer * block + patch + projector) * weightBits[mode.weights]) / 8,
  }
  return times(tiles, tile)
}

/** Of these, what every token of a prompt meets: all but what follows the keys and values of the last layer. */
export function fillingWeights(language) {
  const { dim, heads, kvHeads, headDim, layers } = language
  return layerWeights({ ...language, layers: layers - 1 }) + (heads + 2 * kvHeads) * headDim * dim
}

/**
 * Tokens into the cache after `past` others, and the logits of the last one if `head`. Only a token whose logits are asked for goes on behind the
 * keys and values of the last layer.
 *
 * @returns {Cost}
 */
export function prefillCost({ language }, tokens, mode, { past = 0, head = true } = {}) {
  const { dim, heads, headDim, layers, vocab } = language
  const filling = fillingWeights(language)
  const ending = head ? layerWeights(language) - filling + vocab * dim : 0
  // Token i of them attends to past + i + 1.
  const pairs = tokens * past + (tokens * (tokens + 1)) / 2
  return {
    linear: 2 * (tokens * filling + ending),
    attention: 4 * heads * headDim * ((layers - 1) * pairs + (head ? past + tokens : 0)),
    bytes: ((filling + ending) * weightBits[mode.weights]) / 8,
  }
}

/**
 * One token after `context` others: every weight and the whole cache once.
 *
 * @returns {Cost}
 */
export function decodeCost({ language }, context, mode) {
  const { dim, kvHeads, headDim, layers, vocab } = language
  // int4 keeps the head at 8 bits.
  const headBits = mode.weights === 'int4' ? weightBits.int8 : weightBits[mode.weights]
  const weights = (layerWeights(language) * weightBits[mode.weights] + vocab * dim * headBits) / 8
  // In 8 bits a scale of 32 bits for each head.
  const head = mode.kvCache === 'int8' ? headDim + 4 : headDim * (mode.precision === 'f32' ? 4 : 2)
  const cache = context * layers * 2 * kvHeads * head
  return { ...prefillCost({ language }, 1, mode, { past: context }), bytes: weights + cache }
}

/** Tiles and prompt to the first token. */
export function firstTokenCost(network, tiles, tokens, mode) {
  const seen = visionCost(network, tiles, mode)
  return plus(seen, prefillCost(network, tokens, mode))
}

/**
 * Seconds below which no implementation of this mode comes on a machine with these peaks: arithmetic at the peak of its type, or the
 * reading of every weight, whichever takes longer.
 */
export function floorSeconds(cost, mode, peaks) {
  const plain = (mode.precision === 'f32' ? peaks.f32_gflops : peaks.bf16_gflops) * 1e9
  const linear = mode.activations === 'int8' ? peaks.u8s8_gops * 1e9 : plain
  return Math.max(cost.linear / linear + cost.attention / plain, cost.bytes / (peaks.read_gbs * 1e9))
}

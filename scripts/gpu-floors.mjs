#!/usr/bin/env node
// Prints the table of floors of docs/kernels.md: what decoding and thirteen tiles at least cost on cards that vehicles and desks have, by
// bench/floors.mjs, from the makers' own figures. Bounds, no measurements.
import { decodeCost, firstTokenCost, floorSeconds } from '../bench/floors.mjs'
import { loadStandIns } from './stand-in/load.mjs'

/** Reading in GB/s, and dense tensor-core rates for bf16 with f32 sums, by the makers' data sheets. */
const cards = {
  'Orin Nano 8 GB (Super)': { read_gbs: 102, bf16_gflops: 17e3 },
  'AGX Orin 64 GB': { read_gbs: 205, bf16_gflops: 43e3 },
  'Thor T5000': { read_gbs: 273, bf16_gflops: 259e3 },
  'RTX 4090': { read_gbs: 1008, bf16_gflops: 165e3 },
  H200: { read_gbs: 4800, bf16_gflops: 989e3 },
}
const models = { '1B': 'internvl2-1b', '2B': 'internvl2-2b', '4B': 'internvl2-4b' }
const context = 3400

const { standIns } = await loadStandIns()
const networkOf = ({ vision, dim, layers, heads, kvHeads, headDim, ffn, vocab }) => ({
  vision: {
    dim: vision.dim,
    ffnDim: vision.ffn,
    patchSize: vision.patch,
    tileSize: vision.image,
    outputLayer: vision.layers,
  },
  language: { dim, layers, heads, kvHeads, headDim, ffnDim: ffn, vocab },
})
const mode = (weights) => ({ precision: 'bf16', activations: 'bf16', weights })
const digits = (value) => (value >= 100 ? value.toFixed(0) : value.toPrecision(2))

const heads = ['card', 'model', 'bf16 tok/s', 'int8 tok/s', 'int4 tok/s', '13 tiles to the first token']
console.log(`| ${heads.join(' | ')} |\n|${heads.map(() => '---|').join('')}`)
for (const [card, peaks] of Object.entries(cards)) {
  for (const [model, family] of Object.entries(models)) {
    const network = networkOf(standIns[family])
    const rates = ['bf16', 'int8', 'int4'].map((weights) =>
      digits(1 / floorSeconds(decodeCost(network, context, mode(weights)), mode(weights), peaks)),
    )
    const first = floorSeconds(firstTokenCost(network, 13, context, mode('bf16')), mode('bf16'), peaks)
    console.log(`| ${[card, model, ...rates, `${digits(first * 1000)} ms`].join(' | ')} |`)
  }
}

#!/usr/bin/env node
// Prints the table of floors of docs/kernels.md: what decoding and thirteen tiles at least cost on cards that vehicles and desks have, by
// bench/floors.mjs, from the makers' own figures. Bounds, no measurements.
import { decodeCost, firstTokenCost, floorSeconds } from '../bench/floors.mjs'
import { loadStandIns } from './stand-in/load.mjs'

/** Reading in GB/s, and dense tensor-core rates for bf16 with f32 sums and for bytes, by the makers' data sheets. */
const cards = {
  'Orin Nano 8 GB (Super)': { read_gbs: 102, bf16_gflops: 17e3, u8s8_gops: 33e3 },
  'AGX Orin 64 GB': { read_gbs: 205, bf16_gflops: 43e3, u8s8_gops: 85e3 },
  'Thor T5000': { read_gbs: 273, bf16_gflops: 259e3, u8s8_gops: 517e3 },
  'RTX 4090': { read_gbs: 1008, bf16_gflops: 165e3, u8s8_gops: 660e3 },
  H200: { read_gbs: 4800, bf16_gflops: 989e3, u8s8_gops: 1979e3 },
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
const mode = (weights, kvCache = 'bf16', activations = 'bf16') => ({ precision: 'bf16', activations, weights, kvCache })
const digits = (value) => (value >= 100 ? value.toFixed(0) : value.toPrecision(2))

const decoding = [mode('bf16'), mode('int8'), mode('int4'), mode('int4', 'int8')]
const seeing = [mode('bf16'), mode('int8', 'bf16', 'int8')]
const heads = [
  'card',
  'model',
  'bf16 tok/s',
  'int8 tok/s',
  'int4 tok/s',
  'int4, cache int8 tok/s',
  '13 tiles to the first token, bf16',
  'int8, activations int8',
]
console.log(`| ${heads.join(' | ')} |\n|${heads.map(() => '---|').join('')}`)
for (const [card, peaks] of Object.entries(cards)) {
  for (const [model, family] of Object.entries(models)) {
    const network = networkOf(standIns[family])
    const rates = decoding.map((one) => digits(1 / floorSeconds(decodeCost(network, context, one), one, peaks)))
    const firsts = seeing.map(
      (one) => `${digits(1000 * floorSeconds(firstTokenCost(network, 13, context, one), one, peaks))} ms`,
    )
    console.log(`| ${[card, model, ...rates, ...firsts].join(' | ')} |`)
  }
}

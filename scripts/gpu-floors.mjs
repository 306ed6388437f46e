#!/usr/bin/env node
// Prints the tables of docs/kernels.md: what decoding and thirteen tiles at least cost on cards that vehicles and desks have, by bench/floors.mjs,
// from the makers' own figures; and the bytes that a token reads. Bounds, no measurements.
import { decodeCost, fillingWeights, firstTokenCost, floorSeconds } from '../bench/floors.mjs'
import { loadStandIns } from './stand-in/load.mjs'

/**
 * Reading in GB/s, and dense tensor-core rates for bf16 with f32 sums and for bytes, by the makers' data sheets. `pass`: rows of a prompt that go
 * through the decoder at a time with 4-bit weights and activations in 8 bits (CudaDevice::prefill_rows).
 */
const cards = {
  'Orin Nano 8 GB (Super)': { read_gbs: 102, bf16_gflops: 17e3, u8s8_gops: 33e3, pass: 1024 },
  'AGX Orin 64 GB': { read_gbs: 205, bf16_gflops: 43e3, u8s8_gops: 85e3, pass: 2048 },
  'Thor T5000': { read_gbs: 273, bf16_gflops: 259e3, u8s8_gops: 517e3, pass: 2048 },
  'RTX 4090': { read_gbs: 1008, bf16_gflops: 165e3, u8s8_gops: 660e3, pass: 2048 },
  H200: { read_gbs: 4800, bf16_gflops: 989e3, u8s8_gops: 1979e3, pass: 2048 },
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
const digits = (value) => (value >= 99.5 ? value.toFixed(0) : value.toPrecision(2))

const decoding = [mode('bf16'), mode('int8'), mode('int4'), mode('int4', 'int8')]
const seeing = [mode('bf16'), mode('int8', 'bf16', 'int8')]

/** Seconds in which 4-bit weights are read and written as bytes before products of bytes: once a pass of the scene, and for the question. */
const bytesSeconds = ({ language }, { pass, read_gbs }) =>
  ((Math.ceil(context / pass) + 1) * fillingWeights(language) * (0.5625 + 1)) / (read_gbs * 1e9)

function table(heads, rows) {
  console.log(`| ${heads.join(' | ')} |\n|${heads.map(() => '---|').join('')}`)
  for (const cells of rows) console.log(`| ${cells.join(' | ')} |`)
}

const networks = Object.entries(models).map(([model, family]) => [model, networkOf(standIns[family])])
const formats = ['bf16', 'int8', 'int4', 'int4, cache int8']
const firsts = ['bf16', 'int8, activations int8', 'int4, activations int8']
table(
  [
    'card',
    'model',
    ...formats.map((format) => `${format} tok/s`),
    `13 tiles to the first token, ${firsts[0]}`,
    firsts[1],
    firsts[2],
  ],
  Object.entries(cards).flatMap(([card, peaks]) =>
    networks.map(([model, network]) => {
      const rates = decoding.map((one) => digits(1 / floorSeconds(decodeCost(network, context, one), one, peaks)))
      const [plain, bytes] = seeing.map((one) => floorSeconds(firstTokenCost(network, 13, context, one), one, peaks))
      const seconds = [plain, bytes, bytes + bytesSeconds(network, peaks)]
      return [card, model, ...rates, ...seconds.map((one) => `${digits(1000 * one)} ms`)]
    }),
  ),
)
console.log('')
table(
  ['MB a token', ...formats],
  networks.map(([model, network]) => [
    model,
    ...decoding.map((one) => (decodeCost(network, context, one).bytes / 1e6).toFixed(0)),
  ]),
)

#!/usr/bin/env node
// Writes training goldens as plain files: `node scripts/dump-training.mjs TRAINING CHECKPOINTS OUT`, one OUT/NAME.training.dump for each
// TRAINING/models/NAME that has its checkpoint in CHECKPOINTS/NAME. Pictures are TRAINING/images or TRAINING/data/images, samples samples.jsonl beside
// them. test/network/dump.h has the format: of each case ids, tiles, spans, labels with their weights, and what must come of them; a gradient's
// entries by their places in the rows of the table of parameters.
import { existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { crc32 } from 'node:zlib'
import sharp from 'sharp'
import { readCheckpoint } from '../dist/checkpoint/load-checkpoint.js'
import { readWeights } from '../dist/checkpoint/safetensors.js'
import { loadAddon } from '../dist/native.js'
import { loadTokenizer } from '../dist/text/load-tokenizer.js'
import { writeDump } from './dump-network.mjs'
import { GoldenTensors } from './golden/models.mjs'

const elementBytes = { F32: 4, F16: 2, BF16: 2 }

/** Tiles of a sample's pictures, [tiles, size, size, 3]. */
async function tilesOf(sample, images, tileSize, maxTiles) {
  const names = [sample.image ?? []].flat()
  const most = Array.isArray(sample.image) ? Math.max(1, Math.floor(maxTiles / names.length)) : maxTiles
  const parts = []
  for (const name of names) {
    const { data, info } = await sharp(path.join(images, name))
      .removeAlpha()
      .raw()
      .toBuffer({ resolveWithObject: true })
    const grid = loadAddon().chooseGrid(info.width, info.height, tileSize, 1, most, true)
    const picture = { rgb: new Uint8Array(data), width: info.width, height: info.height }
    parts.push(loadAddon().tileBytes(await loadAddon().prepareTiles(picture, grid, tileSize)))
  }
  return Buffer.concat(parts)
}

/** From a place in a stored tensor to one in a canonical tensor: [index of the tensor, flat position]. */
function placesOf(checkpoint, stored) {
  const spans = checkpoint.tensors.flatMap(({ shape, dtype, spans }, index) => {
    let row = 0
    return spans.map((span) => {
      const element = elementBytes[span.dtype ?? dtype]
      const rowBytes = shape.slice(1).reduce((product, size) => product * size, element)
      const begin = {
        index,
        file: span.file,
        from: span.offset,
        to: span.offset + span.rows * rowBytes,
        first: row * rowBytes,
      }
      row += span.rows
      return { ...begin, element }
    })
  })
  return (name, flat) => {
    const { file, offset, dtype } = stored.get(name)
    const at = offset + flat * elementBytes[dtype]
    const span = spans.find((one) => one.file === file && at >= one.from && at < one.to)
    return [span.index, (span.first + at - span.from) / span.element]
  }
}

function gradientArrays(prefix, name, tensors, place) {
  const arrays = []
  for (const key of Object.keys(tensors.header)) {
    if (!key.startsWith(prefix) || key.endsWith('.val')) continue
    const parameter = key.slice(prefix.length).replace(/\.idx$/, '')
    const { data } = tensors.get(key.endsWith('.idx') ? `${prefix}${parameter}.val` : key)
    const flat = key.endsWith('.idx') ? tensors.get(key).data : data.keys()
    const where = Int32Array.from([...flat].flatMap((position) => place(parameter, position)))
    arrays.push([`${name}.grad.${parameter}.where`, { shape: [data.length, 2], data: where }])
    arrays.push([`${name}.grad.${parameter}.val`, { shape: [data.length], data }])
  }
  return arrays
}

async function dumpTraining(training, name, dir, out) {
  const golden = JSON.parse(readFileSync(path.join(training, 'models', name, 'golden.json'), 'utf8'))
  const tensors = new GoldenTensors(path.join(training, 'models', name, 'golden.safetensors'))
  const data = existsSync(path.join(training, 'data')) ? path.join(training, 'data') : training
  const lines = readFileSync(path.join(data, 'samples.jsonl'), 'utf8').trim().split('\n')
  const samples = new Map(lines.map((line) => JSON.parse(line)).map((sample) => [sample.id, sample]))
  const checkpoint = await readCheckpoint(dir)
  const slotId = (await loadTokenizer(dir)).idOf('<IMG_CONTEXT>')
  const place = placesOf(checkpoint, (await readWeights(dir)).tensors)
  const { tileSize } = checkpoint.network.vision
  const arrays = new Map()
  const cases = Object.keys(golden.samples).map((id) => ({
    id,
    ids: [id],
    grad: `${id}.grad.`,
    of: golden.samples[id],
  }))
  cases.push({ id: 'pack', ids: golden.packs.square.samples, grad: 'pack.grad.', of: golden.packs.square })
  for (const { id, ids, grad, of } of cases) {
    const parts = await Promise.all(
      ids.map(async (one) => {
        const tiles = await tilesOf(samples.get(one), path.join(data, 'images'), tileSize, golden.max_dynamic_patch)
        const labels = tensors.get(`${one}.labels`).data
        const input = tensors.get(`${one}.input_ids`).data
        const crcs = tensors.header[`${one}.tiles_crc_u8`]
        if (tiles.length > 0 && crcs.shape[0] * tileSize * tileSize * 3 !== tiles.length)
          throw new Error(`${name} ${one}: other tiles`)
        return { tiles, labels, ids: input.map((token) => (tiles.length > 0 && token === slotId ? -1 : token)) }
      }),
    )
    const labels = Int32Array.from(parts.flatMap((part) => [...part.labels]))
    // Of the pack as published, loss_reduction square: each sample's labels have n^-1/2, n of them it has. Alone this is the mean.
    const weights = parts.flatMap((part) => {
      const learned = part.labels.filter((label) => label !== -100).length
      return Array.from(part.labels, (label) => (label === -100 ? 0 : learned ** -0.5))
    })
    const total = weights.reduce((sum, weight) => sum + weight, 0)
    let row = 0
    const spans = parts.flatMap((part) => {
      row += part.ids.length
      return [row - part.ids.length, part.ids.length]
    })
    const tiles = Buffer.concat(parts.map((part) => part.tiles))
    arrays.set(`${id}.tokens`, { shape: [row], data: Int32Array.from(parts.flatMap((part) => [...part.ids])) })
    arrays.set(`${id}.spans`, { shape: [spans.length / 2, 2], data: Int32Array.from(spans) })
    arrays.set(`${id}.labels`, { shape: [row], data: labels })
    arrays.set(`${id}.weights`, { shape: [row], data: Float32Array.from(weights, (weight) => weight / total) })
    if (tiles.length > 0) {
      const count = tiles.length / (tileSize * tileSize * 3)
      arrays.set(`${id}.tiles`, { shape: [count, tileSize, tileSize, 3], data: new Uint8Array(tiles) })
    }
    const norm = of.grad_norm ?? Math.hypot(...Object.values(of.grad_norms))
    arrays.set(`${id}.loss`, { shape: [1], data: Float32Array.of(of.loss) })
    arrays.set(`${id}.grad_norm`, { shape: [1], data: Float32Array.of(norm) })
    if (tensors.has(`${id}.grad_inputs_embeds`))
      arrays.set(`${id}.input_gradient`, tensors.get(`${id}.grad_inputs_embeds`))
    for (const [key, value] of gradientArrays(grad, id, tensors, place)) arrays.set(key, value)
  }
  // Runs of the optimiser: 8 updates over 2 samples each, in order and cyclic.
  for (const [number, id] of Object.keys(golden.samples).entries())
    arrays.set(`${id}.number`, { shape: [1], data: Int32Array.of(number) })
  for (const key of ['decay_all', 'strong_decay_all', 'strong_decay_trainer', 'bf16']) {
    const run = golden.runs?.[key]
    if (run === undefined) continue
    const list = (values) => ({ shape: [values.length], data: Float32Array.from(values) })
    arrays.set(`run.${key}.loss`, list(run.loss.flat()))
    arrays.set(`run.${key}.grad_norm`, list(run.grad_norm))
    arrays.set(`run.${key}.lr`, list(run.lr))
    // How far all parameters went. In bf16 that of stored f32 weights has the step of their rounding in it, which ours has not.
    if (key !== 'bf16' || checkpoint.tensors.every(({ dtype }) => dtype === 'BF16'))
      arrays.set(`run.${key}.moved`, list([Math.hypot(...Object.values(run.moved))]))
    for (const [entry, value] of gradientArrays(`run.${key}.final.`, `run.${key}`, tensors, place))
      arrays.set(entry, value)
  }
  // One sample with given coins of drop path: what each branch is multiplied with, [layers, 2, tiles].
  const drop = path.join(training, 'models', name, 'drop_path')
  if (existsSync(`${drop}.json`)) {
    const { sample, rates, loss } = JSON.parse(readFileSync(`${drop}.json`, 'utf8'))
    const dropped = new GoldenTensors(`${drop}.safetensors`)
    const coins = dropped.get('coins').data
    const { shape } = dropped.header.coins
    const factors = Float32Array.from(coins, (coin, i) => {
      const rate = rates[Math.floor(i / (shape[1] * shape[2]))]
      return rate === 0 ? 1 : coin / (1 - rate)
    })
    arrays.set('drop_path.factors', { shape, data: factors })
    arrays.set('drop_path.sample', { shape: [1], data: Int32Array.of(Object.keys(golden.samples).indexOf(sample)) })
    arrays.set('drop_path.loss', { shape: [1], data: Float32Array.of(loss) })
    for (const [entry, value] of gradientArrays('grad.', 'drop_path', dropped, place)) arrays.set(entry, value)
    dropped.close()
  }
  // The tiles themselves, against the reference's.
  for (const id of Object.keys(golden.samples)) {
    const tiles = arrays.get(`${id}.tiles`)
    if (tiles === undefined) continue
    const size = tileSize * tileSize * 3
    const expected = tensors.get(`${id}.tiles_crc_u8`).data
    expected.forEach((crc, i) => {
      if (BigInt(crc32(tiles.data.subarray(i * size, (i + 1) * size))) !== crc)
        throw new Error(`${name} ${id}: tile ${i} differs`)
    })
  }
  tensors.close()
  const file = path.join(out, `${name}.training.dump`)
  writeDump(file, checkpoint, arrays)
  return file
}

const [training, checkpoints, out] = process.argv.slice(2).map((argument) => path.resolve(argument))
if (out === undefined) {
  console.error('Usage: node scripts/dump-training.mjs TRAINING CHECKPOINTS OUT')
  process.exit(2)
}
mkdirSync(out, { recursive: true })
for (const name of readdirSync(path.join(training, 'models')).sort()) {
  const dir = path.join(checkpoints, name)
  if (existsSync(path.join(dir, 'config.json'))) console.log(await dumpTraining(training, name, dir, out))
}

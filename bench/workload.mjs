// What the stages are given: pictures and token ids, the same in every run.
import sharp from 'sharp'
import { decodePicture } from '../dist/views/decode.js'

/** Size of a nuScenes picture. */
const width = 1600
const height = 900

/** Ids of a system message and of a question, about as many as DriveLM's have. */
const systemTokens = 40
const questionTokens = 24

/** Numbers from 0 up to 1, the same for the same seed (mulberry32). */
export function randomNumbers(seed) {
  let state = seed | 0
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let z = Math.imul(state ^ (state >>> 15), 1 | state)
    z = (z + Math.imul(z ^ (z >>> 7), 61 | z)) ^ z
    return ((z ^ (z >>> 14)) >>> 0) / 2 ** 32
  }
}

export function randomIds(count, vocab, seed) {
  const next = randomNumbers(seed)
  return Int32Array.from({ length: count }, () => Math.floor(next() * vocab))
}

/** A picture with both flat and busy parts: JPEGs of noise alone would be slower to decode than any photograph. */
function picture(seed) {
  const next = randomNumbers(seed)
  const waves = Array.from({ length: 6 }, () => [next() * 0.04, next() * 0.04, next() * 6.28])
  const rgb = new Uint8Array(width * height * 3)
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      for (let channel = 0; channel < 3; channel++) {
        const [a, b, c] = waves[channel]
        const [d, e, f] = waves[channel + 3]
        const smooth = 60 * Math.sin(a * x + b * y + c) + 50 * Math.sin(d * x - e * y + f)
        rgb[at++] = Math.max(0, Math.min(255, 128 + smooth + (y > height / 2 ? 24 * next() : 0)))
      }
    }
  }
  return { rgb, width, height }
}

/** `count` tiles, prepared by the addon: one view, six views of a tile each, or the DriveLM canvas with its thumbnail. */
export async function imagesOf(addon, views, count, tileSize) {
  const single = { columns: 1, rows: 1, thumbnail: false }
  if (count === 1) return [await addon.prepareTiles(views[0], single, tileSize)]
  if (count === views.length) return Promise.all(views.map((one) => addon.prepareTiles(one, single, tileSize)))
  if (count !== 13) throw new Error(`no way to make ${count} tiles`)
  const cell = { width: 2 * tileSize, height: tileSize }
  const cells = await addon.prepareCells(views, cell)
  return [await addon.prepareTiles({ cells, columns: 3 }, { columns: 6, rows: 2, thumbnail: true }, tileSize)]
}

/** A prompt around the image slots of so many tiles, and a question about them. */
export function promptOf(tiles, { vision, language }, seed) {
  const slots = tiles * (vision.tileSize / vision.patchSize / 2) ** 2
  const ids = new Int32Array(systemTokens + slots).fill(-1)
  ids.set(randomIds(systemTokens, language.vocab, seed))
  return { ids, question: randomIds(questionTokens, language.vocab, seed + 1) }
}

/** The six views. */
export const pictures = () => Array.from({ length: 6 }, (_, i) => picture(i + 1))

/** Decoding six JPEGs together, as a stage of no mode. */
export async function decodeStage(runs) {
  const jpegs = await Promise.all(
    pictures().map(({ rgb }) =>
      sharp(rgb, { raw: { width, height, channels: 3 } })
        .jpeg({ quality: 90 })
        .toBuffer(),
    ),
  )
  const seconds = []
  for (let run = 0; run < runs; run++) {
    const started = performance.now()
    await Promise.all(jpegs.map((jpeg, i) => decodePicture(jpeg, `view ${i + 1}`)))
    seconds.push((performance.now() - started) / 1000)
  }
  return { name: 'decode_6_jpegs', unit: 'ms', per: 1, cost: null, seconds }
}

// Pictures: decoding, grids, tiles, and the labelled canvas, byte for byte.

import { existsSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { loadAddon } from '../../dist/native.js'
import { imagesFor, tileCount } from '../../dist/views/compose.js'
import { decodePicture } from '../../dist/views/decode.js'
import { labelFor } from '../../dist/views/labels.js'

const crcTable = Uint32Array.from({ length: 256 }, (_, i) => {
  let crc = i
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? 0xedb88320 ^ (crc >>> 1) : crc >>> 1
  return crc
})

/** CRC-32 of the zlib polynomial; node:zlib has it only since Node 20.15. */
export function crc32(bytes) {
  let crc = ~0
  for (const byte of bytes) crc = crcTable[(crc ^ byte) & 255] ^ (crc >>> 8)
  return ~crc >>> 0
}

/** A row that counts what is wrong among `checks` ([what, found, expected]); bound 0. */
function count(name, stage, checks) {
  const wrong = checks.filter(([, found, expected]) => String(found) !== String(expected))
  const first = wrong.slice(0, 1).map(([what, found, expected]) => `${what}: expected ${expected}, found ${found}`)[0]
  return {
    name,
    stage,
    error: wrong.length,
    bound: 0,
    ok: wrong.length === 0,
    compared: checks.length,
    ...(first ? { first } : {}),
  }
}

/** What the decoder does otherwise than the reference, by Pillow's mode. */
const otherwise = {
  I: '16-bit grey is scaled to 8 bits here; the reference clips it at 255',
  'I;16': '16-bit grey is scaled to 8 bits here; the reference clips it at 255',
}

/** `dir` has preprocess.json, images/ and, if it is there, preprocess.safetensors. */
export async function runPreprocessGolden(dir) {
  const golden = JSON.parse(readFileSync(path.join(dir, 'preprocess.json'), 'utf8'))
  const stored = readTensors(path.join(dir, 'preprocess.safetensors'))
  const addon = loadAddon()
  const rows = []
  for (const [file, image] of Object.entries(golden.images)) {
    if (Object.hasOwn(otherwise, image.mode)) {
      rows.push({ name: file, stage: 'all', skipped: otherwise[image.mode] })
      continue
    }
    const picture = await decodePicture(path.join(dir, 'images', file), file)
    rows.push(
      count(file, 'rgb', [
        ['size', [picture.width, picture.height], image.size],
        ['crc', crc32(picture.rgb), image.rgb_crc32],
      ]),
    )
    const checks = { grid: [], tiles: [], values: [] }
    for (const setting of image.settings) {
      const { image_size: size, min, max, thumbnail } = setting
      const what = `${size} px, ${min} to ${max}${thumbnail ? ', thumbnail' : ''}`
      const grid = addon.chooseGrid(picture.width, picture.height, size, min, max, thumbnail)
      checks.grid.push([what, [grid.columns, grid.rows], setting.ratio])
      checks.tiles.push([`${what}: tiles`, tileCount(grid), setting.tiles])
      const tiles = addon.tileBytes(await addon.prepareTiles(picture, grid, size))
      setting.tile_crc32_u8_hwc.forEach((crc, tile) => {
        checks.tiles.push([`${what}: tile ${tile}`, crc32(tileOf(tiles, tile, size)), crc])
      })
      const key = `${file}|${size}|${max}|${thumbnail ? 1 : 0}`
      for (const [name, read] of Object.entries(stored)) {
        if (name.startsWith(`${key}|`))
          checks.values.push([name, storedDifference(name, read(), tiles, size, golden), 0])
      }
    }
    for (const [stage, list] of Object.entries(checks)) {
      if (list.length > 0) rows.push(count(file, stage, list))
    }
  }
  return rows
}

function tileOf(tiles, tile, size) {
  return tiles.subarray(tile * size * size * 3, (tile + 1) * size * size * 3)
}

/** How many stored values are not what the tiles give. */
function storedDifference(name, { shape, data }, tiles, size, { mean, std }) {
  const kind = name.split('|').at(-1)
  const normal = (value, c) =>
    Math.fround(Math.fround(Math.fround(value / 255) - Math.fround(mean[c])) / Math.fround(std[c]))
  const wrong = (found) => data.reduce((sum, value, i) => sum + (Math.abs(found(i) - value) <= 1e-6 ? 0 : 1), 0)
  if (kind === 'tiles_u8') return data.length === tiles.length ? wrong((i) => tiles[i]) : data.length
  if (kind === 'pixel_values') {
    const plane = size * size
    return wrong((i) =>
      normal(
        tiles[(Math.floor(i / (3 * plane)) * plane + (i % plane)) * 3 + (Math.floor(i / plane) % 3)],
        Math.floor(i / plane) % 3,
      ),
    )
  }
  const side = Math.sqrt(shape[1])
  const at = (i) => {
    const point = Math.floor(i / 3) % shape[1]
    const y = Math.trunc(((Math.floor(point / side) + 0.5) * size) / side)
    const x = Math.trunc((((point % side) + 0.5) * size) / side)
    return tiles[((Math.floor(i / (3 * shape[1])) * size + y) * size + x) * 3 + (i % 3)]
  }
  if (kind === 'points_u8') return wrong(at)
  if (kind === 'points_f32') return wrong((i) => normal(at(i), i % 3))
  throw new Error(`${name}: no check is known for ${kind}`)
}

const elementTypes = { F32: Float32Array, U8: Uint8Array, I32: Int32Array }

function readTensors(file) {
  if (!existsSync(file)) return {}
  const bytes = readFileSync(file)
  const start = 8 + Number(bytes.readBigUInt64LE())
  const entries = Object.entries(JSON.parse(bytes.toString('utf8', 8, start))).filter(
    ([name]) => name !== '__metadata__',
  )
  return Object.fromEntries(
    entries.map(
      ([
        name,
        {
          dtype,
          shape,
          data_offsets: [from, to],
        },
      ]) => [
        name,
        () => {
          const slice = bytes.buffer.slice(bytes.byteOffset + start + from, bytes.byteOffset + start + to)
          return { shape, data: new elementTypes[dtype](slice) }
        },
      ],
    ),
  )
}

const cell = { width: 896, height: 448 }
const tileSize = 448

/** `dir` has canvas.json and the six views; the layout is DriveLM's. */
export async function runCanvasGolden(dir) {
  const golden = JSON.parse(readFileSync(path.join(dir, 'canvas.json'), 'utf8'))
  const addon = loadAddon()
  const rows = []
  for (const camera of golden.order) {
    const picture = await decodePicture(path.join(dir, `${camera}.png`), camera)
    const label = labelFor(camera)
    const expected = golden.views[camera]
    const crcOfCell = async (given) =>
      crc32(addon.canvasBytes({ cells: await addon.prepareCells([{ ...picture, ...given }], cell), columns: 1 }).rgb)
    rows.push(
      count(camera, 'view', [
        ['as read', crc32(picture.rgb), expected.crc32],
        ['label mask', crc32(label.mask), golden.labels[camera].crc32],
        ['resized', await crcOfCell({}), expected.resized_crc32],
        ['labelled', await crcOfCell({ label }), expected.labelled_crc32],
      ]),
    )
  }
  const layout = {
    layout: 'canvas',
    canvas: {
      columns: 3,
      rows: 2,
      cellWidth: cell.width,
      cellHeight: cell.height,
      cameras: golden.order,
      labels: true,
      thumbnail: true,
      maxTiles: 12,
    },
    maxTilesPerImage: 12,
    tileBudget: 12,
    cameraNames: false,
    why: '',
  }
  const tiling = { tileSize, minTiles: 1, maxTiles: 12, dynamic: true, useThumbnail: true }
  const views = Object.fromEntries(golden.order.map((camera) => [camera, path.join(dir, `${camera}.png`)]))
  const { images, prepared } = await imagesFor(layout, views, { tiling, addon })
  const cells = golden.order.map((camera) => prepared[camera].made)
  const canvas = addon.canvasBytes({ cells, columns: 3 })
  rows.push(count('canvas', 'stitched', [['crc', crc32(canvas.rgb), golden.canvas_crc32]]))
  const tiles = addon.tileBytes(images[0].tiles)
  rows.push(
    count('canvas', 'tiles', [
      ['count', tileCount(images[0].grid), golden.tile_crc32.length],
      ...golden.tile_crc32.map((crc, tile) => [`tile ${tile}`, crc32(tileOf(tiles, tile, tileSize)), crc]),
    ]),
  )
  if (existsSync(path.join(dir, 'canvas_q75.jpg'))) {
    const saved = await decodePicture(path.join(dir, 'canvas_q75.jpg'), 'canvas_q75.jpg')
    rows.push(count('canvas', 'jpeg decoded', [['crc', crc32(saved.rgb), golden.canvas_after_jpeg_crc32]]))
  }
  return rows
}

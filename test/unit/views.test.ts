import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import sharp from 'sharp'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { TilingLimits } from '../../lib/checkpoint/config.ts'
import type { ViewLayout } from '../../lib/checkpoint/layout.ts'
import { ModelError } from '../../lib/errors.ts'
import type { NativeCell } from '../../lib/native.ts'
import { loadAddon } from '../../lib/native.ts'
import { cameras, isCamera } from '../../lib/views/cameras.ts'
import { type ComposeOptions, imagesFor, tileCount, type Views } from '../../lib/views/compose.ts'
import { decodePicture, type PictureSource } from '../../lib/views/decode.ts'
import { mapViews, PreparedView, type ViewSources } from '../../lib/views/prepared.ts'

const images = 'test/fixtures/preprocess/images'
let dir: string

beforeAll(() => {
  dir = mkdtempSync(path.join(os.tmpdir(), 'drivlm-views-'))
})

afterAll(() => rmSync(dir, { recursive: true }))

function file(name: string, bytes: Uint8Array | string): string {
  const where = path.join(dir, name)
  writeFileSync(where, bytes)
  return where
}

async function refusal(run: Promise<unknown>): Promise<string> {
  const error = await run.then(
    () => new Error('no error'),
    (reason) => reason,
  )
  expect(error).toBeInstanceOf(ModelError)
  return `${error.code}: ${error.message}`
}

function crc32(bytes: Uint8Array): number {
  let crc = ~0
  for (const byte of bytes) {
    crc ^= byte
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? 0xedb88320 ^ (crc >>> 1) : crc >>> 1
  }
  return ~crc >>> 0
}

/** A PNG whose header says `width` x `height`, whatever its data. */
function claimingPng(width: number, height: number): Buffer {
  const png = Buffer.from(readFileSync(`${images}/one_1x1.png`))
  png.writeUInt32BE(width, 16)
  png.writeUInt32BE(height, 20)
  png.writeUInt32BE(crc32(png.subarray(12, 29)), 29)
  return png
}

const raw = (width: number, height: number, value = 7) => ({
  data: new Uint8Array(width * height * 3).fill(value),
  width,
  height,
})

describe('decodePicture', () => {
  it('gives the same pixels for a path, a buffer and an ArrayBuffer', async () => {
    const bytes = readFileSync(`${images}/tiny_13x7.png`)
    const fromPath = await decodePicture(`${images}/tiny_13x7.png`, 'CAM_FRONT')
    const arrayBuffer = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length)
    for (const source of [bytes, new Uint8Array(bytes), arrayBuffer as ArrayBuffer]) {
      const picture = await decodePicture(source, 'CAM_FRONT')
      expect(Buffer.from(picture.rgb).equals(Buffer.from(fromPath.rgb))).toBe(true)
      expect([picture.width, picture.height]).toEqual([13, 7])
    }
  })

  it('does not copy raw pixels', async () => {
    const source = raw(2, 2)
    const { rgb, owned } = await decodePicture(source, 'CAM_FRONT')
    expect(rgb.buffer).toBe(source.data.buffer)
    expect(owned).toBe(false)
  })

  it('copies encoded bytes at once', async () => {
    const bytes = new Uint8Array(readFileSync(`${images}/tiny_13x7.png`))
    const decoding = decodePicture(bytes, 'CAM_FRONT')
    bytes.fill(0)
    expect((await decoding).width).toBe(13)
  })

  it('ignores colour profiles, as the training pipeline does', async () => {
    const plain = { create: { width: 8, height: 8, channels: 3 as const, background: '#2080c0' } }
    const tagged = await sharp(plain).withIccProfile('p3', { attach: true }).png().toBuffer()
    expect((await sharp(tagged).metadata()).hasProfile).toBe(true)
    const stored = await sharp(tagged, { ignoreIcc: true }).raw().toBuffer()
    expect([...(await decodePicture(tagged, 'CAM_FRONT')).rgb.subarray(0, 3)]).toEqual([...stored.subarray(0, 3)])
    const converted = await sharp(tagged).raw().toBuffer()
    expect([...converted.subarray(0, 3)]).not.toEqual([...stored.subarray(0, 3)])
  })

  it('reads WebP, TIFF, GIF and AVIF', async () => {
    const picture = sharp({ create: { width: 16, height: 12, channels: 3, background: '#404040' } })
    for (const format of ['webp', 'tiff', 'gif', 'avif'] as const) {
      const decoded = await decodePicture(await picture.clone().toFormat(format).toBuffer(), format)
      expect([decoded.width, decoded.height, decoded.rgb.length]).toEqual([16, 12, 576])
      expect(Math.abs(decoded.rgb[0]! - 64)).toBeLessThan(4)
    }
  })

  const hostile: [string, () => unknown, RegExp][] = [
    [
      'a path that is not there',
      () => path.join(dir, 'none.jpg'),
      /CAM_FRONT: .*none\.jpg does not exist; check the path/,
    ],
    ['a folder', () => dir, /CAM_FRONT: .* is a folder; give the picture inside it/],
    ['an empty path', () => '', /found an empty string/],
    ['a path with a NUL', () => 'a\0b', /cannot be read/],
    ['a URL', () => 'https://example.org/front.jpg', /found a URL .*download it/],
    ['a device', () => '/dev/zero', /is not a regular file/],
    ['a file that is text', () => file('text.jpg', 'not a picture'), /text\.jpg cannot be decoded as a picture/],
    ['an empty file', () => file('empty.png', ''), /empty\.png is empty/],
    ['an empty buffer', () => new Uint8Array(0), /the buffer given is empty/],
    ['noise', () => Buffer.from('89504e470d0a1a0a00000000', 'hex'), /the 12 bytes given cannot be decoded/],
    ['half a JPEG', () => readFileSync(`${images}/odd_897x449.jpg`).subarray(0, 60_000), /cannot be decoded/],
    ['half a PNG', () => readFileSync(`${images}/alpha_300x400.png`).subarray(0, 9_000), /cannot be decoded/],
    ['a damaged PNG', () => damaged(readFileSync(`${images}/alpha_300x400.png`)), /cannot be decoded/],
    ['100 megapixels', () => claimingPng(10_000, 10_000), /10000 x 10000 pixels, 100 megapixels; up to 64 megapixels/],
    ['a header of 2^31 pixels a side', () => claimingPng(0x7fffffff, 0x7fffffff), /CAM_FRONT: /],
    ['an edge past the limit', () => claimingPng(70_000, 2), /edges of up to 65535/],
    ['an SVG', () => Buffer.from('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'), /format svg; give/],
    ['raw pixels that are too few', () => ({ ...raw(4, 4), width: 5 }), /expected 60 bytes .* found 48/],
    ['raw RGBA', () => ({ data: new Uint8Array(64), width: 4, height: 4 }), /found 64; drop the fourth channel/],
    ['raw of no size', () => ({ data: new Uint8Array(0), width: 0, height: 4 }), /positive integers; found 0 x 4/],
    ['raw of NaN', () => ({ data: new Uint8Array(0), width: Number.NaN, height: 4 }), /found NaN x 4/],
    ['raw of 100 megapixels', () => ({ data: new Uint8Array(3), width: 10_000, height: 10_000 }), /100 megapixels/],
    ['raw floats', () => ({ data: new Float32Array(48), width: 4, height: 4 }), /found a Float32Array/],
    ['a number', () => 7, /expected a path, .*; found 7/],
    ['null', () => null, /found null/],
    ['an array', () => [1, 2], /found a list/],
  ]
  it.each(hostile)('refuses %s', async (_, source, sentence) => {
    const message = await refusal(decodePicture(source() as PictureSource, 'CAM_FRONT'))
    expect(message).toMatch(/^BAD_VIEW: CAM_FRONT: .*\.$/)
    expect(message).toMatch(sentence)
  })

  it('refuses a named pipe without waiting for a writer', async () => {
    const pipe = path.join(dir, 'pipe')
    execFileSync('mkfifo', [pipe])
    expect(await refusal(decodePicture(pipe, 'CAM_BACK'))).toMatch(/CAM_BACK: .*pipe is not a regular file/)
  })

  it('survives damage anywhere in a file', async () => {
    for (const name of ['tiny_13x7.png', 'cmyk_200x150.jpg', 'palette_320x240.png']) {
      const good = readFileSync(`${images}/${name}`)
      for (let i = 0; i < 60; i++) {
        const bytes = Buffer.from(good)
        for (let k = 0; k <= i % 3; k++) bytes[(i * 7919 + k * 104_729) % bytes.length]! ^= 1 + ((i * 37) % 255)
        const picture = await decodePicture(bytes, name).catch((error: unknown) => {
          expect(error).toBeInstanceOf(ModelError)
          expect((error as ModelError).code).toBe('BAD_VIEW')
        })
        if (picture !== undefined) expect(picture.rgb.length).toBe(picture.width * picture.height * 3)
      }
    }
  })
})

function damaged(png: Buffer): Buffer {
  const bytes = Buffer.from(png)
  bytes.fill(0x5a, 8_000, 8_400)
  return bytes
}

const tiling: TilingLimits = { tileSize: 112, minTiles: 1, maxTiles: 6, dynamic: true, useThumbnail: true }
const order = ['CAM_FRONT_LEFT', 'CAM_FRONT', 'CAM_FRONT_RIGHT', 'CAM_BACK_LEFT', 'CAM_BACK', 'CAM_BACK_RIGHT']
const common = { maxTilesPerImage: 6, tileBudget: 6, cameraNames: false, why: '' }
const canvasLayout: ViewLayout = {
  ...common,
  layout: 'canvas',
  canvas: {
    columns: 3,
    rows: 2,
    cellWidth: 112,
    cellHeight: 112,
    cameras: order,
    labels: false,
    thumbnail: false,
    maxTiles: 6,
  },
}
const separateLayout: ViewLayout = { ...common, layout: 'separate' }
const singleLayout: ViewLayout = { ...common, layout: 'single' }

const composed = (layout: ViewLayout, views: unknown, options: Partial<ComposeOptions> = {}) =>
  imagesFor(layout, views as Views, { tiling, addon: loadAddon(), ...options })

const six = () => Object.fromEntries(cameras.map((camera, i) => [camera, raw(4, 3, i)]))

/** The stitched canvas, from the cells that its views became. */
function canvasOf(prepared: unknown, names: readonly (string | number)[], columns = 3) {
  const views = prepared as Record<string | number, PreparedView>
  return loadAddon().canvasBytes({ cells: names.map((name) => views[name]!.made as NativeCell), columns })
}
/** The red of the pixel in the middle of each cell of 112 x 112. */
function middles({ rgb, width, height }: { rgb: Uint8Array; width: number; height: number }) {
  const found: number[] = []
  for (let y = 56; y < height; y += 112) for (let x = 56; x < width; x += 112) found.push(rgb[(y * width + x) * 3]!)
  return found
}

describe('imagesFor', () => {
  it('knows the cameras', () => {
    expect(cameras).toHaveLength(6)
    expect(isCamera('CAM_BACK')).toBe(true)
    expect(isCamera('CAM_FRON')).toBe(false)
  })

  it('puts each camera into its cell, whatever the order of the keys', async () => {
    const reversed = Object.fromEntries(Object.entries(six()).reverse())
    for (const views of [six(), reversed]) {
      const { images, layout, prepared } = await composed(canvasLayout, views)
      expect(layout).toBe('canvas')
      expect(images).toHaveLength(1)
      expect(middles(canvasOf(prepared, order)).map((value) => cameras[value])).toEqual(order)
      expect(images[0]).toMatchObject({ grid: { columns: 3, rows: 2, thumbnail: false } })
      expect(tileCount(images[0]!.grid)).toBe(6)
      // The canvas is whole tiles: cut row by row as it is.
      const tiles = loadAddon().tileBytes(images[0]!.tiles)
      const tileBytes = 112 * 112 * 3
      expect(order.map((_, i) => cameras[tiles[i * tileBytes + tileBytes / 2]!])).toEqual(order)
    }
  })

  it('takes a list as long as the canvas row by row', async () => {
    const list = [0, 1, 2, 3, 4, 5]
    const { prepared } = await composed(
      canvasLayout,
      list.map((value) => raw(4, 3, value)),
    )
    expect(middles(canvasOf(prepared, list))).toEqual(list)
  })

  it('labels the cells of the DriveLM canvas and cuts it into 6 x 2 tiles and a thumbnail', async () => {
    const canvas = {
      ...canvasLayout.canvas!,
      cellWidth: 896,
      cellHeight: 448,
      labels: true,
      thumbnail: true,
      maxTiles: 12,
    }
    const drivelm = { ...tiling, tileSize: 448, maxTiles: 12 }
    const { images, prepared } = await composed({ ...canvasLayout, canvas }, six(), { tiling: drivelm })
    expect(images[0]).toMatchObject({ grid: { columns: 6, rows: 2, thumbnail: true } })
    expect(tileCount(images[0]!.grid)).toBe(13)
    expect(loadAddon().tileBytes(images[0]!.tiles)).toHaveLength(13 * 448 * 448 * 3)
    const { rgb, width } = canvasOf(prepared, order)
    for (const [i] of order.entries()) {
      const [left, top] = [(i % 3) * 896, Math.floor(i / 3) * 448]
      let ink = 0
      for (let y = top + 10; y < top + 59; y++) {
        for (let x = left + 2; x < left + 340; x++) {
          const at = (y * width + x) * 3
          if (rgb[at] === 255 && rgb[at + 1] === 0 && rgb[at + 2] === 255) ink++
        }
      }
      expect(ink).toBeGreaterThan(1000) // the letters
    }
  })

  it('names missing cameras, or leaves their cells black', async () => {
    const { CAM_BACK: _, ...five } = six()
    expect(await refusal(composed(canvasLayout, five))).toMatch(
      /^BAD_VIEW: CAM_BACK is missing: this model sees 6 cameras at once, found 5\. Add it, or .*missingViews: 'black'/,
    )
    expect(await refusal(composed(canvasLayout, { ...six(), CAM_BACK: undefined, CAM_FRONT: undefined }))).toMatch(
      /CAM_FRONT, CAM_BACK are missing/,
    )
    const { images, prepared } = await composed(canvasLayout, five, { missingViews: 'black' })
    expect(Object.keys(prepared)).toEqual(Object.keys(five))
    const tiles = loadAddon().tileBytes(images[0]!.tiles)
    const tileBytes = 112 * 112 * 3
    expect(order.map((_, i) => tiles[i * tileBytes])).toEqual([1, 0, 2, 4, 0, 5])
  })

  it('names unknown cameras', async () => {
    expect(await refusal(composed(canvasLayout, { ...six(), CAM_FRON: raw(4, 3) }))).toMatch(
      /^BAD_VIEW: CAM_FRON is not a camera of this model's canvas; expected CAM_FRONT_LEFT, /,
    )
  })

  it('names the camera whose picture cannot be used', async () => {
    expect(await refusal(composed(canvasLayout, { ...six(), CAM_BACK_LEFT: 'none.png' }))).toMatch(
      /CAM_BACK_LEFT: none\.png/,
    )
    expect(await refusal(composed(canvasLayout, { ...six(), CAM_BACK_LEFT: raw(1, 1) }))).toMatch(
      /^BAD_VIEW: CAM_BACK_LEFT: the picture has 1 x 1 pixels/,
    )
    expect(await refusal(composed(separateLayout, [raw(4, 3), null]))).toMatch(/^BAD_VIEW: view 2: /)
  })

  it('shares the tile budget out among separate images', async () => {
    const wide = () => raw(60, 10)
    const tiles = async (views: unknown, options: Partial<ComposeOptions> = {}) =>
      (await composed(separateLayout, views, options)).images.map(({ grid }) => tileCount(grid))
    expect(await tiles(wide())).toEqual([7])
    expect(await tiles([wide(), wide()])).toEqual([4, 4]) // 6 / 2 = 3, and a thumbnail
    expect(await tiles([wide(), wide(), wide(), wide()])).toEqual([1, 1, 1, 1])
    expect(await tiles([wide(), wide()], { tileBudget: 40 })).toEqual([7, 7]) // a limit per image holds
    expect(await tiles([wide(), wide()], { tileBudget: 40, maxTilesPerImage: 2 })).toEqual([3, 3])
    expect(await tiles([wide(), wide(), wide()], { tileBudget: 1 })).toEqual([1, 1, 1])
    expect(await tiles(wide(), { tiling: { ...tiling, dynamic: false } })).toEqual([1])
    expect(await tiles(wide(), { tiling: { ...tiling, useThumbnail: false } })).toEqual([6])
  })

  it('orders named separate images as the cameras are listed', async () => {
    const {
      images,
      cameras: names,
      layout,
    } = await composed(separateLayout, {
      CAM_BACK: raw(4, 3, 1),
      CAM_FRONT: raw(4, 3, 2),
    })
    expect(layout).toBe('separate')
    expect(names).toEqual(['CAM_FRONT', 'CAM_BACK'])
    expect(images.map(({ tiles }) => loadAddon().tileBytes(tiles)[0])).toEqual([2, 1])
  })

  it('takes one picture for every layout', async () => {
    for (const layout of [canvasLayout, separateLayout, singleLayout]) {
      const found = await composed(layout, raw(4, 3))
      expect(found.layout).toBe('single')
      expect(found.images).toHaveLength(1)
    }
    expect(await refusal(composed(singleLayout, [raw(4, 3), raw(4, 3)]))).toMatch(/one picture at a time, found 2/)
  })

  it('takes what it prepared before as it is, and prepares only the others', async () => {
    const addon = loadAddon()
    for (const layout of [canvasLayout, separateLayout]) {
      const calls: number[] = []
      const counting = {
        chooseGrid: addon.chooseGrid,
        prepareCells: ((pictures, size) => {
          calls.push(...pictures.map(({ rgb }) => rgb[0]!))
          return addon.prepareCells(pictures, size)
        }) as typeof addon.prepareCells,
        prepareTiles: ((image, ...rest) => {
          if ('rgb' in image) calls.push(image.rgb[0]!)
          return addon.prepareTiles(image, ...rest)
        }) as typeof addon.prepareTiles,
      }
      const views = { ...six(), CAM_BACK_LEFT: `${images}/tiny_13x7.png` }
      const first = await composed(layout, views, { addon: counting })
      expect(calls).toHaveLength(6)
      calls.length = 0
      const next = { ...(first.prepared as object), CAM_BACK: raw(4, 3, 99) }
      const second = await composed(layout, next, { addon: counting })
      expect(calls).toEqual([99])
      expect(second.pictures).toEqual(first.pictures)
      const whole = await composed(layout, { ...views, CAM_BACK: raw(4, 3, 99) })
      const bytes = (list: typeof whole.images) =>
        list.map(({ tiles }) => Buffer.from(addon.tileBytes(tiles)).toString('base64'))
      expect(bytes(second.images)).toEqual(bytes(whole.images))
      // For later: a file by its path, pixels as they were prepared.
      expect((second.lasting as Record<string, unknown>).CAM_BACK_LEFT).toBe(views.CAM_BACK_LEFT)
      expect((second.lasting as Record<string, unknown>).CAM_BACK).toBeInstanceOf(PreparedView)
    }
  })

  it('puts others in the places of views, whatever form they have', () => {
    const keys: unknown[] = []
    const note = (source: unknown, key: unknown) => {
      keys.push(key)
      return `new ${source}`
    }
    expect(mapViews('a', note)).toBe('new a')
    expect(mapViews(['a', 'b'], note)).toEqual(['new a', 'new b'])
    expect(mapViews({ CAM_FRONT: 'a', CAM_BACK: undefined } as unknown as ViewSources, note)).toEqual({
      CAM_FRONT: 'new a',
    })
    expect(keys).toEqual([undefined, 0, 1, 'CAM_FRONT'])
  })

  it('refuses what is no view at all', async () => {
    expect(await refusal(composed(canvasLayout, {}))).toMatch(/^BAD_VIEW: There are no views/)
    expect(await refusal(composed(canvasLayout, []))).toMatch(/^BAD_VIEW: There are no views/)
    expect(await refusal(composed(canvasLayout, undefined))).toMatch(/^BAD_VIEW: Expected views .* found undefined/)
    expect(await refusal(composed(canvasLayout, 5))).toMatch(/found 5/)
    expect(await refusal(composed(separateLayout, Array(300).fill(raw(2, 2))))).toMatch(/up to 256 views, found 300/)
    expect(await refusal(composed(separateLayout, raw(4, 3), { tileBudget: 0 }))).toMatch(
      /^BAD_ARGUMENT: .* options\.tileBudget, received 0/,
    )
  })
})

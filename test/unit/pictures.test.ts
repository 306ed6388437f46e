/** Pictures at the seam: what the pool reads from buffers that JavaScript may change, shrink or take away at any time. */
import { setTimeout } from 'node:timers/promises'
import { describe, expect, test } from 'vitest'
import { loadModel } from '../../lib/load-model.ts'
import { loadAddon, type NativeCell, type NativeLabel, type NativePicture, type NativeTiles } from '../../lib/native.ts'
import { cameras } from '../../lib/views/cameras.ts'
import type { RawPicture } from '../../lib/views/decode.ts'
import { weather } from './street-tiny.ts'

const addon = loadAddon()
const [width, height] = [400, 300] // more than is copied at once
const bytes = width * height * 3
const cell = { width: 112, height: 112 }
const oneTile = { columns: 1, rows: 1, thumbnail: false }

function pattern(data: Uint8Array): Uint8Array {
  for (let i = 0; i < data.length; i++) data[i] = (i * 7 + (i >> 8) * 13) & 255
  return data
}
const picture = (rgb: unknown = pattern(new Uint8Array(bytes)), changes = {}) =>
  ({ rgb, width, height, ...changes }) as NativePicture
const prepareCell = async (one: NativePicture, size = cell) => (await addon.prepareCells([one], size))[0]!
const crc = (cells: NativeCell[]) => Buffer.from(addon.canvasBytes({ cells, columns: 1 }).rgb).toString('base64')

/** The same memory, as somebody else's: the array has nothing left. */
const take = ({ buffer }: { buffer: ArrayBufferLike }) => structuredClone(buffer, { transfer: [buffer as ArrayBuffer] })

// What the types of Node's library do not know.
interface WasmMemory {
  buffer: ArrayBuffer
  grow(pages: number): number
}
const wasmMemory = () => {
  const { WebAssembly } = globalThis as unknown as { WebAssembly: { Memory: new (limits: object) => WasmMemory } }
  return new WebAssembly.Memory({ initial: 8, maximum: 16 })
}
interface Resizable extends ArrayBuffer {
  resize(bytes: number): void
}
const resizable = (size: number, most: number) =>
  new (ArrayBuffer as unknown as new (size: number, options: object) => Resizable)(size, { maxByteLength: most })

describe('prepareCells', () => {
  const bad: [string, unknown[], string][] = [
    ['nothing', [{}, cell], 'BAD_ARGUMENT'],
    ['pixels of numbers', [picture([1, 2, 3]), cell], 'BAD_ARGUMENT'],
    ['floats', [picture(new Float32Array(bytes)), cell], 'BAD_ARGUMENT'],
    ['bytes missing', [picture(new Uint8Array(bytes - 1)), cell], 'BAD_VIEW'],
    ['a detached buffer', [picture(detached()), cell], 'BAD_VIEW'],
    ['a huge picture', [picture(undefined, { width: 60_000, height: 60_000 }), cell], 'BAD_VIEW'],
    ['an edge past the limit', [picture(undefined, { width: 70_000, height: 1 }), cell], 'BAD_VIEW'],
    ['a width of 0', [picture(undefined, { width: 0 }), cell], 'BAD_ARGUMENT'],
    ['no cell', [picture()], 'BAD_ARGUMENT'],
    ['a cell of no width', [picture(), { width: 0, height: 4 }], 'BAD_ARGUMENT'],
    ['a huge cell', [picture(), { width: 16_384, height: 16_384 }], 'BAD_ARGUMENT'],
    [
      'a label with too few bytes',
      [picture(), cell, { mask: new Uint8Array(3), width: 2, height: 2, left: 0, top: 0, ink: [1, 2, 3] }],
      'BAD_ARGUMENT',
    ],
    [
      'a label without ink',
      [picture(), cell, { mask: new Uint8Array(4), width: 2, height: 2, left: 0, top: 0, ink: [1] }],
      'BAD_ARGUMENT',
    ],
  ]
  test.each(bad)('refuses %s', async (_, given, code) => {
    const [one, size, label] = given as [NativePicture, typeof cell, NativeLabel]
    await expect(addon.prepareCells([{ ...one, label }], size)).rejects.toMatchObject({ code })
    await expect(addon.prepareCells([picture(), { ...one, label }], size)).rejects.toMatchObject({ code })
  })

  test('gives the same for every kind of buffer', async () => {
    const expected = crc([await prepareCell(picture(undefined, { owned: true }), cell)])
    const inside = new Uint8Array(bytes + 50).subarray(7, 7 + bytes)
    const shared = new Uint8Array(new SharedArrayBuffer(bytes))
    const growing = new Uint8Array(resizable(bytes, 2 * bytes), 0, bytes)
    const tracking = new Uint8Array(resizable(bytes, 2 * bytes))
    const memory = wasmMemory()
    const wasm = new Uint8Array(memory.buffer, 100, bytes)
    for (const rgb of [inside, shared, growing, tracking, wasm, Buffer.alloc(bytes)]) {
      expect(crc([await prepareCell(picture(pattern(rgb)), cell)])).toBe(expected)
    }
  })

  test('notices a buffer that is taken away, shrunk or filled anew, and never reads where nothing is', async () => {
    for (let i = 0; i < 40; i++) {
      const whole = pattern(new Uint8Array(bytes))
      const moving = prepareCell(picture(whole), cell)
      const moved = take(whole) // the same memory, somebody else's
      await expect(moving).rejects.toMatchObject({ code: 'BAD_VIEW', message: expect.stringMatching(/transferred/) })
      expect(moved.byteLength).toBe(bytes)

      const buffer = resizable(bytes, bytes)
      const shrinking = prepareCell(picture(pattern(new Uint8Array(buffer))), cell)
      buffer.resize(0)
      await expect(shrinking).rejects.toMatchObject({ code: 'BAD_VIEW' })

      const memory = wasmMemory()
      const growing = prepareCell(picture(pattern(new Uint8Array(memory.buffer, 0, bytes))), cell)
      memory.grow(8)
      await expect(growing).rejects.toMatchObject({ code: 'BAD_VIEW' })

      const reused = pattern(new Uint8Array(bytes))
      const filling = prepareCell(picture(reused), cell)
      reused.reverse()
      await expect(filling).rejects.toMatchObject({ code: 'BAD_VIEW', message: expect.stringMatching(/changed/) })
    }
  })

  test('memory that is freed while it is read ends nothing', async () => {
    const large = { width: 1600, height: 900 }
    for (let i = 0; i < 20; i++) {
      const frames = Array.from({ length: 6 }, () => new Uint8Array(1600 * 900 * 3))
      const reading = [
        addon.prepareCells(
          frames.map((rgb) => ({ rgb, ...large })),
          cell,
        ),
      ]
      for (const rgb of frames) take(rgb)
      frames.length = 0
      globalThis.gc?.()
      const ends = await Promise.allSettled(reading)
      expect(ends.every((end) => end.status === 'rejected' && end.reason.code === 'BAD_VIEW')).toBe(true)
    }
  })

  test('gives cells in the order of the pictures, and a list that is empty', async () => {
    const values = [3, 1, 2, 250, 9, 77, 40]
    const cells = await addon.prepareCells(
      values.map((value) => picture(new Uint8Array(bytes).fill(value))),
      cell,
    )
    expect(cells.map((one) => addon.canvasBytes({ cells: [one], columns: 1 }).rgb[0])).toEqual(values)
    expect(await addon.prepareCells([], cell)).toEqual([])
    await expect(addon.prepareCells(undefined as never, cell)).rejects.toMatchObject({ code: 'BAD_ARGUMENT' })
  })

  test('small pictures are read at once', async () => {
    const small = { rgb: pattern(new Uint8Array(300)), width: 10, height: 10 }
    const expected = crc([await prepareCell({ ...small, rgb: small.rgb.slice() }, cell)])
    const reading = prepareCell(small, cell)
    take(small.rgb)
    expect(crc([await reading])).toBe(expected)
  })
})

describe('prepareTiles', () => {
  const bad: [string, unknown[], string][] = [
    ['no grid', [picture(), undefined, 112], 'BAD_ARGUMENT'],
    ['a grid of 0', [picture(), { ...oneTile, columns: 0 }, 112], 'BAD_ARGUMENT'],
    ['a huge grid', [picture(), { ...oneTile, columns: 4000, rows: 4000 }, 112], 'BAD_ARGUMENT'],
    ['huge tiles', [picture(), { ...oneTile, columns: 16 }, 16_384], 'BAD_ARGUMENT'],
    ['a tile size of 0', [picture(), oneTile, 0], 'BAD_ARGUMENT'],
    ['a canvas of nothing', [{ cells: [], columns: 1 }, oneTile, 112], 'BAD_ARGUMENT'],
    ['a canvas of pictures', [{ cells: [picture()], columns: 1 }, oneTile, 112], 'BAD_ARGUMENT'],
    ['a detached buffer', [picture(detached()), oneTile, 112], 'BAD_VIEW'],
  ]
  test.each(bad)('refuses %s', async (_, given, code) => {
    await expect(addon.prepareTiles(...(given as Parameters<typeof addon.prepareTiles>))).rejects.toMatchObject({
      code,
    })
  })

  test('refuses cells that do not fill the canvas, or differ in size, and handles of another kind', async () => {
    const [a, b] = await Promise.all([112, 56].map((edge) => prepareCell(picture(), { width: edge, height: edge })))
    const tiles = await addon.prepareTiles({ cells: [a!], columns: 1 }, oneTile, 112)
    for (const given of [
      { cells: [a!, a!, a!], columns: 2 },
      { cells: [a!, b!], columns: 2 },
      { cells: [tiles as unknown as NativeCell], columns: 1 },
    ]) {
      await expect(addon.prepareTiles(given, oneTile, 112)).rejects.toMatchObject({ code: 'BAD_ARGUMENT' })
    }
    expect(() => addon.tileBytes(a as unknown as NativeTiles)).toThrow(/tiles/)
    expect(() => addon.tileBytes({} as NativeTiles)).toThrow(/tiles/)
  })

  test('a picture that is taken away between its parts is no picture', async () => {
    for (let i = 0; i < 20; i++) {
      const rgb = pattern(new Uint8Array(bytes))
      const cutting = addon.prepareTiles(picture(rgb), { columns: 4, rows: 3, thumbnail: true }, 112)
      take(rgb)
      await expect(cutting).rejects.toMatchObject({ code: 'BAD_VIEW' })
    }
  })
})

describe('see', () => {
  type Frame = RawPicture & { data: Uint8Array }
  const frames = () =>
    Object.fromEntries(
      cameras.map((camera): [string, Frame] => [camera, { data: pattern(new Uint8Array(bytes)), width, height }]),
    )

  test('names the camera whose buffer was taken away or changed, and goes on', async () => {
    const model = await loadModel()
    const views = frames()
    const seeing = model.see(views)
    take(views.CAM_BACK!.data)
    await expect(seeing).rejects.toMatchObject({
      code: 'BAD_VIEW',
      message: expect.stringMatching(/^CAM_BACK: .*transferred/),
    })

    const reused = frames()
    const late = model.see(reused)
    reused.CAM_FRONT!.data.reverse()
    await expect(late).rejects.toMatchObject({
      code: 'BAD_VIEW',
      message: expect.stringMatching(/^CAM_FRONT: .*changed/),
    })

    const scene = await model.see(frames())
    scene.dispose()
    await model.dispose()
  })

  test("once it has settled the buffers are the caller's: an update and an eviction read them no more", async () => {
    const model = await loadModel({ maxScenes: 1, evict: 'resee' })
    const views = frames()
    const scene = await model.see(views)
    const before = await scene.ask(weather)
    for (const { data } of Object.values(views)) take(data)
    const other = await model.see({ ...frames(), CAM_FRONT: { data: new Uint8Array(bytes), width, height } })
    expect((await scene.ask(weather)).text).toBe(before.text) // seen again
    expect(model.stats().reseen).toBe(1)
    other.dispose()
    const next = await scene.update({ CAM_FRONT: { data: pattern(new Uint8Array(bytes)), width, height } })
    expect(next.info.tokens).toBe(scene.info.tokens)
    next.dispose()
    scene.dispose()
    await model.dispose()
  })

  test('an update prepares what changed only', async () => {
    const model = await loadModel()
    const views = frames()
    const scene = await model.see(views)
    const next = await scene.update({ CAM_BACK: { data: new Uint8Array(bytes), width, height } })
    const whole = await model.see({ ...views, CAM_BACK: { data: new Uint8Array(bytes), width, height } })
    expect(whole.info.sharedTokens).toBe(whole.info.tokens) // the same tiles
    for (const one of [scene, next, whole]) one.dispose()
    await setTimeout(0)
    await model.dispose()
  })
})

function detached(): Uint8Array {
  const gone = new Uint8Array(bytes)
  take(gone)
  return gone
}

/** Painted views: pixels, and what of each object is to be seen in them. */
import { type Box, shareInside } from './geometry.ts'
import { StreetRandom } from './random.ts'
import { lightId, type Polygon, paintView } from './shapes.ts'
import type { World } from './world.ts'

/** Samples of a pixel, across and down. */
const samples = 2

/** One object in one view. */
export interface Sighting {
  /** Number of the object in the world, from 0; −1 for the traffic light. */
  object: number
  /** Visible pixels. */
  pixels: number
  /** It can be asked about. */
  clear: boolean
  /** So little of it is visible that it is not there. */
  faint: boolean
  /** Around what is visible, as shares of the picture. */
  box: Box
}

/** One drawn picture, and what is seen in it. */
export interface StreetView {
  /** [size, size, 3], RGB. */
  data: Uint8Array<ArrayBuffer>
  /** Pixels; pictures are square. */
  width: number
  /** Pixels. */
  height: number
  /** What is visible of each object. */
  sightings: Sighting[]
}

/** What is visible of an object while a view is painted. */
interface Visible {
  pixels: number
  x0: number
  y0: number
  x1: number
  y1: number
}

/**
 * Paints one view of a world.
 *
 * @param view - 0 to 5, as the domain's views.
 * @param size - Pixels of a side.
 */
export function drawView(world: World, view: number, size: number): StreetView {
  const canvas = canvasOf(size * samples)
  const whole = new Map<number, { pixels: number; box: Box | undefined }>()
  for (const item of paintView(world, view)) {
    if ('painted' in item) whole.set(item.painted, { pixels: canvas.countPainted(item.painted), box: item.box })
    else canvas.fill(item)
  }
  const data = canvas.shrink(
    size,
    new StreetRandom(world.seed * 6 + view + 77),
    world.noise,
    world.domain.weather[world.weather]!.falling,
  )
  const sightings = [...canvas.visible()].map(([id, seen]): Sighting => {
    const painted = whole.get(id)
    const pixels = seen.pixels / (samples * samples)
    const inside = painted?.box ? shareInside(painted.box) : 1
    const uncovered = seen.pixels / Math.max(1, painted?.pixels ?? seen.pixels)
    return {
      object: id === lightId ? -1 : id - 1,
      pixels,
      clear: pixels >= 14 && uncovered >= 0.5 && inside >= 0.55 && seen.y1 - seen.y0 >= 5 * samples,
      faint: pixels < 3,
      box: [seen.x0 / canvas.size, seen.y0 / canvas.size, (seen.x1 + 1) / canvas.size, (seen.y1 + 1) / canvas.size],
    }
  })
  return { data, width: size, height: size, sightings }
}

let spare: Canvas | undefined

/** A canvas whose samples are of the last picture: sky and ground cover all of them. */
function canvasOf(size: number): Canvas {
  if (spare?.size !== size) spare = new Canvas(size)
  return spare
}

/** Samples as id, blue, green, red from the top byte down. */
class Canvas {
  readonly size: number
  readonly #samples: Int32Array
  /** Where something with an id was painted since the last count. */
  #x0: number
  #x1 = 0
  #y0: number
  #y1 = -1
  /** The lines of this picture in which there can be ids. */
  #firstLine: number
  #lastLine = -1
  /** Corners of the polygon that is filled, the first again at the end, and crossings of one of its lines. */
  readonly #us = new Float64Array(65)
  readonly #ys = new Float64Array(65)
  readonly #crossings = new Float64Array(64)

  constructor(size: number) {
    this.size = size
    this.#samples = new Int32Array(size * size)
    this.#x0 = size
    this.#y0 = size
    this.#firstLine = size
  }

  /** Fills a polygon, by the rule of odd crossings at the middle of each line of samples. */
  fill({ points, rgb, id }: Polygon): void {
    const { size } = this
    const colour = (id << 24) | (rgb[2] << 16) | (rgb[1] << 8) | rgb[0]
    const count = points.length
    const us = this.#us
    const ys = this.#ys
    let top = 1e9
    let bottom = -1e9
    let left = 1e9
    let right = -1e9
    for (let i = 0; i < count; i++) {
      const [u, v] = points[i]!
      us[i] = u
      if (u < left) left = u
      if (u > right) right = u
      ys[i] = v * size
      if (v < top) top = v
      if (v > bottom) bottom = v
    }
    if (right < -0.01 || left > 1.01) return
    us[count] = us[0]!
    ys[count] = ys[0]!
    const first = Math.max(0, Math.ceil(top * size - 0.5))
    const last = Math.min(size - 1, Math.ceil(bottom * size - 0.5) - 1)
    const crossings = this.#crossings
    for (let y = first; y <= last; y++) {
      const middle = y + 0.5
      let found = 0
      for (let i = 0; i < count; i++) {
        const ay = ys[i]!
        const by = ys[i + 1]!
        if (ay <= middle !== by <= middle) {
          crossings[found++] = us[i]! * size + ((middle - ay) / (by - ay)) * (us[i + 1]! - us[i]!) * size
        }
      }
      if (found < 2) continue
      if (found > 2) crossings.subarray(0, found).sort()
      else if (crossings[0]! > crossings[1]!) {
        const x = crossings[0]!
        crossings[0] = crossings[1]!
        crossings[1] = x
      }
      for (let i = 0; i + 1 < found; i += 2) this.#fillLine(y, crossings[i]!, crossings[i + 1]!, colour, id)
    }
  }

  #fillLine(y: number, left: number, right: number, colour: number, id: number): void {
    const from = Math.max(0, Math.ceil(left - 0.5))
    const to = Math.min(this.size, Math.ceil(right - 0.5))
    if (to <= from) return
    const start = y * this.size
    const all = this.#samples
    // The library's fill is faster on long runs alone.
    if (to - from < 24) for (let i = start + from; i < start + to; i++) all[i] = colour
    else all.fill(colour, start + from, start + to)
    if (id === 0) return
    if (from < this.#x0) this.#x0 = from
    if (to > this.#x1) this.#x1 = to
    if (y < this.#y0) this.#y0 = y
    if (y > this.#y1) this.#y1 = y
  }

  /** Samples of an id where something was painted since the last call. */
  countPainted(id: number): number {
    let count = 0
    for (let y = this.#y0; y <= this.#y1; y++) {
      for (let i = y * this.size + this.#x0, end = y * this.size + this.#x1; i < end; i++) {
        if (this.#samples[i]! >>> 24 === id) count++
      }
    }
    this.#firstLine = Math.min(this.#firstLine, this.#y0)
    this.#lastLine = Math.max(this.#lastLine, this.#y1)
    this.#x0 = this.size
    this.#x1 = 0
    this.#y0 = this.size
    this.#y1 = -1
    return count
  }

  /** What is visible of each id, in the order in which ids are met: the end of a picture. */
  visible(): Map<number, Visible> {
    const { size } = this
    const all = this.#samples
    const out = new Map<number, Visible>()
    let lastId = 0
    let last: Visible | undefined
    const end = this.#lastLine
    for (let y = this.#firstLine, i = y * size; y <= end; y++) {
      for (let x = 0; x < size; x++, i++) {
        const id = all[i]! >>> 24
        if (id === 0) continue
        if (id !== lastId) {
          last = out.get(id)
          if (!last) {
            last = { pixels: 0, x0: x, y0: y, x1: x, y1: y }
            out.set(id, last)
          }
          lastId = id
        }
        const seen = last!
        seen.pixels++
        if (x < seen.x0) seen.x0 = x
        if (x > seen.x1) seen.x1 = x
        if (y > seen.y1) seen.y1 = y
      }
    }
    this.#firstLine = size
    this.#lastLine = -1
    return out
  }

  /** Pixels: means of their samples, with noise, then rain or snow. */
  shrink(
    size: number,
    random: StreetRandom,
    noise: number,
    falling: 'rain' | 'snow' | undefined,
  ): Uint8Array<ArrayBuffer> {
    const out = new Uint8Array(size * size * 3)
    const all = this.#samples
    const width = this.size
    const grains = random.pairs(size * size)
    for (let y = 0, o = 0, n = 0; y < size; y++) {
      let i = y * samples * width
      for (let x = 0; x < size; x++, o += 3, i += samples) {
        const a = all[i]!
        const b = all[i + 1]!
        const c = all[i + width]!
        const d = all[i + width + 1]!
        const grain = (grains[n++]! - 1) * noise
        // Red and blue are summed in one number, 16 bits each.
        const redBlue = (a & 0xff00ff) + (b & 0xff00ff) + (c & 0xff00ff) + (d & 0xff00ff)
        const green = ((a >>> 8) & 255) + ((b >>> 8) & 255) + ((c >>> 8) & 255) + ((d >>> 8) & 255)
        out[o] = level((redBlue & 0xffff) * 0.25 + grain)
        out[o + 1] = level(green * 0.25 + grain)
        out[o + 2] = level((redBlue >>> 16) * 0.25 + grain)
      }
    }
    if (falling === 'rain') paintRain(out, size, random)
    if (falling === 'snow') paintSnow(out, size, random)
    return out
  }
}

function level(value: number): number {
  return value < 0 ? 0 : value > 255 ? 255 : (value + 0.5) | 0
}

function paintRain(out: Uint8Array, size: number, random: StreetRandom): void {
  for (let drop = 0; drop < 60; drop++) {
    const x = random.below(size)
    let y = random.below(size)
    const length = 4 + random.below(6)
    for (let j = 0; j < length && y < size; j++, y++) {
      const at = x - (j >> 2)
      if (at < 0) break
      const o = (y * size + at) * 3
      for (let c = 0; c < 3; c++) out[o + c] = level(out[o + c]! * 0.75 + 52)
    }
  }
}

function paintSnow(out: Uint8Array, size: number, random: StreetRandom): void {
  for (let flake = 0; flake < (size * size) / 110; flake++) {
    const o = (random.below(size) * size + random.below(size)) * 3
    for (let c = 0; c < 3; c++) out[o + c] = level(out[o + c]! * 0.35 + 160)
  }
}

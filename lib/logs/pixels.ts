/**
 * Pixels of sensor_msgs/Image in every encoding of cameras, to interleaved RGB.
 *
 * Encodings: sensor_msgs/image_encodings.hpp. YUV is BT.601 in its limited range, as OpenCV and cv_bridge have it. A mosaic is filled in
 * bilinearly; its letters are the first two pixels of row 0 and of row 1.
 */
import { visible } from './files.ts'
import type { PictureMessage } from './picture.ts'

/** Interleaved RGB, `width · height · 3` bytes of its own. */
export interface RgbPicture {
  data: Uint8Array
  width: number
  height: number
}

interface Layout {
  /** Bytes of a row without padding. */
  row: (width: number) => number
  /** Rows of `step` bytes: more than the picture's where colour lies in a plane below. */
  rows: (height: number) => number
  /** What the width, and the height, must be a multiple of. */
  multiple: readonly [number, number]
  toRgb: (picture: PictureMessage, rgb: Uint8Array) => void
}

const plain = (bytes: number) => ({
  row: (width: number) => width * bytes,
  rows: (height: number) => height,
  multiple: [1, 1] as const,
})

/** Channels of whole bytes: where red, green and blue lie in a pixel; `high` is the byte of a 16-bit value that counts. */
function channels(bytes: number, red: number, green: number, blue: number, wide = 1): Layout {
  return {
    ...plain(bytes * wide),
    toRgb: ({ data, width, height, step, bigEndian }, rgb) => {
      const high = wide === 2 && !bigEndian ? 1 : 0
      const [r, g, b] = [red * wide + high, green * wide + high, blue * wide + high]
      let out = 0
      for (let y = 0; y < height; y++) {
        for (let at = y * step, end = at + width * bytes * wide; at < end; at += bytes * wide) {
          rgb[out++] = data[at + r]!
          rgb[out++] = data[at + g]!
          rgb[out++] = data[at + b]!
        }
      }
    },
  }
}

// OpenCV's: 20 bits behind the point.
const shift = 20
const half = 1 << (shift - 1)
const [cy, cur, cug, cvg, cub] = [1220542, 1673527, -852492, -409993, 2116026]

function yuvPixel(rgb: Uint8Array, out: number, y: number, u: number, v: number): void {
  const luma = Math.max(0, y - 16) * cy + half
  rgb[out] = clamp((luma + cur * (v - 128)) / 2 ** shift)
  rgb[out + 1] = clamp((luma + cug * (v - 128) + cvg * (u - 128)) / 2 ** shift)
  rgb[out + 2] = clamp((luma + cub * (u - 128)) / 2 ** shift)
}

function clamp(value: number): number {
  return value < 0 ? 0 : value > 255 ? 255 : Math.floor(value)
}

/** Two pixels in four bytes: where the first luma and U lie. */
function packed(y0: number, u: number): Layout {
  const v = u + 2
  return {
    ...plain(2),
    multiple: [2, 1],
    toRgb: ({ data, width, height, step }, rgb) => {
      for (let y = 0; y < height; y++) {
        for (let x = 0; x < width; x++) {
          const at = y * step + (x >> 1) * 4
          yuvPixel(rgb, (y * width + x) * 3, data[at + y0 + (x & 1) * 2]!, data[at + u]!, data[at + v]!)
        }
      }
    },
  }
}

/** Luma, and below it pairs of U and V: for two by two pixels, or (nv24) for each. */
function planes(u: number, sub: 1 | 2): Layout {
  return {
    row: (width) => width,
    rows: (height) => (sub === 2 ? height + height / 2 : height * 3),
    multiple: [sub, sub],
    toRgb: ({ data, width, height, step }, rgb) => {
      for (let y = 0; y < height; y++) {
        const chroma = height * step + (sub === 2 ? (y >> 1) * step : y * step * 2)
        for (let x = 0; x < width; x++) {
          const at = chroma + (sub === 2 ? x & ~1 : x * 2)
          yuvPixel(rgb, (y * width + x) * 3, data[y * step + x]!, data[at + u]!, data[at + 1 - u]!)
        }
      }
    },
  }
}

/** A mosaic: the colours of the first two pixels of row 0 and row 1. */
function bayer(pattern: string, wide = 1): Layout {
  const colour = [...pattern].map((letter) => 'rgb'.indexOf(letter))
  return {
    ...plain(wide),
    multiple: [2, 2],
    toRgb: ({ data, width, height, step, bigEndian }, rgb) => {
      const high = wide === 2 && !bigEndian ? 1 : 0
      const value = (x: number, y: number) => data[y * step + x * wide + high]!
      // Beyond the border the mosaic is mirrored, which keeps its colours in place.
      const mirror = (i: number, size: number) => (i < 0 ? -i : i >= size ? 2 * size - 2 - i : i)
      for (let y = 0; y < height; y++) {
        const [up, down] = [mirror(y - 1, height), mirror(y + 1, height)]
        for (let x = 0; x < width; x++) {
          const [left, right] = [mirror(x - 1, width), mirror(x + 1, width)]
          const out = (y * width + x) * 3
          const own = colour[(y & 1) * 2 + (x & 1)]!
          const beside = colour[(y & 1) * 2 + ((x + 1) & 1)]!
          rgb[out + own] = value(x, y)
          if (own === 1) {
            rgb[out + beside] = (value(left, y) + value(right, y) + 1) >> 1
            rgb[out + 2 - beside] = (value(x, up) + value(x, down) + 1) >> 1
          } else {
            rgb[out + 1] = (value(left, y) + value(right, y) + value(x, up) + value(x, down) + 2) >> 2
            rgb[out + 2 - own] = (value(left, up) + value(right, up) + value(left, down) + value(right, down) + 2) >> 2
          }
        }
      }
    },
  }
}

const patterns = ['rggb', 'bggr', 'gbrg', 'grbg']

const layouts: Record<string, Layout> = {
  rgb8: channels(3, 0, 1, 2),
  bgr8: channels(3, 2, 1, 0),
  rgba8: channels(4, 0, 1, 2),
  bgra8: channels(4, 2, 1, 0),
  '8UC3': channels(3, 2, 1, 0),
  '8UC4': channels(4, 2, 1, 0),
  '8UC1': channels(1, 0, 0, 0),
  mono8: channels(1, 0, 0, 0),
  mono16: channels(1, 0, 0, 0, 2),
  rgb16: channels(3, 0, 1, 2, 2),
  bgr16: channels(3, 2, 1, 0, 2),
  uyvy: packed(1, 0),
  yuv422: packed(1, 0),
  yuyv: packed(0, 1),
  yuv422_yuy2: packed(0, 1),
  nv12: planes(0, 2),
  nv21: planes(1, 2),
  nv24: planes(0, 1),
  ...Object.fromEntries(patterns.map((pattern) => [`bayer_${pattern}8`, bayer(pattern)])),
  ...Object.fromEntries(patterns.map((pattern) => [`bayer_${pattern}16`, bayer(pattern, 2)])),
}

/** Encodings of {@link toRgb}. */
export const rawEncodings: readonly string[] = Object.keys(layouts)

const maxPixels = 64_000_000
const maxEdge = 65_535

/** Why an encoding is no camera's, as a sentence's end; undefined if it is read. */
export function refusedEncoding(encoding: string): string | undefined {
  if (Object.hasOwn(layouts, encoding)) return undefined
  const depth = /^(16UC1|16SC1|32FC|64FC|8SC|32SC)/.test(encoding)
  return depth
    ? `its encoding is ${visible(encoding, 40)}, which is depth or the like, no camera's picture`
    : `its encoding is '${visible(encoding, 40)}', of which ${rawEncodings.join(', ')} are read`
}

/**
 * @returns Interleaved RGB; padding of rows is left out, 16 bits become their upper 8, alpha is dropped.
 * @throws Error, a sentence without its end, if it has too few bytes, or an encoding that is not read.
 */
export function toRgb(picture: PictureMessage): RgbPicture {
  const { encoding, width, height, step, data } = picture
  const refused = refusedEncoding(encoding)
  if (refused !== undefined) throw new Error(refused)
  const layout = layouts[encoding]!
  if (!(width >= 1 && height >= 1 && width <= maxEdge && height <= maxEdge && width * height <= maxPixels)) {
    throw new Error(`it has ${width} x ${height} pixels, of which 1 to ${maxPixels / 1e6} million are taken`)
  }
  const [across, down] = layout.multiple
  if (width % across !== 0 || height % down !== 0) {
    throw new Error(`it has ${width} x ${height} pixels, where ${encoding} has multiples of ${across} x ${down}`)
  }
  const row = layout.row(width)
  if (step < row) throw new Error(`its step is ${step} bytes, and a row of ${width} pixels of ${encoding} has ${row}`)
  const need = step * layout.rows(height)
  if (data.length < need)
    throw new Error(`${width} x ${height} pixels of ${encoding} need ${need} bytes, and it has ${data.length}`)
  const rgb = new Uint8Array(width * height * 3)
  layout.toRgb(picture, rgb)
  return { data: rgb, width, height }
}

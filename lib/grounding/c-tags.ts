/**
 * DriveLM's object tags. A data set names an object `<c1,CAM_BACK,1088.3,497.5>`, by the pixel of its middle in its own camera; the
 * adapted checkpoints say `<c1,CAM_BACK,[560, 776]>`, in thousandths of the stitched canvas.
 */
import { stripPython } from '../text/added-tokens.ts'
import {
  type CanvasGeometry,
  cellOf,
  drivelmGeometry,
  imageSizeOf,
  roundHalfEven,
  toPixels,
  toThousandths,
} from './geometry.ts'

const explanation =
  ' Objects are encoded using <c,CAM,[cx,cy]>, where c is the identifier, CAM indicates the camera where the object’s center point is situated, and x, y represent the horizontal and vertical coordinates of the center point of the 2D bounding box.'

const pixelTag = /<(c\d{1,9}),([A-Za-z_0-9]{1,64}),(-?\d{1,9}(?:\.\d{1,9})?),(-?\d{1,9}(?:\.\d{1,9})?)>/g

/** Tags with pixels to tags with canvas thousandths, whole numbers. Tags of other cameras stay as they are. */
export function tagsToCanvas(text: string, geometry: CanvasGeometry = drivelmGeometry): string {
  return text.replace(pixelTag, (tag: string, name: string, camera: string, x: string, y: string) => {
    if (!cellOf(geometry, camera)) return tag
    const [across, down] = toThousandths(geometry, camera, Number(x), Number(y))
    return `<${name},${camera},[${roundHalfEven(across)}, ${roundHalfEven(down)}]>`
  })
}

/** A DriveLM question as the adapted checkpoints were trained on it: tags on the canvas, and the sentence that explains them. */
export function drivelmQuestion(question: string, geometry: CanvasGeometry = drivelmGeometry): string {
  return tagsToCanvas(question, geometry) + explanation
}

/** How c-tags in an answer are converted. */
export interface AnswerTagOptions {
  /** Where the views lie; DriveLM's six by default. */
  geometry?: CanvasGeometry
  /**
   * Print clamped coordinates as `0.0`, `1600.0`, `900.0`. The reference prints them as whole numbers, which the challenge's
   * scorer does not recognise as coordinates; the default is the reference's form.
   */
  decimals?: boolean
}

// Python's \s. Numbers are written without overlapping repeats: an answer of a million digits must not take a million squared steps.
const blank = '[\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]*'
const number = '-?(?:[0-9]+(?:\\.[0-9]+)?|\\.[0-9]+)'
const bracket = new RegExp(`${blank}\\[${blank}${number}${blank},${blank}${number}${blank}\\]${blank}>`, 'y')

/**
 * An answer's canvas tags back to pixels, as the reference post-processes it: the answer is stripped, `<c1,CAM_BACK,[560, 776]>`
 * becomes `<c1,CAM_BACK,1088.0,496.8>`, clamped to the image. Unknown cameras and brackets that are not JSON stay.
 */
export function tagsToPixels(answer: string, options: AnswerTagOptions = {}): string {
  const { geometry = drivelmGeometry, decimals = false } = options
  const text = stripPython(answer)
  // A tag is `<c`, the next two commas, a bracket. Many `<c` may share their commas, so both are looked up once.
  const comma = ascending(text, ',')
  const second = ascending(text, ',')
  const brackets = new Map<number, number>()
  let out = ''
  let done = 0
  for (let start = text.indexOf('<c'); start >= 0; ) {
    const first = comma(start + 2)
    const middle = first < 0 ? -1 : second(first + 1)
    if (middle < 0) break
    let end = brackets.get(middle)
    if (end === undefined) {
      bracket.lastIndex = middle + 1
      end = bracket.test(text) ? bracket.lastIndex : -1
      brackets.set(middle, end)
    }
    if (end >= 0) {
      const camera = text.slice(first + 1, middle)
      const point = cellOf(geometry, camera) ? readPoint(text.slice(middle + 1, end - 1)) : undefined
      if (point) {
        const { width, height } = imageSizeOf(geometry, camera)
        const [x, y] = toPixels(geometry, camera, point[0], point[1])
        out += `${text.slice(done, first)},${camera},${coordinate(x, width, decimals)},${coordinate(y, height, decimals)}>`
        done = end
      }
    }
    start = text.indexOf('<c', end >= 0 ? end : start + 2)
  }
  return out + text.slice(done)
}

/** indexOf for places that only ascend. */
function ascending(text: string, pattern: string): (from: number) => number {
  let known = -2
  return (from) => {
    if (known === -2 || (known >= 0 && known < from)) known = text.indexOf(pattern, from)
    return known
  }
}

function readPoint(json: string): [number, number] | undefined {
  try {
    return JSON.parse(json) as [number, number]
  } catch {
    return undefined
  }
}

function coordinate(value: number, limit: number, decimals: boolean): string {
  if (value <= 0) return decimals ? '0.0' : '0'
  if (value >= limit) return decimals ? limit.toFixed(1) : String(limit)
  // Python rounds exact halves to even: x.25 is the one case where toFixed goes up.
  const quarter = value - Math.floor(value) === 0.25
  return quarter ? `${Math.floor(value)}.2` : value.toFixed(1)
}

/** Small grey pictures, to tell whether what a camera sees has changed. */
import { decodePicture } from '../views/decode.ts'
import type { PictureSource } from '../views/sources.ts'

const edge = 16

/**
 * A picture as 16 x 16 grey levels: the mean of each part, by luma of BT.601.
 *
 * @throws {@link ModelError} `BAD_VIEW` if it cannot be decoded.
 */
export async function thumbnailOf(picture: PictureSource, name: string): Promise<Uint8Array> {
  const { rgb, width, height } = await decodePicture(picture, name)
  const thumbnail = new Uint8Array(edge * edge)
  for (let row = 0; row < edge; row++) {
    const [top, bottom] = partOf(row, height)
    for (let column = 0; column < edge; column++) {
      const [left, right] = partOf(column, width)
      let [r, g, b] = [0, 0, 0]
      for (let y = top; y < bottom; y++) {
        for (let at = (y * width + left) * 3, end = (y * width + right) * 3; at < end; at += 3) {
          r += rgb[at]!
          g += rgb[at + 1]!
          b += rgb[at + 2]!
        }
      }
      thumbnail[row * edge + column] = (0.299 * r + 0.587 * g + 0.114 * b) / ((bottom - top) * (right - left)) + 0.5
    }
  }
  return thumbnail
}

/** From and to where a part of an edge goes; of an edge shorter than the thumbnail's, one pixel each. */
function partOf(i: number, size: number): [number, number] {
  const from = Math.floor((i * size) / edge)
  return [from, Math.max(from + 1, Math.floor(((i + 1) * size) / edge))]
}

/** How much two thumbnails differ on average, in grey levels. */
export function distanceOf(a: Uint8Array, b: Uint8Array): number {
  return a.reduce((sum, value, i) => sum + Math.abs(value - b[i]!), 0) / a.length
}

/** Augmentation as the published training has it: tiles lose what JPEG loses (spec/adaptation.md, section 2). */
import type { Random } from './random.ts'

const [lowest, highest] = [75, 100]

/**
 * Encodes each tile as JPEG (4:2:0) of a quality drawn from 75 to 100, and decodes it, in place.
 *
 * @param tiles - [tiles, size, size, 3] RGB.
 * @param random - Gives a quality a tile.
 */
export async function recompressTiles(tiles: Uint8Array, size: number, random: Random): Promise<void> {
  const { default: sharp } = await import('sharp')
  const bytes = size * size * 3
  const raw = { width: size, height: size, channels: 3 as const }
  for (let at = 0; at < tiles.length; at += bytes) {
    const quality = lowest + random.below(highest - lowest + 1)
    const tile = tiles.subarray(at, at + bytes)
    const jpeg = await sharp(tile, { raw }).jpeg({ quality, chromaSubsampling: '4:2:0' }).toBuffer()
    tile.set(await sharp(jpeg).toColourspace('srgb').removeAlpha().raw().toBuffer())
  }
}

/**
 * What a GIF shows where its first frame has no pixels of its own. sharp gives black there; Pillow, and with it the training pipeline, drops
 * the transparency and shows the colour that the palette has for it, also around a frame that does not cover the screen.
 */
export interface GifFrame {
  /** The palette's colour of transparent pixels, or its first. */
  fill: { r: number; g: number; b: number }
  /** Where the frame lies on the screen. */
  left: number
  top: number
  width: number
  height: number
}

/** The first frame; undefined where the file does not say, which decoding finds out. */
export function firstFrame(bytes: Uint8Array): GifFrame | undefined {
  const byte = (at: number) => bytes[at] ?? 0
  const word = (at: number) => byte(at) | (byte(at + 1) << 8)
  const tableBytes = (flags: number) => (flags & 0x80 ? 3 << ((flags & 7) + 1) : 0)
  const shared = tableBytes(byte(10))
  let at = 13 + shared
  let transparent = 0
  // Extensions up to the frame, of which a graphic control extension names the transparent colour.
  while (byte(at) === 0x21) {
    const label = byte(at + 1)
    if (label === 0xf9 && byte(at + 2) === 4) transparent = byte(at + 3) & 1 ? byte(at + 6) : 0
    at += 2
    while (byte(at) !== 0) at += byte(at) + 1 // past the end they are 0
    at++
  }
  if (byte(at) !== 0x2c) return undefined
  const own = tableBytes(byte(at + 9))
  const [table, size] = own > 0 ? [at + 10, own] : [13, shared]
  if (3 * transparent >= size || table + size > bytes.length) return undefined
  const colour = table + 3 * transparent
  return {
    fill: { r: byte(colour), g: byte(colour + 1), b: byte(colour + 2) },
    left: word(at + 1),
    top: word(at + 3),
    width: word(at + 5),
    height: word(at + 7),
  }
}

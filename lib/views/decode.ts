/**
 * Pictures to interleaved 8-bit RGB, with the bytes Pillow's `open(file).convert('RGB')` gives: orientation is applied to TIFF files only,
 * colour profiles are not applied, alpha is dropped (not blended), transparent parts of a GIF have the colour that its palette has for
 * them, CMYK is inverted plainly. 16-bit grey is the exception: it is scaled to 8 bits, where Pillow clips it at 255.
 */
import { constants } from 'node:fs'
import { open } from 'node:fs/promises'
import type { Sharp } from 'sharp'
import { ModelError } from '../errors.ts'
import { adviceOfRead, describeValue } from '../messages.ts'
import { firstFrame, type GifFrame } from './gif.ts'
import { bytesOf, isBlob, isRaw, notASource, type PictureSource, pathOf, type RawPicture } from './sources.ts'

export { isPictureSource, type PictureSource, type RawPicture } from './sources.ts'

/** Interleaved RGB, `width · height · 3` bytes. */
export interface DecodedPicture {
  rgb: Uint8Array
  width: number
  height: number
  /** The bytes are nobody else's: not the caller's, who might change them. */
  owned: boolean
}

/** Most pixels of one picture, as in the addon. */
export const maxPixels = 64_000_000

/** Longest edge of one picture, as in the addon. */
export const maxEdge = 65_535

const maxFileBytes = 256 * 1024 * 1024

// Vector and document formats are left out: rendering them is another matter than decoding.
const formats = ['jpeg', 'png', 'webp', 'tiff', 'gif', 'heif']

/**
 * Decodes one picture. The bytes of a file are copied before the first `await`; raw pixels are not copied at all.
 *
 * @param source - See {@link PictureSource}.
 * @param name - What messages call the picture: its camera, or `image 2`.
 * @throws {@link ModelError} `BAD_VIEW` if there is no such file or it is not a picture, is damaged, or too large.
 */
export async function decodePicture(source: PictureSource, name: string): Promise<DecodedPicture> {
  const file = pathOf(source, name)
  if (file !== undefined) return decodeBytes(await readPicture(file, name), name, file)
  const bytes = bytesOf(source, name)
  if (bytes !== undefined) return decodeBytes(Buffer.from(bytes), name)
  if (isBlob(source)) return decodeBytes(await readBlob(source, name), name)
  if (isRaw(source)) return rawPicture(source, name)
  throw notASource(source, name)
}

/**
 * Raw pixels, checked and not copied.
 *
 * @throws {@link ModelError} `BAD_VIEW` if they are not interleaved RGB of that size.
 */
export function rawPicture({ data, width, height }: RawPicture, name: string): DecodedPicture {
  const bytes = bytesOf(data, name)
  if (bytes === undefined) {
    throw bad(name, 'expected data to be a Uint8Array of interleaved RGB', `found ${describeValue(data)}`)
  }
  for (const edge of [width, height]) {
    if (!Number.isSafeInteger(edge) || edge < 1) {
      throw bad(
        name,
        'expected width and height to be positive integers',
        `found ${describeValue(width)} x ${describeValue(height)}`,
      )
    }
  }
  checkSize(width, height, name)
  if (bytes.length !== width * height * 3) {
    const rgba = bytes.length === width * height * 4 ? '; drop the fourth channel' : ''
    throw bad(
      name,
      `expected ${width * height * 3} bytes of interleaved RGB for ${width} x ${height} pixels`,
      `found ${bytes.length}${rgba}`,
    )
  }
  return { rgb: bytes, width, height, owned: false }
}

async function readBlob(blob: Blob, name: string): Promise<Buffer> {
  if (blob.size > maxFileBytes) {
    throw bad(name, `the Blob given has ${blob.size} bytes`, `a picture file may have up to ${maxFileBytes}`)
  }
  try {
    return Buffer.from(await blob.arrayBuffer())
  } catch (error) {
    throw bad(name, 'the Blob given cannot be read', reasonOf(error), error)
  }
}

async function readPicture(file: string, name: string): Promise<Buffer> {
  if (file === '') throw bad(name, 'expected the path of a picture', 'found an empty string')
  if (/^(https?|ftp|data):/i.test(file)) {
    throw bad(name, 'expected a path on this machine', `found a URL (${shorten(file)}); download it and pass its bytes`)
  }
  try {
    // Not blocking, so that a named pipe without a writer is refused below in place of waiting for one.
    const handle = await open(file, constants.O_RDONLY | constants.O_NONBLOCK)
    try {
      const stat = await handle.stat()
      if (stat.isDirectory()) throw bad(name, `${shorten(file)} is a folder`, 'give the picture inside it')
      if (!stat.isFile()) throw bad(name, `${shorten(file)} is not a regular file`, 'give a picture file')
      if (stat.size > maxFileBytes) {
        throw bad(name, `${shorten(file)} has ${stat.size} bytes`, `a picture file may have up to ${maxFileBytes}`)
      }
      return await handle.readFile()
    } finally {
      await handle.close()
    }
  } catch (error) {
    if (error instanceof ModelError) throw error
    const reason = (error as NodeJS.ErrnoException).code
    if (reason === 'ENOENT') throw bad(name, `${shorten(file)} does not exist`, 'check the path', error)
    throw new ModelError(
      'BAD_VIEW',
      `${name}: ${shorten(file)} cannot be read (${reason ?? String(error)}). ${adviceOfRead(reason)}`,
      { cause: error },
    )
  }
}

async function decodeBytes(bytes: Buffer, name: string, file?: string): Promise<DecodedPicture> {
  const where = file === undefined ? `the ${bytes.length} bytes given` : shorten(file)
  if (bytes.length === 0)
    throw bad(name, `${file === undefined ? 'the buffer given' : where} is empty`, 'give a picture')
  const sharp = await loadSharp(name)
  const notPicture = (cause: unknown) =>
    bad(name, `${where} cannot be decoded as a picture (${reasonOf(cause)})`, 'give a whole JPEG or PNG file', cause)

  let header: Awaited<ReturnType<ReturnType<typeof sharp>['metadata']>>
  try {
    header = await sharp(bytes, { limitInputPixels: false }).metadata()
  } catch (error) {
    throw notPicture(error)
  }
  if (!formats.includes(header.format ?? '')) {
    throw bad(name, `${where} is of format ${header.format}`, 'give a JPEG, PNG, WebP, TIFF, GIF or AVIF picture')
  }
  checkSize(header.width, header.height, name)

  try {
    const image = sharp(bytes, {
      limitInputPixels: maxPixels,
      failOn: 'error',
      autoOrient: header.format === 'tiff', // Pillow turns TIFF pictures when it loads them, and no others
      ignoreIcc: true,
      pages: 1,
    })
    if (header.space === 'cmyk') {
      const { data, info } = await image
        .pipelineColourspace('cmyk')
        .toColourspace('cmyk')
        .raw()
        .toBuffer({ resolveWithObject: true })
      const { channels, width, height } = info
      return { rgb: fromCmyk(data, channels, width * height), width, height, owned: true }
    }
    const frame = header.format === 'gif' ? firstFrame(bytes) : undefined
    if (frame !== undefined) fillAround(image, frame, header)
    const { data, info } = await image.toColourspace('srgb').removeAlpha().raw().toBuffer({ resolveWithObject: true })
    if (info.channels !== 3) throw new Error(`it decodes to ${info.channels} channels`)
    return { rgb: data, width: info.width, height: info.height, owned: true }
  } catch (error) {
    throw notPicture(error)
  }
}

/** As Pillow shows a GIF where its first frame is transparent, and where it does not reach. */
function fillAround(image: Sharp, { fill, ...frame }: GifFrame, screen: { width: number; height: number }): void {
  image.flatten({ background: fill })
  const right = screen.width - frame.left - frame.width
  const bottom = screen.height - frame.top - frame.height
  if (right < 0 || bottom < 0 || (right === 0 && bottom === 0 && frame.left === 0 && frame.top === 0)) return
  if (frame.width === 0 || frame.height === 0) return
  image.extract(frame).extend({ left: frame.left, top: frame.top, right, bottom, background: fill })
}

// Pillow's: (255 - k) - (255 - k) * c / 255, the product rounded.
function fromCmyk(data: Uint8Array, channels: number, pixels: number): Uint8Array {
  const rgb = new Uint8Array(pixels * 3)
  for (let i = 0; i < pixels; i++) {
    const white = 255 - data[channels * i + 3]!
    for (let c = 0; c < 3; c++) {
      const t = data[channels * i + c]! * white + 128
      rgb[3 * i + c] = Math.max(white - (((t >> 8) + t) >> 8), 0)
    }
  }
  return rgb
}

async function loadSharp(name: string): Promise<typeof import('sharp')['default']> {
  try {
    return (await import('sharp')).default
  } catch (error) {
    throw bad(
      name,
      `the package sharp, which decodes pictures, cannot be loaded (${reasonOf(error)})`,
      'install it for this platform, or pass raw RGB as { data, width, height }',
      error,
    )
  }
}

function checkSize(width: number, height: number, name: string): void {
  if (width * height > maxPixels) {
    const megapixels = (pixels: number) => `${Math.round(pixels / 1e4) / 100} megapixels`
    throw bad(
      name,
      `the picture has ${width} x ${height} pixels, ${megapixels(width * height)}`,
      `up to ${megapixels(maxPixels)} are taken; scale it down first`,
    )
  }
  if (width > maxEdge || height > maxEdge) {
    throw bad(name, `the picture has ${width} x ${height} pixels`, `edges of up to ${maxEdge} are taken`)
  }
}

function bad(name: string, what: string, advice: string, cause?: unknown): ModelError {
  return new ModelError('BAD_VIEW', `${name}: ${what}; ${advice}.`, cause === undefined ? undefined : { cause })
}

function reasonOf(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error)
  return shorten(message.split('\n', 1)[0]!.trim().replace(/\.$/, ''))
}

function shorten(text: string): string {
  return text.length <= 200 ? text : `${text.slice(0, 97)}…${text.slice(-97)}`
}

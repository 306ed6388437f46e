/**
 * What callers may pass as a picture, told by what it is and not by `instanceof`: test runners, `vm` contexts and Electron have classes of
 * their own for bytes.
 */
import { fileURLToPath } from 'node:url'
import { types } from 'node:util'
import { ModelError } from '../errors.ts'
import { className, describeValue, isThenable } from '../messages.ts'

/**
 * Pixels that are decoded already: interleaved RGB, `width · height · 3` bytes.
 *
 * They are read in place, on other threads, while the call that they are given to is under way: leave the buffer as it is until its promise
 * settles, or give a copy. A buffer that is transferred, resized or filled with another frame before it was read makes the call reject with
 * `BAD_VIEW`; a change of few pixels may go unnoticed.
 */
export interface RawPicture {
  /** [height, width, 3], RGB of 8 bits. */
  data: Uint8Array | Uint8ClampedArray | ArrayBuffer
  /** Pixels. */
  width: number
  /** Pixels. */
  height: number
}

/** A picture: a path or `file:` URL, the bytes of a JPEG, PNG, WebP, TIFF, GIF or AVIF file (also as a `Blob`), or raw RGB. */
export type PictureSource = string | URL | Uint8Array | Uint8ClampedArray | ArrayBuffer | Blob | RawPicture

/** Whether this is one picture, not several. What is neither is found out where it is read. */
export function isPictureSource(source: unknown): source is PictureSource {
  return typeof source === 'string' || isBinary(source) || isBlob(source) || isUrl(source) || isRaw(source)
}

export function isRaw(source: unknown): source is RawPicture {
  return (
    typeof source === 'object' &&
    source !== null &&
    !isBinary(source) &&
    'data' in source &&
    'width' in source &&
    'height' in source
  )
}

export function isBlob(source: unknown): source is Blob {
  return tagOf(source) === 'Blob' || tagOf(source) === 'File'
}

export function isUrl(source: unknown): source is URL {
  return tagOf(source) === 'URL'
}

/** Bytes of any kind, those that are no picture's too. */
function isBinary(source: unknown): source is ArrayBufferView | ArrayBuffer {
  return ArrayBuffer.isView(source) || types.isAnyArrayBuffer(source)
}

/** What the web calls an object; the same in every realm. */
function tagOf(source: unknown): unknown {
  return typeof source === 'object' && source !== null
    ? (source as { [Symbol.toStringTag]?: unknown })[Symbol.toStringTag]
    : undefined
}

/**
 * The bytes of a byte array or buffer, in place; undefined if it is neither.
 *
 * @throws {@link ModelError} `BAD_VIEW` if they went to another thread.
 */
export function bytesOf(source: unknown, name: string): Uint8Array | undefined {
  try {
    if (types.isUint8Array(source) || types.isUint8ClampedArray(source)) {
      return new Uint8Array(source.buffer, source.byteOffset, source.byteLength)
    }
    if (types.isAnyArrayBuffer(source)) return new Uint8Array(source)
  } catch (error) {
    const message = `${name}: the buffer given has no memory any more (it was transferred); pass it before, or a copy.`
    throw new ModelError('BAD_VIEW', message, { cause: error })
  }
  return undefined
}

/**
 * The path of a path or a `file:` URL; undefined for everything else.
 *
 * @throws {@link ModelError} `BAD_VIEW` for a URL that names no file of this machine.
 */
export function pathOf(source: unknown, name: string): string | undefined {
  if (typeof source === 'string') return source
  if (!isUrl(source)) return undefined
  const href = String(source.href)
  try {
    return fileURLToPath(href)
  } catch (error) {
    const message = `${name}: expected a path on this machine, found a URL (${href.slice(0, 200)}); download it and pass its bytes.`
    throw new ModelError('BAD_VIEW', message, { cause: error })
  }
}

/** The error for what is no picture at all, with what to pass instead where that is known. */
export function notASource(source: unknown, name: string): ModelError {
  const found = describeValue(source)
  const known = `${name}: expected a path, the bytes of a picture file or { data, width, height }; found ${found}`
  const advice = adviceFor(source)
  return new ModelError('BAD_VIEW', advice === undefined ? `${known}.` : `${known}. ${advice}`)
}

/** Why something is neither a picture nor several, where there is more to say than that. */
export function adviceFor(source: unknown): string | undefined {
  if (typeof source !== 'object' || source === null) return undefined
  if (isThenable(source)) return 'Await it first.'
  if (types.isMap(source)) return 'Pass Object.fromEntries(map) for views by camera name.'
  if (types.isSet(source) || (Symbol.iterator in source && !Array.isArray(source) && !isBinary(source))) {
    return 'Pass [...views] for a list of pictures.'
  }
  if (ArrayBuffer.isView(source)) return 'Pass new Uint8Array(view.buffer, view.byteOffset, view.byteLength).'
  const kind = className(source)
  if (kind === 'Response') return 'Pass new Uint8Array(await response.arrayBuffer()).'
  if (kind === 'Sharp') return 'Pass await image.png().toBuffer().'
  if (Symbol.asyncIterator in source) return 'Read the stream to its end and pass its bytes.'
  return undefined
}

/** Pictures of training data, looked at once: whether they are there, are pictures, and are large enough to show something. */
import { stat } from 'node:fs/promises'
import { decodePicture, maxEdge, maxPixels } from '../views/decode.ts'
import { stampOf } from './sample-lists.ts'

/** Why a picture cannot be trained on. */
export const pictureFaults = {
  'picture-missing': 'a picture is not there',
  'picture-broken': 'a file is no picture, or a damaged or too large one',
  'picture-tiny': 'a picture is one pixel wide or high, which shows nothing',
} as const

export type PictureFault = keyof typeof pictureFaults

/** A picture that can be used. */
export interface PictureSize {
  width: number
  height: number
  /** Tells its file from what it may become. */
  stamp: string
}

/** `whole`: every picture is decoded. `headers`: what its header says is believed, so that a damaged one is found in its step. */
export type PictureCheck = 'whole' | 'headers'

const kept = 4096

/** Looks at pictures; those of a moment, which many samples have, once. */
export class PictureChecks {
  readonly check: PictureCheck
  readonly #known = new Map<string, Promise<PictureSize | PictureFault>>()

  constructor(check: PictureCheck) {
    this.check = check
  }

  sizeOf(file: string): Promise<PictureSize | PictureFault> {
    let size = this.#known.get(file)
    if (size === undefined) {
      size = look(file, this.check)
      if (this.#known.size >= kept) this.#known.delete(this.#known.keys().next().value!)
      this.#known.set(file, size)
    }
    return size
  }
}

async function look(file: string, check: PictureCheck): Promise<PictureSize | PictureFault> {
  let stamp: string
  try {
    stamp = stampOf(await stat(file))
  } catch {
    return 'picture-missing'
  }
  try {
    const { width, height } = check === 'whole' ? await decodePicture(file, 'picture') : await headerOf(file)
    if (width === 1 || height === 1) return 'picture-tiny'
    const fits = width >= 1 && height >= 1 && width <= maxEdge && height <= maxEdge && width * height <= maxPixels
    return fits ? { width, height, stamp } : 'picture-broken'
  } catch {
    return 'picture-broken'
  }
}

async function headerOf(file: string): Promise<{ width: number; height: number }> {
  const { default: sharp } = await import('sharp')
  const header = await sharp(file, { limitInputPixels: false }).metadata()
  // The orientation of a TIFF file turns it.
  return header.format === 'tiff' ? decodePicture(file, 'picture') : header
}

/** From the views a caller passes to the images of the prompt: canvas, separate images or one image. */
import type { TilingLimits } from '../checkpoint/config.ts'
import type { CanvasLayout, ViewLayout } from '../checkpoint/layout.ts'
import { ModelError } from '../errors.ts'
import { describeValue, isRecord } from '../messages.ts'
import type { NativeAddon, NativeImage, NativePicture } from '../native.ts'
import { type Camera, cameras } from './cameras.ts'
import { type DecodedPicture, decodePicture, isPictureSource, type PictureSource } from './decode.ts'
import { labelFor } from './labels.ts'
import { adviceFor } from './sources.ts'

/**
 * What a model is shown: pictures by camera name, a list of pictures, or one picture.
 *
 * For a model that stitches its views to a canvas, a list as long as the canvas has cells is taken row by row; a list of
 * another length is a list of separate images.
 */
export type Views = PictureSource | readonly PictureSource[] | NamedViews

/** Pictures by camera name. The order of the keys does not matter. */
export type NamedViews = Readonly<Partial<Record<Camera, PictureSource>>>

export interface ViewOptions {
  /** A camera of the canvas without a picture: an error (default), or a black cell. */
  missingViews?: 'error' | 'black' | undefined
  /** Most tiles of one separate image, the thumbnail not counted; in place of the layout's. */
  maxTilesPerImage?: number | undefined
  /** Tiles shared out among separate images; in place of the layout's. */
  tileBudget?: number | undefined
  /**
   * Named separate images: these come last, in this order. Views that change from moment to moment belong there: what stands before the
   * first change is not computed again. A canvas has its order.
   */
  lastViews?: readonly string[] | undefined
}

export interface ComposeOptions extends ViewOptions {
  tiling: TilingLimits
  chooseGrid: NativeAddon['chooseGrid']
}

/** The images of a prompt, in its order. */
export interface ComposedImages {
  /** What was made: one stitched picture, several images, or one image. */
  layout: 'canvas' | 'separate' | 'single'
  images: NativeImage[]
  /** The camera of each image; `undefined` for a canvas and for pictures that came without a name. */
  cameras: (string | undefined)[]
  /** The camera of each picture that was decoded, and its size: cells of the canvas row by row, or images in order. */
  pictures: { camera: string | undefined; width: number; height: number }[]
}

/** Most pictures of one moment. */
export const maxViews = 256

interface NamedSource {
  camera?: string
  /** In messages. */
  name: string
  source: PictureSource
}

/**
 * Decodes the views and arranges them as the model's layout wants them.
 *
 * @throws {@link ModelError} `BAD_VIEW` if a camera is missing or unknown, or a picture cannot be used; it names the camera.
 */
export async function imagesFor(layout: ViewLayout, views: Views, options: ComposeOptions): Promise<ComposedImages> {
  const given = listViews(views)
  const canvas = layout.canvas
  if (canvas !== undefined) {
    if (given[0]!.camera !== undefined) return composeCanvas(canvas, byCamera(given, canvas.cameras), options)
    if (given.length === canvas.cameras.length) {
      const named = given.map((view, i) => ({ ...view, camera: canvas.cameras[i]!, name: canvas.cameras[i]! }))
      return composeCanvas(canvas, byCamera(named, canvas.cameras), options)
    }
  }
  if (layout.layout === 'single' && given.length > 1) {
    throw new ModelError('BAD_VIEW', `This model takes one picture at a time, found ${given.length}.`)
  }
  return separateImages(layout, given, options)
}

/** Tiles of an image, the thumbnail counted. */
export function tileCount(image: NativeImage): number {
  if ('tiles' in image) return image.tileCount
  return image.grid.columns * image.grid.rows + (image.grid.thumbnail ? 1 : 0)
}

function listViews(views: Views): NamedSource[] {
  const list = Array.isArray(views) ? listOfArray(views) : listOfOther(views as PictureSource | NamedViews)
  if (list.length === 0) throw new ModelError('BAD_VIEW', 'There are no views; give at least one picture.')
  if (list.length > maxViews) {
    throw new ModelError('BAD_VIEW', `Expected up to ${maxViews} views, found ${list.length}.`)
  }
  return list
}

function listOfArray(views: readonly PictureSource[]): NamedSource[] {
  return Array.from(views, (source, i) => ({ name: `view ${i + 1}`, source }))
}

function listOfOther(views: PictureSource | NamedViews): NamedSource[] {
  if (isPictureSource(views)) return [{ name: 'the picture', source: views }]
  if (!isRecord(views) || adviceFor(views) !== undefined) throw notViews(views)
  const known = cameras.filter((camera) => Object.hasOwn(views, camera)) as string[]
  const others = Object.keys(views).filter((key) => !known.includes(key))
  const named = views as Readonly<Record<string, PictureSource | undefined>>
  return [...known, ...others].flatMap((camera) => {
    const source = named[camera]
    return source === undefined ? [] : [{ camera, name: camera, source }]
  })
}

function notViews(found: unknown): ModelError {
  const what = `Expected views by camera name, a list of pictures or one picture, found ${describeValue(found)}.`
  const advice = adviceFor(found)
  return new ModelError('BAD_VIEW', advice === undefined ? what : `${what} ${advice}`)
}

function byCamera(given: readonly NamedSource[], expected: readonly string[]): Map<string, NamedSource> {
  const unknown = given.find((view) => !expected.includes(view.camera!))
  if (unknown !== undefined) {
    throw new ModelError(
      'BAD_VIEW',
      `${unknown.name} is not a camera of this model's canvas; expected ${expected.join(', ')}.`,
    )
  }
  return new Map(given.map((view) => [view.camera!, view]))
}

async function composeCanvas(
  canvas: CanvasLayout,
  given: ReadonlyMap<string, NamedSource>,
  options: ComposeOptions,
): Promise<ComposedImages> {
  const missing = canvas.cameras.filter((camera) => !given.has(camera))
  if (missing.length > 0 && options.missingViews !== 'black') {
    throw new ModelError(
      'BAD_VIEW',
      `${missing.join(', ')} ${missing.length === 1 ? 'is' : 'are'} missing: this model sees ${canvas.cameras.length} ` +
        `cameras at once, found ${given.size}. Add ${missing.length === 1 ? 'it' : 'them'}, or leave the cell black with ` +
        "missingViews: 'black' (--missing-views black).",
    )
  }
  const pictures = await Promise.all(
    canvas.cameras.map(async (camera): Promise<NativePicture> => {
      const view = given.get(camera)
      const picture = view === undefined ? black() : await decodeView(view)
      return canvas.labels ? { ...picture, label: await labelFor(camera) } : picture
    }),
  )
  const { columns, rows, cellWidth, cellHeight, maxTiles, thumbnail } = canvas
  const { tileSize, minTiles } = options.tiling
  const least = Math.min(minTiles, maxTiles)
  const grid = options.chooseGrid(columns * cellWidth, rows * cellHeight, tileSize, least, maxTiles, thumbnail)
  const cell = { width: cellWidth, height: cellHeight }
  return {
    layout: 'canvas',
    images: [{ pictures, cell, canvasColumns: columns, grid }],
    cameras: [undefined],
    pictures: pictures.map(({ width, height }, i) => ({ camera: canvas.cameras[i], width, height })),
  }
}

// Resized to a cell it stays black.
function black(): DecodedPicture {
  return { rgb: new Uint8Array(3), width: 1, height: 1 }
}

async function separateImages(
  layout: ViewLayout,
  given: readonly NamedSource[],
  options: ComposeOptions,
): Promise<ComposedImages> {
  const { tiling, chooseGrid } = options
  const most = limit('maxTilesPerImage', options.maxTilesPerImage ?? layout.maxTilesPerImage)
  const budget = limit('tileBudget', options.tileBudget ?? layout.tileBudget)
  // The rule of training and of the multi-image evaluations.
  const share = Math.min(most, Math.max(1, Math.floor(budget / given.length)))
  const maxTiles = tiling.dynamic ? share : 1
  const minTiles = Math.min(tiling.minTiles, maxTiles)
  const views = inOrder(given, options.lastViews ?? [])
  const pictures = await Promise.all(views.map(decodeView))
  const images = pictures.map((picture): NativeImage => {
    const { width, height } = picture
    return {
      pictures: [picture],
      grid: chooseGrid(width, height, tiling.tileSize, minTiles, maxTiles, tiling.useThumbnail),
    }
  })
  const cameras = views.map((view) => view.camera)
  return {
    layout: given.length === 1 ? 'single' : 'separate',
    images,
    cameras,
    pictures: pictures.map(({ width, height }, i) => ({ camera: cameras[i], width, height })),
  }
}

function inOrder(given: readonly NamedSource[], last: readonly string[]): NamedSource[] {
  const rank = ({ camera }: NamedSource): number => (camera === undefined ? -1 : last.indexOf(camera))
  return [...given].sort((a, b) => rank(a) - rank(b)) // stable: the others, all -1, stay as they were
}

async function decodeView({ source, name }: NamedSource): Promise<DecodedPicture> {
  const picture = await decodePicture(source, name)
  if (picture.width === 1 || picture.height === 1) {
    throw new ModelError(
      'BAD_VIEW',
      `${name}: the picture has ${picture.width} x ${picture.height} pixels, which shows nothing; check that it is the right one.`,
    )
  }
  return picture
}

function limit(name: string, value: number): number {
  if (Number.isInteger(value) && value >= 1 && value <= 1024) return value
  throw new ModelError('BAD_ARGUMENT', `Expected an integer from 1 to 1024 for options.${name}, received ${value}.`)
}

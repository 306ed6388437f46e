/** From the views a caller passes to the images of the prompt: canvas, separate images or one image; decoded, resized and cut. */
import type { TilingLimits } from '../checkpoint/config.ts'
import type { CanvasLayout, ViewLayout } from '../checkpoint/layout.ts'
import { ModelError } from '../errors.ts'
import { describeValue, isRecord } from '../messages.ts'
import { type NativeAddon, type NativeCell, type NativeGrid, toModelError } from '../native.ts'
import type { ViewOptions } from '../options.ts'
import { type Camera, cameras } from './cameras.ts'
import { type DecodedPicture, decodePicture, type PictureSource, rawPicture } from './decode.ts'
import { labelFor } from './labels.ts'
import {
  isViewSource,
  mapViews,
  type NamedViewSources,
  type PreparedImage,
  PreparedView,
  type ViewKey,
  type ViewSource,
  type ViewSources,
} from './prepared.ts'
import { adviceFor, isBlob, isRaw, isUrl } from './sources.ts'

/**
 * What a model is shown: pictures by camera name, a list of pictures, or one picture.
 *
 * For a model that stitches its views to a canvas, a list as long as the canvas has cells is taken row by row; a list of
 * another length is a list of separate images.
 */
export type Views = PictureSource | readonly PictureSource[] | NamedViews

/** Pictures by camera name. The order of the keys does not matter. */
export type NamedViews = Readonly<Partial<Record<Camera, PictureSource>>>

export interface ComposeOptions extends ViewOptions {
  tiling: TilingLimits
  addon: Pick<NativeAddon, 'chooseGrid' | 'prepareCells' | 'prepareTiles'>
}

/** What a grid is chosen with. */
export interface Tiling {
  tiling: TilingLimits
  addon: Pick<NativeAddon, 'chooseGrid'>
}

/** The images of a prompt, in its order. */
export interface ComposedImages {
  /** What was made: one stitched picture, several images, or one image. */
  layout: 'canvas' | 'separate' | 'single'
  images: PreparedImage[]
  /** The camera of each image; `undefined` for a canvas and for pictures that came without a name. */
  cameras: (string | undefined)[]
  /** The camera of each picture that was decoded, and its size: cells of the canvas row by row, or images in order. */
  pictures: { camera: string | undefined; width: number; height: number }[]
  /** The views as they were given, each as it was prepared: to be given again. */
  prepared: ViewSources
  /** The same for later: files and Blobs as they are, which take less room. */
  lasting: ViewSources
  /** Milliseconds until the last picture was decoded, and from there until the tiles were cut. Views are resized while others are decoded. */
  decodeMs: number
  preprocessMs: number
}

/** Most pictures of one moment. */
export const maxViews = 256

interface NamedSource {
  camera?: string
  /** In messages. */
  name: string
  key: ViewKey
  source: ViewSource
}

/** Options, and when the last picture was decoded. */
interface Preparing extends ComposeOptions {
  decodedAt: number
}

type Composed = Omit<ComposedImages, 'prepared' | 'lasting' | 'decodeMs' | 'preprocessMs'> & {
  made: Map<ViewKey, PreparedView>
}

/**
 * Decodes the views and makes of them what the model's layout wants. Raw pixels are read from the caller's buffer; reading begins before
 * the first `await`.
 *
 * @throws {@link ModelError} `BAD_VIEW` if a camera is missing or unknown, or a picture cannot be used; it names the camera.
 */
export async function imagesFor(
  layout: ViewLayout,
  views: ViewSources,
  options: ComposeOptions,
): Promise<ComposedImages> {
  const startedAt = performance.now()
  const preparing = { ...options, decodedAt: startedAt }
  const { made, ...composed } = await compose(layout, views, preparing)
  const { decodedAt } = preparing
  const prepared = mapViews(views, (source, key) => made.get(key) ?? source)
  const lasting = mapViews(prepared, (view) => (view instanceof PreparedView ? (view.source ?? view) : view))
  const decodeMs = decodedAt - startedAt
  return { ...composed, prepared, lasting, decodeMs, preprocessMs: performance.now() - decodedAt }
}

async function compose(layout: ViewLayout, views: ViewSources, options: Preparing): Promise<Composed> {
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

/** How the canvas is cut, whatever pictures it is stitched from. */
export function canvasGrid(
  { columns, rows, cellWidth, cellHeight, maxTiles, thumbnail }: CanvasLayout,
  { tiling, addon }: Tiling,
): NativeGrid {
  const least = Math.min(tiling.minTiles, maxTiles)
  return addon.chooseGrid(columns * cellWidth, rows * cellHeight, tiling.tileSize, least, maxTiles, thumbnail)
}

/** How a picture that is an image of its own is cut, into up to `most` tiles. */
export function imageGrid(
  { width, height }: { width: number; height: number },
  most: number,
  { tiling, addon }: Tiling,
): NativeGrid {
  const maxTiles = tiling.dynamic ? most : 1
  const minTiles = Math.min(tiling.minTiles, maxTiles)
  return addon.chooseGrid(width, height, tiling.tileSize, minTiles, maxTiles, tiling.useThumbnail)
}

/** Most tiles of each of several separate images: the rule of training and of the multi-image evaluations. */
export function tileShare(
  { maxTilesPerImage, tileBudget }: Pick<ViewLayout, 'maxTilesPerImage' | 'tileBudget'>,
  images: number,
): number {
  return Math.min(maxTilesPerImage, Math.max(1, Math.floor(tileBudget / images)))
}

/** Tiles of an image, the thumbnail counted. */
export function tileCount({ columns, rows, thumbnail }: NativeGrid): number {
  return columns * rows + (thumbnail ? 1 : 0)
}

function listViews(views: ViewSources): NamedSource[] {
  const list = Array.isArray(views) ? listOfArray(views) : listOfOther(views as ViewSource | NamedViewSources)
  if (list.length === 0) throw new ModelError('BAD_VIEW', 'There are no views; give at least one picture.')
  if (list.length > maxViews) {
    throw new ModelError('BAD_VIEW', `Expected up to ${maxViews} views, found ${list.length}.`)
  }
  return list
}

function listOfArray(views: readonly ViewSource[]): NamedSource[] {
  return Array.from(views, (source, i) => ({ name: `view ${i + 1}`, key: i, source }))
}

function listOfOther(views: ViewSource | NamedViewSources): NamedSource[] {
  if (isViewSource(views)) return [{ name: 'the picture', key: undefined, source: views }]
  if (!isRecord(views) || adviceFor(views) !== undefined) throw notViews(views)
  const known = cameras.filter((camera) => Object.hasOwn(views, camera)) as string[]
  const others = Object.keys(views).filter((key) => !known.includes(key))
  const named = views as Readonly<Record<string, ViewSource | undefined>>
  return [...known, ...others].flatMap((camera) => {
    const source = named[camera]
    return source === undefined ? [] : [{ camera, name: camera, key: camera, source }]
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
  options: Preparing,
): Promise<Composed> {
  const missing = canvas.cameras.filter((camera) => !given.has(camera))
  if (missing.length > 0 && options.missingViews !== 'black') {
    throw new ModelError(
      'BAD_VIEW',
      `${missing.join(', ')} ${missing.length === 1 ? 'is' : 'are'} missing: this model sees ${canvas.cameras.length} ` +
        `cameras at once, found ${given.size}. Add ${missing.length === 1 ? 'it' : 'them'}, or leave the cell black with ` +
        "missingViews: 'black' (--missing-views black).",
    )
  }
  const { columns, cellWidth, cellHeight } = canvas
  const { addon } = options
  const cell = { width: cellWidth, height: cellHeight }
  // Pixels that are there already are handed over together, and before anything is awaited: what the caller does to them from then on is noticed.
  const there = new Map<string, DecodedPicture>()
  for (const camera of canvas.cameras) {
    const view = given.get(camera)
    if (view === undefined) there.set(camera, black())
    else if (isRaw(view.source)) there.set(camera, checked(rawPicture(view.source, camera), view, options))
  }
  const prepare = (pictures: readonly (readonly [string, DecodedPicture])[]): Promise<NativeCell[]> => {
    const labelled = pictures.map(([name, picture]) => ({
      ...picture,
      name,
      label: canvas.labels ? labelFor(name) : undefined,
    }))
    return addon.prepareCells(labelled, cell).catch(rethrow)
  }
  const together = there.size > 0 ? prepare([...there]) : Promise.resolve([])
  const order = [...there.keys()]
  const made = new Map<ViewKey, PreparedView>()
  const views = await Promise.all(
    canvas.cameras.map(async (camera) => {
      const view = given.get(camera)
      if (view?.source instanceof PreparedView) return view.source
      const waiting = there.get(camera)
      const picture = waiting ?? checked(await decodePicture(view!.source as PictureSource, camera), view!, options)
      const cells = waiting === undefined ? await prepare([[camera, picture]]) : await together
      const own = cells[waiting === undefined ? 0 : order.indexOf(camera)]!
      const prepared = new PreparedView(own, picture, view && sourceAgain(view.source))
      if (view !== undefined) made.set(view.key, prepared)
      return prepared
    }),
  )
  const grid = canvasGrid(canvas, options)
  const cells = views.map((view) => view.made as NativeCell)
  const tiles = await addon.prepareTiles({ cells, columns }, grid, options.tiling.tileSize).catch(rethrow)
  return {
    layout: 'canvas',
    images: [{ tiles, grid }],
    cameras: [undefined],
    pictures: views.map(({ width, height }, i) => ({ camera: canvas.cameras[i], width, height })),
    made,
  }
}

// Resized to a cell it stays black.
function black(): DecodedPicture {
  return { rgb: new Uint8Array(3), width: 1, height: 1, owned: true }
}

async function separateImages(
  layout: ViewLayout,
  given: readonly NamedSource[],
  options: Preparing,
): Promise<Composed> {
  const { tiling, addon } = options
  const most = limit('maxTilesPerImage', options.maxTilesPerImage ?? layout.maxTilesPerImage)
  const budget = limit('tileBudget', options.tileBudget ?? layout.tileBudget)
  const share = tileShare({ maxTilesPerImage: most, tileBudget: budget }, given.length)
  const views = inOrder(given, options.lastViews ?? [])
  const made = new Map<ViewKey, PreparedView>()
  const prepare = async (picture: DecodedPicture, name: string): Promise<PreparedImage> => {
    const grid = imageGrid(picture, share, options)
    return { tiles: await addon.prepareTiles({ ...picture, name }, grid, tiling.tileSize).catch(rethrow), grid }
  }
  const prepared = await Promise.all(
    views.map(async (view) => {
      const { source, name, key } = view
      if (source instanceof PreparedView) return source
      // As for a canvas, no `await` stands before raw pixels are handed over.
      const decoded = isRaw(source) ? rawPicture(source, name) : await decodePicture(source, name)
      const picture = checked(decoded, view, options)
      const one = new PreparedView(await prepare(picture, name), picture, sourceAgain(source))
      made.set(key, one)
      return one
    }),
  )
  const cameras = views.map((view) => view.camera)
  return {
    layout: given.length === 1 ? 'single' : 'separate',
    images: prepared.map((view) => view.made as PreparedImage),
    cameras,
    pictures: prepared.map(({ width, height }, i) => ({ camera: cameras[i], width, height })),
    made,
  }
}

function inOrder(given: readonly NamedSource[], last: readonly string[]): NamedSource[] {
  const rank = ({ camera }: NamedSource): number => (camera === undefined ? -1 : last.indexOf(camera))
  return [...given].sort((a, b) => rank(a) - rank(b)) // stable: the others, all -1, stay as they were
}

/** A picture that shows something. */
function checked(picture: DecodedPicture, { name }: NamedSource, options: Preparing): DecodedPicture {
  const { width, height } = picture
  if (width === 1 || height === 1) {
    throw new ModelError(
      'BAD_VIEW',
      `${name}: the picture has ${width} x ${height} pixels, which shows nothing; check that it is the right one.`,
    )
  }
  options.decodedAt = performance.now()
  return picture
}

/** What can be read again later, and takes less room than what was made of it. */
function sourceAgain(source: ViewSource): string | URL | Blob | undefined {
  return typeof source === 'string' || isUrl(source) || isBlob(source) ? source : undefined
}

function rethrow(error: unknown): never {
  throw toModelError(error)
}

function limit(name: string, value: number): number {
  if (Number.isInteger(value) && value >= 1 && value <= 1024) return value
  throw new ModelError('BAD_ARGUMENT', `Expected an integer from 1 to 1024 for options.${name}, received ${value}.`)
}

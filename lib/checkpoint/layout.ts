/** How the views of a moment become images of the prompt, and the optional `drivlm.json` that says so. */
import { ModelError } from '../errors.ts'
import type { TilingLimits } from './config.ts'
import { describe, shorten } from './files.ts'
import type { JsonReader } from './json-reader.ts'

/** The order of DriveLM's canvas: front row, back row. */
export const canvasCameras: readonly string[] = [
  'CAM_FRONT_LEFT',
  'CAM_FRONT',
  'CAM_FRONT_RIGHT',
  'CAM_BACK_LEFT',
  'CAM_BACK',
  'CAM_BACK_RIGHT',
]

/** Views stitched into one picture, row by row. */
export interface CanvasLayout {
  columns: number
  rows: number
  /** Size every view is resized to, in pixels. */
  cellWidth: number
  cellHeight: number
  /** A camera for each cell, row by row. */
  cameras: string[]
  /** Paint each camera's name into its cell, as DriveLM's training pictures have it. */
  labels: boolean
  /** Append the whole canvas, squeezed to one tile. */
  thumbnail: boolean
  /** Most tiles the canvas is cut into, the thumbnail not counted. */
  maxTiles: number
}

/**
 * How a model wants its views. `canvas` holds for moments with exactly the canvas's cameras; other sets of views are
 * given as separate images, and one view alone as a single image.
 */
export interface ViewLayout {
  layout: 'canvas' | 'separate' | 'single'
  /** Present exactly if `layout` is `canvas`. */
  canvas?: CanvasLayout
  /** Most tiles of one separate image, the thumbnail not counted. */
  maxTilesPerImage: number
  /** Tiles shared out among separate images: each gets `max(1, floor(tileBudget / images))`, at most `maxTilesPerImage`. */
  tileBudget: number
  /** Name the camera in the text in front of each separate image. */
  cameraNames: boolean
  /** In place of the template's own system message. */
  systemMessage?: string
  /** Appended to every question. */
  promptSuffix?: string
  /** Why this layout, as a sentence. */
  why: string
}

/**
 * The optional file `drivlm.json` beside config.json. Every key is optional, and unknown keys are errors.
 *
 * ```json
 * {
 *   "layout": "canvas",
 *   "canvas": {
 *     "columns": 3, "rows": 2, "cellWidth": 896, "cellHeight": 448,
 *     "cameras": ["CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_LEFT", "CAM_BACK", "CAM_BACK_RIGHT"],
 *     "labels": true, "thumbnail": true, "maxTiles": 12
 *   },
 *   "maxTilesPerImage": 12,
 *   "tileBudget": 12,
 *   "cameraNames": true,
 *   "systemMessage": "You are a driving assistant.",
 *   "promptSuffix": "\nAnswer with the option's letter."
 * }
 * ```
 *
 * | key | meaning | default |
 * |---|---|---|
 * | `layout` | `canvas`: one stitched picture; `separate`: an image a view; `single`: the model takes one image only | as without the file |
 * | `canvas` | required with `layout: "canvas"`, an error with another; its `columns`, `rows`, `cellWidth`, `cellHeight` and `cameras` are required | |
 * | `canvas.labels` | paint the camera names; needs the six nuScenes cameras | false |
 * | `canvas.thumbnail` | append the whole canvas as one more tile | `use_thumbnail` of config.json |
 * | `canvas.maxTiles` | most tiles of the canvas | `max_dynamic_patch` |
 * | `maxTilesPerImage` | most tiles of one separate image | `max_dynamic_patch` |
 * | `tileBudget` | tiles shared out among separate images | `maxTilesPerImage` |
 * | `cameraNames` | camera names in the text of separate images | false |
 * | `systemMessage`, `promptSuffix` | texts | the template's, none |
 */
export function parseLayout(file: JsonReader, tiling: TilingLimits, origin?: string): ViewLayout {
  const usual = defaultLayout(origin, tiling)
  refuseUnknown(file, [
    'layout',
    'canvas',
    'maxTilesPerImage',
    'tileBudget',
    'cameraNames',
    'systemMessage',
    'promptSuffix',
  ])
  const kinds = ['canvas', 'separate', 'single'] as const
  const stated = file.raw('layout')
  const layout = stated === undefined && !file.has('canvas') ? usual.layout : kinds.find((kind) => kind === stated)
  if (layout === undefined) throw file.fail('layout', '"canvas", "separate" or "single"')
  if (layout !== 'canvas' && file.has('canvas')) throw file.fail('canvas', `absent with layout "${layout}"`)
  const maxTilesPerImage = file.optional('maxTilesPerImage', (key) => file.integer(key, tiles)) ?? tiling.maxTiles
  const systemMessage = file.optional('systemMessage', (key) => readText(file, key))
  const promptSuffix = file.optional('promptSuffix', (key) => readText(file, key))
  return {
    layout,
    ...(layout === 'canvas'
      ? { canvas: stated === undefined ? usual.canvas! : parseCanvas(file.object('canvas'), tiling) }
      : {}),
    maxTilesPerImage,
    tileBudget: file.optional('tileBudget', (key) => file.integer(key, tiles)) ?? maxTilesPerImage,
    cameraNames: file.optional('cameraNames', (key) => file.boolean(key)) ?? false,
    ...(systemMessage === undefined ? {} : { systemMessage }),
    ...(promptSuffix === undefined ? {} : { promptSuffix }),
    why:
      stated === undefined
        ? usual.why.replace('There is no drivlm.json', `${file.file} names no layout`)
        : `${file.file} beside config.json asks for layout "${layout}".`,
  }
}

const tiles = { min: 1, max: 1024 }

function parseCanvas(canvas: JsonReader, tiling: TilingLimits): CanvasLayout {
  refuseUnknown(canvas, ['columns', 'rows', 'cellWidth', 'cellHeight', 'cameras', 'labels', 'thumbnail', 'maxTiles'])
  const columns = canvas.integer('columns', { max: 16 })
  const rows = canvas.integer('rows', { max: 16 })
  const cameras = canvas.strings('cameras')
  if (cameras.length !== columns * rows || new Set(cameras).size !== cameras.length) {
    throw canvas.fail('cameras', `${columns * rows} different names, one for each cell`)
  }
  if (!cameras.every((camera) => /^\w{1,64}$/.test(camera))) {
    throw canvas.fail('cameras', 'names of letters, digits and underscores')
  }
  const labels = canvas.optional('labels', (key) => canvas.boolean(key)) ?? false
  if (labels && !cameras.every((camera) => canvasCameras.includes(camera))) {
    throw canvas.fail('labels', `false: labels exist for ${canvasCameras.join(', ')} only`)
  }
  return {
    columns,
    rows,
    cellWidth: canvas.integer('cellWidth', { max: 8192 }),
    cellHeight: canvas.integer('cellHeight', { max: 8192 }),
    cameras: [...cameras],
    labels,
    thumbnail: canvas.optional('thumbnail', (key) => canvas.boolean(key)) ?? tiling.useThumbnail,
    maxTiles: canvas.optional('maxTiles', (key) => canvas.integer(key, tiles)) ?? tiling.maxTiles,
  }
}

function readText(file: JsonReader, key: string): string {
  const value = file.raw(key)
  if (typeof value !== 'string') throw file.fail(key, 'a string')
  return value
}

function refuseUnknown(file: JsonReader, known: readonly string[]): void {
  const unknown = file.keys().find((key) => !known.includes(key))
  if (unknown === undefined) return
  throw new ModelError(
    file.code,
    `${file.file}: ${shorten(file.path(unknown), 100)} is not a known key (found ${describe(file.raw(unknown))}); expected ${known.join(', ')}.`,
  )
}

/**
 * The layout of a folder without `drivlm.json`: DriveLM's labelled canvas for six views where the tiles are the size it
 * was made for, separate images otherwise.
 *
 * @param origin - The checkpoint that this one was made from, as `_name_or_path` of config.json says.
 */
export function defaultLayout(origin: string | undefined, tiling: TilingLimits): ViewLayout {
  const common = { maxTilesPerImage: tiling.maxTiles, tileBudget: tiling.maxTiles, cameraNames: false }
  const adapted = origin !== undefined && /DriveLM/i.test(origin) ? origin : undefined
  if (tiling.tileSize !== 448) {
    const size = `${tiling.tileSize} px tiles are not the 448 px ones DriveLM's canvas was made for`
    return {
      layout: 'separate',
      ...common,
      why: `There is no drivlm.json, and ${size}, so every view is an image of its own.`,
    }
  }
  const why =
    adapted === undefined
      ? 'There is no drivlm.json; six views are stitched as DriveLM models were trained, other sets of views are separate images.'
      : `There is no drivlm.json; the name ${shorten(adapted, 100)} (_name_or_path of config.json) says that the model was adapted to DriveLM, whose six views are stitched.`
  const canvas: CanvasLayout = {
    columns: 3,
    rows: 2,
    cellWidth: 896,
    cellHeight: 448,
    cameras: [...canvasCameras],
    labels: true,
    // Training used both, and the grid of 6 × 2 tiles needs 12, whatever the config says of other pictures.
    thumbnail: true,
    maxTiles: 12,
  }
  return { layout: 'canvas', canvas, ...common, why }
}

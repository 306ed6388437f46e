/**
 * Where a camera's pixels lie in what the model saw. Coordinates in prompts and answers are thousandths of that whole picture:
 * of the stitched canvas where views are stitched, of the image itself where they are not (one column, one row).
 */
import { ModelError } from '../errors.ts'

/** Width and height in pixels. */
export interface Size {
  /** Pixels. */
  width: number
  /** Pixels. */
  height: number
}

/** Where the views lie on a stitched canvas. */
export interface CanvasGeometry {
  /** Cells in a row. */
  columns: number
  /** Rows of cells. */
  rows: number
  /** Pixels across a cell; each view is resized to the cell, its aspect not kept. */
  cellWidth: number
  /** Pixels down a cell. */
  cellHeight: number
  /** Camera of each cell, row by row. */
  cameras: readonly string[]
  /** Original size of the cameras' images: one for all, or one for each name. */
  imageSize: Size | Readonly<Record<string, Size>>
}

/** x1, y1, x2, y2. */
export type Box = readonly [number, number, number, number]

/** A box in a camera's own pixels. */
export interface CameraBox {
  /** Name of the camera, such as `CAM_FRONT`. */
  camera: string
  /** [x1, y1, x2, y2] in pixels of its picture. */
  box: Box
}

/** The six nuScenes cameras, 1600×900, stitched to 2688×896 as the DriveLM checkpoints were trained. */
export const drivelmGeometry: CanvasGeometry = {
  columns: 3,
  rows: 2,
  cellWidth: 896,
  cellHeight: 448,
  cameras: ['CAM_FRONT_LEFT', 'CAM_FRONT', 'CAM_FRONT_RIGHT', 'CAM_BACK_LEFT', 'CAM_BACK', 'CAM_BACK_RIGHT'],
  imageSize: { width: 1600, height: 900 },
}

/** Geometry of one image that is shown by itself. */
export function imageGeometry(camera: string, size: Size): CanvasGeometry {
  return { columns: 1, rows: 1, cellWidth: size.width, cellHeight: size.height, cameras: [camera], imageSize: size }
}

/** Original size of a camera's image. */
export function imageSizeOf(geometry: CanvasGeometry, camera: string): Size {
  const { imageSize } = geometry
  const isOne = typeof imageSize.width === 'number' && typeof imageSize.height === 'number'
  const named = imageSize as Readonly<Record<string, Size>>
  const size = isOne ? (imageSize as Size) : Object.hasOwn(named, camera) ? named[camera] : undefined
  if (!size || !(size.width > 0) || !(size.height > 0)) {
    throw new ModelError(
      'BAD_ARGUMENT',
      `No image size for camera ${JSON.stringify(camera)}; give its width and height in pixels.`,
    )
  }
  return size
}

/** Column and row of a camera's cell, undefined for a camera that is not on the canvas. */
export function cellOf(geometry: CanvasGeometry, camera: string): { column: number; row: number } | undefined {
  const index = geometry.cameras.indexOf(camera)
  return index < 0 ? undefined : { column: index % geometry.columns, row: Math.floor(index / geometry.columns) }
}

function requireCell(geometry: CanvasGeometry, camera: string): { column: number; row: number } {
  const cell = cellOf(geometry, camera)
  if (!cell)
    throw new ModelError(
      'BAD_ARGUMENT',
      `No camera ${JSON.stringify(camera)}; this layout has ${geometry.cameras.join(', ')}.`,
    )
  return cell
}

/** A point in a camera's pixels as thousandths of what the model saw, not rounded. */
export function toThousandths(geometry: CanvasGeometry, camera: string, x: number, y: number): [number, number] {
  const { column, row } = requireCell(geometry, camera)
  const { width, height } = imageSizeOf(geometry, camera)
  const { cellWidth, cellHeight, columns, rows } = geometry
  return [
    ((column * cellWidth + (x / width) * cellWidth) / (columns * cellWidth)) * 1000,
    ((row * cellHeight + (y / height) * cellHeight) / (rows * cellHeight)) * 1000,
  ]
}

/** Thousandths of what the model saw as a point in a camera's pixels, not clamped: it may lie outside of that camera. */
export function toPixels(geometry: CanvasGeometry, camera: string, x: number, y: number): [number, number] {
  const { column, row } = requireCell(geometry, camera)
  const { width, height } = imageSizeOf(geometry, camera)
  const { cellWidth, cellHeight, columns, rows } = geometry
  return [
    (((x / 1000) * (columns * cellWidth) - column * cellWidth) / cellWidth) * width,
    (((y / 1000) * (rows * cellHeight) - row * cellHeight) / cellHeight) * height,
  ]
}

/** The camera whose cell holds this point, in thousandths. Points outside belong to the nearest cell. */
export function cameraAt(geometry: CanvasGeometry, x: number, y: number): string {
  const column = Math.min(Math.max(Math.floor((x / 1000) * geometry.columns), 0), geometry.columns - 1)
  const row = Math.min(Math.max(Math.floor((y / 1000) * geometry.rows), 0), geometry.rows - 1)
  const camera = geometry.cameras[row * geometry.columns + column]
  if (camera === undefined) throw new ModelError('BAD_ARGUMENT', `Cell ${column}, ${row} of the layout has no camera.`)
  return camera
}

/**
 * A box in thousandths as a box in pixels of one camera, clamped to its image. Without a camera, the one that holds the middle of
 * the box: views do not show one another's objects, so a box over a seam is cut there.
 */
export function boxToPixels(geometry: CanvasGeometry, box: Box, camera?: string): CameraBox {
  const [x1, y1, x2, y2] = box
  const name = camera ?? cameraAt(geometry, (x1 + x2) / 2, (y1 + y2) / 2)
  const { width, height } = imageSizeOf(geometry, name)
  const [left, top] = toPixels(geometry, name, x1, y1)
  const [right, bottom] = toPixels(geometry, name, x2, y2)
  const within = (value: number, limit: number): number => Math.min(Math.max(value, 0), limit)
  return { camera: name, box: [within(left, width), within(top, height), within(right, width), within(bottom, height)] }
}

/** A box in a camera's pixels as whole thousandths, as prompts carry it. */
export function boxToThousandths(geometry: CanvasGeometry, { camera, box }: CameraBox): Box {
  const { width, height } = imageSizeOf(geometry, camera)
  const [x1, y1, x2, y2] = box
  if (![x1, y1, x2, y2].every(Number.isFinite) || x1 > x2 || y1 > y2 || x1 < 0 || y1 < 0 || x2 > width || y2 > height) {
    throw new ModelError(
      'BAD_ARGUMENT',
      `Box [${box.join(', ')}] in ${camera}; expected x1 ≤ x2 and y1 ≤ y2 in pixels of its ${width}×${height} image.`,
    )
  }
  const [left, top] = toThousandths(geometry, camera, x1, y1)
  const [right, bottom] = toThousandths(geometry, camera, x2, y2)
  return [roundHalfEven(left), roundHalfEven(top), roundHalfEven(right), roundHalfEven(bottom)]
}

/** Python's `round(x)`. */
export function roundHalfEven(value: number): number {
  const rounded = Math.round(value)
  return value - Math.floor(value) === 0.5 && rounded % 2 !== 0 ? rounded - 1 : rounded
}

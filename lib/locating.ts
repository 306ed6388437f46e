/** Boxes of an answer, in pixels of the camera they lie in. */
import type { Answer } from './answer.ts'
import type { CanvasLayout } from './checkpoint/layout.ts'
import { ModelError } from './errors.ts'
import { locateObjects, parseGrounding } from './grounding/boxes.ts'
import { type Box, type CanvasGeometry, imageGeometry } from './grounding/geometry.ts'
import type { ComposedImages } from './views/compose.ts'

/** Where something was found. */
export interface LocatedBox {
  /** What the answer calls it; empty where it gives no name. */
  label: string
  /** The camera the box lies in; `image` for a picture without a name. */
  camera: string
  /** x1, y1, x2, y2 in pixels of that camera's own picture. */
  box: Box
  /** As the model said it, in thousandths of what it saw. */
  thousandths: Box
}

/** An answer that says where something is. */
export interface Located {
  /** What was found, in the order of the answer. */
  boxes: LocatedBox[]
  /** The answer with labels in place of boxes. */
  text: string
  /** The answer as it was given, tags and all. */
  answer: Answer
}

/** How {@link Scene.boxesIn} reads a text. */
export interface BoxOptions {
  /** As of {@link Scene.locate}. */
  camera?: string
  /** The question that the text answers: among separate images, boxes lie in the camera that it names. Default: the text itself. */
  question?: string
}

/**
 * Reads texts with boxes about these pictures.
 *
 * @param canvas - The layout of the canvas they were stitched to, if they were.
 * @throws {@link ModelError} `BAD_ARGUMENT` if it is not clear which image the boxes lie in.
 */
export function locate(
  canvas: CanvasLayout | undefined,
  pictures: ComposedImages['pictures'],
  question: string,
  camera: string | undefined,
): (text: string) => Omit<Located, 'answer'> {
  const geometry = canvas === undefined ? imageOf(pictures, question, camera) : canvasOf(canvas, pictures, camera)
  return (text) => {
    const grounding = parseGrounding(text)
    const objects = locateObjects(geometry, grounding, camera)
    const boxes = objects.flatMap(({ label, boxes }) => boxes.map((box) => ({ label, ...box })))
    return { boxes, text: grounding.text }
  }
}

function canvasOf(
  canvas: CanvasLayout,
  pictures: ComposedImages['pictures'],
  camera: string | undefined,
): CanvasGeometry {
  const { columns, rows, cellWidth, cellHeight, cameras } = canvas
  if (camera !== undefined && !cameras.includes(camera)) throw noSuchCamera(camera, cameras)
  const imageSize = Object.fromEntries(pictures.map(({ camera, width, height }) => [camera, { width, height }]))
  return { columns, rows, cellWidth, cellHeight, cameras, imageSize }
}

function imageOf(pictures: ComposedImages['pictures'], question: string, camera: string | undefined): CanvasGeometry {
  const names = pictures.flatMap((picture) => (picture.camera === undefined ? [] : [picture.camera]))
  if (pictures.length === 1) {
    const { camera: own, ...size } = pictures[0]!
    if (camera !== undefined && own !== undefined && camera !== own) throw noSuchCamera(camera, names)
    return imageGeometry(camera ?? own ?? 'image', size)
  }
  const words = question.split(/[^A-Za-z0-9_]+/)
  const named = camera === undefined ? names.filter((name) => words.includes(name)) : [camera]
  const picture = pictures.find((one) => one.camera === named[0])
  if (named.length === 1 && picture?.camera !== undefined) return imageGeometry(picture.camera, picture)
  if (camera !== undefined) throw noSuchCamera(camera, names)
  throw new ModelError(
    'BAD_ARGUMENT',
    `This scene has ${pictures.length} images, and boxes do not say which they lie in; name one in the question or as options.camera.`,
  )
}

function noSuchCamera(camera: string, known: readonly string[]): ModelError {
  const which = known.length === 0 ? 'its pictures came without names' : `it has ${known.join(', ')}`
  return new ModelError(
    'BAD_ARGUMENT',
    `options.camera '${camera.slice(0, 60)}' is not a view of this scene; ${which}.`,
  )
}

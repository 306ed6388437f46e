/** The painted camera names of DriveLM's canvas. */
import { inflateRawSync } from 'node:zlib'
import { ModelError } from '../errors.ts'
import type { NativeLabel } from '../native.ts'
import { packedLabels } from './label-masks.ts'

/** Magenta, as in the training pictures. */
const ink: [number, number, number] = [255, 0, 255]

const ready = new Map<string, NativeLabel>()

/** The label of a camera; unpacked once a process, which takes a tenth of a millisecond. */
export function labelFor(camera: string): NativeLabel {
  let label = ready.get(camera)
  if (label === undefined) {
    label = unpack(camera)
    ready.set(camera, label)
  }
  return label
}

function unpack(camera: string): NativeLabel {
  const label = Object.hasOwn(packedLabels, camera) ? packedLabels[camera] : undefined
  if (label === undefined) {
    throw new ModelError('BAD_ARGUMENT', `There is no painted label for ${camera}, only for the six nuScenes cameras.`)
  }
  const { left, top, width, height } = label
  const mask = inflateRawSync(Buffer.from(label.packed, 'base64'))
  return { mask, width, height, left, top, ink }
}

/** The painted camera names of DriveLM's canvas. */
import { promisify } from 'node:util'
import { inflateRaw } from 'node:zlib'
import { ModelError } from '../errors.ts'
import type { NativeLabel } from '../native.ts'

/** Magenta, as in the training pictures. */
const ink: [number, number, number] = [255, 0, 255]

const ready = new Map<string, Promise<NativeLabel>>()

/** The label of a camera; unpacked once a process. */
export function labelFor(camera: string): Promise<NativeLabel> {
  let label = ready.get(camera)
  if (label === undefined) {
    label = unpack(camera)
    ready.set(camera, label)
  }
  return label
}

async function unpack(camera: string): Promise<NativeLabel> {
  const { packedLabels } = await import('./label-masks.ts')
  const label = Object.hasOwn(packedLabels, camera) ? packedLabels[camera] : undefined
  if (label === undefined) {
    throw new ModelError('BAD_ARGUMENT', `There is no painted label for ${camera}, only for the six nuScenes cameras.`)
  }
  const { left, top, width, height } = label
  const mask = await promisify(inflateRaw)(Buffer.from(label.packed, 'base64'))
  return { mask, width, height, left, top, ink }
}

/** Pictures of a request: bytes in the request itself. No path and no URL is ever opened on behalf of a caller. */
import { createHash } from 'node:crypto'
import { type Camera, cameras, isCamera } from '../views/cameras.ts'
import type { Views } from '../views/compose.ts'
import { RequestError } from './errors.ts'

/** Pictures, and a key that is the same for the same bytes. */
export interface SentViews {
  views: Views
  key: string
}

/** The bytes of `data:image/…;base64,…`. */
export function bytesOfDataUrl(text: unknown, name: string): Buffer {
  const head = typeof text === 'string' ? /^data:image\/[\w.+-]{1,40};base64,/i.exec(text.slice(0, 80)) : null
  const bytes = head === null ? undefined : Buffer.from((text as string).slice(head[0].length), 'base64')
  if (bytes !== undefined && bytes.length > 0) return bytes
  throw new RequestError(
    400,
    'bad_view',
    `${name}: expected a picture as data:image/...;base64,...; paths and URLs of other kinds are not opened by this server.`,
  )
}

/** Pictures with cameras or without; the order of cameras does not matter. */
export function viewsOf(pictures: readonly { camera: string | undefined; url: unknown }[], most: number): SentViews {
  if (pictures.length === 0) throw new RequestError(400, 'bad_view', 'There is no picture; send one at least.')
  if (pictures.length > most) {
    throw new RequestError(
      400,
      'bad_view',
      `There are ${pictures.length} pictures, and this server takes ${most} at most.`,
    )
  }
  const sent = pictures.map(({ camera, url }, i) => {
    const bytes = bytesOfDataUrl(url, camera ?? `image ${i + 1}`)
    return { camera, bytes, hash: createHash('sha256').update(bytes).digest('hex') }
  })
  const named = sent.filter(({ camera }) => camera !== undefined)
  if (named.length === 0) {
    const list = sent.map(({ bytes }) => bytes)
    return { views: list.length === 1 ? list[0]! : list, key: sent.map(({ hash }) => hash).join() }
  }
  const names = new Set(named.map(({ camera }) => camera))
  if (named.length < sent.length || names.size < sent.length) {
    throw new RequestError(400, 'bad_view', 'Give every picture a camera of its own, or none of them one.')
  }
  const unknown = named.find(({ camera }) => !isCamera(camera!))
  if (unknown !== undefined) {
    throw new RequestError(
      400,
      'bad_view',
      `${unknown.camera!.slice(0, 60)} is no camera; expected ${cameras.join(', ')}.`,
    )
  }
  const views = Object.fromEntries(named.map(({ camera, bytes }) => [camera as Camera, bytes]))
  const key = named.map(({ camera, hash }) => `${camera}=${hash}`).sort()
  return { views, key: key.join() }
}

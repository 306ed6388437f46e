/** Views that were decoded and resized, and how they stand in for the pictures they came from. */
import type { NativeCell, NativeGrid, NativeTiles } from '../native.ts'
import type { Camera } from './cameras.ts'
import { isPictureSource, type PictureSource } from './sources.ts'

/** The tiles of one `<image>` of a prompt. */
export interface PreparedImage {
  tiles: NativeTiles
  grid: NativeGrid
}

/**
 * A view as the model's layout wants it: a cell of the canvas, or an image of its own. It holds no pixel of what the caller gave, so the
 * caller may change that, and it needs no preparing when only others change.
 */
export class PreparedView {
  readonly made: NativeCell | PreparedImage
  /** Of the picture as it was decoded, in pixels. */
  readonly width: number
  readonly height: number
  /** The file or Blob it was read from, which can be read again. */
  readonly source: string | URL | Blob | undefined

  constructor(
    made: NativeCell | PreparedImage,
    { width, height }: { width: number; height: number },
    source?: string | URL | Blob,
  ) {
    this.made = made
    this.width = width
    this.height = height
    this.source = source
  }
}

export type ViewSource = PictureSource | PreparedView

/** What `Views` is to pictures. */
export type ViewSources = ViewSource | readonly ViewSource[] | NamedViewSources

export type NamedViewSources = Readonly<Partial<Record<Camera, ViewSource>>>

/** Whether this is one view, not several. */
export function isViewSource(source: unknown): source is ViewSource {
  return source instanceof PreparedView || isPictureSource(source)
}

/** A key of {@link mapViews}: a camera, a number in a list, or none for the one view there is. */
export type ViewKey = string | number | undefined

/** The same views with others in their places. */
export function mapViews(views: ViewSources, change: (source: ViewSource, key: ViewKey) => ViewSource): ViewSources {
  if (Array.isArray(views)) return views.map(change)
  if (isViewSource(views)) return change(views, undefined)
  const named = Object.entries(views as Record<string, ViewSource | undefined>)
  return Object.fromEntries(
    named.flatMap(([key, source]) => (source === undefined ? [] : [[key, change(source, key)]])),
  )
}

import { readFile, stat } from 'node:fs/promises'
import path from 'node:path'
import type { ReportFrame } from './build.ts'

/** A picture of the page: its address, and its shape. */
export interface PagePicture {
  /** Address of the picture, relative to the page, or a `data:` URL. */
  src: string
  /** Width over height. */
  aspect: number
}

/** Where the pictures of a report come from, and how they go into it. */
export interface PictureOptions {
  /** File of a view; throws if there is none. */
  resolve: (name: string, camera: string) => string
  /** Folder of the HTML file, for links. */
  folder: string
  /** `embed` puts small copies into the page as long as the budget lasts and links the rest; default. */
  mode?: 'embed' | 'link' | 'none'
  /** Bytes of pictures in the page. Default 48 MiB. */
  budget?: number
}

/** Wide enough to recognise a traffic light, and small enough for hundreds of frames. */
const copyWidth = 512
/** Files up to this are taken as they are. */
const smallFile = 24 * 1024

/** The pictures of all frames, by frame and camera; what cannot be read is left out and shows as an empty cell. */
export async function pagePictures(
  report: { frames: readonly Pick<ReportFrame, 'views'>[] },
  options: PictureOptions,
): Promise<Record<string, PagePicture>[]> {
  const { mode = 'embed', resolve, folder } = options
  let left = mode === 'embed' ? (options.budget ?? 48 * 1024 * 1024) : 0
  const known = new Map<string, PagePicture>()
  const pictures: Record<string, PagePicture>[] = []
  for (const frame of report.frames) {
    const row: Record<string, PagePicture> = {}
    for (const [camera, name] of mode === 'none' ? [] : Object.entries(frame.views)) {
      try {
        const file = resolve(name, camera)
        const picture = known.get(file) ?? (left > 0 ? await embedded(file) : await linked(file, folder))
        if (!known.has(file)) left -= picture.src.length
        known.set(file, picture)
        row[camera] = picture
      } catch {
        // Missing or not a picture: the evaluation has named it, the page shows an empty cell.
      }
    }
    pictures.push(row)
  }
  return pictures
}

async function embedded(file: string): Promise<PagePicture> {
  const { default: sharp } = await import('sharp')
  const bytes = await readFile(file)
  const { width, height, format } = await sharp(bytes).metadata()
  const aspect = width / height
  if (bytes.length <= smallFile && (format === 'png' || format === 'jpeg' || format === 'webp')) {
    return { src: `data:image/${format};base64,${bytes.toString('base64')}`, aspect }
  }
  const copy = await sharp(bytes)
    .resize({ width: copyWidth, withoutEnlargement: true })
    .jpeg({ quality: 62 })
    .toBuffer()
  return { src: `data:image/jpeg;base64,${copy.toString('base64')}`, aspect }
}

async function linked(file: string, folder: string): Promise<PagePicture> {
  await stat(file)
  const { default: sharp } = await import('sharp')
  const { width, height } = await sharp(file).metadata()
  const relative = path.relative(folder, file).split(path.sep).map(encodeURIComponent).join('/')
  return { src: relative.replace(/^(?!\.)/, './'), aspect: width / height }
}

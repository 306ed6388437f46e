/** Pictures that were dropped or picked, and which camera each is of. */
import { type Camera, camerasOfPath } from '../../views/cameras.ts'

export interface NamedFile {
  /** With its folders, where they are known. */
  path: string
  file: File
}

/** Places as a driver has them: the front row from left to right, then the back row. */
export const places: readonly Camera[] = [
  'CAM_FRONT_LEFT',
  'CAM_FRONT',
  'CAM_FRONT_RIGHT',
  'CAM_BACK_LEFT',
  'CAM_BACK',
  'CAM_BACK_RIGHT',
]

const mostFiles = 2000
const isPicture = ({ file }: NamedFile) => file.type.startsWith('image/')

export const picked = (list: FileList): NamedFile[] =>
  Array.from(list, (file) => ({ path: file.webkitRelativePath || file.name, file }))

/** Files of a drop, those in folders too. Entries have to be taken before anything is awaited. */
export async function dropped(data: DataTransfer): Promise<NamedFile[]> {
  const entries = Array.from(data.items, (item) => item.webkitGetAsEntry()).filter((entry) => entry !== null)
  const plain = picked(data.files)
  if (!entries.some(({ isDirectory }) => isDirectory)) return plain
  const found: NamedFile[] = []
  const queue = [...entries]
  for (let entry = queue.shift(); entry !== undefined && found.length < mostFiles; entry = queue.shift()) {
    const { fullPath } = entry
    if (entry.isFile) {
      const of = entry as FileSystemFileEntry
      found.push({ path: fullPath, file: await new Promise<File>((resolve, reject) => of.file(resolve, reject)) })
    } else {
      const reader = (entry as FileSystemDirectoryEntry).createReader()
      // A reader gives at most a hundred at a time.
      for (;;) {
        const some = await new Promise<FileSystemEntry[]>((resolve, reject) => reader.readEntries(resolve, reject))
        if (some.length === 0) break
        queue.push(...some)
      }
    }
  }
  return found
}

/** Which picture goes where, and what is to be said about it. */
export function place(files: readonly NamedFile[], taken: ReadonlySet<Camera>) {
  const pictures = files.filter(isPicture).sort((a, b) => a.path.localeCompare(b.path))
  const at = new Map<Camera, File>()
  const notes: string[] = []
  const nameless: File[] = []
  const doubled = new Set<Camera>()
  for (const { path, file } of pictures) {
    const [camera, other] = camerasOfPath(path)
    if (camera === undefined || other !== undefined) nameless.push(file)
    else if (at.has(camera)) doubled.add(camera)
    else at.set(camera, file)
  }
  // A folder of a whole drive has many of each; only pictures given one by one are put anywhere else.
  const asked = at.size === 0 || nameless.length <= places.length
  const free = places.filter(
    (camera) => !at.has(camera) && (at.size + nameless.length >= places.length || !taken.has(camera)),
  )
  const guessed = asked ? nameless.slice(0, free.length) : []
  for (const [i, file] of guessed.entries()) at.set(free[i]!, file)
  if (pictures.length === 0) notes.push('There is no picture among these files.')
  else notes.push(`${at.size} ${at.size === 1 ? 'picture has its place' : 'pictures have their places'}.`)
  if (guessed.length > 0) notes.push('Names without a camera were placed in order; check them.')
  if (doubled.size > 0) notes.push(`Of several for ${[...doubled].join(', ')} the first by name was taken.`)
  return { at, note: notes.join(' ') }
}

/** A picture as a request carries it. */
export function dataUrl(picture: Blob): Promise<string> {
  return new Promise((resolve, reject) => {
    const reader = new FileReader()
    reader.onload = () => resolve(reader.result as string)
    reader.onerror = () => reject(reader.error)
    reader.readAsDataURL(picture)
  })
}

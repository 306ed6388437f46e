/** One content, fetched into a file of its own name: resumed, counted and hashed while it streams. */
import { createHash, type Hash, randomBytes } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { type FileHandle, open, readdir, rename, rm, stat, utimes } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { writeAll } from '../whole-file.ts'
import type { HubSettings } from './environment.ts'
import { diskError, HubError } from './hub-error.ts'
import { etagOf, type ListedFile, mostSideBytes } from './listing.ts'
import { bodyOf, discard, type GotFurther, get, withRetries } from './requests.ts'

/** Partial files of a process that died are taken over after a minute, those of another host after an hour. */
const deadMs = 60_000
const foreignMs = 3_600_000

/** Temporary names begin with four digits for this machine: a process id says nothing elsewhere. */
const host = createHash('sha256').update(os.hostname()).digest('hex').slice(0, 4)

const ownName = (etag: string): string =>
  `${etag}.drivlm-${process.pid}-${host}${randomBytes(2).toString('hex')}.incomplete`

export interface DownloadRequest {
  settings: HubSettings
  file: ListedFile
  url: URL
  /** Folder of the blobs. */
  blobs: string
  signal: AbortSignal | undefined
  /** Bytes that came, or, below zero, that had to be given up. */
  onBytes: (bytes: number) => void
}

/**
 * Fetches a content into `blobs/<etag>`. A partial file stays when it is given up, for the next try.
 *
 * @throws {@link HubError}; `ABORTED`.
 */
export async function downloadBlob(request: DownloadRequest): Promise<void> {
  const { blobs, file, settings, signal } = request
  const partial = await Partial.open(blobs, file)
  request.onBytes(partial.bytes)
  try {
    for (let tries = 0; ; tries++) {
      await withRetries(settings, signal, (gotFurther) => fetchRest(request, partial, gotFurther))
      if (partial.isSound()) break
      request.onBytes(-partial.bytes)
      await partial.restart()
      if (tries > 0) {
        throw new HubError(
          'corrupt',
          `${file.path} came with a content other than the one that the listing of the repository names, twice. Something between here and ${request.url.host} changes it.`,
        )
      }
    }
    await partial.finish()
  } catch (error) {
    await partial.leave(error)
    throw error
  }
}

/** One request for what is missing. */
async function fetchRest(request: DownloadRequest, partial: Partial, gotFurther: GotFurther): Promise<void> {
  const { settings, file, url, signal, onBytes } = request
  if (partial.bytes === file.size) return
  const from = partial.bytes
  // The content is named by its hash, which decides in the end; an ETag of the content's host is another one than the hub's.
  const answer = await get(settings, url, from > 0 ? { range: `bytes=${from}-` } : {}, signal)
  const { status, headers } = answer.response
  const encoding = headers.get('content-encoding') ?? 'identity'
  if (encoding !== 'identity' && file.size > mostSideBytes) {
    await discard(answer)
    throw new HubError(
      'protocol',
      `${answer.url.host} sends weights in the encoding ${encoding.slice(0, 40)}, which is not taken.`,
    )
  }
  const range = /^bytes (\d+)-\d+\/(\d+|\*)$/.exec(headers.get('content-range') ?? '')
  const goesOn =
    status === 206 && Number(range?.[1] ?? -1) === from && (range![2] === '*' || Number(range![2]) === file.size)
  if (status !== 200 && !goesOn) {
    await discard(answer)
    if (from === 0)
      throw new HubError('protocol', `${answer.url.host} answered ${status} to a request for a whole file.`)
    onBytes(-from)
    await partial.restart()
    return fetchRest(request, partial, gotFurther)
  }
  if (status === 200 && from > 0) {
    onBytes(-from)
    await partial.restart()
  }
  let fresh = 0
  for await (const piece of bodyOf(settings, answer, signal)) {
    if (partial.bytes + piece.length > file.size) {
      partial.spoiled = true
      return
    }
    await partial.write(piece)
    onBytes(piece.length)
    fresh += piece.length
    if (fresh >= Math.min(1 << 20, file.size / 100)) gotFurther()
  }
  if (partial.bytes < file.size) {
    throw new HubError(
      'network',
      `${answer.url.host} ended after ${partial.bytes} of the ${file.size} bytes of ${file.path}.`,
    )
  }
}

/** A file that is being filled, under a name that nobody else uses. */
class Partial {
  readonly #file: ListedFile
  readonly #blobs: string
  readonly #path: string
  readonly #handle: FileHandle
  #hash: Hash
  bytes = 0
  /** More came than there is. */
  spoiled = false

  private constructor(blobs: string, file: ListedFile, name: string, handle: FileHandle) {
    this.#blobs = blobs
    this.#file = file
    this.#path = path.join(blobs, name)
    this.#handle = handle
    this.#hash = startHash(file)
  }

  /** One that was left by a process that is gone, or a new one. */
  static async open(blobs: string, file: ListedFile): Promise<Partial> {
    const name = ownName(etagOf(file))
    const claimed = await claim(blobs, file, name)
    const handle = await open(path.join(blobs, name), claimed ? 'r+' : 'wx').catch((error) => {
      throw diskError(error, path.join(blobs, name))
    })
    const partial = new Partial(blobs, file, name, handle)
    if (claimed) await partial.#readBack()
    return partial
  }

  async #readBack(): Promise<void> {
    for await (const piece of createReadStream(this.#path)) {
      this.#hash.update(piece as Buffer)
      this.bytes += (piece as Buffer).length
    }
    if (this.bytes > this.#file.size) await this.restart()
  }

  async write(piece: Uint8Array): Promise<void> {
    try {
      await writeAll(this.#handle, piece, this.bytes)
    } catch (error) {
      throw diskError(error, this.#path)
    }
    this.#hash.update(piece)
    this.bytes += piece.length
  }

  async restart(): Promise<void> {
    await this.#handle.truncate(0)
    this.#hash = startHash(this.#file)
    this.bytes = 0
    this.spoiled = false
  }

  isSound(): boolean {
    const { sha256, blobId } = this.#file
    return !this.spoiled && this.#hash.copy().digest('hex') === (sha256 ?? blobId)
  }

  /** Gives it its name. Where a sound one came in the meantime, that one stays. */
  async finish(): Promise<void> {
    const target = path.join(this.#blobs, etagOf(this.#file))
    try {
      await this.#handle.sync()
      await this.#handle.close()
      const other = await stat(target).catch(() => undefined)
      if (other?.size === this.#file.size) await rm(this.#path)
      else await rename(this.#path, target)
    } catch (error) {
      throw diskError(error, target)
    }
  }

  /** Leaves it to the next try, or takes it away where it is of no use. */
  async leave(error: unknown): Promise<void> {
    await this.#handle.close().catch(() => undefined)
    const full = error instanceof HubError && error.reason === 'disk'
    if (full || this.spoiled || this.bytes === 0) await rm(this.#path, { force: true }).catch(() => undefined)
    else await utimes(this.#path, 0, 0).catch(() => undefined) // nobody works on it any more
  }
}

/** SHA-256 of a content, or git's id of it. */
function startHash({ sha256, size }: ListedFile): Hash {
  return sha256 === undefined ? createHash('sha1').update(`blob ${size}\0`) : createHash('sha256')
}

/** Takes over a partial file of ours whose process is gone, by renaming it: of two that try, one succeeds. */
async function claim(blobs: string, file: ListedFile, name: string): Promise<boolean> {
  const pattern = /^([0-9a-f]{40,64})\.drivlm-(\d{1,10})-([0-9a-f]{4})[0-9a-f]{4}\.incomplete$/
  for (const other of await readdir(blobs).catch(() => [])) {
    const [, etag, pid, where] = pattern.exec(other) ?? []
    if (etag !== etagOf(file)) continue
    const from = path.join(blobs, other)
    const found = await stat(from).catch(() => undefined)
    if (!found?.isFile() || found.nlink > 1) continue
    const idleMs = Date.now() - found.mtimeMs
    const left = found.mtimeMs === 0
    const gone = where === host ? idleMs > deadMs && !isAlive(Number(pid)) : idleMs > foreignMs
    if (!left && !gone) continue
    try {
      await rename(from, path.join(blobs, name))
      return true
    } catch {} // another process took it
  }
  return false
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}

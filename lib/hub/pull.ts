/** From a model's name to a folder: what is to be fetched, and the fetching of it. */
import { createHash } from 'node:crypto'
import { statfs } from 'node:fs/promises'
import { parseConfig } from '../checkpoint/config.ts'
import { parseJsonObject } from '../checkpoint/files.ts'
import { JsonReader } from '../checkpoint/json-reader.ts'
import { readProcessorFiles } from '../checkpoint/processor.ts'
import { throwIfAborted } from '../options.ts'
import { makeFolder } from '../whole-file.ts'
import { SnapshotWriter } from './cache.ts'
import { downloadBlob } from './download.ts'
import type { HubSettings } from './environment.ts'
import { HubError } from './hub-error.ts'
import {
  choose,
  commitOf,
  contentUrl,
  earlyFiles,
  etagOf,
  indexName,
  type ListedFile,
  listFiles,
  mostSideBytes,
} from './listing.ts'
import { isCommit, type ModelName } from './names.ts'
import { get, readBody, withRetries } from './requests.ts'

/** How far a download is. */
export interface DownloadProgress {
  /** The file that the last bytes are of. */
  file: string
  /** Bytes of all files that are here; those of an earlier try count. */
  doneBytes: number
  /** Bytes of all files that are fetched. */
  totalBytes: number
  /** Files that are fetched. */
  files: number
}

/** What a model folder needs from the hub. */
export interface PullPlan {
  name: ModelName
  commit: string
  /** Files of the model folder. */
  files: ListedFile[]
  /** Those of them that are not in the cache. */
  missing: ListedFile[]
  missingBytes: number
  /** All files of the commit. */
  listing: ListedFile[]
}

/**
 * Asks the hub what a model is, and reads its config: what cannot work is refused before its weights are fetched. Nothing is written.
 *
 * @throws {@link HubError}; `UNSUPPORTED_MODEL`, `BAD_CHECKPOINT` and their like as for a folder; `ABORTED`.
 */
export async function planPull(settings: HubSettings, name: ModelName, signal?: AbortSignal): Promise<PullPlan> {
  throwIfAborted(signal)
  if (settings.offline) {
    throw new HubError(
      'offline',
      `${name.repository} is to be fetched, but HF_HUB_OFFLINE is set; no request was made.`,
    )
  }
  const commit = isCommit(name.revision) ? name.revision : await commitOf(settings, name, signal)
  const listing = await listFiles(settings, name, commit, signal)
  const byPath = new Map(listing.map((file) => [file.path, file]))
  const texts = new Map<string, string>()
  for (const early of earlyFiles) {
    const file = byPath.get(early)
    if (file === undefined) continue
    const bytes = await fetchSmall(settings, contentUrl(settings, name.repository, commit, early), file, signal)
    texts.set(early, bytes.toString('utf8'))
  }
  if (texts.has('config.json')) await checkConfig(texts)
  const { take, missing: absent } = choose(new Set(byPath.keys()), texts.get(indexName))
  if (absent.length > 0) throw lacking(name, absent, listing)
  const files = take.map((path) => byPath.get(path)!)
  const large = files.find(({ path, size }) => !path.endsWith('.safetensors') && size > mostSideBytes)
  if (large !== undefined) {
    throw new HubError(
      'protocol',
      `${name.repository}: ${large.path} has ${large.size} bytes, which no text file of a model has.`,
    )
  }
  const writer = new SnapshotWriter(settings, name.repository, commit)
  const missing: ListedFile[] = []
  for (const file of files) if (!(await writer.has(file)) && !(await writer.hasBlob(file))) missing.push(file)
  const contents = new Map(missing.map((file) => [etagOf(file), file.size]))
  const missingBytes = [...contents.values()].reduce((sum, size) => sum + size, 0)
  return { name, commit, files, missing, missingBytes, listing }
}

function lacking({ repository }: ModelName, absent: readonly string[], listing: readonly ListedFile[]): HubError {
  const pickle = listing.find(({ path }) => /^pytorch_model.*\.bin$/.test(path))
  const why =
    pickle !== undefined && absent.some((name) => name.endsWith('.safetensors'))
      ? `It has its weights as ${pickle.path}, and a pickle may run any code; only safetensors are read.`
      : 'It is no whole model folder; see whether another revision is.'
  return new HubError('file', `${repository} has no ${absent.slice(0, 5).join(', no ')}. ${why}`)
}

async function checkConfig(texts: ReadonlyMap<string, string>): Promise<void> {
  const object = async (name: string) => {
    const text = texts.get(name)
    return text === undefined ? undefined : new JsonReader(name, parseJsonObject(text, name, 'BAD_CHECKPOINT'))
  }
  parseConfig((await object('config.json'))!, await readProcessorFiles(object))
}

/** A small file, checked, in memory. */
async function fetchSmall(
  settings: HubSettings,
  url: URL,
  { path, size, sha256, blobId }: ListedFile,
  signal: AbortSignal | undefined,
): Promise<Buffer> {
  if (size > mostSideBytes)
    throw new HubError('protocol', `${path} has ${size} bytes, which no text file of a model has.`)
  if (size === 0) return Buffer.alloc(0)
  for (let tries = 0; ; tries++) {
    const bytes = await withRetries(settings, signal, async () =>
      readBody(settings, await get(settings, url, {}, signal), size, signal),
    )
    const git = () => createHash('sha1').update(`blob ${size}\0`).update(bytes).digest('hex') === blobId
    const sound = sha256 === undefined ? git() : createHash('sha256').update(bytes).digest('hex') === sha256
    if (bytes.length === size && sound) return bytes
    if (tries > 0) {
      throw new HubError('corrupt', `${path} came with a content other than the one that the listing names, twice.`)
    }
  }
}

const filesAtOnce = 4

/**
 * Fetches what a plan lacks, four files at a time, and completes the snapshot in the cache.
 *
 * @returns The folder.
 */
export async function pull(
  settings: HubSettings,
  plan: PullPlan,
  options: { signal?: AbortSignal | undefined; onProgress?: ((progress: DownloadProgress) => void) | undefined } = {},
): Promise<string> {
  const { name, commit, files, listing } = plan
  const { onProgress, signal } = options
  const writer = new SnapshotWriter(settings, name.repository, commit)
  if (plan.missing.length === 0) return complete(plan, writer)
  await checkSpace(settings, plan)
  await writer.makeFolders()
  const failing = new AbortController()
  const either = signal === undefined ? failing.signal : AbortSignal.any([signal, failing.signal])
  const fresh = new Map(plan.missing.map((file) => [etagOf(file), file]))
  const queue = [...fresh.values()]
  let doneBytes = 0
  const fetchNext = async (): Promise<void> => {
    for (let file = queue.shift(); file !== undefined; file = queue.shift()) {
      const { path } = file
      const onBytes = (bytes: number) => {
        doneBytes += bytes
        onProgress?.({ file: path, doneBytes, totalBytes: plan.missingBytes, files: fresh.size })
      }
      const url = contentUrl(settings, name.repository, commit, path)
      await downloadBlob({ settings, file, url, blobs: writer.blobs, signal: either, onBytes })
    }
  }
  let first: { error: unknown } | undefined
  const give = (error: unknown) => {
    first ??= { error }
    failing.abort()
  }
  await Promise.all(Array.from({ length: filesAtOnce }, () => fetchNext().catch(give)))
  throwIfAborted(signal)
  if (first !== undefined) throw first.error
  const isFresh = (file: ListedFile) => fresh.get(etagOf(file)) === file
  // Without links the fresh one takes the content along: it comes after those that copy it.
  for (const file of files.filter((one) => !isFresh(one))) await writer.place(file, false)
  for (const file of files.filter(isFresh)) await writer.place(file, true)
  await writer.finish(listing, name.revision)
  return writer.dir
}

/** All contents are here; a cache that cannot be written is good enough if all links are, too. */
async function complete({ name, files, listing }: PullPlan, writer: SnapshotWriter): Promise<string> {
  const whole = (await Promise.all(files.map((file) => writer.has(file)))).every(Boolean)
  try {
    await writer.makeFolders()
    for (const file of files) await writer.place(file, false)
    await writer.finish(listing, name.revision)
  } catch (error) {
    if (!whole || !(error instanceof HubError) || error.reason !== 'disk') throw error
  }
  return writer.dir
}

async function checkSpace({ cacheDir }: HubSettings, { name, missingBytes }: PullPlan): Promise<void> {
  await makeFolder(cacheDir).catch(() => undefined) // told where it is written to
  const disk = await statfs(cacheDir).catch(() => undefined)
  if (disk === undefined || disk.bavail * disk.bsize >= missingBytes) return
  throw new HubError(
    'disk',
    `${name.repository} needs ${missingBytes} bytes, and the disk of ${cacheDir} has ${disk.bavail * disk.bsize}. Make room, or set HF_HUB_CACHE to another disk.`,
  )
}

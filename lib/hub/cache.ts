/** The cache that Python's huggingface_hub keeps, read and written as it does: refs/, blobs/, snapshots/, trees/. */
import { randomBytes } from 'node:crypto'
import {
  copyFile,
  lstat,
  mkdir,
  readdir,
  readFile,
  realpath,
  rename,
  rm,
  stat,
  symlink,
  writeFile,
} from 'node:fs/promises'
import path from 'node:path'
import { readText } from '../checkpoint/files.ts'
import { makeFolder } from '../whole-file.ts'
import type { HubSettings } from './environment.ts'
import { diskError, HubError } from './hub-error.ts'
import { choose, etagOf, indexName, type ListedFile } from './listing.ts'
import { isCommit, isRevision, type ModelName } from './names.ts'

/** A model's folder in the cache. */
export function repositoryFolder(cacheDir: string, repository: string): string {
  return path.join(cacheDir, `models--${repository.replaceAll('/', '--')}`)
}

/** A commit that is in the cache, whole or in part. */
export interface Snapshot {
  dir: string
  commit: string
  /** Files of a model folder that are not there. */
  missing: string[]
}

/** What the cache has of a model; undefined if it does not know the revision. */
export async function findSnapshot(
  { cacheDir }: Pick<HubSettings, 'cacheDir'>,
  { repository, revision }: ModelName,
): Promise<Snapshot | undefined> {
  const folder = repositoryFolder(cacheDir, repository)
  const commit = isCommit(revision) ? revision : await readRef(folder, revision)
  if (commit === undefined) return undefined
  const dir = path.join(folder, 'snapshots', commit)
  const there = await stat(dir).catch(() => undefined)
  return there?.isDirectory() ? { dir, commit, missing: await missingIn(cacheDir, folder, commit) } : undefined
}

async function readRef(folder: string, revision: string): Promise<string | undefined> {
  if (!isRevision(revision)) return undefined
  const text = await readFile(path.join(folder, 'refs', ...revision.split('/')), 'utf8').catch(() => '')
  return isCommit(text.trim()) ? text.trim() : undefined
}

async function missingIn(cacheDir: string, folder: string, commit: string): Promise<string[]> {
  const dir = path.join(folder, 'snapshots', commit)
  const sizes = await readTree(folder, commit)
  const present = new Set<string>()
  for (const name of await readdir(dir)) {
    if (await isPresent(cacheDir, path.join(dir, name), sizes?.get(name))) present.add(name)
  }
  // A file that was cut or never fetched counts as one of the folder's all the same.
  const listed = new Set([...present, ...(sizes?.keys() ?? [])])
  const index = present.has(indexName) ? await readText(path.join(dir, indexName), 'BAD_WEIGHTS') : undefined
  if (index === undefined && listed.has(indexName)) return [indexName]
  const { take, missing } = choose(listed, index)
  return [...missing, ...take.filter((name) => !present.has(name))]
}

/** Sizes of all files of a commit, if trees/<commit>.json says them. */
async function readTree(folder: string, commit: string): Promise<Map<string, number> | undefined> {
  const text = await readFile(path.join(folder, 'trees', `${commit}.json`), 'utf8').catch(() => undefined)
  if (text === undefined || text.length > 64 << 20) return undefined
  try {
    const { files } = JSON.parse(text) as { files: Record<string, { size?: unknown; lfs_size?: unknown }> }
    return new Map(
      Object.entries(files).flatMap(([name, file]) => {
        const size = file.lfs_size ?? file.size
        return typeof size === 'number' ? [[name, size] as const] : []
      }),
    )
  } catch {
    return undefined // of another version, or cut: what lies there decides
  }
}

/**
 * Whether a file of a snapshot is there, links followed.
 *
 * @throws {@link HubError} `name` for a link that leads out of the cache.
 */
export async function isPresent(cacheDir: string, file: string, size: number | undefined): Promise<boolean> {
  const found = await stat(file).catch(() => undefined)
  if (!found?.isFile() || (size !== undefined && found.size !== size)) return false
  await checkInside(cacheDir, file)
  return true
}

async function checkInside(cacheDir: string, file: string): Promise<void> {
  const [root, real] = await Promise.all([realpath(cacheDir), realpath(file)])
  if (real.startsWith(root + path.sep)) return
  throw new HubError(
    'name',
    `${file} is a link that leads out of the cache; remove it, or pass the path of the folder itself.`,
  )
}

/** The folders of a commit, made where they are not there yet. */
export class SnapshotWriter {
  readonly #settings: HubSettings
  readonly #folder: string
  readonly #commit: string
  readonly dir: string
  readonly blobs: string

  constructor(settings: HubSettings, repository: string, commit: string) {
    this.#settings = settings
    this.#folder = repositoryFolder(settings.cacheDir, repository)
    this.#commit = commit
    this.dir = path.join(this.#folder, 'snapshots', commit)
    this.blobs = path.join(this.#folder, 'blobs')
  }

  /** Whether the snapshot has this file. */
  has({ path: name, size }: ListedFile): Promise<boolean> {
    return isPresent(this.#settings.cacheDir, path.join(this.dir, name), size)
  }

  /** Whether the content is there, of this or another commit. */
  hasBlob(file: ListedFile): Promise<boolean> {
    return isPresent(this.#settings.cacheDir, path.join(this.blobs, etagOf(file)), file.size)
  }

  async makeFolders(): Promise<void> {
    for (const folder of [this.blobs, this.dir]) await this.#makeFolder(folder)
  }

  /** Puts a content into the snapshot: as a link, or where there are none as the file itself. `fresh`: no other snapshot has it. */
  async place(file: ListedFile, fresh: boolean): Promise<void> {
    const target = path.join(this.dir, file.path)
    const blob = path.join(this.blobs, etagOf(file))
    if (await this.has(file)) return
    try {
      if (await lstat(target).catch(() => undefined)) await rm(target) // a dangling link, or a file that was cut
      if (this.#settings.symlinks && (await this.#link(blob, target))) return
      if (fresh) await rename(blob, target)
      else {
        const temporary = path.join(this.dir, `.drivlm-${process.pid}-${randomBytes(4).toString('hex')}.incomplete`)
        await copyFile(blob, temporary)
        await rename(temporary, target)
      }
    } catch (error) {
      if (await this.has(file)) return // another process was faster
      throw diskError(error, target)
    }
  }

  async #link(blob: string, target: string): Promise<boolean> {
    try {
      await symlink(path.relative(path.dirname(target), blob), target)
      return true
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'EEXIST') throw error
      return false // no links here
    }
  }

  /** Says which files the commit has, so that Python knows a part from the whole, and then which commit the revision is. */
  async finish(files: readonly ListedFile[], revision: string): Promise<void> {
    const entries = files.map((file) => {
      const { size, blobId, sha256, xetHash } = file
      const lfs = sha256 === undefined ? {} : { lfs_sha256: sha256, lfs_size: size }
      return [file.path, { size, blob_id: blobId, ...lfs, ...(xetHash === undefined ? {} : { xet_hash: xetHash }) }]
    })
    const tree = { format_version: 1, files: Object.fromEntries(entries) }
    const treeFile = path.join(this.#folder, 'trees', `${this.#commit}.json`)
    if ((await stat(treeFile).catch(() => undefined)) === undefined) await this.#write(treeFile, JSON.stringify(tree))
    if (isCommit(revision) || (await readRef(this.#folder, revision)) === this.#commit) return
    await this.#write(path.join(this.#folder, 'refs', ...revision.split('/')), this.#commit)
  }

  async #write(file: string, text: string): Promise<void> {
    await this.#makeFolder(path.dirname(file))
    const temporary = `${file}.drivlm-${process.pid}-${randomBytes(4).toString('hex')}.incomplete`
    try {
      await writeFile(temporary, text, { flag: 'wx' })
      await rename(temporary, file)
    } catch (error) {
      await rm(temporary, { force: true })
      throw diskError(error, file)
    }
  }

  async #makeFolder(folder: string): Promise<void> {
    const { cacheDir } = this.#settings
    try {
      await makeFolder(cacheDir)
      let at = cacheDir
      for (const part of path.relative(cacheDir, folder).split(path.sep)) {
        at = path.join(at, part)
        await mkdir(at).catch((error) => {
          if (error.code !== 'EEXIST') throw error
        })
        await checkInside(cacheDir, at)
      }
    } catch (error) {
      throw error instanceof HubError ? error : diskError(error, folder)
    }
  }
}

/** A commit of a model in the cache, as `drivlm models` shows it. */
export interface CachedModel {
  repository: string
  commit: string
  /** Branches and tags that are this commit. */
  revisions: string[]
  dir: string
  /** Bytes of its files; what another commit has as well counts for both. */
  bytes: number
  missing: string[]
}

/** Every commit of every model in the cache; the order is that of names. */
export async function listCached({ cacheDir }: Pick<HubSettings, 'cacheDir'>): Promise<CachedModel[]> {
  const found: CachedModel[] = []
  for (const name of (await readdir(cacheDir).catch(() => [])).sort()) {
    if (!name.startsWith('models--')) continue
    const folder = path.join(cacheDir, name)
    const refs = await readRefs(path.join(folder, 'refs'))
    const commits = await readdir(path.join(folder, 'snapshots')).catch(() => [])
    for (const commit of commits.filter(isCommit).sort()) {
      const dir = path.join(folder, 'snapshots', commit)
      const repository = name.slice('models--'.length).replaceAll('--', '/')
      const revisions = refs.filter((ref) => ref.commit === commit).map((ref) => ref.revision)
      const missing = await missingIn(cacheDir, folder, commit).catch((error: Error) => [error.message])
      found.push({ repository, commit, revisions, dir, bytes: await bytesIn(dir), missing })
    }
  }
  return found
}

async function namesBelow(root: string): Promise<string[]> {
  try {
    return await readdir(root, { recursive: true, encoding: 'utf8' })
  } catch {
    return [] // there is none
  }
}

async function readRefs(root: string): Promise<{ revision: string; commit: string }[]> {
  const names = await namesBelow(root)
  const refs = await Promise.all(
    names.sort().map(async (name) => {
      const text = await readFile(path.join(root, name), 'utf8').catch(() => '')
      return { revision: name.split(path.sep).join('/'), commit: text.trim() }
    }),
  )
  return refs.filter(({ commit }) => isCommit(commit))
}

async function bytesIn(dir: string): Promise<number> {
  const names = await namesBelow(dir)
  const sizes = await Promise.all(names.map((name) => stat(path.join(dir, name)).catch(() => undefined)))
  return sizes.reduce((sum, found) => sum + (found?.isFile() ? found.size : 0), 0)
}

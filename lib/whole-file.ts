/** Files and folders that are there whole or not at all: written beside their place, brought to the disk, and renamed. */
import { type FileHandle, mkdir, open, rename, rm, stat } from 'node:fs/promises'
import path from 'node:path'
import { ModelError } from './errors.ts'

/**
 * Writes a file in one step: whoever reads it sees the old one or the whole new one.
 *
 * @throws {@link ModelError} `BAD_DATA` that names the file, with nothing left half written: the disk is full, for instance.
 */
export async function writeWhole(file: string, data: string | Uint8Array): Promise<void> {
  const partial = `${file}.partial`
  try {
    await written(partial, data)
    await rename(partial, file)
  } catch (error) {
    await rm(partial, { force: true }).catch(() => undefined)
    throw cannotWrite(file, error)
  }
}

/**
 * Whether a file can be written, told before the work whose result goes there. What is there stays.
 *
 * @throws {@link ModelError} `BAD_DATA` that names the file.
 */
export async function checkWritable(file: string): Promise<void> {
  try {
    const before = await stat(file).catch(() => undefined)
    await (await open(file, 'a')).close()
    if (before === undefined) await rm(file)
  } catch (error) {
    throw cannotWrite(file, error)
  }
}

/** All bytes at a place of a file: a disk that is nearly full takes a part of them without an error. */
export async function writeAll(handle: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  for (let at = 0; at < bytes.length; ) {
    at += (await handle.write(bytes, at, bytes.length - at, position + at)).bytesWritten
  }
}

/** A new file's bytes, on the disk. */
export async function written(file: string, data: string | Uint8Array): Promise<void> {
  const handle = await open(file, 'w')
  try {
    await handle.writeFile(data)
    await handle.sync()
  } finally {
    await handle.close()
  }
}

/** Brings the names in a folder to the disk, where the file system knows how. */
export async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, 'r').catch(() => undefined)
  try {
    await handle?.sync().catch(() => undefined)
  } finally {
    await handle?.close()
  }
}

/**
 * Makes a folder and those above it, where they are not there. Node's own `recursive` tries for ever where a folder is there and nothing can
 * be made in it: below an automounter, in /proc, in one that was removed.
 */
export async function makeFolder(folder: string): Promise<void> {
  const make = async (): Promise<void> => {
    try {
      await mkdir(folder)
    } catch (error) {
      const found = await stat(folder).catch(() => undefined)
      if (!found?.isDirectory()) throw error
    }
  }
  try {
    await make()
  } catch (error) {
    const above = path.dirname(folder)
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT' || above === folder) throw error
    await makeFolder(above)
    await make()
  }
}

/** Puts a finished folder in its place, which must be empty or not there. */
export async function renameFolder(from: string, to: string): Promise<void> {
  await syncFolder(from)
  await rename(from, to)
  await syncFolder(path.dirname(to))
}

/** The error of a file that cannot be written, with what to do. */
export function cannotWrite(file: string, error: unknown): ModelError {
  if (error instanceof ModelError) return error
  const { code, message } = error as NodeJS.ErrnoException
  const advice = code === 'ENOSPC' || code === 'EDQUOT' ? ' Make room there, or choose another output folder.' : ''
  return new ModelError('BAD_DATA', `${file}: cannot be written: ${message}.${advice}`, { cause: error })
}

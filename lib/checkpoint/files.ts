/** Reading the small text files of a model folder: every failure names the file and says what to do. */
import { lstat, open, readlink, stat } from 'node:fs/promises'
import path from 'node:path'
import { type ErrorCode, ModelError } from '../errors.ts'
import { adviceOfRead } from '../messages.ts'

/** No text file of the supported families comes near this; a larger one is damaged or not what it says. */
const maxTextBytes = 64 * 1024 * 1024

const errnoOf = (error: unknown): string => (error as NodeJS.ErrnoException)?.code ?? String(error)

/**
 * Size of a regular file in bytes, `undefined` when there is none of that name.
 *
 * @throws {@link ModelError} with `code` if the path is a folder, a pipe or a device, or cannot be looked at.
 */
export async function regularFileBytes(file: string, code: ErrorCode): Promise<number | undefined> {
  try {
    const found = await stat(file)
    if (found.isFile()) return found.size
    const what = found.isDirectory() ? 'a folder' : 'neither a file nor a folder'
    throw new ModelError(code, `${file}: expected a regular file, found ${what}.`)
  } catch (error) {
    if (error instanceof ModelError) throw error
    const errno = errnoOf(error)
    if (errno === 'ENOENT' || errno === 'ENOTDIR' || errno === 'ELOOP') {
      const target = await danglingTarget(file)
      if (target === undefined) return undefined
      const why = 'the download was interrupted, or what it points to was cleaned up'
      throw new ModelError(code, `${file} is a link to ${target}, which is not there: ${why}. Download it again.`, {
        cause: error,
      })
    }
    throw unreadable(file, error, code)
  }
}

/** Where a link leads that leads nowhere; undefined if there is no link of that name. */
async function danglingTarget(file: string): Promise<string | undefined> {
  const link = await lstat(file).catch(() => undefined)
  return link?.isSymbolicLink() ? readlink(file).catch(() => 'nowhere') : undefined
}

function unreadable(file: string, error: unknown, code: ErrorCode): ModelError {
  const errno = errnoOf(error)
  return new ModelError(code, `${file} cannot be read (${errno}). ${adviceOfRead(errno)}`, { cause: error })
}

/** Text of a UTF-8 file, `undefined` when there is none of that name. */
export async function readText(file: string, code: ErrorCode): Promise<string | undefined> {
  const bytes = await regularFileBytes(file, code)
  if (bytes === undefined) return undefined
  if (bytes > maxTextBytes) {
    throw new ModelError(
      code,
      `${file}: expected a text file of at most ${maxTextBytes} bytes, found ${bytes}. Download it again.`,
    )
  }
  const data = await readRange(file, 0, bytes, code)
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(data)
  } catch (error) {
    throw new ModelError(code, `${file}: expected UTF-8 text, found other bytes. Download it again.`, { cause: error })
  }
}

/** Exactly `bytes` bytes from `offset`; fewer (the file shrank meanwhile) is an error. */
export async function readRange(file: string, offset: number, bytes: number, code: ErrorCode): Promise<Buffer> {
  const data = Buffer.alloc(bytes)
  let read = 0
  try {
    const handle = await open(file, 'r')
    try {
      while (read < bytes) {
        const { bytesRead } = await handle.read(data, read, bytes - read, offset + read)
        if (bytesRead === 0) break
        read += bytesRead
      }
    } finally {
      await handle.close()
    }
  } catch (error) {
    throw unreadable(file, error, code)
  }
  if (read < bytes) {
    throw new ModelError(
      code,
      `${file}: expected ${bytes} bytes at offset ${offset}, found ${read}. Download it again.`,
    )
  }
  return data
}

/** A Git LFS pointer in place of the real file: the most frequent damage of a cloned model folder. */
export function isLfsPointer(text: string): boolean {
  return text.startsWith('version https://git-lfs')
}

/**
 * Parsed JSON object of a file, `undefined` when there is none of that name.
 *
 * @throws {@link ModelError} with `code` if it is not JSON, or is JSON but no object.
 */
export async function readJsonObject(file: string, code: ErrorCode): Promise<Record<string, unknown> | undefined> {
  const text = await readText(file, code)
  if (text === undefined) return undefined
  if (isLfsPointer(text)) {
    throw new ModelError(code, `${file} is a Git LFS pointer, not the file itself. Run "git lfs pull" in its folder.`)
  }
  return parseJsonObject(text, path.basename(file), code)
}

/** As {@link readJsonObject} for text already read; `name` is what messages call it. */
export function parseJsonObject(text: string, name: string, code: ErrorCode): Record<string, unknown> {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (error) {
    const foreign = findPythonNumber(text)
    if (foreign !== undefined) {
      throw new ModelError(
        code,
        `${name}: expected JSON, found ${foreign}, which Python writes and JSON does not have. Give it the number it should be, or remove the key.`,
        { cause: error },
      )
    }
    const why = error instanceof Error ? error.message : String(error)
    throw new ModelError(
      code,
      `${name}: expected JSON, found something else (${shorten(why, 160)}). Download it again.`,
      {
        cause: error,
      },
    )
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new ModelError(code, `${name}: expected a JSON object, found ${describe(value)}.`)
  }
  return value as Record<string, unknown>
}

/** `Infinity` or `NaN` in a text that is JSON but for them, with the key that has it. */
function findPythonNumber(text: string): string | undefined {
  if (text.length > 1 << 22) return undefined
  const token = /"[^"\\]*(?:\\.[^"\\]*)*"|-?\bInfinity\b|\bNaN\b/gs
  let found: string | undefined
  let key = ''
  const mended = text.replace(token, (word, at: number) => {
    if (word.startsWith('"')) {
      if (/^\s*:/.test(text.slice(at + word.length, at + word.length + 64))) key = word
      return word
    }
    found ??= `${word}${key === '' ? '' : ` for ${shorten(key.slice(1, -1), 100)}`}`
    return '0'
  })
  if (found === undefined) return undefined
  try {
    JSON.parse(mended)
    return found
  } catch {
    return undefined
  }
}

/** Any JSON value in a few words, for the "found" part of a message. */
export function describe(value: unknown): string {
  if (value === undefined) return 'nothing'
  if (Array.isArray(value)) {
    // Nested values may be nested a million deep: only flat lists are shown.
    const flat = value.length <= 8 && value.every((entry) => typeof entry !== 'object' || entry === null)
    return flat ? shorten(JSON.stringify(value), 80) : `a list of ${value.length} entries`
  }
  if (typeof value === 'object' && value !== null) return 'an object'
  // JSON writes numbers out of range, as 1e999 is, as null.
  const text = typeof value === 'number' ? String(value) : JSON.stringify(value)
  return shorten(text ?? String(value), 80)
}

export function shorten(text: string, most: number): string {
  return text.length <= most ? text : `${text.slice(0, most - 1)}…`
}

/** Reading a log's file by position, and the words of errors about it. */
import { type FileHandle, open } from 'node:fs/promises'
import path from 'node:path'
import { ModelError } from '../errors.ts'
import { adviceOfRead } from '../messages.ts'

/** Something wrong in a log that was passed over. */
export interface Damage {
  /** Name of the file, without its folder. */
  file: string
  /** Byte in the file at which it was found; undefined where a file has no bytes of its own (SQLite). */
  offset: number | undefined
  /** A sentence: what was found, and what it costs. */
  message: string
}

/** A log's error; control characters of names in it are made visible. */
export function badLog(file: string, message: string, cause?: unknown): ModelError {
  const text = `${visible(path.basename(file))}: ${message}`
  return new ModelError('BAD_LOG', text, cause === undefined ? undefined : { cause })
}

/** Text of a log as it may stand in a message: short, on one line, without what steers a terminal. */
export function visible(text: string, most = 200): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
  const steering = /[\u0000-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]/g
  const plain = text.slice(0, most + 1).replace(steering, '�')
  return plain.length > most ? `${plain.slice(0, most)}…` : plain
}

const windowBytes = 256 * 1024

/** A file that is read by position. Small pieces come from a window that moves on; `read` may give fewer bytes than asked, at the end. */
export class LogFile {
  readonly name: string
  readonly size: number
  readonly #handle: FileHandle
  #window: Buffer = Buffer.alloc(0)
  #at = 0
  #closed = false

  private constructor(name: string, size: number, handle: FileHandle) {
    this.name = name
    this.size = size
    this.#handle = handle
  }

  /** @throws {@link ModelError} `BAD_LOG` if there is no such file, or it is none to be read by position. */
  static async open(file: string): Promise<LogFile> {
    let handle: FileHandle
    try {
      handle = await open(file)
    } catch (error) {
      const errno = (error as NodeJS.ErrnoException).code
      if (errno === 'ENOENT') throw badLog(file, `${visible(file)} does not exist; check the path.`, error)
      throw badLog(file, `it cannot be read (${errno}). ${adviceOfRead(errno)}`, error)
    }
    const stat = await handle.stat()
    if (!stat.isFile()) {
      await handle.close()
      throw badLog(file, 'expected a file, found something else; give a log file or its folder.')
    }
    return new LogFile(file, stat.size, handle)
  }

  /** Up to `length` bytes from `offset`; a view that later reads may overwrite. */
  async read(offset: number, length: number): Promise<Buffer> {
    const end = Math.min(offset + length, this.size)
    if (end <= offset) return Buffer.alloc(0)
    if (offset >= this.#at && end <= this.#at + this.#window.length) {
      return this.#window.subarray(offset - this.#at, end - this.#at)
    }
    if (length >= windowBytes) return this.#fill(Buffer.allocUnsafe(end - offset), offset)
    // A new buffer, so that views of the last one stay what they are.
    this.#window = await this.#fill(Buffer.allocUnsafe(Math.min(windowBytes, this.size - offset)), offset)
    this.#at = offset
    return this.#window.subarray(0, end - offset)
  }

  async #fill(buffer: Buffer, offset: number): Promise<Buffer> {
    let had = 0
    while (had < buffer.length) {
      const { bytesRead } = await this.#handle.read(buffer, had, buffer.length - had, offset + had).catch((error) => {
        if (!this.#closed) throw error
        throw new ModelError('DISPOSED', `${visible(path.basename(this.name))} was closed while it was read.`)
      })
      if (bytesRead === 0) break
      had += bytesRead
    }
    return buffer.subarray(0, had)
  }

  close(): Promise<void> {
    this.#closed = true
    return this.#handle.close()
  }
}

/** What containers of chunks have in common: messages by their place, and what is said of messages whose channel is not declared. */
import { ModelError } from '../errors.ts'
import { ChunkCache, type Place } from './container.ts'
import { badLog, type Damage, type LogFile } from './files.ts'

/** A file whose messages lie in chunks, or in none. */
export abstract class ChunkedFile {
  protected readonly file: LogFile
  /** The file's number among those of the log. */
  protected readonly index: number
  readonly #cache = new ChunkCache()

  constructor(file: LogFile, index: number) {
    this.file = file
    this.index = index
  }

  /** The records of the chunk that begins at a byte of the file, decompressed. */
  protected abstract chunkAt(offset: number): Promise<Uint8Array>

  get name(): string {
    return this.file.name
  }

  get bytes(): number {
    return this.file.size
  }

  async read({ chunk, at, size }: Place): Promise<Uint8Array> {
    try {
      if (chunk < 0) return await this.file.read(at, size)
      let data = this.#cache.get(chunk)
      if (data === undefined) {
        data = await this.chunkAt(chunk)
        this.#cache.add(chunk, data)
      }
      return data.subarray(at, at + size)
    } catch (error) {
      if (error instanceof ModelError) throw error
      throw badLog(this.name, `the chunk at byte ${chunk} cannot be read: ${(error as Error).message}.`, error)
    }
  }

  close(): Promise<void> {
    return this.file.close()
  }
}

/** Messages of channels that nothing before them declares, by the channel's number. */
export class Undeclared {
  readonly #counts = new Map<number, number>()

  add(id: number): void {
    this.#counts.set(id, (this.#counts.get(id) ?? 0) + 1)
  }

  /** @param what - The container's word for a channel. */
  report(file: string, what: 'channel' | 'connection', onDamage: (damage: Damage) => void): void {
    for (const [id, count] of this.#counts) {
      const messages = `${count} ${count === 1 ? 'message' : 'messages'} of ${what} ${id}`
      const message = `${messages}, which is not declared before, ${count === 1 ? 'was' : 'were'} left out.`
      onDamage({ file, offset: 0, message })
    }
  }
}

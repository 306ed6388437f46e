// Reads JSON files piece by piece: DriveLM's train file has 400 MB, of which one key frame (about 100 KB) is held at a time.
//
// A cursor walks the upper levels of the file and hands out whole values as text, which JSON.parse then reads. Keys come in
// the order of the file, also those that look like array indices and would lose their place in an object.

import { createReadStream } from 'node:fs'
import { ModelError } from '../../errors.ts'

/** Where in a file something is, for people: the file, then `scene …`, `frame …`, `item …`. */
export type Place = readonly string[]

/** The longest single value read at once, in UTF-16 units. A key frame of the real file has about 100,000. */
const longestValue = 64 * 1024 * 1024

/** BAD_DATA with the place in front. */
export function badData(place: Place, message: string, cause?: unknown): ModelError {
  return new ModelError('BAD_DATA', `${place.join(', ')}: ${message}`, cause === undefined ? {} : { cause })
}

const isSpace = (unit: number): boolean => unit === 0x20 || unit === 0x0a || unit === 0x0d || unit === 0x09

/** A position in a JSON file that is read as it advances. */
export class JsonCursor {
  readonly #chunks: AsyncIterator<string>
  #buffer = ''
  #at = 0
  #ended = false
  /** Line of the place in the buffer up to which lines were counted. */
  #line = 1
  #counted = 0

  constructor(chunks: AsyncIterable<string>) {
    this.#chunks = chunks[Symbol.asyncIterator]()
  }

  /** Line of the current position, from 1. */
  get line(): number {
    for (let next = this.#buffer.indexOf('\n', this.#counted); next >= 0 && next < this.#at; ) {
      this.#line++
      this.#counted = next + 1
      next = this.#buffer.indexOf('\n', this.#counted)
    }
    this.#counted = Math.max(this.#counted, this.#at)
    return this.#line
  }

  /** The next character that is not whitespace, without taking it; empty at the end of the file. */
  async peek(): Promise<string> {
    for (;;) {
      while (this.#at < this.#buffer.length && isSpace(this.#buffer.charCodeAt(this.#at))) this.#at++
      if (this.#at < this.#buffer.length) return this.#buffer[this.#at]!
      if (!(await this.#more())) return ''
    }
  }

  /** Takes one of the characters of `expected`. */
  async take(expected: string, place: Place): Promise<string> {
    const found = await this.peek()
    if (found === '' || !expected.includes(found)) {
      const wanted = [...expected].map((char) => `'${char}'`).join(' or ')
      const seen = found === '' ? 'the end of the file' : `'${found}'`
      throw badData(place, `broken JSON in line ${this.line}: expected ${wanted}, found ${seen}.`)
    }
    this.#at++
    return found
  }

  /** The text of the next value, whatever it is; only its brackets and strings are looked at. */
  async raw(place: Place): Promise<string> {
    const first = await this.peek()
    if (first === '' || ',:]}'.includes(first)) {
      const seen = first === '' ? 'the end of the file' : `'${first}'`
      throw badData(place, `broken JSON in line ${this.line}: expected a value, found ${seen}.`)
    }
    const line = this.line
    let scanned = this.#at
    let depth = 0
    let inString = false
    for (;;) {
      const buffer = this.#buffer
      for (; scanned < buffer.length; scanned++) {
        const unit = buffer.charCodeAt(scanned)
        if (inString) {
          if (unit === 0x5c /* \ */) scanned++
          else if (unit === 0x22 /* " */) {
            inString = false
            if (depth === 0) return this.#cut(scanned + 1)
          }
        } else if (unit === 0x22) inString = true
        else if (unit === 0x7b || unit === 0x5b /* { [ */) depth++
        else if (unit === 0x7d || unit === 0x5d /* } ] */) {
          if (depth === 0) return this.#cut(scanned) // end of a number or name, and of what it stands in
          if (--depth === 0) return this.#cut(scanned + 1)
        } else if (depth === 0 && (unit === 0x2c || isSpace(unit))) return this.#cut(scanned)
      }
      if (buffer.length - this.#at > longestValue) {
        throw badData(place, `the value that begins in line ${line} is longer than ${longestValue} characters.`)
      }
      const before = this.#at
      if (await this.#more()) scanned -= before - this.#at
      else if (depth === 0 && !inString) return this.#cut(this.#buffer.length)
      else throw badData(place, `broken JSON: the file ends inside the value that begins in line ${line}.`)
    }
  }

  /** The next value, parsed. */
  async value(place: Place): Promise<unknown> {
    const line = (await this.peek()) === '' ? 0 : this.line
    return parseJson(await this.raw(place), place, line)
  }

  /** The next value, which must be a string. */
  async string(place: Place): Promise<string> {
    if ((await this.peek()) !== '"') await this.take('"', place)
    return (await this.value(place)) as string
  }

  /**
   * Goes through an object. After each key the caller reads the value with this cursor before it asks for the next one.
   * Each key may come once.
   */
  async *keys(place: Place): AsyncGenerator<string> {
    await this.take('{', place)
    if ((await this.peek()) === '}') return void (await this.take('}', place))
    const seen = new Set<string>()
    do {
      const key = await this.string(place)
      if (seen.has(key))
        throw badData(place, `the key ${JSON.stringify(key)} is there twice, again in line ${this.line}.`)
      seen.add(key)
      await this.take(':', place)
      yield key
    } while ((await this.take(',}', place)) === ',')
  }

  /** Goes through an array: for each index the caller reads the value with this cursor. */
  async *indices(place: Place): AsyncGenerator<number> {
    await this.take('[', place)
    if ((await this.peek()) === ']') return void (await this.take(']', place))
    let index = 0
    do yield index++
    while ((await this.take(',]', place)) === ',')
  }

  /** Nothing but whitespace may follow. */
  async end(place: Place): Promise<void> {
    const found = await this.peek()
    if (found !== '')
      throw badData(place, `broken JSON in line ${this.line}: expected the end of the file, found '${found}'.`)
  }

  /** Closes the file early. */
  async close(): Promise<void> {
    await this.#chunks.return?.()
  }

  #cut(end: number): string {
    const text = this.#buffer.slice(this.#at, end)
    this.#at = end
    return text
  }

  async #more(): Promise<boolean> {
    if (this.#ended) return false
    const { value, done } = await this.#chunks.next()
    if (done) {
      this.#ended = true
      return false
    }
    void this.line // counts what is about to go
    this.#buffer = this.#buffer.slice(this.#at) + value
    this.#counted -= this.#at
    this.#at = 0
    return true
  }
}

/** JSON.parse whose error names the place. */
export function parseJson(text: string, place: Place, line?: number): unknown {
  try {
    return JSON.parse(text)
  } catch (error) {
    const where = line === undefined ? '' : ` in the value that begins in line ${line}`
    throw badData(place, `broken JSON${where}: ${(error as Error).message}`, error)
  }
}

/** The file as UTF-8 text in pieces; a byte order mark is skipped, other bytes than UTF-8 are an error. */
export async function* textChunks(path: string, chunkBytes: number = 1 << 20): AsyncGenerator<string> {
  const decoder = new TextDecoder('utf-8', { fatal: true })
  const decode = (bytes?: Uint8Array): string => {
    try {
      return decoder.decode(bytes, { stream: bytes !== undefined })
    } catch (error) {
      throw badData([path], 'the file is not UTF-8 text.', error)
    }
  }
  try {
    for await (const bytes of createReadStream(path, { highWaterMark: chunkBytes })) yield decode(bytes as Uint8Array)
  } catch (error) {
    if (error instanceof ModelError) throw error
    throw badData([path], `cannot be read: ${(error as Error).message}`, error)
  }
  const rest = decode()
  if (rest !== '') yield rest
}

/** Lines of a text file with their numbers from 1; the last one also without a line break. */
export async function* textLines(
  path: string,
  chunks: AsyncIterable<string> = textChunks(path),
): AsyncGenerator<{ line: number; text: string }> {
  let rest = ''
  let line = 0
  for await (const chunk of chunks) {
    const lines = (rest + chunk).split('\n')
    rest = lines.pop()!
    if (rest.length > longestValue) throw badData([path, `line ${line + lines.length + 1}`], 'the line is too long.')
    for (const text of lines) yield { line: ++line, text }
  }
  if (rest !== '') yield { line: line + 1, text: rest }
}

/**
 * InternVL's training data as it is: a meta file that names lists of samples, and the lists, JSON Lines of conversations
 * (spec/adaptation.md, section 1). A list may be larger than memory: what is kept of it is where its lines are.
 */
import { createHash } from 'node:crypto'
import { type FileHandle, open, readFile, stat } from 'node:fs/promises'
import path from 'node:path'
import { ModelError } from '../errors.ts'
import type { Message } from './labels.ts'

/** One entry of a meta file. */
export interface ListEntry {
  name: string
  /** Folder that pictures are named from. */
  root: string
  /** The JSON Lines file. */
  annotation: string
  /** Every tile is encoded as JPEG of a random quality and decoded. */
  augment: boolean
  /** How often the list is taken; a fraction takes its first lines. */
  repeat: number
  /** Most tiles of one picture; undefined for the command's. */
  maxTiles: number | undefined
}

/** A sample as it stands in a list, checked. */
export interface ListedSample {
  id: string
  /** Its pictures by camera, or as `image`, where they go by the model's layout of views; the messages then have no markers. */
  views?: Readonly<Record<string, string>>
  /** The moment it is of, by its number in the file, where the file names moments. */
  moment?: number
  /** Paths of its pictures; empty for text alone. */
  pictures: string[]
  /** The sample names one picture, not a list. */
  single: boolean
  messages: Message[]
}

/** Samples that can be read one by one, in any order. */
export interface SampleSource {
  readonly entry: ListEntry
  /** Samples of the file; `repeat` is not counted in. */
  readonly lines: number
  /** SHA-256 of the file, as it was when it was opened. */
  readonly sha256: string
  /** Where a sample stands, for messages. */
  where(index: number): string
  /** @throws {@link ModelError} `BAD_DATA` that names the line. */
  read(index: number): Promise<ListedSample>
  /** @throws {@link ModelError} `BAD_DATA` if the file is not as it was when it was opened. */
  expectUnchanged(): Promise<void>
  close(): Promise<void>
}

/** Size and time of a file, which tell whether it was changed. */
export function stampOf({ size, mtimeMs }: { size: number; mtimeMs: number }): string {
  return `${size} ${mtimeMs}`
}

/** @throws {@link ModelError} `BAD_DATA` if the file has gone or is another one. */
export async function expectStamp(file: string, stamp: string): Promise<void> {
  const now = await stat(file).catch((error: NodeJS.ErrnoException) => {
    throw bad(`${file}: cannot be read any more (${error.code}); the run needs it as it was at the start.`, error)
  })
  if (stampOf(now) !== stamp)
    throw bad(`${file}: was changed since the run began; put the old file back, or begin a new run.`)
}

const maxMetaBytes = 16 << 20
/** What some editors put in front of a file, and JSON.parse refuses. */
const byteOrderMark = /^\ufeff/
const maxLineBytes = 16 << 20
const maxPictures = 256

function bad(message: string, cause?: unknown): ModelError {
  return new ModelError('BAD_DATA', message, cause === undefined ? undefined : { cause })
}

/** `found …` of a value, shortened. */
function found(value: unknown): string {
  if (value === undefined) return 'the key is missing'
  const text = JSON.stringify(value) ?? String(value)
  return `found ${text.length > 60 ? `${text.slice(0, 60)}…` : text}`
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/**
 * Reads a meta file. Relative paths are taken from the meta file's folder where they exist there, as the reference takes them from the
 * folder it is started in.
 *
 * @throws {@link ModelError} `BAD_DATA` that names the entry and the key.
 */
export async function readMeta(file: string): Promise<ListEntry[]> {
  let text: string
  try {
    const bytes = await readFile(file)
    if (bytes.length > maxMetaBytes)
      throw bad(`${file}: ${bytes.length} bytes are no meta file; pass a list of samples as such.`)
    text = bytes.toString('utf8').replace(byteOrderMark, '')
  } catch (error) {
    if (error instanceof ModelError) throw error
    throw bad(`${file}: cannot be read (${(error as NodeJS.ErrnoException).code}).`, error)
  }
  let json: unknown
  try {
    json = JSON.parse(text)
  } catch (error) {
    throw bad(`${file}: expected a meta file, one JSON object: ${(error as Error).message}.`, error)
  }
  if (!isObject(json) || Object.keys(json).length === 0)
    throw bad(`${file}: expected an object of data-set names, found ${isObject(json) ? 'an empty one' : found(json)}.`)
  const folder = path.dirname(file)
  return Object.entries(json).map(([name, value]) => {
    const fail = (key: string, expected: string): ModelError =>
      bad(
        `${file}, ${JSON.stringify(name)}: expected ${key} to be ${expected}, ${found((value as Record<string, unknown>)[key])}.`,
      )
    if (!isObject(value)) throw bad(`${file}, ${JSON.stringify(name)}: expected an object, ${found(value)}.`)
    const { root, annotation, data_augment: augment, repeat_time: repeat, max_dynamic_patch: maxTiles } = value
    if (typeof root !== 'string') throw fail('root', 'a folder')
    if (typeof annotation !== 'string' || !annotation.endsWith('jsonl'))
      throw fail('annotation', 'a file whose name ends in jsonl')
    if (typeof augment !== 'boolean') throw fail('data_augment', 'true or false')
    if (typeof repeat !== 'number' || !(repeat > 0 && repeat <= 1e6)) throw fail('repeat_time', 'a number above 0')
    if (
      maxTiles !== undefined &&
      !(Number.isSafeInteger(maxTiles) && (maxTiles as number) >= 1 && (maxTiles as number) <= 1024)
    )
      throw fail('max_dynamic_patch', 'a whole number from 1 to 1024')
    return {
      name,
      root: path.resolve(folder, root),
      annotation: path.resolve(folder, annotation),
      augment,
      repeat,
      maxTiles: maxTiles as number | undefined,
    }
  })
}

/** A list of samples on disk. */
export class SampleList implements SampleSource {
  readonly entry: ListEntry
  /** Lines that hold a sample. */
  readonly lines: number
  /** SHA-256 of the file, as it was when it was opened. */
  readonly sha256: string
  readonly #file: FileHandle
  readonly #stamp: string
  /** [2 · lines]: first byte and number of bytes of each. */
  readonly #spans: Float64Array
  /** [lines]: number of each line in the file, from 1. */
  readonly #numbers: Uint32Array

  private constructor(entry: ListEntry, file: FileHandle, stamp: string, index: LineIndex) {
    this.entry = entry
    this.#file = file
    this.#stamp = stamp
    this.lines = index.numbers.length
    this.sha256 = index.sha256
    this.#spans = Float64Array.from(index.spans)
    this.#numbers = Uint32Array.from(index.numbers)
  }

  /** @throws {@link ModelError} `BAD_DATA` if the file cannot be read, has no line, or a line of over 16 MiB. */
  static async open(entry: ListEntry): Promise<SampleList> {
    let file: FileHandle
    try {
      file = await open(entry.annotation, 'r')
    } catch (error) {
      throw bad(`${entry.annotation}: cannot be opened (${(error as NodeJS.ErrnoException).code}).`, error)
    }
    try {
      const stamp = stampOf(await file.stat())
      const index = await indexLines(file, entry.annotation)
      if (index.numbers.length === 0) throw bad(`${entry.annotation}: there is no sample in it.`)
      if (Math.trunc(index.numbers.length * entry.repeat) === 0)
        throw bad(
          `${entry.annotation}: repeat_time ${entry.repeat} leaves none of its ${index.numbers.length} samples (${entry.name}).`,
        )
      return new SampleList(entry, file, stamp, index)
    } catch (error) {
      await file.close()
      throw error
    }
  }

  /** Where a sample stands, for messages: `file.jsonl, line 3`. */
  where(index: number): string {
    return `${this.entry.annotation}, line ${this.#numbers[index]}`
  }

  async read(index: number): Promise<ListedSample> {
    const [first, bytes] = [this.#spans[2 * index]!, this.#spans[2 * index + 1]!]
    const buffer = Buffer.alloc(bytes)
    const { bytesRead } = await this.#file.read(buffer, 0, bytes, first)
    if (bytesRead !== bytes) throw bad(`${this.where(index)}: the file became shorter while it was used.`)
    return parseSample(buffer.toString('utf8'), this.where(index), this.entry.root)
  }

  expectUnchanged(): Promise<void> {
    return expectStamp(this.entry.annotation, this.#stamp)
  }

  async close(): Promise<void> {
    await this.#file.close()
  }
}

interface LineIndex {
  spans: number[]
  numbers: number[]
  sha256: string
}

async function indexLines(file: FileHandle, name: string): Promise<LineIndex> {
  const hash = createHash('sha256')
  const index: LineIndex = { spans: [], numbers: [], sha256: '' }
  let at = 0
  let start = 0
  let number = 1
  let blank = true
  const end = (stop: number): void => {
    if (stop - start > maxLineBytes)
      throw bad(`${name}, line ${number}: ${stop - start} bytes; at most ${maxLineBytes} are read as one sample.`)
    if (!blank) {
      index.spans.push(start, stop - start)
      index.numbers.push(number)
    }
  }
  const buffer = Buffer.alloc(1 << 20)
  for (;;) {
    const { bytesRead } = await file.read(buffer, 0, buffer.length, at)
    if (bytesRead === 0) break
    const chunk = buffer.subarray(0, bytesRead)
    hash.update(chunk)
    for (let i = 0; i < bytesRead; i++) {
      const byte = chunk[i]!
      if (byte === 10) {
        end(at + i)
        start = at + i + 1
        number++
        blank = true
      } else if (byte > 32) blank = false
    }
    at += bytesRead
    if (at - start > maxLineBytes) end(at)
  }
  end(at)
  index.sha256 = hash.digest('hex')
  return index
}

/** One line. Absent and empty `image` mean text alone; `width`, `height` and `length` are not read, as in the reference. */
export function parseSample(line: string, where: string, root: string): ListedSample {
  let json: unknown
  try {
    json = JSON.parse(line.replace(byteOrderMark, ''))
  } catch (error) {
    throw bad(`${where}: expected JSON: ${(error as Error).message}.`, error)
  }
  if (!isObject(json)) throw bad(`${where}: expected an object, ${found(json)}.`)
  const { id, image, video, conversations } = json
  const pictures = picturesOf(image, where)
  if (pictures.length === 0 && typeof video === 'string' && video !== '')
    throw bad(`${where}: it has a video; only pictures are trained on.`)
  if (!Array.isArray(conversations) || conversations.length === 0)
    throw bad(`${where}: expected conversations to be a list of messages, ${found(conversations)}.`)
  const messages = conversations.map((message, i): Message => {
    const from = isObject(message) ? message.from : undefined
    const value = isObject(message) ? message.value : undefined
    if ((from !== 'human' && from !== 'gpt' && from !== 'system') || typeof value !== 'string') {
      throw bad(
        `${where}, message ${i + 1}: expected {"from": "human", "gpt" or "system", "value": text}, ${found(message)}.`,
      )
    }
    return { from, value }
  })
  const name = typeof id === 'string' || typeof id === 'number' ? String(id) : where
  return {
    id: name,
    pictures: pictures.map((file) => path.resolve(root, file)),
    single: typeof image === 'string',
    messages,
  }
}

function picturesOf(image: unknown, where: string): string[] {
  if (image === undefined || image === null || image === '') return []
  if (typeof image === 'string') return [image]
  if (
    !Array.isArray(image) ||
    image.length > maxPictures ||
    image.some((entry) => typeof entry !== 'string' || entry === '')
  )
    throw bad(`${where}: expected image to be a path or a list of up to ${maxPictures} paths, ${found(image)}.`)
  return image
}

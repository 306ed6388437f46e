// Files that hold a value an item: a JSON list, or JSON lines. What the file holds decides, not what it is called. A file is read once,
// from its beginning, so it may be a pipe.

import { ModelError } from '../../errors.ts'
import { badData, JsonCursor, type Place, parseJson, textChunks, textLines } from './json-stream.ts'

/** An item of a file, not yet parsed, so that a broken one costs itself. */
export interface Row {
  place: Place
  raw: string
  read: () => unknown
}

/** A file whose beginning was looked at: a list, an object a line, or one object. */
export interface OpenedFile {
  kind: 'list' | 'lines' | 'object'
  path: string
  /** All of its text, to be read once. */
  chunks: AsyncGenerator<string>
}

/** Characters that are looked at to tell what a file is. */
const headLength = 1 << 16
/** How many keys of an object are looked at; in a scene file each may hold a scene. */
const firstKeys = 4

/**
 * Looks at the beginning of a file. An object is one line of many if the file is named `.jsonl` or `.ndjson`, or if its first keys are
 * those of an item.
 *
 * @throws {@link ModelError} `BAD_DATA` if it begins with neither an object nor a list.
 */
export async function openFile(path: string, isItem: (keys: readonly string[]) => boolean): Promise<OpenedFile> {
  const rest = textChunks(path, headLength)
  let head = ''
  for (let next = await rest.next(); !next.done; next = await rest.next()) {
    head += next.value
    if (head.length >= headLength) break
  }
  const chunks = async function* (): AsyncGenerator<string> {
    try {
      yield head
      yield* rest
    } finally {
      await rest.return(undefined)
    }
  }
  try {
    return { kind: await kindOf(head, path, isItem), path, chunks: chunks() }
  } catch (error) {
    await rest.return(undefined)
    throw error
  }
}

async function kindOf(
  head: string,
  path: string,
  isItem: (keys: readonly string[]) => boolean,
): Promise<OpenedFile['kind']> {
  const cursor = new JsonCursor(
    (async function* () {
      yield head
    })(),
  )
  const first = await cursor.peek()
  if (first === '[') return 'list'
  if (first !== '{') {
    const found = first === '' ? 'nothing' : `'${first}'`
    throw badData([path], `expected a JSON object, a list or an object a line, found ${found} at the start.`)
  }
  if (/\.(jsonl|ndjson)$/i.test(path)) return 'lines'
  const keys: string[] = []
  try {
    for await (const key of cursor.keys([path])) {
      keys.push(key)
      if (isItem(keys)) return 'lines'
      if (keys.length >= firstKeys) break
      await cursor.raw([path])
    }
  } catch (error) {
    if (!(error instanceof ModelError)) throw error // longer than the head, or broken: who reads it all says where
  }
  return 'object'
}

/** Items of a list, or of lines, of which empty ones count for nothing. */
export async function* rowsOf({ kind, path, chunks }: OpenedFile): AsyncGenerator<Row> {
  if (kind === 'lines') {
    for await (const { line, text: raw } of textLines(path, chunks)) {
      const place = [path, `line ${line}`]
      if (raw.trim() !== '') yield { place, raw, read: () => parseJson(raw, place) }
    }
    return
  }
  const cursor = new JsonCursor(chunks)
  try {
    yield* cursorRows(cursor, [path])
    await cursor.end([path])
  } finally {
    await cursor.close()
  }
}

/** Items of the list a cursor stands before. */
export async function* cursorRows(cursor: JsonCursor, file: Place): AsyncGenerator<Row> {
  for await (const index of cursor.indices(file)) {
    const place = [...file, `item ${index}`]
    const raw = await cursor.raw(place)
    yield { place, raw, read: () => parseJson(raw, place) }
  }
}

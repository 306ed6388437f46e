// Files that hold a value an item: a JSON list, or JSON lines. What the file holds decides, not what it is called.

import { ModelError } from '../../errors.ts'
import { badData, JsonCursor, type Place, parseJson, textChunks, textLines } from './json-stream.ts'

/** An item of a file, not yet parsed, so that a broken one costs itself. */
export interface Row {
  place: Place
  raw: string
  read: () => unknown
}

/** How a file is laid out: a list, a value a line, or one object. */
export type RowLayout = { kind: 'list' } | { kind: 'lines' } | { kind: 'object' }

/** How many keys of an object are looked at to tell what it is; in a scene file each may hold a scene. */
const firstKeys = 4

/**
 * Looks at the beginning of a file. An object is one line of many if the file is named `.jsonl` or `.ndjson`, or if its first keys are
 * those of an item.
 *
 * @throws {@link ModelError} `BAD_DATA` if it begins with neither an object nor a list.
 */
export async function rowLayout(path: string, isItem: (keys: readonly string[]) => boolean): Promise<RowLayout> {
  const cursor = new JsonCursor(textChunks(path, 1 << 16))
  try {
    const first = await cursor.peek()
    if (first === '[') return { kind: 'list' }
    if (first !== '{') {
      const found = first === '' ? 'nothing' : `'${first}'`
      throw badData([path], `expected a JSON object, a list or an object a line, found ${found} at the start.`)
    }
    if (/\.(jsonl|ndjson)$/i.test(path)) return { kind: 'lines' }
    const keys: string[] = []
    try {
      for await (const key of cursor.keys([path])) {
        keys.push(key)
        if (isItem(keys)) return { kind: 'lines' }
        if (keys.length >= firstKeys) break
        await cursor.raw([path])
      }
    } catch (error) {
      if (!(error instanceof ModelError)) throw error // broken: who reads it all says where
    }
    return { kind: 'object' }
  } finally {
    await cursor.close()
  }
}

/** Items of a list. */
export async function* listRows(path: string): AsyncGenerator<Row> {
  const cursor = new JsonCursor(textChunks(path))
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

/** Values a line; empty lines count for nothing. */
export async function* lineRows(path: string): AsyncGenerator<Row> {
  for await (const { line, text: raw } of textLines(path)) {
    const place = [path, `line ${line}`]
    if (raw.trim() !== '') yield { place, raw, read: () => parseJson(raw, place) }
  }
}

/** Items of either. */
export function rowsOf(path: string, kind: 'list' | 'lines'): AsyncGenerator<Row> {
  return kind === 'list' ? listRows(path) : lineRows(path)
}

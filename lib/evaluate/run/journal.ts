// The journal of an evaluation: answers as they come, a line each, so that a run killed at any moment goes on where it was.
//
//   {"drivlm":"journal","version":1,"run":{…}}       what was asked of which model; must be the same to go on
//   {"index":0,"id":"…","question":"…","answer":"…","timings":{…}}
//
// Only whole lines count: what a killed process left half written is cut off. A line is on its way to the disk before the next
// question is asked; `sync` says how often it is also waited for (a killed process loses nothing either way, a power cut may).

import { type FileHandle, open, readFile } from 'node:fs/promises'
import path from 'node:path'
import type { ModelError } from '../../errors.ts'
import { cannotWrite, makeFolder } from '../../whole-file.ts'
import { record, show } from '../questions/fields.ts'
import { badData, parseJson } from '../questions/json-stream.ts'

/** What answers depend on. A journal is only continued by a run that is the same in all of it. */
export interface RunIdentity {
  /** SHA-256 of the question file. */
  data: string
  /** What tells the model apart: name and digest. */
  model: string
  /** Everything else that changes answers: prompt, generation limits, coordinates, … */
  settings: Record<string, unknown>
  /** Of the run; 0 unless told otherwise. */
  seed: number
  /** `i/n`; `1/1` for a whole run. */
  shard: string
}

/** An answer with its place. */
export interface JournalEntry {
  /** Number of the question in the whole file, which fixes the order of outputs. */
  index: number
  /** Of the question. */
  id: string
  /** As asked in the file, without converted coordinates. */
  question: string
  /** As it is written to the outputs. */
  answer: string
  /** The model's own words, where they were converted. */
  raw?: string
  /** Milliseconds by stage. */
  timings?: Record<string, number>
}

/** When to wait for the disk: after every answer, every moment, or at the end. */
export type SyncPolicy = 'answer' | 'moment' | 'end'

const kind = 'journal'
const version = 1

interface Contents {
  run: RunIdentity
  entries: JournalEntry[]
  /** Bytes of whole lines. */
  length: number
}

/**
 * Reads a journal. A last line that is not whole is left out; anything else that is wrong is an error, since it did not come
 * from a kill.
 *
 * @returns Undefined if there is no journal, or one without a whole first line.
 * @throws {@link ModelError} `BAD_DATA` with file and line.
 */
export async function readJournal(file: string): Promise<Contents | undefined> {
  const bytes = await readFile(file).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return Buffer.alloc(0)
    throw badData([file], `cannot be read: ${error.message}`, error)
  })
  let length = bytes.lastIndexOf(0x0a) + 1
  const lines = bytes.toString('utf8', 0, length).split('\n').slice(0, -1)
  // A power cut may leave a last line of the right length that was never filled.
  if (lines.length > 0 && !isJson(lines.at(-1)!)) length -= Buffer.byteLength(`${lines.pop()}\n`)
  const [first, ...rest] = lines
  if (first === undefined) return undefined
  const header = record(parseJson(first, [file, 'line 1']), 'the first line', [file])
  if (header.drivlm !== kind || header.version !== version) {
    throw badData([file, 'line 1'], `expected a journal of version ${version}, found ${show(header)}.`)
  }
  const seen = new Set<string>()
  const entries = rest.map((line, i) => {
    const place = [file, `line ${i + 2}`]
    const entry = record(parseJson(line, place), 'the line', place) as unknown as JournalEntry
    const { id, answer, index, question } = entry
    if (
      typeof id !== 'string' ||
      typeof answer !== 'string' ||
      typeof question !== 'string' ||
      !Number.isInteger(index)
    ) {
      throw badData(place, `expected index, id, question and answer, found ${show(entry)}.`)
    }
    if (seen.has(id)) throw badData(place, `the id ${show(id)} is there twice.`)
    seen.add(id)
    return entry
  })
  return { run: header.run as RunIdentity, entries, length }
}

function isJson(line: string): boolean {
  try {
    JSON.parse(line)
    return true
  } catch {
    return false
  }
}

/** What two runs differ in, in words; empty if answers of one may be used in the other. */
export function differences(
  found: RunIdentity,
  wanted: RunIdentity,
  ignored: readonly (keyof RunIdentity)[] = [],
): string[] {
  const keys: (keyof RunIdentity)[] = ['data', 'model', 'settings', 'seed', 'shard']
  return keys
    .filter(
      (key) => !ignored.includes(key) && canonical(unnamed(key, found?.[key])) !== canonical(unnamed(key, wanted[key])),
    )
    .map((key) => `${key} ${show(found?.[key])} instead of ${show(wanted[key])}`)
}

/** A model is its fingerprint; the label in front of it is its folder's name, which may change. */
function unnamed(key: keyof RunIdentity, value: unknown): unknown {
  return key === 'model' && typeof value === 'string' ? value.replace(/^.*(?=@[0-9a-f]{16}$)/, '') : value
}

/** JSON with sorted keys. */
function canonical(value: unknown): string {
  return (
    JSON.stringify(value, (_, part) =>
      typeof part === 'object' && part !== null && !Array.isArray(part)
        ? Object.fromEntries(Object.entries(part).sort(([a], [b]) => (a < b ? -1 : 1)))
        : part,
    ) ?? 'undefined'
  )
}

/** A journal that is being written. */
export class Journal {
  readonly #file: string
  readonly #handle: FileHandle
  readonly #sync: SyncPolicy
  /** What earlier runs left, then what this one adds. */
  readonly entries: Map<string, JournalEntry>
  /** Set when a line could not be written; nothing should be asked any more. */
  failure: ModelError | undefined
  #writing: Promise<void> = Promise.resolve()

  private constructor(file: string, handle: FileHandle, sync: SyncPolicy, entries: readonly JournalEntry[]) {
    this.#file = file
    this.#handle = handle
    this.#sync = sync
    this.entries = new Map(entries.map((entry) => [entry.id, entry]))
  }

  /**
   * Opens or begins a journal.
   *
   * @throws {@link ModelError} `BAD_DATA` if the journal there is of another run, saying what differs.
   */
  static async open(file: string, run: RunIdentity, sync: SyncPolicy = 'moment'): Promise<Journal> {
    await makeFolder(path.dirname(file))
    const found = await readJournal(file)
    if (found) {
      const differs = differences(found.run, run)
      if (differs.length > 0) {
        const advice = 'Choose another output folder, or remove this file to begin anew.'
        throw badData([file], `the journal is of another run: ${differs.join('; ')}. ${advice}`)
      }
    }
    try {
      const repair = await open(file, found ? 'r+' : 'w')
      try {
        if (found) await repair.truncate(found.length)
        else await repair.writeFile(`${JSON.stringify({ drivlm: kind, version, run })}\n`)
        await repair.sync()
      } finally {
        await repair.close()
      }
      return new Journal(file, await open(file, 'a'), sync, found?.entries ?? [])
    } catch (error) {
      throw cannotWrite(file, error)
    }
  }

  /** Appends an answer. Calls may overlap; lines do not. */
  append(entry: JournalEntry): Promise<void> {
    this.entries.set(entry.id, entry)
    this.#writing = this.#writing.then(async () => {
      try {
        await this.#handle.appendFile(`${JSON.stringify(entry)}\n`)
        if (this.#sync === 'answer') await this.#handle.datasync()
      } catch (error) {
        this.failure ??= cannotWrite(this.#file, error)
        throw this.failure
      }
    })
    this.#writing.catch(() => undefined) // told to whoever awaits it, and by `failure`
    return this.#writing
  }

  /** All questions of a moment are answered. */
  async momentDone(): Promise<void> {
    try {
      await this.#writing
      if (this.#sync === 'moment') await this.#handle.datasync()
    } catch (error) {
      this.failure ??= cannotWrite(this.#file, error)
      throw this.failure
    }
  }

  /** Does not throw for what `failure` says already. */
  async close(): Promise<void> {
    await this.#writing.catch(() => {})
    try {
      await this.#handle.sync()
    } catch (error) {
      if (this.failure === undefined) throw cannotWrite(this.#file, error)
    } finally {
      await this.#handle.close()
    }
  }
}

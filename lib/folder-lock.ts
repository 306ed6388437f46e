// One writer a folder. The lock is a file that only one process can make; a killed process leaves it behind, so it says who made
// it, and whoever comes next takes it over if that one is gone. It is written beside its place and then linked there: at whatever
// moment its maker is killed, nobody finds it empty.

import { randomUUID } from 'node:crypto'
import { readFileSync, readlinkSync } from 'node:fs'
import { link, mkdir, readdir, readFile, rename, rm, stat, utimes, writeFile } from 'node:fs/promises'
import { hostname } from 'node:os'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { ModelError } from './errors.ts'

interface Owner {
  pid: number
  /** Start of the process in clock ticks since boot, since numbers of processes are used again. */
  started: string
  /** Where the number means something: this boot, this process namespace. */
  place: string
  host: string
  token: string
}

/** A lock made elsewhere is alive as long as its time stamp moves. */
const beatMs = 10_000
const silentMs = 60_000

/**
 * Locks an output folder, making it first.
 *
 * @returns What unlocks it.
 * @throws {@link ModelError} `BAD_ARGUMENT` if another run writes there, or if it cannot be a folder.
 */
export async function lockFolder(folder: string): Promise<() => Promise<void>> {
  const file = path.join(folder, 'run.lock')
  const mine: Owner = {
    pid: process.pid,
    started: startOf(process.pid)?.started ?? '',
    place: thisPlace(),
    host: hostname(),
    token: randomUUID(),
  }
  try {
    await mkdir(folder, { recursive: true })
    const text = `${JSON.stringify(mine)}\n`
    for (let tries = 0; tries < 20; tries++) {
      if ((await created(file, mine.token, text)) || (await takenOver(file, mine.token, text, folder))) {
        await removeDrafts(file)
        return holding(file, mine.token)
      }
      await sleep(20)
    }
  } catch (error) {
    if (error instanceof ModelError) throw error
    const { message } = error as Error
    throw new ModelError('BAD_ARGUMENT', `${folder} cannot be written as an output folder: ${message}.`, {
      cause: error,
    })
  }
  throw new ModelError('BAD_ARGUMENT', `${folder}: other runs keep locking it; choose another output folder.`)
}

const codeOf = (error: unknown): string | undefined => (error as NodeJS.ErrnoException).code

/** Makes a file with this text unless there is one. */
async function created(file: string, token: string, text: string): Promise<boolean> {
  const draft = `${file}.${token}`
  try {
    await writeFile(draft, text)
    await link(draft, file)
    return true
  } catch (error) {
    if (codeOf(error) === 'EEXIST' || codeOf(error) === 'ENOENT') return false // ENOENT: somebody removed the draft
    if (codeOf(error) !== 'EPERM' && codeOf(error) !== 'ENOTSUP') throw error
    return await createdHere(file, text)
  } finally {
    await rm(draft, { force: true })
  }
}

/** The same where the file system knows no links. */
async function createdHere(file: string, text: string): Promise<boolean> {
  try {
    await writeFile(file, text, { flag: 'wx' })
    return true
  } catch (error) {
    if (codeOf(error) === 'EEXIST') return false
    throw error
  }
}

/** What those left who were killed before they could link it. Who is about to link one of these tries again. */
async function removeDrafts(file: string): Promise<void> {
  const folder = path.dirname(file)
  const name = new RegExp(`^${path.basename(file)}(\\.claim)?\\.[0-9a-f-]{36}$`)
  for (const entry of await readdir(folder)) {
    if (name.test(entry)) await rm(path.join(folder, entry), { force: true })
  }
}

/** Replaces a lock that nobody holds any more, unless somebody else is at it. */
async function takenOver(file: string, token: string, text: string, folder: string): Promise<boolean> {
  const found = await read(file)
  if (found === undefined) return false
  if (found.text === text) return true // somebody else renamed our claim
  const owner = ownerOf(found.text)
  if (isHeld(owner, found.ageMs)) {
    const who = owner === undefined ? 'another run' : `process ${owner.pid} on ${owner.host}`
    throw new ModelError(
      'BAD_ARGUMENT',
      `${folder} is being written by ${who}. Wait for it, or choose another output folder; remove ${path.basename(file)} there if that run is gone.`,
    )
  }
  // Many may find the same stale lock. Only who made this file may replace it, and only while it is still the one that was found.
  const claim = `${file}.claim`
  if (!(await created(claim, token, text))) {
    const made = await read(claim)
    if (made !== undefined && !isHeld(ownerOf(made.text), made.ageMs)) await rm(claim, { force: true }) // its maker was killed right here
    return false
  }
  if ((await read(file))?.text !== found.text) {
    await rm(claim, { force: true })
    return false
  }
  // Two who find the claim of a killed one may remove each other's: what counts is whose text is there in the end.
  try {
    await rename(claim, file)
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return false
    throw error
  }
  return (await read(file))?.text === text
}

async function read(file: string): Promise<{ text: string; ageMs: number } | undefined> {
  try {
    const { mtimeMs } = await stat(file)
    return { text: await readFile(file, 'utf8'), ageMs: Date.now() - mtimeMs }
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return undefined
    throw error
  }
}

function ownerOf(text: string): Owner | undefined {
  try {
    const owner = JSON.parse(text) as Owner | null
    return Number.isSafeInteger(owner?.pid) ? (owner as Owner) : undefined
  } catch {
    return undefined // being written, or cut off by a kill
  }
}

function isHeld(owner: Owner | undefined, ageMs: number): boolean {
  if (owner === undefined || owner.place !== thisPlace()) return ageMs < silentMs
  try {
    process.kill(owner.pid, 0)
  } catch (error) {
    if (codeOf(error) === 'ESRCH') return false
  }
  const found = startOf(owner.pid)
  return found === undefined || (found.started === owner.started && !found.ended)
}

function startOf(pid: number): { started: string; ended: boolean } | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8')
    const fields = text.slice(text.lastIndexOf(')') + 2).split(' ') // from field 3, the state; field 22 is the start
    return { started: fields[19] ?? '', ended: fields[0] === 'Z' || fields[0] === 'X' }
  } catch {
    return undefined
  }
}

function thisPlace(): string {
  try {
    return `${readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()} ${readlinkSync('/proc/self/ns/pid')}`
  } catch {
    return hostname()
  }
}

function holding(file: string, token: string): () => Promise<void> {
  const beat = setInterval(() => {
    const now = new Date()
    utimes(file, now, now).catch(() => undefined)
  }, beatMs)
  beat.unref()
  return async () => {
    clearInterval(beat)
    const found = await read(file).catch(() => undefined)
    if (found !== undefined && ownerOf(found.text)?.token === token) await rm(file, { force: true })
  }
}

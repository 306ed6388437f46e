// One writer a folder, or a file. The lock is a file that only one process can make; a killed process leaves it behind, so it says who made
// it, and whoever comes next takes it over if that one is gone. It is written beside its place and then linked there: at whatever
// moment its maker is killed, nobody finds it empty. Its maker keeps it open for writing: a worker thread that is terminated closes its
// files, so its lock is seen to be left behind although its process lives.

import { randomUUID } from 'node:crypto'
import { readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs'
import { type FileHandle, link, open, readdir, readFile, rename, rm, stat, utimes } from 'node:fs/promises'
import { hostname } from 'node:os'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { threadId } from 'node:worker_threads'
import { ModelError } from './errors.ts'
import { abortError } from './options.ts'
import { cannotWrite, makeFolder } from './whole-file.ts'

interface Owner {
  pid: number
  /** Start of the process in clock ticks since boot, since numbers of processes are used again. */
  started: string
  /** Where the number means something: this boot, this process namespace. */
  place: string
  host: string
  token: string
  /** The thread that has the file open. Locks of earlier versions lack it, and are not kept open. */
  thread?: number
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
  const lock = {
    file: path.join(folder, 'run.lock'),
    of: folder,
    advice: 'choose another output folder',
    place: ' there',
  }
  try {
    await makeFolder(folder)
    return await held(lock)
  } catch (error) {
    if (error instanceof ModelError) throw error
    const { message } = error as Error
    throw new ModelError('BAD_ARGUMENT', `${folder} cannot be written as an output folder: ${message}.`, {
      cause: error,
    })
  }
}

/**
 * Locks an output file, by `FILE.lock` beside it. What another machine or container left there is waited for, a minute at most, while its time
 * stamp stands still: whoever is started again elsewhere is not refused for what was killed.
 *
 * @param onWait - Told whose lock it is, before waiting.
 * @returns What unlocks it.
 * @throws {@link ModelError} `BAD_ARGUMENT` if another run writes it; `BAD_DATA` if nothing can be written there; `ABORTED`.
 */
export async function lockFile(
  file: string,
  { signal, onWait }: { signal?: AbortSignal | undefined; onWait?: (who: string) => void } = {},
): Promise<() => Promise<void>> {
  const lock = { file: `${file}.lock`, of: file, advice: 'give another --out', place: '' }
  try {
    await silence(lock.file, signal, onWait)
    return await held(lock)
  } catch (error) {
    throw signal?.aborted ? abortError(signal) : cannotWrite(lock.of, error)
  }
}

interface Lock {
  file: string
  /** What is locked, and what else to do, for sentences. */
  of: string
  advice: string
  place: string
}

async function held(lock: Lock): Promise<() => Promise<void>> {
  const { file, of, advice } = lock
  const mine: Owner = {
    pid: process.pid,
    started: startOf(process.pid)?.started ?? '',
    place: thisPlace(),
    host: hostname(),
    token: randomUUID(),
    thread: threadId,
  }
  const opened: FileHandle[] = [] // all claims until the end: somebody else may have renamed an early one into place
  try {
    const text = `${JSON.stringify(mine)}\n`
    for (let tries = 0; tries < 20; tries++) {
      if ((await created(file, mine.token, text, opened)) || (await takenOver(lock, mine.token, text, opened))) {
        await removeDrafts(file)
        return holding(file, mine.token, opened)
      }
      await sleep(20)
    }
    throw new ModelError('BAD_ARGUMENT', `${of}: other runs keep locking it; ${advice}.`)
  } catch (error) {
    await close(opened)
    throw error
  }
}

/** Until a lock made elsewhere is gone, has stood still for long enough, or moves: then its maker lives. */
async function silence(
  file: string,
  signal: AbortSignal | undefined,
  onWait: ((who: string) => void) | undefined,
): Promise<void> {
  const first = await read(file)
  const owner = first && ownerOf(first.text)
  if (first === undefined || owner === undefined || owner.place === thisPlace()) return
  for (let found: Found | undefined = first, told = false; ; found = await read(file)) {
    if (found?.text !== first.text || found.changed !== first.changed || !isHeld(owner, found)) return
    if (!told) onWait?.(nameOf(owner))
    told = true
    await sleep(500, undefined, { signal })
  }
}

const nameOf = (owner: Owner | undefined): string =>
  owner === undefined ? 'another run' : `process ${owner.pid} on ${owner.host}`

const codeOf = (error: unknown): string | undefined => (error as NodeJS.ErrnoException).code

async function close(opened: FileHandle[]): Promise<void> {
  for (const handle of opened.splice(0)) await handle.close()
}

/** Makes a file with this text unless there is one, and leaves it open. */
async function created(file: string, token: string, text: string, opened: FileHandle[]): Promise<boolean> {
  const draft = `${file}.${token}`
  try {
    await written(draft, 'w', text, opened)
    await link(draft, file)
    return true
  } catch (error) {
    if (codeOf(error) === 'EEXIST') return false
    if (codeOf(error) === 'ENOENT' && (error as NodeJS.ErrnoException).syscall === 'link') return false // somebody removed the draft
    if (codeOf(error) !== 'EPERM' && codeOf(error) !== 'ENOTSUP') throw error
    return await createdHere(file, text, opened)
  } finally {
    await rm(draft, { force: true })
  }
}

/** The same where the file system knows no links. */
async function createdHere(file: string, text: string, opened: FileHandle[]): Promise<boolean> {
  try {
    await written(file, 'wx', text, opened)
    return true
  } catch (error) {
    if (codeOf(error) === 'EEXIST') return false
    throw error
  }
}

async function written(file: string, flag: string, text: string, opened: FileHandle[]): Promise<void> {
  const handle = await open(file, flag)
  opened.push(handle)
  await handle.writeFile(text)
}

/** What those left who were killed before they could link it. Who is about to link one of these tries again. */
async function removeDrafts(file: string): Promise<void> {
  const folder = path.dirname(file)
  const name = path.basename(file)
  for (const entry of await readdir(folder)) {
    if (entry.startsWith(name) && /^(\.claim)?\.[0-9a-f-]{36}$/.test(entry.slice(name.length)))
      await rm(path.join(folder, entry), { force: true })
  }
}

/** Replaces a lock that nobody holds any more, unless somebody else is at it. */
async function takenOver(
  { file, of, advice, place }: Lock,
  token: string,
  text: string,
  opened: FileHandle[],
): Promise<boolean> {
  const found = await read(file)
  if (found === undefined) return false
  if (found.text === text) return true // somebody else renamed our claim
  const owner = ownerOf(found.text)
  if (isHeld(owner, found)) {
    throw new ModelError(
      'BAD_ARGUMENT',
      `${of} is being written by ${nameOf(owner)}. Wait for it, or ${advice}; remove ${path.basename(file)}${place} if that run is gone.`,
    )
  }
  // Many may find the same stale lock. Only who made this file may replace it, and only while it is still the one that was found.
  const claim = `${file}.claim`
  if (!(await created(claim, token, text, opened))) {
    const made = await read(claim)
    if (made !== undefined && !isHeld(ownerOf(made.text), made)) await rm(claim, { force: true }) // its maker was killed right here
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

interface Found {
  text: string
  /** Its time stamp, ns. */
  changed: bigint
  ageMs: number
  /** Device and number of the file. */
  inode: string
}

const inodeOf = ({ dev, ino }: { dev: bigint; ino: bigint }): string => `${dev}:${ino}`

async function read(file: string): Promise<Found | undefined> {
  try {
    const found = await stat(file, { bigint: true })
    const text = await readFile(file, 'utf8')
    return { text, changed: found.mtimeNs, ageMs: Date.now() - Number(found.mtimeMs), inode: inodeOf(found) }
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

function isHeld(owner: Owner | undefined, { ageMs, inode }: Found): boolean {
  if (owner === undefined || owner.place !== thisPlace()) return ageMs < silentMs
  try {
    process.kill(owner.pid, 0)
  } catch (error) {
    if (codeOf(error) === 'ESRCH') return false
  }
  const found = startOf(owner.pid)
  if (found === undefined) return true
  return found.started === owner.started && !found.ended && (owner.thread === undefined || isOpen(owner.pid, inode))
}

/** Whether a process has a file open for writing; true where the system does not tell. */
function isOpen(pid: number, inode: string): boolean {
  let descriptors: string[]
  try {
    descriptors = readdirSync(`/proc/${pid}/fd`)
  } catch {
    return true // another user's process
  }
  return descriptors.some((one) => {
    try {
      if (inodeOf(statSync(`/proc/${pid}/fd/${one}`, { bigint: true })) !== inode) return false
      // Who only reads it is looking whether it is held, as we are. The last octal digit has O_WRONLY or O_RDWR.
      return /^flags:\s*\d*[12]$/m.test(readFileSync(`/proc/${pid}/fdinfo/${one}`, 'utf8'))
    } catch {
      return false // closed meanwhile
    }
  })
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

function holding(file: string, token: string, opened: FileHandle[]): () => Promise<void> {
  const beat = setInterval(() => {
    const now = new Date()
    utimes(file, now, now).catch(() => undefined)
  }, beatMs)
  beat.unref()
  return async () => {
    clearInterval(beat)
    const found = await read(file).catch(() => undefined)
    if (found !== undefined && ownerOf(found.text)?.token === token) await rm(file, { force: true })
    await close(opened)
  }
}

/** One job of the addon: its number, the caller's signal, and errors as the package's own. */
import { setMaxListeners } from 'node:events'
import type { ModelError } from './errors.ts'
import { toModelError } from './native.ts'
import { abortError, throwIfAborted } from './options.ts'

let lastJob = 0

/** A number no other job of this thread has. */
export function nextJob(): number {
  return ++lastJob
}

/**
 * Runs a job under a signal.
 *
 * @param start - Starts it with its number.
 * @param cancel - Cancels it by its number; it then rejects by itself, once its memory is given back.
 */
export async function runJob<T>(
  signal: AbortSignal | undefined,
  start: (job: number) => Promise<T>,
  cancel: (job: number) => void,
): Promise<T> {
  throwIfAborted(signal)
  const job = nextJob()
  const stop = whenAborted(signal, () => cancel(job))
  try {
    return await start(job)
  } catch (error) {
    throw explain(error, signal)
  } finally {
    stop()
  }
}

/** Listens to a signal until what it returns is called. Many questions may share one signal: Node's warning of a leak is of no use. */
export function whenAborted(signal: AbortSignal | undefined, listener: () => void): () => void {
  if (signal === undefined) return () => {}
  if (signal instanceof EventTarget) setMaxListeners(0, signal)
  signal.addEventListener('abort', listener)
  return () => signal.removeEventListener('abort', listener)
}

/** Waits for a promise, or until the signal is aborted. */
export async function untilAborted<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return promise
  let stop = () => {}
  const aborted = new Promise<never>((_, reject) => {
    const give = () => reject(abortError(signal))
    if (signal.aborted) give()
    else stop = whenAborted(signal, give)
  })
  try {
    return await Promise.race([promise, aborted]) // which listens to both
  } finally {
    stop()
  }
}

/** What `body` resolves with; if it throws, what it was about is given back first. */
export async function holding<T>(giveBack: () => void, body: () => T | Promise<T>): Promise<T> {
  try {
    return await body()
  } catch (error) {
    giveBack()
    throw error
  }
}

/** Aborted as soon as one of these is. */
export function anySignal(...signals: (AbortSignal | undefined)[]): AbortSignal | undefined {
  const given = signals.filter((signal) => signal !== undefined)
  return given.length < 2 ? given[0] : AbortSignal.any(given.map(ownSignal))
}

// Test environments and polyfills bring a class of their own, which `AbortSignal.any` refuses.
const followers = new WeakMap<AbortSignal, AbortSignal>()

function ownSignal(signal: AbortSignal): AbortSignal {
  if ((signal as object) instanceof AbortSignal) return signal
  const known = followers.get(signal)
  if (known !== undefined) return known
  const follower = new AbortController()
  const follow = () => follower.abort(signal.reason)
  if (signal.aborted) follow()
  else signal.addEventListener('abort', follow)
  followers.set(signal, follower.signal)
  return follower.signal
}

/** The error of a job; one that the signal brought about says why. */
function explain(error: unknown, signal: AbortSignal | undefined): ModelError {
  const known = toModelError(error)
  return known.code === 'ABORTED' && signal?.aborted ? abortError(signal) : known
}

/** How messages call a value that a caller passed. Takes any value: of another realm, without a prototype, or one that throws when it is read. */
import { types } from 'node:util'

/** `'text'`, `12`, `a list`, `a Map`, `an object of class Foo`. Never throws. */
export function describeValue(value: unknown): string {
  if (typeof value === 'string') return value.length > 60 ? `'${value.slice(0, 60)}…'` : `'${value}'`
  if (typeof value === 'function') return 'a function'
  if (typeof value !== 'object' || value === null) return String(value) // a symbol too
  try {
    return describeObject(value)
  } catch {
    return 'an object' // a proxy that was revoked
  }
}

function describeObject(value: object): string {
  const name = className(value)
  if (Array.isArray(value)) return 'a list'
  if (name === undefined || name === 'Object') return 'an object'
  return /^(Array|AbortSignal)/.test(name)
    ? `an ${name}`
    : isKnownClass(value)
      ? `a ${name}`
      : `an object of class ${name}`
}

/** What an object is an instance of, whichever realm made it; undefined where that cannot be said. */
export function className(value: object): string | undefined {
  try {
    const made: unknown = value.constructor
    const name: unknown = typeof made === 'function' ? made.name : undefined
    return typeof name === 'string' && name !== '' ? name.slice(0, 60) : undefined
  } catch {
    return undefined
  }
}

/**
 * Whether a value can be a record of options: an object of any class, but none whose contents do not stand in its properties (a Map, bytes,
 * a promise, …), which would read as a record of nothing.
 */
export function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value) && !isKnownClass(value)
}

export function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof value === 'object' && value !== null && typeof (value as { then?: unknown }).then === 'function'
}

/** Built-in classes whose contents are no properties. */
function isKnownClass(value: object): boolean {
  return (
    types.isMap(value) ||
    types.isSet(value) ||
    types.isPromise(value) ||
    types.isAnyArrayBuffer(value) ||
    ArrayBuffer.isView(value) ||
    types.isDate(value) ||
    types.isRegExp(value) ||
    types.isBoxedPrimitive(value) ||
    types.isWeakMap(value) ||
    types.isWeakSet(value) ||
    /^(Blob|File|URL|URLSearchParams|Response|Request|ReadableStream|Headers)$/.test(className(value) ?? '')
  )
}

/** What to do about a file that cannot be read. `errno` as Node names it, such as `EACCES`. */
export function adviceOfRead(errno: string | undefined): string {
  if (errno === 'EMFILE' || errno === 'ENFILE')
    return 'Too many files are open; close some, or raise the limit (ulimit -n).'
  return errno === 'EACCES' || errno === 'EPERM' ? 'Check its permissions.' : 'Check the disk it is on.'
}

/** Names from outside, checked before any of them becomes a part of a path or a URL. */
import { HubError } from './hub-error.ts'

/** A model on the hub. */
export interface ModelName {
  /** `org/name`, or `name` alone. */
  repository: string
  /** Branch, tag, `refs/pr/1` or commit. */
  revision: string
}

const mostNameLength = 96
const mostRevisionLength = 200
const mostPathLength = 1024

/** `org/name` or `org/name@revision`; undefined for what cannot be the name of a repository. */
export function parseModelName(text: string): ModelName | undefined {
  const at = text.indexOf('@')
  const repository = at < 0 ? text : text.slice(0, at)
  const revision = at < 0 ? 'main' : text.slice(at + 1)
  if (!/^\w[\w.-]*(\/\w[\w.-]*)?$/.test(repository) || !isRevision(revision)) return undefined
  for (const part of repository.split('/')) {
    if (part.length > mostNameLength || /[.-]$|\.git$/.test(part) || part.includes('--') || part.includes('..')) {
      return undefined
    }
  }
  return { repository, revision }
}

/** Whether a text may name a revision: it becomes a path under `refs/`. */
export function isRevision(text: string): boolean {
  return text.length <= mostRevisionLength && unsafePart(text) === undefined
}

/** Forty lower-case hexadecimal digits. */
export function isCommit(text: string): boolean {
  return /^[0-9a-f]{40}$/.test(text)
}

/** @throws {@link HubError} `name` unless a path of a listing stays where it is put, on every system. */
export function checkListedPath(path: string): void {
  const why = path.length > mostPathLength ? 'it is too long' : unsafePart(path)
  if (why === undefined) return
  throw new HubError(
    'name',
    `The listing has the file ${JSON.stringify(path.slice(0, 100))}, which must not become a path (${why}); nothing of this repository is fetched.`,
  )
}

/** Why a relative path must not be used, in words; undefined for a sound one. */
function unsafePart(path: string): string | undefined {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
  if (/[\u0000-\u001f\u007f\\:]/.test(path)) return 'it has a control character, a backslash or a colon'
  for (const part of path.split('/')) {
    if (part === '' || part === '.' || part === '..') return 'it has an empty part, . or ..'
    if (/^(con|prn|aux|nul|com\d|lpt\d)(\.|$)/i.test(part)) return 'it has the name of a device'
    if (/[. ]$/.test(part)) return 'a part ends in a point or a blank'
  }
  return undefined
}

/** What may go wrong between a model's name and its files. */
import { ModelError } from '../errors.ts'

/**
 * Why a model could not be fetched: `auth` (401: no such repository, or no access), `gated` (terms to accept first), `repository`, `revision`,
 * `file` (not there), `busy` (too many requests, or the server is ill), `network`, `protocol` (an answer that is none of a hub's), `corrupt`
 * (size or hash wrong, twice), `disk`, `name` (a name or link that must not become a path), `offline`.
 */
export type HubReason =
  | 'auth'
  | 'gated'
  | 'repository'
  | 'revision'
  | 'file'
  | 'busy'
  | 'network'
  | 'protocol'
  | 'corrupt'
  | 'disk'
  | 'name'
  | 'offline'

/** A {@link ModelError} `DOWNLOAD_FAILED` with what a program may want to know of it. */
export class HubError extends ModelError {
  /** What kind of failure it is. */
  readonly reason: HubReason
  /** HTTP status, where there was one. */
  readonly status: number | undefined

  /** An error of a download. */
  constructor(reason: HubReason, message: string, options: ErrorOptions & { status?: number } = {}) {
    super('DOWNLOAD_FAILED', message, options)
    this.reason = reason
    this.status = options.status
  }

  /** Whether the same may work later. */
  get retryable(): boolean {
    return this.reason === 'busy' || this.reason === 'network'
  }
}

/** The error of a file operation in the cache. */
export function diskError(error: unknown, file: string): HubError {
  const code = (error as NodeJS.ErrnoException)?.code
  const advice =
    code === 'ENOSPC'
      ? 'The disk is full; make room, or set HF_HUB_CACHE to another disk.'
      : code === 'EACCES' || code === 'EPERM' || code === 'EROFS'
        ? 'The cache cannot be written; check its permissions, or set HF_HUB_CACHE to a folder of your own.'
        : 'Check the disk it is on.'
  return new HubError('disk', `${file} cannot be written (${code ?? error}). ${advice}`, { cause: error })
}

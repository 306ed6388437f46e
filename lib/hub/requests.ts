/** Requests to a hub: redirects by hand, the token to the endpoint alone, timeouts, retries, and errors as sentences. */
import { setTimeout as sleep } from 'node:timers/promises'
import { anySignal } from '../job.ts'
import { abortError, throwIfAborted } from '../options.ts'
import type { HubSettings } from './environment.ts'
import { HubError } from './hub-error.ts'

/** An answer whose body is read by {@link bodyOf}. */
export interface HubResponse {
  response: Response
  url: URL
  /** Ends the request. */
  abort: AbortController
}

const mostHops = 5
const mostRetries = 5
const mostWaitMs = 60_000

/**
 * One GET, redirects followed.
 *
 * @returns The answer to the last hop, of status 200, 206 or 416.
 * @throws {@link HubError} for every other status, and where no answer comes.
 */
export async function get(
  settings: HubSettings,
  url: URL,
  headers: Record<string, string>,
  signal: AbortSignal | undefined,
): Promise<HubResponse> {
  let at = url
  for (let hop = 0; hop <= mostHops; hop++) {
    throwIfAborted(signal)
    const answer = await once(settings, at, headers, signal)
    const { response } = answer
    if (response.status === 200 || response.status === 206 || response.status === 416) return answer
    const { status } = response
    const location = response.headers.get('location')
    await discard(answer)
    if (![301, 302, 303, 307, 308].includes(status) || location === null) throw errorOf(response, at, settings)
    at = nextHop(at, location)
  }
  throw new HubError('protocol', `${url.host} redirected more than ${mostHops} times; nothing was fetched.`)
}

/** The target of a redirect. */
function nextHop(from: URL, location: string): URL {
  const to = URL.canParse(location, from.href) ? new URL(location, from) : undefined
  const secure = to?.protocol === 'https:'
  const plain =
    to?.protocol === 'http:' && (isLoopback(to) || to.origin === from.origin) && !(from.protocol === 'https:')
  if (to !== undefined && (secure || plain) && to.username === '') return to
  throw new HubError(
    'protocol',
    `${from.host} redirected to ${to === undefined ? 'no URL' : `${to.protocol}//${to.host}`}, which is not followed: only https is, and http on this machine.`,
  )
}

function isLoopback({ hostname }: URL): boolean {
  return hostname === 'localhost' || hostname === '[::1]' || /^127(\.\d+){3}$/.test(hostname)
}

async function once(
  settings: HubSettings,
  url: URL,
  headers: Record<string, string>,
  signal: AbortSignal | undefined,
): Promise<HubResponse> {
  const abort = new AbortController()
  const late = setTimeout(() => abort.abort(timeout(url, settings.headersMs)), settings.headersMs)
  const mine = settings.token !== undefined && url.origin === settings.endpoint.origin
  const safe = url.protocol === 'https:' || isLoopback(url)
  try {
    const response = await settings.fetch(url, {
      headers: {
        'user-agent': 'drivlm',
        'accept-encoding': 'identity',
        ...headers,
        ...(mine && safe ? { authorization: `Bearer ${settings.token}` } : {}),
      },
      redirect: 'manual',
      signal: anySignal(signal, abort.signal)!,
    })
    return { response, url, abort }
  } catch (error) {
    throw asNetworkError(error, url, signal)
  } finally {
    clearTimeout(late)
  }
}

function timeout(url: URL, ms: number): HubError {
  return new HubError(
    'network',
    `${url.host} has sent nothing for ${ms / 1000} s; try again, or raise HF_HUB_ETAG_TIMEOUT and HF_HUB_DOWNLOAD_TIMEOUT.`,
  )
}

function asNetworkError(error: unknown, url: URL, signal: AbortSignal | undefined): Error {
  if (signal?.aborted) return abortError(signal)
  if (error instanceof HubError) return error
  const cause = (error as { cause?: { code?: unknown; message?: unknown } } | null)?.cause
  const why = String(cause?.code ?? cause?.message ?? (error as Error)?.message ?? error)
  const refused = adviceOf(cause, url)
  if (refused !== undefined) {
    return new RefusedError('network', `${url.host} cannot be reached (${why}). ${refused}`, { cause: error })
  }
  const proxy =
    process.env.HTTPS_PROXY || process.env.https_proxy
      ? " Node's fetch takes no notice of HTTPS_PROXY unless NODE_USE_ENV_PROXY=1 is set (Node 24 and later)."
      : ''
  return new HubError('network', `${url.host} cannot be reached (${why}).${proxy}`, { cause: error })
}

/** A request that will be refused again. */
class RefusedError extends HubError {
  override get retryable(): boolean {
    return false
  }
}

/** What to do about a failure that does not pass by itself; undefined for one that may. */
function adviceOf(cause: { code?: unknown; message?: unknown } | undefined, url: URL): string | undefined {
  if (cause?.message === 'bad port') {
    return `Node's fetch refuses port ${url.port}, as browsers do; the server has to listen on another one.`
  }
  const code = typeof cause?.code === 'string' ? cause.code : ''
  if (code === 'CERT_HAS_EXPIRED') {
    return "Its certificate has expired, or this machine's clock is ahead; check the clock first, then tell whoever runs the server."
  }
  if (code === 'CERT_NOT_YET_VALID') {
    return "Its certificate is not valid yet, or this machine's clock is behind; check the clock first, then tell whoever runs the server."
  }
  if (code === 'ERR_TLS_CERT_ALTNAME_INVALID') {
    return 'Its certificate is for another name; use the name that it was made for, or check what answers in its place.'
  }
  if (/CERT|UNABLE_TO_(GET|VERIFY)/.test(code)) {
    return "Node does not trust its certificate. If it is your company's or your own, set NODE_EXTRA_CA_CERTS to the PEM file of the authority that signed it."
  }
  return undefined
}

/** Reads a body piece by piece; gives up when none comes for `idleMs`. */
export async function* bodyOf(
  settings: HubSettings,
  { response, url, abort }: HubResponse,
  signal: AbortSignal | undefined,
): AsyncGenerator<Uint8Array> {
  let late: NodeJS.Timeout | undefined
  const wait = () => {
    clearTimeout(late)
    late = setTimeout(() => abort.abort(timeout(url, settings.idleMs)), settings.idleMs)
  }
  try {
    wait()
    for await (const piece of response.body ?? []) {
      clearTimeout(late) // the time that the reader takes is its own
      yield piece
      wait()
    }
  } catch (error) {
    throw asNetworkError(error, url, signal)
  } finally {
    clearTimeout(late)
    abort.abort()
  }
}

/** Ends an answer whose body is of no use. */
export async function discard({ response, abort }: HubResponse): Promise<void> {
  await response.body?.cancel().catch(() => undefined)
  abort.abort()
}

/** A whole body of at most so many bytes. */
export async function readBody(
  settings: HubSettings,
  answer: HubResponse,
  mostBytes: number,
  signal: AbortSignal | undefined,
): Promise<Buffer> {
  const pieces: Uint8Array[] = []
  let bytes = 0
  for await (const piece of bodyOf(settings, answer, signal)) {
    bytes += piece.length
    if (bytes > mostBytes) {
      throw new HubError(
        'protocol',
        `${answer.url.host} sent more than the ${mostBytes} bytes that were expected at most.`,
      )
    }
    pieces.push(piece)
  }
  return Buffer.concat(pieces)
}

/** A JSON answer of the API, with its headers. */
export async function getJson(
  settings: HubSettings,
  url: URL,
  signal: AbortSignal | undefined,
): Promise<{ value: unknown; headers: Headers }> {
  return withRetries(settings, signal, async () => {
    const answer = await get(settings, url, { accept: 'application/json' }, signal)
    const { headers, status } = answer.response
    const type = headers.get('content-type') ?? 'nothing'
    if (status !== 200 || !/^application\/(\w+\+)?json\b/i.test(type)) {
      await discard(answer)
      throw new HubError(
        'protocol',
        `${url.host} answered with ${type.slice(0, 60)} where JSON was due: perhaps a sign-in page of this network, or no hub.`,
        { status },
      )
    }
    const text = (await readBody(settings, answer, 16 << 20, signal)).toString('utf8')
    try {
      return { value: JSON.parse(text) as unknown, headers }
    } catch (error) {
      throw new HubError(
        'protocol',
        `${url.host} sent JSON that cannot be read; it is no hub, or the answer was cut.`,
        {
          cause: error,
        },
      )
    }
  })
}

/** Says that an attempt got further, so that the next one does not count as another failure. */
export type GotFurther = () => void

/** Runs `work` until it is done, fails for good, or has failed too often in a row without getting further. */
export async function withRetries<T>(
  settings: HubSettings,
  signal: AbortSignal | undefined,
  work: (gotFurther: GotFurther) => Promise<T>,
): Promise<T> {
  for (let failures = 0; ; ) {
    try {
      return await work(() => {
        failures = 0
      })
    } catch (error) {
      if (!(error instanceof HubError) || !error.retryable || failures >= mostRetries) throw error
      const wait = error instanceof StatusError && error.retryAfterMs !== undefined ? error.retryAfterMs : undefined
      const ms = Math.min(wait ?? settings.retryMs * 2 ** failures, mostWaitMs)
      failures++
      await sleep(ms, undefined, signal === undefined ? {} : { signal }).catch(() => throwIfAborted(signal))
    }
  }
}

/** An error of the server, with what it asked for. */
class StatusError extends HubError {
  readonly retryAfterMs: number | undefined

  constructor(response: Response, message: string) {
    super('busy', message, { status: response.status })
    const after = response.headers.get('retry-after') ?? ''
    const ms = /^\d+$/.test(after) ? 1000 * Number(after) : Date.parse(after) - Date.now()
    this.retryAfterMs = Number.isFinite(ms) ? Math.max(ms, 0) : undefined
  }
}

function errorOf(response: Response, url: URL, { endpoint, token }: HubSettings): HubError {
  const { status } = response
  const { host } = url
  const options = { status }
  const code = response.headers.get('x-error-code') ?? ''
  if (status === 408 || status === 429 || status >= 500) {
    return new StatusError(
      response,
      `${host} answered ${status}, ${status === 429 ? 'too many requests' : 'it is busy or ill'}; try again later.`,
    )
  }
  if (url.origin !== endpoint.origin) {
    return new HubError('protocol', `${host}, to which ${endpoint.host} redirected, answered ${status}.`, options)
  }
  if (code === 'GatedRepo' || status === 403) {
    const page = 'Accept the terms on the page of the model, with the account that the token is of.'
    return new HubError('gated', `${host} gives this model only to those who may have it (${status}). ${page}`, options)
  }
  if (code === 'RevisionNotFound')
    return new HubError('revision', `${host} has no such revision of this model.`, options)
  if (code === 'EntryNotFound')
    return new HubError('file', `${host} has no such file: ${url.pathname.slice(0, 200)}.`, options)
  if (status === 401) {
    const advice = token === undefined ? 'Set HF_TOKEN if it is not a public one.' : 'Check HF_TOKEN, which was sent.'
    return new HubError(
      'auth',
      `${host} has no such model, or does not show it (401). Check the name. ${advice}`,
      options,
    )
  }
  if (status === 404) return new HubError('repository', `${host} has no such model (404); check the name.`, options)
  return new HubError('protocol', `${host} answered ${status}, which no hub does here.`, options)
}

/** The variables that Python's huggingface_hub obeys, read as it reads them. */
import { readFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { HubError } from './hub-error.ts'

/** Where models are looked for, and how they are fetched. */
export interface HubSettings {
  /** The folder of all models, absolute. */
  cacheDir: string
  /** Without a slash at the end. */
  endpoint: URL
  /** Sent to {@link endpoint} alone. */
  token: string | undefined
  /** No request at all. */
  offline: boolean
  /** Most milliseconds to the headers of an answer, and between two of its bytes. */
  headersMs: number
  idleMs: number
  symlinks: boolean
  progressBars: boolean
  /** Wait before the first retry; it doubles. */
  retryMs: number
  fetch: typeof globalThis.fetch
}

const publicEndpoint = 'https://huggingface.co'

/**
 * @param env - `HF_HUB_CACHE`, `HUGGINGFACE_HUB_CACHE`, `HF_HOME`, `XDG_CACHE_HOME`; `HF_TOKEN`, `HUGGING_FACE_HUB_TOKEN`, `HF_TOKEN_PATH`,
 *   `HF_HUB_DISABLE_IMPLICIT_TOKEN`; `HF_ENDPOINT`; `HF_HUB_OFFLINE`, `TRANSFORMERS_OFFLINE`; `HF_HUB_ETAG_TIMEOUT`, `HF_HUB_DOWNLOAD_TIMEOUT`;
 *   `HF_HUB_DISABLE_SYMLINKS`, `HF_HUB_DISABLE_PROGRESS_BARS`. Empty is unset.
 * @throws {@link HubError} `protocol` for an endpoint that is no http(s) URL.
 */
export function hubSettings(env: NodeJS.ProcessEnv = process.env): HubSettings {
  const folder = (name: string): string | undefined => {
    const value = env[name]
    return value === undefined || value === '' ? undefined : path.resolve(expand(value, env))
  }
  const caches = folder('XDG_CACHE_HOME') ?? path.join(homeFolder(), '.cache')
  const home = folder('HF_HOME') ?? path.join(caches, 'huggingface')
  const on = (name: string): boolean => /^(1|on|yes|true)$/i.test(env[name] ?? '')
  const seconds = (name: string): number => {
    const value = Number(env[name] || 10)
    return 1000 * (value > 0 && value <= 86_400 ? value : 10)
  }
  return {
    cacheDir: folder('HF_HUB_CACHE') ?? folder('HUGGINGFACE_HUB_CACHE') ?? path.join(home, 'hub'),
    endpoint: endpointOf(env.HF_ENDPOINT || publicEndpoint),
    token: tokenOf(env, folder('HF_TOKEN_PATH') ?? path.join(home, 'token'), on('HF_HUB_DISABLE_IMPLICIT_TOKEN')),
    offline: on('HF_HUB_OFFLINE') || on('TRANSFORMERS_OFFLINE'),
    headersMs: seconds('HF_HUB_ETAG_TIMEOUT'),
    idleMs: seconds('HF_HUB_DOWNLOAD_TIMEOUT'),
    symlinks: !on('HF_HUB_DISABLE_SYMLINKS'),
    progressBars: !on('HF_HUB_DISABLE_PROGRESS_BARS'),
    retryMs: 1000,
    fetch: globalThis.fetch,
  }
}

/** That of the user; one that the system does not know, without HOME, has none: the root folder stands in. */
function homeFolder(): string {
  try {
    return os.homedir()
  } catch {
    return '/'
  }
}

/** `~` and `$NAME`, as Python expands them. */
function expand(value: string, env: NodeJS.ProcessEnv): string {
  const home = value.replace(/^~(?=$|[/\\])/, homeFolder)
  return home.replace(/\$(?:\{(\w+)\}|(\w+))/g, (whole, braced, bare) => env[braced ?? bare] ?? whole)
}

function endpointOf(text: string): URL {
  const url = URL.canParse(text) ? new URL(text.replace(/\/+$/, '')) : undefined
  if (url !== undefined && /^https?:$/.test(url.protocol) && url.username === '' && url.search === '') return url
  throw new HubError('protocol', `HF_ENDPOINT: expected a URL such as ${publicEndpoint}, found ${text.slice(0, 100)}.`)
}

function tokenOf(env: NodeJS.ProcessEnv, file: string, explicitOnly: boolean): string | undefined {
  if (explicitOnly) return undefined
  const sound = (text: string | undefined): string | undefined => {
    const token = text?.trim()
    return token !== undefined && /^[\x21-\x7e]+$/.test(token) ? token : undefined
  }
  const given = sound(env.HF_TOKEN) ?? sound(env.HUGGING_FACE_HUB_TOKEN)
  if (given !== undefined) return given
  try {
    return sound(readFileSync(file, 'utf8'))
  } catch {
    return undefined // most have none
  }
}

/** What is in a repository, and which of it a model folder needs. */
import { parseJsonObject } from '../checkpoint/files.ts'
import type { HubSettings } from './environment.ts'
import { HubError } from './hub-error.ts'
import { checkListedPath, isCommit, type ModelName } from './names.ts'
import { getJson } from './requests.ts'

/** A file of a commit. */
export interface ListedFile {
  path: string
  size: number
  /** Git's id of the file, or of the pointer that stands for it. */
  blobId: string
  /** Of the content, where it is stored apart from git. */
  sha256?: string
  xetHash?: string
}

const mostPages = 100
const mostEntries = 20_000

/** The content's name in `blobs/`. */
export function etagOf({ sha256, blobId }: ListedFile): string {
  return sha256 ?? blobId
}

function apiUrl({ endpoint }: HubSettings, { repository }: ModelName, rest: string): URL {
  return new URL(`${endpoint.href.replace(/\/$/, '')}/api/models/${repository}/${rest}`)
}

/** The URL of a file's content. */
export function contentUrl({ endpoint }: HubSettings, repository: string, commit: string, path: string): URL {
  const encoded = path.split('/').map(encodeURIComponent).join('/')
  return new URL(`${endpoint.href.replace(/\/$/, '')}/${repository}/resolve/${commit}/${encoded}`)
}

/** Which commit a revision is now. */
export async function commitOf(settings: HubSettings, name: ModelName, signal?: AbortSignal): Promise<string> {
  const url = apiUrl(settings, name, `revision/${encodeURIComponent(name.revision)}?expand=sha`)
  const { value } = await getJson(settings, url, signal)
  const sha = (value as { sha?: unknown } | null)?.sha
  if (typeof sha === 'string' && isCommit(sha)) return sha
  throw new HubError('protocol', `${url.host} did not say which commit ${name.repository}@${name.revision} is.`)
}

/** All files of a commit. */
export async function listFiles(
  settings: HubSettings,
  name: ModelName,
  commit: string,
  signal?: AbortSignal,
): Promise<ListedFile[]> {
  const files: ListedFile[] = []
  let url: URL | undefined = apiUrl(settings, name, `tree/${commit}?recursive=true&expand=false`)
  for (let page = 0; url !== undefined; page++) {
    const { value, headers } = await getJson(settings, url, signal)
    if (!Array.isArray(value)) throw new HubError('protocol', `${url.host} sent no list of files.`)
    for (const entry of value) {
      const file = readEntry(entry, url.host)
      if (file !== undefined) files.push(file)
    }
    if (page >= mostPages || files.length > mostEntries) {
      throw new HubError('protocol', `${name.repository} has more than ${mostEntries} files; it is no model folder.`)
    }
    url = nextPage(headers.get('link'), url, settings.endpoint)
  }
  return files
}

function nextPage(link: string | null, from: URL, endpoint: URL): URL | undefined {
  const target = /<([^>]+)>\s*;[^,]*\brel="?next\b/i.exec(link ?? '')?.[1]
  if (target === undefined) return undefined
  if (URL.canParse(target, from.href)) {
    const url = new URL(target, from)
    if (url.origin === endpoint.origin) return url
  }
  throw new HubError('protocol', `${from.host} continues its list of files elsewhere, which is not followed.`)
}

function readEntry(entry: unknown, host: string): ListedFile | undefined {
  const { type, path, size, oid, lfs, xetHash } = Object(entry) as Record<string, unknown>
  if (type === 'directory') return undefined
  if (typeof path !== 'string') throw new HubError('protocol', `${host} lists a file without a path.`)
  checkListedPath(path)
  const content = lfs === undefined || lfs === null ? undefined : (Object(lfs) as Record<string, unknown>)
  const bytes = content?.size ?? size
  const sound =
    type === 'file' &&
    Number.isSafeInteger(bytes) &&
    (bytes as number) >= 0 &&
    typeof oid === 'string' &&
    /^[0-9a-f]{40}$/.test(oid) &&
    (content === undefined || (typeof content.oid === 'string' && /^[0-9a-f]{64}$/.test(content.oid)))
  if (!sound) throw new HubError('protocol', `${host} lists ${JSON.stringify(path)} without a sound size and id.`)
  return {
    path,
    size: bytes as number,
    blobId: oid as string,
    ...(content === undefined ? {} : { sha256: content.oid as string }),
    ...(typeof xetHash === 'string' && /^[0-9a-f]{64}$/.test(xetHash) ? { xetHash } : {}),
  }
}

export const indexName: string = 'model.safetensors.index.json'
const plainWeights = 'model.safetensors'

/** Small files that change what a model says. conversation.py is read for its system message, as text: nothing is run. */
const sideFiles = [
  'generation_config.json',
  'preprocessor_config.json',
  'processor_config.json',
  'tokenizer.json',
  'tokenizer.model',
  'vocab.json',
  'merges.txt',
  'added_tokens.json',
  'special_tokens_map.json',
  'tokenizer_config.json',
  'chat_template.jinja',
  'chat_template.json',
  'conversation.py',
  'drivlm.json',
] as const

const adapterConfig = 'adapter_config.json'
const adapterFiles = [adapterConfig, 'adapter_model.safetensors']

/** Files that are read before the weights are fetched. */
export const earlyFiles: readonly string[] = [
  'config.json',
  'preprocessor_config.json',
  'processor_config.json',
  indexName,
]

/** The most bytes of a file that is no weights. */
export const mostSideBytes: number = 64 << 20

/**
 * The files of a repository that its model folder needs, or what is missing in it.
 *
 * @param names - All files of the repository, or of a snapshot.
 * @param index - The text of model.safetensors.index.json, if there is one.
 */
export function choose(names: ReadonlySet<string>, index: string | undefined): { take: string[]; missing: string[] } {
  const there = (list: readonly string[]) => list.filter((name) => names.has(name))
  if (!names.has('config.json')) {
    return names.has(adapterConfig)
      ? { take: there(adapterFiles), missing: adapterFiles.filter((name) => !names.has(name)) }
      : { take: [], missing: ['config.json'] }
  }
  const weights = index === undefined ? [plainWeights] : [indexName, ...shardsOf(index)]
  const missing = weights.filter((name) => !names.has(name))
  const tokenizer = names.has('tokenizer.json') || names.has('tokenizer.model')
  if (!tokenizer && !(names.has('vocab.json') && names.has('merges.txt'))) {
    missing.push('tokenizer.json, tokenizer.model, or vocab.json and merges.txt')
  }
  return { take: ['config.json', ...there(sideFiles), ...there(weights)], missing }
}

/** The files that an index names, each a plain name. */
function shardsOf(index: string): string[] {
  const { weight_map } = parseJsonObject(index, indexName, 'BAD_WEIGHTS')
  const shards = new Set(Object.values(Object(weight_map)))
  const folded = new Set([...shards].map((name) => String(name).toLowerCase()))
  const sound = [...shards].every((name) => typeof name === 'string' && /^[\w-][\w.-]*\.safetensors$/.test(name))
  if (sound && shards.size > 0 && shards.size <= 1000 && folded.size === shards.size) return [...shards] as string[]
  throw new HubError(
    'name',
    `${indexName}: expected plain names of safetensors files, found others; nothing more is fetched.`,
  )
}

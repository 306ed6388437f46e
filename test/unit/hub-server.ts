/** A hub on this machine: one port for the API and small files, another one for the contents it redirects to. */
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'

export interface ServedFile {
  bytes: Buffer
  /** Stored apart from git, and served by the other port. */
  lfs: boolean
}

export interface Seen {
  where: 'hub' | 'content'
  url: string
  headers: IncomingMessage['headers']
}

export const commit = '0123456789abcdef0123456789abcdef01234567'

const gitId = (bytes: Buffer) => createHash('sha1').update(`blob ${bytes.length}\0`).update(bytes).digest('hex')
const sha256 = (bytes: Buffer) => createHash('sha256').update(bytes).digest('hex')

export class HubServer {
  readonly files: Map<string, ServedFile>
  /** Branch names by encoded form. */
  commits: Record<string, string> = { main: commit }
  pageSize = 1000
  seen: Seen[] = []
  /** Answers in place of the server where it returns true. */
  instead: (seen: Seen, response: ServerResponse) => boolean = () => false
  readonly #servers: Server[] = []
  endpoint = ''
  content = ''

  constructor(files: Record<string, Buffer | string>) {
    this.files = new Map(
      Object.entries(files).map(([path, given]) => {
        const bytes = Buffer.from(given as string)
        return [path, { bytes, lfs: path.endsWith('.safetensors') }]
      }),
    )
  }

  async start(): Promise<this> {
    for (const where of ['hub', 'content'] as const) {
      const server = createServer((request, response) => {
        const seen = { where, url: request.url!, headers: request.headers }
        this.seen.push(seen)
        if (this.instead(seen, response)) return
        this.#answer(seen, response)
      })
      server.listen(0, '127.0.0.1')
      await once(server, 'listening')
      const { port } = server.address() as AddressInfo
      if (where === 'hub') this.endpoint = `http://127.0.0.1:${port}`
      else this.content = `http://127.0.0.1:${port}`
      this.#servers.push(server)
    }
    return this
  }

  async stop(): Promise<void> {
    for (const server of this.#servers) {
      server.closeAllConnections()
      server.close()
      await once(server, 'close')
    }
  }

  /** Paths of the contents that were asked for, in order. */
  get fetched(): string[] {
    return this.seen.filter(({ url }) => url.includes('/resolve/')).map(({ url }) => url.split('/').slice(5).join('/'))
  }

  #answer({ where, url, headers }: Seen, response: ServerResponse): void {
    if (where === 'content') {
      const file = [...this.files.values()].find(({ bytes }) => `/${sha256(bytes)}` === url)
      if (file === undefined) response.writeHead(404).end()
      else sendContent(file.bytes, headers, response)
      return
    }
    const [, revision] = /^\/api\/models\/org\/model\/revision\/([^?]+)/.exec(url) ?? []
    if (revision !== undefined) {
      const sha = this.commits[decodeURIComponent(revision)]
      if (sha === undefined) response.writeHead(404, { 'x-error-code': 'RevisionNotFound' }).end('{}')
      else sendJson(response, { sha })
      return
    }
    if (/^\/api\/models\/org\/model\/tree\/[0-9a-f]{40}/.test(url)) {
      this.#list(url, response)
      return
    }
    const [, path] = /^\/org\/model\/resolve\/[0-9a-f]{40}\/(.+)$/.exec(url) ?? []
    const file = path === undefined ? undefined : this.files.get(decodeURIComponent(path))
    if (path === undefined) response.writeHead(404, { 'x-error-code': 'RepoNotFound' }).end()
    else if (file === undefined) response.writeHead(404, { 'x-error-code': 'EntryNotFound' }).end()
    else if (file.lfs) response.writeHead(302, { location: `${this.content}/${sha256(file.bytes)}` }).end()
    else sendContent(file.bytes, headers, response)
  }

  #list(url: string, response: ServerResponse): void {
    const at = Number(new URL(url, this.endpoint).searchParams.get('cursor') ?? 0)
    const all = [...this.files].map(([path, { bytes, lfs }]) => ({
      type: 'file',
      path,
      size: bytes.length,
      oid: lfs ? gitId(Buffer.from(`pointer of ${sha256(bytes)}`)) : gitId(bytes),
      ...(lfs ? { lfs: { oid: sha256(bytes), size: bytes.length, pointerSize: 134 } } : {}),
    }))
    const next = `${this.endpoint}/api/models/org/model/tree/${commit}?recursive=true&expand=false&cursor=${at + this.pageSize}`
    const more = at + this.pageSize < all.length ? { link: `<${next}>; rel="next"` } : {}
    sendJson(
      response,
      [{ type: 'directory', path: 'runs', size: 0, oid: '0' }, ...all.slice(at, at + this.pageSize)],
      more,
    )
  }
}

export function sendJson(response: ServerResponse, value: unknown, headers: Record<string, string> = {}): void {
  response.writeHead(200, { 'content-type': 'application/json; charset=utf-8', ...headers }).end(JSON.stringify(value))
}

export function sendContent(bytes: Buffer, headers: IncomingMessage['headers'], response: ServerResponse): void {
  const from = Number(/^bytes=(\d+)-$/.exec(headers.range ?? '')?.[1] ?? Number.NaN)
  if (Number.isNaN(from)) {
    response.writeHead(200, { 'content-length': bytes.length }).end(bytes)
    return
  }
  const range = `bytes ${from}-${bytes.length - 1}/${bytes.length}`
  response.writeHead(206, { 'content-range': range, 'content-length': bytes.length - from }).end(bytes.subarray(from))
}

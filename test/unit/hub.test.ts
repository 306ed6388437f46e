/** Models by name, against a hub on this machine and caches as Python's client writes them. */
import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { open } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { findSnapshot, listCached } from '../../lib/hub/cache.ts'
import { type HubSettings, hubSettings } from '../../lib/hub/environment.ts'
import type { HubError } from '../../lib/hub/hub-error.ts'
import { parseModelName } from '../../lib/hub/names.ts'
import { type DownloadProgress, planPull, pull } from '../../lib/hub/pull.ts'
import { resolveModel } from '../../lib/hub/resolve-model.ts'
import { loadModel } from '../../lib/index.ts'
import { commit, HubServer, sendContent, sendJson } from './hub-server.ts'

const tiny = path.resolve(import.meta.dirname, '../../models/street-tiny')
const text = (name: string) => readFileSync(path.join(tiny, name), 'utf8')
const weights = Buffer.alloc(300_000, 'weights ')
const name = { repository: 'org/model', revision: 'main' }

/** A repository as OpenGVLab has them, with contents that are small. */
const repository = () => ({
  '.gitattributes': 'x',
  'README.md': '# model',
  'config.json': text('config.json'),
  'tokenizer.json': text('tokenizer.json'),
  'tokenizer_config.json': text('tokenizer_config.json'),
  'special_tokens_map.json': '',
  'model.safetensors': weights,
  'modeling_internvl_chat.py': 'import os',
  'conversation.py': 'x = 1',
  'pytorch_model.bin': 'pickle',
  'examples/a picture #1 50%.jpg': 'jpeg',
  'onnx/model.safetensors': 'another one',
})
const needed = [
  'config.json',
  'conversation.py',
  'model.safetensors',
  'special_tokens_map.json',
  'tokenizer.json',
  'tokenizer_config.json',
]

let server: HubServer
let cacheDir: string
let settings: HubSettings
beforeEach(async () => {
  cacheDir = mkdtempSync(path.join(os.tmpdir(), 'drivlm-hub-'))
  await serve(repository())
})
afterEach(async () => {
  await server.stop()
  rmSync(cacheDir, { recursive: true, force: true })
})

async function serve(files: Record<string, Buffer | string>): Promise<void> {
  await server?.stop().catch(() => undefined)
  server = await new HubServer(files).start()
  settings = {
    ...hubSettings({ HF_HUB_CACHE: cacheDir, HF_ENDPOINT: `${server.endpoint}/`, HF_TOKEN: 'hf_secret' }),
    retryMs: 1,
  }
}

const folder = () => path.join(cacheDir, 'models--org--model')
const snapshot = () => path.join(folder(), 'snapshots', commit)
const fetchAll = async (options = {}) => pull(settings, await planPull(settings, name), options)
const idOf = (bytes: Buffer) => createHash('sha256').update(bytes).digest('hex')

async function hubError(work: Promise<unknown>): Promise<HubError> {
  const error = await work.then(
    () => undefined,
    (thrown: HubError) => thrown,
  )
  expect(error).toBeInstanceOf(Error)
  return error!
}

/** Every file below a folder, links as their targets. */
function treeOf(root: string): Record<string, string> {
  const names = readdirSync(root, { recursive: true, encoding: 'utf8' }).sort()
  return Object.fromEntries(
    names.flatMap((file) => {
      const full = path.join(root, file)
      const found = lstatSync(full)
      if (found.isDirectory()) return []
      return [[file, found.isSymbolicLink() ? `-> ${readlinkSync(full)}` : String(found.size)]]
    }),
  )
}

describe('names', () => {
  test('what may be a repository, and what may not', () => {
    expect(parseModelName('gpt2')).toEqual({ repository: 'gpt2', revision: 'main' })
    expect(parseModelName('org/name@refs/pr/1')).toEqual({ repository: 'org/name', revision: 'refs/pr/1' })
    const bad = [
      '../x',
      'a/b/c',
      '/a',
      'a/',
      'a--b/c',
      'a..b',
      'a.git',
      'a-',
      'x@',
      'x@..',
      'x@a/../b',
      'x@a\\b',
      'x@a:b',
    ]
    for (const one of [...bad, `x@${'r'.repeat(201)}`, 'n'.repeat(97), 'a b', '', 'x@con', 'x@a\n']) {
      expect(parseModelName(one), one).toBeUndefined()
    }
  })
})

describe('environment', () => {
  test('folders in the order of Python, expanded; empty is unset', () => {
    const cache = (env: NodeJS.ProcessEnv) => hubSettings(env).cacheDir
    expect(cache({ HF_HUB_CACHE: '/a', HUGGINGFACE_HUB_CACHE: '/b', HF_HOME: '/c' })).toBe('/a')
    expect(cache({ HF_HUB_CACHE: '', HUGGINGFACE_HUB_CACHE: '/b', HF_HOME: '/c' })).toBe('/b')
    expect(cache({ HF_HOME: '$DISK/c', DISK: '/d', XDG_CACHE_HOME: '/e' })).toBe('/d/c/hub')
    expect(cache({ XDG_CACHE_HOME: '/e' })).toBe('/e/huggingface/hub')
    expect(cache({})).toBe(path.join(os.homedir(), '.cache/huggingface/hub'))
    expect(cache({ HF_HUB_CACHE: '~/x' })).toBe(path.join(os.homedir(), 'x'))
  })

  test('a user that the system does not know, without HOME, needs the variables alone', () => {
    const home = vi.spyOn(os, 'homedir').mockImplementation(() => {
      throw new Error('uv_os_homedir returned ENOENT')
    })
    try {
      expect(hubSettings({ HF_HUB_CACHE: '/cache' }).cacheDir).toBe('/cache')
    } finally {
      home.mockRestore()
    }
  })

  test('the token: variables, then the file, trimmed, and none at all if that is asked for', () => {
    const file = path.join(cacheDir, 'token')
    writeFileSync(file, ' hf_file\n')
    const token = (env: NodeJS.ProcessEnv) => hubSettings({ HF_TOKEN_PATH: file, ...env }).token
    expect(token({})).toBe('hf_file')
    expect(token({ HUGGING_FACE_HUB_TOKEN: 'other' })).toBe('other')
    expect(token({ HF_TOKEN: ' hf_mine ', HUGGING_FACE_HUB_TOKEN: 'other' })).toBe('hf_mine')
    expect(token({ HF_HUB_DISABLE_IMPLICIT_TOKEN: '1' })).toBeUndefined()
  })

  test('an endpoint that is no URL', () => {
    for (const HF_ENDPOINT of ['file:///etc', 'huggingface.co', 'https://user@host']) {
      expect(() => hubSettings({ HF_ENDPOINT })).toThrow(/HF_ENDPOINT: expected a URL/)
    }
  })
})

describe('pull', () => {
  test('only what a model folder needs, laid out as Python lays it out', async () => {
    const progress: DownloadProgress[] = []
    expect(await fetchAll({ onProgress: (one: DownloadProgress) => progress.push(one) })).toBe(snapshot())
    expect(readdirSync(snapshot()).sort()).toEqual(needed)
    expect(treeOf(snapshot())['model.safetensors']).toBe(`-> ../../blobs/${idOf(weights)}`)
    expect(readFileSync(path.join(snapshot(), 'model.safetensors'))).toEqual(weights)
    expect(readFileSync(path.join(folder(), 'refs/main'), 'utf8')).toBe(commit)
    const tree = JSON.parse(readFileSync(path.join(folder(), `trees/${commit}.json`), 'utf8'))
    expect(tree.format_version).toBe(1)
    expect(Object.keys(tree.files)).toEqual([...server.files.keys()])
    expect(tree.files['model.safetensors']).toMatchObject({ lfs_sha256: idOf(weights), lfs_size: weights.length })
    expect(Object.keys(treeOf(folder())).filter((file) => file.includes('incomplete'))).toEqual([])
    expect(progress.at(-1)).toMatchObject({ files: needed.length, doneBytes: progress[0]!.totalBytes })
    expect(server.fetched.filter((file) => /py|bin|jpg|onnx|README/.test(file))).toEqual(['conversation.py'])
  })

  test('the token goes to the endpoint alone, and to no other port of the same machine', async () => {
    await fetchAll()
    const hub = server.seen.filter(({ where }) => where === 'hub')
    const content = server.seen.filter(({ where }) => where === 'content')
    expect(hub.every(({ headers }) => headers.authorization === 'Bearer hf_secret')).toBe(true)
    expect(content.length).toBe(1)
    expect(content[0]!.headers.authorization).toBeUndefined()
  })

  test('a second time nothing is fetched, and with a commit nothing is asked', async () => {
    await fetchAll()
    const before = treeOf(cacheDir)
    server.seen = []
    await fetchAll()
    expect(server.fetched).toEqual(['config.json']) // read before anything else
    expect(treeOf(cacheDir)).toEqual(before)
    server.seen = []
    expect(await resolveModel(settings, `org/model@${commit}`, { download: true })).toBe(snapshot())
    expect(await resolveModel(settings, 'org/model')).toBe(snapshot())
    expect(await resolveModel({ ...settings, offline: true }, 'org/model', { download: true })).toBe(snapshot())
    expect(server.seen).toEqual([])
  })

  test('lists of several pages, and of none elsewhere', async () => {
    server.pageSize = 2
    expect((await planPull(settings, name)).listing).toHaveLength(server.files.size)
    server.instead = ({ url }, response) => {
      if (!url.includes('/tree/')) return false
      sendJson(response, [], { link: `<${server.content}/steal>; rel="next"` })
      return true
    }
    expect(await hubError(planPull(settings, name))).toMatchObject({ reason: 'protocol' })
  })

  test.each(['../../x', '/etc/passwd', 'a\\b', 'c:x', 'a//b', './a', 'nul.txt', 'a\u0001'])(
    'a listing with %j is refused',
    async (file) => {
      server.files.set(file, { bytes: Buffer.from('x'), lfs: false })
      expect(await hubError(planPull(settings, name))).toMatchObject({ code: 'DOWNLOAD_FAILED', reason: 'name' })
      expect(existsSync(folder())).toBe(false)
    },
  )

  test('an index names its shards, which are plain names and are there', async () => {
    const withIndex = (weight_map: Record<string, string>) => {
      const index = JSON.stringify({ weight_map })
      const { 'model.safetensors': whole, ...rest } = repository()
      return { ...rest, 'model.safetensors.index.json': index, 'a.safetensors': whole, 'b.safetensors': 'b' }
    }
    await serve(withIndex({ x: 'a.safetensors', y: 'b.safetensors', z: 'a.safetensors' }))
    await fetchAll()
    expect(readdirSync(snapshot()).filter((file) => file.endsWith('.safetensors'))).toEqual([
      'a.safetensors',
      'b.safetensors',
    ])
    await serve(withIndex({ x: 'a.safetensors', y: 'c.safetensors' }))
    expect(await hubError(planPull(settings, name))).toMatchObject({ reason: 'file', message: /no c\.safetensors/ })
    await serve(withIndex({ x: '../../a.safetensors' }))
    expect(await hubError(planPull(settings, name))).toMatchObject({ reason: 'name' })
  })

  test('what cannot work is refused before its weights', async () => {
    const config = (change: object) => JSON.stringify({ ...JSON.parse(text('config.json')), ...change })
    await serve({ ...repository(), 'config.json': config({ architectures: ['LlamaForCausalLM'] }) })
    expect(await hubError(fetchAll())).toMatchObject({ code: 'UNSUPPORTED_MODEL' })
    expect(server.fetched).not.toContain('model.safetensors')
    const { 'model.safetensors': _, ...pickled } = repository()
    await serve(pickled)
    expect(await hubError(fetchAll())).toMatchObject({ reason: 'file', message: /pickle may run any code/ })
    const { 'tokenizer.json': __, ...mute } = repository()
    await serve(mute)
    expect(await hubError(fetchAll())).toMatchObject({
      reason: 'file',
      message: /no tokenizer\.json, tokenizer\.model/,
    })
    expect(existsSync(folder())).toBe(false)
  })

  test('a connection that is cut at each tenth is taken up again', async () => {
    let cuts = 0
    server.instead = ({ where, headers }, response) => {
      if (where !== 'content') return false
      const from = Number(/\d+/.exec(headers.range ?? '0')![0])
      if (from >= 270_000) return false
      cuts++
      response.writeHead(from === 0 ? 200 : 206, {
        'content-length': weights.length - from,
        ...(from === 0 ? {} : { 'content-range': `bytes ${from}-${weights.length - 1}/${weights.length}` }),
      })
      response.write(weights.subarray(from, from + 30_000), () => setTimeout(() => response.destroy(), 5))
      return true
    }
    await fetchAll()
    expect(cuts).toBeGreaterThanOrEqual(9)
    expect(readFileSync(path.join(snapshot(), 'model.safetensors'))).toEqual(weights)
  })

  test('a disk that takes a part of a write without an error: the rest is written too', async () => {
    const handle = await open(path.join(import.meta.dirname, 'hub.test.ts'))
    const shared = Object.getPrototypeOf(handle) as typeof handle
    const { write } = shared
    await handle.close()
    const part = vi.spyOn(shared, 'write').mockImplementation(function (this: typeof handle, ...given: unknown[]) {
      const [bytes, at, length, position] = given as [Uint8Array, number, number, number]
      return (write as (...given: unknown[]) => unknown).call(this, bytes, at, Math.ceil(length / 2), position) as never
    })
    try {
      await fetchAll()
      expect(readFileSync(path.join(snapshot(), 'model.safetensors')).equals(weights)).toBe(true)
    } finally {
      part.mockRestore()
    }
  })

  test('200 in place of 206, and a range that begins elsewhere, begin anew', async () => {
    for (const answer of ['200', 'elsewhere']) {
      rmSync(folder(), { recursive: true, force: true })
      let times = 0
      server.instead = ({ where, headers }, response) => {
        if (where !== 'content') return false
        times++
        if (times === 1) {
          response.writeHead(200, { 'content-length': weights.length })
          response.write(weights.subarray(0, 1000), () => setTimeout(() => response.destroy(), 5))
          return true
        }
        if (headers.range !== undefined && answer === '200') sendContent(weights, {}, response)
        else if (headers.range !== undefined) sendContent(weights, { range: 'bytes=7-' }, response)
        else sendContent(weights, {}, response)
        return true
      }
      await fetchAll()
      expect(readFileSync(path.join(snapshot(), 'model.safetensors'))).toEqual(weights)
    }
  })

  test('a wrong content is fetched once more, and then is an error that leaves nothing', async () => {
    const damaged = Buffer.from(weights)
    damaged[5] = 0
    const wrong = [damaged, Buffer.concat([weights, weights])]
    for (const bytes of wrong) {
      server.seen = []
      server.instead = ({ where }, response) => {
        if (where !== 'content') return false
        sendContent(bytes, {}, response)
        return true
      }
      expect(await hubError(fetchAll())).toMatchObject({ reason: 'corrupt', retryable: false })
      expect(server.seen.filter(({ where }) => where === 'content')).toHaveLength(2)
      expect(readdirSync(path.join(folder(), 'blobs')).filter((file) => file.startsWith(idOf(weights)))).toEqual([])
      expect(existsSync(path.join(folder(), 'refs'))).toBe(false)
    }
    let first = true
    server.instead = ({ where }, response) => {
      if (where !== 'content' || !first) return false
      first = false
      sendContent(damaged, {}, response)
      return true
    }
    await fetchAll()
    expect(readFileSync(path.join(snapshot(), 'model.safetensors'))).toEqual(weights)
  })

  test.each([
    [401, {}, 'auth', /HF_TOKEN/],
    [403, { 'x-error-code': 'GatedRepo' }, 'gated', /Accept the terms/],
    [404, { 'x-error-code': 'RepoNotFound' }, 'repository', /no such model/],
    [404, { 'x-error-code': 'RevisionNotFound' }, 'revision', /no such revision/],
    [418, {}, 'protocol', /418/],
  ])('status %i %j is %s', async (status, headers, reason, message) => {
    server.instead = (_, response) => {
      response.writeHead(status, headers as Record<string, string>).end()
      return true
    }
    const error = await hubError(planPull(settings, name))
    expect(error).toMatchObject({ code: 'DOWNLOAD_FAILED', reason, status, retryable: false })
    expect(error.message).toMatch(message)
    expect(error.message).not.toContain('hf_secret')
    expect(server.seen).toHaveLength(1)
  })

  test.each([408, 429, 500, 503])('status %i is retried, and given up after five more', async (status) => {
    let left = 2
    server.instead = ({ where }, response) => {
      if (where !== 'content' || left-- <= 0) return false
      response.writeHead(status, { 'retry-after': '0' }).end()
      return true
    }
    await fetchAll()
    server.seen = []
    server.instead = (_, response) => {
      response.writeHead(status).end()
      return true
    }
    expect(await hubError(planPull(settings, name))).toMatchObject({ reason: 'busy', status, retryable: true })
    expect(server.seen).toHaveLength(6)
  })

  test('Retry-After is waited for', async () => {
    let first: number | undefined
    let second: number | undefined
    server.instead = (_, response) => {
      if (first !== undefined) {
        second ??= performance.now()
        return false
      }
      first = performance.now()
      response.writeHead(429, { 'retry-after': '1' }).end()
      return true
    }
    await planPull(settings, name)
    expect(second! - first!).toBeGreaterThan(990)
  })

  test('pages of a hotel, JSON that is none, JSON of something else', async () => {
    const answers: [string, string][] = [
      ['text/html', '<html>Sign in</html>'],
      ['application/json', '{"sha":'],
      ['application/json', '{"sha":"main"}'],
      ['application/json', 'null'],
    ]
    for (const [type, body] of answers) {
      server.instead = (_, response) => {
        response.writeHead(200, { 'content-type': type }).end(body)
        return true
      }
      expect(await hubError(planPull(settings, name)), body).toMatchObject({ reason: 'protocol' })
    }
  })

  test('redirects: to no other scheme, no other machine without https, and not for ever', async () => {
    for (const location of ['file:///etc/passwd', 'http://example.com/x', 'javascript:1', server.endpoint]) {
      server.instead = (_, response) => {
        response.writeHead(302, { location }).end()
        return true
      }
      expect(await hubError(planPull(settings, name)), location).toMatchObject({ reason: 'protocol' })
    }
  })

  test('silence: before the headers, and in the middle', async () => {
    const patient = { ...settings, headersMs: 30, idleMs: 30 }
    server.instead = () => true
    expect(await hubError(planPull(patient, name))).toMatchObject({ reason: 'network', message: /sent nothing/ })
    server.instead = ({ url }, response) => {
      if (!url.includes('/revision/')) return false
      response.writeHead(200, { 'content-type': 'application/json' })
      response.write('{')
      return true
    }
    expect(await hubError(planPull(patient, name))).toMatchObject({ reason: 'network', message: /sent nothing/ })
  })

  test('no server: the cache is used with a warning, else it is an error that says so', async () => {
    await fetchAll()
    await server.stop()
    const warnings: Error[] = []
    const listen = (warning: Error) => warnings.push(warning)
    process.on('warning', listen)
    expect(await resolveModel(settings, 'org/model', { download: true })).toBe(snapshot())
    await new Promise((resolve) => setImmediate(resolve))
    process.off('warning', listen)
    expect(warnings.map(String)).toEqual([expect.stringMatching(/cannot be reached.*commit 0123456789ab/)])
    const refused = { ...settings, endpoint: new URL('http://127.0.0.1:6666') } // a port that fetch refuses, for good
    expect(await resolveModel(refused, 'org/model', { download: true })).toBe(snapshot())
    rmSync(cacheDir, { recursive: true })
    expect(await hubError(resolveModel(settings, 'org/model', { download: true }))).toMatchObject({ reason: 'network' })
    server = await new HubServer({}).start()
  })

  test('abort: partial files stay, and the next try goes on from them', async () => {
    const abort = new AbortController()
    server.instead = ({ where }, response) => {
      if (where !== 'content') return false
      response.writeHead(200, { 'content-length': weights.length })
      response.write(weights.subarray(0, 100_000))
      return true
    }
    const onProgress = ({ file, doneBytes }: DownloadProgress) => {
      if (file === 'model.safetensors' && doneBytes >= 100_000) abort.abort()
    }
    expect(await hubError(fetchAll({ signal: abort.signal, onProgress }))).toMatchObject({ code: 'ABORTED' })
    server.instead = () => false
    server.seen = []
    await fetchAll()
    const [content] = server.seen.filter(({ where }) => where === 'content')
    expect(Number(/\d+/.exec(content!.headers.range!)![0])).toBeGreaterThan(0)
    expect(readFileSync(path.join(snapshot(), 'model.safetensors'))).toEqual(weights)
    expect(readdirSync(path.join(folder(), 'blobs'))).toHaveLength(needed.length)
  })

  test('partial files of others are left alone', async () => {
    const blobs = path.join(folder(), 'blobs')
    mkdirSync(blobs, { recursive: true })
    const host = createHash('sha256').update(os.hostname()).digest('hex').slice(0, 4)
    const id = idOf(weights)
    const young = `${id}.drivlm-999999999-${host}aaaa.incomplete`
    const alive = `${id}.drivlm-${process.pid}-${host}bbbb.incomplete`
    const others = [`${id}.incomplete`, `${id}.0123abcd.incomplete`, young, alive]
    for (const file of others) writeFileSync(path.join(blobs, file), 'theirs')
    utimesSync(path.join(blobs, alive), 1, 1)
    await fetchAll()
    for (const file of others) expect(readFileSync(path.join(blobs, file), 'utf8')).toBe('theirs')
    rmSync(path.join(blobs, id))
    rmSync(path.join(snapshot(), 'model.safetensors'))
    rmSync(path.join(blobs, young))
    const dead = path.join(blobs, `${id}.drivlm-999999999-${host}cccc.incomplete`)
    writeFileSync(dead, weights.subarray(0, 200_000))
    utimesSync(dead, 1, 1)
    server.seen = []
    await fetchAll()
    expect(server.seen.at(-1)!.headers.range).toBe('bytes=200000-')
    expect(existsSync(dead)).toBe(false)
    expect(readFileSync(path.join(snapshot(), 'model.safetensors'))).toEqual(weights)
  })

  test('no links: the files themselves, once', async () => {
    settings.symlinks = false
    server.files.set('vocab.json', { bytes: Buffer.from('{}'), lfs: false })
    server.files.set('added_tokens.json', { bytes: Buffer.from('{}'), lfs: false }) // the same content
    await fetchAll()
    const tree = treeOf(snapshot())
    expect(tree['model.safetensors']).toBe(String(weights.length))
    expect([tree['vocab.json'], tree['added_tokens.json']]).toEqual(['2', '2'])
    expect(readdirSync(path.join(folder(), 'blobs'))).toEqual([])
    server.seen = []
    await fetchAll()
    expect(server.fetched).toEqual(['config.json'])
  })

  test('a link that leads nowhere is fetched anew, one that leads out is refused', async () => {
    await fetchAll()
    rmSync(path.join(folder(), 'blobs', idOf(weights)))
    expect((await findSnapshot(settings, name))!.missing).toEqual(['model.safetensors'])
    await fetchAll()
    expect(readFileSync(path.join(snapshot(), 'model.safetensors'))).toEqual(weights)
    rmSync(path.join(snapshot(), 'model.safetensors'))
    const outside = mkdtempSync(path.join(os.tmpdir(), 'drivlm-outside-'))
    const stranger = path.join(outside, 'weights')
    writeFileSync(stranger, weights)
    symlinkSync(stranger, path.join(snapshot(), 'model.safetensors'))
    expect(await hubError(resolveModel(settings, 'org/model'))).toMatchObject({ reason: 'name' })
    rmSync(stranger)
    rmSync(folder(), { recursive: true })
    symlinkSync(outside, folder())
    expect(await hubError(fetchAll())).toMatchObject({ reason: 'name', message: /leads out of the cache/ })
    expect(readdirSync(outside)).toEqual([])
    rmSync(outside, { recursive: true })
  })

  test('offline: no request', async () => {
    settings.offline = true
    expect(await hubError(planPull(settings, name))).toMatchObject({ reason: 'offline' })
    const message =
      /org\/model: there is no such folder \(.*\), and no model of this name in the cache .*HF_HUB_OFFLINE/
    expect(await hubError(resolveModel(settings, 'org/model', { download: true }))).toMatchObject({ message })
    expect(server.seen).toEqual([])
  })

  test('two processes at once', async () => {
    const script = `
      import { hubSettings } from ${JSON.stringify(path.resolve('dist/hub/environment.js'))}
      import { planPull, pull } from ${JSON.stringify(path.resolve('dist/hub/pull.js'))}
      const settings = hubSettings()
      const name = { repository: 'org/model', revision: 'main' }
      console.log(await pull(settings, await planPull(settings, name)))`
    const env = { ...process.env, HF_HUB_CACHE: cacheDir, HF_ENDPOINT: server.endpoint }
    const run = () =>
      new Promise<string>((resolve) => {
        const child = spawn(process.execPath, ['--input-type=module', '-e', script], { env })
        let output = ''
        child.stdout.on('data', (piece) => (output += piece))
        child.stderr.on('data', (piece) => (output += piece))
        child.on('close', () => resolve(output))
      })
    const lines = await Promise.all([run(), run(), run()])
    expect(lines).toEqual(Array(3).fill(`${snapshot()}\n`))
    expect(readFileSync(path.join(snapshot(), 'model.safetensors'))).toEqual(weights)
    expect(Object.keys(treeOf(folder())).filter((file) => file.includes('incomplete'))).toEqual([])
  })
})

describe('caches of Python', () => {
  /** As 1.x writes it: refs first, absolute or relative links, no trees. */
  function pythonCache({ shared }: { shared: boolean }): void {
    const put = (file: string, content: string | Buffer) => {
      mkdirSync(path.dirname(path.join(cacheDir, file)), { recursive: true })
      writeFileSync(path.join(cacheDir, file), content)
    }
    const repo = 'models--org--model'
    put('CACHEDIR.TAG', 'Signature: 8a477f597d28d172789f06886806bc55')
    put(`${repo}/refs/main`, commit)
    put(`${repo}/.no_exist/${commit}/added_tokens.json`, '')
    put('.locks/models--org--model/x.lock', '')
    mkdirSync(snapshot(), { recursive: true })
    const files = repository() as Record<string, string | Buffer>
    for (const file of [...needed, 'README.md']) {
      const bytes = Buffer.from(files[file] as string)
      const id = createHash('sha256').update(bytes).digest('hex')
      if (shared && file === 'model.safetensors') {
        put('blobs/.huggingface-shared-blobs', '1\n')
        put(`blobs/${id.slice(0, 2)}/${id}`, bytes)
        chmodSync(path.join(cacheDir, `blobs/${id.slice(0, 2)}/${id}`), 0o400)
        put(`blobs/${id.slice(0, 2)}/${id}.refs`, repo)
        mkdirSync(path.join(folder(), 'blobs'), { recursive: true })
        symlinkSync(`../../blobs/${id.slice(0, 2)}/${id}`, path.join(folder(), 'blobs', id))
      } else put(`${repo}/blobs/${id}`, bytes)
      symlinkSync(`../../blobs/${id}`, path.join(snapshot(), file))
    }
  }

  test.each([{ shared: false }, { shared: true }])('are used as they are, %j', async (kind) => {
    pythonCache(kind)
    const before = treeOf(cacheDir)
    expect(await resolveModel(settings, 'org/model')).toBe(snapshot())
    expect(treeOf(cacheDir)).toEqual(before)
    expect(server.seen).toEqual([])
    await fetchAll()
    expect(server.fetched).toEqual(['config.json'])
    const after = treeOf(cacheDir)
    delete after[`models--org--model/trees/${commit}.json`]
    expect(after).toEqual(before)
  })

  test('a part counts as a part', async () => {
    pythonCache({ shared: false })
    rmSync(path.join(snapshot(), 'model.safetensors'))
    const message = /the cache has only a part of it .* lacks model\.safetensors.*drivlm pull/
    expect(await hubError(resolveModel(settings, 'org/model'))).toMatchObject({ code: 'BAD_CHECKPOINT', message })
    expect(await resolveModel(settings, 'org/model', { download: true })).toBe(snapshot())
    expect(statSync(path.join(snapshot(), 'model.safetensors')).size).toBe(weights.length)
    expect(await listCached(settings)).toMatchObject([
      { repository: 'org/model', commit, revisions: ['main'], missing: [] },
    ])
  })
})

describe('loadModel', () => {
  const files = ['config.json', 'drivlm.json', 'generation_config.json', 'preprocessor_config.json', 'tokenizer.json']
  const whole = () => {
    const names = [...files, 'special_tokens_map.json', 'tokenizer_config.json', 'model.safetensors']
    return Object.fromEntries(names.map((file) => [file, readFileSync(path.join(tiny, file))]))
  }
  let before: NodeJS.ProcessEnv
  beforeEach(async () => {
    before = process.env
    await serve(whole())
    process.env = { ...before, HF_HUB_CACHE: cacheDir, HF_ENDPOINT: server.endpoint, HF_TOKEN: '' }
  })
  afterEach(() => {
    process.env = before
  })

  test('a name is fetched if that is asked for, and says which commit it is', async () => {
    expect(await hubError(loadModel('org/model'))).toMatchObject({ code: 'BAD_CHECKPOINT', message: /download: true/ })
    expect(server.seen).toEqual([])
    let totalBytes = 0
    const onDownload = (progress: DownloadProgress) => {
      totalBytes = progress.totalBytes
    }
    const model = await loadModel('org/model', { download: true, onDownload, maxContext: 512 })
    expect(model.info).toMatchObject({ name: 'model', repository: 'org/model', commit, dir: snapshot() })
    await model.dispose()
    expect(totalBytes).toBeGreaterThan(6_000_000)
    const again = await loadModel('org/model', { maxContext: 512 })
    expect(again.info.commit).toBe(commit)
    await again.dispose()
  })

  test('a folder loads whatever the variables of the hub say', async () => {
    vi.stubEnv('HF_ENDPOINT', 'hub.example')
    try {
      await expect(loadModel('org/model')).rejects.toMatchObject({ code: 'DOWNLOAD_FAILED' })
      await (await loadModel(tiny, { maxContext: 512 })).dispose()
    } finally {
      vi.unstubAllEnvs()
    }
  })

  test('a path that exists wins', async () => {
    expect(await resolveModel(settings, 'models/street-tiny', { download: true })).toBe('models/street-tiny')
    expect(server.seen).toEqual([])
  })
})

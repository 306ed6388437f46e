/** The server, asked by OpenAI's own package, by the AI SDK and by hand. */
import { EventEmitter, once } from 'node:events'
import { readFileSync } from 'node:fs'
import http from 'node:http'
import net, { type AddressInfo } from 'node:net'
import path from 'node:path'
import { crc32, deflateSync } from 'node:zlib'
import { createOpenAICompatible } from '@ai-sdk/openai-compatible'
import { generateText, streamText } from 'ai'
import type { FastifyInstance, FastifyReply } from 'fastify'
import OpenAI from 'openai'
import sharp from 'sharp'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { bundledModel, cameras, loadModel, type Model } from '../../lib/index.ts'
import { signalOf } from '../../lib/serve/scene-routes.ts'
import { createServer, type ServeOptions } from '../../lib/serve/server.ts'

const question = 'Which camera sees the cyclist?'
const answer = 'CAM_FRONT_LEFT.'
const pictures = Object.fromEntries(
  cameras.map((name) => [name, readFileSync(path.join(bundledModel, 'moments', 'dusk', `${name}.png`))]),
)
const url = (bytes: Buffer) => `data:image/png;base64,${bytes.toString('base64')}`
const views = Object.fromEntries(Object.entries(pictures).map(([name, bytes]) => [name, url(bytes)]))
const content = (text: string) => [
  ...cameras.flatMap((name) => [
    { type: 'text' as const, text: name },
    { type: 'image_url' as const, image_url: { url: views[name]! } },
  ]),
  { type: 'text' as const, text },
]
const chat = (text = question) => ({
  model: 'street-tiny',
  messages: [{ role: 'user' as const, content: content(text) }],
})

let model: Model
let server: FastifyInstance
let base: string
let client: OpenAI
beforeAll(async () => {
  model = await loadModel({ evict: true, device: 'cpu' })
  ;[server, base] = await listen()
  client = new OpenAI({ apiKey: 'none', baseURL: `${base}/v1`, maxRetries: 0 })
})
afterAll(async () => {
  await server.close()
  await model.dispose()
})

async function listen(options: Partial<ServeOptions> = {}): Promise<[FastifyInstance, string]> {
  const made = createServer(model, options)
  return [made, await made.listen({ host: '127.0.0.1', port: 0 })]
}

const post = (where: string, body: unknown, headers: Record<string, string> = {}) =>
  fetch(where.startsWith('http') ? where : base + where, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    body: typeof body === 'string' ? body : JSON.stringify(body),
  })

async function failure(response: Response): Promise<{ status: number; code: string; message: string }> {
  const { error } = (await response.json()) as { error: { code: string; message: string; type: string } }
  expect(error.type).toBe(response.status < 500 ? 'invalid_request_error' : 'server_error')
  return { status: response.status, code: error.code, message: error.message }
}

/** No question is left in the model. */
async function idle(): Promise<void> {
  await expect.poll(() => model.stats().running + model.stats().waiting, { timeout: 20_000 }).toBe(0)
}

describe("OpenAI's package", () => {
  test('lists the model, and gets the answer that the library gives', async () => {
    expect((await client.models.list()).data.map(({ id }) => id)).toEqual(['street-tiny'])
    const alone = await model.ask(pictures, question, { logprobs: true })
    const told = await client.chat.completions.create({ ...chat(), logprobs: true, max_tokens: 32, temperature: 0 })
    expect(told.choices[0]).toMatchObject({ message: { content: answer }, finish_reason: 'stop' })
    expect(told.choices[0]!.logprobs!.content!.map(({ logprob }) => logprob)).toEqual(
      alone.logprobs!.map(({ logprob }) => logprob),
    )
    expect(told.usage).toMatchObject({
      prompt_tokens: alone.usage.promptTokens,
      completion_tokens: alone.usage.answerTokens,
    })
  })

  test('streams, with usage at the end', async () => {
    const stream = await client.chat.completions.create({
      ...chat(),
      stream: true,
      stream_options: { include_usage: true },
    })
    let text = ''
    let tokens = 0
    let finish: string | null = null
    for await (const { choices, usage } of stream) {
      text += choices[0]?.delta.content ?? ''
      finish = choices[0]?.finish_reason ?? finish
      tokens = usage?.completion_tokens ?? tokens
    }
    expect({ text, finish }).toEqual({ text: answer, finish: 'stop' })
    expect(tokens).toBeGreaterThan(1)
  })

  test('options: length, stop, seed, JSON of a schema', async () => {
    const short = await client.chat.completions.create({ ...chat(), max_completion_tokens: 1 })
    expect(short.choices[0]!.finish_reason).toBe('length')
    const stopped = await client.chat.completions.create({ ...chat(), stop: '_FRONT' })
    expect(stopped.choices[0]!.message.content).toBe('CAM')
    const draw = { ...chat(), temperature: 2, top_p: 0.9, seed: 7, max_tokens: 12 }
    const [one, two] = [await client.chat.completions.create(draw), await client.chat.completions.create(draw)]
    expect(one.choices[0]!.message.content).toBe(two.choices[0]!.message.content)
    const schema = {
      type: 'object',
      properties: { seen: { type: 'boolean' } },
      required: ['seen'],
      additionalProperties: false,
    }
    const json = await client.chat.completions.create({
      ...chat(),
      response_format: { type: 'json_schema', json_schema: { name: 'seen', schema, strict: true } },
    })
    expect(JSON.parse(json.choices[0]!.message.content!)).toEqual({ seen: expect.any(Boolean) })
  })

  test('equal pictures are seen once', async () => {
    await client.chat.completions.create(chat())
    const { tilesEncoded, tilesCached, prefillTokens } = model.stats()
    await client.chat.completions.create(chat('What is the weather like?'))
    const after = model.stats()
    expect([after.tilesEncoded, after.tilesCached]).toEqual([tilesEncoded, tilesCached])
    expect(after.prefillTokens - prefillTokens).toBeLessThan(60)
  })

  test('errors are its errors', async () => {
    await expect(client.chat.completions.create({ ...chat(), model: 'gpt-4o' })).rejects.toMatchObject({
      status: 404,
      code: 'model_not_found',
    })
  })
})

test('the AI SDK: text, and a stream', async () => {
  const provider = createOpenAICompatible({ name: 'drivlm', baseURL: `${base}/v1` })
  const parts = cameras.flatMap((name) => [
    { type: 'text' as const, text: name },
    { type: 'image' as const, image: pictures[name]!, mediaType: 'image/png' },
  ])
  const messages = [{ role: 'user' as const, content: [...parts, { type: 'text' as const, text: question }] }]
  const asked = { model: provider('street-tiny'), messages, maxRetries: 0 }
  expect((await generateText(asked)).text).toBe(answer)
  let text = ''
  for await (const piece of streamText(asked).textStream) text += piece
  expect(text).toBe(answer)
})

test('scenes: see once, ask, choose, update, delete', async () => {
  const seen = (await (await post('/v1/scenes', { views })).json()) as { id: string; tiles: number }
  expect(seen).toMatchObject({ id: expect.any(String), tiles: 6 })
  const at = `/v1/scenes/${seen.id}`
  expect(await (await post(`${at}/ask`, { question })).json()).toMatchObject({ text: answer })
  const both = (await (await post(`${at}/ask-all`, { questions: [question, question] })).json()) as {
    answers: object[]
  }
  expect(both.answers).toMatchObject([{ text: answer }, { text: answer }])
  const choice = await (await post(`${at}/choose`, { question, choices: ['CAM_BACK.', answer] })).json()
  expect(choice).toMatchObject({ index: 1, choice: answer })
  expect(await (await post(`${at}/locate`, { question })).json()).toMatchObject({ boxes: expect.any(Array) })
  const next = (await (await post(`${at}/update`, { views: { CAM_BACK: views.CAM_FRONT } })).json()) as { id: string }
  expect(next.id).not.toBe(seen.id)
  for (const { id } of [seen, next]) {
    expect((await fetch(`${base}/v1/scenes/${id}`, { method: 'DELETE' })).status).toBe(204)
  }
  expect(await failure(await post(`${at}/ask`, { question }))).toMatchObject({ status: 404, code: 'scene_not_found' })
  expect(await failure(await post('/v1/scenes', { views, paths: ['/etc/passwd'] }))).toMatchObject({ status: 400 })
  const { paths } = (await (await fetch(`${base}/openapi.json`)).json()) as { paths: Record<string, object> }
  expect(Object.keys(paths)).toEqual(expect.arrayContaining(['/v1/chat/completions', '/v1/scenes/{id}/choose']))
})

/** Events of a streamed answer. */
async function eventsOf(response: Response): Promise<Record<string, unknown>[]> {
  expect(response.headers.get('content-type')).toMatch(/^text\/event-stream/)
  const parts = (await response.text()).split('\n\n')
  expect(parts.pop()).toBe('')
  return parts.map((part) => JSON.parse(part.slice('data: '.length)))
}

test('answers about a scene stream: pieces, then the answer with its boxes; what fails is an event of its own', async () => {
  const { id } = (await (await post('/v1/scenes', { views })).json()) as { id: string }
  const at = `/v1/scenes/${id}`
  const region = 'What is the object at <box>[[537,739,585,810]]</box>?'
  const long = 'car '.repeat(20_000)
  const events = await eventsOf(await post(`${at}/ask-all`, { questions: [question, region, long], stream: true }))
  const textOf = (index: number) => events.flatMap((one) => (one.index === index && 'text' in one ? [one.text] : []))
  expect([textOf(0).join(''), textOf(1).join('')]).toEqual([answer, 'A red car.'])
  const ends = [0, 1, 2].map((index) => events.filter((one) => one.index === index).at(-1))
  expect(ends).toMatchObject([
    { answer: { text: answer, timings: { prefillMs: expect.any(Number) } }, boxes: [], asked: [] },
    { answer: { text: 'A red car.' }, boxes: [], asked: [{ camera: 'CAM_BACK' }] },
    { error: { code: 'context_overflow' } },
  ])
  const one = await eventsOf(await post(`${at}/ask`, { question: 'Where is the bus in CAM_BACK?', stream: true }))
  expect(one.at(-1)).toMatchObject({ index: 0, boxes: [{ label: 'bus', camera: 'CAM_BACK' }] })
  // Before the first piece there is a status.
  const failed = await post(`${at}/ask`, { question: long, stream: true })
  expect(await failure(failed)).toMatchObject({ status: 400, code: 'context_overflow' })
  await fetch(base + at, { method: 'DELETE' })
})

test('no more scenes than there is room for, and those that nobody asked about for long make room', async () => {
  for (const [idleSeconds, status] of [
    [600, 503],
    [0, 200],
  ] as const) {
    const [small, where] = await listen({ maxScenes: 2, idleSeconds })
    const see = () => post(`${where}/v1/scenes`, { views })
    const ids = await Promise.all([see(), see()].map(async (one) => ((await (await one).json()) as { id: string }).id))
    const ask = async (id: string) => (await post(`${where}/v1/scenes/${id}/ask`, { question })).status
    expect(await ask(ids[0]!)).toBe(200)
    expect((await see()).status).toBe(status)
    expect([await ask(ids[0]!), await ask(ids[1]!)]).toEqual([200, status === 503 ? 200 : 404])
    await small.close()
  }
})

test('what the page shows: the model, the bundled moments, no file beside them', async () => {
  const get = async (where: string) => (await fetch(base + where)).json()
  expect(await get('/v1/info')).toMatchObject({ name: 'street-tiny', device: 'cpu', limits: { maxPictures: 20 } })
  expect(JSON.stringify(await get('/v1/info'))).not.toContain(bundledModel)
  const { moments } = (await get('/v1/moments')) as { moments: { name: string }[] }
  expect(moments.map(({ name }) => name)).toEqual(['dusk', 'day', 'rain'])
  const picture = await fetch(`${base}/v1/moments/dusk/CAM_BACK`)
  expect(Buffer.from(await picture.arrayBuffer()).equals(pictures.CAM_BACK!)).toBe(true)
  for (const none of ['dusk/..%2f..%2fconfig', '..%2f..%2f/CAM_BACK', 'dusk/CAM_TOP', 'noon/CAM_BACK']) {
    expect(await failure(await fetch(`${base}/v1/moments/${none}`)), none).toMatchObject({ status: 404 })
  }
})

describe('bad input has a status and a sentence', () => {
  const pictured = (given: unknown[]) => ({
    ...chat(),
    messages: [
      {
        role: 'user',
        content: [...given.map((url) => ({ type: 'image_url', image_url: { url } })), { type: 'text', text: 'x' }],
      },
    ],
  })
  const png = () =>
    sharp({ create: { width: 8, height: 8, channels: 3, background: 'red' } })
      .png()
      .toBuffer()
  /** A picture that says it has other edges than it has pixels for. */
  const claiming = async (width: number, height: number) => {
    const bytes = Buffer.from(await png())
    bytes.writeUInt32BE(width, 16)
    bytes.writeUInt32BE(height, 20)
    return url(bytes)
  }

  test.each<[string, number, () => unknown]>([
    ['broken JSON', 400, () => '{"model":'],
    ['no body', 400, () => '{}'],
    ['21 pictures', 400, () => pictured(Array(21).fill(views.CAM_FRONT))],
    ['a picture of 100 megapixels', 400, async () => pictured([await claiming(10_000, 10_000)])],
    ['a path', 400, () => pictured(['/etc/passwd'])],
    ['a file', 400, () => pictured(['file:///etc/passwd'])],
    ['a URL', 400, () => pictured(['http://127.0.0.1:1/x.png'])],
    ['no picture', 400, () => pictured([])],
    ['what is no picture', 400, () => pictured(['data:image/png;base64,AAAA'])],
    ['an unknown camera', 400, () => ({ ...chat(), messages: [{ role: 'user', content: 'CAM_TOP?' }] })],
    ['tools', 400, () => ({ ...chat(), tools: [{ type: 'function' }] })],
    ['two answers', 400, () => ({ ...chat(), n: 2 })],
    ['likelier words', 400, () => ({ ...chat(), logit_bias: { 7: 5 } })],
    ['the likeliest alone', 400, () => ({ ...chat(), top_k: 1 })],
    ['a stream that is a word', 400, () => ({ ...chat(), stream: 'true' })],
    ['usage that is a word', 400, () => ({ ...chat(), stream: true, stream_options: { include_usage: 'yes' } })],
    ['a form of another kind', 400, () => ({ ...chat(), response_format: { type: 'grammar' } })],
    ['a form that is a word', 400, () => ({ ...chat(), response_format: 'json' })],
    ['a conversation', 400, () => ({ ...chat(), messages: [...chat().messages, { role: 'assistant', content: 'x' }] })],
    ['a wrong temperature', 400, () => ({ ...chat(), temperature: 'hot' })],
    ['a schema that is none', 400, () => ({ ...chat(), response_format: { type: 'json_schema' } })],
    ['lists in lists', 400, () => `{"model":"street-tiny","messages":${'['.repeat(100_000)}${']'.repeat(100_000)}}`],
    [
      'a form in forms',
      400,
      () => {
        const schema = `${'{"items":'.repeat(50_000)}{}${'}'.repeat(50_000)}`
        return `${JSON.stringify(chat()).slice(0, -1)},"response_format":{"type":"json_schema","json_schema":{"schema":${schema}}}}`
      },
    ],
  ])('%s', async (_, status, body) => {
    const told = await failure(await post('/v1/chat/completions', await body()))
    expect(told.status, told.message).toBe(status)
    expect(told.message).not.toMatch(/\n|node_modules/)
    expect((await fetch(`${base}/healthz`)).status).toBe(200)
  })

  const chunk = (type: string, data: Buffer) => {
    const body = Buffer.concat([Buffer.from(type, 'latin1'), data])
    const ends = [Buffer.alloc(4), Buffer.alloc(4)]
    ends[0]!.writeUInt32BE(data.length)
    ends[1]!.writeUInt32BE(crc32(body))
    return Buffer.concat([ends[0]!, body, ends[1]!])
  }

  test('a PNG that would unpack to hundreds of megabytes', async () => {
    // 256 MiB of zeros in one, once as the picture that they are and once in one that says it is small.
    const zeros = deflateSync(Buffer.alloc(256 << 20), { level: 1 })
    const bomb = (edge: number) => {
      const header = Buffer.from([0, 0, 0, 0, 0, 0, 0, 0, 8, 2, 0, 0, 0])
      header.writeUInt32BE(edge, 0)
      header.writeUInt32BE(edge, 4)
      const parts = [chunk('IHDR', header), chunk('IDAT', zeros), chunk('IEND', Buffer.alloc(0))]
      return url(Buffer.concat([Buffer.from('\x89PNG\r\n\x1a\n', 'latin1'), ...parts]))
    }
    const before = process.memoryUsage().rss
    for (const [edge, status] of [
      [16_000, 400],
      [8, 200],
    ] as const) {
      const told = await post('/v1/chat/completions', { ...pictured([bomb(edge)]), max_tokens: 1 })
      expect(told.status, await told.text()).toBe(status)
    }
    expect(process.memoryUsage().rss - before).toBeLessThan(200 << 20)
  })

  test('a body that says it is larger than what is taken', async () => {
    const headers = { 'content-type': 'application/json', 'content-length': 33 << 20 }
    const request = http.request(`${base}/v1/scenes`, { method: 'POST', headers }).on('error', () => undefined)
    request.write('{')
    const [response] = (await once(request, 'response')) as [http.IncomingMessage]
    const { error } = JSON.parse((await response.toArray()).join('')) as { error: { code: string } }
    expect([response.statusCode, error.code]).toEqual([413, 'fst_err_ctp_body_too_large'])
    request.destroy()
  })

  test('a huge header', async () => {
    const response = await fetch(`${base}/healthz`, { headers: { 'x-large': 'x'.repeat(20_000) } })
    expect(response.status).toBe(431)
  })

  test('a page of another site that has its name point here', async () => {
    const { port } = new URL(base)
    const request = http.get({ port, host: '127.0.0.1', path: '/v1/models', headers: { host: 'evil.example' } })
    const [response] = (await once(request, 'response')) as [http.IncomingMessage]
    expect(response.statusCode).toBe(403)
    response.resume()
  })

  test('a client that never ends its request', async () => {
    const [slow, where] = await listen({ maxSeconds: 1 })
    const socket = net.connect(Number(new URL(where).port), '127.0.0.1')
    socket.write(
      'POST /v1/scenes HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{',
    )
    const [data] = (await once(socket, 'data')) as [Buffer]
    expect(data.toString()).toMatch(/^HTTP\/1\.1 408 /)
    socket.destroy()
    await slow.close()
  })

  test('no token, a wrong one, and an open door', async () => {
    const [guarded, where] = await listen({ token: 'secret' })
    const ask = (headers: Record<string, string>) => fetch(`${where}/v1/models`, { headers })
    expect(await failure(await ask({}))).toMatchObject({ status: 401, code: 'invalid_api_key' })
    expect((await ask({ authorization: 'Bearer secret1' })).status).toBe(401)
    expect((await ask({ authorization: 'Bearer secret' })).status).toBe(200)
    for (const open of ['/healthz', '/', '/page.js', '/page.css']) expect((await fetch(where + open)).status).toBe(200)
    expect((await fetch(`${where}/v1/moments`)).status).toBe(401)
    await guarded.close()
    expect(() => createServer(model, { host: '0.0.0.0' })).toThrow(/give a token/)
  })

  test('more requests than it takes', async () => {
    const [small, where] = await listen({ maxRequests: 1 })
    const held = http.request(`${where}/v1/scenes`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', 'content-length': 9 },
    })
    held.on('error', () => undefined)
    held.write('{')
    await expect
      .poll(async () => (await post(`${where}/v1/chat/completions`, '{}')).status, { timeout: 10_000 })
      .toBe(503)
    const refused = await post(`${where}/v1/chat/completions`, '{}')
    expect(refused.headers.get('retry-after')).toBe('1')
    expect(await failure(refused)).toMatchObject({ status: 503, code: 'busy' })
    held.destroy()
    await expect
      .poll(async () => (await post(`${where}/v1/chat/completions`, '{}')).status, { timeout: 10_000 })
      .toBe(400)
    await small.close()
  })

  test('a caller that hung up before its request began has nothing begun for it, and no timer', () => {
    const raw = Object.assign(new EventEmitter(), { destroyed: true })
    expect(signalOf({ raw } as unknown as FastifyReply, 300).aborted).toBe(true)
    expect(raw.listenerCount('close')).toBe(0)
  })

  test('a reader of a stream that vanishes ends its question', async () => {
    const long = { ...chat(), stream: true, temperature: 50, seed: 1, max_tokens: 4000 }
    const gone = new AbortController()
    const response = await fetch(`${base}/v1/chat/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(long),
      signal: gone.signal,
    })
    await response.body!.getReader().read()
    gone.abort()
    await idle()
  })
})

test('twenty clients at once, some of which hang up: the others get the answers of one alone', async () => {
  const questions = [question, 'What is the weather like?', 'Are there any cars in CAM_BACK_RIGHT?']
  const alone = await Promise.all(questions.map(async (one) => (await model.ask(pictures, one)).text))
  const one = async (i: number) => {
    const told = await client.chat.completions.create(chat(questions[i % 3]!))
    expect(told.choices[0]!.message.content).toBe(alone[i % 3])
  }
  const leave = async (i: number) => {
    const signal = AbortSignal.timeout(1 + (i % 7) * 5)
    await client.chat.completions.create(chat(questions[i % 3]!), { signal }).catch(() => undefined)
  }
  await Promise.all(Array.from({ length: 20 }, (_, i) => (i % 5 === 4 ? leave(i) : one(i))))
  await idle()
})

test('metrics, and an end that waits for running answers', async () => {
  const [ending, where] = await listen()
  const running = post(`${where}/v1/chat/completions`, chat())
  await expect
    .poll(async () => (await (await fetch(`${where}/metrics`)).text()).includes('drivlm_pages_total'))
    .toBe(true)
  await ending.close()
  expect((await running).status).toBe(200)
  expect((ending.server.address() as AddressInfo | null) ?? null).toBeNull()
})

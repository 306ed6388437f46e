/** A model over HTTP: OpenAI's chat completions, scenes, health and metrics. */
import { createHash, randomUUID, timingSafeEqual } from 'node:crypto'
import { type FastifyInstance, type FastifyReply, type FastifyRequest, fastify } from 'fastify'
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client'
import type { Answer } from '../answer.ts'
import { ModelError } from '../errors.ts'
import type { Model } from '../model.ts'
import type { Scene } from '../scene.ts'
import { completionOf, namesOf, readChat, streamCompletion } from './chat.ts'
import { RequestError, sendFailure } from './errors.ts'
import { viewsOf } from './pictures.ts'
import { SeenScenes } from './seen-scenes.ts'

export interface ServeOptions {
  host: string
  /** Needed beyond this machine; a bearer token that every request but `/healthz` brings. */
  token?: string | undefined
  /** Requests at one time; what comes on top gets 503. */
  maxRequests: number
  maxBodyBytes: number
  maxPictures: number
  /** Longest time of one request. */
  maxSeconds: number
  /** Scenes of `/v1/scenes`, and scenes that are kept for equal pictures of chats. */
  maxScenes: number
  keptScenes: number
  logger: boolean | object
}

export const serveDefaults: ServeOptions = {
  host: '127.0.0.1',
  maxRequests: 64,
  maxBodyBytes: 32 << 20,
  maxPictures: 20,
  maxSeconds: 300,
  maxScenes: 16,
  keptScenes: 4,
  logger: false,
}

const isLoopback = (host: string): boolean => /^(localhost|\[?::1\]?|127(\.\d+){3})$/.test(host)

const views = {
  description: 'Data URLs by camera name, or a list of them.',
  anyOf: [
    { type: 'object', minProperties: 1, additionalProperties: { type: 'string' } },
    { type: 'array', minItems: 1, items: { type: 'string' } },
  ],
}
const asking = {
  maxNewTokens: { type: 'integer' },
  temperature: { type: 'number' },
  topP: { type: 'number' },
  seed: { type: 'integer' },
  stop: { type: 'array', items: { type: 'string' } },
  logprobs: { type: 'boolean' },
  answerFormat: { type: 'object' },
}
const text = { type: 'string' }
const texts = { type: 'array', minItems: 1, maxItems: 64, items: text }
const bodyOf = (required: Record<string, object>, optional: Record<string, object> = {}) => ({
  type: 'object',
  required: Object.keys(required),
  additionalProperties: false,
  properties: { ...required, ...optional },
})

/** A server for a model, not yet listening. The model stays the caller's. */
export function createServer(model: Model, given: Partial<ServeOptions> = {}): FastifyInstance {
  const options = { ...serveDefaults, ...given }
  const { token, maxSeconds, maxPictures } = options
  if (token === undefined && !isLoopback(options.host)) {
    throw new ModelError(
      'BAD_ARGUMENT',
      `Serving on ${options.host} lets other machines in; give a token (--token) that they must bring, or serve on 127.0.0.1.`,
    )
  }
  const server = fastify({
    bodyLimit: options.maxBodyBytes,
    forceCloseConnections: true, // at the end, once running requests are done: those that are kept alive would hold it back
    requestTimeout: 1000 * maxSeconds,
    http: { connectionsCheckingInterval: 1000, headersTimeout: Math.min(1000 * maxSeconds, 60_000) },
    logger: options.logger,
    ajv: { customOptions: { coerceTypes: false, removeAdditional: false } },
  })
  const scenes = new Map<string, Scene>()
  const seen = new SeenScenes(model, options.keptScenes)
  const metrics = new Metrics(model)
  let running = 0
  let closing = false
  let drained: (() => void) | undefined
  server.addHook('preClose', async () => {
    closing = true
    if (running > 0) {
      await new Promise<void>((resolve) => {
        drained = resolve
      })
    }
  })

  server.setErrorHandler((error, request, reply) => {
    request.log.warn({ error: String(error) }, 'failed')
    return sendFailure(reply, error)
  })
  server.setNotFoundHandler((request, reply) =>
    sendFailure(
      reply,
      new RequestError(404, 'not_found', `There is no ${request.method} ${request.url.slice(0, 100)}.`),
    ),
  )
  server.addHook('onRequest', async (request, reply) => {
    reply.header('x-content-type-options', 'nosniff')
    if (token === undefined && !isLoopback((request.headers.host ?? '').replace(/:\d+$/, ''))) {
      throw new RequestError(403, 'forbidden', 'This server answers requests to localhost alone.')
    }
    if (request.url === '/healthz') return
    if (token !== undefined && !sameToken(request.headers.authorization, token)) {
      reply.header('www-authenticate', 'Bearer')
      throw new RequestError(
        401,
        'invalid_api_key',
        'Expected the token of this server as Authorization: Bearer TOKEN.',
      )
    }
    if (request.method !== 'POST') return
    if (closing) throw new RequestError(503, 'busy', 'This server is ending; ask another one, or later.')
    if (running >= options.maxRequests) {
      metrics.refused.inc()
      throw new RequestError(503, 'busy', `${running} requests are under way, as many as this server takes; try again.`)
    }
    running++
    reply.raw.once('close', () => {
      running--
      if (running === 0) drained?.()
    })
  })
  const paths = openApiPaths(server)

  server.get('/healthz', async () => ({ status: 'ok', model: namesOf(model)[0] }))
  server.get('/metrics', async (_, reply) => {
    reply.type(metrics.registry.contentType)
    return metrics.registry.metrics()
  })
  server.get('/v1/models', async () => ({
    object: 'list',
    data: namesOf(model).map((id) => ({ id, object: 'model', created: 0, owned_by: 'drivlm' })),
  }))
  server.get('/openapi.json', async () => ({
    openapi: '3.1.0',
    info: { title: 'drivlm', version: '1' },
    paths,
  }))

  const chatBody = { type: 'object', required: ['model', 'messages'], properties: { model: text } }
  server.post('/v1/chat/completions', { schema: { body: chatBody } }, async (request, reply) => {
    const chat = readChat(request.body, model, maxPictures)
    const signal = signalOf(reply, maxSeconds)
    const { systemMessage, question } = chat
    return seen.use(chat.views, { systemMessage, text: 'literal' }, async (scene) => {
      const asked = { ...chat.options, signal }
      if (!chat.stream) {
        const answer = await scene.ask(question, asked)
        metrics.answered(answer)
        return completionOf(model, answer)
      }
      const answer = await streamCompletion(model, reply, chat, scene.stream(question, asked), signal)
      if (answer !== undefined) metrics.answered(answer)
      return reply
    })
  })

  const sceneOf = (request: FastifyRequest): Scene => {
    const { id } = request.params as { id: string }
    const scene = scenes.get(id)
    if (scene === undefined) throw new RequestError(404, 'scene_not_found', `There is no scene ${id.slice(0, 60)}.`)
    return scene
  }
  const keep = (scene: Scene) => {
    const id = randomUUID()
    scenes.set(id, scene)
    return { id, ...scene.info }
  }
  const sent = (given: unknown) =>
    viewsOf(
      Array.isArray(given)
        ? given.map((url: unknown) => ({ camera: undefined, url }))
        : Object.entries(given as object).map(([camera, url]) => ({ camera, url })),
      maxPictures,
    )
  const checkScenes = () => {
    if (scenes.size < options.maxScenes) return
    throw new RequestError(503, 'busy', `There are ${scenes.size} scenes, as many as this server keeps; delete one.`)
  }
  const seeBody = bodyOf({ views }, { systemMessage: text, missingViews: { enum: ['error', 'black'] } })
  server.post('/v1/scenes', { schema: { body: seeBody } }, async (request, reply) => {
    checkScenes()
    const { views: given, ...see } = request.body as { views: unknown }
    return keep(await model.see(sent(given).views, { ...see, text: 'literal', signal: signalOf(reply, maxSeconds) }))
  })
  const updateBody = bodyOf({ views: views.anyOf[0]! })
  server.post('/v1/scenes/:id/update', { schema: { body: updateBody } }, async (request, reply) => {
    checkScenes()
    const changed = sent((request.body as { views: unknown }).views).views
    return keep(await sceneOf(request).update(changed as object, { signal: signalOf(reply, maxSeconds) }))
  })
  /** A route about one scene. */
  const about = (
    name: string,
    body: object,
    work: (scene: Scene, sent: Asked, signal: AbortSignal) => Promise<unknown>,
  ) =>
    server.post(`/v1/scenes/:id/${name}`, { schema: { body } }, async (request, reply) =>
      work(sceneOf(request), request.body as Asked, signalOf(reply, maxSeconds)),
    )
  const literal = { text: 'literal' } as const
  about('ask', bodyOf({ question: text }, asking), async (scene, { question, ...rest }, signal) => {
    const answer = await scene.ask(question, { ...rest, ...literal, signal })
    metrics.answered(answer)
    return answer
  })
  about('ask-all', bodyOf({ questions: texts }, asking), async (scene, { questions, ...rest }, signal) => {
    const answers = await scene.askAll(questions, { ...rest, ...literal, signal })
    for (const answer of answers) metrics.answered(answer)
    return { answers }
  })
  const normalise = { enum: [true, false, 'tokens', 'bytes'] }
  const chooseBody = bodyOf({ question: text, choices: texts }, { normalise, withEnd: { type: 'boolean' } })
  about('choose', chooseBody, async (scene, { question, choices, ...rest }, signal) =>
    scene.choose(question, choices, { ...rest, ...literal, signal }),
  )
  about(
    'locate',
    bodyOf({ question: text }, { ...asking, camera: text }),
    async (scene, { question, ...rest }, signal) => {
      const located = await scene.locate(question, { ...rest, ...literal, signal })
      metrics.answered(located.answer)
      return located
    },
  )
  server.delete('/v1/scenes/:id', async (request, reply) => {
    sceneOf(request).dispose()
    scenes.delete((request.params as { id: string }).id)
    return reply.code(204).send()
  })
  return server
}

/** Bodies of the routes about a scene; a schema has checked which fields are there. */
interface Asked {
  question: string
  questions: string[]
  choices: string[]
}

/** Aborted when the caller hangs up, or takes too long. */
function signalOf({ raw }: FastifyReply, seconds: number): AbortSignal {
  const gone = new AbortController()
  raw.once('close', () => gone.abort())
  return AbortSignal.any([gone.signal, AbortSignal.timeout(1000 * seconds)])
}

/** Compares digests, in a time that says nothing of where they differ. */
function sameToken(header: string | undefined, token: string): boolean {
  const digest = (text: string) => createHash('sha256').update(text).digest()
  return timingSafeEqual(digest(header ?? ''), digest(`Bearer ${token}`))
}

/** Fills with the routes that are added to the server, as OpenAPI describes them. */
function openApiPaths(server: FastifyInstance): Record<string, Record<string, object>> {
  const paths: Record<string, Record<string, object>> = {}
  server.addHook('onRoute', ({ method, url, schema }) => {
    const path = url.replace(/:(\w+)/g, '{$1}')
    const id = { name: 'id', in: 'path', required: true, schema: { type: 'string' } }
    for (const one of [method].flat().filter((name) => name !== 'HEAD')) {
      paths[path] ??= {}
      paths[path][one.toLowerCase()] = {
        ...(url.includes(':id') ? { parameters: [id] } : {}),
        ...(schema?.body === undefined
          ? {}
          : { requestBody: { required: true, content: { 'application/json': { schema: schema.body } } } }),
        responses: { default: { description: 'JSON; errors as { error: { message, type, code } }.' } },
      }
    }
  })
  return paths
}

class Metrics {
  readonly registry: Registry = new Registry()
  readonly refused: Counter
  readonly #answers: Counter
  readonly #tokens: Counter
  readonly #firstToken: Histogram

  constructor(model: Model) {
    const registers = [this.registry]
    collectDefaultMetrics({ register: this.registry })
    this.refused = new Counter({ name: 'drivlm_refused_total', help: 'Requests that found the queue full.', registers })
    this.#answers = new Counter({ name: 'drivlm_answers_total', help: 'Answers.', registers })
    this.#tokens = new Counter({ name: 'drivlm_answer_tokens_total', help: 'Tokens of answers.', registers })
    const buckets = [0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30]
    const help = 'Seconds from the question to its first token.'
    this.#firstToken = new Histogram({ name: 'drivlm_first_token_seconds', help, buckets, registers })
    const gauges = {
      pagesUsed: 'Pages of the KV cache in use.',
      pagesTotal: 'Pages of the KV cache.',
      running: 'Questions that are being answered.',
      waiting: 'Questions that wait.',
      scenes: 'Scenes in the KV cache.',
      evicted: 'Scenes that were evicted.',
      tokensPerSecond: 'Tokens of answers a second of decoding, all questions together.',
    } as const
    for (const [key, help] of Object.entries(gauges)) {
      const name = `drivlm_${key.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)}`
      const collect = function (this: Gauge) {
        this.set(model.stats()[key as keyof typeof gauges])
      }
      new Gauge({ name, help, registers, collect })
    }
  }

  answered({ usage, timings }: Answer): void {
    this.#answers.inc()
    this.#tokens.inc(usage.answerTokens)
    this.#firstToken.observe(timings.firstTokenMs / 1000)
  }
}

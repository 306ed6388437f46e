/** A model over HTTP: OpenAI's chat completions, scenes, health and metrics. */
import { isAscii } from 'node:buffer'
import { createHash, timingSafeEqual } from 'node:crypto'
import { type FastifyInstance, fastify } from 'fastify'
import { ModelError } from '../errors.ts'
import type { Model } from '../model.ts'
import { completionOf, namesOf, readChat, streamCompletion } from './chat.ts'
import { RequestError, sendFailure } from './errors.ts'
import { Metrics } from './metrics.ts'
import { addInfoRoutes, addPageRoutes, openPaths } from './page-routes.ts'
import { addSceneRoutes, signalOf } from './scene-routes.ts'
import { SeenScenes } from './seen-scenes.ts'

export interface ServeOptions {
  host: string
  /** Needed beyond this machine; a bearer token that every request but those for the page and `/healthz` brings. */
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
  /** A scene of `/v1/scenes` that was not asked about for so long makes room for a new one. */
  idleSeconds: number
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
  idleSeconds: 600,
  logger: false,
}

const isLoopback = (host: string): boolean => /^(localhost|\[?::1\]?|127(\.\d+){3})$/.test(host)

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

  // Pictures are base64, which is ASCII: as such a body is decoded in a tenth of the time. Own fields named __proto__ stay what they are, for
  // nothing here copies fields by assignment; looking for them would take as long again.
  server.removeContentTypeParser(['application/json', 'text/plain'])
  let turn = Promise.resolve()
  server.addContentTypeParser('application/json', { parseAs: 'buffer' }, async (_: unknown, body: Buffer) => {
    // A request begins in a turn of the event loop of its own: twenty that arrive together would hold it twenty times as long.
    turn = turn.then(() => new Promise((resolve) => setImmediate(resolve)))
    await turn
    const text = body.toString(isAscii(body) ? 'latin1' : 'utf8')
    try {
      return JSON.parse(text)
    } catch (error) {
      throw new RequestError(400, 'bad_json', `The body is no JSON: ${(error as Error).message.slice(0, 200)}`)
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
    if (openPaths.has(request.routeOptions.url ?? '')) return
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
  addPageRoutes(server)
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

  const chatBody = { type: 'object', required: ['model', 'messages'], properties: { model: { type: 'string' } } }
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

  const { maxBodyBytes, maxScenes } = options
  addInfoRoutes(server, model, { maxBodyBytes, maxPictures, maxSeconds, maxScenes })
  addSceneRoutes(server, model, options, metrics)
  return server
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
    const parameters = [...url.matchAll(/:(\w+)/g)].map(([, name]) => ({
      name,
      in: 'path',
      required: true,
      schema: { type: 'string' },
    }))
    for (const one of [method].flat().filter((name) => name !== 'HEAD')) {
      paths[path] ??= {}
      paths[path][one.toLowerCase()] = {
        ...(parameters.length > 0 ? { parameters } : {}),
        ...(schema?.body === undefined
          ? {}
          : { requestBody: { required: true, content: { 'application/json': { schema: schema.body } } } }),
        responses: { default: { description: 'JSON; errors as { error: { message, type, code } }.' } },
      }
    }
  })
  return paths
}

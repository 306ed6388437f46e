/** `/v1/scenes`: pictures are seen once, and then asked about. */
import { randomUUID } from 'node:crypto'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import type { Answer } from '../answer.ts'
import { ModelError } from '../errors.ts'
import type { LocatedBox } from '../locating.ts'
import type { Model } from '../model.ts'
import type { AskOptions } from '../options.ts'
import type { Scene } from '../scene.ts'
import { failureOf, RequestError } from './errors.ts'
import { EventStream } from './event-stream.ts'
import type { Metrics } from './metrics.ts'
import { type SentViews, viewsOf } from './pictures.ts'

export interface SceneLimits {
  maxPictures: number
  maxSeconds: number
  maxScenes: number
  idleSeconds: number
}

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
const stream = {
  type: 'boolean',
  description:
    'Server-sent events: { index, text } as it comes, then { index, answer, boxes, asked }, or { index, error }.',
}
const text = { type: 'string' }
const texts = { type: 'array', minItems: 1, maxItems: 64, items: text }
const bodyOf = (required: Record<string, object>, optional: Record<string, object> = {}) => ({
  type: 'object',
  required: Object.keys(required),
  additionalProperties: false,
  properties: { ...required, ...optional },
})

/** Bodies of the routes about a scene; a schema has checked which fields are there. */
interface Asked {
  question: string
  questions: string[]
  choices: string[]
  stream?: boolean
}

/** An event of a streamed answer; `index` is the number of its question. */
export type AnswerEvent =
  | { index: number; text: string }
  /** The answer, the boxes in it, and those in its question. */
  | { index: number; answer: Answer; boxes: LocatedBox[]; asked: LocatedBox[] }
  | { index: number; error: { message: string; code: string } }

/** Aborted when the caller hangs up, or takes too long. */
export function signalOf({ raw }: FastifyReply, seconds: number): AbortSignal {
  const ended = new AbortController()
  if (raw.destroyed) {
    ended.abort() // it hung up while its request waited for its turn
    return ended.signal
  }
  // Not AbortSignal.timeout: its timers stay for as long as they were set to, and thousands of requests would leave theirs.
  const late = setTimeout(() => ended.abort(), 1000 * seconds)
  raw.once('close', () => {
    clearTimeout(late)
    ended.abort()
  })
  return ended.signal
}

/** Pictures as a body has them. */
function sentViews(given: unknown, most: number): SentViews {
  const pictures = Array.isArray(given)
    ? given.map((url: unknown) => ({ camera: undefined, url }))
    : Object.entries(given as object).map(([camera, url]) => ({ camera, url }))
  return viewsOf(pictures, most)
}

/** Scenes by id. A caller that never deletes its own holds no room for ever. */
class SceneStore {
  readonly #limits: SceneLimits
  /** The one used last stands last. */
  readonly #kept = new Map<string, { scene: Scene; usedAt: number }>()
  #seeing = 0

  constructor(limits: SceneLimits) {
    this.#limits = limits
  }

  async add(see: () => Promise<Scene>): Promise<object> {
    const { maxScenes, idleSeconds } = this.#limits
    if (this.#kept.size + this.#seeing >= maxScenes) {
      const [id, oldest] = this.#kept.entries().next().value ?? []
      if (oldest === undefined || performance.now() - oldest.usedAt < 1000 * idleSeconds) {
        throw new RequestError(503, 'busy', `There are ${maxScenes} scenes, as many as this server keeps; delete one.`)
      }
      this.delete(id!)
    }
    this.#seeing++
    try {
      const scene = await see()
      const id = randomUUID()
      this.#kept.set(id, { scene, usedAt: performance.now() })
      return { id, ...scene.info }
    } finally {
      this.#seeing--
    }
  }

  get(id: string): Scene {
    const kept = this.#kept.get(id)
    if (kept === undefined) throw new RequestError(404, 'scene_not_found', `There is no scene ${id.slice(0, 60)}.`)
    kept.usedAt = performance.now()
    this.#kept.delete(id)
    this.#kept.set(id, kept)
    return kept.scene
  }

  delete(id: string): void {
    this.get(id).dispose()
    this.#kept.delete(id)
  }
}

/** Boxes of a text, where it is clear which picture they lie in. */
function boxesIn(scene: Scene, text: string, question: string): LocatedBox[] {
  try {
    return scene.boxesIn(text, { question })
  } catch (error) {
    if (error instanceof ModelError) return []
    throw error
  }
}

/** Answers as they come. Of one question, an error before the first piece is thrown; all others are events. */
async function streamAnswers(
  reply: FastifyReply,
  scene: Scene,
  questions: readonly string[],
  options: AskOptions & { signal: AbortSignal },
  answered: (answer: Answer) => void,
): Promise<FastifyReply> {
  const events = new EventStream(reply, options.signal)
  const send = (event: AnswerEvent) => events.send(event)
  const streams = questions.map((question) => scene.stream(question, options))
  const follow = async (question: string, index: number) => {
    try {
      for await (const text of streams[index]!) await send({ index, text })
      const answer = await streams[index]!.answer
      answered(answer)
      const [boxes, asked] = [answer.text, question].map((text) => boxesIn(scene, text, question))
      await send({ index, answer, boxes: boxes!, asked: asked! })
    } catch (error) {
      if (questions.length === 1 && !events.started) throw error
      await send({ index, error: failureOf(error).body.error })
    }
  }
  try {
    await Promise.all(questions.map(follow))
  } finally {
    events.end()
  }
  return reply
}

export function addSceneRoutes(server: FastifyInstance, model: Model, limits: SceneLimits, metrics: Metrics): void {
  const { maxPictures, maxSeconds } = limits
  const store = new SceneStore(limits)
  const idOf = (request: FastifyRequest) => (request.params as { id: string }).id
  const seeBody = bodyOf({ views }, { systemMessage: text, missingViews: { enum: ['error', 'black'] } })
  server.post('/v1/scenes', { schema: { body: seeBody } }, async (request, reply) => {
    const { views: given, ...see } = request.body as { views: unknown }
    const sent = sentViews(given, maxPictures)
    return store.add(() => model.see(sent.views, { ...see, text: 'literal', signal: signalOf(reply, maxSeconds) }))
  })
  const updateBody = bodyOf({ views: views.anyOf[0]! })
  server.post('/v1/scenes/:id/update', { schema: { body: updateBody } }, async (request, reply) => {
    const scene = store.get(idOf(request))
    const changed = sentViews((request.body as { views: unknown }).views, maxPictures).views as object
    return store.add(() => scene.update(changed, { signal: signalOf(reply, maxSeconds) }))
  })
  /** A route about one scene. */
  const about = (
    name: string,
    body: object,
    work: (scene: Scene, sent: Asked, signal: AbortSignal, reply: FastifyReply) => Promise<unknown>,
  ) =>
    server.post(`/v1/scenes/:id/${name}`, { schema: { body } }, async (request, reply) =>
      work(store.get(idOf(request)), request.body as Asked, signalOf(reply, maxSeconds), reply),
    )
  const literal = { text: 'literal' } as const
  const answered = (answer: Answer) => metrics.answered(answer)
  about('ask', bodyOf({ question: text }, { ...asking, stream }), async (scene, sent, signal, reply) => {
    const { question, stream, ...rest } = sent
    const options = { ...rest, ...literal, signal }
    if (stream) return streamAnswers(reply, scene, [question], options, answered)
    const answer = await scene.ask(question, options)
    answered(answer)
    return answer
  })
  about('ask-all', bodyOf({ questions: texts }, { ...asking, stream }), async (scene, sent, signal, reply) => {
    const { questions, stream, ...rest } = sent
    const options = { ...rest, ...literal, signal }
    if (stream) return streamAnswers(reply, scene, questions, options, answered)
    const answers = await scene.askAll(questions, options)
    for (const answer of answers) answered(answer)
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
      answered(located.answer)
      return located
    },
  )
  server.delete('/v1/scenes/:id', async (request, reply) => {
    store.delete(idOf(request))
    return reply.code(204).send()
  })
}

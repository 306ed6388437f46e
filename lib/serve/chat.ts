/** OpenAI's chat completions, as its clients speak them: one question about pictures a request. */
import { randomUUID } from 'node:crypto'
import type { FastifyReply } from 'fastify'
import type { Answer } from '../answer.ts'
import type { Model } from '../model.ts'
import type { AskOptions } from '../options.ts'
import type { JsonSchema } from '../structured/schema.ts'
import { isCamera } from '../views/cameras.ts'
import { failureOf, RequestError } from './errors.ts'
import { EventStream } from './event-stream.ts'
import { type SentViews, viewsOf } from './pictures.ts'

/** A chat completion, checked. */
export interface ChatRequest {
  views: SentViews
  systemMessage: string | undefined
  question: string
  options: AskOptions
  stream: boolean
  includeUsage: boolean
}

type Fields = Readonly<Record<string, unknown>>

/** What would change the answer and is taken only where it does not; the last are those of other servers that speak this form. */
const neutrals = {
  n: 1,
  best_of: 1,
  frequency_penalty: 0,
  presence_penalty: 0,
  repetition_penalty: 1,
  min_p: 0,
  top_k: -1,
} as const

const bad = (message: string): RequestError => new RequestError(400, 'bad_argument', message)

/** Reads the body of a request. What would change the answer and is not supported is refused by name. */
export function readChat(body: unknown, model: Model, mostPictures: number): ChatRequest {
  const fields = Object(body) as Fields
  const names = namesOf(model)
  if (!names.includes(fields.model as string)) {
    const found = typeof fields.model === 'string' ? `'${fields.model.slice(0, 100)}'` : 'none'
    throw new RequestError(
      404,
      'model_not_found',
      `This server has the model ${names.join(' or ')}; ${found} was asked for.`,
    )
  }
  for (const [name, neutral] of Object.entries(neutrals)) {
    const value = fields[name] ?? neutral
    if (value !== neutral) throw bad(`${name}: only ${neutral} is supported here; leave it out.`)
  }
  if (Object.keys(Object(fields.logit_bias)).length > 0) throw bad('logit_bias is not supported; leave it out.')
  for (const [name, value] of [
    ['stream', fields.stream ?? false],
    ['stream_options.include_usage', (Object(fields.stream_options) as Fields).include_usage ?? false],
  ]) {
    if (typeof value !== 'boolean') throw bad(`${name}: expected true or false.`)
  }
  const tools = fields.tools ?? fields.functions
  if (Array.isArray(tools) && tools.length > 0) throw bad('tools are not supported; ask for JSON by response_format.')
  if (typeof fields.top_logprobs === 'number' && fields.top_logprobs > 0) {
    throw bad('top_logprobs: only the tokens of the answer have a logprob here; leave it out.')
  }
  const { system, question, pictures } = readMessages(fields.messages)
  return {
    views: viewsOf(pictures, mostPictures),
    systemMessage: system,
    question,
    options: askOptionsOf(fields),
    stream: fields.stream === true,
    includeUsage: (Object(fields.stream_options) as Fields).include_usage === true,
  }
}

/** What the loaded model is called. */
export function namesOf({ info }: Model): string[] {
  return info.repository === undefined ? [info.name] : [info.repository, info.name]
}

function readMessages(messages: unknown) {
  if (!Array.isArray(messages) || messages.length === 0) throw bad('messages: expected a list of messages.')
  const roles = messages.map((message) => (Object(message) as Fields).role)
  const systems = roles.filter((role) => role === 'system' || role === 'developer').length
  if (systems > 1 || roles.length !== systems + 1 || roles.at(-1) !== 'user') {
    throw bad(
      'messages: expected a system message, if any, and one user message with pictures and a question. A conversation is not continued over HTTP; ask each question with the pictures, which are seen once.',
    )
  }
  const system = systems === 0 ? undefined : textOf((messages[0] as Fields).content)
  const { content } = messages.at(-1) as Fields
  const parts: unknown[] = Array.isArray(content) ? content : [{ type: 'text', text: content }]
  const texts: string[] = []
  const pictures: { camera: string | undefined; url: unknown }[] = []
  let camera: string | undefined
  for (const one of parts) {
    const part = Object(one) as Fields
    if (part.type === 'text' && typeof part.text === 'string') {
      // A text that is a camera's name says which camera the next picture is of.
      const name = part.text.trim().replace(/:$/, '')
      if (isCamera(name)) camera = name
      else texts.push(part.text)
    } else if (part.type === 'image_url') {
      const { image_url } = part
      pictures.push({ camera, url: typeof image_url === 'string' ? image_url : (Object(image_url) as Fields).url })
      camera = undefined
    } else throw bad('messages: expected parts of type text and image_url.')
  }
  const question = texts.join('\n').trim()
  if (question === '') throw bad('messages: the user message has no question.')
  return { system, question, pictures }
}

function textOf(content: unknown): string {
  if (typeof content === 'string') return content
  const parts: Fields[] = Array.isArray(content) ? content.map((part) => Object(part) as Fields) : []
  if (parts.length > 0 && parts.every(({ type, text }) => type === 'text' && typeof text === 'string')) {
    return parts.map(({ text }) => text).join('\n')
  }
  throw bad('messages: expected text in the system message.')
}

function askOptionsOf(fields: Fields): AskOptions {
  const { temperature, top_p, seed, stop, logprobs } = fields
  const most = fields.max_completion_tokens ?? fields.max_tokens
  // The library checks every value; null is what some clients send for nothing.
  const given = { maxNewTokens: most, temperature, topP: top_p, seed, stop, logprobs }
  const options = Object.fromEntries(Object.entries(given).filter(([, value]) => (value ?? undefined) !== undefined))
  const { type, json_schema } = (fields.response_format ?? { type: 'text' }) as Fields
  if (type === 'json_object') throw bad('response_format: json_object says no form; use json_schema.')
  if (type !== 'text' && type !== 'json_schema') throw bad('response_format: expected a type, text or json_schema.')
  const answerFormat = type === 'json_schema' ? schemaOf(json_schema) : undefined
  return { text: 'literal', ...options, ...(answerFormat === undefined ? {} : { answerFormat }) }
}

function schemaOf(given: unknown): { schema: JsonSchema } {
  const { schema } = Object(given) as Fields
  if (typeof schema !== 'object' || schema === null)
    throw bad('response_format: expected json_schema.schema, an object.')
  // Clients add the dialect that they wrote the schema in.
  const { $schema: _, ...rest } = schema as Fields
  return { schema: rest as JsonSchema }
}

const finishOf = ({ finishReason }: Answer): string => (finishReason === 'length' ? 'length' : 'stop')

function usageOf({ usage: { promptTokens, answerTokens } }: Answer) {
  return { prompt_tokens: promptTokens, completion_tokens: answerTokens, total_tokens: promptTokens + answerTokens }
}

function logprobsOf({ logprobs }: Answer) {
  if (logprobs === undefined) return null
  const content = logprobs.map(({ text, logprob }) => ({
    token: text,
    logprob: logprob ?? 0, // the form left no choice
    bytes: [...Buffer.from(text)],
    top_logprobs: [],
  }))
  return { content, refusal: null }
}

const headOf = (model: Model, object: string) => ({
  id: `chatcmpl-${randomUUID()}`,
  object,
  created: Math.floor(Date.now() / 1000),
  model: namesOf(model)[0],
})

export function completionOf(model: Model, answer: Answer): object {
  const message = { role: 'assistant', content: answer.text, refusal: null }
  const choice = { index: 0, message, logprobs: logprobsOf(answer), finish_reason: finishOf(answer) }
  return { ...headOf(model, 'chat.completion'), choices: [choice], usage: usageOf(answer), timings: answer.timings }
}

/** Server-sent events of an answer. Errors before the first piece are thrown; later ones are an event. */
export async function streamCompletion(
  model: Model,
  reply: FastifyReply,
  { includeUsage }: ChatRequest,
  stream: AsyncIterator<string> & { readonly answer: Promise<Answer> },
  signal: AbortSignal,
): Promise<Answer | undefined> {
  let piece = await stream.next()
  const events = new EventStream(reply, signal)
  const head = headOf(model, 'chat.completion.chunk')
  const chunk = (delta: object, rest: object = {}) => ({
    ...head,
    choices: [{ index: 0, delta, logprobs: null, finish_reason: null, ...rest }],
    ...(includeUsage ? { usage: null } : {}),
  })
  try {
    await events.send(chunk({ role: 'assistant', content: '' }))
    for (; !piece.done && !signal.aborted; piece = await stream.next())
      await events.send(chunk({ content: piece.value }))
    const answer = await stream.answer
    await events.send(chunk({}, { finish_reason: finishOf(answer), logprobs: logprobsOf(answer) }))
    if (includeUsage) await events.send({ ...head, choices: [], usage: usageOf(answer) })
    await events.send('[DONE]')
    return answer
  } catch (error) {
    await events.send(failureOf(error).body)
    return undefined
  } finally {
    events.end()
  }
}

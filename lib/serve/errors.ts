/** Errors as OpenAI's clients read them. */
import type { FastifyReply } from 'fastify'
import { type ErrorCode, ModelError } from '../errors.ts'

/** An error of a request that no library call raised. */
export class RequestError extends Error {
  readonly status: number
  readonly code: string

  constructor(status: number, code: string, message: string) {
    super(message)
    this.status = status
    this.code = code
  }
}

const statuses: Partial<Record<ErrorCode, number>> = {
  BAD_ARGUMENT: 400,
  BAD_VIEW: 400,
  CONTEXT_OVERFLOW: 400,
  BUSY: 503,
  OUT_OF_MEMORY: 503,
  DISPOSED: 503,
  DEVICE_LOST: 503,
  ABORTED: 504,
}

export interface Failure {
  status: number
  body: { error: { message: string; type: string; param: null; code: string } }
}

/** Status and body for an error; of bugs only that there was one. */
export function failureOf(error: unknown): Failure {
  const of = (status: number, code: string, message: string): Failure => {
    const type = status < 500 ? 'invalid_request_error' : 'server_error'
    return { status, body: { error: { message, type, param: null, code } } }
  }
  if (error instanceof RequestError) return of(error.status, error.code, error.message)
  if (error instanceof ModelError) {
    const status = statuses[error.code] ?? 500
    return of(status, error.code.toLowerCase(), error.message)
  }
  const { statusCode, code, message } = Object(error) as { statusCode?: unknown; code?: unknown; message?: unknown }
  if (typeof statusCode === 'number' && statusCode >= 400 && statusCode < 500) {
    return of(statusCode, String(code ?? 'bad_request').toLowerCase(), String(message).slice(0, 500))
  }
  return of(500, 'internal', 'The server failed at this request; its log says more.')
}

export function sendFailure(reply: FastifyReply, error: unknown): FastifyReply {
  const { status, body } = failureOf(error)
  if (status === 503) reply.header('retry-after', '1')
  return reply.code(status).send(body)
}

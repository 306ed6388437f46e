/** Requests to the server that this page came from. */
import type { AnswerEvent } from '../scene-routes.ts'

/** What the server refused, or that it is not there, as a sentence. */
export class Failure extends Error {
  readonly code: string

  constructor(code: string, message: string) {
    super(message)
    this.code = code
  }
}

/** Asks the person for the token; `wrong` if one was tried. */
type AskForToken = (wrong: boolean) => Promise<string>

export class Api {
  readonly #askForToken: AskForToken
  /** In memory alone. */
  #token: string | undefined
  #asking: Promise<void> | undefined

  constructor(askForToken: AskForToken) {
    this.#askForToken = askForToken
  }

  /** A response that is well; all others are thrown. */
  async request(path: string, init: RequestInit = {}): Promise<Response> {
    for (;;) {
      const token = this.#token
      const headers = new Headers(init.headers)
      if (token !== undefined) headers.set('authorization', `Bearer ${token}`)
      const response = await fetch(path, { ...init, headers }).catch((error: Error) => {
        if (error.name === 'AbortError') throw error
        throw new Failure('unreachable', 'The server does not answer. Is it still running?')
      })
      if (response.ok) return response
      if (response.status !== 401) throw await failureOf(response)
      // Another request may have asked in the meantime.
      if (token === this.#token) {
        this.#asking ??= this.#askForToken(token !== undefined)
          .then((given) => {
            this.#token = given
          })
          .finally(() => {
            this.#asking = undefined
          })
        await this.#asking
      }
    }
  }

  async get<T>(path: string): Promise<T> {
    return (await this.request(path)).json() as Promise<T>
  }

  async post<T>(path: string, body: unknown, signal: AbortSignal): Promise<T> {
    return (await this.request(path, posting(body, signal))).json() as Promise<T>
  }

  /** Events of a streamed answer. */
  async *events(path: string, body: unknown, signal: AbortSignal): AsyncGenerator<AnswerEvent> {
    const { body: bytes } = await this.request(path, posting(body, signal))
    let rest = ''
    for await (const piece of texts(bytes!)) {
      const parts = (rest + piece).split('\n\n')
      rest = parts.pop()!
      for (const part of parts) if (part.startsWith('data: ')) yield JSON.parse(part.slice(6)) as AnswerEvent
    }
  }

  /** Without waiting, also while the page is being left. */
  forget(path: string): void {
    const headers = this.#token === undefined ? {} : { authorization: `Bearer ${this.#token}` }
    fetch(path, { method: 'DELETE', keepalive: true, headers }).catch(() => undefined)
  }
}

const posting = (body: unknown, signal: AbortSignal): RequestInit => ({
  method: 'POST',
  headers: { 'content-type': 'application/json' },
  body: JSON.stringify(body),
  signal,
})

async function failureOf(response: Response): Promise<Failure> {
  const { error } = ((await response.json().catch(() => undefined)) ?? {}) as { error?: Partial<Failure> }
  return new Failure(error?.code ?? 'unknown', error?.message ?? `The server answered with status ${response.status}.`)
}

/** Safari's streams are no async iterables. */
async function* texts(bytes: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  const reader = bytes.getReader()
  const decoder = new TextDecoder()
  try {
    for (let read = await reader.read(); !read.done; read = await reader.read()) {
      yield decoder.decode(read.value, { stream: true })
    }
  } finally {
    reader.releaseLock()
  }
}

/** A WebSocket to a robot that is opened again when it closes, later each time. */
import type { ClientOptions, RawData, WebSocket } from 'ws'
import { ModelError } from '../errors.ts'
import { visible } from '../logs/files.ts'

/** Largest message that is taken: a picture of 72 MiB, as in logs, with what stands around it. */
const maxPayload = 80 * 1024 * 1024

/** Times, in milliseconds. */
export interface ConnectionTimes {
  /** From a lost connection to the next try, at first and at most; it doubles from try to try. */
  backOffMs: number
  mostBackOffMs: number
  /** Longest handshake. */
  handshakeMs: number
  /** A connection on which nothing comes for so long is asked whether it is there; for twice as long it is not. */
  silenceMs: number
}

export const connectionTimes: ConnectionTimes = {
  backOffMs: 500,
  mostBackOffMs: 10_000,
  handshakeMs: 10_000,
  silenceMs: 10_000,
}

/** What happens on a connection. What these throw is a warning, and ends nothing. */
export interface ConnectionEvents {
  /** It is open; `send` sends JSON. */
  onOpen: (send: (message: object) => void, protocol: string) => void
  onText: (text: string) => void
  onBinary: (data: Uint8Array) => void
  /** It is lost. */
  onClose: () => void
  onStatus: (status: string) => void
  onWarning: (warning: string) => void
}

/** @throws {@link ModelError} `BAD_ARGUMENT` unless it is the address of a WebSocket. */
export function checkAddress(url: unknown): URL {
  const parsed = typeof url === 'string' && URL.canParse(url) ? new URL(url) : undefined
  if (parsed !== undefined && /^wss?:$/.test(parsed.protocol) && parsed.hash === '') return parsed
  const found = typeof url === 'string' ? visible(url, 100) : typeof url
  throw new ModelError('BAD_ARGUMENT', `Expected an address such as ws://robot:8765, received ${found}.`)
}

export class Connection {
  readonly #url: URL
  /** As it is said: without a password. */
  readonly #place: string
  readonly #protocols: string[]
  readonly #events: ConnectionEvents
  readonly #times: ConnectionTimes
  #socket: WebSocket | undefined
  #timer: NodeJS.Timeout | undefined
  #alive: NodeJS.Timeout | undefined
  #backOffMs: number
  #stopped = false

  constructor(url: URL, protocols: string[], events: ConnectionEvents, times: Partial<ConnectionTimes> = {}) {
    this.#url = url
    this.#place = placeOf(url)
    this.#protocols = protocols
    this.#events = events
    this.#times = { ...connectionTimes, ...times }
    this.#backOffMs = this.#times.backOffMs
  }

  async start(): Promise<void> {
    const { WebSocket } = await import('ws')
    if (this.#stopped) return
    const options: ClientOptions = {
      maxPayload,
      perMessageDeflate: false, // pictures are compressed, and a small message cannot grow
      handshakeTimeout: this.#times.handshakeMs,
    }
    const socket = new WebSocket(this.#url, this.#protocols, options)
    this.#socket = socket
    socket.binaryType = 'nodebuffer'
    let failure = ''
    socket.on('open', () => {
      const protocol = socket.protocol === '' ? '' : ` (${visible(socket.protocol, 40)})`
      this.#events.onStatus(`Connected to ${this.#place}${protocol}.`)
      const send = (message: object) => socket.send(JSON.stringify(message), () => undefined)
      this.#guard(() => this.#events.onOpen(send, socket.protocol))
      this.#watchSilence(socket)
    })
    socket.on('message', (data: RawData, binary: boolean) => {
      this.#backOffMs = this.#times.backOffMs // it is one that works
      const bytes = data as Buffer
      this.#guard(() => (binary ? this.#events.onBinary(bytes) : this.#events.onText(bytes.toString('utf8'))))
    })
    socket.on('error', (error) => {
      failure = adviceOf(error as NodeJS.ErrnoException)
    })
    socket.on('close', (code, reason) => {
      clearInterval(this.#alive)
      if (this.#stopped) return
      this.#events.onClose()
      const why = failure || (reason.length > 0 ? visible(reason.toString('utf8'), 100) : `code ${code}`)
      this.#again(why)
    })
  }

  stop(): void {
    this.#stopped = true
    clearTimeout(this.#timer)
    clearInterval(this.#alive)
    this.#socket?.terminate()
  }

  #again(why: string): void {
    const waitMs = this.#backOffMs
    this.#backOffMs = Math.min(2 * waitMs, this.#times.mostBackOffMs)
    this.#events.onStatus(`Not connected to ${this.#place}: ${why}; next try in ${waitMs / 1000} s.`)
    this.#timer = setTimeout(() => void this.start(), waitMs)
  }

  /** A robot that drove out of reach closes nothing. */
  #watchSilence(socket: WebSocket): void {
    let silent = 0
    const heard = () => {
      silent = 0
    }
    socket.on('message', heard).on('pong', heard).on('ping', heard)
    this.#alive = setInterval(() => {
      silent++
      if (silent > 2) socket.terminate()
      else if (silent > 1) socket.ping(undefined, undefined, () => undefined)
    }, this.#times.silenceMs)
  }

  /** A message that cannot be read costs itself. */
  #guard(body: () => void): void {
    try {
      body()
    } catch (error) {
      this.#events.onWarning(`A message of the server was left out: ${visible((error as Error).message)}.`)
    }
  }
}

function placeOf(url: URL): string {
  const shown = new URL(url)
  shown.username = ''
  shown.password = ''
  return shown.href
}

function adviceOf(error: NodeJS.ErrnoException): string {
  switch (error.code) {
    case 'ECONNREFUSED':
      return 'nothing listens there'
    case 'ENOTFOUND':
    case 'EAI_AGAIN':
      return 'the name of the host is not known'
    case 'WS_ERR_UNSUPPORTED_MESSAGE_LENGTH':
      return `it sent a message of more than ${maxPayload / 2 ** 20} MiB`
    default:
      return visible(error.message, 100)
  }
}

/**
 * An object of JSON.
 *
 * @throws Error if it is none, or too long.
 */
export function parseObject(text: string): Readonly<Record<string, unknown>> {
  const found: unknown = JSON.parse(text)
  if (typeof found === 'object' && found !== null && !Array.isArray(found)) return found as Record<string, unknown>
  throw new Error('it is no object of JSON')
}

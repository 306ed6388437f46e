/** Answers as channels of Foxglove's WebSocket protocol: Foxglove and Lichtblick connect to it as they do to a robot. */
import type { AddressInfo } from 'node:net'
import { ModelError } from '../errors.ts'
import { type AnsweredMoment, answerMessages, answerSchemas } from '../logs/answers.ts'
import { parseObject } from './connection.ts'
import { messageData, subprotocols } from './foxglove.ts'

/** Most clients at one time. */
const mostClients = 32
/** Clients only say what they want. */
const maxPayload = 64 * 1024
const mostSubscriptions = 1000
/** A client that reads so slowly that this waits for it gets nothing more until it has read it. */
const mostWaitingBytes = 4 * 1024 * 1024

interface AnswerChannel {
  id: number
  topic: string
  schemaName: string
}

/** Options of {@link serveAnswers}. */
export interface AnswerServerOptions {
  /** Default 8766; 0 takes a free one. */
  port?: number | undefined
  /** Default `127.0.0.1`: this machine only. */
  host?: string | undefined
}

/**
 * Serves answers on a port.
 *
 * @throws {@link ModelError} `BAD_ARGUMENT` if the port cannot be had.
 */
export async function serveAnswers({
  port = 8766,
  host = '127.0.0.1',
}: AnswerServerOptions = {}): Promise<AnswerServer> {
  const { WebSocketServer } = await import('ws')
  const server = new WebSocketServer({
    port,
    host,
    maxPayload,
    perMessageDeflate: false,
    handleProtocols: (offered) => subprotocols.find((name) => offered.has(name)) ?? false,
  })
  await new Promise<void>((resolve, reject) => {
    server.once('listening', resolve)
    server.once('error', (error: NodeJS.ErrnoException) => {
      reject(
        new ModelError('BAD_ARGUMENT', `Port ${port} of ${host} cannot be served on (${error.code}); give another.`, {
          cause: error,
        }),
      )
    })
  })
  return new AnswerServer(server)
}

/** The part of a socket of `ws` that is used: users of the types need not have its own. */
interface ClientSocket {
  readonly protocol: string
  readonly bufferedAmount: number
  on(event: 'message', listener: (data: unknown, binary: boolean) => void): unknown
  on(event: 'error' | 'close', listener: () => void): unknown
  send(data: string | Uint8Array, done: () => void): void
  close(code: number, reason: string): void
  terminate(): void
}

/** The part of a server of `ws` that is used. */
interface ListeningServer {
  on(event: 'connection', listener: (socket: ClientSocket) => void): unknown
  on(event: 'error', listener: (error: Error) => void): unknown
  address(): AddressInfo | string | null
  close(done: () => void): void
}

/** A server of answers, made by {@link serveAnswers}. */
export class AnswerServer {
  /** Where it listens, such as `ws://127.0.0.1:8766`. */
  readonly url: string
  readonly #server: ListeningServer
  readonly #channels = new Map<string, AnswerChannel>()
  /** Of each client: its subscriptions by channel. */
  readonly #clients = new Map<ClientSocket, Map<number, number>>()

  /** Comes from {@link serveAnswers}. */
  constructor(server: ListeningServer) {
    this.#server = server
    const { address, family, port } = server.address() as AddressInfo
    this.url = `ws://${family === 'IPv6' ? `[${address}]` : address}:${port}`
    this.#channel('/drivlm/answers', 'drivlm.Answer')
    this.#channel('/drivlm/log', 'foxglove.Log')
    server.on('connection', (socket) => this.#welcome(socket))
    server.on('error', () => undefined)
  }

  /** Sends what was answered about a moment to those who want it. */
  send(moment: AnsweredMoment): void {
    for (const { topic, schema, time, content } of answerMessages(moment)) {
      if (schema === 'drivlm.Moment') continue
      const { id } = this.#channel(topic, schema)
      let message: Buffer | undefined
      for (const [socket, subscriptions] of this.#clients) {
        const subscription = subscriptions.get(id)
        if (subscription === undefined || socket.bufferedAmount > mostWaitingBytes) continue
        message ??= messageOf(BigInt(time.sec) * 1_000_000_000n + BigInt(time.nsec), content)
        const own = Buffer.from(message)
        own.writeUInt32LE(subscription, 1)
        socket.send(own, () => undefined)
      }
    }
  }

  /** Ends all connections; resolves when the port is free. */
  async close(): Promise<void> {
    for (const socket of this.#clients.keys()) socket.terminate()
    await new Promise<void>((resolve) => this.#server.close(() => resolve()))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  #channel(topic: string, schemaName: string): AnswerChannel {
    const known = this.#channels.get(topic)
    if (known !== undefined) return known
    const channel = { id: this.#channels.size + 1, topic, schemaName }
    this.#channels.set(topic, channel)
    for (const socket of this.#clients.keys()) say(socket, { op: 'advertise', channels: [advertised(channel)] })
    return channel
  }

  #welcome(socket: ClientSocket): void {
    socket.on('error', () => undefined)
    if (socket.protocol === '' || this.#clients.size >= mostClients) {
      const why =
        socket.protocol === '' ? `expected one of the subprotocols ${subprotocols.join(', ')}` : 'too many clients'
      socket.close(socket.protocol === '' ? 1002 : 1013, why)
      return
    }
    const subscriptions = new Map<number, number>()
    this.#clients.set(socket, subscriptions)
    socket.on('close', () => this.#clients.delete(socket))
    socket.on('message', (data, binary) => {
      try {
        if (!binary) onRequest(parseObject(String(data)), subscriptions)
      } catch (error) {
        say(socket, {
          op: 'status',
          level: 2,
          message: `A message was not understood: ${(error as Error).message.slice(0, 100)}`,
        })
      }
    })
    say(socket, { op: 'serverInfo', name: 'drivlm', capabilities: [], supportedEncodings: ['json'], metadata: {} })
    say(socket, { op: 'advertise', channels: [...this.#channels.values()].map(advertised) })
  }
}

function onRequest(
  { op, subscriptions, subscriptionIds }: Readonly<Record<string, unknown>>,
  own: Map<number, number>,
): void {
  if (op === 'subscribe' && Array.isArray(subscriptions)) {
    for (const one of subscriptions) {
      const { id, channelId } = Object(one) as Record<string, unknown>
      if (!isId(id) || !isId(channelId)) throw new Error('a subscription has an id and a channelId')
      if (own.size < mostSubscriptions) own.set(channelId, id)
    }
  } else if (op === 'unsubscribe' && Array.isArray(subscriptionIds)) {
    for (const [channel, id] of own) if (subscriptionIds.includes(id)) own.delete(channel)
  }
}

function isId(value: unknown): value is number {
  return Number.isInteger(value) && (value as number) >= 0 && (value as number) < 2 ** 32
}

function advertised({ id, topic, schemaName }: AnswerChannel): object {
  const schema = JSON.stringify(answerSchemas[schemaName])
  return { id, topic, encoding: 'json', schemaName, schema, schemaEncoding: 'jsonschema' }
}

/** Its subscription is filled in for each client. */
function messageOf(time: bigint, content: object): Buffer {
  const head = Buffer.alloc(13)
  head.writeUInt8(messageData, 0)
  head.writeBigUInt64LE(time, 5)
  return Buffer.concat([head, Buffer.from(JSON.stringify(content))])
}

function say(socket: ClientSocket, message: object): void {
  socket.send(JSON.stringify(message), () => undefined)
}

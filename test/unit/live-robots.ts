/** Robots for tests: servers of Foxglove's protocol and of rosbridge, on ports of this machine. */
import { readFileSync } from 'node:fs'
import type { AddressInfo } from 'node:net'
import { FoxgloveServer } from '@foxglove/ws-protocol'
import { type WebSocket, WebSocketServer } from 'ws'
import { cameras } from '../../lib/views/cameras.ts'
import { cdrCompressed } from './logs-files.ts'

/** The picture of a bundled moment. */
export function pictureOf(camera: string, moment: string): Buffer {
  return readFileSync(`models/street-tiny/moments/${moment}/${camera}.png`)
}

export function topicOf(camera: string): string {
  return `/${camera.slice(4).toLowerCase()}/image_raw/compressed`
}

/** A picture as ROS 2 has it, of so many milliseconds. */
export function picture(camera: string, moment: string, ms: number): Buffer {
  const stamp = { sec: Math.floor(ms / 1000), nsec: (ms % 1000) * 1e6 }
  return cdrCompressed(pictureOf(camera, moment), { ...stamp, frame: camera.toLowerCase(), format: 'png' })
}

async function listening(server: WebSocketServer): Promise<string> {
  if (server.address() === null) await new Promise((resolve) => server.once('listening', resolve))
  return `ws://127.0.0.1:${(server.address() as AddressInfo).port}`
}

async function closed(server: WebSocketServer): Promise<void> {
  for (const socket of server.clients) socket.terminate()
  await new Promise((resolve) => server.close(resolve))
}

/** A robot with a server of Foxglove's protocol, by their own implementation. */
export class FoxgloveRobot {
  readonly server: FoxgloveServer = new FoxgloveServer({ name: 'robot' })
  readonly sockets: WebSocketServer
  readonly subscribed = new Set<number>()
  readonly channels = new Map<string, number>()
  #changed: (() => void)[] = []

  constructor(protocol = 'foxglove.sdk.v1', port = 0) {
    const handleProtocols = (offered: Set<string>) => (offered.has(protocol) ? protocol : false)
    this.sockets = new WebSocketServer({ port, host: '127.0.0.1', handleProtocols })
    this.sockets.on('connection', (socket) => this.server.handleConnection(socket as never, 'client'))
    const tell = () => {
      for (const resolve of this.#changed.splice(0)) resolve()
    }
    this.server.on('subscribe', (id) => {
      this.subscribed.add(id)
      tell()
    })
    this.server.on('unsubscribe', (id) => {
      this.subscribed.delete(id)
      tell()
    })
    this.sockets.on('connection', tell)
  }

  url(): Promise<string> {
    return listening(this.sockets)
  }

  advertise(...names: string[]): this {
    for (const camera of names) {
      const schema = { schemaName: 'sensor_msgs/msg/CompressedImage', schema: '', schemaEncoding: 'ros2msg' }
      this.channels.set(camera, this.server.addChannel({ topic: topicOf(camera), encoding: 'cdr', ...schema }))
    }
    return this
  }

  /** Waits until something of the clients is so. */
  async until(done: () => boolean): Promise<void> {
    while (!done()) await new Promise<void>((resolve) => this.#changed.push(resolve))
  }

  async ready(count: number = this.channels.size): Promise<void> {
    await this.until(() => this.subscribed.size === count)
  }

  send(camera: string, data: Uint8Array, ms: number): void {
    this.server.sendMessage(this.channels.get(camera)!, BigInt(ms) * 1_000_000n, data as Uint8Array<ArrayBuffer>)
  }

  /** Pictures of all cameras, a few milliseconds apart. */
  show(moment: string, ms: number, names: readonly string[] = cameras): void {
    for (const [place, camera] of names.entries()) this.send(camera, picture(camera, moment, ms + 7 * place), ms + 50)
  }

  /** To all clients, past the protocol. */
  raw(send: (socket: WebSocket) => void): void {
    for (const socket of this.sockets.clients) send(socket)
  }

  close(): Promise<void> {
    return closed(this.sockets)
  }
}

/** A value in CBOR: text, bytes, whole numbers, records. */
export function cbor(value: unknown): Buffer {
  const head = (major: number, size: number) => {
    const made = Buffer.alloc(9)
    if (size < 24) return made.fill((major << 5) | size, 0, 1).subarray(0, 1)
    if (size < 65_536) {
      made.writeUInt8((major << 5) | 25)
      made.writeUInt16BE(size, 1)
      return made.subarray(0, 3)
    }
    made.writeUInt8((major << 5) | 26)
    made.writeUInt32BE(size, 1)
    return made.subarray(0, 5)
  }
  if (typeof value === 'number') return head(0, value)
  if (typeof value === 'string') return Buffer.concat([head(3, Buffer.byteLength(value)), Buffer.from(value)])
  if (value instanceof Uint8Array) return Buffer.concat([head(2, value.length), value])
  const entries = Object.entries(value as object)
  return Buffer.concat([head(5, entries.length), ...entries.flat().map(cbor)])
}

interface RosbridgeRequest {
  op: string
  id?: string
  topic?: string
  type?: string
  compression?: string
  queue_length?: number
}

/** A robot with rosbridge. */
export class RosbridgeRobot {
  readonly sockets: WebSocketServer
  readonly requests: RosbridgeRequest[] = []
  /** What `/rosapi/topics` says; undefined where rosapi does not run. */
  topics: Record<string, string> | undefined
  #changed: (() => void)[] = []

  constructor(topics?: Record<string, string>) {
    this.topics = topics
    this.sockets = new WebSocketServer({ port: 0, host: '127.0.0.1' })
    this.sockets.on('connection', (socket) => {
      socket.on('message', (data) => {
        const request = JSON.parse(String(data)) as RosbridgeRequest
        this.requests.push(request)
        if (request.op === 'call_service') socket.send(JSON.stringify(this.#topicsAnswer(request.id)))
        for (const resolve of this.#changed.splice(0)) resolve()
      })
    })
  }

  url(): Promise<string> {
    return listening(this.sockets)
  }

  get subscriptions(): RosbridgeRequest[] {
    return this.requests.filter(({ op }) => op === 'subscribe')
  }

  async ready(count: number): Promise<void> {
    while (this.subscriptions.length < count) await new Promise<void>((resolve) => this.#changed.push(resolve))
  }

  send(message: object | Buffer): void {
    for (const socket of this.sockets.clients)
      socket.send(message instanceof Buffer ? message : JSON.stringify(message))
  }

  /** A message in the form that cbor-raw has. */
  sendRaw(topic: string, bytes: Uint8Array, ms: number): void {
    const clock = { secs: Math.floor(ms / 1000), nsecs: (ms % 1000) * 1e6 }
    this.send(cbor({ op: 'publish', topic, msg: { ...clock, bytes } }))
  }

  close(): Promise<void> {
    return closed(this.sockets)
  }

  #topicsAnswer(id: string | undefined): object {
    const answer = { op: 'service_response', service: '/rosapi/topics', id }
    if (this.topics === undefined) return { ...answer, values: 'Service /rosapi/topics does not exist', result: false }
    return { ...answer, values: { topics: Object.keys(this.topics), types: Object.values(this.topics) }, result: true }
  }
}

/** A response of server-sent events. */
import { once } from 'node:events'
import type { FastifyReply } from 'fastify'

/**
 * The head of the response goes out with the first event: an error before it still has a status. Sending waits for a slow reader, so that
 * no buffer grows for it.
 */
export class EventStream {
  readonly #reply: FastifyReply
  readonly #signal: AbortSignal
  #started = false
  #drained: Promise<unknown> | undefined

  constructor(reply: FastifyReply, signal: AbortSignal) {
    this.#reply = reply
    this.#signal = signal
  }

  get started(): boolean {
    return this.#started
  }

  async send(data: unknown): Promise<void> {
    const { raw } = this.#reply
    if (!this.#started) {
      this.#started = true
      const headers = this.#reply.getHeaders()
      this.#reply.hijack()
      const type = { 'content-type': 'text/event-stream; charset=utf-8', 'cache-control': 'no-store' }
      raw.writeHead(200, { ...headers, ...type } as Record<string, string>)
    }
    if (raw.write(`data: ${typeof data === 'string' ? data : JSON.stringify(data)}\n\n`)) return
    this.#drained ??= once(raw, 'drain', { signal: this.#signal })
      .catch(() => undefined)
      .finally(() => {
        this.#drained = undefined
      })
    await this.#drained
  }

  end(): void {
    if (this.#started) this.#reply.raw.end()
  }
}

/** An answer as an async iterable of text. */
import type { Answer } from './answer.ts'
import type { AskSettings } from './options.ts'

/** Starts the work: `onText` gets the pieces, `leave` asks for an early end. */
export type StartAnswer = (onText: (text: string) => void, leave: AbortSignal) => Promise<Answer>

/** What the work writes and the reader reads. It knows nothing of the stream, which may be dropped before it is read to its end. */
class Channel {
  readonly leaving: AbortController = new AbortController()
  #text = ''
  #ended = false
  #error: { error: unknown } | undefined
  #wake: (() => void) | undefined

  push(text: string): void {
    this.#text += text
    this.#wake?.()
  }

  end(error?: { error: unknown }): void {
    this.#ended = true
    this.#error = error
    this.#wake?.()
  }

  /** Everything that came since the last call; `undefined` at the end. */
  async take(): Promise<string | undefined> {
    while (this.#text === '' && !this.#ended) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve
      })
    }
    if (this.#text !== '') {
      const text = this.#text
      this.#text = ''
      return text
    }
    const failure = this.#error
    this.#error = undefined // thrown once, as iterators do
    if (failure !== undefined) throw failure.error
    return undefined
  }
}

// A stream that nobody reads any more ends its generation.
const dropped = new FinalizationRegistry<AbortController>((leaving) => leaving.abort())

/**
 * The pieces of one answer, as they come; a slow reader gets longer ones. Nothing is computed before the first piece is asked for, or
 * {@link answer}. Leaving the loop (`break`) ends the generation within a token.
 *
 * @example
 * const stream = model.stream(views, 'What should the ego vehicle do next?')
 * for await (const text of stream) process.stdout.write(text)
 * console.log((await stream.answer).timings)
 */
export class AnswerStream implements AsyncIterableIterator<string> {
  readonly #start: StartAnswer
  readonly #channel: Channel = new Channel()
  #answer: Promise<Answer> | undefined
  #left = false

  /** Streams come from `stream` of a model or a scene. */
  constructor(start: StartAnswer) {
    this.#start = start
  }

  /**
   * The whole answer with its costs, once it is complete. After a `break` it is what had been generated, with `finishReason`
   * `cancelled`; if not even the views had been seen by then, it rejects with `ABORTED`.
   */
  get answer(): Promise<Answer> {
    this.#begin()
    dropped.unregister(this) // somebody waits for it, whether the pieces are read or not
    return this.#answer!
  }

  async next(): Promise<IteratorResult<string, undefined>> {
    if (this.#left) return { done: true, value: undefined }
    const text = await this.#begin().take()
    return text === undefined ? { done: true, value: undefined } : { done: false, value: text }
  }

  /** Ends the generation; what `break` calls. */
  async return(): Promise<IteratorResult<string, undefined>> {
    this.#left = true
    this.#channel.leaving.abort()
    await this.#answer?.catch(() => undefined)
    return { done: true, value: undefined }
  }

  [Symbol.asyncIterator](): this {
    return this
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.return()
  }

  #begin(): Channel {
    const channel = this.#channel
    if (this.#answer === undefined) {
      this.#answer = this.#start((text) => channel.push(text), channel.leaving.signal)
      this.#answer.then(
        () => channel.end(),
        (error: unknown) => channel.end({ error }),
      )
      dropped.register(this, channel.leaving, this)
    }
    return channel
  }
}

/** A stream of what `answer` gives to `onText`; the caller's own `onText` still gets every piece. */
export function streamAnswer(
  settings: AskSettings,
  answer: (settings: AskSettings, leave: AbortSignal) => Promise<Answer>,
): AnswerStream {
  return new AnswerStream((push, leave) => {
    const onText = (text: string) => {
      settings.onText?.(text)
      push(text)
    }
    return answer({ ...settings, onText }, leave)
  })
}

/** An answer as an async iterable of text. */
import type { Answer } from './answer.ts'
import type { AskSettings } from './options.ts'
import { PieceReader } from './piece-reader.ts'

/** Starts the work: `onText` gets the pieces, `leave` asks for an early end. */
export type StartAnswer = (onText: (text: string) => void, leave: AbortSignal) => Promise<Answer>

/**
 * The pieces of one answer, as they come; a slow reader gets longer ones. Nothing is computed before the first piece is asked for, or
 * {@link answer}. Leaving the loop (`break`) ends the generation within a token, and so does dropping the stream. Calls of `next` queue, as
 * with async generators.
 *
 * @example
 * const stream = model.stream(views, 'What should the ego vehicle do next?')
 * for await (const text of stream) process.stdout.write(text)
 * console.log((await stream.answer).timings)
 */
export class AnswerStream implements AsyncIterableIterator<string> {
  readonly #reader: PieceReader<Answer>

  /** Streams come from `stream` of a model or a scene. */
  constructor(start: StartAnswer) {
    this.#reader = new PieceReader(async (write, leave) => start((text) => write(text, 0), leave))
  }

  /**
   * The whole answer with its costs, once it is complete. After a `break` it is what had been generated, with `finishReason`
   * `cancelled`; if not even the views had been seen by then, it rejects with `ABORTED`.
   */
  get answer(): Promise<Answer> {
    return this.#reader.result
  }

  /** The next piece of the answer; what `for await` calls. */
  async next(): Promise<IteratorResult<string, undefined>> {
    const read = await this.#reader.read()
    return read.done ? read : { done: false, value: read.value.text }
  }

  /** Ends the generation; what `break` calls. */
  async return(): Promise<IteratorResult<string, undefined>> {
    await this.#reader.leave()
    return { done: true, value: undefined }
  }

  [Symbol.asyncIterator](): this {
    return this
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.return()
  }
}

/** A stream of what `answer` gives to `onText`; the caller's own `onText` still gets every piece. */
export function streamAnswer(
  settings: AskSettings,
  answer: (settings: AskSettings, leave: AbortSignal) => Promise<Answer>,
): AnswerStream {
  return new AnswerStream((push, leave) => {
    const onText = (text: string) => {
      const heard = settings.onText?.(text)
      push(text)
      return heard
    }
    return answer({ ...settings, onText }, leave)
  })
}

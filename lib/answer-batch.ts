/** The answers of several questions about one scene. */
import type { Answer } from './answer.ts'
import { type AnswerPiece, PieceReader } from './piece-reader.ts'

export type { AnswerPiece } from './piece-reader.ts'

/** Starts the work: `onText` gets the pieces, `leave` asks for an early end. */
export type StartAnswers = (onText: (text: string, index: number) => void, leave: AbortSignal) => Promise<Answer[]>

/**
 * Answers that are generated together. Awaited, it is the list of them, in the order of the questions; iterated, it is their pieces as
 * they come, each with the number of its question. Nothing is computed before either. Leaving the loop (`break`) ends what is still
 * being generated, and so does dropping a batch that was only iterated. Calls of `next` queue, as with async generators.
 *
 * @example
 * const answers = await scene.askAll(questions)
 *
 * const batch = scene.askAll(questions)
 * for await (const { index, text } of batch) lines[index] += text
 * console.log((await batch.answers).map((answer) => answer.finishReason))
 */
export class AnswerBatch implements AsyncIterableIterator<AnswerPiece>, PromiseLike<Answer[]> {
  readonly #reader: PieceReader<Answer[]>

  /** Batches come from `askAll` of a scene. */
  constructor(start: StartAnswers) {
    this.#reader = new PieceReader(start)
  }

  /** All answers, in the order of the questions, once they are complete. It rejects if one of them fails; the others are given up. */
  get answers(): Promise<Answer[]> {
    return this.#reader.result
  }

  // biome-ignore lint/suspicious/noThenProperty: awaiting the batch is its shortest use
  then<A = Answer[], B = never>(
    onAnswers?: ((answers: Answer[]) => A | PromiseLike<A>) | null,
    onError?: ((error: unknown) => B | PromiseLike<B>) | null,
  ): Promise<A | B> {
    return this.answers.then(onAnswers, onError)
  }

  /** The next piece of any of the answers; what `for await` calls. */
  async next(): Promise<IteratorResult<AnswerPiece, undefined>> {
    const read = await this.#reader.read()
    return read
  }

  /** Ends the generation; what `break` calls. */
  async return(): Promise<IteratorResult<AnswerPiece, undefined>> {
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

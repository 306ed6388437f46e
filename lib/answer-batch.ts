/** The answers of several questions about one scene. */
import type { Answer } from './answer.ts'

/** A piece of one of the answers. */
export interface AnswerPiece {
  /** Number of the question, from 0. */
  index: number
  text: string
}

/** Starts the work: `onText` gets the pieces, `leave` asks for an early end. */
export type StartAnswers = (onText: (text: string, index: number) => void, leave: AbortSignal) => Promise<Answer[]>

/**
 * Answers that are generated together. Awaited, it is the list of them, in the order of the questions; iterated, it is their pieces as
 * they come, each with the number of its question. Nothing is computed before either. Leaving the loop (`break`) ends what is still
 * being generated.
 *
 * @example
 * const answers = await scene.askAll(questions)
 *
 * const batch = scene.askAll(questions)
 * for await (const { index, text } of batch) lines[index] += text
 * console.log((await batch.answers).map((answer) => answer.finishReason))
 */
export class AnswerBatch implements AsyncIterableIterator<AnswerPiece>, PromiseLike<Answer[]> {
  readonly #start: StartAnswers
  readonly #leaving = new AbortController()
  /** Text that came since it was last read, by question. */
  readonly #pending = new Map<number, string>()
  #answers: Promise<Answer[]> | undefined
  #ended = false
  #failure: { error: unknown } | undefined
  #wake: (() => void) | undefined
  #left = false

  /** Batches come from `askAll` of a scene. */
  constructor(start: StartAnswers) {
    this.#start = start
  }

  /** All answers, in the order of the questions, once they are complete. It rejects if one of them fails; the others are given up. */
  get answers(): Promise<Answer[]> {
    if (this.#answers === undefined) {
      const onText = (text: string, index: number) => {
        this.#pending.set(index, (this.#pending.get(index) ?? '') + text)
        this.#wake?.()
      }
      this.#answers = this.#start(onText, this.#leaving.signal)
      const end = (failure?: { error: unknown }) => {
        this.#ended = true
        this.#failure = failure
        this.#wake?.()
      }
      this.#answers.then(
        () => end(),
        (error: unknown) => end({ error }),
      )
    }
    return this.#answers
  }

  // biome-ignore lint/suspicious/noThenProperty: awaiting the batch is its shortest use
  then<A = Answer[], B = never>(
    onAnswers?: ((answers: Answer[]) => A | PromiseLike<A>) | null,
    onError?: ((error: unknown) => B | PromiseLike<B>) | null,
  ): Promise<A | B> {
    return this.answers.then(onAnswers, onError)
  }

  async next(): Promise<IteratorResult<AnswerPiece, undefined>> {
    if (this.#left) return { done: true, value: undefined }
    void this.answers
    while (this.#pending.size === 0 && !this.#ended) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve
      })
    }
    const piece = this.#pending.entries().next()
    if (!piece.done) {
      const [index, text] = piece.value
      this.#pending.delete(index)
      return { done: false, value: { index, text } }
    }
    const failure = this.#failure
    this.#failure = undefined // thrown once, as iterators do
    if (failure !== undefined) throw failure.error
    return { done: true, value: undefined }
  }

  /** Ends the generation; what `break` calls. */
  async return(): Promise<IteratorResult<AnswerPiece, undefined>> {
    this.#left = true
    this.#leaving.abort()
    await this.#answers?.catch(() => undefined)
    return { done: true, value: undefined }
  }

  [Symbol.asyncIterator](): this {
    return this
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.return()
  }
}

/** Pieces of answers on their way from the work that writes them to whoever reads them: what streams and batches have in common. */

/** A piece of one of several answers. */
export interface AnswerPiece {
  /** Number of the question, from 0. */
  index: number
  /** What comes next in that answer. */
  text: string
}

/** Writes a piece; `index` is the number of its question. */
export type WritePiece = (text: string, index: number) => void

/** Starts the work. `leave` asks for an early end. */
export type StartWork<Result> = (write: WritePiece, leave: AbortSignal) => Promise<Result>

type Read = IteratorResult<AnswerPiece, undefined>
const end: Read = { done: true, value: undefined }

/** It knows nothing of its reader, which may be dropped before it has read to the end. */
class PieceQueue {
  readonly leaving: AbortController = new AbortController()
  /** Text that came since it was last read, by question. */
  readonly #unread = new Map<number, string>()
  /** Calls that wait for a piece, in order. */
  readonly #readers: { resolve: (read: Read) => void; reject: (error: unknown) => void }[] = []
  #ended = false
  #failure: { error: unknown } | undefined

  readonly write: WritePiece = (text, index) => {
    if (this.#ended) return // the reader left
    this.#unread.set(index, (this.#unread.get(index) ?? '') + text)
    const reader = this.#readers.shift()
    if (reader !== undefined) reader.resolve(this.#take()!)
  }

  /** All that wait are told. A failure is thrown once, as iterators do; nobody asks about one after leaving. */
  end(failure?: { error: unknown }): void {
    this.#ended = true
    this.#failure = this.leaving.signal.aborted ? undefined : failure
    for (const reader of this.#readers.splice(0)) this.#settle(reader)
  }

  /** Asks the work for an early end. Who waits for a piece is told the end at once: the work may take a while to stop. */
  leave(): void {
    this.leaving.abort()
    this.end()
  }

  read(): Promise<Read> {
    return new Promise((resolve, reject) => {
      const piece = this.#take()
      if (piece !== undefined) resolve(piece)
      else if (this.#ended) this.#settle({ resolve, reject })
      else this.#readers.push({ resolve, reject })
    })
  }

  #take(): Read | undefined {
    for (const [index, text] of this.#unread) {
      this.#unread.delete(index)
      return { done: false, value: { index, text } }
    }
    return undefined
  }

  #settle({ resolve, reject }: { resolve: (read: Read) => void; reject: (error: unknown) => void }): void {
    const failure = this.#failure
    this.#failure = undefined
    if (failure === undefined) resolve(end)
    else reject(failure.error)
  }
}

// Work whose pieces nobody reads any more, and whose result nobody asked for, is ended.
const dropped = new FinalizationRegistry<AbortController>((leaving) => leaving.abort())

/** Starts its work when it is first read, and ends it when its reader leaves or is dropped. Calls of `read` queue. */
export class PieceReader<Result> {
  readonly #start: StartWork<Result>
  readonly #queue: PieceQueue = new PieceQueue()
  #result: Promise<Result> | undefined
  #left = false

  constructor(start: StartWork<Result>) {
    this.#start = start
  }

  /** The result, which somebody waits for from now on, whether the pieces are read or not. */
  get result(): Promise<Result> {
    const result = this.#begin()
    dropped.unregister(this)
    return result
  }

  async read(): Promise<Read> {
    if (this.#left) return end
    this.#begin()
    const read = await this.#queue.read() // and not returned at once: who waits for a piece has not dropped its reader
    return read
  }

  /** Ends the work; resolves when it has ended. */
  async leave(): Promise<void> {
    this.#left = true
    // Else the registry would hold the reason of the abort, whose stack holds whoever left, and so the reader for ever.
    dropped.unregister(this)
    this.#queue.leave()
    await this.#result?.catch(() => undefined)
  }

  #begin(): Promise<Result> {
    if (this.#result !== undefined) return this.#result
    const queue = this.#queue
    const start = this.#start // not called as a method: a suspended async function keeps its receiver, an arrow too
    const result = start(queue.write, queue.leaving.signal)
    result.then(
      () => queue.end(),
      (error: unknown) => queue.end({ error }),
    )
    dropped.register(this, queue.leaving, this)
    this.#result = result
    return result
  }
}

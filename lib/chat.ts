/** A dialogue about a scene. */
import type { Answer } from './answer.ts'
import { type AnswerStream, streamAnswer } from './answer-stream.ts'
import { ModelError } from './errors.ts'
import { answerOf, askIds, type ModelContext } from './model-context.ts'
import type { NativeModel } from './native.ts'
import { type AskOptions, type AskSettings, askSettings, checkQuestion } from './options.ts'
import type { CachedScene, SceneEntry } from './scene-cache.ts'
import { type PlacedPictures, refusePlaceholders, withoutPlaceholders } from './text/placeholders.ts'
import { buildQuestion, buildTurn } from './text/prompt.ts'

/** One question of a dialogue and its answer. */
export interface ChatTurn {
  /** As it was asked. */
  question: string
  /** As it was given. */
  answer: string
}

/** A dialogue's tokens in the cache. */
interface CachedDialogue {
  scene: number
  tokens: number
}

/** What of a dialogue outlives its object until the engine is told. */
interface Hold {
  native: NativeModel
  kept: CachedDialogue | undefined
}

const dropped = new FinalizationRegistry<Hold>(({ native, kept }) => kept && native.release(kept.scene))

/**
 * A dialogue about a scene: every question is understood in the light of those before it. A turn costs its own tokens only; what was said
 * stays in the cache until the dialogue is disposed, whether or not the scene is. Turns run one after the other, in call order; a turn
 * that fails leaves no trace.
 *
 * @example
 * const chat = scene.chat()
 * await chat.ask('What is in front of us?')
 * const other = chat.fork()
 * await chat.ask('Is it moving?')
 * await other.ask('What colour is it?')
 */
export class Chat {
  readonly #context: ModelContext
  readonly #entry: SceneEntry
  readonly #placed: PlacedPictures
  readonly #hold: Hold
  #turns: readonly ChatTurn[]
  #last: Promise<unknown> = Promise.resolve()
  #disposed = false

  /** Dialogues come from `chat` of a scene, or `fork` of another. */
  constructor(
    context: ModelContext,
    entry: SceneEntry,
    placed: PlacedPictures,
    kept?: CachedDialogue,
    turns: readonly ChatTurn[] = [],
  ) {
    this.#context = context
    this.#entry = entry
    this.#placed = placed
    this.#hold = { native: context.native, kept }
    this.#turns = turns
    dropped.register(this, this.#hold, this)
  }

  /** What was said. */
  get turns(): readonly ChatTurn[] {
    return this.#turns
  }

  /**
   * The next turn. Text that was generated behind a `stop` string is not shown, but stays part of the dialogue.
   *
   * @throws {@link ModelError} As `scene.ask`.
   */
  async ask(question: string, options: AskOptions = {}): Promise<Answer> {
    const settings = askSettings(options)
    checkQuestion(question, settings.text)
    return this.#queued(question, settings)
  }

  /**
   * The same as {@link ask}, as an async iterable of text. After a `break` the dialogue goes on from what had been generated.
   *
   * @throws {@link ModelError} `BAD_ARGUMENT` at once; everything else where the stream is read.
   */
  stream(question: string, options: AskOptions = {}): AnswerStream {
    const settings = askSettings(options)
    checkQuestion(question, settings.text)
    return streamAnswer(settings, (both, leave) => this.#queued(question, both, leave))
  }

  /** A second dialogue that goes on from what was said so far; nothing is copied. A turn that is not complete is not part of it. */
  fork(): Chat {
    this.#throwIfDisposed()
    const { kept } = this.#hold
    if (kept !== undefined) this.#context.native.hold(kept.scene)
    return new Chat(this.#context, this.#entry, this.#placed, kept, this.#turns)
  }

  /** Gives the dialogue's pages of the cache back. A turn that is running ends well. Idempotent. */
  dispose(): void {
    if (this.#disposed) return
    this.#disposed = true
    dropped.unregister(this)
    this.#keep(undefined)
  }

  [Symbol.dispose](): void {
    this.dispose()
  }

  async #queued(question: string, settings: AskSettings, leave?: AbortSignal): Promise<Answer> {
    const turn = this.#last.then(() => this.#turn(question, settings, leave))
    this.#last = turn.catch(() => undefined)
    return turn
  }

  async #turn(question: string, settings: AskSettings, leave: AbortSignal | undefined): Promise<Answer> {
    const startedAt = performance.now()
    this.#throwIfDisposed()
    const { scenes, tokenizer, template, promptSuffix } = this.#context
    const { kept } = this.#hold
    const text = this.#plain(question, settings, kept === undefined) + promptSuffix
    const goOn = (scene: number, tokens: number, ids: Int32Array, claim = 0) =>
      askIds(this.#context, { settings, scene, claim, tokens, ids, leave, keep: true })
    const first = ({ prompt, result: { scene, tokens } }: CachedScene, claim: number) =>
      goOn(scene, tokens, buildQuestion(tokenizer, template, prompt, text), claim)
    const generation =
      kept === undefined
        ? await scenes.use(this.#entry, first, settings.signal)
        : await scenes.counted(async () => goOn(kept.scene, kept.tokens, buildTurn(tokenizer, template, text)))

    if ('claim' in generation) throw new ModelError('INTERNAL', 'A dialogue was evicted.') // the engine evicts scenes only
    const { scene, promptTokens, ids } = generation.result
    // The scene is this turn's from here on, until it is the dialogue's.
    let next: CachedDialogue | undefined = { scene: scene!, tokens: promptTokens + ids.length }
    try {
      const answer = answerOf(generation, startedAt, this.#entry.imageTokens)
      this.#turns = [...this.#turns, { question, answer: answer.text }]
      if (!this.#disposed) {
        this.#keep(next)
        next = undefined
      }
      return answer
    } finally {
      if (next !== undefined) this.#context.native.release(next.scene)
    }
  }

  /** Placeholders of the first question stand for the scene's pictures; there are no others. */
  #plain(question: string, { text }: AskSettings, first: boolean): string {
    if (text === 'literal') return question
    if (first) return withoutPlaceholders(question, this.#placed)
    refusePlaceholders(question, 'The question', "and a dialogue's pictures stand before its first question")
    return question
  }

  #keep(next: CachedDialogue | undefined): void {
    const { native, kept } = this.#hold
    if (kept !== undefined) native.release(kept.scene)
    this.#hold.kept = next
  }

  #throwIfDisposed(): void {
    if (this.#disposed) throw new ModelError('DISPOSED', 'The dialogue was disposed; call scene.chat() again.')
  }
}

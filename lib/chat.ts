/** A dialogue about a scene. */
import type { Answer } from './answer.ts'
import { type AnswerStream, streamAnswer } from './answer-stream.ts'
import { ModelError } from './errors.ts'
import type { Generation } from './generation.ts'
import { answerOf, askIds, type ModelContext } from './model-context.ts'
import type { NativeGenerateResult } from './native.ts'
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

/** A dialogue's tokens in the cache, shared by those who forked it. They count as one of `maxScenes`. */
class CachedDialogue {
  readonly scene: number
  readonly tokens: number
  readonly #context: ModelContext
  #holders = 1

  constructor(context: ModelContext, { scene, promptTokens, ids }: NativeGenerateResult) {
    this.#context = context
    this.scene = scene!
    this.tokens = promptTokens + ids.length
  }

  hold(): this {
    this.#holders++
    return this
  }

  get shared(): boolean {
    return this.#holders > 1
  }

  release(): void {
    if (--this.#holders > 0) return
    this.#context.native.release(this.scene)
    this.#context.scenes.leavePlace()
  }
}

/** What of a dialogue outlives its object until the cache is told. */
interface Hold {
  kept: CachedDialogue | undefined
}

const dropped = new FinalizationRegistry<Hold>((hold) => hold.kept?.release())

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
    this.#hold = { kept }
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
    return new Chat(this.#context, this.#entry, this.#placed, this.#hold.kept?.hold(), this.#turns)
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
    const { signal, maxNewTokens } = settings
    const first = (seen: CachedScene) => {
      const ids = buildQuestion(tokenizer, template, seen.prompt, text)
      const { scene, tokens } = seen.result
      return askIds(this.#context, { settings, scene, tokens, ids, leave, keep: true })
    }
    const further = ({ scene, tokens }: CachedDialogue) => {
      const ids = buildTurn(tokenizer, template, text)
      return askIds(this.#context, { settings, scene, tokens, ids, leave, keep: true })
    }
    const begin = async () => scenes.use(this.#entry, first, maxNewTokens, signal)
    const goOn = async (from: CachedDialogue) => scenes.run(() => further(from), maxNewTokens, signal)
    let generation: Generation
    if (kept === undefined) generation = await scenes.inPlace(this.#entry, begin, signal)
    else if (kept.shared) generation = await scenes.inPlace(undefined, () => goOn(kept), signal)
    else {
      generation = await goOn(kept)
      scenes.addPlace() // and what it went on from leaves its own
    }

    const { result } = generation
    // Scene and place are this one's from here on, until they are the dialogue's.
    let next: CachedDialogue | undefined = new CachedDialogue(this.#context, result)
    try {
      const answer = answerOf(generation, startedAt, this.#entry.imageTokens)
      this.#turns = [...this.#turns, { question, answer: answer.text }]
      if (!this.#disposed) {
        this.#keep(next)
        next = undefined
      }
      return answer
    } finally {
      next?.release()
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
    this.#hold.kept?.release()
    this.#hold.kept = next
  }

  #throwIfDisposed(): void {
    if (this.#disposed) throw new ModelError('DISPOSED', 'The dialogue was disposed; call scene.chat() again.')
  }
}

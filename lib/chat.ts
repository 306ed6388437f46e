/** A dialogue about a scene. */
import type { Answer } from './answer.ts'
import { type AnswerStream, streamAnswer } from './answer-stream.ts'
import { type Asking, answerOf, askIds } from './asking.ts'
import { ModelError } from './errors.ts'
import type { Generation } from './generation.ts'
import { type AskOptions, type AskSettings, askSettings, checkQuestion } from './options.ts'
import type { SceneSlot, Seen } from './scene-keeper.ts'
import { type PlacedPictures, refusePlaceholders, withoutPlaceholders } from './text/placeholders.ts'
import { buildQuestion, buildTurn } from './text/prompt.ts'

/** One question of a dialogue and its answer. */
export interface ChatTurn {
  question: string
  answer: string
}

/** A dialogue's tokens in the cache, shared by those who forked it. They count as one of `maxScenes`. */
class Kept {
  readonly scene: number
  readonly tokens: number
  readonly #asking: Asking
  #holders = 1

  constructor(asking: Asking, scene: number, tokens: number) {
    this.#asking = asking
    this.scene = scene
    this.tokens = tokens
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
    this.#asking.native.release(this.scene)
    this.#asking.keeper.leaveSeat()
  }
}

/** What of a dialogue outlives its object until the cache is told. */
interface Hold {
  kept: Kept | undefined
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
  readonly #asking: Asking
  readonly #slot: SceneSlot
  readonly #placed: PlacedPictures
  readonly #hold: Hold
  #turns: readonly ChatTurn[]
  #last: Promise<unknown> = Promise.resolve()
  #disposed = false

  /** Dialogues come from `chat` of a scene, or `fork` of another. */
  constructor(asking: Asking, slot: SceneSlot, placed: PlacedPictures, kept?: Kept, turns: readonly ChatTurn[] = []) {
    this.#asking = asking
    this.#slot = slot
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
    return new Chat(this.#asking, this.#slot, this.#placed, this.#hold.kept?.hold(), this.#turns)
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
    const { keeper, tokenizer, template, promptSuffix } = this.#asking
    const { kept } = this.#hold
    const text = this.#plain(question, settings, kept === undefined) + promptSuffix
    const { signal, maxNewTokens } = settings
    const first = (seen: Seen) => {
      const ids = buildQuestion(tokenizer, template, seen.prompt, text)
      const { scene, tokens } = seen.result
      return askIds(this.#asking, { settings, scene, tokens, ids, leave, keep: true })
    }
    const further = ({ scene, tokens }: Kept) => {
      const ids = buildTurn(tokenizer, template, text)
      return askIds(this.#asking, { settings, scene, tokens, ids, leave, keep: true })
    }
    const begin = async () => keeper.use(this.#slot, first, maxNewTokens, signal)
    const goOn = async (from: Kept) => keeper.run(() => further(from), maxNewTokens, signal)
    let generation: Generation
    if (kept === undefined) generation = await keeper.seated(this.#slot, begin, signal)
    else if (kept.shared) generation = await keeper.seated(undefined, () => goOn(kept), signal)
    else {
      generation = await goOn(kept)
      keeper.addSeat() // and what it went on from leaves its own
    }

    const { result } = generation
    const tokens = result.promptTokens + result.ids.length
    const answer = answerOf(generation, startedAt, this.#slot.imageTokens)
    const next = new Kept(this.#asking, result.scene!, tokens)
    if (this.#disposed) next.release()
    else this.#keep(next)
    this.#turns = [...this.#turns, { question, answer: answer.text }]
    return answer
  }

  /** Placeholders of the first question stand for the scene's pictures; there are no others. */
  #plain(question: string, { text }: AskSettings, first: boolean): string {
    if (text === 'literal') return question
    if (first) return withoutPlaceholders(question, this.#placed)
    refusePlaceholders(question, 'The question', "and a dialogue's pictures stand before its first question")
    return question
  }

  #keep(next: Kept | undefined): void {
    this.#hold.kept?.release()
    this.#hold.kept = next
  }

  #throwIfDisposed(): void {
    if (this.#disposed) throw new ModelError('DISPOSED', 'The dialogue was disposed; call scene.chat() again.')
  }
}

/** A moment that was seen: the views stand in the KV cache, and any number of questions may be asked about them. */
import type { Answer } from './answer.ts'
import { AnswerBatch } from './answer-batch.ts'
import { type AnswerStream, streamAnswer } from './answer-stream.ts'
import { Chat } from './chat.ts'
import type { CanvasLayout } from './checkpoint/layout.ts'
import { type Choice, checkChoices, pick, type Score, score } from './choices.ts'
import { ModelError } from './errors.ts'
import { anySignal } from './job.ts'
import { type BoxOptions, type Located, type LocatedBox, locate } from './locating.ts'
import { answerOf, askIds, type ModelContext } from './model-context.ts'
import {
  type AskAllOptions,
  type AskOptions,
  type AskSettings,
  askAllSettings,
  askSettings,
  type ChooseOptions,
  checkBoxes,
  checkChooseOptions,
  checkQuestion,
  checkScoreOptions,
  checkUpdateOptions,
  type LocateOptions,
  locateSettings,
  type ScoreOptions,
  type SeeOptions,
  type UpdateOptions,
} from './options.ts'
import type { CachedScene, SceneEntry } from './scene-cache.ts'
import { type PlacedPictures, refusePlaceholders, withoutPlaceholders } from './text/placeholders.ts'
import { buildQuestion } from './text/prompt.ts'
import { type ChangedViews, changeViews } from './views/change.ts'
import type { ComposedImages } from './views/compose.ts'
import type { ViewSources } from './views/prepared.ts'

/** What a scene is, and what seeing it cost. */
export interface SceneInfo {
  /** Tokens in the KV cache. */
  tokens: number
  /** Of the tokens, those that are image. */
  imageTokens: number
  /** Tiles of the views. */
  tiles: number
  /** Of these, tiles that were seen before: not encoded again. */
  cachedTiles: number
  /** Of the tokens, those at the start that stood in the cache already. */
  sharedTokens: number
  /** How the views were put before the model. */
  layout: 'canvas' | 'separate' | 'single'
  /** Milliseconds a stage. */
  timings: {
    decodeMs: number
    queueMs: number
    preprocessMs: number
    visionMs: number
    prefillMs: number
    totalMs: number
  }
}

/** A scene with what its answers are read by. */
export interface SeenViews extends CachedScene {
  info: SceneInfo
  pictures: ComposedImages['pictures']
  placed: PlacedPictures
  /** What {@link Scene.update} goes on from, while the scene is in the cache and after it was evicted. */
  prepared: ViewSources | undefined
  lasting: ViewSources
}

/** What a scene was seen from, and how another one is. */
export interface SceneOrigin {
  options: SeeOptions
  canvas: CanvasLayout | undefined
  see: (views: ViewSources, options: SeeOptions) => Promise<Scene>
}

/**
 * A moment seen by the vehicle's cameras. Asking about it costs only the question's own tokens. Its pages of the KV cache are given back
 * by {@link dispose}, or some time after the last reference is gone.
 *
 * A scene keeps the views as they were resized for the model, 7 MiB for DriveLM's canvas, and none of the caller's buffers: once `see` has
 * settled they may change. Files are read again after an eviction.
 *
 * @example
 * const scene = await model.see(views)
 * const first = await scene.ask('What are the important objects in the current scene?')
 * const second = await scene.ask('What should the ego vehicle do next?')
 * scene.dispose()
 */
export class Scene {
  /** What it is, and what seeing it cost. */
  readonly info: SceneInfo
  readonly #context: ModelContext
  readonly #entry: SceneEntry<SeenViews>
  readonly #origin: SceneOrigin
  readonly #pictures: ComposedImages['pictures']
  readonly #placed: PlacedPictures
  readonly #lasting: ViewSources

  /** Scenes come from `model.see`. */
  constructor(context: ModelContext, entry: SceneEntry<SeenViews>, origin: SceneOrigin) {
    this.#context = context
    this.#entry = entry
    this.#origin = origin
    this.info = entry.seen.info
    this.#pictures = entry.seen.pictures
    this.#placed = entry.seen.placed
    this.#lasting = entry.seen.lasting
    context.scenes.watch(this, entry)
  }

  /**
   * Answers a question about this moment.
   *
   * @param question - Plain text. The chat template is added for you.
   * @returns The answer; its timings hold nothing of what seeing cost.
   * @throws {@link ModelError} `BAD_ARGUMENT`; `CONTEXT_OVERFLOW` if the question does not fit beside the scene; `OUT_OF_MEMORY`; `BUSY`;
   *   `ABORTED`; `DISPOSED`.
   */
  async ask(question: string, options: AskOptions = {}): Promise<Answer> {
    const settings = askSettings(options)
    return this.answer(this.#plain(question, settings), settings)
  }

  /**
   * The same as {@link ask}, as an async iterable of text.
   *
   * @throws {@link ModelError} `BAD_ARGUMENT` at once; everything else where the stream is read.
   */
  stream(question: string, options: AskOptions = {}): AnswerStream {
    const settings = askSettings(options)
    const plain = this.#plain(question, settings)
    return streamAnswer(settings, (both, leave) => this.answer(plain, both, leave))
  }

  /**
   * Answers several questions together: one step of the model gives each of them a token.
   *
   * @returns To be awaited for the answers, in order, or iterated for their pieces as they come.
   * @throws {@link ModelError} `BAD_ARGUMENT` at once; everything else, as {@link ask}, where the answers are read. If one question fails,
   *   the others are given up.
   *
   * @example
   * const [objects, plan] = await scene.askAll(['What is in front of us?', 'What should we do?'])
   */
  askAll(questions: readonly string[], options: AskAllOptions = {}): AnswerBatch {
    const settings = askAllSettings(options)
    const { onText } = options
    if (!Array.isArray(questions)) throw new ModelError('BAD_ARGUMENT', 'Expected a list of strings as questions.')
    const list = Array.from(questions, (question) => this.#plain(question, settings))
    return new AnswerBatch(async (push, leave) => {
      this.#context.scenes.checkQueue(list.length)
      const failing = new AbortController()
      const either = anySignal(settings.signal, failing.signal)
      const running = list.map(async (question, index) => {
        const both = (text: string) => {
          const heard = onText?.(text, index)
          push(text, index)
          return heard
        }
        return this.answer(question, { ...settings, signal: either, onText: both }, leave)
      })
      let first: { error: unknown } | undefined
      const give = (error: unknown) => {
        first ??= { error }
        failing.abort()
      }
      const answers = await Promise.all(running.map((one) => one.catch(give)))
      if (first !== undefined) throw first.error
      return answers as Answer[]
    })
  }

  /** A dialogue about this moment; its turns stay in the cache. */
  chat(): Chat {
    this.#throwIfDisposed()
    return new Chat(this.#context, this.#entry, this.#placed)
  }

  /**
   * Sees the next moment: these views in place of the ones they replace, all others as they were seen. Only what changed is decoded and
   * resized, only tiles whose pixels changed are encoded, and only tokens from the first change on are computed. This scene stays as it is.
   *
   * @param changed - By camera name for a scene that was seen by names; by number (`{ 2: picture }`) for one seen as a list; the picture
   *   for one of a single picture.
   * @throws {@link ModelError} As `model.see`.
   *
   * @example
   * const next = await scene.update({ CAM_FRONT: frame })
   * scene.dispose()
   */
  async update(changed: ChangedViews, options: UpdateOptions = {}): Promise<Scene> {
    checkUpdateOptions(options)
    this.#throwIfDisposed()
    const { options: before, see } = this.#origin
    const next = changeViews(this.#entry.seen.prepared ?? this.#lasting, changed)
    const lastViews =
      options.order === 'changing-last'
        ? [...(before.lastViews ?? []).filter((name) => !next.names.includes(name)), ...next.names]
        : before.lastViews
    return see(next.views, { ...before, lastViews, signal: options.signal })
  }

  /**
   * How likely the model thinks each of these answers; no text is generated.
   *
   * @param choices - Any strings: `Yes` and `No`, letters of a multiple choice, sentences.
   * @throws {@link ModelError} As {@link ask}.
   *
   * @example
   * const { choice, probabilities } = await scene.choose('Is the light red?', ['Yes', 'No'])
   */
  async choose(question: string, choices: readonly string[], options: ChooseOptions = {}): Promise<Choice> {
    checkChooseOptions(options)
    const plain = this.#plain(question, options)
    const list = this.#answers(choices, options)
    return pick(list, await this.#score(plain, list, options), options)
  }

  /**
   * How likely the model thinks this answer, token by token.
   *
   * @throws {@link ModelError} As {@link ask}.
   */
  async score(question: string, answer: string, options: ScoreOptions = {}): Promise<Score> {
    checkScoreOptions(options)
    const plain = this.#plain(question, options)
    return (await this.#score(plain, this.#answers([answer], options), options))[0]!
  }

  /**
   * Asks where something is, and reads the boxes of the answer.
   *
   * @param question - In the model's own words, such as `Where is the red car?`.
   * @returns The boxes in pixels of the camera they lie in.
   * @throws {@link ModelError} As {@link ask}; `BAD_ARGUMENT` if there are several images and neither the question nor the option `camera`
   *   names one.
   */
  async locate(question: string, options: LocateOptions = {}): Promise<Located> {
    const settings = locateSettings(options)
    const plain = this.#plain(question, settings)
    const read = this.#boxes(plain, options.camera)
    const answer = await this.answer(plain, { ...settings, tags: 'keep' })
    return { ...read(answer.text), answer }
  }

  /**
   * Boxes that stand in a text about this moment: an answer that was streamed, or a question about a region.
   *
   * @returns The boxes in pixels of the camera they lie in; none where the text has none.
   * @throws {@link ModelError} `BAD_ARGUMENT`, also if there are several images and nothing names one.
   *
   * @example
   * const boxes = scene.boxesIn('What is the object at <box>[[537,739,585,810]]</box>?')
   */
  boxesIn(text: string, options: BoxOptions = {}): LocatedBox[] {
    checkBoxes(text, options)
    const { camera, question = text } = options
    return this.#boxes(question, camera)(text).boxes
  }

  /** {@link ask} with options that were checked before and a question whose placeholders were not. */
  async answerAsGiven(question: string, settings: AskSettings, leave?: AbortSignal): Promise<Answer> {
    return this.answer(this.#plain(question, settings), settings, leave)
  }

  /** {@link ask} with options that were checked before, and a plain question. */
  async answer(question: string, settings: AskSettings, leave?: AbortSignal): Promise<Answer> {
    const startedAt = performance.now()
    const { tokenizer, template, promptSuffix, scenes } = this.#context
    const ask = (seen: SeenViews, claim: number) => {
      const ids = buildQuestion(tokenizer, template, seen.prompt, question + promptSuffix)
      const { scene, tokens } = seen.result
      return askIds(this.#context, { settings, scene, claim, tokens, ids, leave })
    }
    const generation = await scenes.use(this.#entry, ask, settings.signal)
    return answerOf(generation, startedAt, this.info.imageTokens)
  }

  /** Gives the scene's pages of the KV cache back. Questions that are running end well. Idempotent. */
  dispose(): void {
    this.#context.scenes.drop(this.#entry)
  }

  [Symbol.dispose](): void {
    this.dispose()
  }

  async #score(question: string, answers: readonly string[], options: ScoreOptions): Promise<Score[]> {
    const { native, tokenizer, template, stopIds, promptSuffix, scenes } = this.#context
    const work = ({ prompt, result }: SeenViews, claim: number) =>
      score({
        native,
        tokenizer,
        template,
        prompt,
        scene: result.scene,
        claim,
        question: question + promptSuffix,
        answers,
        end: options.withEnd ? stopIds[0] : undefined,
        signal: options.signal,
      })
    return scenes.use(this.#entry, work, options.signal)
  }

  #boxes(question: string, camera: string | undefined) {
    return locate(this.info.layout === 'canvas' ? this.#origin.canvas : undefined, this.#pictures, question, camera)
  }

  /** The question as it is asked: pictures stand before it already. */
  #plain(question: unknown, { text = 'placeholders' }: Pick<AskOptions, 'text'>): string {
    checkQuestion(question, text)
    return text === 'literal' ? question : withoutPlaceholders(question, this.#placed)
  }

  #answers(answers: readonly string[], { text }: ScoreOptions): string[] {
    checkChoices(answers)
    if (text !== 'literal') {
      for (const answer of answers) refusePlaceholders(answer, 'An answer', 'and answers hold no pictures')
    }
    return [...answers]
  }

  #throwIfDisposed(): void {
    if (this.#entry.disposed) throw new ModelError('DISPOSED', 'The scene was disposed; call model.see(views) again.')
  }
}

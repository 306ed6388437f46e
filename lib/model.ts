/** A loaded model: sees moments, answers questions about them. */
import type { Answer } from './answer.ts'
import { type AnswerStream, streamAnswer } from './answer-stream.ts'
import { hubSourceOf } from './checkpoint/identity.ts'
import type { Checkpoint } from './checkpoint/load-checkpoint.ts'
import { ModelError } from './errors.ts'
import { anySignal, runJob } from './job.ts'
import { describeValue, isRecord } from './messages.ts'
import type { ModelContext } from './model-context.ts'
import { type NativeAddon, type NativeMemoryPlan, type NativeModel, type NativeStats, toModelError } from './native.ts'
import {
  type AskSettings,
  checkQuestion,
  checkSeeOptions,
  type ModelAskOptions,
  modelAskSettings,
  type SeeOptions,
  seePart,
  throwIfAborted,
  type WatchOptions,
  watchSettings,
} from './options.ts'
import { Scene, type SeenViews } from './scene.ts'
import { SceneCache, type SceneLimits, type SceneLoader } from './scene-cache.ts'
import { AnswerFormats } from './structured/answer-format.ts'
import type { PlacedPictures } from './text/placeholders.ts'
import { buildScenePrompt, type ImageLayout, imageLayoutOf, type ScenePrompt, stopIds } from './text/prompt.ts'
import type { Template } from './text/templates.ts'
import type { Tokenizer } from './text/tokenizer.ts'
import { type ComposedImages, imagesFor, tileCount, type Views } from './views/compose.ts'
import { isViewSource, type ViewSources } from './views/prepared.ts'
import { adviceFor } from './views/sources.ts'
import { Watch, type WatchMoment } from './watch.ts'
import type { CacheInfo } from './weight-cache.ts'

/** What a loaded model is. */
export interface ModelInfo {
  /** Name of its folder. */
  name: string
  /** Path of its folder. */
  dir: string
  /** Of a folder in the hub's cache: the repository. */
  repository?: string
  /** Of a folder in the hub's cache: which commit of the repository this is. */
  commit?: string
  /** Such as `internvl2-qwen2`. */
  family: string
  /** Prompt template, such as `Hermes-2`. */
  template: string
  /** What to know about the folder's files, and what to do, a sentence or two each; also given to `process.emitWarning`. */
  warnings: readonly string[]
  /** Weights of the checkpoint, by number. */
  parameters: number
  /** `cpu` or `cuda:N`. */
  device: string
  /** Why `device: 'auto'` took the CPU and no NVIDIA GPU; undefined otherwise. */
  deviceReason: string | undefined
  /** What the network computes in. */
  precision: 'bf16' | 'f32'
  /** What weights are kept as; with precision `f32` as they are stored. */
  weights: 'bf16' | 'int8' | 'int4'
  /** What the language model's activations are multiplied as, where there are many rows. */
  activations: 'bf16' | 'int8'
  /** What keys and values are kept as; with precision `f32` in f32. */
  kvCache: 'bf16' | 'int8'
  /** What came of the option `cache`; absent without it. */
  cache?: CacheInfo
  /** Where the time of its load went. */
  loading: LoadTimings
  /** Longest sequence in tokens. */
  maxContext: number
  /** Tile edge in pixels. */
  tileSize: number
  /** Image tokens a tile. */
  tileTokens: number
  /** How several views are put before the model. */
  layout: 'canvas' | 'separate' | 'single'
  /** Cameras of the canvas, row by row; empty for other layouts. */
  cameras: readonly string[]
  /** Bytes that are reserved, and what a token takes of them. */
  memory: {
    /** Reserved on the device: weights, KV cache (`kvMemory`, in whole pages), scratch. */
    weightsBytes: number
    kvBytes: number
    arenaBytes: number
    /** A token of a scene, question or answer in the KV cache, which is handed out in pages of so many tokens. */
    kvBytesPerToken: number
    pageTokens: number
    pageBytes: number
    /** The longest sequence, `maxContext`. */
    contextBytes: number
    /** Most host memory for image tokens that were seen before, `visionCache`. */
    visionCacheBytes: number
  }
}

/** Where the time of a load went, in milliseconds. The tokenizer is made while the weights are packed, so the parts may sum to more than the whole. */
export interface LoadTimings {
  /** Reading and checking the folder: its JSON files and the headers of the weights. */
  folderMs: number
  /** Reading and making the tokenizer, and choosing the template. */
  tokenizerMs: number
  /** Reading the weights where they are mapped, rounding or quantising and packing them, which is one pass; or taking them from the cache. */
  weightsMs: number
  /** With the option `cache`: comparing the file with its checksums, so far as that was not done while the folder was read; and writing it. */
  cacheMs: number
  /** From the folder to the model, without a download. */
  totalMs: number
}

/** How busy a model is, and what it did since it was loaded. */
export interface ModelStats extends NativeStats {
  /** Questions a decode step, on average. */
  meanBatch: number
  /** Tokens of answers a second of decoding, all questions together. */
  tokensPerSecond: number
  /** Tokens of views and questions a second of prefill. */
  prefillTokensPerSecond: number
  /** Share of the tiles that were not encoded because they had been seen before. */
  visionCacheHits: number
  /** Share of the guessed tokens that were right. */
  acceptedDrafts: number
}

/** What `loadModel` hands to a model. */
export interface ModelParts {
  addon: NativeAddon
  native: NativeModel
  checkpoint: Checkpoint
  tokenizer: Tokenizer
  template: Template
  device: string
  deviceReason: string | undefined
  precision: 'bf16' | 'f32'
  /** What weights are kept as; with precision `f32` as they are stored. */
  weights: 'bf16' | 'int8' | 'int4'
  activations: 'bf16' | 'int8'
  kvCache: 'bf16' | 'int8'
  cache: CacheInfo | undefined
  loading: LoadTimings
  maxContext: number
  visionCacheBytes: number
  limits: SceneLimits
}

/**
 * A loaded model, from `loadModel`. Its work runs on a thread of its own, in call order; questions that are asked while others are
 * being answered join them at the next token. The event loop stays free.
 *
 * @example
 * const model = await loadModel('models/Mini-InternVL2-1B-DA-DriveLM')
 * const answer = await model.ask(views, 'What are the important objects in the current scene?')
 * await model.dispose()
 */
export class Model {
  /** What was loaded, and where to. */
  readonly info: ModelInfo
  readonly #parts: ModelParts
  readonly #context: ModelContext
  #disposing: Promise<void> | undefined
  #lastPrompt: { key: string; prompt: ScenePrompt } | undefined

  /** Models come from `loadModel`. */
  constructor(parts: ModelParts) {
    const { native, checkpoint, tokenizer, template, maxContext } = parts
    const memory = native.memory()
    this.#parts = parts
    this.#context = {
      native,
      tokenizer,
      template,
      maxContext,
      formats: new AnswerFormats(native, tokenizer),
      scenes: new SceneCache(native, parts.limits),
      stopIds: Int32Array.from(stopIds(tokenizer, template, checkpoint.eosIds)),
      promptSuffix: checkpoint.layout.promptSuffix ?? '',
    }
    this.info = describeModel(parts, memory)
  }

  /**
   * Answers one question about one moment seen by the vehicle's cameras.
   *
   * The views are stitched in the order the model was trained on, whatever the order of the keys. To ask more than one question about the
   * same views, {@link see} them once.
   *
   * @param views - Pictures by camera name, a list of them, or one: paths, the bytes of JPEG or PNG files, or raw RGB. A model with a
   *   canvas needs all its cameras, unless `missingViews: 'black'`.
   * @param question - Plain text. The chat template is added for you.
   * @returns The answer and what each stage of it cost, in milliseconds.
   * @throws {@link ModelError} `BAD_ARGUMENT`; `BAD_VIEW` if a picture is missing or cannot be decoded; `CONTEXT_OVERFLOW` if views and
   *   question do not fit into the context; `OUT_OF_MEMORY` if the KV cache is full of scenes; `ABORTED`; `DISPOSED`.
   *
   * @example
   * const { text, timings } = await model.ask(views, 'What should the ego vehicle do next?')
   * console.log(text, `first word after ${timings.firstTokenMs} ms`)
   */
  async ask(views: Views, question: string, options: ModelAskOptions = {}): Promise<Answer> {
    const settings = modelAskSettings(options)
    checkQuestion(question, options.text)
    return this.#answer(views, question, seePart(options), settings)
  }

  /**
   * The same as {@link ask}, as an async iterable of text.
   *
   * @throws {@link ModelError} `BAD_ARGUMENT` at once; everything else where the stream is read.
   */
  stream(views: Views, question: string, options: ModelAskOptions = {}): AnswerStream {
    const settings = modelAskSettings(options)
    checkQuestion(question, options.text)
    return streamAnswer(settings, (both, leave) => this.#answer(views, question, seePart(options), both, leave))
  }

  /**
   * Sees a moment once, for any number of questions about it: the views are encoded, and system message and image tokens stand in the KV
   * cache until the scene is disposed.
   *
   * @throws {@link ModelError} As {@link ask}.
   *
   * @example
   * const scene = await model.see(views)
   * for (const question of questions) console.log((await scene.ask(question)).text)
   * scene.dispose()
   */
  async see(views: Views, options: SeeOptions = {}): Promise<Scene> {
    checkSeeOptions(options)
    return this.#see(views, options)
  }

  /**
   * Asks about the newest moment of a source, again and again: for a control loop. While the model is at work newer moments take the place of
   * older ones, which are dropped and counted; consecutive moments are seen as updates of each other.
   *
   * @param source - Moments as they come: of `drivlm/live`, of a log, or `{ stamp, views }` of your own.
   * @param options - What to ask, how often, and by when.
   * @returns An async iterable of what came of each moment. Nothing is read before it is iterated.
   * @throws {@link ModelError} `BAD_ARGUMENT` at once; everything else where it is iterated.
   *
   * @example
   * async function* frames() {
   *   for (let i = 0; i < 3; i++) yield { stamp: BigInt(i) * 500_000_000n, views }
   * }
   * for await (const { answers, dropped, late, timings } of model.watch(frames(), { questions: ['What is ahead?'], deadlineMs: 5000 })) {
   *   console.log(answers[0]?.text, dropped, late, timings.totalMs)
   * }
   */
  watch<M extends WatchMoment>(source: AsyncIterable<M>, options: WatchOptions): Watch<M> {
    const settings = watchSettings(options)
    if (typeof (Object(source) as Partial<AsyncIterable<M>>)[Symbol.asyncIterator] !== 'function') {
      throw new ModelError('BAD_ARGUMENT', `Expected an async iterable of moments, received ${describeValue(source)}.`)
    }
    return new Watch((views, signal) => this.#see(views, { ...settings.see, signal }), source, settings)
  }

  /** Pages, scenes and questions at this moment, and sums since the model was loaded. */
  stats(): ModelStats {
    this.#throwIfDisposed()
    try {
      const stats = this.#parts.native.stats()
      const per = (part: number, whole: number) => (whole > 0 ? part / whole : 0)
      return {
        ...stats,
        meanBatch: per(stats.stepQuestions, stats.steps),
        tokensPerSecond: per(1000 * stats.decodeTokens, stats.decodeMs),
        prefillTokensPerSecond: per(1000 * stats.prefillTokens, stats.prefillMs),
        visionCacheHits: per(stats.tilesCached, stats.tilesCached + stats.tilesEncoded),
        acceptedDrafts: per(stats.accepted, stats.drafted),
      }
    } catch (error) {
      throw toModelError(error)
    }
  }

  /**
   * Ends everything that runs (it rejects with `DISPOSED`), and gives all memory back; resolves when that is done. Idempotent.
   * A model that is dropped without it is disposed of when it is garbage collected.
   */
  async dispose(): Promise<void> {
    this.#disposing ??= this.#parts.native.dispose()
    await this.#disposing
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose()
  }

  async #see(views: ViewSources, options: SeeOptions, leave?: AbortSignal): Promise<Scene> {
    const signal = anySignal(leave, options.signal)
    throwIfAborted(signal)
    this.#throwIfDisposed()
    this.#context.scenes.checkQueue(0, 1)
    const kept = { ...options, signal: undefined }
    const loader = this.#loader(views, kept)
    const entry = await this.#context.scenes.see(loader, signal)
    return new Scene(this.#context, entry, {
      options: kept,
      canvas: this.#parts.checkpoint.layout.canvas,
      see: async (next, nextOptions) => this.#see(next, nextOptions),
    })
  }

  /** Prepares the views at once, so that the caller has the buffers back soon; sees them as often as it takes to find room. */
  #loader(views: ViewSources, options: SeeOptions): SceneLoader<SeenViews> {
    const { addon, native, checkpoint } = this.#parts
    let sources = copyOf(views)
    const prepare = async () => {
      const { tiling, layout } = checkpoint
      const composed = await imagesFor(layout, sources, { ...options, tiling, addon })
      sources = composed.lasting // from now on buffers are the caller's again
      const prompt = this.#scenePrompt(options.systemMessage, composed)
      this.#checkRoom(prompt.ids.length, composed)
      return async (scene: number, signal: AbortSignal | undefined) => {
        throwIfAborted(signal)
        this.#throwIfDisposed()
        const images = composed.images.map((image) => image.tiles)
        const placed = this.#placed(composed, sources) // what may fail stands before there is a scene to give back
        const start = (job: number) => native.see({ job, scene, ids: prompt.ids, images })
        const result = await runJob(signal, start, (job) => native.cancel(job))
        const { tokens, imageTokens, tiles, cachedTiles, sharedTokens } = result
        const { queueMs, visionMs, prefillMs } = result
        const preprocessMs = composed.preprocessMs + result.preprocessMs
        const { decodeMs } = composed
        const totalMs = performance.now() - begunAt
        const timings = { decodeMs, queueMs, preprocessMs, visionMs, prefillMs, totalMs }
        const { layout, pictures, prepared, lasting } = composed
        const info = { tokens, imageTokens, tiles, cachedTiles, sharedTokens, layout, timings }
        return { prompt, result, info, pictures, placed, prepared, lasting }
      }
    }
    let begunAt = performance.now() // of the decoding, with which the caller's time begins
    let ready: ReturnType<typeof prepare> | undefined = prepare()
    ready.catch(() => undefined) // told where it is awaited
    return {
      prepare: async () => {
        if (ready === undefined) {
          begunAt = performance.now()
          ready = prepare()
        }
        return ready
      },
      end: () => {
        ready = undefined
      },
    }
  }

  async #answer(
    views: Views,
    question: string,
    see: SeeOptions,
    settings: AskSettings,
    leave?: AbortSignal,
  ): Promise<Answer> {
    this.#context.scenes.checkQueue(1)
    const scene = await this.#see(views, see, leave)
    const answer = await scene.answerAsGiven(question, settings, leave).finally(() => scene.dispose())
    const seen = scene.info.timings
    const asked = answer.timings
    return {
      ...answer,
      timings: {
        decodeMs: seen.decodeMs,
        preprocessMs: seen.preprocessMs,
        visionMs: seen.visionMs,
        prefillMs: seen.prefillMs + asked.prefillMs,
        generateMs: asked.generateMs,
        queueMs: seen.queueMs + asked.queueMs,
        firstTokenMs: seen.totalMs + asked.firstTokenMs,
        totalMs: seen.totalMs + asked.totalMs,
      },
    }
  }

  /** One moment's prompt is most often that of the moment before. */
  #scenePrompt(system: string | undefined, composed: ComposedImages): ScenePrompt {
    const { tokenizer, template } = this.#parts
    const imageTokens = composed.images.map(({ grid }) => tileCount(grid) * this.info.tileTokens)
    const layout = this.#imageLayout(composed)
    const key = JSON.stringify([system, layout, imageTokens])
    if (this.#lastPrompt?.key !== key) {
      this.#lastPrompt = { key, prompt: buildScenePrompt(tokenizer, template, { system, layout, imageTokens }) }
    }
    return this.#lastPrompt.prompt
  }

  #imageLayout({ layout, cameras }: ComposedImages): ImageLayout {
    const { format, layout: wanted } = this.#parts.checkpoint
    return imageLayoutOf(layout, cameras, { cameraNames: wanted.cameraNames, numbered: format !== 'hf' })
  }

  #placed(composed: ComposedImages, views: ViewSources): PlacedPictures {
    const layout = this.#imageLayout(composed)
    const { canvas } = this.#parts.checkpoint.layout
    return {
      images: composed.images.length,
      given: pictureCount(views),
      labels:
        layout.kind === 'named'
          ? layout.names
          : layout.kind === 'numbered'
            ? composed.images.map((_, i) => `Image-${i + 1}`)
            : undefined,
      painted: composed.layout === 'canvas' && canvas?.labels ? canvas.cameras : [],
    }
  }

  #checkRoom(tokens: number, { images }: ComposedImages): void {
    const { maxContext } = this.#parts
    if (tokens < maxContext) return
    const tiles = images.reduce((sum, { grid }) => sum + tileCount(grid), 0)
    throw new ModelError(
      'CONTEXT_OVERFLOW',
      `The views make ${tiles} tiles and ${tokens} tokens, and the context holds ${maxContext}. Give fewer views or a smaller tileBudget, ` +
        'or load the model with a larger maxContext.',
    )
  }

  #throwIfDisposed(): void {
    if (this.#disposing !== undefined) {
      throw new ModelError('DISPOSED', 'The model was disposed; load it again to ask more.')
    }
  }
}

/** The caller's list or record may change; what stands in it is not copied. */
function copyOf(views: ViewSources): ViewSources {
  if (Array.isArray(views)) return [...views]
  return isViewSource(views) || !isRecord(views) || adviceFor(views) !== undefined ? views : { ...views }
}

function pictureCount(views: ViewSources): number {
  if (Array.isArray(views)) return views.length
  return isViewSource(views) ? 1 : Object.values(views).filter((view) => view !== undefined).length
}

/** A tokenizer whose ids may not be those of training. */
export function warningsOf({ warning }: Tokenizer): string[] {
  return warning === undefined ? [] : [warning]
}

function describeModel(parts: ModelParts, memory: NativeMemoryPlan): ModelInfo {
  const { checkpoint, template, device, deviceReason, precision, weights, activations, kvCache } = parts
  const { cache, loading, maxContext, visionCacheBytes } = parts
  const { vision } = checkpoint.network
  const { freeBytes: _, ...taken } = memory
  return {
    name: checkpoint.name,
    dir: checkpoint.dir,
    ...hubSourceOf(checkpoint.dir),
    family: checkpoint.family,
    template: template.name,
    warnings: warningsOf(parts.tokenizer),
    parameters: checkpoint.parameters,
    device,
    deviceReason,
    precision,
    weights,
    activations,
    kvCache,
    ...(cache === undefined ? {} : { cache }),
    loading,
    maxContext,
    tileSize: vision.tileSize,
    tileTokens: (vision.tileSize / vision.patchSize / 2) ** 2,
    layout: checkpoint.layout.layout,
    cameras: checkpoint.layout.canvas?.cameras ?? [],
    memory: { ...taken, ...limitBytes(memory, maxContext), visionCacheBytes },
  }
}

/** What the limits mean in bytes. */
export function limitBytes(
  { kvBytesPerToken, pageTokens }: NativeMemoryPlan,
  maxContext: number,
): { pageBytes: number; contextBytes: number } {
  const pageBytes = kvBytesPerToken * pageTokens
  return { pageBytes, contextBytes: Math.ceil(maxContext / pageTokens) * pageBytes }
}

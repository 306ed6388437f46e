/** What callers may ask for, and the checks of it: every value a caller passes is looked at here, before any work. */
import { ModelError } from './errors.ts'
import type { DownloadProgress } from './hub/pull.ts'
import { describeValue, isRecord } from './messages.ts'
import type { AnswerFormat } from './structured/answer-format.ts'
import { pictureHead, refusePlaceholders, type TextReading } from './text/placeholders.ts'
import type { ViewOptions } from './views/compose.ts'

/** How far a load is. */
export interface LoadProgress {
  /** Bytes of weights that are loaded. */
  doneBytes: number
  totalBytes: number
}

/** Options of `loadModel`. */
export interface LoadOptions {
  /** `auto` (default) takes the first usable NVIDIA GPU, else the CPU. */
  device?: 'auto' | 'cpu' | 'cuda' | `cuda:${number}` | undefined
  /** `bf16` (default): weights and activations in bf16, sums in f32. `f32`: everything in f32, CPU only. */
  precision?: 'bf16' | 'f32' | undefined
  /**
   * What weights are kept as on the CPU, made at load from any checkpoint. `bf16` (default). `int8`: one scale a row. `int4`: the decoder's layers
   * in groups of 32 with a scale each, vision tower, projector and head as `int8`. See docs/quantisation.md for what it costs.
   */
  weights?: 'bf16' | 'int8' | 'int4' | undefined
  /** `int8`: vision and prefill multiply 8-bit weights with 8-bit activations, one scale a token. Default `bf16`. */
  activations?: 'bf16' | 'int8' | undefined
  /**
   * Keep weights in `int8` or `int4` in the model folder, in `drivlm-int8.cache` or `drivlm-int4.cache`: the first load writes the file, later ones
   * map it, until the checkpoint changes. On the CPU; `model.info.cache` says what came of it. Default false.
   */
  cache?: boolean | undefined
  /** Threads of the CPU backend, for the whole process. Default: the cores this process may use. */
  threads?: number | undefined
  /** Longest sequence in tokens: views, question and answer. Default: what the model was made for, at most 8192. */
  maxContext?: number | undefined
  /** Bytes of the KV cache, for all scenes and questions together. Default: room for two sequences of `maxContext`. */
  kvMemory?: number | undefined
  /**
   * Most bytes that the model may take on its device: weights, KV cache and scratch, the sum of `info.memory`. All of it is reserved at load; what
   * does not fit rejects with `OUT_OF_MEMORY`, how much is missing and which settings would fit. On the CPU it counts weights that stay
   * mapped files too; the vision cache comes on top. Default: what the GPU has free; on the CPU no limit.
   */
  maxMemory?: number | undefined
  /** Questions that are decoded together. Default 20, about what DriveLM asks of one moment. */
  maxBatch?: number | undefined
  /**
   * Bytes of host memory for the image tokens of tiles that were seen before, so that {@link Scene.update} encodes changed tiles only.
   * Default: room for two scenes. 0 keeps none.
   */
  visionCache?: number | undefined
  /** Scenes and dialogues in the KV cache at one time. Default: as many as `kvMemory` holds. */
  maxScenes?: number | undefined
  /**
   * What happens when a scene or question finds no room, by `kvMemory` or `maxScenes`. `false` (default): it rejects with
   * `OUT_OF_MEMORY`. Otherwise the scene that has not been asked for longest is evicted. When that one is asked again, it sees its views
   * anew (`'resee'`, or `true`), or rejects with `DISPOSED` (`'throw'`).
   */
  evict?: boolean | 'resee' | 'throw' | undefined
  /**
   * Questions that may wait behind the `maxBatch` that are being answered, and scenes behind the one that is being seen; what comes on
   * top rejects with `BUSY` at once. Default: no limit.
   */
  maxQueue?: number | undefined
  /** Tile edge in pixels in place of the model's own; a multiple of twice the patch size. */
  tileSize?: number | undefined
  /** How views become images, in place of the folder's drivlm.json and with the same keys (see docs/layouts.md). */
  layout?: Record<string, unknown> | undefined
  /**
   * Fetch the model from the hub where it is given by name and is not in the cache, or its branch has moved. Default false: a name is looked
   * for in the cache alone, and no request is made.
   */
  download?: boolean | undefined
  /** Called while files are fetched. */
  onDownload?: ((progress: DownloadProgress) => void) | undefined
  /** Gives up loading; `loadModel` rejects with `ABORTED` and all memory is given back. */
  signal?: AbortSignal | undefined
  /** Called a few hundred times at most while the weights are loaded. */
  onProgress?: ((progress: LoadProgress) => unknown) | undefined
}

/** Options of `model.see`. */
export interface SeeOptions extends ViewOptions {
  /** In place of the model's own system message. An empty string leaves it empty. */
  systemMessage?: string | undefined
  /**
   * `placeholders` (default): `<image>` in a text stands for a picture, in order; in front of a question, one a picture, it says what the scene
   * says anyway, elsewhere it is an error. `literal`: it is the letters.
   */
  text?: TextReading | undefined
  /** Gives up; `see` rejects with `ABORTED`. */
  signal?: AbortSignal | undefined
}

/** Options of `scene.update`. */
export interface UpdateOptions {
  /**
   * Order of separate images. `keep` (default): as before. `changing-last`: the views that changed come last, so that the next update
   * of the same views starts behind all others. A canvas has its order.
   */
  order?: 'keep' | 'changing-last' | undefined
  /** Gives up; `update` rejects with `ABORTED`. */
  signal?: AbortSignal | undefined
}

/** Options of `scene.ask` and `scene.stream`. */
export interface AskOptions {
  /** Longest answer in tokens. Default 512; less where the context ends sooner. */
  maxNewTokens?: number | undefined
  /** The answer does not end before so many tokens. Default 0. */
  minNewTokens?: number | undefined
  /** 0 (default) takes the likeliest token every time; higher is more varied. */
  temperature?: number | undefined
  /** Tokens are drawn from the likeliest ones that make up this much probability. Default 1: from all. */
  topP?: number | undefined
  /** Fixes what is drawn at a temperature above 0. Default: a new one every time. */
  seed?: number | undefined
  /** The answer ends before the first of these strings; it is not part of the answer. */
  stop?: string | readonly string[] | undefined
  /** Give the tokens of the answer with their natural-log probabilities, as `answer.logprobs`. Default false. */
  logprobs?: boolean | undefined
  /** Holds the answer to a form; `answer.value` is then the choice, or what the JSON says. */
  answerFormat?: AnswerFormat | undefined
  /**
   * Tokens that are guessed a step from what the question and the answer said before, and verified together; the answer is the same.
   * Applies at temperature 0 without an `answerFormat`. `true` is 4, `false` none, at most 16. Default `true`.
   */
  speculate?: boolean | number | undefined
  /** `keep` (default): `<ref>`, `<box>` and their closers stay in the text; `drop` leaves them out. */
  tags?: 'keep' | 'drop' | undefined
  /**
   * `placeholders` (default): `<image>` in a text stands for a picture, in order; in front of a question, one a picture, it says what the scene
   * says anyway, elsewhere it is an error. `literal`: it is the letters.
   */
  text?: TextReading | undefined
  /** Gives up; the call rejects with `ABORTED`. */
  signal?: AbortSignal | undefined
  /**
   * Called with every new piece of the answer; together they are its text. What it throws ends the generation and is thrown on; so is what
   * a promise that it returns rejects with. The answer waits for such promises, the next piece does not.
   */
  onText?: ((text: string) => unknown) | undefined
}

/** Options of `scene.askAll`. */
export interface AskAllOptions extends Omit<AskOptions, 'onText'> {
  /** Called with every new piece of every answer, and the number of its question. */
  onText?: ((text: string, index: number) => unknown) | undefined
}

/** Options of `scene.locate`. */
export interface LocateOptions extends AskOptions {
  /**
   * The camera whose pixels boxes are given in. Default: on a canvas the one that each box lies in; among separate images the one that
   * the question names.
   */
  camera?: string | undefined
}

/** Options of `scene.choose`. */
export interface ChooseOptions {
  /**
   * Divide the log-likelihood of a choice by its length, in `tokens` (or `true`) or in UTF-8 `bytes`, so that long choices are not put at a
   * disadvantage. Default false.
   */
  normalise?: boolean | 'tokens' | 'bytes' | undefined
  /** Count the end of the answer too: `1` is then not likelier than `12` merely because it begins like it. Default false. */
  withEnd?: boolean | undefined
  /**
   * `placeholders` (default): `<image>` in a text stands for a picture, in order; in front of a question, one a picture, it says what the scene
   * says anyway, elsewhere it is an error. `literal`: it is the letters.
   */
  text?: TextReading | undefined
  /** Gives up; the call rejects with `ABORTED`. */
  signal?: AbortSignal | undefined
}

/** Options of `scene.score`. */
export type ScoreOptions = Omit<ChooseOptions, 'normalise'>

/** Options of `model.ask` and `model.stream`: both of seeing and of asking. */
export type ModelAskOptions = SeeOptions & AskOptions

/** {@link AskOptions}, checked and complete. */
export interface AskSettings {
  maxNewTokens: number
  minNewTokens: number
  temperature: number
  topP: number
  seed: number
  stop: readonly string[]
  logprobs: boolean
  answerFormat: AnswerFormat | undefined
  /** Tokens drafted a step. */
  speculate: number
  tags: 'keep' | 'drop'
  text: TextReading
  signal: AbortSignal | undefined
  onText: ((text: string) => unknown) | undefined
}

const seeKeys = ['missingViews', 'maxTilesPerImage', 'tileBudget', 'lastViews', 'systemMessage', 'text', 'signal']
const askKeys = [
  'maxNewTokens',
  'minNewTokens',
  'temperature',
  'topP',
  'seed',
  'stop',
  'tags',
  'logprobs',
  'answerFormat',
  'speculate',
  'text',
  'signal',
  'onText',
]
const loadKeys = [
  'device',
  'precision',
  'weights',
  'activations',
  'cache',
  'threads',
  'maxContext',
  'kvMemory',
  'maxMemory',
  'maxBatch',
  'visionCache',
  'maxScenes',
  'evict',
  'maxQueue',
  'tileSize',
  'layout',
  'download',
  'onDownload',
  'signal',
  'onProgress',
]

/** Tokens drafted a step by `speculate: true`. */
const usualDraft = 4

export function checkLoadOptions(options: LoadOptions): void {
  checkKeys(options, loadKeys)
  const { device, precision } = options
  if (device !== undefined && !(typeof device === 'string' && /^(auto|cpu|cuda|cuda:\d{1,3})$/.test(device))) {
    throw bad("'auto', 'cpu', 'cuda' or 'cuda:N'", 'device', device)
  }
  if (precision !== undefined && precision !== 'bf16' && precision !== 'f32') {
    throw bad("'bf16' or 'f32'", 'precision', precision)
  }
  const { weights, activations } = options
  if (weights !== undefined && !['bf16', 'int8', 'int4'].includes(weights)) {
    throw bad("'bf16', 'int8' or 'int4'", 'weights', weights)
  }
  if (activations !== undefined && activations !== 'bf16' && activations !== 'int8') {
    throw bad("'bf16' or 'int8'", 'activations', activations)
  }
  if (activations === 'int8' && (weights ?? 'bf16') === 'bf16') {
    throw bad("'int8' or 'int4' beside activations 'int8'", 'weights', weights)
  }
  checkBoolean('cache', options.cache)
  if (options.cache === true && (weights ?? 'bf16') === 'bf16') {
    throw bad("'int8' or 'int4' beside options.cache", 'weights', weights)
  }
  checkInteger('threads', options.threads, 1, 1024)
  checkInteger('maxContext', options.maxContext, 16, 1 << 20)
  checkInteger('kvMemory', options.kvMemory, 1, Number.MAX_SAFE_INTEGER)
  checkInteger('maxMemory', options.maxMemory, 1, Number.MAX_SAFE_INTEGER)
  checkInteger('maxBatch', options.maxBatch, 1, 256)
  checkInteger('visionCache', options.visionCache, 0, 2 ** 40)
  checkInteger('maxScenes', options.maxScenes, 1, Number.MAX_SAFE_INTEGER)
  checkInteger('maxQueue', options.maxQueue, 0, Number.MAX_SAFE_INTEGER)
  if (![undefined, false, true, 'resee', 'throw'].includes(options.evict)) {
    throw bad("true, false, 'resee' or 'throw'", 'evict', options.evict)
  }
  checkInteger('tileSize', options.tileSize, 1, 8192)
  if (options.layout !== undefined && !isRecord(options.layout)) {
    throw bad('an object with the keys of drivlm.json', 'layout', options.layout)
  }
  checkBoolean('download', options.download)
  checkFunction('onDownload', options.onDownload)
  checkSignal(options.signal)
  checkFunction('onProgress', options.onProgress)
}

export function checkSeeOptions(options: SeeOptions): void {
  checkKeys(options, seeKeys)
  checkSeeValues(options)
}

export function checkUpdateOptions(options: UpdateOptions): void {
  checkKeys(options, ['order', 'signal'])
  const { order } = options
  if (order !== undefined && order !== 'keep' && order !== 'changing-last') {
    throw bad("'keep' or 'changing-last'", 'order', order)
  }
  checkSignal(options.signal)
}

export function checkChooseOptions(options: ChooseOptions): void {
  checkKeys(options, ['normalise', 'withEnd', 'text', 'signal'])
  checkText(options.text)
  if (![undefined, false, true, 'tokens', 'bytes'].includes(options.normalise)) {
    throw bad("true, false, 'tokens' or 'bytes'", 'normalise', options.normalise)
  }
  checkBoolean('withEnd', options.withEnd)
  checkSignal(options.signal)
}

export function checkScoreOptions(options: ScoreOptions): void {
  checkKeys(options, ['withEnd', 'text', 'signal'])
  checkChooseOptions(options)
}

export function locateSettings({ camera, ...options }: LocateOptions): AskSettings {
  if (camera !== undefined && typeof camera !== 'string') throw bad('the name of a camera', 'camera', camera)
  return askSettings(options)
}

export function askSettings(options: AskOptions): AskSettings {
  checkKeys(options, askKeys)
  return askValues(options)
}

export function modelAskSettings(options: ModelAskOptions): AskSettings {
  checkKeys(options, [...new Set([...seeKeys, ...askKeys])])
  checkSeeValues(options)
  return askValues(options)
}

/** The part of {@link ModelAskOptions} that `see` takes. */
export function seePart(options: ModelAskOptions): SeeOptions {
  const { missingViews, maxTilesPerImage, tileBudget, lastViews, systemMessage, text, signal } = options
  return { missingViews, maxTilesPerImage, tileBudget, lastViews, systemMessage, text, signal }
}

/** @throws {@link ModelError} `BAD_ARGUMENT` unless it is a question: a string that says something, with placeholders in front only. */
export function checkQuestion(question: unknown, text: TextReading = 'placeholders'): asserts question is string {
  if (typeof question !== 'string') {
    throw new ModelError('BAD_ARGUMENT', `Expected a string for the question, received ${describeValue(question)}.`)
  }
  if (question.trim() === '') {
    throw new ModelError('BAD_ARGUMENT', 'The question is empty; ask something about the views.')
  }
  if (text !== 'literal') pictureHead(question)
}

/** The error of an aborted signal. */
export function abortError(signal: AbortSignal): ModelError {
  const { reason } = signal
  const why =
    (reason as { name?: unknown } | null | undefined)?.name === 'TimeoutError'
      ? 'its time limit passed'
      : 'its signal was aborted'
  return new ModelError('ABORTED', `Given up, because ${why}.`, { cause: reason })
}

export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw abortError(signal)
}

function checkSeeValues(options: SeeOptions): void {
  const { missingViews, lastViews, systemMessage } = options
  if (missingViews !== undefined && missingViews !== 'error' && missingViews !== 'black') {
    throw bad("'error' or 'black'", 'missingViews', missingViews)
  }
  if (lastViews !== undefined && !(Array.isArray(lastViews) && lastViews.every((name) => typeof name === 'string'))) {
    throw bad('a list of camera names', 'lastViews', lastViews)
  }
  if (systemMessage !== undefined && typeof systemMessage !== 'string') {
    throw bad('a string', 'systemMessage', systemMessage)
  }
  checkText(options.text)
  if (systemMessage !== undefined && options.text !== 'literal') {
    refusePlaceholders(systemMessage, 'The system message', "and pictures stand in the user's message")
  }
  checkInteger('maxTilesPerImage', options.maxTilesPerImage, 1, 1024)
  checkInteger('tileBudget', options.tileBudget, 1, 1024)
  checkSignal(options.signal)
}

function askValues(options: AskOptions): AskSettings {
  const {
    maxNewTokens = 512,
    minNewTokens = 0,
    temperature = 0,
    topP = 1,
    seed,
    tags = 'keep',
    signal,
    onText,
  } = options
  if (!Number.isSafeInteger(maxNewTokens) || maxNewTokens < 1)
    throw bad('a positive integer', 'maxNewTokens', maxNewTokens)
  checkInteger('minNewTokens', minNewTokens, 0, Number.MAX_SAFE_INTEGER)
  if (minNewTokens > maxNewTokens) {
    throw bad(`an integer up to maxNewTokens, ${maxNewTokens},`, 'minNewTokens', minNewTokens)
  }
  if (!(typeof temperature === 'number' && temperature >= 0 && temperature <= 100)) {
    throw bad('a number from 0 to 100', 'temperature', temperature)
  }
  if (!(typeof topP === 'number' && topP > 0 && topP <= 1)) throw bad('a number above 0 and at most 1', 'topP', topP)
  checkText(options.text)
  if (tags !== 'keep' && tags !== 'drop') throw bad("'keep' or 'drop'", 'tags', tags)
  checkInteger('seed', seed, 0, Number.MAX_SAFE_INTEGER)
  checkBoolean('logprobs', options.logprobs)
  const { speculate = true } = options
  if (typeof speculate !== 'boolean') checkInteger('speculate', speculate, 0, 16)
  const { answerFormat } = options
  if (answerFormat !== undefined && (minNewTokens > 0 || options.stop !== undefined)) {
    const other = minNewTokens > 0 ? 'minNewTokens' : 'stop'
    throw new ModelError('BAD_ARGUMENT', `options.answerFormat says where an answer ends; leave options.${other} out.`)
  }
  checkSignal(signal)
  checkFunction('onText', onText)
  const mostTokens = 1 << 24
  return {
    maxNewTokens: Math.min(maxNewTokens, mostTokens),
    minNewTokens: Math.min(minNewTokens, mostTokens),
    temperature,
    topP,
    seed: seed ?? Math.floor(Math.random() * 2 ** 48),
    stop: stopStrings(options.stop),
    logprobs: options.logprobs ?? false,
    answerFormat,
    speculate: speculate === true ? usualDraft : Number(speculate),
    tags,
    text: options.text ?? 'placeholders',
    signal,
    onText,
  }
}

function stopStrings(stop: unknown): readonly string[] {
  const list: unknown = stop === undefined ? [] : typeof stop === 'string' ? [stop] : stop
  if (!Array.isArray(list) || !list.every((one) => typeof one === 'string' && one !== '')) {
    throw bad('a string or a list of strings, none of them empty,', 'stop', stop)
  }
  return [...list]
}

function checkKeys(options: unknown, known: readonly string[]): void {
  if (!isRecord(options)) {
    throw new ModelError('BAD_ARGUMENT', `Expected an object for options, received ${describeValue(options)}.`)
  }
  const unknown = Object.keys(options).find((key) => !known.includes(key))
  if (unknown === undefined) return
  throw new ModelError(
    'BAD_ARGUMENT',
    `options.${unknown.slice(0, 100)} is not an option here; expected ${known.join(', ')}.`,
  )
}

function checkInteger(name: string, value: unknown, low: number, high: number): void {
  if (value === undefined) return
  if (Number.isSafeInteger(value) && (value as number) >= low && (value as number) <= high) return
  throw bad(
    high === Number.MAX_SAFE_INTEGER ? `an integer from ${low} up` : `an integer from ${low} to ${high}`,
    name,
    value,
  )
}

function checkBoolean(name: string, value: unknown): void {
  if (value === undefined || typeof value === 'boolean') return
  throw bad('true or false', name, value)
}

function checkText(text: unknown): void {
  if (text !== undefined && text !== 'placeholders' && text !== 'literal') {
    throw bad("'placeholders' or 'literal'", 'text', text)
  }
}

function checkSignal(signal: unknown): void {
  if (signal === undefined || isSignal(signal)) return
  throw bad('an AbortSignal', 'signal', signal)
}

function isSignal(signal: unknown): signal is AbortSignal {
  const { aborted, addEventListener, removeEventListener } = Object(signal) as Partial<AbortSignal>
  return (
    typeof aborted === 'boolean' && typeof addEventListener === 'function' && typeof removeEventListener === 'function'
  )
}

function checkFunction(name: string, value: unknown): void {
  if (value === undefined || typeof value === 'function') return
  throw bad('a function', name, value)
}

function bad(expected: string, name: string, value: unknown): ModelError {
  return new ModelError('BAD_ARGUMENT', `Expected ${expected} for options.${name}, received ${describeValue(value)}.`)
}

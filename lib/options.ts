/**
 * Options that callers pass: their types, the checks, and what is left out filled in. What there is to know of one option is its row in
 * `option-tables.ts`; here stands what no row can say, such as one option that another one needs.
 */
import { ModelError } from './errors.ts'
import type { DownloadProgress } from './hub/pull.ts'
import { describeValue, isRecord } from './messages.ts'
import {
  answerOptions,
  cameraOptions,
  choiceOptions,
  type EngineAskNumbers,
  expected,
  indexedPieceOptions,
  loadOptions,
  type OptionRow,
  type OptionTable,
  orderOptions,
  pieceOptions,
  scoreOptions,
  signalOptions,
  systemOptions,
  textOptions,
  viewOptions,
  watchOptions,
} from './option-tables.ts'
import type { AnswerFormat } from './structured/answer-format.ts'
import { pictureHead, refusePlaceholders, type TextReading } from './text/placeholders.ts'
import type { WatchQuestion } from './watch.ts'

/** How far a load is. */
export interface LoadProgress {
  /** Bytes of weights that are loaded. */
  doneBytes: number
  /** Bytes of all weights. */
  totalBytes: number
}

/** The value of an option of each kind; `choice` has its own in its row. */
interface KindValues {
  boolean: boolean
  integer: number
  number: number
  string: string
  names: readonly string[]
  device: 'auto' | 'cpu' | 'cuda' | `cuda:${number}`
  layout: Record<string, unknown>
  stop: string | readonly string[]
  drafts: boolean | number
  format: AnswerFormat
  signal: AbortSignal
  onProgress: (progress: LoadProgress) => unknown
  onDownload: (progress: DownloadProgress) => void
  onText: (text: string) => unknown
  onTextOf: (text: string, index: number) => unknown
}

type ValueOf<Row> = Row extends { of: readonly (infer Choice)[] }
  ? Choice
  : Row extends { kind: infer Kind extends keyof KindValues }
    ? KindValues[Kind]
    : never

/** What a caller may pass for a table. */
export type OptionsOf<Table> = { -readonly [Name in keyof Table]?: ValueOf<Table[Name]> | undefined }

/** The same, checked and with what was left out filled in. */
export type SettingsOf<Table> = {
  -readonly [Name in keyof Table]: Table[Name] extends { default: unknown }
    ? ValueOf<Table[Name]>
    : ValueOf<Table[Name]> | undefined
}

/** Options of `loadModel`. */
export interface LoadOptions extends OptionsOf<typeof loadOptions> {}

/** How views become pictures of a prompt. */
export interface ViewOptions extends OptionsOf<typeof viewOptions> {}

/** Options of `model.see`. */
export interface SeeOptions
  extends ViewOptions,
    OptionsOf<typeof systemOptions>,
    OptionsOf<typeof textOptions>,
    OptionsOf<typeof signalOptions> {}

/** Options of `scene.update`. */
export interface UpdateOptions extends OptionsOf<typeof orderOptions>, OptionsOf<typeof signalOptions> {}

/** What `AskOptions` and `AskAllOptions` share. */
interface AnswerOptions
  extends OptionsOf<typeof answerOptions>,
    OptionsOf<typeof textOptions>,
    OptionsOf<typeof signalOptions> {}

/** Options of `scene.ask` and `scene.stream`. */
export interface AskOptions extends AnswerOptions, OptionsOf<typeof pieceOptions> {}

/** Options of `scene.askAll`. */
export interface AskAllOptions extends AnswerOptions, OptionsOf<typeof indexedPieceOptions> {}

/** Options of `scene.locate`. */
export interface LocateOptions extends AskOptions, OptionsOf<typeof cameraOptions> {}

/** Options of `scene.score`. */
export interface ScoreOptions
  extends OptionsOf<typeof scoreOptions>,
    OptionsOf<typeof textOptions>,
    OptionsOf<typeof signalOptions> {}

/** Options of `scene.choose`. */
export interface ChooseOptions extends OptionsOf<typeof choiceOptions>, ScoreOptions {}

/** Options of `model.ask` and `model.stream`: both of seeing and of asking. */
export type ModelAskOptions = SeeOptions & AskOptions

/** {@link LoadOptions}, checked and complete. */
export interface LoadSettings extends SettingsOf<typeof loadOptions> {}

/** Options of `model.watch`. */
export interface WatchOptions
  extends ViewOptions,
    OptionsOf<typeof watchOptions>,
    OptionsOf<typeof systemOptions>,
    AnswerOptions {
  /** What is asked about every moment; the answers are decoded together. */
  questions: readonly WatchQuestion[]
}

/** {@link WatchOptions}, checked, and parted by the calls that take them. */
export interface WatchSettings {
  questions: readonly WatchQuestion[]
  every: number
  deadlineMs: number | undefined
  signal: AbortSignal | undefined
  see: SeeOptions
  ask: AskOptions
}

type AskTable = typeof answerOptions & typeof textOptions & typeof signalOptions & typeof pieceOptions

/** {@link AskOptions}, checked and complete. */
export interface AskSettings extends Omit<SettingsOf<AskTable>, 'seed' | 'stop' | 'speculate'> {
  seed: number
  stop: readonly string[]
  /** Tokens drafted a step. */
  speculate: number
}

const seeTable = { ...viewOptions, ...systemOptions, ...textOptions, ...signalOptions }
const askAllTable = { ...answerOptions, ...textOptions, ...signalOptions, ...indexedPieceOptions }
const askTable = { ...answerOptions, ...textOptions, ...signalOptions, ...pieceOptions }
const watchTable = { ...watchOptions, ...seeTable, ...answerOptions }
const scoreTable = { ...scoreOptions, ...textOptions, ...signalOptions }
const chooseTable = { ...choiceOptions, ...scoreTable }

/** Tokens drafted a step by `speculate: true`. */
const usualDraft = 4

/** More tokens than any context has. */
const mostTokens = 1 << 24

export function loadSettings(options: LoadOptions): LoadSettings {
  checkOptions(options, loadOptions)
  const settings = withDefaults(options, loadOptions)
  const { weights, activations } = settings
  if (activations === 'int8' && weights === 'bf16') {
    throw bad("'int8' or 'int4' beside activations 'int8'", 'weights', options.weights)
  }
  return settings
}

export function checkSeeOptions(options: SeeOptions): void {
  checkOptions(options, seeTable)
  checkSystemMessage(options)
}

export function checkUpdateOptions(options: UpdateOptions): void {
  checkOptions(options, { ...orderOptions, ...signalOptions })
}

export function checkChooseOptions(options: ChooseOptions): void {
  checkOptions(options, chooseTable)
}

export function checkScoreOptions(options: ScoreOptions): void {
  checkOptions(options, scoreTable)
}

export function locateSettings(options: LocateOptions): AskSettings {
  checkOptions(options, { ...cameraOptions, ...askTable })
  return completed(options)
}

export function askSettings(options: AskOptions): AskSettings {
  checkOptions(options, askTable)
  return completed(options)
}

/** Without `onText`, which is told the number of a question as well. */
export function askAllSettings(options: AskAllOptions): AskSettings {
  checkOptions(options, askAllTable)
  return completed({ ...options, onText: undefined })
}

export function modelAskSettings(options: ModelAskOptions): AskSettings {
  checkOptions(options, { ...seeTable, ...askTable })
  checkSystemMessage(options)
  return completed(options)
}

export function watchSettings(options: WatchOptions): WatchSettings {
  const { questions, ...rest } = isRecord(options) ? options : ({} as Partial<WatchOptions>)
  if (!Array.isArray(questions) || questions.length === 0) {
    throw bad('a list of questions, one at least,', 'questions', questions)
  }
  checkOptions(rest, watchTable)
  checkSystemMessage(rest)
  for (const question of questions as readonly WatchQuestion[]) {
    checkQuestion(isRecord(question) ? question.locate : question, rest.text)
  }
  const ask = pickOptions(rest, { ...answerOptions, ...textOptions })
  completed(ask)
  const see = { ...pickOptions(rest, seeTable), signal: undefined }
  const { every, deadlineMs } = withDefaults(rest, watchOptions)
  return { questions: [...questions], every, deadlineMs, signal: rest.signal, see, ask }
}

/** The part of {@link ModelAskOptions} that `see` takes. */
export function seePart(options: ModelAskOptions): SeeOptions {
  return pickOptions(options, seeTable)
}

/** The settings that the engine takes under their own names. */
export function engineNumbers(settings: AskSettings): EngineAskNumbers {
  const rows = Object.entries<OptionRow>(answerOptions).filter(([, row]) => row.engine)
  return Object.fromEntries(rows.map(([name]) => [name, settings[name as keyof AskSettings]])) as EngineAskNumbers
}

/** Values of the options of a table, and of nothing else. */
export function pickOptions<Table extends OptionTable>(options: OptionsOf<Table>, table: Table): OptionsOf<Table> {
  const names = Object.keys(table) as (keyof Table)[]
  return Object.fromEntries(names.map((name) => [name, options[name]])) as OptionsOf<Table>
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

/** Checks what `scene.boxesIn` is given. */
export function checkBoxes(text: unknown, options: object): void {
  checkOptions(options, { ...cameraOptions, question: { kind: 'string' } })
  if (typeof text === 'string') return
  throw new ModelError('BAD_ARGUMENT', `Expected a string for the text with boxes, received ${describeValue(text)}.`)
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

function checkSystemMessage({ systemMessage, text }: SeeOptions): void {
  if (systemMessage === undefined || text === 'literal') return
  refusePlaceholders(systemMessage, 'The system message', "and pictures stand in the user's message")
}

/** Settings from options that are checked one by one. */
function completed(options: AskOptions): AskSettings {
  const settings = withDefaults(options, askTable)
  const { maxNewTokens, minNewTokens, seed, stop, speculate, answerFormat } = settings
  if (minNewTokens > maxNewTokens) {
    throw bad(`an integer up to maxNewTokens, ${maxNewTokens},`, 'minNewTokens', minNewTokens)
  }
  if (answerFormat !== undefined && (minNewTokens > 0 || stop !== undefined)) {
    const other = minNewTokens > 0 ? 'minNewTokens' : 'stop'
    throw new ModelError('BAD_ARGUMENT', `options.answerFormat says where an answer ends; leave options.${other} out.`)
  }
  return {
    ...settings,
    maxNewTokens: Math.min(maxNewTokens, mostTokens),
    minNewTokens: Math.min(minNewTokens, mostTokens),
    seed: seed ?? Math.floor(Math.random() * 2 ** 48),
    stop: stop === undefined ? [] : typeof stop === 'string' ? [stop] : [...stop],
    speculate: speculate === true ? usualDraft : Number(speculate),
  }
}

function withDefaults<Table extends OptionTable>(options: OptionsOf<Table>, table: Table): SettingsOf<Table> {
  const values = Object.entries(table).map(([name, row]) => {
    const given = options[name as keyof Table]
    return [name, given === undefined ? row.default : given]
  })
  return Object.fromEntries(values) as SettingsOf<Table>
}

/** @throws {@link ModelError} `BAD_ARGUMENT` for an option that the table does not have, and for the first value that does not fit. */
function checkOptions(options: unknown, table: OptionTable): void {
  if (!isRecord(options)) {
    throw new ModelError('BAD_ARGUMENT', `Expected an object for options, received ${describeValue(options)}.`)
  }
  const unknown = Object.keys(options).find((key) => !Object.hasOwn(table, key))
  if (unknown !== undefined) {
    throw new ModelError(
      'BAD_ARGUMENT',
      `options.${unknown.slice(0, 100)} is not an option here; expected ${Object.keys(table).join(', ')}.`,
    )
  }
  for (const [name, row] of Object.entries(table)) {
    const value = options[name]
    if (value !== undefined && !fits(value, row)) throw bad(expected(row), name, value)
  }
}

function fits(value: unknown, { kind, low = 0, above, high = Number.MAX_SAFE_INTEGER, of = [] }: OptionRow): boolean {
  const isWhole = Number.isSafeInteger(value) && (value as number) >= low && (value as number) <= high
  switch (kind) {
    case 'boolean':
      return typeof value === 'boolean'
    case 'choice':
      return of.includes(value as string | boolean)
    case 'integer':
      return isWhole
    case 'number':
      return typeof value === 'number' && value <= high && (above === undefined ? value >= low : value > above)
    case 'drafts':
      return typeof value === 'boolean' || isWhole
    case 'string':
      return typeof value === 'string'
    case 'names':
      return Array.isArray(value) && value.every((name) => typeof name === 'string')
    case 'device':
      return typeof value === 'string' && /^(auto|cpu|cuda|cuda:\d{1,3})$/.test(value)
    case 'layout':
      return isRecord(value)
    case 'stop': {
      const list: unknown = typeof value === 'string' ? [value] : value
      return Array.isArray(list) && list.every((one) => typeof one === 'string' && one !== '')
    }
    case 'format':
      return true // compiling it says what is wrong with it, and where
    case 'signal':
      return isSignal(value)
    case 'onProgress':
    case 'onDownload':
    case 'onText':
    case 'onTextOf':
      return typeof value === 'function'
  }
}

function isSignal(signal: unknown): signal is AbortSignal {
  const { aborted, addEventListener, removeEventListener } = Object(signal) as Partial<AbortSignal>
  return (
    typeof aborted === 'boolean' && typeof addEventListener === 'function' && typeof removeEventListener === 'function'
  )
}

function bad(expectation: string, name: string, value: unknown): ModelError {
  return new ModelError(
    'BAD_ARGUMENT',
    `Expected ${expectation} for options.${name}, received ${describeValue(value)}.`,
  )
}

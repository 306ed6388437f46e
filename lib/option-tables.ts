/**
 * The schema of options: one row an option. Types, known keys, checks and defaults (`options.ts`), flags of the command line (`cli/flags.ts`),
 * requests to the engine (`native.ts`) and docs/options.md follow from it. The comment of a row is its documentation, here and there.
 */

/** How a command takes an option. */
export interface OptionFlag {
  /** As commander has it: `--max-tiles <n>`. */
  readonly name: string
  /** In the command's help, where the default follows it. */
  readonly help: string
  /** The commands that have it. */
  readonly on: readonly string[]
}

/** One option. */
export interface OptionRow {
  /** What a value is; `choice`: one of `of`. */
  readonly kind: OptionKind
  /** Bounds of numbers; `above` is left out of the range. Integers without `high` go up to 2^53 − 1. */
  readonly low?: number
  readonly above?: number
  readonly high?: number
  readonly of?: readonly (string | boolean)[]
  /** What it is when it is left out, where that does not depend on anything. */
  readonly default?: string | number | boolean
  readonly flag?: OptionFlag
  /** The number goes to the engine under the option's own name. */
  readonly engine?: true
}

/** Options by name. */
export type OptionTable = Readonly<Record<string, OptionRow>>

export type OptionKind =
  | 'boolean'
  | 'choice'
  | 'integer'
  | 'number'
  | 'string'
  | 'names'
  | 'device'
  | 'layout'
  | 'stop'
  | 'drafts'
  | 'format'
  | 'signal'
  | 'onProgress'
  | 'onDownload'
  | 'onText'
  | 'onTextOf'

/** What fits an option, as messages and docs/options.md say it. */
export function expected(row: OptionRow): string {
  const { low, above, high, of = [] } = row
  switch (row.kind) {
    case 'choice': {
      const names = of.map((one) => (typeof one === 'string' ? `'${one}'` : String(one)))
      return `${names.slice(0, -1).join(', ')} or ${names.at(-1)}`
    }
    case 'integer':
      return low === 1 && high === undefined
        ? 'a positive integer'
        : `an integer from ${low} ${high === undefined ? 'up' : `to ${high}`}`
    case 'number':
      return above === undefined ? `a number from ${low} to ${high}` : `a number above ${above} and at most ${high}`
    case 'drafts':
      return `true, false or an integer from 0 to ${high}`
    default:
      return expectedOfKind[row.kind]
  }
}

const expectedOfKind: Record<Exclude<OptionKind, 'choice' | 'integer' | 'number' | 'drafts'>, string> = {
  boolean: 'true or false',
  string: 'a string',
  names: 'a list of camera names',
  device: "'auto', 'cpu', 'cuda' or 'cuda:N'",
  layout: 'an object with the keys of drivlm.json',
  stop: 'a string or a list of strings, none of them empty,',
  format: '{ enum: […] } or { schema: {…} }',
  signal: 'an AbortSignal',
  onProgress: 'a function',
  onDownload: 'a function',
  onText: 'a function',
  onTextOf: 'a function',
}

export const loadOptions = {
  /** `auto` (default) takes the first usable NVIDIA GPU, else the CPU. */
  device: {
    kind: 'device',
    default: 'auto',
    flag: {
      name: '--device <name>',
      help: 'auto, cpu, cuda or cuda:N',
      on: ['demo', 'ask', 'inspect', 'eval', 'annotate', 'watch', 'serve'],
    },
  },
  /** `bf16` (default): weights and activations in bf16, sums in f32. `f32`: everything in f32, CPU only. */
  precision: {
    kind: 'choice',
    of: ['bf16', 'f32'],
    default: 'bf16',
    flag: {
      name: '--precision <type>',
      help: 'f32 is for the CPU',
      on: ['demo', 'ask', 'inspect', 'eval', 'annotate', 'watch', 'serve'],
    },
  },
  /**
   * What weights are kept as, made at load from any checkpoint. `bf16` (default). `int8`: one scale a row. `int4`: the decoder's layers
   * in groups of 32 with a scale each, vision tower, projector and head as `int8`. See docs/quantisation.md for what it costs.
   */
  weights: {
    kind: 'choice',
    of: ['bf16', 'int8', 'int4'],
    default: 'bf16',
    flag: {
      name: '--weights <type>',
      help: 'int8 and int4 take less memory',
      on: ['demo', 'ask', 'inspect', 'eval', 'annotate', 'watch', 'serve'],
    },
  },
  /**
   * `int8`: vision and prefill multiply 8-bit weights with 8-bit activations, one scale a token. Default: `int8` with `int4` weights on the CPU, else
   * `bf16`; `model.info.activations` says which.
   */
  activations: {
    kind: 'choice',
    of: ['bf16', 'int8'],
    flag: {
      name: '--activations <type>',
      help: 'int8 goes with weights in 8 or 4 bits',
      on: ['demo', 'ask', 'inspect', 'eval', 'annotate', 'watch', 'serve'],
    },
  },
  /**
   * Keep weights as they are computed with in the model folder, in `drivlm-bf16.cache`, `drivlm-int8.cache` or `drivlm-int4.cache`, on a GPU
   * `drivlm-int8-cuda.cache` or `drivlm-int4-cuda.cache`: the first load writes the file, later ones map it, until the checkpoint changes. With
   * precision `f32`, and in `bf16` on a GPU, there are no weights to keep. `model.info.cache` says what came of it. The tables of a large tokenizer
   * are kept beside them, in `drivlm-tokenizer.cache`. Default false.
   */
  cache: {
    kind: 'boolean',
    default: false,
    flag: {
      name: '--cache',
      help: 'keep packed weights in the model folder, for later loads',
      on: ['demo', 'ask', 'inspect', 'eval', 'annotate', 'watch', 'serve'],
    },
  },
  /** Threads of the CPU backend, for the whole process. Default: the cores this process may use. */
  threads: {
    kind: 'integer',
    low: 1,
    high: 1024,
    flag: {
      name: '--threads <n>',
      help: 'threads on the CPU (default: all)',
      on: ['demo', 'ask', 'inspect', 'eval', 'annotate', 'watch', 'serve'],
    },
  },
  /** Longest sequence in tokens: views, question and answer. Default: what the model was made for, at most 8192. */
  maxContext: {
    kind: 'integer',
    low: 16,
    high: 1048576,
    flag: {
      name: '--max-context <tokens>',
      help: 'longest sequence: views, question and answer',
      on: ['demo', 'ask', 'inspect', 'eval', 'annotate', 'watch', 'serve'],
    },
  },
  /**
   * What keys and values of the KV cache are kept as, with precision `bf16`. `bf16` (default). `int8`: about half of the memory, one scale a
   * head and token. See docs/quantisation.md for what it costs.
   */
  kvCache: {
    kind: 'choice',
    of: ['bf16', 'int8'],
    default: 'bf16',
    flag: {
      name: '--kv-cache <type>',
      help: 'int8 halves the KV cache',
      on: ['demo', 'ask', 'inspect', 'eval', 'annotate', 'serve'],
    },
  },
  /** Bytes of the KV cache, for all scenes and questions together. Default: room for two sequences of `maxContext`. */
  kvMemory: { kind: 'integer', low: 1 },
  /**
   * Most bytes that the model may take on its device: weights, KV cache and scratch, the sum of `info.memory`. All of it is reserved at load; what
   * does not fit rejects with `OUT_OF_MEMORY`, how much is missing and which settings would fit. On the CPU it counts weights that stay
   * mapped files too; the vision cache comes on top. Default: what the GPU has free; on the CPU no limit.
   */
  maxMemory: { kind: 'integer', low: 1 },
  /** Questions that are decoded together. Default 20, about what DriveLM asks of one moment. */
  maxBatch: {
    kind: 'integer',
    low: 1,
    high: 256,
    default: 20,
    flag: { name: '--max-batch <n>', help: 'questions decoded together', on: ['inspect', 'serve'] },
  },
  /**
   * Bytes of host memory for the image tokens of tiles that were seen before, so that `scene.update` encodes changed tiles only.
   * Default: room for two scenes. 0 keeps none.
   */
  visionCache: { kind: 'integer', low: 0, high: 1099511627776 },
  /** Scenes and dialogues in the KV cache at one time. Default: as many as `kvMemory` holds. */
  maxScenes: { kind: 'integer', low: 1 },
  /**
   * What happens when a scene or question finds no room, by `kvMemory` or `maxScenes`. `false` (default): it rejects with
   * `OUT_OF_MEMORY`. Otherwise the scene that has not been asked for longest is evicted. When that one is asked again, it sees its views
   * anew (`'resee'`, or `true`), or rejects with `DISPOSED` (`'throw'`).
   */
  evict: { kind: 'choice', of: [true, false, 'resee', 'throw'], default: false },
  /**
   * Questions that may wait behind the `maxBatch` that are being answered, and scenes behind the one that is being seen; what comes on
   * top rejects with `BUSY` at once. Default: no limit.
   */
  maxQueue: { kind: 'integer', low: 0 },
  /** Tile edge in pixels in place of the model's own; a multiple of twice the patch size. */
  tileSize: { kind: 'integer', low: 1, high: 8192 },
  /** How views become images, in place of the folder's drivlm.json and with the same keys (see docs/layouts.md). */
  layout: { kind: 'layout' },
  /**
   * Fetch the model from the hub where it is given by name and is not in the cache, or its branch has moved. Default false: a name is looked
   * for in the cache alone, and no request is made.
   */
  download: { kind: 'boolean', default: false },
  /** Called while files are fetched. */
  onDownload: { kind: 'onDownload' },
  /** Gives up loading; `loadModel` rejects with `ABORTED` and all memory is given back. */
  signal: { kind: 'signal' },
  /** Called a few hundred times at most while the weights are loaded. */
  onProgress: { kind: 'onProgress' },
} as const

export const viewOptions = {
  /** A camera of the canvas without a picture: an error (default), or a black cell. */
  missingViews: {
    kind: 'choice',
    of: ['error', 'black'],
    default: 'error',
    flag: {
      name: '--missing-views <what>',
      help: 'black leaves the cells of missing cameras black',
      on: ['ask', 'eval'],
    },
  },
  /** Most tiles of one separate image, the thumbnail not counted; in place of the layout's. */
  maxTilesPerImage: {
    kind: 'integer',
    low: 1,
    high: 1024,
    flag: { name: '--max-tiles <n>', help: 'most tiles of one separate image', on: ['ask'] },
  },
  /** Tiles shared out among separate images; in place of the layout's. */
  tileBudget: {
    kind: 'integer',
    low: 1,
    high: 1024,
    flag: { name: '--tile-budget <n>', help: 'tiles shared out among separate images', on: ['ask'] },
  },
  /**
   * Named separate images: these come last, in this order. Views that change from moment to moment belong there: what stands before the
   * first change is not computed again. A canvas has its order.
   */
  lastViews: { kind: 'names' },
} as const

export const systemOptions = {
  /** In place of the model's own system message. An empty string leaves it empty. */
  systemMessage: {
    kind: 'string',
    flag: { name: '--system <text>', help: "in place of the model's own system message", on: ['ask'] },
  },
} as const

export const textOptions = {
  /**
   * `placeholders` (default): `<image>` in a text stands for a picture, in order; in front of a question, one a picture, it says what the scene
   * says anyway, elsewhere it is an error. `literal`: it is the letters.
   */
  text: {
    kind: 'choice',
    of: ['placeholders', 'literal'],
    default: 'placeholders',
    flag: { name: '--text <how>', help: '<image> in a question: a picture, or its letters', on: ['ask', 'eval'] },
  },
} as const

export const signalOptions = {
  /** Gives up; the call rejects with `ABORTED`. */
  signal: { kind: 'signal' },
} as const

export const orderOptions = {
  /**
   * Order of separate images. `keep` (default): as before. `changing-last`: the views that changed come last, so that the next update
   * of the same views starts behind all others. A canvas has its order.
   */
  order: { kind: 'choice', of: ['keep', 'changing-last'], default: 'keep' },
} as const

export const watchOptions = {
  /**
   * Least seconds from one moment that is asked about to the next, by their stamps; moments between are passed over. Default 0: a moment
   * whenever the model is free.
   */
  every: { kind: 'number', low: 0, high: 86_400, default: 0 },
  /**
   * Milliseconds from the receipt of a moment in which its answers have to be there. What is not is given up within a token and reported as
   * late; a moment that waited longer is dropped. Default: no deadline.
   */
  deadlineMs: { kind: 'number', above: 0, high: 86_400_000 },
} as const

export const answerOptions = {
  /** Longest answer in tokens. Default 512; less where the context ends sooner. */
  maxNewTokens: {
    kind: 'integer',
    low: 1,
    default: 512,
    flag: { name: '--max-new-tokens <n>', help: 'longest answer', on: ['ask', 'eval', 'annotate', 'watch'] },
    engine: true,
  },
  /** The answer does not end before so many tokens. Default 0. */
  minNewTokens: {
    kind: 'integer',
    low: 0,
    default: 0,
    flag: { name: '--min-new-tokens <n>', help: 'shortest answer', on: ['ask'] },
    engine: true,
  },
  /** 0 (default) takes the likeliest token every time; higher is more varied. */
  temperature: {
    kind: 'number',
    low: 0,
    high: 100,
    default: 0,
    flag: { name: '--temperature <t>', help: '0 takes the likeliest token every time', on: ['ask', 'eval'] },
    engine: true,
  },
  /** Tokens are drawn from the likeliest ones that make up this much probability. Default 1: from all. */
  topP: {
    kind: 'number',
    above: 0,
    high: 1,
    default: 1,
    flag: { name: '--top-p <p>', help: 'draw from the likeliest tokens of this much probability', on: ['ask', 'eval'] },
    engine: true,
  },
  /** Fixes what is drawn at a temperature above 0. Default: a new one every time. */
  seed: {
    kind: 'integer',
    low: 0,
    flag: { name: '--seed <n>', help: 'fixes what is drawn', on: ['ask', 'eval'] },
    engine: true,
  },
  /** The answer ends before the first of these strings; it is not part of the answer. */
  stop: {
    kind: 'stop',
    flag: { name: '--stop <text>', help: 'end the answer before this text; may be given several times', on: ['ask'] },
  },
  /** Give the tokens of the answer with their natural-log probabilities, as `answer.logprobs`. Default false. */
  logprobs: { kind: 'boolean', default: false },
  /** Holds the answer to a form; `answer.value` is then the choice, or what the JSON says. */
  answerFormat: { kind: 'format' },
  /**
   * Tokens that are guessed a step from what the question and the answer said before, and verified together; the answer is the same.
   * Applies at temperature 0 without an `answerFormat`. `true` is 4, `false` none, at most 16. Default `true`.
   */
  speculate: { kind: 'drafts', high: 16, default: true, engine: true },
  /** `keep` (default): `<ref>`, `<box>` and their closers stay in the text; `drop` leaves them out. */
  tags: { kind: 'choice', of: ['keep', 'drop'], default: 'keep' },
} as const

type NamesOfEngine<Table> = { [Name in keyof Table]: Table[Name] extends { engine: true } ? Name : never }[keyof Table]

/** The options of an answer that the engine takes, as numbers. */
export type EngineAskNumbers = Record<NamesOfEngine<typeof answerOptions>, number>

export const pieceOptions = {
  /**
   * Called with every new piece of the answer; together they are its text. What it throws ends the generation and is thrown on; so is what
   * a promise that it returns rejects with. The answer waits for such promises, the next piece does not.
   */
  onText: { kind: 'onText' },
} as const

export const indexedPieceOptions = {
  /** Called with every new piece of every answer, and the number of its question. */
  onText: { kind: 'onTextOf' },
} as const

export const cameraOptions = {
  /**
   * The camera whose pixels boxes are given in. Default: on a canvas the one that each box lies in; among separate images the one that
   * the question names.
   */
  camera: { kind: 'string' },
} as const

export const choiceOptions = {
  /**
   * Divide the log-likelihood of a choice by its length, in `tokens` (or `true`) or in UTF-8 `bytes`, so that long choices are not put at a
   * disadvantage. Default false.
   */
  normalise: { kind: 'choice', of: [true, false, 'tokens', 'bytes'], default: false },
} as const

export const scoreOptions = {
  /** Count the end of the answer too: `1` is then not likelier than `12` merely because it begins like it. Default false. */
  withEnd: { kind: 'boolean', default: false },
} as const

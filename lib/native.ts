/**
 * The typed seam between TypeScript and the addon: numbers only. Everything that is a file format, JSON, a
 * string or a default stays on this side; C++ checks every range, shape and dtype again.
 *
 * This is the only module that loads a `.node` file.
 */
import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import path from 'node:path'
import {
  addonFiles,
  bundledAdvice,
  damageOf,
  findPackageRoot,
  isBundled,
  thisHost,
  whyMissing,
  whyUnfit,
} from './addon-file.ts'
import { type ErrorCode, errorCodes, ModelError } from './errors.ts'
import type { NativeTrainer, NativeTrainingPlan, NativeTrainOptions } from './native-training.ts'
import type { EngineAskNumbers } from './option-tables.ts'

/** Element types a checkpoint may store. */
export type StoredDType = 'F32' | 'F16' | 'BF16'

/** Rows of one stored tensor, or a run of them: `rows` entries of the first dimension from byte `offset` of a file. */
export interface TensorSpan {
  /** Index into {@link NativeModelSource.files}. */
  file: number
  /** Absolute byte offset in the file. */
  offset: number
  /** Rows (entries of the first dimension) taken from here. */
  rows: number
  /** As these rows are stored, where that is not the tensor's dtype; the tensor is F32 then, and the addon widens them. */
  dtype?: StoredDType
}

/**
 * One canonical tensor: the concatenation of its spans along the first dimension.
 *
 * Roles are those of the table of parameters ({@link NativeAddon.parameters}; `N` a layer number; shapes slowest dimension first, `grid` is
 * `positionGrid`). This copy for readers is checked against it by test/unit/parameters.test.ts.
 *
 * | role | shape | only with |
 * |---|---|---|
 * | `vision.class_embedding` | [dim] | |
 * | `vision.patch.weight` | [dim, 3·patchSize·patchSize] | |
 * | `vision.patch.bias` | [dim] | |
 * | `vision.position` | [1 + grid·grid, dim] | |
 * | `vision.layers.N.norm1.weight` | [dim] | |
 * | `vision.layers.N.norm1.bias` | [dim] | layer norm |
 * | `vision.layers.N.qkv.weight` | [3·dim, dim] | |
 * | `vision.layers.N.qkv.bias` | [3·dim] | `qkvBias` |
 * | `vision.layers.N.q_norm.weight` | [dim] | `qkNorm` |
 * | `vision.layers.N.k_norm.weight` | [dim] | `qkNorm` |
 * | `vision.layers.N.proj.weight` | [dim, dim] | |
 * | `vision.layers.N.proj.bias` | [dim] | |
 * | `vision.layers.N.ls1` | [dim] | |
 * | `vision.layers.N.norm2.weight` | [dim] | |
 * | `vision.layers.N.norm2.bias` | [dim] | layer norm |
 * | `vision.layers.N.fc1.weight` | [ffnDim, dim] | |
 * | `vision.layers.N.fc1.bias` | [ffnDim] | |
 * | `vision.layers.N.fc2.weight` | [dim, ffnDim] | |
 * | `vision.layers.N.fc2.bias` | [dim] | |
 * | `vision.layers.N.ls2` | [dim] | |
 * | `projector.norm.weight` | [4·visionDim] | |
 * | `projector.norm.bias` | [4·visionDim] | |
 * | `projector.fc1.weight` | [dim, 4·visionDim] | |
 * | `projector.fc1.bias` | [dim] | |
 * | `projector.fc2.weight` | [dim, dim] | |
 * | `projector.fc2.bias` | [dim] | |
 * | `language.embedding.weight` | [vocab, dim] | |
 * | `language.layers.N.norm1.weight` | [dim] | |
 * | `language.layers.N.qkv.weight` | [(heads + 2·kvHeads)·headDim, dim] | |
 * | `language.layers.N.qkv.bias` | [(heads + 2·kvHeads)·headDim] | `qkvBias` |
 * | `language.layers.N.q_norm.weight` | [headDim] | `qkNorm` |
 * | `language.layers.N.k_norm.weight` | [headDim] | `qkNorm` |
 * | `language.layers.N.out.weight` | [dim, heads·headDim] | |
 * | `language.layers.N.norm2.weight` | [dim] | |
 * | `language.layers.N.gate.weight` | [ffnDim, dim] | |
 * | `language.layers.N.up.weight` | [ffnDim, dim] | |
 * | `language.layers.N.down.weight` | [dim, ffnDim] | |
 * | `language.norm.weight` | [dim] | |
 * | `language.head.weight` | [vocab, dim] | no `tiedHead` |
 *
 * Rows of qkv are q, k, v. Columns of the patch matrix are (channel, y, x). In the projector, dim is the language model's.
 */
export interface TensorSource {
  role: string
  dtype: StoredDType
  shape: number[]
  spans: TensorSpan[]
}

export interface VisionDescription {
  dim: number
  layers: number
  heads: number
  headDim: number
  ffnDim: number
  patchSize: number
  /** Tile edge in pixels the model is fed with; a multiple of `2·patchSize`. */
  tileSize: number
  /** Side of the stored position grid; resized bicubically when it differs from `tileSize / patchSize`. */
  positionGrid: number
  norm: 'layer' | 'rms'
  normEps: number
  qkvBias: boolean
  qkNorm: boolean
  /** Hidden state handed to the projector: blocks that run, 1..layers (select_layer −1 is `layers`). */
  outputLayer: number
  mean: [number, number, number]
  std: [number, number, number]
}

export interface ProjectorDescription {
  normEps: number
  /** Pixel shuffle version: v1 transposes the token grid. */
  shuffle: 'v1' | 'v2'
}

/**
 * Rotary position embedding. `dynamic` is NTK scaling past `originalMax`; `longrope` (also "su") switches from the short to
 * the long factors past `originalMax` and multiplies cos and sin by `attentionScale` on both sides.
 */
export type RopeDescription =
  | { kind: 'default'; theta: number }
  | { kind: 'linear'; theta: number; factor: number }
  | { kind: 'dynamic'; theta: number; factor: number; originalMax: number }
  | {
      kind: 'longrope'
      theta: number
      shortFactors: number[]
      longFactors: number[]
      originalMax: number
      attentionScale: number
    }

export interface LanguageDescription {
  dim: number
  layers: number
  heads: number
  kvHeads: number
  headDim: number
  ffnDim: number
  /** Rows of the embedding and head. */
  vocab: number
  normEps: number
  qkvBias: boolean
  qkNorm: boolean
  tiedHead: boolean
  rope: RopeDescription
}

export interface NetworkDescription {
  vision: VisionDescription
  projector: ProjectorDescription
  language: LanguageDescription
}

export interface NativeModelSource {
  network: NetworkDescription
  /** Absolute paths of the safetensors files. */
  files: string[]
  /** Byte sizes the headers were checked against; the addon maps exactly these and fails if a file changed. */
  fileBytes: number[]
  tensors: TensorSource[]
}

export interface NativeModelOptions {
  /** `cpu`, `cuda` or `cuda:N`. */
  device: string
  precision: 'f32' | 'bf16'
  /** What weights are kept as; default `bf16`. */
  weights?: 'bf16' | 'int8' | 'int4'
  /** Products of 8-bit weights with many rows run in 8 bits; default false. */
  int8Activations?: boolean
  /** What keys and values are kept as, with precision `bf16`; default `bf16`. */
  kvCache?: 'bf16' | 'int8'
  /** Worker threads of the CPU backend, for the whole process. */
  threads: number
  /** Longest sequence, in tokens. */
  maxContext: number
  /** Tokens the KV cache holds for all sequences together, rounded up to pages. */
  kvTokens: number
  /** Sequences decoded together. */
  maxBatch: number
  /** Scenes and dialogues in the cache; default: no limit. */
  maxScenes?: number
  /** Idle scenes are evicted to make room for others; default false. */
  evict?: boolean
  /** Host memory for image tokens of tiles that were seen before; 0 for none. */
  visionCacheBytes: number
  /** Most bytes of weights, KV cache and scratch together; 0 or none: what the device has. */
  maxMemoryBytes?: number
  /** Where packed weights are kept between loads, and 64 characters that say what they are made from. */
  weightCache?: {
    file: string
    key: string
    /** The file as {@link NativeAddon.openCache} opened it. */
    ahead?: number
  }
}

/** What a load did, and for how long. */
export interface NativeLoadReport {
  /** What came of {@link NativeModelOptions.weightCache}. `none`: there is none to read, and none could be written. */
  cache: 'off' | 'read' | 'written' | 'none'
  /** A sentence: why it was made anew though there was one, or why there is none; else empty. */
  reason: string
  /** Reading, rounding and packing the weights, or taking them from the cache. */
  weightsMs: number
  /** Checking the cache, so far as that had not been done since {@link NativeAddon.openCache}; and writing it. */
  cacheMs: number
}

/** A row of the one table of parameters, `native/network/parameters.h`. */
export interface NativeParameter {
  role: string
  /** As stored; the tower works with a position table resized to its tile size. */
  shape: number[]
  /** `matrix`: a side of a product. `table`: rows that are looked up. `vector`: added or multiplied value by value. */
  kind: 'matrix' | 'table' | 'vector'
  /** What it is to the layer that has it. */
  part: 'weight' | 'bias' | 'norm' | 'scale' | 'position'
  /** Two for a tied head: `embedding` and `head`. */
  uses: ('patches' | 'tower' | 'projector' | 'decoder' | 'embedding' | 'head')[]
  /** Of the tower or the decoder, from 0; −1 outside of layers. */
  layer: number
  /** Whether weight decay applies under the rule `standard`; under `all` it applies to every parameter. */
  decaysByStandard: boolean
}

/** Bytes, from the same code that reserves them. */
export interface NativeMemoryPlan {
  weightsBytes: number
  kvBytes: number
  arenaBytes: number
  kvBytesPerToken: number
  pageTokens: number
  /** What the device has for all of it; absent where the system decides. */
  freeBytes?: number
}

/** 8-bit coverage painted in `ink` at (left, top) of a resized canvas cell (Pillow's blend). */
export interface NativeLabel {
  mask: Uint8Array
  width: number
  height: number
  left: number
  top: number
  ink: [number, number, number]
}

/**
 * Interleaved RGB, `height · width · 3` bytes, which are read in place on the pool. A buffer that is not `owned` by the package may be taken
 * away or change meanwhile, which rejects with `BAD_VIEW`.
 */
export interface NativePicture {
  rgb: Uint8Array
  width: number
  height: number
  owned?: boolean
  /** What messages call it. */
  name?: string
}

/** How an image is cut: resized to `columns × rows` tiles, plus the whole squeezed into one more tile. */
export interface NativeGrid {
  columns: number
  rows: number
  thumbnail: boolean
}

declare const kind: unique symbol

/** A view resized to its cell of a canvas, and labelled. Its pixels stay in the addon. */
export interface NativeCell {
  readonly [kind]: 'cell'
}

/** The tiles of one `<image>`. Their pixels stay in the addon. */
export interface NativeTiles {
  readonly [kind]: 'tiles'
}

/** Cells stitched row by row; rows are full. */
export interface NativeCanvas {
  cells: readonly NativeCell[]
  columns: number
}

/** Tiles that come from elsewhere, [tileCount, tileSize, tileSize, 3]; they are copied. */
export interface FinishedTiles {
  tiles: Uint8Array
  tileCount: number
  tileSize: number
}

/** Intermediate tensors by name, as f32. Names are listed in `native/network/probe.h`. */
export type NativeProbes = Record<string, { shape: number[]; data: Float32Array }>

export interface NativeSceneRequest {
  /** Caller's number for {@link NativeModel.cancel}, unique among running jobs. */
  job: number
  /** An evicted scene that is seen again under its number; 0 or none: a new one. */
  scene?: number
  /** Prompt ids up to and including the image span; −1 marks an image slot. */
  ids: Int32Array
  /** In the order of their slots. */
  images: (NativeTiles | FinishedTiles)[]
  probe?: string[]
}

export interface NativeSceneResult {
  /** Handle for {@link NativeGenerateRequest.scene}; never 0. */
  scene: number
  tokens: number
  imageTokens: number
  tiles: number
  /** Tiles whose image tokens were in the vision cache. */
  cachedTiles: number
  /** Leading tokens taken over from a living scene: same ids, same pixels. */
  sharedTokens: number
  queueMs: number
  /** Looking the tiles up in the caches. */
  preprocessMs: number
  visionMs: number
  prefillMs: number
  probes?: NativeProbes
}

/** Numbers of `scene.ask` go to the engine under their names. */
export interface NativeGenerateRequest extends Omit<EngineAskNumbers, 'speculate'> {
  job: number
  /** Scene whose cache this continues (shared, never changed); 0 for an empty context. */
  scene: number
  /** Ids appended to the scene; may be empty only if the scene is not. */
  ids: Int32Array
  maxNewTokens: number
  stopIds: Int32Array
  /** Ids from here on are never chosen: padded rows. Beyond the network's rows it means all of them; a tokenizer may have more ids. */
  vocabLimit: number
  /** Teacher forcing: these are fed and returned in place of the chosen ids. */
  forced?: Int32Array
  /** Hand out the f32 logits row of every step. */
  wantLogits?: boolean
  /** Hand out the natural-log probability of every returned id. */
  wantLogprobs?: boolean
  /** Logits at every row of `ids` as probe `logits` too, not only at the last. */
  probe?: string[]
  /** Keep the sequence (prompt and answer) as a new scene. */
  keep?: boolean
  /** Tokens drafted from the prompt a step and verified together, 0 to 16; greedy only, identical output. Default 0. */
  speculate?: number
  /** What the answer must follow; needs {@link NativeModel.setVocabulary}. */
  automaton?: NativeAutomaton
}

/** A byte automaton; state 0 starts. The stop ids may be chosen in accepting states only. */
export interface NativeAutomaton {
  /** [states, 256] next states, −1 for none. */
  transitions: Int32Array
  /** [states] 1 where an answer may end. */
  accepting: Uint8Array
}

export interface NativeScoreRequest {
  job: number
  scene: number
  /** The question's ids, after which each continuation is scored. */
  ids: Int32Array
  continuations: Int32Array[]
  vocabLimit: number
}

export interface NativeGenerateResult {
  ids: Int32Array
  /** `cancelled` after {@link NativeModel.finish}. */
  finish: 'stop' | 'length' | 'cancelled'
  promptTokens: number
  queueMs: number
  prefillMs: number
  decodeMs: number
  /** [steps, vocab] */
  logits?: Float32Array
  /** [ids]; NaN for a token that the automaton forced. */
  logprobs?: Float32Array
  /** Tokens that speculation drafted, and those that were right. */
  drafted: number
  accepted: number
  probes?: NativeProbes
  /** With `keep`. */
  scene?: number
}

/** What a question finds that gave a claim: its scene made room for others before it began. */
export interface NativeEvicted {
  /** Its place in the order of asking: to be given when it is asked again, or to {@link NativeModel.withdraw}. */
  claim: number
}

export interface NativeStats {
  pagesTotal: number
  pagesUsed: number
  /** In the cache, with dialogues. */
  scenes: number
  /** Scenes that were evicted. */
  evicted: number
  /** Evicted scenes that were seen again. */
  reseen: number
  running: number
  waiting: number
  /** Decode steps, and questions summed over them. */
  steps: number
  stepQuestions: number
  prefillTokens: number
  decodeTokens: number
  /** Prefill that a living scene's prefix saved. */
  sharedTokens: number
  tilesEncoded: number
  tilesCached: number
  visionCacheBytes: number
  drafted: number
  accepted: number
  visionMs: number
  prefillMs: number
  decodeMs: number
}

interface Claiming {
  claim: number
}

/** A loaded model: one engine thread, jobs in call order. Rejections are errors with `code` and `message`. */
export interface NativeModel {
  see(request: NativeSceneRequest): Promise<NativeSceneResult>
  /**
   * `onTokens` gets every id once, batched when the reader is slow; it must not throw. With a claim (0 for the first time) it resolves with
   * {@link NativeEvicted} when the scene was evicted before the question began; without, it rejects.
   */
  generate(
    request: NativeGenerateRequest & Claiming,
    onTokens?: (ids: Int32Array) => void,
  ): Promise<NativeGenerateResult | NativeEvicted>
  generate(request: NativeGenerateRequest, onTokens?: (ids: Int32Array) => void): Promise<NativeGenerateResult>
  /** Natural-log probabilities [continuations][ids] of given continuations; they share the question's cache. Claims as in `generate`. */
  score(request: NativeScoreRequest & Claiming): Promise<Float32Array[] | NativeEvicted>
  score(request: NativeScoreRequest): Promise<Float32Array[]>
  /** The bytes of every token, for automata: offsets [tokens + 1]; no bytes for tokens that never stand in constrained text. */
  setVocabulary(bytes: Uint8Array, offsets: Uint32Array): void
  /** Aborts: the promise rejects with code ABORTED. Unknown numbers are ignored. */
  cancel(job: number): void
  /** Ends a generation early and well: the promise resolves with finish `cancelled`. */
  finish(job: number): void
  /** One holder more of a scene or dialogue, which has one when it comes into being. */
  hold(scene: number): void
  /** One holder less; the last one gives it up. */
  release(scene: number): void
  /** A question that found its scene evicted will not be asked again. */
  withdraw(scene: number, claim: number): void
  /** Scenes that were evicted since the last call. */
  takeEvicted(): number[]
  stats(): NativeStats
  memory(): NativeMemoryPlan
  loadReport(): NativeLoadReport
  /** Cancels what runs, joins the thread, frees everything. Idempotent. */
  dispose(): Promise<void>
}

export interface NativeSystem {
  /** CPU features the backend knows and this machine has, e.g. `avx512bf16`. */
  cpuFeatures: string[]
  /** Instruction set whose kernels the CPU backend chose. */
  cpuTarget: string
  cores: number
  cuda: {
    /** The addon has CUDA kernels inside. */
    built: boolean
    devices: { name: string; computeCapability: string; memoryBytes: number; usable: boolean }[]
    /** Why there is no usable device, a full sentence; empty when there is one. */
    reason: string
  }
}

export interface NativeAddon {
  version: string
  system(): NativeSystem
  /** `onProgress(done, total)` in bytes of weights; throttled. */
  load(
    source: NativeModelSource,
    options: NativeModelOptions,
    onProgress?: (doneBytes: number, totalBytes: number) => void,
    job?: number,
  ): Promise<NativeModel>
  /** Reads a checkpoint's weights for training. */
  train(source: NativeModelSource, options: NativeTrainOptions): Promise<NativeTrainer>
  /** What training takes; allocates nothing. */
  trainingPlan(network: NetworkDescription, options: NativeTrainOptions): NativeTrainingPlan
  /**
   * Begins to compare a cache of packed weights with its checksums, on threads of its own, before it is known whether it is the right one. Returns a number for
   * {@link NativeModelOptions.weightCache}, 0 where there is no such file or it is damaged. It is to be closed, also if no load takes it.
   */
  openCache(file: string, threads: number): number
  /** Ends what {@link openCache} has begun, unless a load has taken it. */
  closeCache(cache: number): void
  /**
   * Asks the system to back a buffer that nobody has touched by large pages. Returns where the first one begins; 0 where none fits.
   */
  largePages(buffer: Uint8Array): number
  /** Cancels a load by its job number; the promise rejects with ABORTED. */
  cancelLoad(job: number): void
  memoryPlan(network: NetworkDescription, options: NativeModelOptions, stored: StoredDType): NativeMemoryPlan
  /** Everything of a network that has a value, in the order of the forward pass. */
  parameters(network: NetworkDescription): NativeParameter[]
  /** Grid choice of the reference (spec/model.md 4.1). */
  chooseGrid(
    width: number,
    height: number,
    tileSize: number,
    minTiles: number,
    maxTiles: number,
    thumbnail: boolean,
  ): NativeGrid
  /** Resizes views to cells of one size and paints their labels, on the pool, side by side. */
  prepareCells(
    pictures: readonly (NativePicture & { label?: NativeLabel | undefined })[],
    cell: { width: number; height: number },
  ): Promise<NativeCell[]>
  /** Cuts a canvas or a picture along a grid, on the pool: resized to it if need be, then the thumbnail. */
  prepareTiles(image: NativeCanvas | NativePicture, grid: NativeGrid, tileSize: number): Promise<NativeTiles>
  /** A copy of the pixels [tiles, size, size, 3]; for tests and for showing what a model sees. */
  tileBytes(tiles: NativeTiles): Uint8Array
  /** A copy of a canvas; for the same. */
  canvasBytes(canvas: NativeCanvas): { rgb: Uint8Array; width: number; height: number }
  /** Sanitizer builds and tests: what was compiled in. */
  build: { cuda: boolean; sanitizer: string; compiler: string }
}

/** Root of the package, from `lib/` and from `dist/` alike. */
export const packageRoot: string = findPackageRoot()

let addon: NativeAddon | undefined

/**
 * The addon: what was built in this checkout or by `drivlm build`, else the prebuilt one for this platform. The environment variable
 * `DRIVLM_ADDON` names another file, such as a sanitizer build.
 *
 * @throws {@link ModelError} `DEVICE_UNAVAILABLE` if there is none that loads here, with the reason and what to do.
 */
export function loadAddon(): NativeAddon {
  addon ??= loadFile()
  return addon
}

/** The file that {@link loadAddon} takes; undefined where there is none. */
export function addonFile(): string | undefined {
  const chosen = process.env.DRIVLM_ADDON
  return chosen ? path.resolve(chosen) : addonFiles(packageRoot).find((file) => existsSync(file))
}

function loadFile(): NativeAddon {
  const file = addonFile()
  if (file === undefined) throw unavailable()
  let damage: string | undefined
  try {
    damage = process.platform === 'linux' ? damageOf(file) : undefined
    if (damage === undefined) return createRequire(file)(file) as NativeAddon
  } catch (error) {
    throw unavailable(file, String((error as Error).message).split('\n', 1)[0], error)
  }
  throw unavailable(file, `it ${damage}`)
}

function unavailable(file?: string, reason = '', cause?: unknown): ModelError {
  let sentence: string
  if (process.env.DRIVLM_ADDON) {
    sentence = `DRIVLM_ADDON names ${file}, which could not be loaded (${reason}). Unset it, or let it name an addon that was built for this machine.`
  } else if (file === undefined && isBundled(packageRoot)) {
    sentence = `This code of drivlm was bundled into another file, and the addon does not lie beside that. ${bundledAdvice}, or let DRIVLM_ADDON name the addon's file.`
  } else {
    sentence =
      file === undefined ? whyMissing(packageRoot, thisHost()) : whyUnfit(packageRoot, file, reason, thisHost())
  }
  return new ModelError('DEVICE_UNAVAILABLE', sentence, cause === undefined ? undefined : { cause })
}

/** What the addon threw, as the package's own error. */
export function toModelError(error: unknown): ModelError {
  if (error instanceof ModelError) return error
  const { code, message } = error as { code?: unknown; message?: unknown }
  const known = (errorCodes as readonly unknown[]).includes(code)
  return new ModelError(known ? (code as ErrorCode) : 'INTERNAL', String(message ?? error), { cause: error })
}

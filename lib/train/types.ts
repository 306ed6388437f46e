/**
 * What the two halves of training share: those that make packs of samples (lists, labels, tiles), and those that learn from them
 * (`adapt`). A pack is numbers only, as C++ takes it.
 */
import type { Schedule } from './schedule.ts'

/**
 * Rows of a pack that attend together: to themselves, causally, and to the whole of an earlier span before them. Positions go on after
 * the prefix. A span with a prefix comes after the span that is its prefix, with no other family between the two.
 */
export interface TrainingSpan {
  /** First row. Spans follow one another and cover all rows. */
  row: number
  /** Number of rows. */
  rows: number
  /** First row of the earlier span that these rows continue; 0 for none. */
  prefixRow: number
  /** Rows of that span; 0 for none. */
  prefixRows: number
}

/** What is learned: the logits of `rows[i]` are to give `labels[i]`. */
export interface TrainingTargets {
  /** [targets]; rows of the pack, ascending. */
  rows: Int32Array
  /** [targets]; ids. */
  labels: Int32Array
  /**
   * [targets]. The loss of a step is the sum of `weight · cross-entropy` over all targets of all its packs: reduction, joint normalisation
   * and gradient accumulation are in these numbers (spec/adaptation.md, section 7).
   */
  weights: Float64Array
}

/** Rows that go through the network together: one sample a span, or one moment, its questions behind a shared prefix. */
export interface TrainingPack {
  /** [rows]; token ids, −1 takes the next image token. */
  ids: Int32Array
  /** In the order of their rows. */
  spans: TrainingSpan[]
  /** [tiles, tileSize, tileSize, 3] RGB in the order of their image tokens; null for none. */
  tiles: Uint8Array | null
  /** What is learned. */
  targets: TrainingTargets
  /** The samples in it, as messages name them, such as `file.jsonl:12`. */
  names: string[]
  /** Questions in it: what is counted a second. */
  questions: number
}

/** Sizes that no pack of a source exceeds: memory is reserved by them before the first step. */
export interface PackBounds {
  /** Most rows of a pack. */
  rows: number
  /** Most tiles of a pack. */
  tiles: number
}

/**
 * Packs of a whole run. What a step gets follows from the source's options and the step's number alone, whatever was asked for before, so
 * that a run goes on where it ended.
 */
export interface PackSource {
  /** Updates of the run. */
  readonly steps: number
  /** Sizes that no pack of it exceeds. */
  readonly bounds: PackBounds
  /**
   * Tiles of all packs, and how many of them differ. A frozen tower keeps what it gives where some come again. Absent: it is not known, and
   * taken for so.
   */
  readonly tiles?: { all: number; different: number }
  /**
   * Hexadecimal digest of all that packs are made from: lists, options, seed, tokenizer, the sizes and times of pictures. A run does not go
   * on with a source of another digest.
   */
  readonly digest: string
  /** For the record of the run: lists with their digests, samples used and left out by reason, settings. Plain JSON. */
  readonly summary: Readonly<Record<string, unknown>>
  /**
   * The packs of update `step`, from 0; one is learned from after the other, in this order. At least one, each with a target. Steps are asked
   * for one by one as they come: a source may read ahead.
   *
   * @throws {@link ModelError} `BAD_DATA` or `BAD_VIEW` for a file that has changed or gone since the source was opened; `ABORTED`.
   */
  packsOfStep(step: number, signal?: AbortSignal): Promise<TrainingPack[]>
}

/**
 * What is trained; the rest gets no gradient and no memory for one (spec/adaptation.md, section 10).
 *
 * `all`: everything. `projector`: between tower and language model, the first stage of the InternVL papers. `language+projector`: all but
 * the tower. `head`: the rows that logits are made with.
 */
export type TrainedPart = 'all' | 'projector' | 'language+projector' | 'head'

/** How a run learns. Defaults are the published ones (spec/adaptation.md, section 14), which {@link publishedSettings} has. */
export interface AdaptSettings {
  /** Default `all`. */
  train: TrainedPart
  /** With `train` other than `all`: the tower's last layers that are trained too. Default 0. */
  towerLayers: number
  /** Peak of the schedule. Default 1e-5. */
  learningRate: number
  /** The same for the vision tower, without the projector; default `learningRate`, and 0 where nothing of the tower is trained. */
  visionLearningRate: number
  /** Default `cosine`. */
  schedule: Schedule
  /** Share of the updates in which the rate rises from 0; default 0.03. Without effect beside `warmupSteps` above 0. */
  warmupRatio: number
  /** Default 0. */
  warmupSteps: number
  /** AdamW's decay of the first moment; default 0.9. */
  beta1: number
  /** AdamW's decay of the second moment; default 0.999. */
  beta2: number
  /** AdamW's, beside the root of the second moment; default 1e-8. */
  eps: number
  /** Default 0.01. */
  weightDecay: number
  /** What decays. `all`: every parameter, as published. `standard`: every one but biases and LayerNorm weights. Default `all`. */
  decay: 'all' | 'standard'
  /** Norm that the gradients of all parameters together are clipped to; Infinity for none. Default 1. */
  maxNorm: number
  /** Rate of the tower's last layer at which a branch is left out for a tile; default 0.1. */
  dropPath: number
  /** Decay of a running mean of the weights, which is then what is written; 0 for none. Default 0. */
  emaDecay: number
  /** Of drop path; default 42. The order of samples has its own. */
  seed: number
  /** What matrix products are computed in; sums, weights, gradients and moments are f32 in both. Default `f32`. */
  precision: 'f32' | 'bf16'
}

/** The settings of the published domain adaptations; `precision` and `emaDecay` are this package's. */
export const publishedSettings: Readonly<AdaptSettings> = {
  train: 'all',
  towerLayers: 0,
  learningRate: 1e-5,
  visionLearningRate: 1e-5,
  schedule: 'cosine',
  warmupRatio: 0.03,
  warmupSteps: 0,
  beta1: 0.9,
  beta2: 0.999,
  eps: 1e-8,
  weightDecay: 0.01,
  decay: 'all',
  maxNorm: 1,
  dropPath: 0.1,
  emaDecay: 0,
  seed: 42,
  precision: 'f32',
}

/** What {@link adapt} takes beside the folder it starts from. */
export interface AdaptOptions extends Partial<AdaptSettings> {
  /** What is learned from. */
  data: PackSource
  /**
   * The folder that the adapted checkpoint is to be; it must not exist, or be empty. While the run goes on its state stands beside it, in
   * `out` with `.run` added; the same call goes on from there.
   */
  out: string
  /** Worker threads; default the number of cores. The result does not depend on it. */
  threads?: number
  /** Updates between two saved states; default 100. */
  saveEvery?: number
  /** Most bytes of memory that the run may take; it is refused if its plan takes more. Default what the machine or its container has. */
  memoryBytes?: number | undefined
  /**
   * Most bytes on the disk for what a frozen tower gives (`train` other than `all`, no `towerLayers`), so that each picture goes through it once:
   * kept in `out.run` until the run ends. Default half of what is free there; 0: nothing is kept. The result does not depend on it.
   */
  towerCacheBytes?: number | undefined
  /**
   * Called with a checkpoint of the weights after every `every` updates and after the last, while training waits. The folder goes when `use`
   * has returned. A run that was killed meanwhile calls it again for the same update.
   */
  checkpoints?: { every: number; use: (folder: string, updates: number) => unknown } | undefined
  /**
   * Ends the run where its saved state is: no further update is done, and `out` becomes the checkpoint of what was learned so far. The other
   * options are those of the run. Default false.
   */
  finish?: boolean
  /** Saves and ends: the iteration then throws `ABORTED`, and the same call goes on later. */
  signal?: AbortSignal
}

/** One update, done. */
export interface AdaptStep {
  /** From 0. */
  step: number
  /** Updates of the run. */
  steps: number
  /** Of this update, by the weights it started from. */
  loss: number
  /** Of all trained parameters together, before clipping. */
  gradientNorm: number
  /** That this update used. */
  learningRate: number
  /** That it used for the vision tower. */
  visionLearningRate: number
  /** Rows it learned from: tokens of all packs. */
  tokens: number
  /** Tokens that were learned. */
  targets: number
  /** Tiles it learned from. */
  tiles: number
  /** Questions it learned from. */
  questions: number
  /** Tiles that went through the vision tower; fewer than `tiles` where a frozen one has seen them before. */
  encodedTiles: number
  /** Waiting for its packs. */
  dataMs: number
  /** All of the step. */
  stepMs: number
  /** `tokens` over what the step took. */
  tokensPerSecond: number
  /** `questions` over what the step took. */
  questionsPerSecond: number
  /** Estimate from the steps of this call. */
  secondsLeft: number
  /** The state was saved after it. */
  saved: boolean
}

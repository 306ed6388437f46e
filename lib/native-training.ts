/** The part of the seam (native.ts) that trains. */

/** What is trained. */
export interface NativeTrainedParts {
  /** Layers of the tower from here on; the number of its layers for none. */
  firstTowerLayer: number
  /** The tower's patch, class and position embedding. */
  patches: boolean
  projector: boolean
  /** The decoder's layers, its last norm, and the embedding. */
  decoder: boolean
  /** A head of its own; a tied one goes with the embedding. */
  head: boolean
}

export interface NativeTrainOptions {
  /** `cpu`. */
  device: string
  /** Of matrix products. */
  precision: 'f32' | 'bf16'
  threads: number
  /** Most rows and tiles of a pack. */
  rows: number
  tiles: number
  /** Tiles that go through the tower together, and rows of logits that exist at a time. */
  tilesAtOnce: number
  logitsAtOnce: number
  parts: NativeTrainedParts
  /** Rate of drop path in the tower's last layer, from 0, below 1; and what its coins are drawn by. */
  dropPath: number
  seed: number
  /** Decay of a running mean of the weights, which is then what is written; 0 for none. */
  meanDecay: number
  /**
   * Where a tower that nothing of is trained keeps what it gives: a file, 64 characters that say which tower and how it is computed, and the most
   * bytes. Absent: nowhere.
   */
  towerCache?: { file: string; key: string; bytes: number }
}

/** Bytes of a trainer by kind, from the code that reserves them. */
export interface NativeTrainingPlan {
  weightsBytes: number
  gradientsBytes: number
  momentsBytes: number
  meanBytes: number
  activationsBytes: number
  /** On the disk, of a tile in the file of `towerCache`; no memory. */
  towerTileBytes: number
}

/** A pack as C++ takes it; `TrainingPack` of lib/train/types.ts has the meanings. Copied before the call returns. */
export interface NativePack {
  ids: Int32Array
  spans: readonly { row: number; rows: number; prefixRow: number; prefixRows: number }[]
  tiles: Uint8Array | null
  targets: { rows: Int32Array; labels: Int32Array; weights: Float64Array }
}

export interface NativeUpdate {
  learningRate: number
  /** Of the vision tower. */
  visionLearningRate: number
  beta1: number
  beta2: number
  eps: number
  weightDecay: number
  decay: 'all' | 'standard'
  /** Absent: no clipping. */
  maxNorm?: number
}

/** Weights in training, on a thread of their own; calls are done in order. Rejections are errors with `code` and `message`. */
export interface NativeTrainer {
  /** Adds the gradients of a pack; its loss. */
  learn(pack: NativePack): Promise<number>
  /** Updates the weights by what was added; the norm of all gradients before clipping. If that is no number, nothing changes. */
  update(settings: NativeUpdate): Promise<number>
  /** Writes weights, moments and the number of updates, whole or not at all. `key`: 64 characters that say what the run is of. */
  save(file: string, key: string): Promise<number>
  /** Takes them up; the number of updates. */
  restore(file: string, key: string): Promise<number>
  /** The checkpoint that the weights came from with the values of now: a path for each of its files. */
  write(files: string[]): Promise<number>
  /** Tiles that went through the tower so far; fewer than were learned from with `towerCache`. */
  encodedTiles(): Promise<number>
  /** errno of the write at which the file of `towerCache` was given up and removed; 0 while it is kept. */
  towerCacheError(): Promise<number>
  /** Ends the thread after what was asked for, and frees everything. Idempotent. */
  dispose(): Promise<void>
}

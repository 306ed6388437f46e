/**
 * From stored tensors to canonical roles. Adapters `take` a tensor by its name and expected shape and `add` rows of it
 * under a role; `finish` fails if anything was left over, so every tensor of a checkpoint is used exactly once.
 */
import { ModelError } from '../errors.ts'
import type { StoredDType, TensorSource, TensorSpan } from '../native.ts'
import { shorten } from './files.ts'
import type { StoredTensor, WeightFiles } from './safetensors.ts'

/** A run of rows of a stored tensor. */
export interface Rows {
  tensor: StoredTensor
  first: number
  rows: number
}

export const elementBytes: Record<StoredDType, number> = { F32: 4, F16: 2, BF16: 2 }

const isStored = (dtype: string): dtype is StoredDType => Object.hasOwn(elementBytes, dtype)
const shapeText = (shape: readonly number[]): string => `[${shape.join(', ')}]`

/** Buffers old exporters stored along; they are computed, never read. */
const ignored = /(^|\.)rotary_emb\.(inv_freq|cos_cached|sin_cached)$/

/** Modules of the `-Flash` checkpoints, which compress some tiles. */
const flashModule = /^(model\.)?(mlp2|gating|pooling_before_gating)\./

/** Parts of tensor names that a LoRA adapter leaves while it is not merged. */
export const adapterName: RegExp = /(^|\.)(lora_[A-Za-z_]+|base_layer|modules_to_save)(\.|$)/

export class TensorBinder {
  readonly #weights: WeightFiles
  /** Tensors by the name adapters ask for. */
  readonly #byName = new Map<string, StoredTensor>()
  readonly #unused = new Set<string>()
  readonly #spell: (name: string) => string
  readonly #sources: TensorSource[] = []
  readonly #aliases = new Map<string, string>()
  readonly #joined: string[] = []
  /** Sentences on how tensors were taken that are not stored as the model wants them. */
  readonly notes: string[] = []

  /**
   * @param normalize - From a stored name to the name adapters ask for.
   * @param spell - Back, for messages about tensors that are missing.
   */
  constructor(
    weights: WeightFiles,
    normalize: (name: string) => string = (name) => name,
    spell: (name: string) => string = (name) => name,
  ) {
    this.#weights = weights
    this.#spell = spell
    for (const [name, kept] of weights.aliases) this.#aliases.set(normalize(name), normalize(kept))
    for (const tensor of weights.tensors.values()) {
      if (adapterName.test(tensor.name)) {
        throw new ModelError(
          'UNSUPPORTED_MODEL',
          `${tensor.name} in ${this.fileOf(tensor)} belongs to a LoRA adapter. Merge the adapter into the weights first.`,
        )
      }
      if (flashModule.test(tensor.name)) {
        throw new ModelError(
          'UNSUPPORTED_MODEL',
          `${tensor.name} in ${this.fileOf(tensor)} belongs to a Flash variant, which compresses some tiles. Use the checkpoint without Flash in its name.`,
        )
      }
      if (ignored.test(tensor.name)) continue
      const name = normalize(tensor.name)
      const twin = this.#byName.get(name)
      if (twin !== undefined) {
        throw new ModelError(
          'BAD_WEIGHTS',
          `${tensor.name} in ${this.fileOf(tensor)} and ${twin.name} in ${this.fileOf(twin)} are two spellings of one tensor; expected one of them.`,
        )
      }
      this.#byName.set(name, tensor)
      this.#unused.add(name)
    }
  }

  has(name: string): boolean {
    return this.#byName.has(name)
  }

  /** Whether a file notes that these names were one tensor when it was saved. */
  isSame(one: string, other: string): boolean {
    return this.#aliases.get(one) === other || this.#aliases.get(other) === one
  }

  fileOf(tensor: StoredTensor): string {
    return (this.#weights.files[tensor.file] ?? '').split('/').at(-1) ?? ''
  }

  /**
   * The tensor of that name, whose shape is checked, for one use.
   *
   * @param why - What the expected shape follows from, for the message: `llm_config.vocab_size 151655`.
   */
  take(name: string, shape: readonly number[], why = ''): StoredTensor {
    const tensor = this.find(name, shape)
    if (tensor.shape.length !== shape.length || tensor.shape.some((size, i) => size !== shape[i])) {
      throw this.mismatch(tensor, shapeText(shape), why)
    }
    return tensor
  }

  /** As {@link take}, with the shape left to the caller to check. */
  find(name: string, shape?: readonly number[]): StoredTensor {
    const tensor = this.#byName.get(name)
    if (tensor === undefined) {
      const expected = shape === undefined ? '' : ` of shape ${shapeText(shape)}`
      throw new ModelError(
        'BAD_WEIGHTS',
        `${this.#spell(name)} is missing; expected a tensor${expected}, found none of that name in ${this.#fileNames()}. ${this.#advice(name)}`,
      )
    }
    if (!this.#unused.delete(name)) throw new ModelError('INTERNAL', `${tensor.name} is used twice.`)
    if (!isStored(tensor.dtype)) {
      throw new ModelError(
        'BAD_WEIGHTS',
        `${tensor.name}: expected bf16, f16 or f32, found ${tensor.dtype.toLowerCase()} in ${this.fileOf(tensor)}. Quantised weights cannot be read; use the original checkpoint.`,
      )
    }
    return tensor
  }

  mismatch(tensor: StoredTensor, expected: string, why = ''): ModelError {
    const dtype = tensor.dtype.toLowerCase()
    return new ModelError(
      'BAD_WEIGHTS',
      `${tensor.name}: expected ${dtype} ${expected}${why && ` (${why})`}, found ${dtype} ${shapeText(tensor.shape)} in ${this.fileOf(tensor)}.`,
    )
  }

  /**
   * A canonical tensor out of rows of stored ones, in order. Parts of several dtypes, as a merged adapter leaves them, make an f32 tensor, which
   * holds each of their values exactly.
   *
   * @param shape - Canonical shape; its first dimension must be the sum of the rows.
   */
  add(role: string, shape: readonly number[], parts: readonly Rows[]): void {
    const dtypes = parts.map((part) => part.tensor.dtype as StoredDType)
    const dtype = dtypes.every((one) => one === dtypes[0]) ? dtypes[0]! : 'F32'
    const columns = shape.slice(1).reduce((product, size) => product * size, 1)
    const spans: TensorSpan[] = []
    if (dtypes.some((one) => one !== dtype)) this.#joined.push(parts.map(({ tensor }) => tensor.name).join(', '))
    let rows = 0
    for (const [i, part] of parts.entries()) {
      const rowBytes = columns * elementBytes[dtypes[i]!]
      const offset = part.tensor.offset + part.first * rowBytes
      if ((part.first + part.rows) * rowBytes > part.tensor.bytes) {
        throw new ModelError('INTERNAL', `${role}: rows past the end of ${part.tensor.name}.`)
      }
      const last = spans.at(-1)
      const follows = last !== undefined && last.file === part.tensor.file && dtypes[i] === dtypes[i - 1]
      if (follows && last.offset + last.rows * rowBytes === offset) last.rows += part.rows
      else {
        const own = dtypes[i] === dtype ? {} : { dtype: dtypes[i]! }
        spans.push({ file: part.tensor.file, offset, rows: part.rows, ...own })
      }
      rows += part.rows
    }
    if (rows !== shape[0]) throw new ModelError('INTERNAL', `${role}: ${rows} rows for shape ${shapeText(shape)}.`)
    this.#sources.push({ role, dtype, shape: [...shape], spans })
  }

  /** One stored tensor as one role; `stored` is its shape on disk where that differs from the canonical one. */
  whole(role: string, name: string, shape: readonly number[], why = '', stored: readonly number[] = shape): void {
    this.concat(role, [[name, shape[0]!]], shape, why, () => stored)
  }

  /** Several stored tensors under each other as one role: `[name, rows]` each, of the same width. */
  concat(
    role: string,
    parts: readonly (readonly [name: string, rows: number])[],
    shape: readonly number[],
    why = '',
    stored: (rows: number) => readonly number[] = (rows) => [rows, ...shape.slice(1)],
  ): void {
    const taken = parts.map(([name, rows]) => ({ tensor: this.take(name, stored(rows), why), first: 0, rows }))
    this.add(role, shape, taken)
  }

  /** All canonical tensors. @throws {@link ModelError} `BAD_WEIGHTS` if a stored tensor was not used. */
  finish(): TensorSource[] {
    const left = [...this.#unused].map((name) => this.#byName.get(name)!)
    if (left.length > 0) {
      const tensor = left[0]!
      const more = left.length > 1 ? ` and ${left.length - 1} more like it` : ''
      throw new ModelError(
        'BAD_WEIGHTS',
        `${shorten(tensor.name, 200)}${more}: expected only tensors that config.json accounts for, found ${tensor.dtype.toLowerCase()} ${shapeText(tensor.shape)} in ${this.fileOf(tensor)}. The model would not be what its weights say.`,
      )
    }
    const [first, ...more] = this.#joined
    if (first !== undefined) {
      const others = more.length === 0 ? '' : ` and ${more.length} more like ${more.length === 1 ? 'it' : 'them'}`
      this.notes.push(`Stored in several dtypes and widened to f32 on load: ${shorten(first, 300)}${others}.`)
    }
    return this.#sources
  }

  /** What a missing tensor is most likely a sign of. */
  #advice(name: string): string {
    const head = /\b(lm_head|output)\.weight$/
    const table =
      /\b(embed_tokens|tok_embeddings)\.weight$/.test(name) &&
      [...this.#byName.values()].find((one) => head.test(one.name))
    if (table) {
      return `There is ${table.name}; if it is the embedding as well, save the model with both names, or with save_model of the safetensors library, which notes that they are one.`
    }
    const stored = [...this.#weights.tensors.keys()]
    for (const spelled of new Set([name, this.#spell(name)])) {
      const longer = stored.find((one) => one.endsWith(`.${spelled}`))
      const prefix = longer?.slice(0, -spelled.length)
      if (prefix !== undefined && stored.every((one) => one.startsWith(prefix))) {
        return `Every name there begins with "${shorten(prefix, 60)}": a wrapped model was saved. Save the model inside it, or take the prefix off the names.`
      }
      if (longer !== undefined)
        return `There is ${shorten(longer, 200)}: the names have a prefix. Save the model without its wrapper.`
      const group = `${spelled.split('.')[0]}.`
      const shorter = stored.find((one) => spelled.endsWith(`.${one}`))
      if (shorter !== undefined) {
        return `There is ${shorten(shorter, 200)}: the names lack "${spelled.slice(0, -shorter.length)}". Save the whole model, not a part of it.`
      }
      if (stored.some((one) => one.startsWith(group))) return 'Download the weights again.'
    }
    const groups = [...new Set(stored.map((one) => `"${one.split('.')[0]}."`))]
    return `No name begins as it does; names there begin with ${shorten(groups.join(', '), 200)}, so the weights are of another form than config.json says, or of a part of the model.`
  }

  #fileNames(): string {
    const { files } = this.#weights
    if (files.length === 1) return files[0]!.split('/').at(-1)!
    return `the ${files.length} shards`
  }
}

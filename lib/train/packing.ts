/**
 * Whole samples in packs: rows of the training step in which every sample attends to itself alone. The order of packs follows the reference
 * (spec/adaptation.md, section 5; InternVL's dataset_packed.py).
 */
import { ModelError } from '../errors.ts'

/** What packing counts of a sample. */
export interface Packed {
  tokens: number
  tiles: number
}

export interface PackLimits {
  /** Tokens of a pack, `max_packed_tokens`; default 16384. */
  maxTokens: number
  /** Tiles of a pack, `num_images_expected`; default 48. */
  maxTiles: number
  /** Packs that are open at a time, `max_buffer_size`; default 20. */
  maxOpen: number
}

/** The published limits (section 14). */
export const publishedLimits: Readonly<PackLimits> = { maxTokens: 16384, maxTiles: 48, maxOpen: 20 }

interface Pack<T> extends Packed {
  samples: T[]
}

/** Fills packs with samples as they arrive. */
export class Packer<T extends Packed> {
  readonly #limits: PackLimits
  /** Packs that take more samples, most tiles first. */
  readonly #open: Pack<T>[] = []
  readonly #dropped: T[] = []

  /** @throws {@link ModelError} `BAD_ARGUMENT` for a limit that is no whole number of at least 1. */
  constructor(limits: Partial<PackLimits> = {}) {
    this.#limits = { ...publishedLimits, ...limits }
    for (const [name, value] of Object.entries(this.#limits)) {
      if (!Number.isSafeInteger(value) || value < 1)
        throw new ModelError('BAD_ARGUMENT', `${name}: expected a whole number of at least 1, found ${value}.`)
    }
  }

  /** Samples of more tiles than a pack may have. */
  get dropped(): readonly T[] {
    return this.#dropped
  }

  /** Samples of packs that are not full, in the order in which {@link finish} would give them: the packer's state. */
  get open(): readonly (readonly T[])[] {
    return this.#open.map((pack) => pack.samples)
  }

  /**
   * Takes a sample.
   * @returns The packs that are full now.
   * @throws {@link ModelError} `BAD_ARGUMENT` for a sample of more tokens than a pack has.
   */
  add(sample: T): T[][] {
    const { maxTokens, maxTiles, maxOpen } = this.#limits
    if (sample.tokens > maxTokens) {
      throw new ModelError(
        'BAD_ARGUMENT',
        `A sample of ${sample.tokens} tokens does not fit into packs of ${maxTokens}; cut samples shorter, or raise maxTokens.`,
      )
    }
    if (sample.tiles > maxTiles) {
      this.#dropped.push(sample)
      return []
    }
    const open = this.#open
    const fits = open.findIndex(
      (pack) => pack.tiles + sample.tiles <= maxTiles && pack.tokens + sample.tokens <= maxTokens,
    )
    const [pack] = fits < 0 ? [{ samples: [], tokens: 0, tiles: 0 }] : open.splice(fits, 1)
    pack!.samples.push(sample)
    pack!.tokens += sample.tokens
    pack!.tiles += sample.tiles
    const full: T[][] = []
    if (pack!.tokens >= maxTokens) full.push(pack!.samples)
    else {
      const behind = open.findIndex((other) => other.tiles < pack!.tiles)
      open.splice(behind < 0 ? open.length : behind, 0, pack!)
    }
    while (open.length > 0 && (open[0]!.tiles === maxTiles || open.length > maxOpen)) full.push(open.shift()!.samples)
    return full
  }

  /** The packs that are left, in order. */
  finish(): T[][] {
    return this.#open.splice(0).map((pack) => pack.samples)
  }
}

/**
 * Seeded bf16 weights at the speed of the disk. Two blocks of random numbers are made once; every chunk of a large tensor
 * is one of them at a random place, with signs and low mantissa bits flipped by the other at a random place, so no two
 * rows are alike. The bytes of a tensor depend on the seed and its name only.
 */
import type { Fill } from './tensors.ts'

/** Pairs of bf16 values in a chunk; 4 MiB. */
const chunkPairs = 1 << 20

/** mulberry32: small, fast and good enough for numbers nobody will ever learn from. */
function randomBits(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = Math.imul(state ^ (state >>> 15), state | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return (t ^ (t >>> 14)) >>> 0
  }
}

/** FNV-1a. */
function hash(text: string, seed: number): number {
  let value = (0x811c9dc5 ^ seed) >>> 0
  for (let i = 0; i < text.length; i++) value = Math.imul(value ^ text.charCodeAt(i), 0x01000193) >>> 0
  return value
}

const scratch = new Float32Array(1)
const scratchBits = new Uint32Array(scratch.buffer)

/** Nearest bf16, as its 16 bits. */
function bf16(value: number): number {
  scratch[0] = value
  return (scratchBits[0]! + 0x8000) >>> 16
}

/** Standard normal numbers, from pairs of uniform ones. */
function normals(next: () => number): () => number {
  let spare: number | undefined
  return () => {
    if (spare !== undefined) {
      const value = spare
      spare = undefined
      return value
    }
    const radius = Math.sqrt(-2 * Math.log((next() + 1) / 4294967297))
    const angle = (next() / 4294967296) * 2 * Math.PI
    spare = radius * Math.sin(angle)
    return radius * Math.cos(angle)
  }
}

/** Mean and deviation of each kind of tensor: activations keep their size through the published depths. */
const spread: Record<Fill, { mean: number; deviation: number }> = {
  weight: { mean: 0, deviation: 0.02 },
  norm: { mean: 1, deviation: 0.02 },
  scale: { mean: 0.1, deviation: 0.01 },
}

export class WeightSource {
  readonly #seed: number
  readonly #values = new Uint32Array(2 * chunkPairs)
  readonly #flips = new Uint32Array(2 * chunkPairs)
  readonly #chunk = new Uint32Array(chunkPairs)

  constructor(seed: number) {
    this.#seed = seed
    const next = randomBits(hash('weights', seed))
    const normal = normals(next)
    const { deviation } = spread.weight
    for (let i = 0; i < this.#values.length; i++) {
      this.#values[i] = ((bf16(normal() * deviation) << 16) | bf16(normal() * deviation)) >>> 0
      this.#flips[i] = next() & 0x8007_8007 // signs and the last three mantissa bits
    }
  }

  /** The bytes of a tensor in chunks; each is valid until the next one is asked for. */
  *fill(name: string, elements: number, kind: Fill): Generator<Uint8Array> {
    const next = randomBits(hash(name, this.#seed))
    if (kind !== 'weight') {
      const { mean, deviation } = spread[kind]
      const normal = normals(next)
      const values = Uint16Array.from({ length: elements }, () => bf16(mean + normal() * deviation))
      yield new Uint8Array(values.buffer)
      return
    }
    const values = this.#values
    const flips = this.#flips
    const chunk = this.#chunk
    const pairs = Math.ceil(elements / 2)
    for (let done = 0; done < pairs; done += chunkPairs) {
      const count = Math.min(chunkPairs, pairs - done)
      const a = next() % (chunkPairs + 1)
      const b = next() % (chunkPairs + 1)
      for (let i = 0; i < count; i++) chunk[i] = values[a + i]! ^ flips[b + i]!
      const left = 2 * (elements - 2 * done)
      yield new Uint8Array(chunk.buffer, 0, Math.min(4 * count, left))
    }
  }
}

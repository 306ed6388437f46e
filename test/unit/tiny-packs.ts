/** Packs of nothing in particular, for tests of what learns from them: drawn by step and seed, of two samples behind one prefix and one alone. */
import type { NetworkDescription } from '../../lib/native.ts'
import { Random } from '../../lib/train/random.ts'
import type { PackSource, TrainingPack } from '../../lib/train/types.ts'

export function tinySource(
  { vision, language }: NetworkDescription,
  { steps = 6, seed = 1, packs = 2, digest = 'tiny' } = {},
): PackSource {
  const tileTokens = (vision.tileSize / vision.patchSize) ** 2 / 4
  const prefix = tileTokens + 6
  const rows = prefix + 12 + 9
  const tileBytes = 3 * vision.tileSize ** 2
  const packOf = (step: number, number: number): TrainingPack => {
    const random = new Random(seed, step, number)
    const ids = Int32Array.from({ length: rows }, (_, row) =>
      row >= 3 && row < 3 + tileTokens ? -1 : random.below(Math.min(200, language.vocab)),
    )
    const targets = [prefix + 1, prefix + 4, prefix + 8, rows - 4, rows - 3]
    return {
      ids,
      spans: [
        { row: 0, rows: prefix, prefixRow: 0, prefixRows: 0 },
        { row: prefix, rows: 6, prefixRow: 0, prefixRows: prefix },
        { row: prefix + 6, rows: 6, prefixRow: 0, prefixRows: prefix },
        { row: prefix + 12, rows: 9, prefixRow: 0, prefixRows: 0 },
      ],
      tiles: Uint8Array.from({ length: tileBytes }, () => random.below(256)),
      targets: {
        rows: Int32Array.from(targets),
        labels: Int32Array.from(targets, (row) => ids[row + 1]!),
        weights: Float64Array.from(targets, () => 1 / targets.length / packs),
      },
      names: [`tiny.jsonl:${step * packs + number + 1}`],
      questions: 3,
    }
  }
  return {
    steps,
    bounds: { rows, tiles: 1 },
    digest: `${digest} ${seed} ${packs}`,
    summary: { lists: [{ name: 'tiny', used: steps * packs }] },
    packsOfStep: async (step) => Array.from({ length: packs }, (_, number) => packOf(step, number)),
  }
}

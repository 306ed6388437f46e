/** From units of samples to the numbers of a pack: ids, spans, tiles, and what is learned with which weight. */
import type { ViewLayout } from '../checkpoint/layout.ts'
import { ModelError } from '../errors.ts'
import { type NativeAddon, toModelError } from '../native.ts'
import { imageSlot } from '../text/prompt.ts'
import { imagesFor } from '../views/compose.ts'
import { decodePicture } from '../views/decode.ts'
import { recompressTiles } from './augment.ts'
import { ignoredLabel } from './labels.ts'
import { type LossReduction, tokenWeight } from './loss-weights.ts'
import { leftOut, type Preparation, type PreparedSample, prepareSample } from './prepare.ts'
import { Random } from './random.ts'
import type { ListedSample, SampleSource } from './sample-lists.ts'
import { fingerprintOf, type UsableSamples } from './survey.ts'
import type { TrainingPack, TrainingSpan } from './types.ts'
import type { UnitSize } from './units.ts'

/** A unit of a pack: samples of one list, by their numbers among the usable ones. */
export interface PackedUnit extends UnitSize {
  list: number
  members: readonly number[]
}

/** What packs are written with. */
export interface PackWriting {
  lists: readonly { list: SampleSource; usable: UsableSamples }[]
  preparation: Preparation
  addon: Pick<NativeAddon, 'chooseGrid' | 'prepareCells' | 'prepareTiles' | 'tileBytes'>
  reduction: LossReduction
  seed: number
  signal?: AbortSignal | undefined
}

/** Units whose pictures are decoded at the same time. */
const atOnce = 2

/**
 * Writes the packs of a step. Weights are not normalised yet.
 *
 * @param pass - Of each pack, for what is drawn anew in each pass.
 * @throws {@link ModelError} `BAD_DATA` or `BAD_VIEW` for what has changed or gone since the samples were looked through; `ABORTED`.
 */
export async function writePacks(
  packs: readonly { units: readonly PackedUnit[]; pass: number }[],
  writing: PackWriting,
): Promise<TrainingPack[]> {
  const { layout, tiling } = writing.preparation
  const tileBytes = tiling.tileSize ** 2 * 3
  const written = packs.map(({ units }) => newPack(units, tileBytes))
  const queue = packs
    .flatMap(({ units, pass }, p) => {
      let row = 0
      let tile = 0
      return units.map((unit) => {
        const place = { pack: written[p]!, pass, unit, row, tile }
        row += unit.tokens
        tile += unit.tiles
        return place
      })
    })
    .values()
  const work = async (): Promise<void> => {
    for (const { pack, pass, unit, row, tile } of queue) {
      if (writing.signal?.aborted) throw new ModelError('ABORTED', 'Making packs was aborted.')
      const samples = await readUnit(unit, writing)
      writeUnit(pack, row, samples, writing)
      const [first] = samples
      if (unit.tiles === 0) continue
      const pixels = await tilesOf(first!, layout, writing)
      if (pixels.length !== unit.tiles * tileBytes) throw changed(first!.where)
      const { entry } = writing.lists[unit.list]!.list
      if (entry.augment) {
        const key = writing.lists[unit.list]!.usable.index[unit.members[0]!]!
        await recompressTiles(pixels, tiling.tileSize, new Random(writing.seed, pass, 4, unit.list, key))
      }
      pack.tiles!.set(pixels, tile * tileBytes)
    }
  }
  const outcomes = await Promise.allSettled(Array.from({ length: atOnce }, work))
  for (const outcome of outcomes) if (outcome.status === 'rejected') throw outcome.reason
  return written.map(finishPack)
}

interface ReadSample {
  where: string
  sample: ListedSample
  prepared: PreparedSample
}

/** A pack that is being written: what a unit adds stands at its own place, whoever is done first. */
interface OpenPack extends Omit<TrainingPack, 'targets' | 'spans' | 'names'> {
  units: {
    row: number
    spans: TrainingSpan[]
    names: string[]
    targets: [row: number, label: number, weight: number][]
  }[]
}

function newPack(units: readonly PackedUnit[], tileBytes: number): OpenPack {
  const tiles = units.reduce((sum, unit) => sum + unit.tiles, 0)
  return {
    ids: new Int32Array(units.reduce((sum, unit) => sum + unit.tokens, 0)),
    tiles: tiles === 0 ? null : new Uint8Array(tiles * tileBytes),
    questions: units.reduce((sum, unit) => sum + unit.members.length, 0),
    units: [],
  }
}

function finishPack({ units, ids, tiles, questions }: OpenPack): TrainingPack {
  units.sort((a, b) => a.row - b.row)
  const targets = units.flatMap((unit) => unit.targets)
  return {
    ids,
    spans: units.flatMap((unit) => unit.spans),
    tiles,
    targets: {
      rows: Int32Array.from(targets, (target) => target[0]),
      labels: Int32Array.from(targets, (target) => target[1]),
      weights: Float64Array.from(targets, (target) => target[2]),
    },
    names: units.flatMap((unit) => unit.names),
    questions,
  }
}

async function readUnit({ list, members }: PackedUnit, { lists, preparation }: PackWriting): Promise<ReadSample[]> {
  const { list: source, usable } = lists[list]!
  const samples: ReadSample[] = []
  for (const member of members) {
    const index = usable.index[member]!
    const where = source.where(index)
    const sample = await source.read(index)
    const prepared = await prepareSample(sample, preparation, source.entry.maxTiles)
    if ('leftOut' in prepared) {
      const code = prepared.leftOut.startsWith('picture') ? 'BAD_VIEW' : 'BAD_DATA'
      throw new ModelError(code, `${where}: could be used when the run began, but now ${leftOut[prepared.leftOut]}.`)
    }
    if (fingerprintOf(prepared) !== usable.fingerprint[member]) throw changed(where)
    samples.push({ where, sample, prepared })
  }
  return samples
}

function changed(where: string): ModelError {
  return new ModelError(
    'BAD_DATA',
    `${where}: the sample or a picture of it was changed since the run began; put the old files back, or begin a new run.`,
  )
}

/** Samples from row `row` on: one as it is, several behind what they have in common. */
function writeUnit(pack: OpenPack, row: number, samples: readonly ReadSample[], writing: PackWriting): void {
  const context = writing.preparation.tokenizer.idOf('<IMG_CONTEXT>')!
  const shared = samples.length > 1 ? samples[0]!.prepared.head : 0
  const unit: OpenPack['units'][number] = { row, spans: [], names: [], targets: [] }
  const place = (ids: Int32Array, at: number): void => {
    for (const [i, id] of ids.entries()) pack.ids[at + i] = id === context ? imageSlot : id
  }
  let at = row + shared
  if (shared > 0) {
    place(samples[0]!.prepared.ids.subarray(0, shared), row)
    unit.spans.push({ row, rows: shared, prefixRow: 0, prefixRows: 0 })
  }
  for (const { where, prepared } of samples) {
    const { ids, labels, learned } = prepared
    const rows = ids.length - shared
    place(ids.subarray(shared), at)
    unit.spans.push({ row: at, rows, prefixRow: shared > 0 ? row : 0, prefixRows: shared })
    const weight = tokenWeight(writing.reduction, learned)
    // The first id behind what is shared is never learned (PreparedSample.head), so the row before a label is the sample's own.
    for (let t = 1; t < labels.length; t++)
      if (labels[t] !== ignoredLabel) unit.targets.push([at + t - 1 - shared, labels[t]!, weight])
    unit.names.push(where)
    at += rows
  }
  pack.units.push(unit)
}

/** [tiles, tileSize, tileSize, 3] of a sample's images, in the order of their image tokens. */
async function tilesOf(
  { sample, prepared, where }: ReadSample,
  layout: ViewLayout,
  writing: PackWriting,
): Promise<Uint8Array> {
  const { addon, preparation } = writing
  const { tiling } = preparation
  try {
    const { views } = sample
    if (views) {
      const composed = await imagesFor(layout, views.image ?? views, { tiling, addon })
      return joined(composed.images.map(({ tiles }) => addon.tileBytes(tiles)))
    }
    const parts: Uint8Array[] = []
    for (const { file, grid } of prepared.images) {
      const picture = await decodePicture(file!, 'picture')
      parts.push(addon.tileBytes(await addon.prepareTiles(picture, grid, tiling.tileSize)))
    }
    return joined(parts)
  } catch (error) {
    const { code, message } = toModelError(error)
    throw new ModelError(code, `${where}: ${message}`, { cause: error })
  }
}

function joined(parts: readonly Uint8Array[]): Uint8Array {
  if (parts.length === 1) return parts[0]!
  const out = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0))
  let at = 0
  for (const part of parts) {
    out.set(part, at)
    at += part.length
  }
  return out
}

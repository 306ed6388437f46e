/** What a run of training takes, before it takes anything. */
import os from 'node:os'
import { ModelError } from '../errors.ts'
import { loadAddon, type NetworkDescription } from '../native.ts'
import { nativeOptions, trainsTower } from './settings.ts'
import type { AdaptSettings, PackBounds, PackSource } from './types.ts'

/** Bytes of a run by kind, from the code that reserves them. */
export interface MemoryOfTraining {
  /** One f32 copy, which the network reads. */
  weightsBytes: number
  /** One f32 value for each parameter that is trained. */
  gradientsBytes: number
  /** AdamW's two. */
  momentsBytes: number
  /** The running mean of the weights. */
  meanBytes: number
  /** What the largest pack is worked on in. */
  activationsBytes: number
  /** Pictures of the packs of two steps and the process itself, about. */
  otherBytes: number
  /** All of the above. */
  totalBytes: number
  /** What this machine has, or the limit that the process or the run was given. */
  availableBytes: number
}

/**
 * Node, the addon, and buffers of the kernels. A step of InternVL2-1B's sizes (13 tiles, 3,708 rows, two threads) took about 0.6 GiB beside what is
 * counted by itself.
 */
const processBytes = 768 << 20
/** Of two steps with the published eight packs each: one that is worked on, one that is decoded ahead. */
const packsInFlight = 16

/** Memory of a run on packs of these bounds. Allocates nothing. `most`: what it may take; what the machine has, by default. */
export function memoryOfTraining(
  network: NetworkDescription,
  settings: AdaptSettings,
  bounds: PackBounds,
  most?: number,
): MemoryOfTraining {
  const { towerTileBytes: _, ...plan } = loadAddon().trainingPlan(network, nativeOptions(settings, network, bounds, 1))
  const otherBytes = processBytes + packsInFlight * bounds.tiles * network.vision.tileSize ** 2 * 3
  const totalBytes = Object.values(plan).reduce((sum, bytes) => sum + bytes, otherBytes)
  return { ...plan, otherBytes, totalBytes, availableBytes: most ?? availableBytes() }
}

/** Whether what the tower gives is kept: it is frozen, and some tiles come again. */
export function keepsTower(settings: AdaptSettings, { bounds, tiles }: Pick<PackSource, 'bounds' | 'tiles'>): boolean {
  const comeAgain = tiles === undefined ? bounds.tiles > 0 : tiles.all > tiles.different
  return comeAgain && !trainsTower(settings)
}

/** Bytes on the disk that this takes; 0 for none. */
export function towerCacheBytesOf(
  network: NetworkDescription,
  settings: AdaptSettings,
  { bounds, tiles }: Pick<PackSource, 'bounds' | 'tiles'>,
): number {
  if (tiles === undefined || !keepsTower(settings, { bounds, tiles })) return 0
  const { towerTileBytes } = loadAddon().trainingPlan(network, nativeOptions(settings, network, bounds, 1))
  return tiles.different * towerTileBytes
}

function availableBytes(): number {
  const limit = process.constrainedMemory()
  return limit !== undefined && limit > 0 ? Math.min(limit, os.totalmem()) : os.totalmem()
}

/** A way of training that takes less. */
interface LessMemory {
  /** In words, such as `train 'projector'`. */
  what: string
  totalBytes: number
}

/** What a run could do without, each by itself, and what it takes then. */
function lesserWays(network: NetworkDescription, settings: AdaptSettings, bounds: PackBounds): LessMemory[] {
  const { train, emaDecay } = settings
  const way = (what: string, settings: AdaptSettings, packs = bounds): LessMemory => ({
    what,
    totalBytes: memoryOfTraining(network, settings, packs).totalBytes,
  })
  const parts = (['language+projector', 'projector'] as const).filter((part) => train === 'all' || part !== train)
  return [
    ...(emaDecay > 0 ? [way('no emaDecay', { ...settings, emaDecay: 0 })] : []),
    ...[2, 4, 8].map((share) => {
      const packs = { rows: Math.ceil(bounds.rows / share), tiles: Math.ceil(bounds.tiles / share) }
      return way(`packs of ${packs.rows} tokens and ${packs.tiles} tiles at most`, settings, packs)
    }),
    ...parts.map((part) => way(`train '${part}'`, { ...settings, train: part, towerLayers: 0 })),
  ]
}

/**
 * Refuses a run that does not fit into memory.
 *
 * @throws {@link ModelError} `OUT_OF_MEMORY` with what is missing and what would fit.
 */
export function refuseWhatCannotFit(
  memory: MemoryOfTraining,
  network: NetworkDescription,
  settings: AdaptSettings,
  bounds: PackBounds,
): void {
  if (memory.totalBytes <= memory.availableBytes) return
  const size = (bytes: number) =>
    bytes < 2 ** 30 ? `${(bytes / 2 ** 20).toFixed(0)} MiB` : `${(bytes / 2 ** 30).toFixed(1)} GiB`
  const ways = lesserWays(network, settings, bounds)
  const fitting = ways.filter(({ totalBytes }) => totalBytes <= memory.availableBytes)
  const told = ({ what, totalBytes }: LessMemory) => `${what} (${size(totalBytes)})`
  const least = ways.reduce((least, way) => (way.totalBytes < least.totalBytes ? way : least))
  const advice =
    fitting.length > 0
      ? `What would fit: ${fitting.map(told).join('; ')}.`
      : `By itself neither smaller packs nor fewer parts would fit; the least is ${told(least)}.`
  throw new ModelError(
    'OUT_OF_MEMORY',
    `Training would take ${size(memory.totalBytes)} (weights ${size(memory.weightsBytes)}, gradients ${size(memory.gradientsBytes)}, moments ${size(memory.momentsBytes)}, activations ${size(memory.activationsBytes)}), and there are ${size(memory.availableBytes)}: ${size(memory.totalBytes - memory.availableBytes)} are missing. ${advice}`,
  )
}

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
  /** What this machine has, or the limit that the process was given. */
  availableBytes: number
}

/**
 * Node, the addon, and buffers of the kernels. A step of InternVL2-1B's sizes (13 tiles, 3,708 rows, two threads) took about 0.6 GiB beside what is
 * counted by itself.
 */
const processBytes = 768 << 20
/** Of two steps with the published eight packs each: one that is worked on, one that is decoded ahead. */
const packsInFlight = 16

/** Memory of a run on packs of these bounds. Allocates nothing. */
export function memoryOfTraining(
  network: NetworkDescription,
  settings: AdaptSettings,
  bounds: PackBounds,
): MemoryOfTraining {
  const { towerTileBytes: _, ...plan } = loadAddon().trainingPlan(network, nativeOptions(settings, network, bounds, 1))
  const otherBytes = processBytes + packsInFlight * bounds.tiles * network.vision.tileSize ** 2 * 3
  const totalBytes = Object.values(plan).reduce((sum, bytes) => sum + bytes, otherBytes)
  return { ...plan, otherBytes, totalBytes, availableBytes: availableBytes() }
}

/** Whether what the tower gives is kept: it is frozen, and some tiles come again. */
export function keepsTower(settings: AdaptSettings, { tiles }: Pick<PackSource, 'tiles'>): boolean {
  return !trainsTower(settings) && (tiles === undefined || tiles.all > tiles.different)
}

/** Bytes on the disk that this takes; 0 for none. */
export function towerCacheBytesOf(
  network: NetworkDescription,
  settings: AdaptSettings,
  { bounds, tiles }: Pick<PackSource, 'bounds' | 'tiles'>,
): number {
  if (tiles === undefined || !keepsTower(settings, { tiles })) return 0
  const { towerTileBytes } = loadAddon().trainingPlan(network, nativeOptions(settings, network, bounds, 1))
  return tiles.different * towerTileBytes
}

function availableBytes(): number {
  const limit = process.constrainedMemory()
  return limit !== undefined && limit > 0 ? Math.min(limit, os.totalmem()) : os.totalmem()
}

/** @throws {@link ModelError} `OUT_OF_MEMORY` with what is missing and what would take less. */
export function refuseWhatCannotFit(memory: MemoryOfTraining, { train, emaDecay }: AdaptSettings): void {
  if (memory.totalBytes <= memory.availableBytes) return
  const gib = (bytes: number) => `${(bytes / 2 ** 30).toFixed(1)} GiB`
  const less = [
    ...(train === 'all' ? ["train 'language+projector' or 'projector'"] : []),
    ...(emaDecay > 0 ? ['no emaDecay'] : []),
    'smaller packs',
  ]
  throw new ModelError(
    'OUT_OF_MEMORY',
    `Training would take ${gib(memory.totalBytes)} (weights ${gib(memory.weightsBytes)}, gradients ${gib(memory.gradientsBytes)}, moments ${gib(memory.momentsBytes)}, activations ${gib(memory.activationsBytes)}), and there are ${gib(memory.availableBytes)}: ${gib(memory.totalBytes - memory.availableBytes)} are missing. Less takes: ${less.join(', ')}.`,
  )
}

/** Packed weights kept in the model folder: where, and what they were made from. The addon reads and writes the file. */
import { createHash } from 'node:crypto'
import { stat } from 'node:fs/promises'
import path from 'node:path'
import type { Checkpoint } from './checkpoint/load-checkpoint.ts'
import { ModelError } from './errors.ts'
import type { NativeModel, NativeModelOptions } from './native.ts'

/** What came of `cache: true`. */
export interface CacheInfo {
  /** Path of the cache file. */
  file: string
  /** `read`: the weights are mapped from the file. `written`: this load made it. `none`: this load could not, and went on without. */
  state: 'read' | 'written' | 'none'
  /** A sentence: why the file was made anew though there was one, or why there is none. */
  reason?: string
}

/**
 * The file for a checkpoint's weights in a format, and the key it must have: a hash of all that the packed bytes are made from. The addon
 * checks by itself how it packs. CPU and GPU lay weights out differently, so each has a file of its own.
 *
 * @throws {@link ModelError} `BAD_WEIGHTS` if a file of the checkpoint is gone.
 */
export async function weightCachePlace(
  checkpoint: Pick<Checkpoint, 'dir' | 'files' | 'tensors'>,
  options: Pick<NativeModelOptions, 'device' | 'weights'>,
): Promise<{ file: string; key: string }> {
  const files = await Promise.all(checkpoint.files.map(sizeAndTime))
  const source = JSON.stringify({ weights: options.weights, files, tensors: checkpoint.tensors })
  const key = createHash('sha256').update(source).digest('hex')
  return { file: cacheFile(checkpoint.dir, options), key }
}

/** Where the weights of a folder are kept for a kind of device. */
export function cacheFile(dir: string, { device, weights }: Pick<NativeModelOptions, 'device' | 'weights'>): string {
  return path.join(dir, `drivlm-${device === 'cpu' ? weights : `${weights}-cuda`}.cache`)
}

/** What the addon reports, for `model.info`. */
export function cacheInfo({ weightCache }: NativeModelOptions, native: NativeModel): CacheInfo | undefined {
  const { cache: state, reason } = native.loadReport()
  if (weightCache === undefined || state === 'off') return undefined
  return { file: weightCache.file, state, ...(reason === '' ? {} : { reason }) }
}

async function sizeAndTime(file: string): Promise<[name: string, bytes: string, modified: string]> {
  try {
    const { size, mtimeNs } = await stat(file, { bigint: true })
    return [path.basename(file), String(size), String(mtimeNs)]
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    throw new ModelError('BAD_WEIGHTS', `${file}: cannot be read (${code ?? message}).`, { cause: error })
  }
}

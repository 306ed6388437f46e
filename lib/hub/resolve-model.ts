/** A path or a model's name, as callers give them, to a folder. */
import { stat } from 'node:fs/promises'
import path from 'node:path'
import { ModelError } from '../errors.ts'
import { findSnapshot, type Snapshot } from './cache.ts'
import type { HubSettings } from './environment.ts'
import { HubError } from './hub-error.ts'
import { isCommit, type ModelName, parseModelName } from './names.ts'
import { type DownloadProgress, planPull, pull } from './pull.ts'

/** What a given text is: a path that exists wins over a name. */
export async function asModelName(given: string): Promise<ModelName | undefined> {
  const there = await stat(given).then(
    () => true,
    () => false,
  )
  return there ? undefined : parseModelName(given)
}

/**
 * The folder of a model.
 *
 * @param given - The path of a folder, or `org/name`, `org/name@revision`. What is no name is returned as it is.
 * @param download - Ask the hub which commit the revision is, and fetch what is missing. Without it no request is made.
 * @throws {@link ModelError} `BAD_CHECKPOINT` for a name that is not in the cache, without `download`; {@link HubError}; `ABORTED`.
 */
export async function resolveModel(
  settings: HubSettings,
  given: string,
  options: {
    download?: boolean | undefined
    signal?: AbortSignal | undefined
    onDownload?: ((progress: DownloadProgress) => void) | undefined
  } = {},
): Promise<string> {
  const name = await asModelName(given)
  if (name === undefined) return given
  const snapshot = await findSnapshot(settings, name)
  const whole = snapshot !== undefined && snapshot.missing.length === 0
  if (whole && (!options.download || settings.offline || isCommit(name.revision))) return snapshot.dir
  if (!options.download || settings.offline) throw notInCache(settings, given, snapshot)
  const { onDownload: onProgress, signal } = options
  try {
    return await pull(settings, await planPull(settings, name, signal), { signal, onProgress })
  } catch (error) {
    const unreachable = error instanceof HubError && (error.reason === 'network' || error.reason === 'busy')
    if (!whole || !unreachable) throw error
    const commit = `commit ${snapshot.commit.slice(0, 12)}, which is in the cache,`
    process.emitWarning(`${given}: ${error.message} It is ${commit} that is used.`, 'DrivlmWarning')
    return snapshot.dir
  }
}

/** The error for a name whose model is not in the cache. */
export function notInCache(
  { cacheDir, offline }: HubSettings,
  given: string,
  snapshot: Snapshot | undefined,
): ModelError {
  const found =
    snapshot === undefined
      ? `there is no such folder (${path.resolve(given)}), and no model of this name in the cache (${cacheDir})`
      : `the cache has only a part of it (${snapshot.dir} lacks ${snapshot.missing.slice(0, 4).join(', ')})`
  const advice = offline
    ? 'HF_HUB_OFFLINE is set, so nothing was fetched.'
    : `Pass the path of a folder as downloaded from the hub, or fetch the model: \`npx drivlm pull ${given}\`, or { download: true }.`
  return new ModelError('BAD_CHECKPOINT', `${given}: ${found}. ${advice}`)
}

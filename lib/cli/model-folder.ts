/** The folder of `-m`: a path, or a model's name, which is fetched after saying how much that is. */
import { createInterface } from 'node:readline/promises'
import { ModelError } from '../errors.ts'
import { findSnapshot } from '../hub/cache.ts'
import { type HubSettings, hubSettings } from '../hub/environment.ts'
import { type PullPlan, planPull, pull } from '../hub/pull.ts'
import { asModelName, notInCache } from '../hub/resolve-model.ts'
import { formatBytes, formatDuration, printable, withProgress } from './terminal.ts'

/**
 * @param given - As `-m` has it.
 * @param yes - Fetch without asking.
 * @returns The folder; undefined without one.
 */
export async function modelFolder(given: string | undefined, yes = false): Promise<string | undefined> {
  const name = given === undefined ? undefined : await asModelName(given)
  if (given === undefined || name === undefined) return given
  const settings = hubSettings()
  const snapshot = await findSnapshot(settings, name)
  if (snapshot?.missing.length === 0) return snapshot.dir
  if (settings.offline || (!yes && !process.stdin.isTTY)) throw notInCache(settings, given, snapshot)
  return withInterrupt(async (signal) => {
    const plan = await planPull(settings, name, signal)
    process.stderr.write(`${planLine(settings, plan)}\n`)
    if (!yes && !(await agreed(signal))) throw new ModelError('ABORTED', 'Nothing was fetched.')
    return fetchPlan(settings, plan, signal)
  })
}

/** Aborts on Ctrl-C and SIGTERM; partial files then stay for the next try. */
export async function withInterrupt<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const interrupt = new AbortController()
  const stop = () => interrupt.abort()
  process.once('SIGINT', stop).once('SIGTERM', stop)
  try {
    return await work(interrupt.signal)
  } finally {
    process.off('SIGINT', stop).off('SIGTERM', stop)
  }
}

/** `OpenGVLab/X@main (commit 1a2b3c): 3 of 9 files, 1.9 GiB from huggingface.co to /home/…` */
export function planLine({ endpoint, cacheDir }: HubSettings, plan: PullPlan): string {
  const { name, commit, files, missing, missingBytes } = plan
  const what = `${name.repository}@${name.revision} (commit ${commit.slice(0, 12)})`
  if (missing.length === 0) return `${what}: all ${files.length} files are in ${cacheDir}.`
  return `${what}: ${missing.length} of ${files.length} files, ${formatBytes(missingBytes)} from ${endpoint.host} to ${cacheDir}.`
}

async function agreed(signal: AbortSignal): Promise<boolean> {
  const lines = createInterface({ input: process.stdin, output: process.stderr })
  try {
    return /^y(es)?$/i.test((await lines.question('Fetch it? [y/N] ', { signal })).trim())
  } finally {
    lines.close()
  }
}

/** Fetches what a plan lacks, with rate and time left on stderr. */
export async function fetchPlan(settings: HubSettings, plan: PullPlan, signal: AbortSignal): Promise<string> {
  if (!settings.progressBars) return pull(settings, plan, { signal })
  return withProgress(`Fetching ${plan.name.repository}`, (progress) => {
    const rate = new Rate()
    return pull(settings, plan, {
      signal,
      onProgress: ({ doneBytes, totalBytes }) =>
        progress.update(doneBytes / totalBytes, printable(rate.detail(doneBytes, totalBytes))),
    })
  })
}

/** Bytes a second over the last ten seconds. */
class Rate {
  readonly #points: { ms: number; bytes: number }[] = []

  detail(doneBytes: number, totalBytes: number): string {
    const ms = performance.now()
    const points = this.#points
    const last = points.at(-1)
    if (last !== undefined && doneBytes < last.bytes) points.length = 0 // begun anew
    if (points.length === 0 || ms - points.at(-1)!.ms > 250) points.push({ ms, bytes: doneBytes })
    while (points.length > 2 && ms - points[0]!.ms > 10_000) points.shift()
    const { ms: from, bytes } = points[0]!
    const amount = `${formatBytes(doneBytes)} of ${formatBytes(totalBytes)}`
    const rate = (1000 * (doneBytes - bytes)) / (ms - from)
    if (!(rate > 0 && Number.isFinite(rate))) return amount
    return `${amount}, ${formatBytes(rate)}/s, ${formatDuration((totalBytes - doneBytes) / rate)} left`
  }
}

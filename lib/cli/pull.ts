/** `drivlm pull` and `drivlm models`: models of the hub, in the cache that Python's huggingface_hub has too. */

import path from 'node:path'
import { parseConfig } from '../checkpoint/config.ts'
import { readJsonObject } from '../checkpoint/files.ts'
import { JsonReader } from '../checkpoint/json-reader.ts'
import { readProcessorFiles } from '../checkpoint/processor.ts'
import { ModelError } from '../errors.ts'
import { type CachedModel, listCached } from '../hub/cache.ts'
import { hubSettings } from '../hub/environment.ts'
import { parseModelName } from '../hub/names.ts'
import { planPull } from '../hub/pull.ts'
import { fetchPlan, planLine, withInterrupt } from './model-folder.ts'
import { formatBytes, print, printable, printFields, printJson, styled } from './terminal.ts'

export interface PullFlags {
  revision?: string
  dryRun?: boolean
  json?: boolean
}

export async function pullCommand(given: string, flags: PullFlags): Promise<void> {
  const text = flags.revision === undefined ? given : `${given}@${flags.revision}`
  const name = parseModelName(text)
  if (name === undefined) {
    throw new ModelError(
      'BAD_ARGUMENT',
      `Expected the name of a model, org/name or org/name@revision, found '${text.slice(0, 200)}'.`,
    )
  }
  const settings = hubSettings()
  await withInterrupt(async (signal) => {
    const plan = await planPull(settings, name, signal)
    process.stderr.write(`${planLine(settings, plan)}\n`)
    const dir = flags.dryRun ? undefined : await fetchPlan(settings, plan, signal)
    if (flags.json) {
      const { commit, files, missing, missingBytes } = plan
      const fetched = new Set(missing)
      const list = files.map((file) => ({ path: file.path, bytes: file.size, fetched: fetched.has(file) }))
      printJson({ ...name, commit, dir: dir ?? null, fetchedBytes: missingBytes, files: list })
    } else if (dir === undefined) {
      for (const { path, size } of plan.missing) print(`${formatBytes(size).padStart(10)}  ${path}`)
    } else print(dir)
  }).catch((error: unknown) => {
    if (!(error instanceof ModelError) || error.code !== 'ABORTED') throw error
    process.stderr.write('Stopped; what came so far stays for the next try.\n')
    process.exitCode = 130
  })
}

/** What a snapshot is: its family, or why it cannot be run. */
async function kindOf({ dir, missing }: CachedModel): Promise<{ family: string } | { problem: string }> {
  if (missing.length > 0) return { problem: `lacks ${missing.slice(0, 4).join(', ')}` }
  const object = async (name: string) => {
    const json = await readJsonObject(path.join(dir, name), 'BAD_CHECKPOINT')
    return json === undefined ? undefined : new JsonReader(name, json)
  }
  try {
    const config = await object('config.json')
    if (config === undefined) return { problem: 'a LoRA adapter without its base model' }
    return { family: parseConfig(config, await readProcessorFiles(object)).family }
  } catch (error) {
    if (error instanceof ModelError) return { problem: error.message }
    throw error
  }
}

export async function models(flags: { json?: boolean }): Promise<void> {
  const settings = hubSettings()
  const found = await listCached(settings)
  const rows = await Promise.all(found.map(async (one) => ({ ...one, ...(await kindOf(one)) })))
  if (flags.json) {
    printJson({ cacheDir: settings.cacheDir, models: rows })
    return
  }
  if (rows.length === 0) print(`There are no models in ${settings.cacheDir}; \`drivlm pull org/name\` fetches one.`)
  for (const row of rows) {
    const revision = row.revisions.length > 0 ? ` (${row.revisions.join(', ')})` : ''
    print(`${styled('bold', printable(row.repository))}  ${formatBytes(row.bytes)}`)
    printFields([
      ['commit', printable(`${row.commit}${revision}`)],
      'family' in row ? ['family', row.family] : ['not to be run', styled('yellow', printable(row.problem))],
    ])
  }
}

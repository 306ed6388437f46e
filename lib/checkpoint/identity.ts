/** What a model is called, and what follows from where it comes from: never from the name of its folder, which people and caches choose at will. */
import path from 'node:path'
import { describe, shorten } from './files.ts'
import type { JsonReader } from './json-reader.ts'

/** A commit of a repository on the hub. */
export interface HubSource {
  repository: string
  commit: string
}

/** Where a snapshot in a hub cache comes from, as its path says; undefined for every other folder. */
export function hubSourceOf(root: string): HubSource | undefined {
  const [folder, snapshots, commit] = root.split(path.sep).slice(-3)
  const found = /^models--(.+)$/.exec(folder ?? '')
  if (found === null || snapshots !== 'snapshots' || !/^[0-9a-f]{7,64}$/.test(commit ?? '')) return undefined
  return { repository: found[1]!.replaceAll('--', '/'), commit: commit! }
}

/** A label for people: the repository of a snapshot in a hub cache, else the folder's name. Nothing may be decided by it. */
export function labelOf(root: string): string {
  return hubSourceOf(root)?.repository.split('/').at(-1) ?? path.basename(root)
}

/** The last part of `_name_or_path`, which the library writes into config.json: the checkpoint that this one was made from. */
export function originOf(config: JsonReader): string | undefined {
  const value = config.raw('_name_or_path')
  if (typeof value !== 'string') return undefined
  return value.split(/[\\/]+/).findLast((part) => part !== '')
}

/** Mini-InternVL-Chat-2B-V1-5 and its like, which have templates of InternVL2's names with other system messages. */
export function isV15(origin: string | undefined): boolean {
  return origin !== undefined && /^(Mini-)?InternVL-Chat-(\w+-)?V1[-_.]5(?![0-9])/i.test(origin)
}

/** Why the system message is the one it is, as a sentence. */
export function systemMessageNote(
  config: JsonReader,
  { file, template, v15 }: { file: string | undefined; template: string; v15: boolean },
): string {
  if (file !== undefined) return `The system message is the one ${file} states.`
  const stated = config.raw('_name_or_path')
  const name = stated === undefined ? 'has no _name_or_path' : `says _name_or_path ${shorten(describe(stated), 100)}`
  const whose = v15 ? 'the V1-5 models’' : `that of the template ${describe(template)}`
  const other = 'systemMessage in drivlm.json or options.layout says otherwise.'
  return `No file states a system message; config.json ${name}, so it is ${whose}. ${other}`
}

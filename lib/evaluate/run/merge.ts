// Several machines, one result.

import { existsSync } from 'node:fs'
import path from 'node:path'
import { ModelError } from '../../errors.ts'
import { lockFolder } from '../../folder-lock.ts'
import { badData } from '../questions/json-stream.ts'
import { parseShard } from '../questions/selection.ts'
import { differences, Journal, type JournalEntry, type RunIdentity, readJournal } from './journal.ts'
import { type OutputFiles, type Submission, writeOutputs } from './outputs.ts'

/**
 * Puts the answers of several shards together, in the order of the question file, into a run of its own.
 *
 * @param runs - Output folders of `runEval`, one a shard.
 * @throws {@link ModelError} `BAD_DATA` if they are not parts of the same run, if two hold the same shard, or if one is missing
 *   or unfinished (which `partial` allows).
 */
export async function mergeRuns(
  runs: readonly string[],
  out: string,
  options: { partial?: boolean | undefined; submission?: Partial<Omit<Submission, 'results'>> | undefined } = {},
): Promise<{ entries: JournalEntry[]; missing: string[]; files: OutputFiles & { journal: string } }> {
  const parts: { file: string; run: RunIdentity; entries: JournalEntry[] }[] = []
  for (const folder of runs) {
    const file = path.join(folder, 'journal.jsonl')
    const contents = await readJournal(file)
    if (!contents) throw badData([file], 'there is no journal of a run.')
    if (!options.partial && !existsSync(path.join(folder, 'output.json'))) {
      throw badData([file], 'this run has not finished: it wrote no output.json yet.')
    }
    parts.push({ file, ...contents })
  }
  const [first] = parts
  if (!first) throw new ModelError('BAD_ARGUMENT', 'Expected at least one run to merge, received none.')
  const count = parseShard(first.run.shard).count
  const byShard = new Map<number, string>()
  const entries = new Map<string, JournalEntry>()
  for (const { file, run, entries: found } of parts) {
    const shard = parseShard(run.shard)
    const differs = differences(run, first.run, ['shard'])
    if (shard.count !== count) differs.push(`shard ${run.shard} instead of one of ${count}`)
    if (differs.length > 0) throw badData([file], `not a part of the same run as ${first.file}: ${differs.join('; ')}.`)
    const twin = byShard.get(shard.index)
    if (twin) throw badData([file], `shard ${run.shard} is there twice, also in ${twin}.`)
    byShard.set(shard.index, file)
    for (const entry of found) {
      if (entries.has(entry.id)) throw badData([file], `the id ${JSON.stringify(entry.id)} is in two shards.`)
      entries.set(entry.id, entry)
    }
  }
  const missing = Array.from({ length: count }, (_, i) => i + 1)
    .filter((index) => !byShard.has(index))
    .map((index) => `${index}/${count}`)
  if (missing.length > 0 && !options.partial) throw badData([out], `shards are missing: ${missing.join(', ')}.`)

  const sorted = [...entries.values()].sort((a, b) => a.index - b.index)
  const files = {
    journal: path.join(out, 'journal.jsonl'),
    output: path.join(out, 'output.json'),
    submission: path.join(out, 'submission.json'),
  }
  const unlock = await lockFolder(out)
  try {
    const journal = await Journal.open(files.journal, { ...first.run, shard: '1/1' }, 'end')
    try {
      for (const entry of sorted) if (!journal.entries.has(entry.id)) await journal.append(entry)
    } finally {
      await journal.close()
    }
    await writeOutputs(files, sorted, options.submission)
  } finally {
    await unlock()
  }
  return { entries: sorted, missing, files }
}

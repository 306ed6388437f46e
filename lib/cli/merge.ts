/** `drivlm merge`: the answers of several shards as one run. */
import path from 'node:path'
import { mergeRuns } from '../evaluate/run/merge.ts'
import { mergeAnswers } from '../logs/answers.ts'
import { print } from './terminal.ts'

export async function merge(runs: readonly string[], flags: { out: string; partial?: boolean }): Promise<void> {
  const { out, partial } = flags
  if (runs.every((run) => run.endsWith('.mcap'))) {
    const { moments, missing } = await mergeAnswers(runs, out, { partial })
    print(`${moments - missing.length} of ${moments} moments of ${runs.length} files are in ${out}.`)
    return
  }
  const { entries, missing, files } = await mergeRuns(runs, out, { partial })
  print(`${entries.length} answers of ${runs.length} ${runs.length === 1 ? 'run' : 'runs'} are in ${out}.`)
  if (missing.length > 0) print(`Shards that are missing: ${missing.join(', ')}.`)
  print('\nWritten')
  for (const file of [files.output, files.submission]) print(`  ${path.normalize(file)}`)
  print(`\nScore them:  drivlm eval --data FILE --images DIR --predictions ${out} --out ${out}`)
}

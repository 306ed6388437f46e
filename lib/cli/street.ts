/** `drivlm street`: drawn moments with questions, as pictures and a DriveLM file. */

import { ModelError } from '../errors.ts'
import { writeStreet } from '../street/dataset.ts'
import { loadDomain } from '../street/domain.ts'
import { withInterrupt } from './model-folder.ts'
import { print, printable, printFields, printJson, withProgress } from './terminal.ts'

export interface StreetFlags {
  scenes: number
  seed: number
  size: number
  questions: number
  domain: string
  out: string
  json?: boolean
}

export async function street(flags: StreetFlags): Promise<void> {
  const domain = await loadDomain(flags.domain)
  const { scenes, seed, size, questions, out } = flags
  const drawn = withInterrupt((signal) =>
    withProgress(`Drawing ${scenes} moments`, (progress) =>
      writeStreet(domain, {
        scenes,
        seed,
        size,
        questions,
        out,
        signal,
        onProgress: (done) => progress.update(done / scenes, `${done} of ${scenes}`),
      }),
    ),
  )
  const written = await drawn.catch((error: unknown) => {
    if (!(error instanceof ModelError) || error.code !== 'ABORTED') throw error
    process.stderr.write('Stopped; nothing was kept.\n')
    process.exitCode = 130
  })
  if (written === undefined) return
  if (flags.json) return printJson({ domain: domain.name, scenes, seed, size, ...written })
  print(
    `${scenes} ${scenes === 1 ? 'moment' : 'moments'} of ${printable(domain.name)} with ${written.questions} questions are in ${out}.`,
  )
  printFields(Object.entries(written.types).map(([type, count]) => [type, String(count)]))
  print(`\nAsk a model:  drivlm eval --model DIR --data ${written.file} --images ${out} --out RUN`)
}

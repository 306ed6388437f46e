/** `drivlm street`: drawn moments with questions, as pictures and a DriveLM file. */

import { writeStreet } from '../street/dataset.ts'
import { loadDomain } from '../street/domain.ts'
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
  const written = await withProgress(`Drawing ${scenes} moments`, (progress) =>
    writeStreet(domain, {
      scenes,
      seed,
      size,
      questions,
      out,
      onProgress: (done) => progress.update(done / scenes, `${done} of ${scenes}`),
    }),
  )
  if (flags.json) return printJson({ domain: domain.name, scenes, seed, size, ...written })
  print(
    `${scenes} ${scenes === 1 ? 'moment' : 'moments'} of ${printable(domain.name)} with ${written.questions} questions are in ${out}.`,
  )
  printFields(Object.entries(written.types).map(([type, count]) => [type, String(count)]))
  print(`\nAsk a model:  drivlm eval --model DIR --data ${written.file} --images ${out} --out RUN`)
}

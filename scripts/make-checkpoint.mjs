#!/usr/bin/env node
// Writes a stand-in of a published checkpoint: true size, real format, seeded random weights, complete tokenizer.
//
//   npm run make-checkpoint -- --family internvl2-1b --out models/stand-in-1b [--layers N] [--seed N]
import { parseArgs } from 'node:util'
import { loadStandIns } from './stand-in/load.mjs'

const { makeCheckpoint, ModelError, standIns } = await loadStandIns()

const usage = `usage: npm run make-checkpoint -- --family FAMILY --out DIR [--layers N] [--seed N]
families: ${Object.keys(standIns).join(', ')}`

try {
  const { values } = parseArgs({
    options: {
      family: { type: 'string' },
      out: { type: 'string' },
      layers: { type: 'string' },
      seed: { type: 'string' },
    },
  })
  if (values.family === undefined || values.out === undefined) throw new ModelError('BAD_ARGUMENT', usage)
  const started = performance.now()
  let shown = started
  const made = await makeCheckpoint({
    family: values.family,
    out: values.out,
    ...(values.layers === undefined ? {} : { layers: Number(values.layers) }),
    ...(values.seed === undefined ? {} : { seed: Number(values.seed) }),
    onProgress(done, total) {
      if (performance.now() - shown < 1000) return
      shown = performance.now()
      process.stderr.write(`${(done / 1e9).toFixed(2)} of ${(total / 1e9).toFixed(2)} GB\n`)
    },
  })
  const seconds = ((performance.now() - started) / 1000).toFixed(1)
  const gigabytes = (made.weightsBytes / 1e9).toFixed(3)
  console.log(`${made.dir}: ${made.parameters.toLocaleString('en')} parameters, ${gigabytes} GB, ${seconds} s`)
} catch (error) {
  const parsing = typeof error?.code === 'string' && error.code.startsWith('ERR_PARSE_ARGS')
  if (!(error instanceof ModelError || parsing)) throw error
  console.error(parsing ? `${error.message}\n${usage}` : error.message)
  process.exitCode = 1
}

#!/usr/bin/env node
// Writes a stand-in of a published checkpoint: true size, real format, seeded random weights, complete tokenizer.
//
//   npm run make-checkpoint -- --family internvl2-1b --out models/stand-in-1b [--layers N] [--seed N] [--gguf TYPE]
//
// --gguf, with f16 or bf16, also writes the same weights as the two files that llama.cpp loads, language-TYPE.gguf and vision-TYPE.gguf. It
// needs a Qwen2 decoder, and dist/ (npx tsc -p .).
import { parseArgs } from 'node:util'
import { loadStandIns } from './stand-in/load.mjs'

const { makeCheckpoint, ModelError, standIns } = await loadStandIns()

const usage = `usage: npm run make-checkpoint -- --family FAMILY --out DIR [--layers N] [--seed N] [--gguf f16|bf16]
families: ${Object.keys(standIns).join(', ')}`

try {
  const { values } = parseArgs({
    options: {
      family: { type: 'string' },
      out: { type: 'string' },
      layers: { type: 'string' },
      seed: { type: 'string' },
      gguf: { type: 'string' },
    },
  })
  if (values.family === undefined || values.out === undefined) throw new ModelError('BAD_ARGUMENT', usage)
  if (values.gguf !== undefined && !['f16', 'bf16'].includes(values.gguf))
    throw new ModelError('BAD_ARGUMENT', `Expected --gguf to be f16 or bf16, received ${values.gguf}.`)
  if (values.gguf !== undefined && standIns[values.family] && standIns[values.family].decoder !== 'qwen2')
    throw new ModelError(
      'BAD_ARGUMENT',
      `Expected a family with a Qwen2 decoder for --gguf, received ${values.family}.`,
    )
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
  if (values.gguf !== undefined) {
    const { writePair } = await import('../bench/peers/internvl-gguf.mjs')
    for (const file of Object.values(await writePair(made.dir, made.dir, values.gguf.toUpperCase()))) console.log(file)
  }
} catch (error) {
  const parsing = typeof error?.code === 'string' && error.code.startsWith('ERR_PARSE_ARGS')
  if (!(error instanceof ModelError || parsing)) throw error
  console.error(parsing ? `${error.message}\n${usage}` : error.message)
  process.exitCode = 1
}

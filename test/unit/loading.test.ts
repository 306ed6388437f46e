/** A load: its parts run side by side, say what they took, and end together. */
import { cpSync, existsSync, readdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { expect, test } from 'vitest'
import { loadModel } from '../../lib/load-model.ts'
import type { LoadTimings } from '../../lib/model.ts'
import { modelError, temporaryFolder } from './checkpoint-folder.ts'
import { streetTiny } from './street-tiny.ts'

function copy(): string {
  const dir = temporaryFolder('street')
  cpSync(streetTiny, dir, { recursive: true, filter: (from) => path.basename(from) !== 'moments' })
  return dir
}

async function timingsOf(dir: string, cache: boolean): Promise<LoadTimings> {
  const model = await loadModel(dir, { device: 'cpu', weights: 'int8', cache })
  await model.dispose()
  return model.info.loading
}

test('a model says where the time of its load went', async () => {
  const dir = copy()
  const loads = [await timingsOf(dir, false), await timingsOf(dir, true), await timingsOf(dir, true)]
  for (const { folderMs, tokenizerMs, weightsMs, cacheMs, totalMs } of loads) {
    expect(folderMs).toBeGreaterThan(0)
    expect(tokenizerMs).toBeGreaterThan(0)
    expect(weightsMs).toBeGreaterThan(0)
    expect(totalMs).toBeGreaterThanOrEqual(folderMs + Math.max(tokenizerMs, weightsMs + cacheMs))
  }
  const [without, written, read] = loads as [LoadTimings, LoadTimings, LoadTimings]
  expect(written.cacheMs).toBeGreaterThan(without.cacheMs)
  expect(read.cacheMs).toBeGreaterThan(without.cacheMs)
})

test('a tokenizer that cannot be read ends the load of the weights', async () => {
  const dir = copy()
  for (const name of ['tokenizer.json', 'vocab.json', 'tokenizer.model']) {
    if (existsSync(path.join(dir, name))) writeFileSync(path.join(dir, name), '{')
  }
  for (let i = 0; i < 5; i++) {
    expect(await modelError(loadModel(dir, { device: 'cpu', weights: 'int8', cache: true }), 'BAD_TOKENIZER')).not.toBe(
      '',
    )
  }
  expect(readdirSync(dir).filter((name) => name.endsWith('.tmp'))).toEqual([])
})

test('an aborted load says so, whatever its parts were doing', async () => {
  const aborted = new AbortController()
  const loading = loadModel(copy(), { device: 'cpu', signal: aborted.signal, onProgress: () => aborted.abort() })
  expect(await modelError(loading, 'ABORTED')).not.toBe('')
})

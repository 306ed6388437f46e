import { existsSync } from 'node:fs'
import path from 'node:path'
import { expect, test } from 'vitest'
import * as drivelm from '../../lib/drivelm/index.ts'
import { tagsToPixels } from '../../lib/grounding.ts'
import { runDrivelmGolden } from '../../scripts/golden/drivelm.mjs'

const root = path.resolve(import.meta.dirname, '../..')
const shared = process.env.DRIVLM_SHARED ?? path.resolve(root, '..', 'shared')
const full = path.join(shared, 'golden/drivelm')

async function failures(dir: string): Promise<{ failed: unknown[]; rows: number }> {
  const rows = await runDrivelmGolden(dir, { drivelm, postprocess: tagsToPixels })
  return { failed: rows.filter((row) => !row.ok), rows: rows.length }
}

test('every value of the fixtures is reproduced', async () => {
  const { failed, rows } = await failures(path.join(root, 'test/fixtures/drivelm'))
  expect(failed).toEqual([])
  expect(rows).toBeGreaterThanOrEqual(15)
})

test('every value of the full reference set is reproduced', async ({ skip }) => {
  skip(!existsSync(full), 'the full reference set is not on this machine (set DRIVLM_SHARED)')
  const { failed, rows } = await failures(full)
  expect(failed).toEqual([])
  expect(rows).toBeGreaterThanOrEqual(27)
})

test('the comparison notices a wrong value', async () => {
  const broken = { ...drivelm, finalScore: () => 0.5, ptbLines: (text: string) => drivelm.ptbLines(text.slice(1)) }
  const rows = await runDrivelmGolden(path.join(root, 'test/fixtures/drivelm'), {
    drivelm: broken,
    postprocess: tagsToPixels,
  })
  const failed = rows.filter((row) => !row.ok).map((row) => row.stage)
  expect(new Set(failed)).toEqual(new Set(['tokenizer', 'final']))
})

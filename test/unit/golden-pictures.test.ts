import { describe, expect, it } from 'vitest'
import { runCanvasGolden, runPreprocessGolden } from '../../scripts/golden/pictures.mjs'

interface Row {
  name: string
  stage: string
  ok?: boolean
  first?: string
  skipped?: string
}

const failed = (rows: Row[]) => rows.filter((row) => row.skipped === undefined && row.ok !== true)

describe('pictures against the reference', () => {
  it('decodes, chooses grids and cuts tiles byte for byte', async () => {
    const rows: Row[] = await runPreprocessGolden('test/fixtures/preprocess')
    expect(failed(rows)).toEqual([])
    expect(rows.filter((row) => row.ok)).toHaveLength(30)
    expect(rows.filter((row) => row.skipped).map((row) => row.name)).toEqual(['gray16_64x48.png'])
  })

  it('resizes, labels, stitches and cuts the six views byte for byte', async () => {
    const rows: Row[] = await runCanvasGolden('test/fixtures/canvas')
    expect(failed(rows)).toEqual([])
    expect(rows).toHaveLength(8)
  })
})

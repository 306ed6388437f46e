import { beforeAll, describe, test } from 'vitest'
import { loadModel } from '../../lib/load-model.ts'
import { cameras } from '../../lib/views/cameras.ts'
import type { NamedViews } from '../../lib/views/compose.ts'
import { decodePicture } from '../../lib/views/decode.ts'
import { plainAnswers, pools, randomOperations } from './random-scenes.mjs'
import { momentViews } from './street-tiny.ts'

const options = {
  seed: Number(process.env.DRIVLM_SEED ?? 20260),
  operations: Number(process.env.DRIVLM_OPERATIONS ?? 600), // for each of the three kinds of pool
}

/** Decoded once, so that seeing costs little but the model's work. */
async function pictures(moment: 'day' | 'dusk' | 'rain'): Promise<NamedViews> {
  const views = momentViews(moment)
  const raw = cameras.map(async (camera) => {
    const { rgb, width, height } = await decodePicture(views[camera]!, camera)
    return [camera, { data: rgb, width, height }]
  })
  return Object.fromEntries(await Promise.all(raw))
}

describe('random operations', () => {
  const stage = { load: loadModel, moments: [] as NamedViews[], maxNewTokens: 40 }
  let truth: Awaited<ReturnType<typeof plainAnswers>>
  beforeAll(async () => {
    stage.moments = await Promise.all((['day', 'dusk', 'rain'] as const).map(pictures))
    truth = await plainAnswers(stage)
  })

  test.each(pools)('%s: right answers, no page lost, no end of waiting', { timeout: 300_000 }, async (_, limits) => {
    await randomOperations(stage, truth, limits, options)
  })
})

/** The next moment: what is seen again, and what is not. */
import { describe, expect, test } from 'vitest'
import { loadModel } from '../../lib/load-model.ts'
import type { NamedViews } from '../../lib/views/compose.ts'
import { idle, momentViews, weather } from './street-tiny.ts'

const day = momentViews('day')

describe('update', () => {
  const dusk = momentViews('dusk')

  test('encodes what changed and computes from there on', async () => {
    const model = await loadModel()
    const scene = await model.see(day)
    const next = await scene.update({ CAM_BACK: dusk.CAM_BACK! })
    expect(next.info).toMatchObject({ tiles: 6, tokens: scene.info.tokens })
    const { tilesEncoded, tilesCached } = model.stats()
    expect(tilesEncoded).toBe(7) // six, then one
    expect(tilesCached).toBe(1) // CAM_BACK_RIGHT, behind it
    expect(next.info.sharedTokens).toBe(scene.info.tokens - 33) // two tiles of 16 tokens, and </img>
    const same = await next.update({})
    expect(same.info).toMatchObject({ sharedTokens: scene.info.tokens })
    expect(same.info.timings.visionMs).toBe(0)
    for (const one of [scene, next, same]) expect((await one.ask(weather)).text).toBe('It is a clear day.')
    scene.dispose()
    await expect(scene.update({ CAM_BACK: dusk.CAM_BACK! })).rejects.toMatchObject({ code: 'DISPOSED' })
    expect((await next.ask(weather)).text).toBe('It is a clear day.')
    for (const one of [next, same]) one.dispose()
    await idle(model)
    await model.dispose()
  })

  test('without a vision cache it encodes all from the first change on', async () => {
    const model = await loadModel({ visionCache: 0 })
    using scene = await model.see(day)
    using next = await scene.update({ CAM_BACK: dusk.CAM_BACK! })
    expect(next.info.cachedTiles).toBe(0)
    expect(model.stats().tilesEncoded).toBe(6 + 2)
    await model.dispose()
  })

  test('of separate images: those that change come last, if wanted', async () => {
    const model = await loadModel({ layout: { layout: 'separate', cameraNames: true } })
    using scene = await model.see(day, { lastViews: ['CAM_FRONT'] })
    using next = await scene.update({ CAM_FRONT: dusk.CAM_FRONT! })
    const last = scene.info.tokens - next.info.sharedTokens
    expect(last).toBeLessThan(scene.info.tokens / 5)
    using kept = await scene.update({ CAM_BACK: dusk.CAM_BACK! })
    using moved = await scene.update({ CAM_BACK: dusk.CAM_BACK! }, { order: 'changing-last' })
    using again = await moved.update({ CAM_BACK: day.CAM_BACK! })
    expect(kept.info.sharedTokens).toBeLessThan(again.info.sharedTokens)
    expect(scene.info.tokens - again.info.sharedTokens).toBe(last)
    await model.dispose()
  })

  test('of lists and single pictures', async () => {
    const model = await loadModel()
    const list = model.info.cameras.map((camera) => day[camera as 'CAM_BACK']!)
    using scene = await model.see(list)
    using next = await scene.update({ 4: dusk.CAM_BACK! })
    using named = await model.see({ ...day, CAM_BACK: dusk.CAM_BACK! })
    expect(named.info.sharedTokens).toBe(named.info.tokens)
    expect(next.info.tokens).toBe(named.info.tokens)
    const single = await loadModel({ layout: { layout: 'single' } })
    using one = await single.see(day.CAM_FRONT!)
    using two = await one.update(dusk.CAM_FRONT!)
    expect(two.info.sharedTokens).toBeLessThan(two.info.tokens)
    await expect(one.update({ CAM_FRONT: dusk.CAM_FRONT! })).rejects.toMatchObject({ code: 'BAD_VIEW' })
    await expect(scene.update(dusk.CAM_FRONT!)).rejects.toMatchObject({ code: 'BAD_VIEW' })
    await expect(scene.update({ 6: dusk.CAM_BACK! })).rejects.toMatchObject({ code: 'BAD_VIEW' })
    await expect(named.update({ CAM_TOP: dusk.CAM_BACK! } as NamedViews)).rejects.toMatchObject({
      code: 'BAD_VIEW',
      message: expect.stringContaining('CAM_TOP'),
    })
    await expect(scene.update({}, { order: 'first' as 'keep' })).rejects.toMatchObject({ code: 'BAD_ARGUMENT' })
    await single.dispose()
    await model.dispose()
  })
})

import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { boxReader, converters, modelIdentity } from '../../lib/cli/eval-model.ts'
import { isRightLeniently } from '../../lib/drivelm/index.ts'
import { resolveConversion } from '../../lib/grounding/conversion.ts'
import { drivelmQuestion } from '../../lib/grounding.ts'
import { processorSeconds } from './processor-time.js'

const cameras = ['CAM_FRONT_LEFT', 'CAM_FRONT', 'CAM_FRONT_RIGHT', 'CAM_BACK_LEFT', 'CAM_BACK', 'CAM_BACK_RIGHT']
const canvas = {
  columns: 3,
  rows: 2,
  cellWidth: 896,
  cellHeight: 448,
  cameras,
  labels: true,
  thumbnail: true,
  maxTiles: 12,
}
const layout = { layout: 'canvas' as const, canvas, maxTilesPerImage: 12, tileBudget: 12, cameraNames: false, why: '' }
const { canvas: _, ...bare } = layout
const separate = { ...bare, layout: 'separate' as const }

describe('coordinates', () => {
  test('are converted where DriveLM files meet its canvas', () => {
    expect(resolveConversion('auto', 'frames', { layout })).toBe('drivelm')
    expect(resolveConversion('auto', 'llama', { layout })).toBe('drivelm')
    expect(resolveConversion('auto', 'jsonl', { layout })).toBe('none')
    expect(resolveConversion('auto', 'frames', { layout: separate })).toBe('none')
    for (const change of [{ cellWidth: 112 }, { columns: 2 }, { cameras: [...cameras].reverse() }]) {
      const other = { ...layout, canvas: { ...canvas, ...change } }
      expect(resolveConversion('auto', 'frames', { layout: other })).toBe('none')
      expect(resolveConversion('drivelm', 'frames', { layout: other })).toBe('drivelm')
    }
    expect(resolveConversion('none', 'frames', { layout })).toBe('none')
  })

  test('go to the canvas and back, as the reference prints them or so that they can be scored', () => {
    const question = 'What is <c1,CAM_BACK,1088.3,497.5>?'
    expect(converters('drivelm').toModel!(question)).toBe(drivelmQuestion(question))
    expect(converters('drivelm').fromModel!(' <c1,CAM_BACK,[700, 776]>\n')).toBe('<c1,CAM_BACK,1600,496.8>')
    expect(converters('drivelm-decimals').fromModel!('<c1,CAM_BACK,[700, 776]>')).toBe('<c1,CAM_BACK,1600.0,496.8>')
    expect(converters('none')).toEqual({})
  })

  test('of boxes are read as the model means them', () => {
    const six = Object.fromEntries(cameras.map((camera) => [camera, 'x.png']))
    const answer = 'A car <box>[[500, 500, 600, 750]]</box> and [[0, 0, 100, 100]].'
    expect(boxReader({ layout })(answer, six)).toEqual([
      { camera: 'CAM_BACK', box: [800, 0, 1280, 450] },
      { camera: 'CAM_FRONT_LEFT', box: [0, 0, 480, 180] },
    ])
    expect(boxReader({ layout })(answer, { image: 'x.png' })[0]).toEqual({ camera: 'image', box: [800, 450, 960, 675] })
    expect(boxReader({ layout: separate })(answer, six)).toEqual([]) // whose thousandths they are is not known
    expect(boxReader({ layout })('no box', six)).toEqual([])
  })
})

describe('box answers, compared leniently', () => {
  const reference = '<ref>car</ref><box>[[100, 100, 200, 200]]</box>'
  test.each([
    ['<ref>car</ref><box>[[100, 100, 200, 200]]</box>', true],
    ['car[[110, 100, 210, 200]]', true],
    ['<box>[[100, 100, 200, 150]]</box>', true], // exactly half
    ['<box>[[100, 100, 200, 149]]</box>', false],
    ['<box>[[300, 300, 400, 400]]</box>', false],
    ['<box>[[100, 100, 200, 200], [1, 1, 2, 2]]</box>', false],
    ['no box', false],
    ['', false],
  ])('%s', (answer, right) => expect(isRightLeniently(answer, reference, 'Where is it?')).toBe(right))

  test('pairs boxes in any order, each once', () => {
    const two = '<box>[[0, 0, 10, 10], [50, 50, 60, 60]]</box>'
    expect(isRightLeniently('<box>[[50, 50, 60, 60], [0, 0, 10, 10]]</box>', two, '')).toBe(true)
    expect(isRightLeniently('<box>[[0, 0, 10, 10], [0, 0, 10, 10]]</box>', two, '')).toBe(false)
    expect(isRightLeniently('<box>broken</box>', '<box>broken</box>.', '')).toBe(true) // no box: plain text
    const flat = '<box>[[5, 5, 5, 5]]</box>'
    expect(isRightLeniently(flat, flat, '')).toBe(true) // exact
  })
})

describe('the identity of a checkpoint', () => {
  let dir: string
  beforeAll(() => {
    dir = mkdtempSync(path.join(os.tmpdir(), 'drivlm-identity-'))
  })
  afterAll(() => rmSync(dir, { recursive: true }))

  test('changes with configuration, tokenizer and weights, not with notes', async () => {
    const weights = path.join(dir, 'model.safetensors')
    writeFileSync(path.join(dir, 'config.json'), '{}')
    writeFileSync(weights, 'weights')
    const identity = (): Promise<string> => modelIdentity({ dir, name: 'm', files: [weights] })
    const first = await identity()
    expect(first).toMatch(/^m@[0-9a-f]{16}$/)
    writeFileSync(path.join(dir, 'README.md'), 'notes')
    expect(await identity()).toBe(first)
    const seen = new Set([first])
    const changes: [string, string][] = [
      ['config.json', '{} '],
      ['tokenizer.json', '{}'],
      ['drivlm.json', '{}'],
      ['model.safetensors', 'weightS'],
    ]
    for (const [name, content] of changes) {
      writeFileSync(path.join(dir, name), content)
      seen.add(await identity())
    }
    expect(seen.size).toBe(1 + changes.length)
  })

  test('of large weights is taken from samples over the whole file', async () => {
    const weights = path.join(dir, 'large.safetensors')
    writeFileSync(weights, 'header')
    truncateSync(weights, 3 * 2 ** 30) // a hole: it takes no room
    const started = processorSeconds()
    const first = await modelIdentity({ dir, name: 'm', files: [weights] })
    expect(processorSeconds() - started).toBeLessThan(5)
    truncateSync(weights, 3 * 2 ** 30 - 10)
    writeFileSync(weights, 'at the end', { flag: 'a' })
    expect(await modelIdentity({ dir, name: 'm', files: [weights] })).not.toBe(first)
  })
})

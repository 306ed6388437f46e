import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { seededRandom } from '../../lib/drivelm/index.ts'

const root = path.resolve(import.meta.dirname, '../..')
const dir = mkdtempSync(path.join(tmpdir(), 'drivelm-scale-'))
afterAll(() => rmSync(dir, { recursive: true }))

const cameras = ['CAM_FRONT', 'CAM_FRONT_LEFT', 'CAM_FRONT_RIGHT', 'CAM_BACK', 'CAM_BACK_LEFT', 'CAM_BACK_RIGHT']
const colours = ['red', 'black', 'white', 'silver', 'dark-blue', 'green']
const things = ['sedan', 'SUV', 'city bus', 'pedestrian', 'traffic cone', 'truck']

/** Files of the real val set's size: 149 scenes, 799 frames, 15,480 questions with the tags the real one has. */
function valSized(): { data: string; predictions: string; judgements: string } {
  const random = seededRandom(11)
  const pick = <T>(list: readonly T[]): T => list[Math.floor(random() * list.length)]!
  const hex = (): string => Array.from({ length: 32 }, () => pick([...'0123456789abcdef'])).join('')
  const left = { 0: 7744, 1: 6599, 3: 338 } as Record<number, number>
  const scenes: Record<string, { key_frames: Record<string, unknown> }> = {}
  const predictions: { id: string; question: string; answer: string }[] = []
  const judgements: Record<string, number> = {}
  for (let i = 0; i < 799; i++) {
    if (i < 149) scenes[hex()] = { key_frames: {} }
    const scene = Object.keys(scenes)[i % 149]!
    const frame = hex()
    const tags = Array.from({ length: 3 + Math.floor(random() * 4) }, (_, c) => {
      const [x, y] = [(random() * 1600).toFixed(1), (random() * 900).toFixed(1)]
      return `<c${c + 1},${pick(cameras)},${x},${y}>`
    })
    const description = tags.map(() => `a ${pick(colours)} ${pick(things)} to the back of the ego vehicle`).join(', ')
    const records: { Q: string; A: string; tag: number[] }[] = [
      {
        Q: 'What are the important objects in the current scene?',
        A: `There is ${description}. The IDs of these objects are ${tags.join(', ')}.`,
        tag: [2],
      },
    ]
    const framesLeft = 799 - i
    for (const tag of [0, 1, 3]) {
      const count = Math.floor(left[tag]! / framesLeft)
      left[tag]! -= count
      for (let q = 0; q < count; q++) {
        const object = pick(tags)
        if (tag === 0)
          records.push({ Q: `Is ${object} a traffic sign or a road barrier?`, A: pick(['Yes.', 'No.']), tag: [0] })
        if (tag === 1)
          records.push({
            Q: `What actions could the ego vehicle take based on ${object}?`,
            A: 'The action is to keep going at the same speed. The reason is that there is no safety issue.',
            tag: [1],
          })
        if (tag === 3)
          records.push({
            Q: 'What object should the ego vehicle notice first?',
            A: `Firstly notice that ${tags.join('. Secondly notice that ')}.`,
            tag: [3],
          })
      }
    }
    const image_paths = Object.fromEntries(cameras.map((camera) => [camera, `../nuscenes/samples/${camera}/${i}.jpg`]))
    scenes[scene]!.key_frames[frame] = {
      QA: { perception: records, prediction: [], planning: [], behavior: [] },
      image_paths,
    }
    for (const [q, { Q, A, tag }] of records.entries()) {
      const id = `${scene}_${frame}_${q}`
      predictions.push({ id, question: Q, answer: random() < 0.7 ? A : `${A.slice(0, A.length / 2)} ${pick(things)}` })
      if (tag[0] === 1 || tag[0] === 3) judgements[id] = Math.round(random() * 100)
    }
  }
  expect(predictions).toHaveLength(15_480)
  const write = (name: string, content: unknown): string => {
    writeFileSync(path.join(dir, name), JSON.stringify(content))
    return path.join(dir, name)
  }
  return {
    data: write('val.json', scenes),
    predictions: write('output.json', predictions),
    judgements: write('judged.json', judgements),
  }
}

test('a val-sized file is scored in seconds and little memory', () => {
  const compiled = path.join(root, '.cache/drivelm-scale')
  const tsc = path.join(root, 'node_modules/typescript/bin/tsc')
  spawnSync(process.execPath, [tsc, '-p', root, '--outDir', compiled, '--declaration', 'false'])
  expect(existsSync(path.join(compiled, 'drivelm/index.js'))).toBe(true)
  const { data, predictions, judgements } = valSized()
  const script = `
    import { judgeFrom, readJudgements, readMoments, readPredictions, scoreDrivelm } from ${JSON.stringify(path.join(compiled, 'drivelm/index.js'))}
    const [data, predictions, judgements] = ${JSON.stringify([data, predictions, judgements])}
    const started = performance.now()
    const answers = new Map([...(await readPredictions(predictions))].map(([id, { answer }]) => [id, answer]))
    const judge = judgeFrom(await readJudgements(judgements))
    const { items, gated, ...sheet } = await scoreDrivelm(readMoments(data), answers, { judge, strict: true })
    console.log(JSON.stringify({
      seconds: (performance.now() - started) / 1000,
      megabytes: process.resourceUsage().maxRSS / 1024,
      scored: items.length, gated: gated.length, final: sheet.final,
    }))`
  const child = spawnSync(process.execPath, ['--input-type=module', '-e', script], { encoding: 'utf8' })
  expect(child.stderr).toBe('')
  const { seconds, megabytes, scored, gated, final } = JSON.parse(child.stdout)
  console.log(
    `scored ${scored} of ${scored + gated} questions in ${seconds.toFixed(2)} s, ${megabytes.toFixed(0)} MB at most`,
  )
  expect(scored + gated).toBe(15_480)
  expect(final).toBeGreaterThan(0)
  expect(seconds).toBeLessThan(20)
  expect(megabytes).toBeLessThan(500)
})

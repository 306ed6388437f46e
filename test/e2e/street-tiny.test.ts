import { readFileSync } from 'node:fs'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { cameras, loadModel, type Model } from '../../lib/index.ts'

const dir = 'test/fixtures/street-tiny-val'

interface Golden {
  scene: string
  question: string
  truth: string
  answer: string
  tokens: number[]
}

const golden = (JSON.parse(readFileSync(path.join(dir, 'golden.json'), 'utf8')) as { answers: Golden[] }).answers
const scenes = grouped(golden)

function grouped(answers: Golden[]): Map<string, Golden[]> {
  const groups = new Map<string, Golden[]>()
  for (const one of answers) groups.set(one.scene, [...(groups.get(one.scene) ?? []), one])
  return groups
}

/** Runs the whole set; `check` sees each answer. */
async function askAll(model: Model, check: (one: Golden, text: string, tokens: number) => void): Promise<void> {
  for (const [name, questions] of scenes) {
    const views = Object.fromEntries(cameras.map((camera) => [camera, path.join(dir, 'images', camera, `${name}.png`)]))
    const scene = await model.see(views)
    const answers = await Promise.all(questions.map(({ question }) => scene.ask(question, { maxNewTokens: 64 })))
    for (const [i, { text, usage }] of answers.entries()) check(questions[i]!, text, usage.answerTokens)
    scene.dispose()
  }
}

describe.each(['f32', 'bf16'] as const)('street-tiny over its validation set, %s', (precision) => {
  let model: Model

  beforeAll(async () => {
    model = await loadModel({ precision, device: 'cpu' })
  })

  afterAll(() => model.dispose())

  it('answers as the reference does', { timeout: 300_000 }, async () => {
    const other: string[] = []
    let right = 0
    await askAll(model, (one, text, tokens) => {
      if (text === one.truth) right += 1
      // Every id but the stop token is text, so equal text of equal length is equal ids here.
      if (text !== one.answer || Math.abs(tokens - one.tokens.length) > 1) {
        other.push(`${one.scene}: ${one.question} ${one.answer} | ${text}`)
      }
    })
    expect(golden).toHaveLength(720)
    const reference = golden.filter(({ answer, truth }) => answer === truth).length
    if (precision === 'f32') expect(other).toEqual([])
    expect(Math.abs(right - reference) / golden.length).toBeLessThanOrEqual(0.01)
  })
})

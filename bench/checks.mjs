// Answers are checked before anything is timed: a mode that answers wrong is not timed at all.
import { readFileSync } from 'node:fs'
import path from 'node:path'
import { cameras, loadModel } from '../dist/index.js'
import { packageRoot } from '../dist/native.js'
import { randomIds } from './workload.mjs'

const scenes = 2

/** Part of the bundled model's reference answers that a mode must give. f32 computes what the reference computes. */
const wanted = { f32: 1, bf16: 0.95 }

/** Questions about held-out moments, against the reference's greedy answers. */
export async function checkAnswers(mode, device, threads) {
  const dir = path.join(packageRoot, 'test', 'fixtures', 'street-tiny-val')
  const { answers } = JSON.parse(readFileSync(path.join(dir, 'golden.json'), 'utf8'))
  const names = [...new Set(answers.map(({ scene }) => scene))].slice(0, scenes)
  const model = await loadModel({ ...mode.load, device, threads })
  let same = 0
  let asked = 0
  try {
    for (const name of names) {
      const views = Object.fromEntries(
        cameras.map((camera) => [camera, path.join(dir, 'images', camera, `${name}.png`)]),
      )
      const scene = await model.see(views)
      const golden = answers.filter((one) => one.scene === name)
      // One by one: how questions are batched depends on time, and quantised weights tell batches apart.
      const given = []
      for (const { question } of golden) given.push(await scene.ask(question, { maxNewTokens: 64 }))
      asked += given.length
      same += given.filter(({ text }, i) => text === golden[i].answer).length
      scene.dispose()
    }
  } finally {
    await model.dispose()
  }
  return {
    check: 'street-tiny answers',
    passed: same >= asked * wanted[mode.precision],
    detail: `${same} of ${asked} as the reference`,
  }
}

const promptTokens = 96
const answerTokens = 8

/**
 * What the decoder says token by token, against one pass over the same ids: the cache, the one-row forms and the many-row forms
 * must agree. It is the check of the model that is timed, whose answers nobody knows.
 */
export async function checkDecoding(native, { vocab }, mode, nextJob) {
  const ids = randomIds(promptTokens, vocab, 7)
  const request = (more) => ({ job: nextJob(), ...plainRequest(vocab), wantLogits: true, ...more })
  const decoded = await native.generate(request({ ids, maxNewTokens: answerTokens }))
  const all = Int32Array.from([...ids, ...decoded.ids.slice(0, answerTokens - 1)])
  const { logits } = await native.generate(request({ ids: all, maxNewTokens: 1 }))
  const similar = cosine(decoded.logits.subarray((answerTokens - 1) * vocab, answerTokens * vocab), logits)
  // Rounding of activations to 8 bits happens in one of the two only.
  const least = mode.activations === 'int8' ? 0.97 : 0.995
  return {
    check: 'decoding as prefill',
    passed: decoded.ids.length === answerTokens && similar >= least,
    detail: `cosine of the logits ${similar.toFixed(5)}, at least ${least}`,
  }
}

function cosine(a, b) {
  let ab = 0
  let aa = 0
  let bb = 0
  for (let i = 0; i < a.length; i++) {
    ab += a[i] * b[i]
    aa += a[i] * a[i]
    bb += b[i] * b[i]
  }
  return ab / Math.sqrt(aa * bb)
}

/** A greedy request without a scene; ids and maxNewTokens are the caller's. */
export function plainRequest(vocab) {
  return {
    scene: 0,
    minNewTokens: 0,
    temperature: 0,
    topP: 1,
    seed: 0,
    stopIds: new Int32Array(0),
    vocabLimit: vocab,
  }
}

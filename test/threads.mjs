// The random operations of test/unit/random-scenes.mjs on the compiled package, without a test runner and on the smallest checkpoint
// there is: for sanitizer builds, where all of the process is slow. `scripts/test.mjs` runs it under ThreadSanitizer.
import path from 'node:path'
import { loadModel } from '../dist/index.js'
import { loadAddon, packageRoot } from '../dist/native.js'
import { plainAnswers, pools, randomOperations } from './unit/random-scenes.mjs'

const checkpoint = path.join(packageRoot, 'test', 'fixtures', 'golden', 'c2-phi3-long')
const layout = { layout: 'separate', cameraNames: true, maxTilesPerImage: 1 }
const options = {
  seed: Number(process.env.DRIVLM_SEED ?? 20260),
  operations: Number(process.env.DRIVLM_OPERATIONS ?? 1000), // for each of the three kinds of pool
}

/** A picture of its own for every number. */
function picture(number) {
  const data = new Uint8Array(56 * 56 * 3)
  for (let i = 0; i < data.length; i++) data[i] = (i * (number + 3) * 7 + (i >> 5) * number * 13) & 255
  return { data, width: 56, height: 56 }
}

const stage = {
  load: (limits) => loadModel(checkpoint, { threads: 2, layout, ...limits }),
  moments: [0, 1].map((moment) => ({ CAM_FRONT: picture(moment), CAM_BACK: picture(2 + moment) })),
  maxNewTokens: 12, // it never ends an answer by itself
}

const seconds = (since) => `${((performance.now() - since) / 1000).toFixed(1)} s`
let startedAt = performance.now()
const truth = await plainAnswers(stage)
const { sanitizer } = loadAddon().build
console.log(`sanitizer: ${sanitizer || 'none'}, seed ${options.seed}, plain answers ${seconds(startedAt)}`)
for (const [name, limits] of pools) {
  startedAt = performance.now()
  const counts = await randomOperations(stage, truth, limits, options)
  console.log(`${name}: ${JSON.stringify(counts)}, ${seconds(startedAt)}`)
}

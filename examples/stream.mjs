// An answer as it comes, with a time limit. Run it with: node examples/stream.mjs
import { bundledModel, cameras, loadModel } from 'drivlm'

const model = await loadModel()
const moment = `${bundledModel}/moments/day`
const views = Object.fromEntries(cameras.map((camera) => [camera, `${moment}/${camera}.png`]))

const question = 'In this scenario, what are safe actions to take for the ego vehicle?'
const stream = model.stream(views, question, { signal: AbortSignal.timeout(10_000) })
for await (const piece of stream) process.stdout.write(piece)

const { finishReason, timings } = await stream.answer
console.log(`\n(${finishReason}, ${timings.totalMs.toFixed(0)} ms)`)

await model.dispose()

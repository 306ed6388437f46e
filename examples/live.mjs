// A robot's cameras as they are now, and a control loop beside. Answers go to Foxglove or Lichtblick on ws://127.0.0.1:8766.
// Run it with: node examples/live.mjs ws://robot:8765 [--moments 10] [--port 8766]
import { parseArgs } from 'node:util'
import { loadModel } from 'drivlm'
import { answeredMoment, cameras, serveAnswers } from 'drivlm/live'

const options = { moments: { type: 'string', default: '10' }, port: { type: 'string', default: '8766' } }
const { values, positionals } = parseArgs({ allowPositionals: true, options })

// A core is left to the control loop.
const model = await loadModel({ threads: 1, maxScenes: 2 })
const server = await serveAnswers({ port: Number(values.port) })
const source = cameras.fromFoxglove(positionals[0])

// 50 Hz: what steers the vehicle. It takes the newest decision there is, and never waits for one.
let decision = 'none yet'
const control = setInterval(() => steer(decision), 20)
function steer() {}

// As often as the model is free: the newest moment, by its deadline. What is stale is dropped.
const questions = ['Should the ego car stop?']
const watch = model.watch(source, { questions, deadlineMs: 5000, answerFormat: { enum: ['Yes', 'No'] } })
const most = Number(values.moments)
for await (const result of watch) {
  const { moment, answers, late, dropped, timings } = result
  decision = late ? 'none in time' : answers[0].text
  console.log(`${moment.stamp} ns: ${decision} (${timings.totalMs.toFixed(0)} ms, ${dropped} dropped)`)
  const { asked } = watch.counts
  server.send(answeredMoment(result, model.info.name, asked - 1))
  if (asked === most) break
}

clearInterval(control)
await server.close()
await model.dispose()

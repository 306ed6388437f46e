// Views are seen once, then any number of questions are asked about them. Run it with: node examples/scene.mjs
import { bundledModel, cameras, loadModel } from 'drivlm'

const model = await loadModel()
const moment = `${bundledModel}/moments/rain`
const views = Object.fromEntries(cameras.map((camera) => [camera, `${moment}/${camera}.png`]))

const scene = await model.see(views)
console.log(`${scene.info.tiles} tiles seen in ${scene.info.timings.totalMs.toFixed(0)} ms`)

// Asked together, they are decoded together.
const questions = [
  'Describe the weather and the time of day.',
  'How many traffic cones are there to the front right of the ego car?',
  'What is the colour of the bus to the back right of the ego car?',
]
const answers = await Promise.all(questions.map((question) => scene.ask(question)))
questions.forEach((question, i) => {
  console.log(`${question}  ${answers[i].text}`)
})

scene.dispose()
await model.dispose()

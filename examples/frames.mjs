// Frames that are in memory already, as a camera driver or a decoder hands them over. Run it with: node examples/frames.mjs
import { bundledModel, cameras, loadModel, ModelError } from 'drivlm'
import sharp from 'sharp'

const model = await loadModel()
const moment = `${bundledModel}/moments/dusk`

// Interleaved RGB: { data, width, height }. Here sharp plays the driver.
const frames = {}
for (const camera of cameras) {
  const { data, info } = await sharp(`${moment}/${camera}.png`).raw().toBuffer({ resolveWithObject: true })
  frames[camera] = { data, width: info.width, height: info.height }
}
console.log((await model.ask(frames, 'Which camera sees the cyclist?')).text)

// A camera has failed: that is an error, unless its cell may stay black.
const { CAM_BACK, ...five } = frames
try {
  await model.ask(five, 'What is the color of the traffic light?')
} catch (error) {
  if (!(error instanceof ModelError)) throw error
  console.log(`${error.code}: ${error.message}`)
}
const answer = await model.ask(five, 'What is the color of the traffic light?', { missingViews: 'black' })
console.log(answer.text)

await model.dispose()

// One question about one moment. Run it with: node examples/ask.mjs
import { bundledModel, loadModel } from 'drivlm'

const model = await loadModel() // the bundled street-tiny; give a folder for another model

const moment = `${bundledModel}/moments/dusk`
const views = {
  CAM_FRONT: `${moment}/CAM_FRONT.png`,
  CAM_FRONT_LEFT: `${moment}/CAM_FRONT_LEFT.png`,
  CAM_FRONT_RIGHT: `${moment}/CAM_FRONT_RIGHT.png`,
  CAM_BACK: `${moment}/CAM_BACK.png`,
  CAM_BACK_LEFT: `${moment}/CAM_BACK_LEFT.png`,
  CAM_BACK_RIGHT: `${moment}/CAM_BACK_RIGHT.png`,
}

const { text, usage, timings } = await model.ask(views, 'What is the color of the traffic light?')
console.log(text)
console.log(`${usage.imageTokens} image tokens, first word after ${timings.firstTokenMs.toFixed(0)} ms`)

await model.dispose()

// Questions about a robot's log, two moments a second. Run it with: node examples/log.mjs drive.mcap [model folder]
import { bundledModel, loadModel } from 'drivlm'
import { moments, openLog } from 'drivlm/logs'

const [file, dir = bundledModel] = process.argv.slice(2)
const log = await openLog(file)
const { cameras } = log.guessCameras() // or your own: { CAM_FRONT: '/camera/front/image_raw/compressed', … }
const model = await loadModel(dir)

let scene // of the moment before: only what changed since then is encoded
for await (const moment of moments(log, { cameras, every: 0.5 })) {
  const views = await moment.views()
  const next = scene === undefined ? await model.see(views) : await scene.update(views)
  scene?.dispose()
  scene = next
  const [weather, plan] = await scene.askAll(['What is the weather like?', 'What should the ego car do next?'])
  console.log(`${moment.stamp} ns: ${weather.text} ${plan.text}`)
}

await model.dispose()
await log.close()

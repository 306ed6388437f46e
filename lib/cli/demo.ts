/** `drivlm demo`: the bundled model about its bundled moments, each answer beside the truth. */
import path from 'node:path'
import { loadModel } from '../load-model.ts'
import type { Model } from '../model.ts'
import { bundledMoments, type MomentQuestion, momentsFolder } from '../moments.ts'
import { loadOptions } from '../option-tables.ts'
import type { LoadOptions } from '../options.ts'
import type { Scene, SceneInfo } from '../scene.ts'
import { viewsIn } from './ask.ts'
import { noteCache, optionsFrom } from './flags.ts'
import { formatCount, formatMs, print, printJson, styled, withProgress } from './terminal.ts'

interface Told extends MomentQuestion {
  answer: string
  right: boolean
  ms: number
}

export async function demo(flags: LoadOptions & { json?: boolean }): Promise<void> {
  const { moments, heldOutAccuracyPercent } = await bundledMoments()
  const started = performance.now()
  const model = await withProgress('Loading street-tiny', () => loadModel(optionsFrom(loadOptions, flags)))
  const loadMs = performance.now() - started
  noteCache(model)
  const results = []
  try {
    if (!flags.json) printHead(model, loadMs)
    for (const moment of moments) {
      const picture = path.relative('', path.join(momentsFolder, moment.picture))
      if (!flags.json) print(`\n${styled('bold', moment.title)}  ${styled('dim', picture)}`)
      const scene = await model.see(await viewsIn(path.join(momentsFolder, moment.folder)))
      const told: Told[] = []
      for (const question of moment.questions) {
        const one = await tell(scene, question)
        told.push(one)
        if (!flags.json) printTold(one)
      }
      scene.dispose()
      if (!flags.json) printTimes(scene.info, told)
      results.push({ title: moment.title, picture, seen: scene.info, questions: told })
    }
  } finally {
    await model.dispose()
  }
  const told = results.flatMap(({ questions }) => questions)
  const right = told.filter((one) => one.right).length
  const totalMs = performance.now() - started
  if (flags.json) {
    const { name, parameters, device, precision } = model.info
    printJson({
      model: { name, parameters, device, precision },
      loadMs,
      totalMs,
      right,
      asked: told.length,
      moments: results,
    })
    return
  }
  const shown = told.map(({ type }) => heldOutAccuracyPercent[type]!)
  print(`\n${right} of ${told.length} answers are the truth, in ${formatMs(totalMs)} with loading.`)
  print(
    `These moments were chosen; over 150 held-out scenes it is right in ${Math.min(...shown)} to ${Math.max(...shown)} % ` +
      'of the questions of these types.',
  )
  const example = path.relative('', path.join(momentsFolder, moments[0]!.folder))
  print(`\nAsk it yourself:  npx drivlm ask --views ${example} "How many cars are in CAM_BACK?"`)
}

function printHead({ info }: Model, loadMs: number): void {
  const { name, parameters, precision, device } = info
  print(
    `${styled('bold', name)}: ${formatCount(parameters)} parameters, ${precision}, on ${device}, loaded in ${formatMs(loadMs)}.`,
  )
  print('It knows drawn street scenes and nothing else: a toy to see the machinery work, no driving system.')
}

async function tell(scene: Scene, question: MomentQuestion): Promise<Told> {
  const { text, timings } = await scene.ask(question.question, { maxNewTokens: 64 })
  return { ...question, answer: text, right: text === question.truth, ms: timings.totalMs }
}

function printTold({ question, answer, truth, right, ms }: Told): void {
  const mark = right ? styled('green', '✓') : styled('red', '✗')
  print(`  ${question}`)
  print(`    ${mark} ${answer}  ${styled('dim', `truth: ${truth}  ${formatMs(ms)}`)}`)
}

function printTimes({ tiles, tokens, timings }: SceneInfo, told: readonly Told[]): void {
  const { decodeMs, preprocessMs, visionMs, prefillMs, totalMs } = timings
  const asking = told.reduce((sum, { ms }) => sum + ms, 0)
  print(
    `  Seen in ${formatMs(totalMs)}: decode ${formatMs(decodeMs)}, preprocess ${formatMs(preprocessMs)}, ` +
      `vision ${formatMs(visionMs)} (${tiles} tiles), prefill ${formatMs(prefillMs)} (${tokens} tokens). ` +
      `${told.length} answers in ${formatMs(asking)}.`,
  )
}

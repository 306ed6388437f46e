/** `drivlm adapt`: trains a checkpoint on a domain, and keeps a log and a report of it. */
import { existsSync } from 'node:fs'
import { cp, readFile, rename, rm } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { readCheckpoint } from '../checkpoint/load-checkpoint.ts'
import { ModelError } from '../errors.ts'
import { parseJson } from '../evaluate/questions/json-stream.ts'
import { pagePictures } from '../evaluate/report/index.ts'
import { lockFolder } from '../folder-lock.ts'
import type { Conversion } from '../grounding/conversion.ts'
import { adaptLocked } from '../train/adapt.ts'
import {
  type AdaptSettings,
  openTrainingData,
  publishedSettings,
  settingsOf,
  type TrainingData,
  type TrainingDataOptions,
} from '../train/index.ts'
import { refuseWhatCannotFit } from '../train/plan.ts'
import { type ReportedList, type ReportedStep, trainingReportHtml } from '../train/report/html.ts'
import { changedMoment, type Validation } from '../train/report/validation.ts'
import { cannotWrite, makeFolder, writeWhole } from '../whole-file.ts'
import { type Plan, planOf, printData, printPlan } from './adapt-plan.ts'
import { type ValidationSet, Validations } from './adapt-validation.ts'
import { modelFolder } from './model-folder.ts'
import { errorText, formatDuration, Progress, print, printJson, withProgress } from './terminal.ts'

export interface AdaptFlags
  extends Partial<Omit<AdaptSettings, 'seed'>>,
    Omit<TrainingDataOptions, 'data' | 'general' | 'pictures' | 'seed'> {
  seed?: number
  model: string
  data: string[]
  general?: string[]
  out?: string
  threads?: number
  saveEvery?: number
  /** In gigabytes, as the next. */
  memory?: number
  towerCache?: number
  validate?: string
  validateImages?: string
  validateGeneral?: string
  validateEvery?: number
  validateLimit?: number
  check?: 'whole' | 'headers'
  conversion?: Conversion
  plan?: boolean
  finish?: boolean
  json?: boolean
  yes?: boolean
}

export async function adapt(flags: AdaptFlags): Promise<void> {
  const { out, plan = false, validate, validateGeneral, validateEvery } = flags
  if (out === undefined && !plan) throw bad('Give --out with the folder that the adapted checkpoint is to be.')
  if (validate === undefined && (validateGeneral ?? validateEvery ?? flags.validateLimit) !== undefined)
    throw bad('Give --validate with a question file of the domain beside the other flags of validation.')
  const interrupt = new AbortController()
  let stoppedBy: NodeJS.Signals | undefined
  // Once: whoever cannot wait for the state to be saved sends a second one.
  const onSignal = (name: NodeJS.Signals) => {
    stoppedBy ??= name
    interrupt.abort()
  }
  process.once('SIGINT', onSignal).once('SIGTERM', onSignal)
  try {
    await run(flags, interrupt.signal)
  } catch (error) {
    process.stderr.write(`${stoppedBy === undefined ? errorText(error) : 'Stopped.'}\n`)
    if (stoppedBy !== undefined && out !== undefined)
      process.stderr.write(
        existsSync(path.join(`${out}.run`, 'state'))
          ? `What was learned is kept in ${out}.run; the same command goes on from there.\n`
          : 'Nothing had been learned yet.\n',
      )
    process.exitCode = stoppedBy === undefined ? 1 : stoppedBy === 'SIGINT' ? 130 : 143
  } finally {
    process.off('SIGINT', onSignal).off('SIGTERM', onSignal)
  }
}

function bad(message: string): ModelError {
  return new ModelError('BAD_ARGUMENT', message)
}

async function run(given: AdaptFlags, signal: AbortSignal): Promise<void> {
  const settings = settingsOf(given)
  const flags = { ...given, model: path.resolve((await modelFolder(given.model, given.yes))!) }
  const { model, data: files, general, json = false } = flags
  const threads = flags.threads ?? os.availableParallelism()
  const data = await withProgress('Looking through the samples', (progress) =>
    openTrainingData(model, {
      ...flags,
      data: files,
      general,
      pictures: flags.check,
      signal,
      onProgress: (done, total) => progress.update(done / total, `${done} of ${total}`),
    }),
  )
  try {
    if (!json) printData(data)
    if (flags.plan) {
      const { network } = await readCheckpoint(model)
      const plan = await planOf(model, data, settings, threads, bytesOf(flags.memory))
      if (json) printJson(planJson(plan, data))
      else printPlan(plan, settings)
      refuseWhatCannotFit(plan.memory, network, settings, data.bounds)
      return
    }
    const out = path.resolve(flags.out!)
    await makeFolder(`${out}.run`).catch((error) => {
      throw cannotWrite(`${out}.run`, error)
    })
    // Before anything there is looked at or removed: another process may be at this very run.
    const unlock = await lockFolder(`${out}.run`)
    try {
      await train(flags, settings, data, threads, out, signal)
    } finally {
      await unlock()
    }
  } finally {
    await data.close()
  }
}

const bytesOf = (gigabytes: number | undefined): number | undefined =>
  gigabytes === undefined ? undefined : Math.round(gigabytes * 1e9)

function planJson(plan: Plan, data: TrainingData): unknown {
  return { ...plan, data: data.summary }
}

async function train(
  flags: AdaptFlags,
  settings: AdaptSettings,
  data: TrainingData,
  threads: number,
  out: string,
  signal: AbortSignal,
): Promise<void> {
  const { model, saveEvery, memory, towerCache, finish = false, json = false } = flags
  const runFolder = `${out}.run`
  const goesOn = existsSync(path.join(runFolder, 'run.json')) || existsSync(path.join(out, 'adapt.json'))
  const sets = validationSets(flags)
  const validations = await Validations.open(runFolder, goesOn, sets)
  const started = performance.now()
  let changed = false // what is refused leaves the report of another run as it is
  const look = async (dir: string, updates: number): Promise<void> => {
    for (const set of sets) {
      if (validations.has(updates, set.set)) continue
      changed = true
      const use = async (found: Validation): Promise<void> => {
        if (!json) print(`  after ${updates}: ${set.set} ${described(found)}`)
        if (found.best && found.set === 'domain' && updates > 0) await keepBest(dir, `${out}.best`)
      }
      await withProgress(`Validating after ${updates} updates, ${set.set}`, () =>
        validations.run(dir, updates, set, { threads, signal, use }),
      )
    }
    if (changed) await writeReport(flags, settings, data, validations.all, out)
  }
  if (sets.length > 0) await look(model, 0)
  const every = flags.validateEvery ?? Math.max(1, Math.ceil(data.steps / 10))
  const shown = new Progress('Adapting')
  let losses = 0
  try {
    const steps = adaptLocked(model, {
      ...settings,
      data,
      out,
      threads,
      ...(saveEvery === undefined ? {} : { saveEvery }),
      memoryBytes: bytesOf(memory),
      towerCacheBytes: bytesOf(towerCache),
      ...(sets.length > 0 ? { checkpoints: { every, use: look } } : {}),
      finish,
      signal,
    })
    for await (const { step, steps: all, loss, questionsPerSecond, secondsLeft } of steps) {
      changed = true
      losses = losses === 0 ? loss : 0.9 * losses + 0.1 * loss
      const rate = questionsPerSecond.toFixed(questionsPerSecond < 10 ? 1 : 0)
      shown.update(
        (step + 1) / all,
        `${step + 1} of ${all}, loss ${losses.toFixed(3)}, ${rate} questions a second, ${formatDuration(secondsLeft)} left`,
      )
    }
  } finally {
    shown.end()
    if (changed) await writeReport(flags, settings, data, validations.all, out)
  }
  const last = (await readSteps(out)).at(-1)
  const done = last === undefined ? 0 : last.step + 1
  const best = validations.all.findLast(({ best: isBest, set, updates }) => isBest && set === 'domain' && updates > 0)
  if (json) {
    const scores = validations.all.map(({ moments: _, asked: __, ...scores }) => scores)
    printJson({ out, steps: done, loss: last?.loss, validations: scores, report: reportFile(out) })
    return
  }
  print(
    `\n${done} of ${data.steps} updates are done, ${formatDuration((performance.now() - started) / 1000)} in this call; the loss of the last is ${last?.loss.toFixed(3) ?? '–'}.`,
  )
  print('\nWritten')
  for (const file of [out, ...(best ? [`${out}.best`] : []), reportFile(out)]) print(`  ${path.relative('', file)}`)
  print(`\nAsk it:  drivlm ask --model ${path.relative('', out)} --views DIR "What is ahead?"`)
}

function validationSets(flags: AdaptFlags): ValidationSet[] {
  const { validate, validateGeneral, validateImages, validateLimit: limit, conversion, text } = flags
  const common = { limit, conversion, text, images: validateImages }
  return [
    ...(validate === undefined ? [] : [{ ...common, set: 'domain', data: validate }]),
    ...(validateGeneral === undefined ? [] : [{ ...common, set: 'general', data: validateGeneral }]),
  ]
}

function described({ exact, final, questions, best }: Validation): string {
  const score = final === null ? '' : `, final score ${final.toFixed(4)}`
  const right = exact === null ? 'no answer is known' : `${(100 * exact).toFixed(1)} % of ${questions} right`
  return `${right}${score}${best ? ', the best so far' : ''}`
}

/** The weights that did best on the domain, beside the last ones. */
async function keepBest(dir: string, best: string): Promise<void> {
  const partial = `${best}.partial`
  try {
    await rm(partial, { recursive: true, force: true })
    await cp(dir, partial, { recursive: true })
    await rm(best, { recursive: true, force: true })
    await rename(partial, best)
  } catch (error) {
    throw cannotWrite(best, error)
  }
}

/** `visionLearningRate` as `vision learning rate`. */
const words = (key: string): string => key.replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`)

const reportFile = (out: string): string => path.join(`${out}.run`, 'report.html')

async function readSteps(out: string): Promise<ReportedStep[]> {
  const file = path.join(`${out}.run`, 'steps.jsonl')
  const text = await readFile(file, 'utf8').catch(() => '')
  return text
    .split('\n')
    .slice(0, -1)
    .map((line, i) => parseJson(line, [file, `line ${i + 1}`]) as ReportedStep)
}

/** `report.html` and `steps.csv` of the run so far. */
async function writeReport(
  flags: AdaptFlags,
  settings: AdaptSettings,
  data: TrainingData,
  validations: readonly Validation[],
  out: string,
): Promise<void> {
  const steps = await readSteps(out)
  const { name } = await readCheckpoint(flags.model)
  const { train: part, towerLayers, learningRate } = settings
  const { visionLearningRate } = settingsOf({ train: part, towerLayers, learningRate }) // what follows from the others
  const usual = { ...publishedSettings, visionLearningRate }
  const changed = Object.entries(settings).filter(([key, value]) => value !== usual[key as keyof AdaptSettings])
  const { shared, separate, samples } = data.operationsOf(settings)
  const moment = changedMoment(validations)
  const [pictures] =
    moment === undefined
      ? []
      : await pagePictures(
          { frames: [moment.before] },
          { resolve: (file) => file, folder: path.dirname(reportFile(out)) },
        )
  const html = trainingReportHtml({
    title: `${name}, adapted`,
    facts: {
      start: name,
      updates: `${steps.length} of ${data.steps}`,
      'questions a pass': String(samples),
      'operations saved': `${(separate / shared).toFixed(1)} times`,
      ...Object.fromEntries(changed.map(([key, value]) => [words(key), String(value)])),
    },
    moment: moment && { ...moment, pictures: pictures ?? {} },
    lists: (data.summary.lists as ReportedList[]).map((list) => ({ ...list })),
    steps,
    validations,
  })
  await writeWhole(reportFile(out), html)
  const columns = Object.keys(steps[0] ?? {}) as (keyof ReportedStep)[]
  const rows = steps.map((step) => columns.map((column) => String(step[column])).join(','))
  await writeWhole(path.join(`${out}.run`, 'steps.csv'), `${[columns.join(','), ...rows].join('\n')}\n`)
}

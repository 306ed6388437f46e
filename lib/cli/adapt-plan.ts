/** `drivlm adapt --plan`: what a run will take, by counts and one measured pack; and what is learned from. */
import { readCheckpoint } from '../checkpoint/load-checkpoint.ts'
import { loadAddon, toModelError } from '../native.ts'
import { type MemoryOfTraining, memoryOfTraining, towerCacheBytesOf } from '../train/plan.ts'
import { leftOut } from '../train/prepare.ts'
import { warmupSteps } from '../train/schedule.ts'
import { nativeOptions, trainsTower, updateOf } from '../train/settings.ts'
import type { TrainingData } from '../train/training-data.ts'
import type { AdaptSettings } from '../train/types.ts'
import { formatBytes, formatCount, formatDuration, print, printable, printFields, withProgress } from './terminal.ts'

/** What a run takes. */
export interface Plan {
  steps: number
  /** Peaks, and the updates in which the rates rise to them. */
  learningRate: number
  visionLearningRate: number
  warmupSteps: number
  memory: MemoryOfTraining
  /** On the disk, for what a frozen tower gives; 0 where that is not kept. */
  towerCacheBytes: number
  /** Questions of a pass, and floating-point operations of each: as it is trained, and as it would be with its pictures for itself. */
  questions: number
  operationsPerQuestion: { shared: number; separate: number }
  /** Of all updates, estimated from one pack and one update; null where it does not fit into memory. */
  seconds: number | null
}

/** Counts what a run takes; measures a pack and an update, if they fit. Nothing is written. */
export async function planOf(
  dir: string,
  data: TrainingData,
  settings: AdaptSettings,
  threads: number,
  memoryBytes?: number,
): Promise<Plan> {
  const { network, files, fileBytes, tensors } = await readCheckpoint(dir)
  const memory = memoryOfTraining(network, settings, data.bounds, memoryBytes)
  const { samples, shared, separate } = data.operationsOf(settings)
  const plan = {
    steps: data.steps,
    learningRate: settings.learningRate,
    visionLearningRate: settings.visionLearningRate,
    warmupSteps: warmupSteps({ ...settings, steps: data.steps }),
    memory,
    towerCacheBytes: towerCacheBytesOf(network, settings, data),
    questions: samples,
    operationsPerQuestion: { shared: shared / samples, separate: separate / samples },
  }
  if (memory.totalBytes > memory.availableBytes) return { ...plan, seconds: null }
  const seconds = await withProgress('Measuring a pack', async () => {
    const source = { network, files, fileBytes, tensors }
    const trainer = await loadAddon()
      .train(source, nativeOptions(settings, network, data.bounds, threads))
      .catch((error) => {
        throw toModelError(error)
      })
    try {
      const packs = await data.packsOfStep(0)
      const pack = packs.reduce((most, one) => (one.ids.length > most.ids.length ? one : most))
      await trainer.learn(pack) // the first touches memory that later ones find there
      const started = performance.now()
      await trainer.learn(pack)
      const learned = performance.now()
      await trainer.update({ ...updateOf(settings, 0, data.steps), learningRate: 0, visionLearningRate: 0 })
      const updated = performance.now()
      const rows = packs.reduce((sum, { ids }) => sum + ids.length, 0)
      return (data.steps * (((learned - started) * rows) / pack.ids.length + updated - learned)) / 1000
    } finally {
      await trainer.dispose()
    }
  })
  return { ...plan, seconds }
}

/** Prints a plan. */
export function printPlan(
  { steps, memory, towerCacheBytes, questions, operationsPerQuestion, seconds }: Plan,
  settings: AdaptSettings,
): void {
  const { shared, separate } = operationsPerQuestion
  print('\nPlan')
  printFields([
    ['updates', String(steps)],
    ['learning rate', describedRate(settings, steps)],
    [
      'memory',
      `${formatBytes(memory.totalBytes)} of ${formatBytes(memory.availableBytes)}: weights ${formatBytes(memory.weightsBytes)}, gradients ${formatBytes(memory.gradientsBytes)}, moments ${formatBytes(memory.momentsBytes)}, activations ${formatBytes(memory.activationsBytes)}`,
    ],
    ...(towerCacheBytes === 0
      ? []
      : [
          [
            'disk',
            `up to ${formatBytes(towerCacheBytes)} for what the tower gives, so that each picture goes through it once`,
          ] as [string, string],
        ]),
    ['questions a pass', String(questions)],
    [
      'operations a question',
      `${formatCount(shared)}; ${formatCount(separate)} if each had its pictures for itself, ${(separate / shared).toFixed(1)} times as many`,
    ],
    ...(seconds === null
      ? []
      : [
          [
            'time',
            `about ${formatDuration(seconds)}${towerCacheBytes === 0 ? '' : ' at most'}, by one pack measured now`,
          ] as [string, string],
        ]),
  ])
}

/** Such as `0.0001, in the vision tower 0.00002; rises in 3 updates, then cosine`. */
function describedRate(settings: AdaptSettings, steps: number): string {
  const { learningRate, visionLearningRate, schedule } = settings
  const tower =
    !trainsTower(settings) || visionLearningRate === learningRate ? '' : `, in the vision tower ${visionLearningRate}`
  const warm = warmupSteps({ ...settings, steps })
  return `${learningRate}${tower}; ${warm > 0 ? `rises in ${warm} ${warm === 1 ? 'update' : 'updates'}, then ` : ''}${schedule}`
}

/** Prints what was found in the lists, and why samples are left out. */
export function printData(data: TrainingData): void {
  const { surveys } = data
  print('Learns from')
  for (const survey of surveys) {
    const { name, general, samples, used, tokens, learned, trailingQuestions } = survey
    print(
      `  ${printable(name)}${general ? ' (general)' : ''}: ${used} of ${samples} samples, ${formatCount(learned)} of ${formatCount(tokens)} tokens are learned`,
    )
    for (const [reason, found] of Object.entries(survey.leftOut)) {
      const { count, examples } = found
      print(
        `    ${count} left out, because ${leftOut[reason as keyof typeof leftOut]}: ${printable(examples.join('; '))}`,
      )
    }
    if (trailingQuestions > 0) print(`    ${trailingQuestions} without their last question, which nobody answers`)
  }
  const { domain, general, generalWanted } = data.summary.pass as Record<string, number>
  if (general! > 0 || generalWanted! > 0)
    print(
      `  A pass has ${domain} domain and ${general} general samples${general! < generalWanted! ? `; ${generalWanted} were asked for, there are no more` : ''}.`,
    )
}

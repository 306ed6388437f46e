/** What a run of training is asked for, checked; and as the addon takes it. */
import { ModelError } from '../errors.ts'
import { describeValue, isRecord } from '../messages.ts'
import type { NetworkDescription } from '../native.ts'
import type { NativeTrainedParts, NativeTrainOptions, NativeUpdate } from '../native-training.ts'
import { scheduleFactor, schedules } from './schedule.ts'
import { type AdaptSettings, type PackBounds, publishedSettings, type TrainedPart } from './types.ts'

const trainedParts: readonly TrainedPart[] = ['all', 'projector', 'language+projector', 'head']

/** Rows of the tower that go through together: enough for products of full speed, few enough for little scratch. */
const towerRows = 2048
const logitRows = 64

function bad(expected: string, key: string, value: unknown): ModelError {
  return new ModelError('BAD_ARGUMENT', `Expected ${expected} for options.${key}, received ${describeValue(value)}.`)
}

/** Ranges of the numbers, both ends included; `open`: the upper one is not. */
const numbers: Partial<Record<keyof AdaptSettings, { most: number; open?: boolean; whole?: boolean }>> = {
  towerLayers: { most: 1024, whole: true },
  learningRate: { most: 1000 },
  visionLearningRate: { most: 1000 },
  warmupRatio: { most: 1 },
  warmupSteps: { most: 2 ** 32, whole: true },
  beta1: { most: 1, open: true },
  beta2: { most: 1, open: true },
  eps: { most: 1 },
  weightDecay: { most: 1000 },
  maxNorm: { most: Number.POSITIVE_INFINITY },
  dropPath: { most: 1, open: true },
  emaDecay: { most: 1, open: true },
  seed: { most: Number.MAX_SAFE_INTEGER, whole: true },
}

const choices: Partial<Record<keyof AdaptSettings, readonly string[]>> = {
  train: trainedParts,
  schedule: schedules,
  decay: ['all', 'standard'],
  precision: ['f32', 'bf16'],
}

/**
 * The settings of a run: those given, checked, over the published ones. Keys that are not of {@link AdaptSettings} are passed over.
 *
 * @throws {@link ModelError} `BAD_ARGUMENT` that names the option.
 */
export function settingsOf(options: Partial<AdaptSettings>): AdaptSettings {
  if (!isRecord(options)) throw new ModelError('BAD_ARGUMENT', `Expected options, received ${describeValue(options)}.`)
  const defaults = {
    ...publishedSettings,
    visionLearningRate: trainsTower(options) ? (options.learningRate ?? publishedSettings.learningRate) : 0,
  }
  const out: Record<string, unknown> = {}
  for (const key of Object.keys(defaults) as (keyof AdaptSettings)[]) {
    const value: unknown = options[key] ?? defaults[key]
    out[key] = value
    const list = choices[key]
    if (list !== undefined) {
      if (!list.includes(value as string)) throw bad(`one of '${list.join("', '")}'`, key, value)
      continue
    }
    const { most, open = false, whole = false } = numbers[key]!
    const fits =
      typeof value === 'number' &&
      value >= 0 &&
      (open ? value < most : value <= most) &&
      (!whole || Number.isInteger(value))
    if (!fits) throw bad(`a${whole ? ' whole' : ''} number from 0 to ${most}${open ? ' (below it)' : ''}`, key, value)
  }
  const settings = out as unknown as AdaptSettings
  if (settings.train === 'all' && settings.towerLayers > 0)
    throw bad("0 beside train 'all', which trains the whole tower,", 'towerLayers', settings.towerLayers)
  if (!trainsTower(settings) && settings.visionLearningRate > 0)
    throw bad(
      `0 beside train '${settings.train}' without towerLayers, which trains nothing of the tower,`,
      'visionLearningRate',
      settings.visionLearningRate,
    )
  return settings
}

/** Whether something of the vision tower is trained. */
export function trainsTower({ train = 'all', towerLayers = 0 }: Partial<AdaptSettings>): boolean {
  return train === 'all' || towerLayers > 0
}

/** What {@link AdaptSettings.train} and `towerLayers` stand for in a network. */
export function partsOf(
  { train, towerLayers }: Pick<AdaptSettings, 'train' | 'towerLayers'>,
  { vision }: NetworkDescription,
): NativeTrainedParts {
  if (towerLayers > vision.outputLayer) throw bad(`at most ${vision.outputLayer}`, 'towerLayers', towerLayers)
  const all = train === 'all'
  return {
    firstTowerLayer: all ? 0 : towerLayers === 0 ? vision.layers : vision.outputLayer - towerLayers,
    patches: all,
    projector: train !== 'head',
    decoder: all || train === 'language+projector',
    head: train !== 'projector',
  }
}

/** As the addon takes them. */
export function nativeOptions(
  settings: AdaptSettings,
  network: NetworkDescription,
  bounds: PackBounds,
  threads: number,
): NativeTrainOptions {
  const positions = 1 + (network.vision.tileSize / network.vision.patchSize) ** 2
  return {
    device: 'cpu',
    precision: settings.precision,
    threads,
    rows: bounds.rows,
    tiles: bounds.tiles,
    tilesAtOnce: Math.ceil(towerRows / positions),
    logitsAtOnce: logitRows,
    parts: partsOf(settings, network),
    dropPath: settings.dropPath,
    seed: settings.seed,
    meanDecay: settings.emaDecay,
  }
}

/** The update of a step, from 0. */
export function updateOf(settings: AdaptSettings, step: number, steps: number): NativeUpdate {
  const { learningRate, visionLearningRate, beta1, beta2, eps, weightDecay, decay, maxNorm } = settings
  const factor = scheduleFactor(step, { ...settings, steps })
  return {
    learningRate: learningRate * factor,
    visionLearningRate: visionLearningRate * factor,
    beta1,
    beta2,
    eps,
    weightDecay,
    decay,
    ...(maxNorm === Number.POSITIVE_INFINITY ? {} : { maxNorm }),
  }
}

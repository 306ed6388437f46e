/**
 * Adapting a checkpoint to a domain. The entry `drivlm/train`.
 *
 * @packageDocumentation
 */

export { Adaptation, adapt } from './adapt.ts'
export { type LossReduction, lossReductions } from './loss-weights.ts'
export { type MemoryOfTraining, memoryOfTraining } from './plan.ts'
export type { Schedule } from './schedule.ts'
export { settingsOf } from './settings.ts'
export type { ListSurvey } from './survey.ts'
export {
  type OperationCount,
  openTrainingData,
  type TrainingData,
  type TrainingDataOptions,
} from './training-data.ts'
export * from './types.ts'

/**
 * Adapting a checkpoint to a domain. The entry `drivlm/train`.
 *
 * @packageDocumentation
 */

export { Adaptation, adapt } from './adapt.ts'
export { type MemoryOfTraining, memoryOfTraining } from './plan.ts'
export type { Schedule } from './schedule.ts'
export { settingsOf } from './settings.ts'
export * from './types.ts'

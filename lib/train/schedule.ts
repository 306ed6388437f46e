/** Learning rates of the updates (spec/adaptation.md, section 11). */
import { ModelError } from '../errors.ts'

export const schedules = ['cosine', 'linear', 'constant'] as const
/** How the learning rate goes on after its rise. */
export type Schedule = (typeof schedules)[number]

export interface ScheduleOptions {
  schedule: Schedule
  /** Updates of the whole run. */
  steps: number
  /** Share of the updates in which the rate rises; default 0.03. Without effect beside `warmupSteps` above 0. */
  warmupRatio?: number
  warmupSteps?: number
}

/** Updates in which the rate rises. */
export function warmupSteps({ steps, warmupRatio = 0.03, warmupSteps = 0 }: ScheduleOptions): number {
  return warmupSteps > 0 ? warmupSteps : Math.ceil(steps * warmupRatio)
}

/**
 * What the learning rate is multiplied with.
 *
 * The rate rises from 0, so that the first update of a run with warm-up changes nothing but the moments; it is 1 at update `warmupSteps`,
 * and a cosine or linear schedule ends just above 0.
 *
 * @param update - Number of the update, from 0.
 * @throws {@link ModelError} `BAD_ARGUMENT` for settings out of range.
 */
export function scheduleFactor(update: number, options: ScheduleOptions): number {
  const { schedule, steps, warmupRatio = 0.03 } = options
  if (!Number.isSafeInteger(steps) || steps < 1)
    throw new ModelError('BAD_ARGUMENT', `steps: expected a whole number of at least 1, found ${steps}.`)
  if (!(warmupRatio >= 0 && warmupRatio <= 1))
    throw new ModelError('BAD_ARGUMENT', `warmupRatio: expected a number from 0 to 1, found ${warmupRatio}.`)
  const warm = warmupSteps(options)
  if (!Number.isSafeInteger(warm) || warm < 0)
    throw new ModelError('BAD_ARGUMENT', `warmupSteps: expected a whole number of at least 0, found ${warm}.`)
  if (update < warm) return update / Math.max(1, warm)
  const progress = (update - warm) / Math.max(1, steps - warm)
  if (schedule === 'cosine') return Math.max(0, 0.5 * (1 + Math.cos(Math.PI * progress)))
  return schedule === 'linear' ? Math.max(0, 1 - progress) : 1
}

/** What makes stand-ins of the published checkpoints, for scripts and the benchmark; see load.mjs. */
export { ModelError } from '../../lib/errors.ts'
export { standIns } from './families.ts'
export { makeCheckpoint } from './make-checkpoint.ts'

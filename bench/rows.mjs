// From what was measured to rows: value, floor, share.
import { floorSeconds } from './floors.mjs'
import { betterBy, isRate, quantile } from './statistics.mjs'

/**
 * @typedef {object} Row
 * @property {string} name
 * @property {number | null} value median; null where it was not measured, and then `skipped` says why
 * @property {string} unit
 * @property {number | null} floor what the peaks allow at best, in the same unit
 * @property {number | null} share how near the value is to the floor: 1 is on it
 */

/** A stage that bench/ask.mjs sent; without a mode, one that all modes share. Peaks measured around it count before those of the run. */
export function stageRow(stage, mode, peaks) {
  const name = mode === undefined ? stage.name : `${stage.name}_${mode.name}`
  if (stage.value !== undefined) return { ...withFloor(name, stage.value, stage.unit, stage.floor) }
  const scale = stage.unit === 'ms' ? 1000 : 1
  const inUnit = (seconds) => (isRate(stage.unit) ? stage.per / seconds : (seconds * scale) / stage.per)
  const [first, ...later] = stage.seconds
  const warm = (later.length > 0 ? later : [first]).map(inUnit)
  // A card's 8-bit and f32 rates are not measured: what needs them has no floor.
  const best = stage.peaks ?? peaks
  const least = stage.cost === null || best === undefined ? Number.NaN : floorSeconds(stage.cost, mode, best)
  const floor = Number.isFinite(least) ? inUnit(least) : null
  return {
    ...withFloor(name, quantile(warm, 0.5), stage.unit, floor),
    ...spread(warm),
    runs: warm.length,
    cold: inUnit(first),
  }
}

/** A row of a C++ bench, `kernel` or `train`, which holds it against the peaks that it measured around it. */
export const nativeRow = (bench, row) => ({ ...row, name: `${bench}_${row.name}` })

const snake = (name) => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)

/** Rows of bench/scenes.mjs: milliseconds, for which the machine's peaks say nothing. */
export function sceneRows({ medianMs, lateMs, guesses }) {
  const told = [
    ...Object.entries(medianMs).map(([name, ms]) => [snake(name), ms]),
    ['timer_late_p99', lateMs.p99],
    ...guesses.map(({ speculate, ms }) => [`token_guessing_${speculate}`, ms]),
  ]
  const measured = told.filter(([, ms]) => ms > 0)
  return measured.map(([name, value]) => ({ name: `scene_${name}`, value, unit: 'ms', floor: null, share: null }))
}

/** Rows of bench/serve.mjs: a question by the library and over HTTP, and how long the event loop was held. */
export function serveRows({ medianMs, loop }) {
  const told = [
    ...Object.entries(medianMs).map(([name, value]) => [`question_${name}`, value]),
    ['loop_late_p99', loop.late.p99],
    ['loop_own_p99', loop.own.p99],
  ]
  return told.map(([name, value]) => ({ name: `serve_${name}`, value, unit: 'ms', floor: null, share: null }))
}

/** A row that has no value, and why. */
export const skippedRow = (name, unit, reason) => ({
  name,
  value: null,
  unit,
  floor: null,
  share: null,
  skipped: reason,
})

function withFloor(name, value, unit, floor) {
  return { name, value, unit, floor, share: floor === null ? null : betterBy(value, floor, unit) }
}

const spread = (samples) => ({ p10: quantile(samples, 0.1), p90: quantile(samples, 0.9) })

// What the machine can do at most, by drivlm_peaks (peaks.cpp).
import { runJson } from './native.mjs'

const names = ['bf16_gflops', 'u8s8_gops', 'f32_gflops', 'read_gbs']

/** All peaks, each arithmetic one for about so many seconds. */
export const measurePeaks = (program, threads, seconds) =>
  runJson(program, ['--threads', String(threads), '--seconds', String(seconds)])

/** What reading from memory gives at this moment, in a tenth of a second: the best of two passes over 512 MiB. */
export const measureReading = (program, threads) =>
  runJson(program, ['read', '--threads', String(threads), '--rounds', '2']).read_gbs

/** The best of several runs, by name; names that no run has are left out. */
export function betterPeaks(runs) {
  const known = names.filter((name) => runs[0]?.[name] !== undefined)
  return Object.fromEntries(known.map((name) => [name, Math.max(...runs.map((run) => run[name]))]))
}

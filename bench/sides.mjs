// What bench/side-by-side.mjs compares and against what: groups of stages, rows with their goals, and the numbers that come of rounds.
import { readFileSync } from 'node:fs'
import { betterBy, isRate, quantile } from './statistics.mjs'

/**
 * A group is what is timed in turn, one side after the other: `stages` of a build loaded with `load`, and formats of the peer. `only` names the
 * one side of a group that no other side has.
 */
export const groups = [
  {
    name: 'int8',
    load: { weights: 'int8', activations: 'int8' },
    stages: ['vit_tile', 'first_token_13', 'prefill_3328', 'decode_3500', 'decode_0'],
    peer: ['q8_0'],
  },
  { name: 'bf16', load: {}, stages: ['vit_tile', 'prefill_3328', 'decode_3500', 'decode_0'], peer: ['f16', 'bf16'] },
  {
    name: 'int4',
    load: { weights: 'int4' },
    stages: ['vit_tile', 'prefill_3328', 'decode_3500', 'decode_0'],
    peer: ['q4_0'],
  },
  { name: 'questions', load: {}, stages: ['ask_all_20'], peer: [] },
  { name: 'load_bf16', load: {}, stages: ['load'], peer: [] },
  { name: 'load_int8', load: { weights: 'int8' }, stages: ['load'], peer: [] },
  { name: 'load_int4', load: { weights: 'int4' }, stages: ['load'], peer: [] },
  { name: 'cache_bf16', load: { cache: true }, stages: ['load_cached'], peer: [] },
  { name: 'cache_int8', load: { weights: 'int8', cache: true }, stages: ['load_cached'], peer: [] },
  { name: 'cache_int4', load: { weights: 'int4', cache: true }, stages: ['load_cached'], peer: [] },
  {
    name: 'kv_bf16',
    load: { weights: 'int4' },
    stages: ['decode_3400', 'kv_bytes'],
    peer: [],
    model: '4b',
    only: 'new',
  },
  {
    name: 'kv_int8',
    load: { weights: 'int4', kvCache: 'int8' },
    stages: ['decode_3400', 'kv_bytes'],
    peer: [],
    model: '4b',
    only: 'new',
  },
]

/** A row: a value of the new build beside another value, both `[side, group, stage]`, and the goal in `times` or as a `value`. */
const row = (title, stage, beside, goal) => ({ title, of: ['new', ...stage], beside, goal })
const old = (group, stage, title, times) =>
  row(title, [group, stage], ['old', group, stage], times === undefined ? undefined : { times })
const peer = (group, stage, format, other, title, times) =>
  row(title, [group, stage], ['peer', other, `${stage}_${format}`], times === undefined ? undefined : { times })

/** Goals in `times` are of times at most, of rates at least, as in "0.78 × the time" and "1.25 × the rate". */
export const rows = [
  old('int8', 'first_token_13', '13 tiles to the first word, 8 bits', 0.78),
  old('int8', 'vit_tile', 'ViT tile, 8 bits', 0.8),
  old('int8', 'prefill_3328', 'prefill of 3,328 tokens, 8 bits', 1.25),
  old('questions', 'step_20', 'a step of askAll with 20 questions, bf16', 0.5),
  old('questions', 'first_20', 'first text of 20 questions, bf16', 0.5),
  old('int8', 'decode_0', 'decode at 0, int8', 1.6),
  old('int8', 'decode_3500', 'decode at 3,500, int8', 1.6),
  old('int4', 'decode_0', 'decode at 0, int4', 1.4),
  old('int4', 'decode_3500', 'decode at 3,500, int4', 1.4),
  peer('bf16', 'decode_0', 'bf16', 'bf16', 'decode at 0, bf16, beside the peer in bf16', 1.15),
  peer('bf16', 'decode_0', 'f16', 'bf16', 'decode at 0, bf16, beside the peer in f16', 1.15),
  peer('bf16', 'vit_tile', 'f16', 'bf16', 'ViT tile, bf16, beside the peer in f16', 1 / 1.6),
  row('load to ready, bf16', ['load_bf16', 'load'], ['peer', 'bf16', 'load_bf16'], { times: 0.8 }),
  row('load to ready, int8', ['load_int8', 'load'], ['peer', 'int8', 'load_q8_0'], { times: 0.8 }),
  row('load to ready, int4', ['load_int4', 'load'], ['peer', 'int4', 'load_q4_0'], { times: 0.8 }),
  ...['bf16', 'int8', 'int4'].map((format) => {
    const [group, stage] = [`cache_${format}`, 'load_cached']
    return row(`load from the cache, ${format}`, [group, stage], ['old', group, stage], { value: 0.25 })
  }),
  row('prefill of 3,328, int4, beside bf16', ['int4', 'prefill_3328'], ['new', 'bf16', 'prefill_3328'], { times: 1.3 }),
  row('decode at 3,400, 8-bit KV cache, 4B', ['kv_int8', 'decode_3400'], ['new', 'kv_bf16', 'decode_3400'], {
    times: 1.25,
  }),
  row('bytes of the 8-bit KV cache, 4B', ['kv_int8', 'kv_bytes'], ['new', 'kv_bf16', 'kv_bytes'], { times: 0.55 }),
  // No goal: what else the same runs say.
  old('int4', 'vit_tile', 'ViT tile, int4'),
  old('int4', 'prefill_3328', 'prefill of 3,328 tokens, int4'),
  old('bf16', 'vit_tile', 'ViT tile, bf16'),
  old('bf16', 'prefill_3328', 'prefill of 3,328 tokens, bf16'),
  old('bf16', 'decode_0', 'decode at 0, bf16'),
  old('bf16', 'decode_3500', 'decode at 3,500, bf16'),
  old('questions', 'first_token_13', '13 tiles to the first word, bf16'),
  ...['bf16', 'int8', 'int4'].map((format) =>
    old(`load_${format}`, 'load', `load to ready, ${format}, beside the old`),
  ),
  peer('bf16', 'prefill_3328', 'bf16', 'bf16', 'prefill of 3,328, bf16, beside the peer'),
  peer('int8', 'prefill_3328', 'q8_0', 'int8', 'prefill of 3,328, 8 bits, beside the peer in q8_0'),
  peer('int4', 'prefill_3328', 'q4_0', 'int4', 'prefill of 3,328, int4, beside the peer in q4_0'),
  peer('bf16', 'decode_3500', 'bf16', 'bf16', 'decode at 3,500, bf16, beside the peer'),
  ...['0', '3500'].flatMap((context) => [
    peer('int8', `decode_${context}`, 'q8_0', 'int8', `decode at ${context}, int8, beside the peer in q8_0`),
    peer('int4', `decode_${context}`, 'q4_0', 'int4', `decode at ${context}, int4, beside the peer in q4_0`),
  ]),
]

const median = (values) => quantile(values, 0.5)

/**
 * Values of kept rounds as rows: medians, and the ratio of the new value to the other one in each round, of which the median counts.
 *
 * @param rounds - `[{ group, round, turns: { new: { stage: { value, unit } }, … } }]`.
 */
export function summarise(rounds) {
  const values = (side, group, stage) =>
    new Map(
      rounds
        .filter((one) => one.group === group && one.turns[side]?.[stage] !== undefined)
        .map((one) => [one.round, one.turns[side][stage]]),
    )
  return rows.flatMap(({ title, of, beside, goal }) => {
    const [mine, others] = [values(...of), values(...beside)]
    if (mine.size === 0) return []
    const { unit } = [...mine.values()][0]
    const all = (found) => [...found.values()].map(({ value }) => value)
    const ratios = [...mine]
      .filter(([round]) => others.has(round))
      .map(([round, { value }]) => value / others.get(round).value)
    const ratio = ratios.length === 0 ? null : median(ratios)
    const value = median(all(mine))
    return [
      {
        row: title,
        unit,
        new: value,
        beside: {
          side: beside[0],
          row: beside.slice(1).join(' '),
          value: others.size === 0 ? null : median(all(others)),
        },
        ratio,
        ratios,
        ...(goal === undefined ? {} : { goal, reached: reached(goal, value, ratio, unit) }),
      },
    ]
  })
}

/** Whether a goal is reached; null where there was nothing to compare with. */
function reached(goal, value, ratio, unit) {
  if (goal.value !== undefined) return betterBy(value, goal.value, unit) >= 1
  if (ratio === null) return null
  return isRate(unit) ? ratio >= goal.times : ratio <= goal.times
}

export function goalText(goal, unit) {
  if (goal === undefined) return ''
  const sign = isRate(unit) ? '>=' : '<='
  return goal.value === undefined ? `${sign} ${goal.times.toFixed(2)} x` : `${sign} ${goal.value} ${unit}`
}

/** Seconds of all processors that were not idle since start, what a virtual machine's host took included; undefined outside of Linux. */
export function busySeconds(read = () => readFileSync('/proc/stat', 'utf8')) {
  try {
    // user nice system idle iowait irq softirq steal, in ticks; guests are part of user.
    const ticks = read()
      .match(/^cpu +(.*)$/m)[1]
      .split(' ')
      .slice(0, 8)
      .map(Number)
    return (ticks.reduce((sum, one) => sum + one, 0) - ticks[3] - ticks[4]) / 100
  } catch {
    return undefined
  }
}

/** Processor seconds of this process and of all its children that have ended. */
export function ownSeconds(read = () => readFileSync('/proc/self/stat', 'utf8')) {
  try {
    // The name, in brackets, may have blanks; after it, utime stime cutime cstime are fields 14 to 17 of the line.
    const fields = read()
      .replace(/^.*\) /s, '')
      .split(' ')
    return fields.slice(11, 15).reduce((sum, one) => sum + Number(one), 0) / 100
  } catch {
    return undefined
  }
}

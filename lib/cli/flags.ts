/** Flags that commands have in common, and the reading of their values. */
import { type Command, InvalidArgumentError, Option } from 'commander'
import { ModelError } from '../errors.ts'
import { parseShard } from '../evaluate/questions/selection.ts'
import type { Model } from '../model.ts'
import { loadOptions, type OptionRow, type OptionTable } from '../option-tables.ts'
import { type LoadOptions, type OptionsOf, pickOptions } from '../options.ts'
import { printable } from './terminal.ts'

/** A whole number of at least `low`, and at most `high`. */
export function integer(low: number, high: number = Number.MAX_SAFE_INTEGER): (text: string) => number {
  return (text) => {
    const value = /^\d+$/.test(text) ? Number(text) : Number.NaN
    if (value >= low && value <= high) return value
    const most = high === Number.MAX_SAFE_INTEGER ? '' : ` and at most ${high}`
    throw new InvalidArgumentError(`Expected a whole number of at least ${low}${most}.`)
  }
}

export const port: (text: string) => number = integer(0, 65_535)

export function decimal(text: string): number {
  const value = /^\d*\.?\d+(e-?\d+)?$/.test(text) ? Number(text) : Number.NaN
  if (Number.isFinite(value)) return value
  throw new InvalidArgumentError('Expected a number such as 0.7 or 1e-5.')
}

/** `0,1`: whole numbers. */
export function integers(text: string): number[] {
  if (/^\d{1,6}(,\d{1,6})*$/.test(text)) return text.split(',').map(Number)
  throw new InvalidArgumentError('Expected whole numbers such as 0,1.')
}

/** `0.5`, `0.5s` or `500ms`: seconds. */
export function seconds(text: string): number {
  const [, value, unit] = /^(.*?)(ms|s)?$/s.exec(text)!
  return decimal(value!) / (unit === 'ms' ? 1000 : 1)
}

/** A time of a log: seconds from its beginning, or a stamp of 13 or more digits, in ns. */
export function logTime(text: string): number | bigint {
  return /^\d{13,19}$/.test(text) ? BigInt(text) : seconds(text)
}

/** `12.5,14`: times of a log. */
export function logTimes(text: string): (number | bigint)[] {
  return text.split(',').map(logTime)
}

/**
 * The shard of a Kubernetes indexed job (`JOB_COMPLETION_INDEX`, from 0) or of a Slurm array (`SLURM_ARRAY_TASK_ID`, from
 * `SLURM_ARRAY_TASK_MIN` by `SLURM_ARRAY_TASK_STEP`), where `DRIVLM_SHARDS` or `SLURM_ARRAY_TASK_COUNT` says how many there are; undefined outside
 * of both.
 *
 * @throws {@link ModelError} `BAD_ARGUMENT` if the number is there and the count is not, or they do not fit: an array that was submitted again for
 *   some of its tasks does not say which shards these are.
 */
export function shardOfEnvironment(env: NodeJS.ProcessEnv = process.env): { index: number; count: number } | undefined {
  const { DRIVLM_SHARDS: wanted, JOB_COMPLETION_INDEX: completion, SLURM_ARRAY_TASK_ID: task } = env
  const bad = (why: string) => new ModelError('BAD_ARGUMENT', why)
  if (completion !== undefined) {
    if (wanted === undefined) throw bad(unknownCount(completion))
    return parseShard(`${Number(completion) + 1}/${wanted}`)
  }
  if (task === undefined) return undefined
  const { SLURM_ARRAY_TASK_COUNT: tasks, SLURM_ARRAY_TASK_MIN: first = '0', SLURM_ARRAY_TASK_STEP: step = '1' } = env
  const count = wanted ?? tasks
  if (count === undefined) throw bad(unknownCount(task))
  const index = (Number(task) - Number(first)) / Number(step) + 1
  const whole = Number.isInteger(index) && index <= Number(count) && Number(count) === Number(tasks ?? count)
  if (whole && (Number(count) > 1 || Number(task) <= 1)) return parseShard(`${index}/${count}`)
  throw bad(
    `Task ${task} of this array of ${tasks ?? count} may be one of a larger array; say which part it is: --shard i/n.`,
  )
}

function unknownCount(task: string): string {
  return `This is task ${task} of an array; set DRIVLM_SHARDS to how many there are, or give --shard i/n.`
}

/** `2/4` */
export function shard(text: string): { index: number; count: number } {
  try {
    return parseShard(text)
  } catch (error) {
    throw new InvalidArgumentError((error as Error).message)
  }
}

/** Collects a flag that may be given several times. */
export function list(value: string, before: string[] | undefined): string[] {
  return [...(before ?? []), value]
}

/** A flag whose value stands under the name of its option: `--max-tiles` is `maxTilesPerImage`. */
class OptionOf extends Option {
  readonly option: string

  constructor(option: string, { flag, kind, low = 0, of, default: usual }: OptionRow, preset?: string | number) {
    const shown = preset ?? usual
    super(flag!.name, kind === 'boolean' || shown === undefined ? flag!.help : `${flag!.help} (default: ${shown})`)
    this.option = option
    if (kind === 'integer') this.argParser(integer(low))
    else if (kind === 'number') this.argParser(decimal)
    else if (kind === 'stop') this.argParser(list)
    else if (kind === 'choice') this.choices(of!.map(String))
  }

  override attributeName(): string {
    return this.option
  }
}

/**
 * Adds the flags that the options of a table have on this command.
 *
 * @param presets - What this command takes in place of an option's own default.
 */
export function addFlags(
  command: Command,
  table: OptionTable,
  presets: Readonly<Record<string, string | number>> = {},
): Command {
  for (const [name, row] of Object.entries(table)) {
    if (row.flag?.on.includes(command.name())) command.addOption(new OptionOf(name, row, presets[name]))
  }
  return command
}

/** Flags of commands that load a model. */
export interface LoadFlags extends LoadOptions {
  yes?: boolean
}

export function addLoadFlags(command: Command): Command {
  return addFlags(command, loadOptions).option('--yes', 'fetch a model that is given by name without asking')
}

/** The options of a table that have a flag, from the flags of a command. */
export function optionsFrom<Table extends OptionTable>(table: Table, flags: OptionsOf<Table>): OptionsOf<Table> {
  return pickOptions(flags, Object.fromEntries(Object.entries(table).filter(([, { flag }]) => flag)) as Table)
}

/** Says on stderr why the weights could not be kept, as `--cache` asked. */
export function noteCache({ info: { cache } }: Pick<Model, 'info'>): void {
  if (cache?.state === 'none') process.stderr.write(`The weights could not be kept. ${printable(cache.reason ?? '')}\n`)
}

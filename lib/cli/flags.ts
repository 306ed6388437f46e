/** Flags that commands have in common, and the reading of their values. */
import os from 'node:os'
import { type Command, InvalidArgumentError, Option } from 'commander'
import { ModelError } from '../errors.ts'
import { parseShard } from '../evaluate/questions/selection.ts'
import type { Model } from '../model.ts'
import type { LoadOptions } from '../options.ts'
import { printable } from './terminal.ts'

/** A whole number of at least `low`. */
export function integer(low: number): (text: string) => number {
  return (text) => {
    const value = /^\d+$/.test(text) ? Number(text) : Number.NaN
    if (Number.isSafeInteger(value) && value >= low) return value
    throw new InvalidArgumentError(`Expected a whole number of at least ${low}.`)
  }
}

export function decimal(text: string): number {
  const value = /^\d*\.?\d+$/.test(text) ? Number(text) : Number.NaN
  if (Number.isFinite(value)) return value
  throw new InvalidArgumentError('Expected a number such as 0.7.')
}

/** `0,1`: whole numbers. */
export function integers(text: string): number[] {
  if (/^\d{1,6}(,\d{1,6})*$/.test(text)) return text.split(',').map(Number)
  throw new InvalidArgumentError('Expected whole numbers such as 0,1.')
}

/** `12.5,14`: numbers. */
export function decimals(text: string): number[] {
  return text.split(',').map(decimal)
}

/**
 * The shard of a Kubernetes indexed job (`JOB_COMPLETION_INDEX`, from 0) or of a Slurm array (`SLURM_ARRAY_TASK_ID`, from
 * `SLURM_ARRAY_TASK_MIN`), where `DRIVLM_SHARDS` or `SLURM_ARRAY_TASK_COUNT` says how many there are; undefined outside of both.
 *
 * @throws {@link ModelError} `BAD_ARGUMENT` if the number is there and the count is not, or they do not fit.
 */
export function shardOfEnvironment(env: NodeJS.ProcessEnv = process.env): { index: number; count: number } | undefined {
  const slurm = env.SLURM_ARRAY_TASK_ID
  const index = env.JOB_COMPLETION_INDEX ?? slurm
  if (index === undefined) return undefined
  const first = env.JOB_COMPLETION_INDEX === undefined ? (env.SLURM_ARRAY_TASK_MIN ?? '0') : '0'
  const count = env.DRIVLM_SHARDS ?? (slurm === undefined ? undefined : env.SLURM_ARRAY_TASK_COUNT)
  if (count === undefined) {
    throw new ModelError(
      'BAD_ARGUMENT',
      `This is task ${index} of an array; set DRIVLM_SHARDS to how many there are, or give --shard i/n.`,
    )
  }
  return parseShard(`${Number(index) - Number(first) + 1}/${count}`)
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

export interface LoadFlags {
  device?: string
  precision?: 'bf16' | 'f32'
  weights?: 'bf16' | 'int8' | 'int4'
  activations?: 'bf16' | 'int8'
  cache?: boolean
  threads?: number
  maxContext?: number
  yes?: boolean
}

export function addLoadFlags(command: Command): Command {
  return command
    .option('--device <name>', 'auto, cpu, cuda or cuda:N (default: auto)')
    .addOption(
      new Option('--precision <type>', 'bf16 or f32; f32 is for the CPU (default: bf16)').choices(['bf16', 'f32']),
    )
    .addOption(
      new Option('--weights <type>', 'bf16, int8 or int4, on the CPU (default: bf16)').choices([
        'bf16',
        'int8',
        'int4',
      ]),
    )
    .addOption(
      new Option('--activations <type>', 'bf16, or int8 beside weights in 8 bits (default: bf16)').choices([
        'bf16',
        'int8',
      ]),
    )
    .option('--cache', 'keep weights in 8 or 4 bits in the model folder, for later loads')
    .option('--threads <n>', `threads on the CPU (default: ${os.availableParallelism()}, all)`, integer(1))
    .option('--max-context <tokens>', 'longest sequence: views, question and answer', integer(16))
    .option('--yes', 'fetch a model that is given by name without asking')
}

/** Says on stderr why the weights could not be kept, as `--cache` asked. */
export function noteCache({ info: { cache } }: Pick<Model, 'info'>): void {
  if (cache?.state === 'none') process.stderr.write(`The weights could not be kept. ${printable(cache.reason ?? '')}\n`)
}

export function loadOptions(flags: LoadFlags): LoadOptions {
  const { device, precision, weights, activations, cache, threads, maxContext } = flags
  // loadModel checks the device's name and says what it may be.
  return { device: device as LoadOptions['device'], precision, weights, activations, cache, threads, maxContext }
}

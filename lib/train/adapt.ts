/** A run of training, from a checkpoint's folder and packs to an adapted checkpoint's folder. Nothing is lost when it ends early. */
import { createHash } from 'node:crypto'
import { readdir, readFile, rm, statfs } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { getSystemErrorName } from 'node:util'
import { type Checkpoint, readCheckpoint } from '../checkpoint/load-checkpoint.ts'
import { ModelError } from '../errors.ts'
import { lockFolder } from '../folder-lock.ts'
import { describeValue } from '../messages.ts'
import { loadAddon, toModelError } from '../native.ts'
import type { NativeTrainer, NativeTrainOptions } from '../native-training.ts'
import { abortError, throwIfAborted } from '../options.ts'
import { cannotWrite, renameFolder } from '../whole-file.ts'
import { hashesOf, recordFile, writeCheckpointFolder } from './checkpoint-folder.ts'
import { keepsTower, memoryOfTraining, refuseWhatCannotFit } from './plan.ts'
import { RunFolder, type RunOf, type StepRecord } from './run-folder.ts'
import { nativeOptions, partsOf, settingsOf, updateOf } from './settings.ts'
import {
  type AdaptOptions,
  type AdaptSettings,
  type AdaptStep,
  type PackSource,
  publishedSettings,
  type TrainingPack,
} from './types.ts'

const ownKeys = [
  'data',
  'out',
  'threads',
  'saveEvery',
  'memoryBytes',
  'towerCacheBytes',
  'checkpoints',
  'finish',
  'signal',
]
const usualSaveEvery = 100
const namesShown = 6

/**
 * Adapts a checkpoint to data: every parameter is trained, unless `train` says less.
 *
 * Nothing happens before the first step is asked for, or {@link Adaptation.folder}. The work is done on a thread of its own; between two
 * calls of `next` it rests. The weights at the end are the same, bit for bit, for any number of threads, and however often the run was
 * aborted or killed and called again.
 *
 * @param dir - The folder to start from, as {@link loadModel} takes it.
 *
 * @example
 * const start = 'models/Mini-InternVL2-1B-DA-DriveLM'
 * const data = await openTrainingData(start, { data: 'street/drivelm.json' })
 * const run = adapt(start, { data, out: 'models/street-1B', learningRate: 2e-5 })
 * for await (const { step, steps, loss } of run) console.error(`${step + 1}/${steps} ${loss.toFixed(3)}`)
 * const model = await loadModel(await run.folder)
 */
export function adapt(dir: string, options: AdaptOptions): Adaptation {
  return new Adaptation(run(dir, options, lockFolder))
}

/** {@link adapt} for who holds the lock of the run's folder. */
export function adaptLocked(dir: string, options: AdaptOptions): Adaptation {
  return new Adaptation(run(dir, options, async () => async () => undefined))
}

/**
 * The updates of a run, as they are done. Leaving the loop (`break`) saves the state and ends; the same call goes on later.
 */
export class Adaptation implements AsyncIterableIterator<AdaptStep> {
  readonly #steps: AsyncGenerator<AdaptStep, string, undefined>
  readonly #folder: Promise<string>
  #settle!: { resolve: (folder: string) => void; reject: (error: unknown) => void }

  /** Adaptations come from {@link adapt}. */
  constructor(steps: AsyncGenerator<AdaptStep, string, undefined>) {
    this.#steps = steps
    this.#folder = new Promise((resolve, reject) => {
      this.#settle = { resolve, reject }
    })
    this.#folder.catch(() => undefined) // who never asks for it has heard from the loop
  }

  /** The finished folder. Does the steps that nobody has asked for. After a `break` it rejects with `ABORTED`. */
  get folder(): Promise<string> {
    return this.#rest()
  }

  async #rest(): Promise<string> {
    for (;;) {
      const { done } = await this.next()
      if (done) return this.#folder
    }
  }

  /** Does a step; what `for await` calls. */
  async next(): Promise<IteratorResult<AdaptStep, undefined>> {
    try {
      const result = await this.#steps.next()
      if (!result.done) return result
      if (result.value !== undefined) this.#settle.resolve(result.value) // undefined: it had ended before
      return { done: true, value: undefined }
    } catch (error) {
      const known = toModelError(error)
      this.#settle.reject(known)
      throw known
    }
  }

  /** Saves and ends; what `break` calls. */
  async return(): Promise<IteratorResult<AdaptStep, undefined>> {
    try {
      await this.#steps.return('')
    } finally {
      this.#settle.reject(new ModelError('ABORTED', 'The run was left before its end; call adapt again to go on.'))
    }
    return { done: true, value: undefined }
  }

  [Symbol.asyncIterator](): this {
    return this
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.return()
  }
}

interface Run {
  checkpoint: Checkpoint
  settings: AdaptSettings
  data: PackSource
  out: string
  threads: number
  saveEvery: number
  memoryBytes: number | undefined
  towerCacheBytes: number | undefined
  checkpoints: AdaptOptions['checkpoints']
  finish: boolean
  signal: AbortSignal | undefined
}

async function* run(
  dir: string,
  options: AdaptOptions,
  lock: typeof lockFolder,
): AsyncGenerator<AdaptStep, string, undefined> {
  const settings = settingsOf(options)
  const { data, out, threads, saveEvery, memoryBytes, towerCacheBytes, checkpoints, finish, signal } =
    ownOptions(options)
  throwIfAborted(signal)
  const checkpoint = await readCheckpoint(dir)
  partsOf(settings, checkpoint.network) // throws
  const folder = new RunFolder(out)
  const unlock = await lock(folder.dir)
  try {
    const hashes = await hashesOf(checkpoint)
    const start = createHash('sha256').update(JSON.stringify(hashes)).digest('hex')
    const of: RunOf = { start, data: data.digest, steps: data.steps, settings: { ...settings } }
    const key = createHash('sha256')
      .update(JSON.stringify({ drivlm: 'adapt', version: 1, ...of }))
      .digest('hex')
    if (await isFinished(out, key)) {
      await folder.finish()
      return out
    }
    if (finish && !(await folder.hasState()))
      throw new ModelError('BAD_ARGUMENT', `${folder.dir} has no saved state that could be finished.`)
    const { network } = checkpoint
    const memory = memoryOfTraining(network, settings, data.bounds, memoryBytes)
    refuseWhatCannotFit(memory, network, settings, data.bounds)
    await folder.claim(of, key)
    const trainer = await loadAddon().train(
      {
        network,
        files: checkpoint.files,
        fileBytes: checkpoint.fileBytes,
        tensors: checkpoint.tensors,
      },
      {
        ...nativeOptions(settings, network, data.bounds, threads),
        ...(keepsTower(settings, data) ? await towerCacheOf(folder, start, settings.precision, towerCacheBytes) : {}),
      },
    )
    try {
      const write = (to: string, record: Record<string, unknown>) =>
        writeCheckpointFolder(checkpoint, trainer, to, {
          drivlm: loadAddon().version,
          start: { name: checkpoint.name, files: hashes },
          data: { digest: data.digest, ...data.summary },
          settings,
          ...record,
        })
      const look = async (updates: number): Promise<void> => {
        if (checkpoints === undefined || (updates % checkpoints.every !== 0 && updates !== data.steps)) return
        await write(folder.snapshotDir, { updates })
        await checkpoints.use(folder.snapshotDir, updates)
        await rm(folder.snapshotDir, { recursive: true, force: true })
      }
      const records = yield* steps(
        { checkpoint, settings, data, saveEvery, finish, signal, look },
        key,
        folder,
        trainer,
      )
      await write(folder.checkpointDir, { key, steps: records })
    } finally {
      await trainer.dispose()
    }
    await renameFolder(folder.checkpointDir, out).catch((error) => {
      throw cannotWrite(out, error)
    })
    await folder.finish()
    return out
  } finally {
    await folder.close()
    await unlock()
  }
}

/** Where what a frozen tower gives is kept. What is found there is of the same weights, and was computed in the same way to the last bit. */
async function towerCacheOf(
  { dir, towerFile }: RunFolder,
  start: string,
  precision: AdaptSettings['precision'],
  most: number | undefined,
): Promise<Pick<NativeTrainOptions, 'towerCache'>> {
  const bytes = most ?? (await freeBytes(dir)) / 2
  if (bytes === 0) return {}
  const { system, version } = loadAddon()
  const made = JSON.stringify({ drivlm: 'tower', version, start, precision, target: system().cpuTarget })
  const key = createHash('sha256').update(made).digest('hex')
  return { towerCache: { file: towerFile, key, bytes: Math.floor(bytes) } }
}

/** What to know where the disk had no room for what the tower gives. */
function towerLossOf(file: string, errno: number): string {
  return (
    `${file}: what the tower gives could not be written (${getSystemErrorName(-errno)}), and the file was removed. The run goes on, ` +
    'but each picture goes through the tower in each pass. Stop the run, make room there and run the same again, or give ' +
    '`towerCacheBytes` (`--tower-cache`) less.'
  )
}

async function freeBytes(dir: string): Promise<number> {
  const { bavail, bsize } = await statfs(dir)
  return bavail * bsize
}

interface Steps extends Pick<Run, 'checkpoint' | 'settings' | 'data' | 'saveEvery' | 'finish' | 'signal'> {
  /** Lets others look at the weights after so many updates, if they want to. */
  look: (updates: number) => Promise<void>
}

/** The updates that are left to do. Whoever leaves between two of them, by whatever way, leaves a saved state. */
async function* steps(
  { checkpoint, settings, data, saveEvery, finish, signal, look }: Steps,
  key: string,
  folder: RunFolder,
  trainer: NativeTrainer,
): AsyncGenerator<AdaptStep, StepRecord[], undefined> {
  const begun = (await folder.hasState()) ? await trainer.restore(folder.stateFile, key) : 0
  const records = await folder.openLog(begun)
  let saved = begun
  let done = begun
  const save = async () => {
    if (saved === done) return
    await folder.syncLog()
    await trainer.save(folder.stateFile, key)
    saved = done
  }
  const tileBytes = 3 * checkpoint.network.vision.tileSize ** 2
  if (begun > 0) await look(begun)
  if (finish) return records
  const since = performance.now()
  let whole = true // no update is half done
  let towerLost = false
  try {
    for (let step = begun; step < data.steps; step++) {
      const started = performance.now()
      const packs = await data.packsOfStep(step, signal)
      const dataMs = performance.now() - started
      const before = await trainer.encodedTiles()
      const loss = await learn(trainer, packs, signal)
      const encodedTiles = (await trainer.encodedTiles()) - before
      const lost: number = towerLost ? 0 : await trainer.towerCacheError()
      if (lost !== 0) {
        towerLost = true
        process.emitWarning(towerLossOf(folder.towerFile, lost), 'DrivlmWarning')
      }
      const update = updateOf(settings, step, data.steps)
      whole = false
      const gradientNorm = await trainer.update(update)
      whole = true
      if (!Number.isFinite(gradientNorm))
        throw noNumber(`the norm of the gradients of update ${step}`, gradientNorm, packs)
      done = step + 1
      const { learningRate, visionLearningRate } = update
      const record = {
        step,
        loss,
        gradientNorm,
        learningRate,
        visionLearningRate,
        ...countsOf(packs, tileBytes),
      }
      records.push(record)
      await folder.log(record)
      if (done % saveEvery === 0 || done === data.steps) await save()
      const now = performance.now()
      const seconds = (now - started) / 1000
      await look(done)
      yield {
        ...record,
        steps: data.steps,
        encodedTiles,
        dataMs,
        stepMs: now - started,
        tokensPerSecond: record.tokens / seconds,
        questionsPerSecond: record.questions / seconds,
        secondsLeft: ((now - since) / 1000 / (done - begun)) * (data.steps - done),
        saved: saved === done,
      }
    }
    return records
  } finally {
    if (whole) await save()
  }
}

/** Adds the gradients of an update's packs; its loss. */
async function learn(
  trainer: NativeTrainer,
  packs: readonly TrainingPack[],
  signal: AbortSignal | undefined,
): Promise<number> {
  let sum = 0
  for (const pack of packs) {
    if (signal?.aborted) throw abortError(signal)
    const loss = await trainer.learn(pack)
    if (!Number.isFinite(loss)) throw noNumber('the loss', loss, [pack])
    sum += loss
  }
  if (signal?.aborted) throw abortError(signal)
  return sum
}

function countsOf(
  packs: readonly TrainingPack[],
  tileBytes: number,
): Pick<StepRecord, 'tokens' | 'targets' | 'tiles' | 'questions'> {
  const sum = (count: (pack: TrainingPack) => number) => packs.reduce((total, pack) => total + count(pack), 0)
  return {
    tokens: sum(({ ids }) => ids.length),
    targets: sum(({ targets }) => targets.rows.length),
    tiles: sum(({ tiles }) => (tiles?.length ?? 0) / tileBytes),
    questions: sum(({ questions }) => questions),
  }
}

function noNumber(what: string, value: number, packs: readonly TrainingPack[]): ModelError {
  const names = packs.flatMap((pack) => pack.names)
  const shown = names.slice(0, namesShown).join(', ')
  const more = names.length > namesShown ? ` and ${names.length - namesShown} more` : ''
  return new ModelError(
    'BAD_DATA',
    `Training stopped before an update, because ${what} is ${value}. The samples: ${shown}${more}. The last state is kept; look at these samples, or train with a smaller learningRate.`,
  )
}

function ownOptions(options: AdaptOptions): Omit<Run, 'checkpoint' | 'settings'> {
  const known = [...Object.keys(publishedSettings), ...ownKeys]
  const unknown = Object.keys(options).find((key) => !known.includes(key))
  if (unknown !== undefined)
    throw new ModelError('BAD_ARGUMENT', `options.${unknown} is unknown; known are ${known.join(', ')}.`)
  const { data, out, threads = os.availableParallelism(), saveEvery = usualSaveEvery, checkpoints, signal } = options
  const { finish = false, memoryBytes, towerCacheBytes } = options
  const bad = (expected: string, key: string, value: unknown) =>
    new ModelError('BAD_ARGUMENT', `Expected ${expected} for options.${key}, received ${describeValue(value)}.`)
  if (typeof data?.packsOfStep !== 'function' || !Number.isSafeInteger(data.steps) || data.steps < 1)
    throw bad('a source of packs with at least one step', 'data', data)
  if (typeof out !== 'string' || out === '') throw bad('the path of a folder', 'out', out)
  if (!Number.isInteger(threads) || threads < 1 || threads > 1024)
    throw bad('a whole number from 1 to 1024', 'threads', threads)
  if (!Number.isSafeInteger(saveEvery) || saveEvery < 1)
    throw bad('a whole number of at least 1', 'saveEvery', saveEvery)
  for (const [key, value] of Object.entries({ memoryBytes, towerCacheBytes }))
    if (value !== undefined && !(Number.isSafeInteger(value) && value >= 0))
      throw bad('a whole number of at least 0', key, value)
  if (checkpoints !== undefined && !(Number.isSafeInteger(checkpoints.every) && checkpoints.every >= 1))
    throw bad('a whole number of at least 1', 'checkpoints.every', checkpoints.every)
  if (typeof finish !== 'boolean') throw bad('true or false', 'finish', finish)
  return { data, out: path.resolve(out), threads, saveEvery, memoryBytes, towerCacheBytes, checkpoints, finish, signal }
}

/**
 * Whether the folder is already what this run makes.
 *
 * @throws {@link ModelError} `BAD_ARGUMENT` if it is something else.
 */
async function isFinished(out: string, key: string): Promise<boolean> {
  let names: string[]
  try {
    names = await readdir(out)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false
    throw new ModelError('BAD_ARGUMENT', `${out} cannot be an output folder: ${(error as Error).message}.`, {
      cause: error,
    })
  }
  if (names.length === 0) return false
  const text = await readFile(path.join(out, recordFile), 'utf8').catch(() => '{}')
  try {
    if ((JSON.parse(text) as { key?: unknown } | null)?.key === key) return true
  } catch {
    // no record of ours
  }
  throw new ModelError(
    'BAD_ARGUMENT',
    `${out} is not empty, and holds no result of this run. Choose another out; nothing was changed there.`,
  )
}

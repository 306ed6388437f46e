// The folder of a run that is going on: `OUT.run`, beside the folder that it is to become.
//
//   run.json       what the run is of; must be the same to go on
//   state          weights, moments, number of updates: train/state_file.h, replaced whole
//   tower          what a frozen tower gave, for the pictures that come again: train/tower_cache.h; nothing depends on it
//   steps.jsonl    a line an update; lines past the state are cut when the run goes on
//   snapshot/      a checkpoint of the weights between two updates, while somebody looks at it
//   checkpoint/    the finished folder, until it is renamed to OUT

import { open, readFile, rm, stat } from 'node:fs/promises'
import path from 'node:path'
import { ModelError } from '../errors.ts'
import { cannotWrite, makeFolder, writeWhole } from '../whole-file.ts'

/** What the weights at the end follow from. */
export interface RunOf {
  /** SHA-256 of the checkpoint's files that are read. */
  start: string
  /** Of the data. */
  data: string
  steps: number
  settings: Record<string, unknown>
}

/** A line of steps.jsonl. */
export interface StepRecord {
  step: number
  loss: number
  gradientNorm: number
  learningRate: number
  visionLearningRate: number
  tokens: number
  targets: number
  tiles: number
  questions: number
}

export class RunFolder {
  readonly dir: string
  readonly stateFile: string
  readonly towerFile: string
  readonly logFile: string
  readonly checkpointDir: string
  readonly snapshotDir: string
  #log: Awaited<ReturnType<typeof open>> | undefined

  constructor(out: string) {
    this.dir = `${out}.run`
    this.stateFile = path.join(this.dir, 'state')
    this.towerFile = path.join(this.dir, 'tower')
    this.logFile = path.join(this.dir, 'steps.jsonl')
    this.checkpointDir = path.join(this.dir, 'checkpoint')
    this.snapshotDir = path.join(this.dir, 'snapshot')
  }

  /**
   * Begins a run here, or finds the one that is to go on.
   *
   * @throws {@link ModelError} `BAD_ARGUMENT` or `BAD_DATA` if what is here is another run, with what differs.
   */
  async claim(run: RunOf, key: string): Promise<void> {
    const file = path.join(this.dir, 'run.json')
    const text = await readFile(file, 'utf8').catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return undefined
      throw cannotWrite(file, error)
    })
    if (text === undefined) {
      for (const stale of [this.stateFile, this.towerFile, this.logFile])
        await rm(stale, { force: true }).catch((error) => {
          throw cannotWrite(stale, error)
        })
      await writeWhole(file, `${JSON.stringify({ drivlm: 'adapt-run', version: 1, key, ...run }, null, 1)}\n`)
      return
    }
    let found: Partial<RunOf> & { key?: unknown }
    try {
      found = JSON.parse(text)
    } catch (error) {
      throw new ModelError('BAD_DATA', `${file}: no JSON. Remove ${this.dir} to begin anew.`, { cause: error })
    }
    if (found?.key === key) return
    throw this.#otherRun(found ?? {}, run)
  }

  #otherRun(found: Partial<RunOf>, run: RunOf): ModelError {
    const advice = `Ask for the same, choose another out, or remove ${this.dir} to begin anew.`
    if (found.start !== run.start)
      return new ModelError('BAD_ARGUMENT', `${this.dir} has a run that began from another checkpoint. ${advice}`)
    if (found.data !== run.data || found.steps !== run.steps) {
      return new ModelError(
        'BAD_DATA',
        `${this.dir} has a run over other data: a file, or an option of the data, has changed since it began. ${advice}`,
      )
    }
    const differs = Object.keys(run.settings).find(
      (name) => JSON.stringify(found.settings?.[name]) !== JSON.stringify(run.settings[name]),
    )
    const what = differs === undefined ? 'by another version of this package' : `with another ${differs}`
    return new ModelError('BAD_ARGUMENT', `${this.dir} has a run ${what}. ${advice}`)
  }

  async hasState(): Promise<boolean> {
    return stat(this.stateFile).then(
      () => true,
      () => false,
    )
  }

  /** Opens the log for the update `step`: what stands there of it and of later ones is cut off. Gives the lines before. */
  async openLog(step: number): Promise<StepRecord[]> {
    const text = await readFile(this.logFile, 'utf8').catch(() => '')
    const records: StepRecord[] = []
    let kept = 0
    for (let from = 0; ; ) {
      const end = text.indexOf('\n', from)
      if (end < 0) break
      const record = recordOf(text.slice(from, end))
      if (record === undefined || record.step >= step) break
      records.push(record)
      from = end + 1
      kept = from
    }
    try {
      await makeFolder(this.dir)
      this.#log = await open(this.logFile, 'a')
      await this.#log.truncate(Buffer.byteLength(text.slice(0, kept)))
    } catch (error) {
      throw cannotWrite(this.logFile, error)
    }
    return records
  }

  async log(record: StepRecord): Promise<void> {
    try {
      await this.#log!.appendFile(`${JSON.stringify(record)}\n`)
    } catch (error) {
      throw cannotWrite(this.logFile, error)
    }
  }

  async syncLog(): Promise<void> {
    await this.#log?.sync().catch((error) => {
      throw cannotWrite(this.logFile, error)
    })
  }

  async close(): Promise<void> {
    await this.#log?.close()
    this.#log = undefined
  }

  /** The run is over: its log stays. */
  async finish(): Promise<void> {
    await this.close()
    await rm(this.snapshotDir, { recursive: true, force: true })
    for (const file of [this.stateFile, this.towerFile]) await rm(file, { force: true })
    await rm(path.join(this.dir, 'run.json'), { force: true })
  }
}

function recordOf(line: string): StepRecord | undefined {
  try {
    const record = JSON.parse(line) as StepRecord | null
    return Number.isSafeInteger(record?.step) ? (record as StepRecord) : undefined
  } catch {
    return undefined
  }
}

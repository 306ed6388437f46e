// Asks a model all questions of a file. The model is an interface here: anything that sees pictures and answers.
//
// All questions of a moment go through one scene, so the pictures are encoded once. Answers go to a journal as they come; after
// a kill, the same call goes on where it was and writes the same bytes.

import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { rm } from 'node:fs/promises'
import path from 'node:path'
import { ModelError } from '../../errors.ts'
import { lockFolder } from '../../folder-lock.ts'
import { Listener } from '../../listener.ts'
import { describeValue, isRecord } from '../../messages.ts'
import { writeWhole } from '../../whole-file.ts'
import type { LeftOut, ReadOptions } from '../questions/frames.ts'
import { questionFileForm, readMoments } from '../questions/question-files.ts'
import {
  type NumberedQuestion,
  type PlannedMoment,
  resolveViews,
  type Selection,
  selectQuestions,
} from '../questions/selection.ts'
import { Journal, type JournalEntry, type RunIdentity, type SyncPolicy } from './journal.ts'
import { type EvalAskOptions, evalModel, isLoadedModel, type LoadedModel } from './loaded-model.ts'
import { type OutputFiles, type Submission, writeOutputs } from './outputs.ts'

/** An answer and what it cost. */
export interface EvalAnswer {
  /** What the model said. */
  text: string
  /** Milliseconds by stage. */
  timings?: Record<string, number>
}

/** A moment the model has seen. */
export interface EvalScene {
  /** `id`: of the question, as the file has it. */
  ask(question: string, options: { id: string; signal?: AbortSignal }): Promise<EvalAnswer>
  /** Gives the moment's memory back. */
  dispose(): void | Promise<void>
  /** Milliseconds by stage of seeing, counted to the first question. */
  timings?: Record<string, number>
}

/** What is evaluated. */
export interface EvalModel {
  /** `views`: paths by camera name, or `image` for a single picture. */
  see(views: Record<string, string>, options: { signal?: AbortSignal }): Promise<EvalScene>
}

/** Where a run stands. */
export interface EvalProgress {
  /** Questions answered by this and earlier runs. */
  done: number
  /** Questions that are selected. */
  total: number
  /** Of those done, answered by earlier runs. */
  resumed: number
  /** What was skipped by this run. */
  problems: number
  /** Since this run began. */
  seconds: number
  /** Of this run since its model was there; 0 until the first answer. */
  questionsPerSecond: number
  /** Null until there is a rate. */
  secondsLeft: number | null
}

export interface EvalOptions extends Selection {
  /** A question file; see {@link readMoments}. */
  data: string
  /** Folder the paths in the file are looked for in; the file's own by default. */
  images?: string | undefined
  /** Folder for `journal.jsonl`, `output.json` and `submission.json`. */
  out: string
  /** A model of `loadModel`, anything else that sees and answers, or how to get one: not called if nothing is left to ask. */
  model: EvalModel | LoadedModel | (() => Promise<EvalModel | LoadedModel>)
  /** How a model of `loadModel` is asked; kept in the journal and compared. */
  ask?: EvalAskOptions | undefined
  /** How `<image>` in a question is read; see {@link ReadOptions}. */
  text?: ReadOptions['text']
  /** Tells the model apart from others, so that a journal is not continued with another one. */
  modelId: string
  /** All else that answers depend on; kept in the journal and compared. */
  settings?: Record<string, unknown> | undefined
  /** Kept in the journal and compared. Default 0. */
  seed?: number | undefined
  /** Skip and list what cannot be read, seen or answered instead of stopping at it. */
  keepGoing?: boolean | undefined
  /** Questions of a moment asked at the same time, for models that decode them together. Default 1. */
  concurrency?: number | undefined
  /** When answers are waited for on disk. Default `moment`. */
  sync?: SyncPolicy | undefined
  /** Ends the run with `ABORTED`; what was answered stays in the journal, and the same call goes on from there. */
  signal?: AbortSignal | undefined
  /** Called at the start and after each answer. */
  onProgress?: ((progress: EvalProgress) => unknown) | undefined
  /** Puts a question into the model's form, e.g. pixel coordinates into those of the stitched picture. */
  toModel?: ((question: string) => string) | undefined
  /** The way back for answers. */
  fromModel?: ((answer: string) => string) | undefined
  /** Fields of `submission.json`. */
  submission?: Partial<Omit<Submission, 'results'>> | undefined
}

/** Something that was skipped with `keepGoing`. */
export interface EvalProblem {
  /** Question id, or key of a moment; empty if it concerns the file. */
  id: string
  /** The error's {@link ErrorCode}. */
  code: string
  /** The error's sentence. */
  message: string
}

/** What a run left. */
export interface EvalResult {
  /** Answers of the selected questions in file order. */
  entries: JournalEntry[]
  /** Questions that were selected. */
  total: number
  /** Of these, answered by earlier runs. */
  resumed: number
  /** What was skipped. */
  problems: EvalProblem[]
  /** What of the data no question needs, and how often it is there. */
  leftOut: LeftOutCount[]
  /** What this run took. */
  seconds: number
  /** Paths of what was written. */
  files: OutputFiles & { journal: string; problems: string }
}

/** A part of the data that no question needs. */
export interface LeftOutCount {
  /** Name of the part. */
  what: string
  /** How often it is there. */
  count: number
  /** Where it is first. */
  where: string
}

/** Counts what was left out, by what it is. */
export function leftOutCounts(): { add: (part: LeftOut) => void; list: () => LeftOutCount[] } {
  const counts = new Map<string, LeftOutCount>()
  return {
    add({ what, where }) {
      const known = counts.get(what)
      if (known) known.count++
      else counts.set(what, { what, count: 1, where })
    },
    list: () => [...counts.values()],
  }
}

/** After one of these there is no point in going on. */
const fatal = new Set(['ABORTED', 'DISPOSED', 'DEVICE_LOST', 'DEVICE_UNAVAILABLE', 'BAD_ARGUMENT'])

/**
 * Asks all selected questions and writes the answers in the challenge's form. Call it again after an interruption: it goes on
 * with what is not answered yet, and the outputs are the same byte for byte.
 *
 * @throws {@link ModelError} `BAD_DATA` for question files and journals, `BAD_VIEW` for a missing picture, `BAD_ARGUMENT` for an
 *   output folder another run writes to, `ABORTED`, and whatever the model throws. What was answered before stays in the journal.
 *
 * @example
 * const { files } = await runEval({ data: 'val.json', images: 'nuscenes', out: 'run', model, modelId: 'DA-1B' })
 */
export async function runEval(options: EvalOptions): Promise<EvalResult> {
  checkSelection(options)
  const started = performance.now()
  const { data, out, keepGoing = false, signal } = options
  const problems: EvalProblem[] = []
  let journal: Journal | undefined
  const skip = (id: string, error: unknown): void => {
    throwIfAborted(signal)
    if (journal?.failure) throw journal.failure
    const code = error instanceof ModelError ? error.code : 'INTERNAL'
    if (!keepGoing || fatal.has(code)) throw error
    problems.push({ id, code, message: (error as Error).message })
  }

  const listener = new Listener(options.onProgress)
  const leftOut = leftOutCounts()
  const moments = await survey(options, skip, leftOut.add)
  const files = {
    journal: path.join(out, 'journal.jsonl'),
    output: path.join(out, 'output.json'),
    submission: path.join(out, 'submission.json'),
    problems: path.join(out, 'problems.json'),
  }
  const unlock = await lockFolder(out)
  try {
    journal = await Journal.open(files.journal, await identity(options), options.sync)
    const { entries: given } = journal
    const total = moments.reduce((sum, { questions }) => sum + questions.length, 0)
    const isLeft = ({ question }: NumberedQuestion): boolean => !given.has(question.id)
    const resumed = total - moments.reduce((sum, { questions }) => sum + questions.filter(isLeft).length, 0)
    let answered = 0
    let asking = started
    const progress = (): void => {
      const now = performance.now()
      const questionsPerSecond = answered === 0 ? 0 : answered / ((now - asking) / 1000)
      const done = resumed + answered
      const secondsLeft = answered > 0 ? Math.max(0, total - done - problems.length) / questionsPerSecond : null
      listener.call({
        done,
        total,
        resumed,
        problems: problems.length,
        seconds: (now - started) / 1000,
        questionsPerSecond,
        secondsLeft,
      })
      listener.throwIfFailed()
    }
    progress()
    // Outputs say that a run is complete, so old ones go as soon as it is not.
    if (resumed < total) for (const file of [files.output, files.submission]) await rm(file, { force: true })

    // The challenge's files have an image mark before each question; plain lists do not.
    const mark = (await questionFileForm(data)) === 'jsonl' ? '' : '<image>\n'
    let model: EvalModel | undefined
    for (const moment of moments) {
      const left = moment.questions.filter(isLeft)
      if (left.length === 0) continue
      throwIfAborted(signal)
      if (model === undefined) {
        model = await modelOf(options)
        asking = performance.now()
      }
      try {
        const views = resolveViews(moment, options)
        await askAll(model, views, left, mark, journal, options, skip, () => {
          answered++
          progress()
        })
      } catch (error) {
        skip(moment.key, error)
      }
      await journal.momentDone()
    }

    const entries = moments
      .flatMap(({ questions }) => questions.map(({ question }) => given.get(question.id)))
      .filter((entry) => entry !== undefined)
    await listener.settled()
    listener.throwIfFailed()
    await writeOutputs(files, entries, options.submission)
    await writeWhole(files.problems, `${JSON.stringify(problems, null, 1)}\n`)
    return {
      entries,
      total,
      resumed,
      problems,
      leftOut: leftOut.list(),
      seconds: (performance.now() - started) / 1000,
      files,
    }
  } finally {
    await journal?.close()
    await unlock()
  }
}

async function askAll(
  model: EvalModel,
  views: Record<string, string>,
  questions: readonly NumberedQuestion[],
  mark: string,
  journal: Journal,
  { toModel, fromModel, signal, concurrency = 1 }: EvalOptions,
  skip: (id: string, error: unknown) => void,
  answered: () => void,
): Promise<void> {
  const signalled = signal ? { signal } : {}
  const scene = await model.see(views, signalled)
  try {
    let sceneTimings = scene.timings
    let stopped = false
    const queue = questions.values() // one iterator, shared by all who ask
    const work = async (): Promise<void> => {
      for (const { index, question } of queue) {
        if (stopped) return
        try {
          throwIfAborted(signal)
          const asked = toModel?.(question.text) ?? question.text
          const { text, timings } = answerOf(await scene.ask(asked, { id: question.id, ...signalled }))
          const answer = fromModel?.(text) ?? text
          const entry: JournalEntry = { index, id: question.id, question: mark + question.text, answer }
          if (answer !== text) entry.raw = text
          if (timings || sceneTimings) entry.timings = { ...sceneTimings, ...timings }
          sceneTimings = undefined // the pictures are paid for once
          await journal.append(entry)
          answered()
        } catch (error) {
          stopped = true
          skip(question.id, error)
          stopped = false
        }
      }
    }
    await settled(Array.from({ length: Math.max(1, concurrency) }, work))
  } finally {
    await scene.dispose()
  }
}

/** What a caller's own model gave: a journal of anything else could not be read again. */
function answerOf(given: unknown): EvalAnswer {
  if (isRecord(given) && typeof given.text === 'string') return given as unknown as EvalAnswer
  throw new ModelError(
    'BAD_ARGUMENT',
    `Expected { text } of the model's ask, a string, received ${describeValue(given)}.`,
  )
}

/** Waits for all, then throws the first error: nobody is still at work when the scene goes. */
async function settled(works: Promise<void>[]): Promise<void> {
  for (const outcome of await Promise.allSettled(works)) if (outcome.status === 'rejected') throw outcome.reason
}

function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw new ModelError('ABORTED', 'The evaluation was aborted; call it again to go on.')
}

/** Reads the whole file once: what is to be asked, and what is wrong with it before anything was paid for. */
async function survey(
  options: EvalOptions,
  skip: (id: string, error: unknown) => void,
  onLeftOut: (part: LeftOut) => void,
): Promise<PlannedMoment[]> {
  const onProblem = options.keepGoing ? (error: ModelError) => skip('', error) : undefined
  const moments: PlannedMoment[] = []
  for await (const planned of selectQuestions(
    readMoments(options.data, { onProblem, onLeftOut, text: options.text }),
    options,
  )) {
    try {
      resolveViews(planned, options)
      moments.push(planned)
    } catch (error) {
      skip(planned.key, error)
    }
  }
  return moments
}

async function modelOf({ model, ask, seed, text }: EvalOptions): Promise<EvalModel> {
  const given = typeof model === 'function' ? await model() : model
  return isLoadedModel(given) ? evalModel(given, { ...ask, seed, text }) : given
}

function checkSelection({ limit, shard, concurrency }: EvalOptions): void {
  const whole = (value: number | undefined, name: string): void => {
    if (value === undefined || (Number.isInteger(value) && value > 0)) return
    throw new ModelError('BAD_ARGUMENT', `Expected a positive whole number for ${name}, received ${value}.`)
  }
  whole(limit, 'limit')
  whole(concurrency, 'concurrency')
  whole(shard?.index, 'shard.index')
  whole(shard?.count, 'shard.count')
  if (shard && shard.index > shard.count) {
    throw new ModelError('BAD_ARGUMENT', `Expected a shard from 1 to ${shard.count}, received ${shard.index}.`)
  }
}

async function identity({
  data,
  modelId,
  ask = {},
  text,
  settings = {},
  seed = 0,
  shard,
}: EvalOptions): Promise<RunIdentity> {
  const hash = createHash('sha256')
  for await (const chunk of createReadStream(data)) hash.update(chunk as Buffer)
  const asked = { ...ask, text: text === 'literal' ? text : undefined }
  const given = Object.fromEntries(Object.entries(asked).filter(([, value]) => value !== undefined))
  const shardName = shard ? `${shard.index}/${shard.count}` : '1/1'
  return { data: hash.digest('hex'), model: modelId, settings: { ...given, ...settings }, seed, shard: shardName }
}

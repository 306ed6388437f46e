/** `drivlm annotate`: questions about the moments of a robot's log, and a log of answers to be opened beside it. */
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import path from 'node:path'
import { readCheckpoint } from '../checkpoint/load-checkpoint.ts'
import { ModelError } from '../errors.ts'
import { lockFile } from '../folder-lock.ts'
import { bundledModel, loadModel } from '../load-model.ts'
import { type AnsweredMoment, AnswerLog, jsonTimeOf, type MomentAnswer, readAnswers } from '../logs/answers.ts'
import { visible } from '../logs/files.ts'
import {
  type Log,
  type LogClock,
  type Moment,
  type MomentReport,
  openLog,
  type PublishedMessage,
  planMoments,
} from '../logs/index.ts'
import type { Model } from '../model.ts'
import { loadOptions } from '../option-tables.ts'
import type { Scene } from '../scene.ts'
import { checkWritable, writeWhole } from '../whole-file.ts'
import { modelIdentity } from './eval-model.ts'
import { type LoadFlags, noteCache, optionsFrom } from './flags.ts'
import { mapLines, untimedLines } from './log.ts'
import { modelFolder } from './model-folder.ts'
import { formatDuration, print, printable, withProgress } from './terminal.ts'
import { mapOf, questionsOf, type Wanted } from './wanted.ts'

export interface AnnotateFlags extends LoadFlags {
  model?: string
  ask?: string[]
  questions?: string
  locate?: string[]
  out: string
  map?: string[]
  every?: number
  at?: (number | bigint)[]
  moments?: number
  on?: string
  changed?: number
  from?: number | bigint
  to?: number | bigint
  maxSkew?: number
  time?: LogClock
  ffmpeg?: string
  missing?: 'skip' | 'black'
  maxNewTokens?: number
  shard?: { index: number; count: number }
  withImages?: boolean
  jsonl?: string
  strict?: boolean
  resume?: boolean
}

export async function annotate(sources: readonly string[], flags: AnnotateFlags): Promise<void> {
  const questions = await questionsOf(flags)
  const { strict, time, ffmpeg } = flags
  const log = await withProgress('Reading the log', () => openLog(sources, { strict, time, ffmpeg }))
  const interrupt = new AbortController()
  const onInterrupt = () => interrupt.abort()
  process.once('SIGINT', onInterrupt)
  try {
    await run(log, questions, flags, interrupt.signal)
  } catch (error) {
    if (!interrupt.signal.aborted) throw error
    note('Stopped.')
    process.exitCode = 130
  } finally {
    process.off('SIGINT', onInterrupt)
    await log.close()
  }
}

async function run(log: Log, questions: readonly Wanted[], flags: AnnotateFlags, signal: AbortSignal): Promise<void> {
  const cameras = await camerasOf(log, flags.map)
  for (const [camera, topic] of Object.entries(cameras)) {
    const facts = log.topics.find((one) => one.topic === topic && one.kind !== undefined)?.note
    note(`${camera}  ${visible(topic)}${facts === undefined ? '' : `: ${facts}`}`)
  }
  const { every, at, moments: count, on, changed, from, to, maxSkew, missing } = flags
  const choice = { every, at, count, on, changed, from, to, maxSkew }
  const plan = await withProgress('Reading the times of pictures', () =>
    planMoments(log, { cameras, ...choice, missing: missing === 'black' ? 'keep' : 'skip', signal }),
  )
  const { report, moments } = plan
  sayPlan(log, report, moments.length)
  const onWait = (who: string) => note(`Waiting up to a minute whether ${printable(who)} still writes there.`)
  const unlock = await lockFile(flags.out, { signal, onWait })
  try {
    await answer(log, questions, cameras, { choice, moments }, flags, signal)
  } finally {
    await unlock()
  }
}

async function answer(
  log: Log,
  questions: readonly Wanted[],
  cameras: Readonly<Record<string, string>>,
  { choice, moments }: { choice: object; moments: readonly Moment[] },
  flags: AnnotateFlags,
  signal: AbortSignal,
): Promise<void> {
  for (const file of [`${flags.out}.journal`, flags.jsonl ?? '-']) if (file !== '-') await checkWritable(file)
  const name = flags.model === undefined ? 'street-tiny' : path.basename(path.resolve(flags.model))
  const folder = path.resolve((await modelFolder(flags.model, flags.yes)) ?? bundledModel)
  const { maxNewTokens, precision = 'bf16', weights = 'bf16', activations, kvCache = 'bf16', maxContext } = flags
  // All that answers depend on; the pictures are told apart by their times.
  const settings = {
    files: log.files.map((file) => path.basename(file)),
    cameras,
    choice,
    missing: flags.missing,
    time: flags.time,
    ffmpeg: flags.ffmpeg !== undefined,
    withImages: flags.withImages,
    questions,
    // Its folder may be called otherwise on another machine.
    model: await modelIdentity({ ...(await readCheckpoint(folder)), name: 'weights' }),
    generation: { maxNewTokens, precision, weights, activations, kvCache, maxContext },
  }
  const digest = createHash('sha256').update(JSON.stringify(settings, textOfStamps))
  for (const { stamps } of moments) digest.update(`${Object.values(stamps).join()}\n`)
  const id = digest.digest('hex')
  const mine = shareOf(moments, flags.shard)
  const complete = flags.resume ? await completeLines(flags.out, id, mine) : undefined
  if (complete !== undefined) {
    // Whoever starts it again, a job's controller for instance, has what was wanted.
    await tell(log, complete, flags)
    return
  }
  const out = await AnswerLog.create(flags.out, { settings: id, shard: flags.shard }, { resume: flags.resume === true })
  let done = false
  let failure: unknown
  try {
    if (mine.some(({ index }) => !out.has(index))) {
      const model = await withProgress(`Loading ${name}`, () => loadModel(folder, optionsFrom(loadOptions, flags)))
      try {
        noteCache(model)
        await answerAll(model, { name, run: id, count: moments.length }, mine, questions, cameras, out, flags, signal)
      } finally {
        await model.dispose()
      }
    }
    done = true
  } catch (error) {
    if (!signal.aborted) failure = error
  }
  const { lines } = out
  const images = flags.withImages ? ({ moment }: AnsweredMoment) => imagesOf(moments[moment]) : undefined
  try {
    if (failure !== undefined && lines.length === 0) await out.discard()
    else await out.close({ complete: done, images })
  } catch (error) {
    failure ??= error // what went wrong first says more
  }
  if (failure !== undefined) {
    if (lines.length > 0)
      note(
        `${lines.length} moments are kept in ${printable(flags.out)}.journal; the same command goes on with --resume.`,
      )
    throw failure
  }
  await tell(log, lines, flags)
  if (!done) process.exitCode = 130
}

/** The lines of a file that has all moments of this very run; undefined if there is none, or if it is of another. */
async function completeLines(
  file: string,
  run: string,
  mine: readonly Moment[],
): Promise<readonly AnsweredMoment[] | undefined> {
  if (existsSync(`${file}.journal`) || !existsSync(file)) return undefined
  const lines = await readAnswers(file).catch(() => [])
  const whole =
    lines.length === mine.length && lines.every((line, i) => line.run === run && line.moment === mine[i]!.index)
  return whole && lines.length > 0 ? lines : undefined
}

/** What was answered, as JSON where that is wanted, and in words. */
async function tell(log: Log, lines: readonly AnsweredMoment[], flags: AnnotateFlags): Promise<void> {
  if (flags.jsonl !== undefined) {
    const text = lines.map((line) => `${JSON.stringify(line)}\n`).join('')
    if (flags.jsonl === '-') process.stdout.write(text)
    else await writeWhole(flags.jsonl, text)
  }
  summarise(log, lines, flags)
  if (lines.length > 0 && lines.every(({ answers }) => answers.length === 0)) process.exitCode = 1
}

async function answerAll(
  model: Model,
  { name, run, count }: { name: string; run: string; count: number },
  mine: readonly Moment[],
  questions: readonly Wanted[],
  cameras: Readonly<Record<string, string>>,
  out: AnswerLog,
  { missing, maxNewTokens }: AnnotateFlags,
  signal: AbortSignal,
): Promise<void> {
  const unanswered = mine.filter(({ index }) => !out.has(index))
  const startedAt = performance.now()
  let scene: Scene | undefined
  let seen = ''
  // Two moments are under way: the pictures of the next are read while this one is answered.
  const read = (moment: Moment | undefined) => {
    const views = moment?.views(signal)
    views?.catch(() => undefined) // it is thrown where it is awaited
    return views
  }
  let ahead = read(unanswered[0])
  await withProgress('Asking', async (progress) => {
    for (const [done, moment] of unanswered.entries()) {
      signal.throwIfAborted()
      progress.update(
        done / unanswered.length,
        courseOf(done, unanswered.length, (performance.now() - startedAt) / 1000),
      )
      const line: AnsweredMoment = {
        moment: moment.index,
        moments: count,
        model: name,
        run,
        timestamp: jsonTimeOf(moment.stamp),
        cameras: Object.fromEntries(
          Object.entries(moment.stamps).map(([camera, stamp]) => [
            camera,
            { topic: cameras[camera]!, timestamp: jsonTimeOf(stamp) },
          ]),
        ),
        answers: [],
      }
      const reading = ahead!
      try {
        const views = await reading
        ahead = read(unanswered[done + 1])
        const names = Object.keys(views).join()
        const before = scene
        const missingViews = missing === 'black' ? 'black' : 'error'
        scene =
          before !== undefined && names === seen
            ? await before.update(views, { signal })
            : await model.see(views, { missingViews, signal })
        before?.dispose()
        seen = names
        line.answers = await answersOf(scene, questions, { maxNewTokens, signal })
      } catch (error) {
        const picture = error instanceof ModelError && (error.code === 'BAD_VIEW' || error.code === 'BAD_LOG')
        if (!picture) throw error
        line.skipped = error.message
        if (ahead === reading) ahead = read(unanswered[done + 1])
      }
      await out.write(line)
    }
  }).finally(() => scene?.dispose())
}

/** How far it is: `3 of 9 moments, 0.42 a second, 14 s left`. */
function courseOf(done: number, all: number, seconds: number): string {
  const moments = `${done} of ${all} moments`
  if (done === 0) return moments
  return `${moments}, ${(done / seconds).toPrecision(2)} a second, ${formatDuration((seconds / done) * (all - done))} left`
}

/** JSON has no numbers of 64 bits. */
function textOfStamps(_: string, value: unknown): unknown {
  return typeof value === 'bigint' ? `${value} ns` : value
}

async function* imagesOf(moment: Moment | undefined): AsyncGenerator<PublishedMessage, void, undefined> {
  if (moment === undefined) return
  for (const camera of Object.keys(moment.stamps)) yield moment.published(camera)
}

async function answersOf(
  scene: Scene,
  questions: readonly Wanted[],
  options: { maxNewTokens: number | undefined; signal: AbortSignal },
): Promise<MomentAnswer[]> {
  const { maxNewTokens, signal } = options
  const settings = { signal, ...(maxNewTokens === undefined ? {} : { maxNewTokens }) }
  const asked = questions.filter(({ kind }) => kind === 'ask')
  const located = questions.filter(({ kind }) => kind === 'locate')
  // All of them are decoded together.
  const [answers, places] = await Promise.all([
    asked.length === 0
      ? []
      : scene.askAll(
          asked.map(({ question }) => question),
          settings,
        ),
    Promise.all(located.map(({ question }) => scene.locate(question, settings))),
  ])
  return [
    ...answers.map(
      ({ text }, i): MomentAnswer => ({ question: asked[i]!.question, answer: text, kind: 'ask', boxes: [] }),
    ),
    ...places.map(
      ({ text, boxes }, i): MomentAnswer => ({
        question: located[i]!.question,
        answer: text,
        kind: 'locate',
        boxes: boxes.map(({ camera, label, box }) => ({
          camera,
          label,
          box: [...box] as [number, number, number, number],
        })),
      }),
    ),
  ]
}

/** A part of the moments that follow each other: part `index` (from 1) of `count`. */
function shareOf(moments: readonly Moment[], shard: AnnotateFlags['shard']): readonly Moment[] {
  if (shard === undefined) return moments
  const from = (part: number) => Math.floor((moments.length * part) / shard.count)
  return moments.slice(from(shard.index - 1), from(shard.index))
}

async function camerasOf(log: Log, map: readonly string[] | undefined): Promise<Record<string, string>> {
  const given = await mapOf(map)
  if (given !== undefined) return given
  const { cameras, doubtful } = log.guessCameras()
  for (const { camera, others } of doubtful) note(`${camera} could also be ${visible(others.join(', '))}`)
  if (Object.keys(cameras).length > 0) return cameras as Record<string, string>
  throw new ModelError(
    'BAD_ARGUMENT',
    `No topic of this log can be told to be a camera. Fill in and copy:\n  ${mapLines(log).join('\n  ')}`,
  )
}

/** What came of the log's pictures, before the model is loaded. */
function sayPlan(log: Log, report: MomentReport, chosen: number): void {
  const ms = (time: bigint) => (Number(time / 1000n) / 1000).toFixed(1)
  const skew = `skew ${ms(report.medianSkew)} ms, at most ${ms(report.largestSkew)} ms`
  note(`${chosen} moments of ${report.made}; ${report.incomplete} lack a camera; ${skew}.`)
  for (const [camera, { pictures, unused }] of Object.entries(report.cameras))
    if (unused > 0) note(`${unused} of ${pictures} pictures of ${camera} are in no moment.`)
  for (const line of untimedLines(log)) note(line)
}

function summarise(log: Log, lines: readonly AnsweredMoment[], { out, jsonl }: AnnotateFlags): void {
  const say = jsonl === '-' ? note : print
  const answers = lines.reduce((sum, line) => sum + line.answers.length, 0)
  say(`${answers} answers about ${lines.length} moments are in ${printable(out)}.`)
  for (const { moment, skipped } of lines)
    if (skipped !== undefined) say(`Moment ${moment} was left out: ${visible(skipped)}`)
  for (const { message } of log.damage) say(`Damage: ${visible(message)}`)
}

function note(line: string): void {
  process.stderr.write(`${line}\n`)
}

/** `drivlm eval`: asks a model all questions of a file, or takes answers that are there, and scores and reports them. */
import { existsSync } from 'node:fs'
import { stat } from 'node:fs/promises'
import path from 'node:path'
import { type Checkpoint, readCheckpoint } from '../checkpoint/load-checkpoint.ts'
import { ModelError } from '../errors.ts'
import { foreignIds, foreignPrediction } from '../evaluate/metrics/foreign.ts'
import { type Judge, judgeFrom } from '../evaluate/metrics/judge.ts'
import { type ScoreSheet, scoreDrivelm } from '../evaluate/metrics/score.ts'
import { questionFileForm, readMoments } from '../evaluate/questions/question-files.ts'
import { resolveImage, type Selection, selectQuestions } from '../evaluate/questions/selection.ts'
import type { Moment } from '../evaluate/questions/types.ts'
import { buildReport, type Report, writeReport } from '../evaluate/report/index.ts'
import { type EvalProblem, type EvalProgress, type LeftOutCount, leftOutCounts, runEval } from '../evaluate/run/eval.ts'
import { type JournalEntry, readJournal } from '../evaluate/run/journal.ts'
import { readJudgements, readPredictions } from '../evaluate/run/predictions.ts'
import { type Conversion, resolveConversion } from '../grounding/conversion.ts'
import { bundledModel, loadModel } from '../load-model.ts'
import type { Model } from '../model.ts'
import { loadOptions } from '../option-tables.ts'
import type { ModelAskOptions } from '../options.ts'
import { cannotWrite, makeFolder } from '../whole-file.ts'
import { boxReader, converters, modelIdentity } from './eval-model.ts'
import { printSheet, sheetJson } from './eval-sheet.ts'
import { type LoadFlags, noteCache, optionsFrom } from './flags.ts'
import { judgeByCommand } from './judge-command.ts'
import { modelFolder } from './model-folder.ts'
import { errorText, formatDuration, Progress, printJson, withProgress } from './terminal.ts'

type AskFlags = Pick<ModelAskOptions, 'maxNewTokens' | 'temperature' | 'topP' | 'seed' | 'missingViews' | 'text'>

export interface EvalFlags extends LoadFlags, AskFlags, Selection {
  data: string
  images?: string
  model?: string
  predictions?: string
  out?: string
  keepGoing?: boolean
  judgeCommand?: string
  judgements?: string
  judgeJobs?: number
  conversion?: Conversion
  concurrency?: number
  pictures?: 'embed' | 'link' | 'none'
  json?: boolean
}

/** Answers, and what is known about where they come from. */
interface Answered {
  name: string
  answers: ReadonlyMap<string, string>
  entries: readonly JournalEntry[]
  problems: EvalProblem[]
  notes: Record<string, string>
  /** Answers may be missing: they are listed among the problems. */
  partial: boolean
  checkpoint?: Checkpoint
}

export async function evaluate(flags: EvalFlags): Promise<void> {
  checkFlags(flags)
  const interrupt = new AbortController()
  let last: EvalProgress | undefined
  let stoppedBy: NodeJS.Signals | undefined
  // Once: whoever cannot wait for a clean end sends a second one.
  const onSignal = (name: NodeJS.Signals) => {
    stoppedBy ??= name
    interrupt.abort()
  }
  process.once('SIGINT', onSignal).once('SIGTERM', onSignal)
  try {
    const { signal } = interrupt
    const answered =
      flags.predictions === undefined
        ? await askModel(flags, signal, (progress) => {
            last = progress
          })
        : await readAnswers(flags, flags.predictions)
    await score(flags, answered, signal)
  } catch (error) {
    process.stderr.write(`${stoppedBy === undefined ? errorText(error) : 'Stopped.'}\n`)
    if (last !== undefined) {
      const { done, total } = last
      const skipping = stoppedBy === undefined && !flags.keepGoing ? ' With --keep-going it skips what fails.' : ''
      process.stderr.write(
        `${done} of ${total} answers are kept in ${flags.out}; the same command goes on from there.${skipping}\n`,
      )
    } else if (flags.judgeCommand !== undefined && flags.out !== undefined && existsSync(keptReplies(flags.out))) {
      process.stderr.write(`Judgements are kept in ${keptReplies(flags.out)}; the same command goes on from there.\n`)
    }
    process.exitCode = stoppedBy === undefined ? 1 : stoppedBy === 'SIGINT' ? 130 : 143
  } finally {
    process.off('SIGINT', onSignal).off('SIGTERM', onSignal)
  }
}

function checkFlags({ model, predictions, out, judgeCommand, judgements }: EvalFlags): void {
  const bad = (message: string): ModelError => new ModelError('BAD_ARGUMENT', message)
  if (model !== undefined && predictions !== undefined) {
    throw bad('Give --model to ask or --predictions to score what was answered before, not both.')
  }
  if (model === undefined && predictions === undefined) {
    throw bad(
      `There is nothing to evaluate; give --model with a folder (the bundled model is in ${path.relative('', bundledModel) || '.'}), or --predictions with a file.`,
    )
  }
  if (model !== undefined && out === undefined) throw bad('Give --out with a folder for the answers and the report.')
  if (judgeCommand !== undefined && judgements !== undefined) {
    throw bad('Give --judge-command or --judgements, not both.')
  }
}

async function askModel(
  flags: EvalFlags,
  signal: AbortSignal,
  onProgress: (progress: EvalProgress) => void,
): Promise<Answered> {
  const { data, images, out, shard, limit, tags, keepGoing, concurrency, seed = 0 } = flags
  const { maxNewTokens = 200, temperature, topP, missingViews, maxContext, precision = 'bf16' } = flags
  const form = await questionFileForm(data)
  const checkpoint = await readCheckpoint(path.resolve((await modelFolder(flags.model, flags.yes))!))
  const conversion = resolveConversion(flags.conversion ?? 'auto', form, checkpoint)
  const { weights, activations, kvCache } = flags
  const settings = {
    maxNewTokens,
    precision,
    weights,
    activations,
    kvCache,
    conversion,
    temperature,
    topP,
    missingViews,
    maxContext,
  }

  let model: Model | undefined
  let shown: Progress | undefined
  const show = (label: string): Progress => {
    shown?.end()
    shown = new Progress(label)
    return shown
  }
  show(`Reading ${path.basename(data)}`)
  try {
    const result = await runEval({
      data,
      images,
      out: out!,
      shard,
      limit,
      tags,
      keepGoing,
      concurrency,
      seed,
      signal,
      modelId: await modelIdentity(checkpoint),
      settings: Object.fromEntries(Object.entries(settings).filter(([, value]) => value !== undefined)),
      ask: { maxNewTokens, temperature, topP, missingViews },
      text: flags.text,
      ...converters(conversion),
      model: async () => {
        const loading = show(`Loading ${checkpoint.name}`)
        model = await loadModel(checkpoint.dir, {
          ...optionsFrom(loadOptions, flags),
          signal,
          onProgress: ({ doneBytes, totalBytes }) => loading.update(doneBytes / totalBytes),
        })
        show('Asking')
        noteCache(model)
        return model
      },
      onProgress: (progress) => {
        onProgress(progress)
        shown?.update(progress.total === 0 ? 1 : progress.done / progress.total, progressText(progress))
      },
    })
    const { entries, problems, total, resumed, seconds } = result
    const asked = entries.length - resumed
    return {
      name: checkpoint.name,
      answers: new Map(entries.map(({ id, answer }) => [id, answer])),
      entries,
      problems,
      partial: true,
      checkpoint,
      notes: {
        ...(model === undefined ? {} : { device: model.info.device }),
        precision,
        ...(weights ? { weights } : {}),
        ...(activations ? { activations } : {}),
        ...(kvCache ? { 'KV cache': kvCache } : {}),
        'most tokens': String(maxNewTokens),
        'coordinate conversion': conversion,
        ...(temperature ? { temperature: String(temperature), seed: String(seed) } : {}),
        ...selectionNotes(flags),
        'asked in this call': `${asked} of ${total}${asked > 0 ? ` in ${formatDuration(seconds)}` : ''}`,
      },
    }
  } finally {
    shown?.end()
    await model?.dispose()
  }
}

function progressText({ done, total, problems, questionsPerSecond, secondsLeft }: EvalProgress): string {
  const parts = [`${done} of ${total}`]
  if (questionsPerSecond > 0) parts.push(`${questionsPerSecond.toFixed(questionsPerSecond < 10 ? 2 : 0)} a second`)
  if (secondsLeft !== null && secondsLeft > 0) parts.push(`${formatDuration(secondsLeft)} left`)
  if (problems > 0) parts.push(`${problems} skipped`)
  return parts.join(', ')
}

function selectionNotes({ shard, limit, tags }: Selection): Record<string, string> {
  return {
    ...(shard ? { shard: `${shard.index}/${shard.count}` } : {}),
    ...(limit === undefined ? {} : { 'first questions': String(limit) }),
    ...(tags ? { tags: tags.join(', ') } : {}),
  }
}

/** A file of predictions, or the folder of a run, which knows times as well. */
async function readAnswers(flags: EvalFlags, given: string): Promise<Answered> {
  const problems: EvalProblem[] = []
  const folder = (await stat(given).catch(() => undefined))?.isDirectory()
  const journal = folder ? await readJournal(path.join(given, 'journal.jsonl')) : undefined
  if (folder && journal === undefined) {
    throw new ModelError(
      'BAD_DATA',
      `${given} is a folder without the journal of a run; give a file of predictions or such a folder.`,
    )
  }
  const answers = journal?.entries ?? [
    ...(await readPredictions(given, flags.keepGoing ? listingProblems(problems) : {})).values(),
  ]
  return {
    name: journal === undefined ? path.basename(given) : journal.run.model.replace(/@[0-9a-f]+$/, ''),
    answers: new Map(answers.map(({ id, answer }) => [id, answer])),
    entries: journal?.entries ?? [],
    problems,
    partial: false,
    notes: selectionNotes(flags),
  }
}

function leftOutNotes(leftOut: readonly LeftOutCount[]): Record<string, string> {
  if (leftOut.length === 0) return {}
  return { 'left out of the data': leftOut.map(({ what, count }) => `${what} (${count})`).join(', ') }
}

function listingProblems(problems: EvalProblem[]): { onProblem: (error: ModelError) => void } {
  return { onProblem: ({ code, message }) => problems.push({ id: '', code, message }) }
}

async function score(flags: EvalFlags, answered: Answered, signal: AbortSignal): Promise<void> {
  const { data, images, out, tags, keepGoing = false } = flags
  const { moments, answers, foreign, hidden, leftOut } = await selected(flags, answered)
  const { partial, problems } = answered
  const tagged = moments.some(({ questions }) => questions.some((question) => (question.tags?.length ?? 0) > 0))
  if (!partial && moments.length === 0) throw new ModelError('BAD_DATA', `${data} has no question to score.`)
  if (hidden && answered.checkpoint === undefined && out === undefined) {
    throw new ModelError('BAD_DATA', `${data} hides its answers, so only the challenge server can score predictions.`)
  }
  if (!tagged) refuseForeign(foreign)
  if (out !== undefined) {
    await makeFolder(out).catch((error) => {
      throw cannotWrite(out, error)
    })
  }

  const judging = new AbortController()
  let sheet: ScoreSheet | undefined
  try {
    const judge = await judgeOf(flags, AbortSignal.any([signal, judging.signal]))
    const label = judge === undefined ? 'Scoring' : 'Scoring, with the judge'
    if (tagged && !hidden) {
      sheet = await withProgress(label, () =>
        scoreDrivelm(moments, answers, {
          judge,
          judgeConcurrency: flags.judgeJobs,
          keepGoing,
          partial: answered.partial,
          gating: tags === undefined ? 'official' : 'none',
        }),
      )
    }
  } finally {
    judging.abort() // what still runs after a failure
  }
  signal.throwIfAborted()
  const report = buildReport({
    model: answered.name,
    data: path.basename(data),
    notes: { ...answered.notes, ...leftOutNotes(leftOut) },
    moments,
    answers,
    sheet,
    entries: answered.entries,
    problems: answered.problems,
    boxesOf: answered.checkpoint && boxReader(answered.checkpoint),
  })
  const files = out === undefined ? [] : await writeFiles(report, flags, out)
  const shown = { report, moments, hidden, files, leftOut, selected: selectionNotes(flags) }
  if (flags.json) printJson(sheetJson(shown))
  else printSheet(shown)

  /** Where there is no official score, which says so itself. */
  function refuseForeign(ids: readonly string[]): void {
    for (const id of ids) {
      const error = foreignPrediction(id, ids.length > 1 && !keepGoing ? foreignIds(ids, answered.answers.size) : '')
      if (!keepGoing) throw error
      problems.push({ id, code: error.code, message: error.message })
    }
  }

  async function writeFiles(report: Report, { pictures }: EvalFlags, out: string): Promise<string[]> {
    const resolve = (name: string, camera: string) => resolveImage(name, { images, data }, camera)
    const written = await withProgress('Writing the report', () =>
      writeReport(report, out, { resolve, mode: pictures ?? 'embed' }),
    )
    const own = answered.checkpoint === undefined ? [] : ['output.json', 'submission.json']
    return [...own.map((name) => path.join(out, name)), written.html, written.json, written.csv]
  }
}

function judgeOf(flags: EvalFlags, signal: AbortSignal): Promise<Judge | undefined> {
  const { judgeCommand, judgements, out } = flags
  if (judgements !== undefined) return readJudgements(judgements).then((known) => judgeFrom(known, judgements))
  if (judgeCommand === undefined) return Promise.resolve(undefined)
  return judgeByCommand(judgeCommand, out === undefined ? undefined : keptReplies(out), signal)
}

const keptReplies = (out: string): string => path.join(out, 'judgements.jsonl')

/** The questions that are scored, with all that is known of their frames, and the answers to them. */
async function selected(
  flags: EvalFlags,
  { answers, problems, partial }: Answered,
): Promise<{
  moments: Moment[]
  answers: ReadonlyMap<string, string>
  /** Ids of answers to no question of the file. */
  foreign: string[]
  hidden: boolean
  leftOut: LeftOutCount[]
}> {
  const { data, keepGoing, shard, limit, tags, text } = flags
  // With a model, the evaluation has read the file and listed its problems.
  const all: Moment[] = []
  const listed = partial ? { onProblem: () => undefined } : listingProblems(problems)
  const leftOut = leftOutCounts()
  const reading = { ...(keepGoing ? listed : {}), onLeftOut: leftOut.add, text }
  for await (const moment of readMoments(data, reading)) all.push(moment)
  const whole = shard === undefined && limit === undefined && tags === undefined
  const wanted = new Set<string>()
  for await (const { questions } of selectQuestions(each(all), flags)) {
    for (const { question } of questions) wanted.add(question.id)
  }
  const known = new Set(all.flatMap(({ questions }) => questions.map(({ id }) => id)))
  const moments = all
    .map((moment) => ({ ...moment, questions: moment.questions.filter(({ id }) => wanted.has(id)) }))
    .filter(({ questions }) => questions.length > 0)
  return {
    moments,
    // An answer outside of the selection is left alone, one to no question at all is a mistake that scoring names.
    answers: whole ? answers : new Map([...answers].filter(([id]) => wanted.has(id) || !known.has(id))),
    foreign: [...answers.keys()].filter((id) => !known.has(id)),
    leftOut: leftOut.list(),
    hidden:
      moments.length > 0 &&
      moments.every(({ questions }) => questions.every(({ reference }) => reference === undefined)),
  }
}

async function* each<T>(items: Iterable<T>): AsyncGenerator<T> {
  yield* items
}

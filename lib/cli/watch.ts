/** `drivlm watch`: questions about what a robot's cameras see now, until Ctrl-C. */
import { type FileHandle, open } from 'node:fs/promises'
import { serveAnswers } from '../live/answer-server.ts'
import { answeredMoment } from '../live/answered.ts'
import { fromFoxglove, fromRosbridge } from '../live/cameras.ts'
import type { LiveMoment } from '../live/live-cameras.ts'
import { loadModel } from '../load-model.ts'
import type { AnsweredMoment } from '../logs/answers.ts'
import { visible } from '../logs/files.ts'
import { loadOptions } from '../option-tables.ts'
import type { WatchResult } from '../watch.ts'
import { cannotWrite } from '../whole-file.ts'
import { type LoadFlags, noteCache, optionsFrom } from './flags.ts'
import { modelFolder } from './model-folder.ts'
import { formatMs, printable, withProgress } from './terminal.ts'
import { mapOf, questionsOf } from './wanted.ts'

export interface WatchFlags extends LoadFlags {
  model?: string
  ask?: string[]
  questions?: string
  locate?: string[]
  map?: string[]
  rosbridge?: boolean
  every?: number
  deadline?: number
  maxSkew?: number
  missing?: 'skip' | 'black'
  moments?: number
  maxNewTokens?: number
  jsonl?: string
  serve?: number
  host: string
}

/** A line of `--jsonl`: that of `drivlm annotate`, and what is of a live run alone. */
interface LiveLine extends Omit<AnsweredMoment, 'moments'> {
  /** The deadline passed: questions that are not among the answers were given up. */
  late: boolean
  /** Moments that were dropped since the line before. */
  dropped: number
  /** Milliseconds. */
  timings: WatchResult['timings']
}

export async function watch(url: string, flags: WatchFlags): Promise<void> {
  const wanted = await questionsOf(flags)
  const map = await mapOf(flags.map)
  const stop = new AbortController()
  const interrupt = () => stop.abort()
  process.once('SIGINT', interrupt).once('SIGTERM', interrupt)
  const { every, deadline, maxSkew, missing, maxNewTokens, moments = Number.POSITIVE_INFINITY, jsonl } = flags
  const connect = flags.rosbridge ? fromRosbridge : fromFoxglove
  const kept = missing === 'black' ? 'keep' : 'skip'
  // Made before the model is loaded: it says what is wrong with the address.
  const options = {
    map,
    maxSkew,
    missing: kept,
    onStatus: note,
    onWarning: (text: string) => note(`Warning: ${text}`),
  } as const
  const source = connect(url, options)
  const server = flags.serve === undefined ? undefined : await serveAnswers({ port: flags.serve, host: flags.host })
  let file: FileHandle | undefined
  const cannotAdd = (error: unknown): never => {
    throw cannotWrite(jsonl!, error)
  }
  try {
    if (server !== undefined) note(`Answers are served on ${server.url}`)
    file = jsonl === undefined || jsonl === '-' ? undefined : await open(jsonl, 'a').catch(cannotAdd)
    const folder = await modelFolder(flags.model, flags.yes)
    const model = await withProgress('Loading', () =>
      loadModel(folder, { ...optionsFrom(loadOptions, flags), signal: stop.signal }),
    )
    try {
      noteCache(model)
      const watching = model.watch(source, {
        questions: wanted.map(({ kind, question }) => (kind === 'locate' ? { locate: question } : question)),
        every,
        deadlineMs: deadline,
        missingViews: missing === 'black' ? 'black' : 'error',
        ...(maxNewTokens === undefined ? {} : { maxNewTokens }),
        signal: stop.signal,
      })
      try {
        let count = 0
        for await (const result of watching) {
          const line = lineOf(result, model.info.name, count)
          if (jsonl === '-') process.stdout.write(`${JSON.stringify(line)}\n`)
          else say(line, wanted.length)
          await file?.appendFile(`${JSON.stringify(line)}\n`).catch(cannotAdd)
          server?.send({ ...line, moments: count + 1 })
          if (++count >= moments) break
        }
      } finally {
        const { asked, late, failed, dropped } = watching.counts
        const lacking = source.incomplete === 0 ? '' : `; ${source.incomplete} moments lacked a camera`
        note(
          `${asked} ${asked === 1 ? 'moment' : 'moments'} asked about, ${late} late, ${failed} not readable, ${dropped} dropped${lacking}.`,
        )
      }
    } finally {
      await model.dispose()
    }
  } catch (error) {
    if (!stop.signal.aborted) throw error
  } finally {
    process.off('SIGINT', interrupt).off('SIGTERM', interrupt)
    await source.return()
    await server?.close()
    await file?.close()
  }
}

function lineOf(result: WatchResult<LiveMoment>, model: string, number: number): LiveLine {
  const { late, dropped, timings } = result
  const { moments: _, ...answered } = answeredMoment(result, model, number)
  const rounded = Object.entries(timings).map(([name, ms]) => [name, Math.round(ms)])
  return { ...answered, late, dropped, timings: Object.fromEntries(rounded) as LiveLine['timings'] }
}

/** A line for people: the moment's time, the answer, and what it took. */
function say(
  { timestamp: { sec, nsec }, answers, late, dropped, timings, skipped }: LiveLine,
  questions: number,
): void {
  const time = new Date(sec * 1000 + Math.floor(nsec / 1e6)).toISOString().slice(11, 23)
  const facts = [
    formatMs(timings.totalMs),
    ...(late ? ['late'] : []),
    ...(dropped > 0 ? [`${dropped} dropped`] : []),
  ].join(', ')
  const lines =
    skipped !== undefined
      ? [`not seen: ${visible(skipped)}`]
      : answers.length === 0
        ? ['no answer']
        : answers.map(({ question, answer }) => (questions === 1 ? answer : `${question}  ${answer}`))
  for (const line of lines) process.stdout.write(`${time}  ${printable(line)}  (${facts})\n`)
}

function note(line: string): void {
  process.stderr.write(`${line}\n`)
}

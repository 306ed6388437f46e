/** `drivlm adapt --validate`: the scores of `drivlm eval`, of weights between two updates. */
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { readFile, rm } from 'node:fs/promises'
import path from 'node:path'
import { readCheckpoint } from '../checkpoint/load-checkpoint.ts'
import { ModelError } from '../errors.ts'
import { scoreDrivelm } from '../evaluate/metrics/score.ts'
import { parseJson } from '../evaluate/questions/json-stream.ts'
import { questionFileForm, readMoments } from '../evaluate/questions/question-files.ts'
import { resolveImage, selectQuestions } from '../evaluate/questions/selection.ts'
import type { Moment } from '../evaluate/questions/types.ts'
import { buildReport } from '../evaluate/report/index.ts'
import { runEval } from '../evaluate/run/eval.ts'
import { type Conversion, resolveConversion } from '../grounding/conversion.ts'
import { loadModel } from '../load-model.ts'
import { scoreOf, type Validation } from '../train/report/validation.ts'
import { writeWhole } from '../whole-file.ts'
import { converters, modelIdentity } from './eval-model.ts'

/** Kept with the scores, for the report. */
const momentsShown = 8
const questionsShown = 16

/** A question file, and how it is asked. */
export interface ValidationSet {
  /** `domain` or `general`. */
  set: string
  data: string
  images?: string | undefined
  /** Only the first so many questions. */
  limit?: number | undefined
  conversion?: Conversion | undefined
  text?: 'placeholders' | 'literal' | undefined
}

/** Validations of a run, kept in its folder. */
export class Validations {
  readonly all: Validation[] = []
  readonly #file: string
  readonly #folder: string
  /** By set. */
  readonly #asked = new Map<string, string>()

  private constructor(folder: string) {
    this.#folder = folder
    this.#file = path.join(folder, 'validations.jsonl')
  }

  /**
   * Those of a run that goes on; a new run begins without those of an earlier one.
   *
   * @throws {@link ModelError} `BAD_ARGUMENT` if those that are there asked other questions than `sets`, and cannot be compared; `BAD_DATA` if they
   *   cannot be read.
   */
  static async open(folder: string, goesOn: boolean, sets: readonly ValidationSet[]): Promise<Validations> {
    const own = new Validations(folder)
    for (const set of sets) own.#asked.set(set.set, await digestOf(set))
    if (!goesOn) {
      await rm(own.#file, { force: true })
      await rm(path.join(folder, 'validation'), { recursive: true, force: true })
      return own
    }
    const text = await readFile(own.#file, 'utf8').catch(() => '')
    for (const [i, line] of text.split('\n').slice(0, -1).entries()) {
      const found = parseJson(line, [own.#file, `line ${i + 1}`]) as Validation
      const wanted = own.#asked.get(found.set)
      if (wanted !== undefined && found.asked !== undefined && found.asked !== wanted) {
        throw new ModelError(
          'BAD_ARGUMENT',
          `${own.#file} has scores of other ${found.set} questions: the file, --validate-limit, --conversion or --text has changed. Ask for the same, or remove it to score anew.`,
        )
      }
      own.all.push(found)
    }
    return own
  }

  has(updates: number, set: string): boolean {
    return this.all.some((one) => one.updates === updates && one.set === set)
  }

  /** Asks the model in `dir` all questions of a set, and keeps the scores when `use` has seen them: a run that is killed before does both again. */
  async run(
    dir: string,
    updates: number,
    validation: ValidationSet,
    {
      threads,
      signal,
      use,
    }: { threads: number | undefined; signal: AbortSignal; use: (found: Validation) => Promise<void> },
  ): Promise<void> {
    const { set } = validation
    const scores = await scoresOf(dir, path.join(this.#folder, 'validation', `${set}-${updates}`), validation, {
      threads,
      signal,
    })
    const before = this.all.filter((one) => one.set === set).map(scoreOf)
    const asked = this.#asked.get(set)!
    const found: Validation = { updates, set, ...scores, asked, best: before.every((score) => score < scoreOf(scores)) }
    await use(found)
    this.all.push(found)
    await writeWhole(this.#file, this.all.map((one) => `${JSON.stringify(one)}\n`).join(''))
  }
}

/** Tells the questions of a set apart from others. */
async function digestOf({ data, limit, conversion, text }: ValidationSet): Promise<string> {
  const hash = createHash('sha256').update(`${JSON.stringify({ limit, conversion, text })}\n`)
  try {
    for await (const chunk of createReadStream(data)) hash.update(chunk as Buffer)
  } catch (error) {
    throw new ModelError('BAD_DATA', `${data}: cannot be read: ${(error as Error).message}.`, { cause: error })
  }
  return hash.digest('hex')
}

async function scoresOf(
  dir: string,
  out: string,
  { data, images, limit, conversion: wanted = 'auto', text }: ValidationSet,
  { threads, signal }: { threads: number | undefined; signal: AbortSignal },
): Promise<Omit<Validation, 'updates' | 'set' | 'best'>> {
  const checkpoint = await readCheckpoint(dir)
  const conversion = resolveConversion(wanted, await questionFileForm(data), checkpoint)
  const model = await loadModel(dir, { device: 'cpu', ...(threads === undefined ? {} : { threads }) })
  try {
    const { entries } = await runEval({
      data,
      images,
      out,
      limit,
      text,
      signal,
      concurrency: 16,
      model,
      modelId: await modelIdentity({ ...checkpoint, name: 'weights' }),
      settings: { conversion },
      ...converters(conversion),
    })
    const answers = new Map(entries.map(({ id, answer }) => [id, answer]))
    const moments: Moment[] = []
    for await (const moment of readMoments(data, { text })) moments.push(moment)
    const asked = new Set<string>()
    for await (const { questions } of selectQuestions(each(moments), { limit }))
      for (const { question } of questions) asked.add(question.id)
    const own = moments
      .map((moment) => ({ ...moment, questions: moment.questions.filter(({ id }) => asked.has(id)) }))
      .filter(({ questions }) => questions.length > 0)
    const tagged = own.some(({ questions }) => questions.some(({ tags }) => (tags?.length ?? 0) > 0))
    const sheet = tagged ? await scoreDrivelm(own, answers, { keepGoing: true, partial: true }) : undefined
    const { overall, byKind, frames } = buildReport({ model: 'weights', data, moments: own, answers, sheet, entries })
    return {
      questions: asked.size,
      exact: overall.exact.value,
      lenient: overall.lenient.value,
      final: sheet?.final ?? null,
      kinds: byKind.map(({ name, exact, lenient }) => ({
        name,
        exact: exact.value,
        lenient: lenient.value,
        count: exact.count,
      })),
      moments: frames.slice(0, momentsShown).map(({ key, views, questions }) => ({
        key,
        views: Object.fromEntries(
          Object.entries(views).map(([camera, name]) => [camera, resolveImage(name, { images, data }, camera)]),
        ),
        questions: questions.slice(0, questionsShown).map(({ question, reference, answer, verdict }) => ({
          question,
          reference,
          answer,
          right: verdict === 'right' || verdict === 'close' ? true : reference === null ? null : false,
        })),
      })),
    }
  } finally {
    await model.dispose()
  }
}

async function* each<T>(items: Iterable<T>): AsyncGenerator<T> {
  yield* items
}

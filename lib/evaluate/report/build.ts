// What a report says, as plain data: the JSON file holds exactly this, the HTML and CSV files show it.

import type { CameraBox } from '../../grounding/geometry.ts'
import { type Camera, cameras } from '../../views/cameras.ts'
import { type Accuracy, accuracyOf, chosenLetter, isExact, isRightLeniently } from '../metrics/accuracy.ts'
import type { ScoreSheet } from '../metrics/score.ts'
import type { KeyObject, Moment } from '../questions/types.ts'
import type { JournalEntry } from '../run/journal.ts'

/** What is reported. */
export interface ReportInput {
  /** Heading of the page; `<model> on <data>` by default. */
  title?: string | undefined
  /** Name of the model, or of the predictions. */
  model: string
  /** Name of the question file. */
  data: string
  /** What to say about the run: device, precision, settings, … */
  notes?: Record<string, string> | undefined
  /** What was asked about, in the order of the report. */
  moments: Iterable<Moment>
  /** Answer by question id. */
  answers: ReadonlyMap<string, string>
  /** The official score, for DriveLM data with references. */
  sheet?: ScoreSheet | undefined
  /** For timings. */
  entries?: Iterable<JournalEntry> | undefined
  /** What was skipped, and why, by question id. */
  problems?: readonly { id: string; message: string }[] | undefined
  /** Boxes that a text about these views names, on a picture of 1600 x 900 whatever its size; drawn into the views. */
  boxesOf?: ((text: string, views: Record<string, string>) => readonly CameraBox[]) | undefined
}

/**
 * What became of a question: `right` or `wrong` by exact comparison, `close` if only the lenient rule accepts it, `rated` by
 * numbers alone, `gated` by the official score, `open` without a reference, `unanswered`.
 */
export type Verdict = 'right' | 'close' | 'wrong' | 'rated' | 'gated' | 'open' | 'unanswered'

/** A question of a report, with its answer and its scores. */
export interface ReportQuestion {
  /** Of the question. */
  id: string
  /** As {@link Question.kind}. */
  kind: string
  /** What it is scored by: 0 accuracy, 1 judge, 2 language, 3 match; empty where the file has none. */
  tags: number[]
  /** As the file has it. */
  question: string
  /** What the model said; null where it was not asked or failed. */
  answer: string | null
  /** What it should be; null where that is hidden. */
  reference: string | null
  /** What became of it. */
  verdict: Verdict
  /** Coordinate F1, 0 to 1. */
  f1?: number
  /** 0 to 100. */
  judge?: number
  /** ROUGE-L, 0 to 1; tag 2. */
  rougeL?: number
  /** CIDEr, 0 to 10; tag 2. */
  cider?: number
  /** BLEU-4, 0 to 1; tag 2. */
  bleu4?: number
  /** All stages together. */
  milliseconds?: number
  /** What question, answer and reference mark in the views. */
  boxes?: Record<'asked' | 'answer' | 'reference', CameraBox[]>
}

/** A moment of a report: its pictures and its questions. */
export interface ReportFrame {
  /** As {@link Moment.key}. */
  key: string
  /** Of its scene, where the file has one. */
  description?: string
  /** By camera, paths as the question file has them. */
  views: Record<string, string>
  /** Objects of interest, and the camera that each tag names; empty where the file has none. */
  objects: (KeyObject & { camera: Camera | null })[]
  /** In the order of the file. */
  questions: ReportQuestion[]
}

/** Right answers of a group: exactly, and by the lenient rule. */
export interface ReportGroup {
  /** A kind or a camera; `all`, `no camera named`. */
  name: string
  /** Equal character by character. */
  exact: Accuracy
  /** Right by {@link isRightLeniently}, those that are equal among them. */
  lenient: Accuracy
}

/** Milliseconds of a stage. */
export interface Latency {
  /** Name of the stage, such as `vision`; `all together` for their sum. */
  stage: string
  /** Questions that were timed. */
  count: number
  /** Mean, in milliseconds. */
  mean: number
  /** Median, in milliseconds: a measured value, as all percentiles here. */
  p50: number
  /** 90th percentile, in milliseconds. */
  p90: number
  /** 99th percentile, in milliseconds. */
  p99: number
  /** The longest, in milliseconds. */
  max: number
}

/** What a report says: scores, settings, and every moment with its questions. */
export interface Report {
  /** Heading of the page. */
  title: string
  /** Name of the model, or of the predictions. */
  model: string
  /** Name of the question file. */
  data: string
  /** What was said about the run: device, precision, settings, … */
  notes: Record<string, string>
  /** Moments, questions in them, those with an answer, those dropped by graph gating, and those that were skipped. */
  totals: { frames: number; questions: number; answered: number; gated: number; problems: number }
  /** The official score; null without a {@link ReportInput.sheet}. */
  score: Omit<ScoreSheet, 'items' | 'graphs'> | null
  /** Over all questions with short references, whether the official score counts them or not. */
  overall: ReportGroup
  /** By {@link Question.kind}, in order of first occurrence. */
  byKind: ReportGroup[]
  /** By cameras that a question names; one that names two counts for both. */
  byCamera: ReportGroup[]
  /** `counts[reference][answer]` of lettered questions; the last answer column is everything that is no letter. */
  letters: { references: string[]; answers: string[]; counts: number[][] }
  /** Answers and references with `from` to `to` words; `to` is null for the last row. */
  lengths: { from: number; to: number | null; answers: number; references: number }[]
  /** A row a stage, the sum last; empty without timings. */
  latency: Latency[]
  /** What was skipped, and why, by question id. */
  problems: { id: string; message: string }[]
  /** Moments in order. */
  frames: ReportFrame[]
}

/** Puts a report together. */
export function buildReport(input: ReportInput): Report {
  const { sheet, answers } = input
  const scored = new Map(sheet?.items.map((item) => [item.id, item]))
  const gated = new Set(sheet?.gated)
  const timings = new Map<string, Record<string, number>>()
  for (const { id, timings: stages } of input.entries ?? []) if (stages) timings.set(id, stages)

  const verdicts: { kind: string; cameras: string[]; exact: boolean; lenient: boolean }[] = []
  const lettered: { reference: string; answer: string }[] = []
  const frames: ReportFrame[] = []
  for (const moment of input.moments) {
    const questions = moment.questions.map((question): ReportQuestion => {
      const { id, kind, text, tags = [] } = question
      const answer = answers.get(id) ?? null
      const reference = question.reference ?? null
      const item = scored.get(id)
      const stages = timings.get(id)
      const short = tags.length === 0 || tags.includes(0)
      let verdict: Verdict = answer === null ? 'unanswered' : reference === null ? 'open' : 'rated'
      if (answer !== null && reference !== null && short) {
        const exact = isExact(answer, reference)
        const lenient = exact || isRightLeniently(answer, reference, text)
        verdict = exact ? 'right' : lenient ? 'close' : 'wrong'
        verdicts.push({ kind, cameras: camerasIn(text), exact, lenient })
        if (/^[A-Z]\.?$/.test(reference)) {
          lettered.push({ reference: reference[0]!, answer: chosenLetter(answer, text) ?? noLetter })
        }
      }
      if (gated.has(id)) verdict = 'gated'
      return {
        id,
        kind,
        tags: [...tags],
        question: text,
        answer,
        reference,
        verdict,
        ...(item?.f1 === undefined ? {} : { f1: item.f1 }),
        ...(item?.judge === undefined ? {} : { judge: item.judge }),
        ...(item?.caption
          ? { rougeL: item.caption.rougeL, cider: item.caption.cider, bleu4: item.caption.bleu[3] }
          : {}),
        ...(stages ? { milliseconds: total(stages) } : {}),
        ...(input.boxesOf ? boxesIn({ asked: text, answer, reference }, moment.views, input.boxesOf) : {}),
      }
    })
    frames.push({
      key: moment.key,
      ...(moment.frame?.scene.description === undefined ? {} : { description: moment.frame.scene.description }),
      views: moment.views,
      objects: (moment.frame?.objects ?? []).map((object) => ({ ...object, camera: cameraOf(object.tag) })),
      questions,
    })
  }

  const all = frames.flatMap((frame) => frame.questions)
  const problems = [...(input.problems ?? []), ...(sheet?.problems ?? [])]
  const group = (name: string, list: typeof verdicts): ReportGroup => ({
    name,
    exact: accuracyOf(list.map(({ exact }) => exact)),
    lenient: accuracyOf(list.map(({ lenient }) => lenient)),
  })
  const kinds = [...new Set(verdicts.map(({ kind }) => kind))]
  const named = cameras.filter((camera) => verdicts.some((verdict) => verdict.cameras.includes(camera)))
  const none = verdicts.filter((verdict) => verdict.cameras.length === 0)
  return {
    title: input.title ?? `${input.model} on ${input.data}`,
    model: input.model,
    data: input.data,
    notes: input.notes ?? {},
    totals: {
      frames: frames.length,
      questions: all.length,
      answered: all.filter(({ answer }) => answer !== null).length,
      gated: gated.size,
      problems: problems.length,
    },
    score: sheet ? withoutItems(sheet) : null,
    overall: group('all', verdicts),
    byKind: kinds.map((kind) =>
      group(
        kind,
        verdicts.filter((verdict) => verdict.kind === kind),
      ),
    ),
    byCamera: [
      ...named.map((camera) =>
        group(
          camera,
          verdicts.filter((verdict) => verdict.cameras.includes(camera)),
        ),
      ),
      ...(none.length > 0 && named.length > 0 ? [group('no camera named', none)] : []),
    ],
    letters: confusion(lettered),
    lengths: lengths(all),
    latency: latencies([...timings.values()]),
    problems,
    frames,
  }
}

/** An answer that has run wild may name thousands. */
const mostBoxes = 100

function boxesIn(
  texts: Record<'asked' | 'answer' | 'reference', string | null>,
  views: Record<string, string>,
  boxesOf: NonNullable<ReportInput['boxesOf']>,
): Pick<ReportQuestion, 'boxes'> {
  const of = (text: string | null): CameraBox[] => (text === null ? [] : boxesOf(text, views).slice(0, mostBoxes))
  const boxes = { asked: of(texts.asked), answer: of(texts.answer), reference: of(texts.reference) }
  return Object.values(boxes).some((list) => list.length > 0) ? { boxes } : {}
}

const noLetter = 'none'

function withoutItems({ items: _items, graphs: _graphs, ...rest }: ScoreSheet): Omit<ScoreSheet, 'items' | 'graphs'> {
  return rest
}

const total = (stages: Record<string, number>): number =>
  stages.totalMs ?? Object.values(stages).reduce((sum, value) => sum + value, 0)

const cameraNames = /\bCAM_(?:FRONT|BACK)(?:_(?:LEFT|RIGHT))?\b/g

function camerasIn(text: string): string[] {
  return [...new Set(text.match(cameraNames))]
}

function cameraOf(tag: string): Camera | null {
  return cameras.find((camera) => camera === camerasIn(tag)[0]) ?? null
}

function confusion(pairs: readonly { reference: string; answer: string }[]): Report['letters'] {
  const references = [...new Set(pairs.map(({ reference }) => reference))].sort()
  const others = new Set(pairs.map(({ answer }) => answer).filter((answer) => answer !== noLetter))
  const answers = [...new Set([...references, ...others])].sort()
  if (pairs.some(({ answer }) => answer === noLetter)) answers.push(noLetter)
  const counts = references.map(() => answers.map(() => 0))
  for (const { reference, answer } of pairs) counts[references.indexOf(reference)]![answers.indexOf(answer)]!++
  return { references, answers, counts }
}

/** Upper bounds of the classes answer lengths are counted in. */
const lengthClasses = [0, 1, 2, 5, 10, 20, 40, 80, 160]

function lengths(questions: readonly ReportQuestion[]): Report['lengths'] {
  const words = (text: string): number => text.split(/\s+/).filter((word) => word !== '').length
  const classOf = (text: string): number => {
    const found = lengthClasses.findIndex((top) => words(text) <= top)
    return found < 0 ? lengthClasses.length : found
  }
  const rows = [...lengthClasses, null].map((to, i) => ({
    from: i === 0 ? 0 : lengthClasses[i - 1]! + 1,
    to,
    answers: 0,
    references: 0,
  }))
  for (const { answer, reference } of questions) {
    if (answer !== null) rows[classOf(answer)]!.answers++
    if (reference !== null) rows[classOf(reference)]!.references++
  }
  const last = rows.findLastIndex((row) => row.answers > 0 || row.references > 0)
  return rows.slice(0, last + 1).filter((row, i) => i > 0 || row.answers + row.references > 0)
}

/** By stage in order of first occurrence, then all together. Percentiles are measured values (nearest rank). */
function latencies(all: readonly Record<string, number>[]): Latency[] {
  const stages = [...new Set(all.flatMap((one) => Object.keys(one)))].filter((stage) => stage !== 'totalMs')
  const row = (stage: string, values: number[]): Latency => {
    const sorted = values.sort((a, b) => a - b)
    const percentile = (share: number): number => sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)]!
    return {
      stage,
      count: sorted.length,
      mean: sorted.reduce((sum, value) => sum + value, 0) / sorted.length,
      p50: percentile(0.5),
      p90: percentile(0.9),
      p99: percentile(0.99),
      max: sorted.at(-1)!,
    }
  }
  const rows = stages.map((stage) =>
    row(
      stage.replace(/Ms$/, ''),
      all.map((one) => one[stage]).filter((value) => value !== undefined),
    ),
  )
  if (all.length > 0) rows.push(row('all together', all.map(total)))
  return rows
}

/** What `drivlm eval` prints: the score sheet, accuracies by kind, and where the files are. */

import { ModelError } from '../errors.ts'
import { accuracyByKind, type KindedAnswer } from '../evaluate/metrics/accuracy.ts'
import { type CaptionScores, scoreCaptions } from '../evaluate/metrics/captions.ts'
import type { Moment } from '../evaluate/questions/types.ts'
import type { Report } from '../evaluate/report/index.ts'
import type { LeftOutCount } from '../evaluate/run/eval.ts'
import { print, printable, printFields, styled } from './terminal.ts'

export interface Shown {
  report: Report
  moments: readonly Moment[]
  /** The data has no reference at all. */
  hidden: boolean
  files: readonly string[]
  /** What of the data no question needs. */
  leftOut: readonly LeftOutCount[]
  /** What of the data was chosen. */
  selected: Record<string, string>
}

/** The report without its frames, and what general question sets have in addition. */
export function sheetJson({ report, moments, files, leftOut }: Shown): unknown {
  const { frames: _frames, ...rest } = report
  return { ...rest, ...extras(report, moments), leftOut, files }
}

export function printSheet(shown: Shown): void {
  const { report, moments, hidden, files, selected } = shown
  const { byKindAndHop, captions } = extras(report, moments)
  const { model, data, totals } = report
  const chosen = Object.entries(selected).map(([name, value]) => `${name} ${value}`)
  print(
    `${styled('bold', printable(model))} on ${printable(data)}${chosen.length > 0 ? ` (${chosen.join(', ')})` : ''}: ` +
      `${totals.answered} of ${count(totals.questions, 'question')} answered, ${count(totals.frames, 'moment')}`,
  )
  if (hidden)
    print(
      '\nThe data hides its answers, so there is nothing to score here; the challenge server can score submission.json.',
    )
  printScore(report)
  printAccuracies(report)
  if (byKindAndHop !== null) {
    print('\nBy kind and number of hops')
    const rows = Object.entries(byKindAndHop).map(([name, { value, count }]) => [name, percent(value), String(count)])
    printTable(['', 'exact', 'questions'], rows)
  }
  if (captions !== null && areSentences(report)) {
    print('\nText metrics over all answers')
    printFields(captionFields(captions))
  }
  if (report.problems.length > 0) {
    print(`\n${count(report.problems.length, 'problem')} skipped`)
    for (const { id, message } of report.problems.slice(0, mostProblems)) {
      print(`  ${printable(id === '' || message.includes(id) ? message : `${id}: ${message}`)}`)
    }
    const more = report.problems.length - mostProblems
    if (more > 0) print(`  and ${more} more${files.length > 0 ? ', all of them in the report' : ''}`)
  }
  for (const { what, count: times, where } of shown.leftOut) {
    print(
      `\nLeft out, as no question needs it: ${printable(what)}, ${count(times, 'time')}, first in ${printable(where)}`,
    )
  }
  if (files.length > 0) {
    print('\nWritten')
    for (const file of files) print(`  ${file}`)
  }
}

const mostProblems = 20

function printScore({ score, totals }: Report): void {
  if (score === null) return
  const { final, accuracy, chatgpt, language, languageScore, match, matchF1, matchJudge, lenientAccuracy, counts } =
    score
  const halves = `coordinate F1 ${fixed(matchF1, 2)}, judge ${fixed(matchJudge, 2)}`
  print('\nDriveLM score')
  printFields([
    [
      'accuracy',
      `${fixed(accuracy, 4)}  ${soft(`${counts.accuracy} questions; leniently ${fixed(lenientAccuracy.value, 4)}, not official`)}`,
    ],
    ['chatgpt', `${fixed(chatgpt, 2)}  ${soft(`${counts.chatgpt} answers, 0 to 100 by the judge`)}`],
    ...(language === null ? [] : captionFields(language)),
    ['language', `${fixed(languageScore, 4)}  ${soft(`${counts.language} answers`)}`],
    ['match', `${fixed(match, 2)}  ${soft(`${counts.match} answers: ${halves}`)}`],
    [styled('bold', 'final'), styled('bold', fixed(final, 4))],
  ])
  for (const sentence of score.missing) print(`  Missing: ${printable(sentence)}`)
  if (totals.gated > 0) {
    print(
      `  ${count(totals.gated, 'question')} not counted: they name objects that the first answer of their frame did not find.`,
    )
  }
}

function captionFields(scores: CaptionScores): [string, string][] {
  const { Bleu_1, Bleu_2, Bleu_3, Bleu_4, ROUGE_L, CIDEr } = scores
  return [
    ['BLEU-1 to 4', [Bleu_1, Bleu_2, Bleu_3, Bleu_4].map((value) => fixed(value, 4)).join('  ')],
    ['ROUGE-L', fixed(ROUGE_L, 4)],
    ['CIDEr', fixed(CIDEr, 4)],
  ]
}

function printAccuracies({ byKind, overall }: Report): void {
  if (overall.exact.count === 0) return
  print('\nRight answers, by kind of question')
  const rows = [...byKind, overall].map(({ name, exact, lenient }) => [
    name,
    percent(exact.value),
    percent(lenient.value),
    String(exact.count),
  ])
  printTable(['', 'exact', 'leniently', 'questions'], rows)
}

function printTable(head: readonly string[], rows: readonly (readonly string[])[]): void {
  const widths = head.map((title, i) => Math.max(title.length, ...rows.map((row) => printable(row[i]!).length)))
  const line = (cells: readonly string[]): string =>
    cells.map((cell, i) => (i === 0 ? printable(cell).padEnd(widths[i]!) : cell.padStart(widths[i]!))).join('  ')
  print(`  ${soft(line(head))}`)
  for (const row of rows) print(`  ${line(row)}`)
}

/** Tables that sets without DriveLM's tags get: NuScenes-QA's hops, and text metrics for sentences. */
function extras(
  { score, frames }: Report,
  moments: readonly Moment[],
): { byKindAndHop: ReturnType<typeof accuracyByKind>['byKindAndHop'] | null; captions: CaptionScores | null } {
  if (score !== null) return { byKindAndHop: null, captions: null }
  const answers = new Map(frames.flatMap(({ questions }) => questions.map(({ id, answer }) => [id, answer])))
  const pairs: KindedAnswer[] = []
  for (const { id, reference, kind, hop } of moments.flatMap(({ questions }) => questions)) {
    const answer = answers.get(id) ?? null
    if (answer !== null && reference !== undefined) pairs.push({ answer, reference, kind, hop })
  }
  const { byKindAndHop } = accuracyByKind(pairs)
  return {
    byKindAndHop: Object.keys(byKindAndHop).length > 0 ? byKindAndHop : null,
    captions: captionsOf(pairs),
  }
}

function captionsOf(pairs: readonly KindedAnswer[]): CaptionScores | null {
  try {
    return scoreCaptions(pairs.map(({ answer, reference }) => ({ answer, references: [reference] }))).corpus
  } catch (error) {
    if (error instanceof ModelError) return null // no answer at all, or none with a word in it
    throw error
  }
}

/** Whether most references are more than a few words: for the others text metrics say nothing. */
function areSentences({ frames }: Report): boolean {
  const references = frames.flatMap(({ questions }) => questions.flatMap(({ reference }) => reference ?? []))
  return references.filter((text) => text.trim().split(/\s+/).length > 3).length * 2 > references.length
}

const soft = (text: string): string => styled('dim', text)
const fixed = (value: number | null, digits: number): string => (value === null ? '–' : value.toFixed(digits))
const percent = (value: number | null): string => (value === null ? '–' : `${(value * 100).toFixed(1)} %`)
const count = (value: number, noun: string): string => `${value} ${noun}${value === 1 ? '' : 's'}`

// Accuracies of short answers: the official one, a lenient one under its own name, and one by kind of question.

import { parseGrounding } from '../../grounding/boxes.ts'
import type { Box } from '../../grounding/geometry.ts'

/** Share of right answers, with the count it comes from; null if there was nothing to answer. */
export interface Accuracy {
  /** `right` over `count`, 0 to 1; null where `count` is 0. */
  value: number | null
  /** Answers that were right. */
  right: number
  /** Answers that were judged. */
  count: number
}

/** The official rule: equal character by character. "No" is not "No.", "A." is not "A", a space at the end is an error. */
export function isExact(answer: string, reference: string): boolean {
  return answer === reference
}

const optionMark = /(?<![\p{L}\p{N}])([A-Z])\.\s+/gu

/** The options a lettered question ends with, `A. … B. …`, by letter; empty if it has none. */
export function optionsOf(question: string): Map<string, string> {
  let marks: RegExpExecArray[] = []
  for (const mark of question.matchAll(optionMark)) {
    if (mark[1] === 'A') marks = [mark]
    else if (marks.length > 0 && mark[1] === String.fromCharCode(65 + marks.length)) marks.push(mark)
  }
  if (marks.length < 2) return new Map()
  return new Map(
    marks.map((mark, i) => [mark[1]!, question.slice(mark.index + mark[0].length, marks[i + 1]?.index).trim()]),
  )
}

/**
 * The option an answer means: a letter it opens with ("B", "B.", "(B) …"), one it announces ("the answer is B"), the only
 * option whose text it holds, or else the first capital letter of the options that stands alone ("A" before a word in small
 * letters is an article). Undefined if none of these.
 */
export function chosenLetter(answer: string, question: string): string | undefined {
  const options = optionsOf(question)
  const isOption = (letter: string | undefined): letter is string =>
    letter !== undefined && (options.size > 0 ? options.has(letter) : /[A-D]/.test(letter))
  const said = answer.trim()

  const opening = /^[(["'*]*([A-Z])(?:[)\].:,"'*]|$)/.exec(said)?.[1]
  if (isOption(opening)) return opening
  const announced = /\b(?:answer|option|choice)(?: is)?:? [(["'*]*([A-Z])(?![\p{L}\p{N}])/iu
    .exec(said)?.[1]
    ?.toUpperCase()
  if (isOption(announced)) return announced

  const plain = (text: string): string => text.toLowerCase().replace(/[\s.]+$/, '')
  const named = [...options].filter(([, text]) => text !== '' && said.toLowerCase().includes(plain(text)))
  if (named.length === 1) return named[0]![0]

  for (const { 1: letter, index } of said.matchAll(/(?<![\p{L}\p{N}])([A-Z])(?![\p{L}\p{N}'’])/gu)) {
    if (isOption(letter) && !(letter === 'A' && /^ \p{Ll}/u.test(said.slice(index + 1)))) return letter
  }
  return undefined
}

/**
 * The lenient rule, never part of the official score. A lettered reference compares by {@link chosenLetter}, a yes/no reference
 * by the first of these words, `<box>` references by their boxes alone (as many, each with an intersection over union of at least
 * 0.5), anything else without regard to case, spaces around and a final period.
 */
export function isRightLeniently(answer: string, reference: string, question: string): boolean {
  const letter = /^\s*([A-Z])\.?\s*$/.exec(reference)?.[1]
  if (letter) return chosenLetter(answer, question) === letter
  const verdict = /^\s*(yes|no)\b/i.exec(reference)?.[1]?.toLowerCase()
  if (verdict) return /\b(yes|no)\b/i.exec(answer)?.[1]?.toLowerCase() === verdict
  if (reference.includes('<box>')) {
    const wanted = boxesOf(reference)
    if (wanted.length > 0) return sameBoxes(boxesOf(answer), wanted)
  }
  const plain = (text: string): string => text.trim().toLowerCase().replace(/\.$/, '')
  return plain(answer) === plain(reference)
}

const boxesOf = (text: string): Box[] => parseGrounding(text).objects.flatMap(({ boxes }) => boxes)

/** Thousandths stretch both boxes alike, so their overlap is that in pixels. */
function sameBoxes(found: readonly Box[], wanted: readonly Box[]): boolean {
  if (found.length !== wanted.length) return false
  const left = [...found]
  return wanted.every((box) => {
    const at = left.findIndex((one) => overlap(one, box) >= 0.5)
    if (at >= 0) left.splice(at, 1)
    return at >= 0
  })
}

/** Intersection over union. */
function overlap(a: Box, b: Box): number {
  const area = ([x1, y1, x2, y2]: Box): number => Math.max(0, x2 - x1) * Math.max(0, y2 - y1)
  const shared = area([Math.max(a[0], b[0]), Math.max(a[1], b[1]), Math.min(a[2], b[2]), Math.min(a[3], b[3])])
  const union = area(a) + area(b) - shared
  return union > 0 ? shared / union : Number(a.join() === b.join())
}

/** Accuracy of a list of verdicts. */
export function accuracyOf(verdicts: readonly boolean[]): Accuracy {
  const right = verdicts.filter(Boolean).length
  return { value: verdicts.length > 0 ? right / verdicts.length : null, right, count: verdicts.length }
}

/** A short answer with what it should be, as NuScenes-QA and similar sets have them. */
export interface KindedAnswer {
  /** What the model said. */
  answer: string
  /** What is right. */
  reference: string
  /** Kind of question, `exist`, `count`, …; NuScenes-QA's `template_type`. */
  kind?: string | undefined
  /** NuScenes-QA's `num_hop`. */
  hop?: number | undefined
}

/** Exact accuracy overall, by kind, and by kind and hop (`exist H0`), in order of first occurrence. */
export interface KindAccuracy {
  /** Over all answers. */
  overall: Accuracy
  /** By {@link KindedAnswer.kind}, of the answers that have one. */
  byKind: Record<string, Accuracy>
  /** By kind and hop, such as `exist H0`, of the answers that have a hop; `any` stands for a kind that is missing. */
  byKindAndHop: Record<string, Accuracy>
}

/** Accuracy the way NuScenes-QA reports it: exact strings, overall, by kind, and by kind and number of hops. */
export function accuracyByKind(answers: readonly KindedAnswer[]): KindAccuracy {
  const group = (keyOf: (item: KindedAnswer) => string | undefined): Record<string, Accuracy> => {
    const verdicts = new Map<string, boolean[]>()
    for (const item of answers) {
      const key = keyOf(item)
      if (key === undefined) continue
      const list = verdicts.get(key) ?? []
      list.push(isExact(item.answer, item.reference))
      verdicts.set(key, list)
    }
    return Object.fromEntries([...verdicts].map(([key, list]) => [key, accuracyOf(list)]))
  }
  return {
    overall: accuracyOf(answers.map((item) => isExact(item.answer, item.reference))),
    byKind: group((item) => item.kind),
    byKindAndHop: group((item) => (item.hop === undefined ? undefined : `${item.kind ?? 'any'} H${item.hop}`)),
  }
}

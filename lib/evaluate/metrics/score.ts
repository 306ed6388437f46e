// DriveLM's official score: four groups of questions by tag, graph gating, and the weights that make one number of them.
//
//   tag 0   accuracy    exact strings                             0..1     weight 0.2
//   tag 1   chatgpt     mean of the judge                         0..100   weight 0.4
//   tag 2   language    BLEU-1..4, ROUGE-L, CIDEr of one corpus   0..1     weight 0.2
//   tag 3   match       mean of coordinate F1 and the judge       0..100   weight 0.2
//
// Kept as they are: CIDEr is divided by 10 and the others are not; `_UNK` is rewritten in references only (captions.ts); a group without a
// question stops the official script with a division by zero, which is null here and an error in strict mode.

import { ModelError } from '../../errors.ts'
import { describeValue } from '../../messages.ts'
import type { Question } from '../questions/types.ts'
import { type Accuracy, accuracyOf, isExact, isRightLeniently } from './accuracy.ts'
import { type CaptionItemScores, type CaptionScores, scoreCaptions } from './captions.ts'
import { foreignIds, foreignPrediction } from './foreign.ts'
import { type Graph, graphOf, passesGraph } from './graph.ts'
import { type Judge, judged } from './judge.ts'
import { matchPoints } from './match.ts'

/** Questions of one frame, in the order they are numbered in. Only the fields used here. */
export interface ScoredMoment {
  /** Tells the frame apart, `<scene>_<frame>`. */
  key: string
  /** Its questions; the first one sets the graph that gates the others. */
  questions: readonly Pick<Question, 'id' | 'text' | 'number' | 'reference' | 'tags' | 'kind'>[]
}

/** How answers are scored: the judge, the gates between questions, what is done about gaps. */
export interface ScoreOptions {
  /** Rates tag-1 and tag-3 answers. Without it these parts, and the final score, are null. */
  judge?: Judge | undefined
  /** Answers that are with the judge at the same time. Default 4. */
  judgeConcurrency?: number | undefined
  /** An empty group or a missing judge is an error instead of null. Default false. */
  strict?: boolean | undefined
  /** `official`: graph gating by the first question of a frame. `none` scores every question. Default `official`. */
  gating?: 'official' | 'none' | undefined
  /** List what is wrong with the data in {@link ScoreSheet.problems} and score the rest. Default false: the first one throws. */
  keepGoing?: boolean | undefined
  /** Leave questions without a prediction out instead of calling them a problem, for runs over a part of the data. */
  partial?: boolean | undefined
}

/** What is known about one scored question. */
export interface ScoredItem {
  /** Of the question. */
  id: string
  /** Of its frame, as {@link ScoredMoment.key}. */
  key: string
  /** As {@link Question.kind}. */
  kind: string
  /** What it is scored by: 0 accuracy, 1 judge, 2 language, 3 match. */
  tags: readonly number[]
  /** As it was given. */
  answer: string
  /** What it should be. */
  reference: string
  /** Equal character by character; tag 0. */
  exact?: boolean
  /** {@link isRightLeniently}; tag 0. */
  lenient?: boolean
  /** What the judge gave, 0 to 100; tags 1 and 3. */
  judge?: number
  /** Coordinate F1, 0 to 1; tag 3. */
  f1?: number
  /** BLEU, ROUGE-L and CIDEr; tag 2. */
  caption?: CaptionItemScores
}

/** The parts of the final score on their own scales. */
export interface ScoreParts {
  /** Share of tag-0 answers that equal their references, 0 to 1. */
  accuracy: number | null
  /** Mean of the judge over tag 1, 0 to 100. */
  chatgpt: number | null
  /** Caption metrics over tag 2. */
  language: CaptionScores | null
  /** Mean of coordinate F1 and judge over tag 3, 0 to 100. */
  match: number | null
}

/** All of the official score. Null stands for what could not be computed; {@link ScoreSheet.missing} says why. */
export interface ScoreSheet extends ScoreParts {
  /** {@link finalScore} of the parts, 0 to 1. */
  final: number | null
  /** The language group as it enters the final score, 0 to 1. */
  languageScore: number | null
  /** Mean coordinate F1 in percent: the half of match that needs no judge. */
  matchF1: number | null
  /** Mean judge score of tag-3 answers: the other half. */
  matchJudge: number | null
  /** Not part of the official score: {@link isRightLeniently} over tag 0. */
  lenientAccuracy: Accuracy
  /** Answers that each part was computed from. */
  counts: { accuracy: number; chatgpt: number; language: number; match: number }
  /** One sentence for every part that is null. */
  missing: string[]
  /** Scored questions in order. */
  items: ScoredItem[]
  /** Questions dropped by graph gating. */
  gated: string[]
  /** Questions without a prediction, with `partial`. */
  unanswered: string[]
  /** Objects that the first answer of each frame found, by the key of the frame; with gating. */
  graphs: Record<string, Graph>
  /** With `keepGoing`: what was wrong, by question id. */
  problems: { id: string; message: string }[]
}

/** The language group as one number: the mean of BLEU-1..4, ROUGE-L and a tenth of CIDEr, a third each. */
export function languageScore(scores: CaptionScores): number {
  const { Bleu_1, Bleu_2, Bleu_3, Bleu_4, ROUGE_L, CIDEr } = scores
  return (Bleu_1 + Bleu_2 + Bleu_3 + Bleu_4) / 4 / 3 + ROUGE_L / 3 + CIDEr / 10 / 3
}

/** The final score, null unless all parts are there. */
export function finalScore({ accuracy, chatgpt, language, match }: ScoreParts): number | null {
  if (accuracy === null || chatgpt === null || language === null || match === null) return null
  return 0.4 * (chatgpt / 100) + 0.2 * languageScore(language) + 0.2 * (match / 100) + 0.2 * accuracy
}

const mean = (values: readonly number[]): number | null =>
  values.length > 0 ? values.reduce((sum, value) => sum + value, 0) / values.length : null

/**
 * Scores predictions the official way.
 *
 * @param moments - Ground truth, frame by frame in file order; `readMoments` gives them.
 * @param predictions - Answer by question id, exactly as the model gave it: nothing is trimmed or folded.
 * @throws {@link ModelError} `BAD_DATA` for a question without a prediction, a prediction for an unknown question, hidden
 *   references, and odd counts of coordinates; see `keepGoing` and `partial`.
 *
 * @example
 * const sheet = await scoreDrivelm(readMoments('test_eval.json'), predictions, { judge })
 * console.log(sheet.final ?? sheet.missing)
 */
export async function scoreDrivelm(
  moments: Iterable<ScoredMoment> | AsyncIterable<ScoredMoment>,
  predictions: ReadonlyMap<string, string>,
  options: ScoreOptions = {},
): Promise<ScoreSheet> {
  const {
    judge,
    judgeConcurrency = 4,
    gating = 'official',
    keepGoing = false,
    partial = false,
    strict = false,
  } = options
  if (!(Number.isSafeInteger(judgeConcurrency) && judgeConcurrency > 0)) {
    throw new ModelError(
      'BAD_ARGUMENT',
      `Expected a positive whole number for options.judgeConcurrency, received ${describeValue(judgeConcurrency)}.`,
    )
  }
  const items: ScoredItem[] = []
  const gated: string[] = []
  const unanswered: string[] = []
  const problems: { id: string; message: string }[] = []
  const graphs: Record<string, Graph> = Object.create(null)
  const known = new Set<string>()
  const toJudge: { item: ScoredItem; text: string }[] = []
  let hidden = 0

  const problem = (id: string, error: unknown): void => {
    if (!keepGoing || !(error instanceof ModelError)) throw error
    problems.push({ id, message: error.message })
  }

  for await (const { key, questions } of moments) {
    let graph: Graph = []
    for (const [i, { id, text, number = i, reference, tags = [], kind }] of questions.entries()) {
      known.add(id)
      if (reference === undefined) hidden++
      const answer = predictions.get(id)
      if (answer === undefined) {
        unanswered.push(id)
        if (number === 0) graphs[key] = graph
        continue
      }
      try {
        const wanted = reference ?? ''
        if (gating === 'official') {
          if (number === 0) graph = graphs[key] = graphOf(answer, wanted, `The reference of ${id}`)
          else if (!passesGraph(graph, text, `Question ${id}`)) {
            gated.push(id)
            continue
          }
        }
        const item: ScoredItem = { id, key, kind, tags, answer, reference: wanted }
        if (tags.includes(0)) {
          item.exact = isExact(answer, wanted)
          item.lenient = isRightLeniently(answer, wanted, text)
        }
        if (tags.includes(3)) item.f1 = matchPoints(answer, wanted, `The reference of ${id}`).f1
        items.push(item)
        if (judge && (tags.includes(1) || tags.includes(3))) toJudge.push({ item, text })
      } catch (error) {
        problem(id, error)
      }
    }
  }

  if (hidden === known.size) {
    throw new ModelError(
      'BAD_DATA',
      known.size === 0
        ? 'The data holds no question to score.'
        : `The data hides the answers of all its ${hidden} questions, so only the challenge server can score it.`,
    )
  }
  const foreign = [...predictions.keys()].filter((id) => !known.has(id))
  const whose = keepGoing ? '' : foreignIds(foreign, predictions.size)
  for (const id of partial ? [] : unanswered) {
    problem(id, new ModelError('BAD_DATA', `No prediction for question ${id} (${unanswered.length} missing).${whose}`))
  }
  for (const id of foreign) problem(id, foreignPrediction(id, foreign.length > 1 ? whose : ''))
  const failed = new Set<ScoredItem>()
  const queue = toJudge.values() // one iterator, shared by all who judge
  const work = async (): Promise<void> => {
    for (const { item, text } of queue) {
      try {
        item.judge = await judged(judge!, text, item.answer, item.reference, item.id)
      } catch (error) {
        failed.add(item)
        if (!keepGoing) toJudge.length = 0 // the others stop as well
        problem(item.id, error)
      }
    }
  }
  await Promise.all(Array.from({ length: Math.min(judgeConcurrency, toJudge.length) }, work))

  const scored = items.filter((item) => !failed.has(item))
  return { ...summarise(scored, judge !== undefined, strict, keepGoing), gated, unanswered, graphs, problems }
}

type Summary = Omit<ScoreSheet, 'gated' | 'unanswered' | 'graphs' | 'problems'>

function summarise(items: ScoredItem[], hasJudge: boolean, strict: boolean, keepGoing: boolean): Summary {
  const tagged = (tag: number): ScoredItem[] => items.filter((item) => item.tags.includes(tag))
  const [short, rated, captions, located] = [tagged(0), tagged(1), tagged(2), tagged(3)]
  const missing: string[] = []
  const group = <T>(name: string, of: readonly unknown[], needsJudge: boolean, value: () => T | null): T | null => {
    if (of.length === 0) missing.push(`${name}: no question of this group was scored.`)
    else if (needsJudge && !hasJudge) missing.push(`${name}: ${of.length} answers need a judge, and none was given.`)
    else return value()
    return null
  }

  const attempt = <T>(value: () => T): T | null => {
    try {
      return value()
    } catch (error) {
      if (!keepGoing || !(error instanceof ModelError)) throw error
      missing.push(`language: ${error.message}`)
      return null
    }
  }

  const accuracy = group('accuracy', short, false, () => mean(short.map((item) => Number(item.exact))))
  const chatgpt = group('chatgpt', rated, true, () => mean(rated.map((item) => item.judge!)))
  const language = group('language', captions, false, () => {
    const pairs = captions.map(({ answer, reference }) => ({ answer, references: [reference] }))
    const scores = attempt(() => scoreCaptions(pairs))
    if (!scores) return null
    for (const [i, item] of captions.entries()) item.caption = scores.items[i]!
    return scores.corpus
  })
  const matchF1 = mean(located.map((item) => item.f1! * 100))
  const matchJudge = hasJudge ? mean(located.map((item) => item.judge!)) : null
  const match = group('match', located, true, () => (matchF1! + matchJudge!) / 2)
  if (strict && missing.length > 0) {
    throw new ModelError('BAD_DATA', `The final score cannot be computed: ${missing.join(' ')}`)
  }
  const parts: ScoreParts = { accuracy, chatgpt, language, match }
  return {
    final: finalScore(parts),
    ...parts,
    languageScore: language && languageScore(language),
    matchF1,
    matchJudge,
    lenientAccuracy: accuracyOf(short.map((item) => item.lenient === true)),
    counts: { accuracy: short.length, chatgpt: rated.length, language: captions.length, match: located.length },
    missing,
    items,
  }
}

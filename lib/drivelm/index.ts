/**
 * DriveLM: reading its files, asking its questions, and the official score with all its parts. Also the caption metrics, for any
 * corpus, and accuracies for other driving question sets. The entry `drivlm/drivelm`; what it exports lives in `lib/evaluate`.
 *
 * @packageDocumentation
 */

export * from '../evaluate/metrics/accuracy.ts'
export { type BleuScores, bleu, type CaptionItem } from '../evaluate/metrics/bleu.ts'
export * from '../evaluate/metrics/captions.ts'
export { cider } from '../evaluate/metrics/cider.ts'
export * from '../evaluate/metrics/graph.ts'
export { type Judge, judgeFrom, parseJudgement } from '../evaluate/metrics/judge.ts'
export {
  decimals,
  type MatchResult,
  matchPoints,
  type Point,
  pointsOf,
  pointsOfAnswer,
} from '../evaluate/metrics/match.ts'
export { ptbLines, tokenizeCaptions, withoutPunctuation } from '../evaluate/metrics/ptb-tokenizer.ts'
export { rougeL, rougeLItem } from '../evaluate/metrics/rouge.ts'
export * from '../evaluate/metrics/score.ts'
export * from '../evaluate/questions/extract.ts'
export { type LeftOut, type ReadOptions, readFrames } from '../evaluate/questions/frames.ts'
export * from '../evaluate/questions/question-files.ts'
export * from '../evaluate/questions/selection.ts'
export * from '../evaluate/questions/types.ts'
export * from '../evaluate/report/index.ts'
export * from '../evaluate/run/eval.ts'
export { type JournalEntry, type RunIdentity, readJournal, type SyncPolicy } from '../evaluate/run/journal.ts'
export { type EvalAskOptions, evalModel, type LoadedModel } from '../evaluate/run/loaded-model.ts'
export { mergeRuns } from '../evaluate/run/merge.ts'
export { type OutputFiles, outputJson, type Submission, submissionJson } from '../evaluate/run/outputs.ts'
export { readJudgements, readPredictions } from '../evaluate/run/predictions.ts'

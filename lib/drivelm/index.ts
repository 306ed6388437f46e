/**
 * DriveLM: reading its files, asking its questions, and the official score with all its parts. Also the caption metrics, for any
 * corpus, and accuracies for other driving question sets.
 *
 * @packageDocumentation
 */

export * from './accuracy.ts'
export { type BleuScores, bleu, type CaptionItem } from './bleu.ts'
export * from './captions.ts'
export { cider } from './cider.ts'
export * from './eval.ts'
export * from './extract.ts'
export { type LeftOut, type ReadOptions, readFrames } from './frames.ts'
export * from './graph.ts'
export { type JournalEntry, type RunIdentity, readJournal, type SyncPolicy } from './journal.ts'
export { type Judge, judgeFrom, parseJudgement } from './judge.ts'
export { type EvalAskOptions, evalModel, type LoadedModel } from './loaded-model.ts'
export { decimals, type MatchResult, matchPoints, type Point, pointsOf, pointsOfAnswer } from './match.ts'
export { mergeRuns } from './merge.ts'
export { type OutputFiles, outputJson, type Submission, submissionJson } from './outputs.ts'
export { readJudgements, readPredictions } from './predictions.ts'
export { ptbLines, tokenizeCaptions, withoutPunctuation } from './ptb-tokenizer.ts'
export * from './question-files.ts'
export * from './report/index.ts'
export { rougeL, rougeLItem } from './rouge.ts'
export * from './score.ts'
export * from './selection.ts'
export * from './types.ts'

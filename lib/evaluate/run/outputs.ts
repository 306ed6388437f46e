// What the challenge takes: the list of answers, and the submission that wraps it.

import { writeWhole } from '../../whole-file.ts'
import type { Prediction } from '../questions/types.ts'

/** What the challenge server takes. */
export interface Submission {
  /** Name of the method. */
  method: string
  /** Name of the team. */
  team: string
  /** Their names. */
  authors: string[]
  /** Where the team is reached. */
  email: string
  /** Of the team. */
  institution: string
  /** Of the team. */
  country: string
  /** An answer a question. */
  results: readonly Prediction[]
}

/** Text of `output.json`: the same answers give the same bytes. */
export function outputJson(results: readonly Prediction[]): string {
  return `${JSON.stringify(
    results.map(({ id, question, answer }) => ({ id, question, answer })),
    null,
    1,
  )}\n`
}

/** Text of `submission.json`; fields that are not given stay empty, to be filled in before it is sent. */
export function submissionJson(submission: Partial<Submission> & Pick<Submission, 'results'>): string {
  const { method = '', team = '', authors = [], email = '', institution = '', country = '', results } = submission
  const plain = results.map(({ id, question, answer }) => ({ id, question, answer }))
  return `${JSON.stringify({ method, team, authors, email, institution, country, results: plain }, null, 1)}\n`
}

/** Paths of the files in the challenge's form. */
export interface OutputFiles {
  /** Path of `output.json`, the list of answers. */
  output: string
  /** Path of `submission.json`, which wraps the list. */
  submission: string
}

/** Writes both. */
export async function writeOutputs(
  files: OutputFiles,
  results: readonly Prediction[],
  submission: Partial<Omit<Submission, 'results'>> | undefined,
): Promise<void> {
  await writeWhole(files.output, outputJson(results))
  await writeWhole(files.submission, submissionJson({ ...submission, results }))
}

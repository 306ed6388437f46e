/** Choosing among given answers by how likely they are. */
import type { TokenLogprob } from './answer.ts'
import { ModelError } from './errors.ts'
import { tokenLogprobs } from './generation.ts'
import { runJob } from './job.ts'
import type { NativeEvicted, NativeModel } from './native.ts'
import type { ChooseOptions } from './options.ts'
import { encodeAnswer, type ScenePrompt } from './text/prompt.ts'
import type { Template } from './text/templates.ts'
import type { Tokenizer } from './text/tokenizer.ts'

/** What `choose` found. */
export interface Choice {
  /** Number of the likeliest choice. */
  index: number
  /** The likeliest choice, as it was given. */
  choice: string
  /** Natural-log likelihood of each choice, normalised as asked for. */
  logprobs: number[]
  /** The same as shares of 1: how likely each choice is, given that it is one of them. */
  probabilities: number[]
}

/** What `score` found. */
export interface Score {
  /** Sum over the tokens. */
  logprob: number
  /** The answer's tokens, in order. */
  tokens: (TokenLogprob & { logprob: number })[]
}

export interface ScoringRequest {
  native: NativeModel
  tokenizer: Tokenizer
  template: Template
  prompt: ScenePrompt
  scene: number
  claim: number
  question: string
  answers: readonly string[]
  /** Id of the token that ends an answer, to be counted too. */
  end: number | undefined
  signal: AbortSignal | undefined
}

/** Scores answers to one question, sharing its cache. */
export async function score(request: ScoringRequest): Promise<Score[] | NativeEvicted> {
  const { native, tokenizer, template, prompt, scene, claim, question, answers, end, signal } = request
  const { ids, continuations } = encodeAnswers(tokenizer, template, prompt, question, answers, end)
  const start = (job: number) => native.score({ job, scene, claim, ids, continuations, vocabLimit: tokenizer.size })
  const rows = await runJob(signal, start, (job) => native.cancel(job))
  if ('claim' in rows) return rows
  return rows.map((row, i) => ({
    logprob: row.reduce((sum, one) => sum + one, 0),
    tokens: tokenLogprobs(tokenizer, continuations[i]!, row) as Score['tokens'],
  }))
}

/**
 * Question and answer are encoded as one text, as they stood in training: a piece may reach over the end of the question. What all the
 * answers have in common with the question alone is the shared part.
 */
function encodeAnswers(
  tokenizer: Tokenizer,
  template: Template,
  prompt: ScenePrompt,
  question: string,
  answers: readonly string[],
  end: number | undefined,
): { ids: Int32Array; continuations: Int32Array[] } {
  const alone = encodeAnswer(tokenizer, template, prompt, question, '')
  const whole = answers.map((answer) => encodeAnswer(tokenizer, template, prompt, question, answer))
  let shared = alone.length
  for (const ids of whole) {
    let same = 0
    while (same < shared && ids[same] === alone[same]) same++
    shared = same
  }
  const continuations = whole.map((ids) => {
    const rest = ids.subarray(shared)
    return end === undefined ? rest : Int32Array.from([...rest, end])
  })
  return { ids: alone.subarray(0, shared), continuations }
}

/** The likeliest of several scored choices. */
export function pick(choices: readonly string[], scores: readonly Score[], { normalise }: ChooseOptions): Choice {
  const logprobs = scores.map(({ logprob, tokens }, i) => {
    if (normalise === 'bytes') return logprob / Buffer.byteLength(choices[i]!)
    return normalise ? logprob / tokens.length : logprob
  })
  const top = Math.max(...logprobs)
  const index = logprobs.indexOf(top)
  const weights = logprobs.map((one) => Math.exp(one - top))
  const sum = weights.reduce((total, one) => total + one, 0)
  return { index, choice: choices[index]!, logprobs, probabilities: weights.map((one) => one / sum) }
}

const mostChoices = 4096

/** @throws {@link ModelError} `BAD_ARGUMENT` unless they are strings that say something. */
export function checkChoices(choices: unknown): asserts choices is readonly string[] {
  const sound =
    Array.isArray(choices) &&
    choices.length > 0 &&
    choices.length <= mostChoices &&
    choices.every((one) => typeof one === 'string' && one !== '')
  if (sound) return
  throw new ModelError('BAD_ARGUMENT', `Expected a list of 1 to ${mostChoices} strings as choices, none of them empty.`)
}

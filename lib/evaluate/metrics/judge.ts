// The judge of free-text answers. The challenge asks gpt-3.5-turbo for a number out of 100, which nobody can reproduce, so here
// it is whatever the caller brings: a function, or numbers collected earlier.

import { ModelError } from '../../errors.ts'

/**
 * Rates an answer against its reference, 0 to 100. The id of the question comes last for judges that look it up.
 *
 * @example
 * const judge: Judge = async (question, answer, reference) => (answer === reference ? 100 : 0)
 */
export type Judge = (question: string, answer: string, reference: string, id: string) => Promise<number>

const numeral = /^[+-]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)([eE][+-]?\d+)?$/

/**
 * The number in a judge's reply: after trimming it must be one and nothing else, as in the official script, and from 0 to 100, which
 * that script does not check.
 *
 * @param reply - What the judge wrote, or the number that was read of it.
 * @throws {@link ModelError} `BAD_DATA` for anything else.
 */
export function parseJudgement(reply: string | number, what = 'The judge'): number {
  if (typeof reply === 'number') return inRange(reply, what)
  const text = reply.trim()
  if (!numeral.test(text)) {
    throw new ModelError(
      'BAD_DATA',
      `${what} replied ${JSON.stringify(text.slice(0, 80))}, expected a number only, from 0 to 100.`,
    )
  }
  return inRange(Number(text.replaceAll('_', '')), what)
}

function inRange(value: number, what: string): number {
  if (value >= 0 && value <= 100) return value
  throw new ModelError('BAD_DATA', `${what}: expected a number from 0 to 100, found ${value}.`)
}

/** Calls a judge and checks what comes back. */
export async function judged(
  judge: Judge,
  question: string,
  answer: string,
  reference: string,
  id: string,
): Promise<number> {
  const value = await judge(question, answer, reference, id)
  if (!(typeof value === 'number' && value >= 0 && value <= 100)) {
    throw new ModelError('BAD_DATA', `The judge gave ${String(value)} for ${id}, expected a number from 0 to 100.`)
  }
  return value
}

/**
 * A judge that looks up what another one said before.
 *
 * @param judgements - Number by question id.
 * @param source - Named in errors, a file usually.
 */
export function judgeFrom(judgements: ReadonlyMap<string, number>, source = 'The judgements'): Judge {
  return async (_question, _answer, _reference, id) => {
    const value = judgements.get(id)
    if (value === undefined) {
      const [some] = judgements.keys()
      const other = some === undefined ? 'it is empty' : `it has ${judgements.size}, for ${some} and so on`
      throw new ModelError('BAD_DATA', `${source}: no judgement for question ${id}; ${other}.`)
    }
    return value
  }
}

/** What each learned token counts in the loss of a step (spec/adaptation.md, section 7). */

export const lossReductions = ['token', 'sample', 'square'] as const

/** `token`: all tokens alike. `sample`: all samples alike. `square`, as published: between both, a sample counts as √(its tokens). */
export type LossReduction = (typeof lossReductions)[number]

/** Weight of each of the `learned` tokens of a sample, before the step's are made to add up to 1. */
export function tokenWeight(reduction: LossReduction, learned: number): number {
  if (reduction === 'token') return 1
  return reduction === 'sample' ? 1 / learned : 1 / Math.sqrt(learned)
}

/** Makes the weights of all packs of a step add up to 1 together, in place. */
export function normaliseWeights(packs: readonly { weights: Float64Array }[]): void {
  let sum = 0
  for (const { weights } of packs) for (const weight of weights) sum += weight
  for (const { weights } of packs) for (let i = 0; i < weights.length; i++) weights[i]! /= sum
}

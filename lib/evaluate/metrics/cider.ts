// CIDEr of tokenised captions on its raw scale of 0 to 10. The name is kept, but it has the clipping, the length penalty and
// the factor 10 of CIDEr-D.
//
// Document frequencies come from the references that are being scored, so a caption's value depends on the others: a corpus
// of one item, or one whose references all are the same, scores 0 even for identical text.

import { ModelError } from '../../errors.ts'
import type { CaptionItem } from './bleu.ts'
import { countNGrams } from './n-grams.ts'
import { splitWords } from './ptb-tokenizer.ts'

const orders = [1, 2, 3, 4] as const
const sigma2 = 6 ** 2

/** Weighted n-grams of a caption, by order. */
interface Vector {
  weights: Map<string, number>[]
  norms: number[]
  /** Number of bigrams: the penalty compares these. */
  bigrams: number
}

function vector(words: readonly string[], logItems: number, frequency: ReadonlyMap<string, number>): Vector {
  const weights: Map<string, number>[] = []
  const norms: number[] = []
  for (const order of orders) {
    const weighted = new Map<string, number>()
    let squares = 0
    for (const [gram, times] of countNGrams(words, order)) {
      const weight = times * (logItems - Math.log(Math.max(1, frequency.get(gram) ?? 0)))
      weighted.set(gram, weight)
      squares += weight * weight
    }
    weights.push(weighted)
    norms.push(Math.sqrt(squares))
  }
  return { weights, norms, bigrams: Math.max(0, words.length - 1) }
}

function similarity(hypothesis: Vector, reference: Vector): number {
  const penalty = Math.exp(-((hypothesis.bigrams - reference.bigrams) ** 2) / (2 * sigma2))
  let mean = 0
  for (const [i, weights] of hypothesis.weights.entries()) {
    let sum = 0
    for (const [gram, weight] of weights) {
      const wanted = reference.weights[i]!.get(gram) ?? 0
      sum += Math.min(weight, wanted) * wanted
    }
    const norm = hypothesis.norms[i]! * reference.norms[i]!
    mean += (norm === 0 ? sum : sum / norm) * penalty
  }
  return mean / orders.length
}

/**
 * CIDEr of a corpus (the mean) and of each of its items.
 *
 * @throws {@link ModelError} `BAD_DATA` if no reference holds any word, where the reference implementation fails as well.
 */
export function cider(items: readonly CaptionItem[]): { corpus: number; items: number[] } {
  const references = items.map((item) => item.references.map(splitWords))
  const frequency = new Map<string, number>()
  for (const ofItem of references) {
    const grams = new Set(ofItem.flatMap((words) => orders.flatMap((order) => [...countNGrams(words, order).keys()])))
    for (const gram of grams) frequency.set(gram, (frequency.get(gram) ?? 0) + 1)
  }
  if (frequency.size === 0) {
    throw new ModelError('BAD_DATA', 'CIDEr needs at least one reference with a word in it, found none.')
  }
  const logItems = Math.log(items.length)
  const each = items.map((item, i) => {
    const hypothesis = vector(splitWords(item.hypothesis), logItems, frequency)
    let sum = 0
    for (const words of references[i]!) sum += similarity(hypothesis, vector(words, logItems, frequency))
    return (10 * sum) / item.references.length
  })
  return { corpus: each.reduce((sum, value) => sum + value, 0) / each.length, items: each }
}

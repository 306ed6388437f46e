// ROUGE-L of tokenised captions: F-measure of the longest common subsequence, beta 1.2.
//
// Unlike BLEU and CIDEr it splits at every single U+0020: a token holding U+00A0 stays one word, and an empty caption is one
// empty word, so two empty captions score 1.

import type { CaptionItem } from './bleu.ts'

const beta2 = 1.2 ** 2

function commonLength(a: readonly string[], b: readonly string[]): number {
  let previous = new Int32Array(b.length + 1)
  let current = new Int32Array(b.length + 1)
  for (const word of a) {
    for (let i = 0; i < b.length; i++) {
      current[i + 1] = word === b[i] ? previous[i]! + 1 : Math.max(previous[i + 1]!, current[i]!)
    }
    ;[previous, current] = [current, previous]
  }
  return previous[b.length]!
}

/** ROUGE-L of one item. The best precision and the best recall may come from different references. */
export function rougeLItem({ hypothesis, references }: CaptionItem): number {
  const words = hypothesis.split(' ')
  let precision = 0
  let recall = 0
  for (const reference of references) {
    const referenceWords = reference.split(' ')
    const common = commonLength(words, referenceWords)
    precision = Math.max(precision, common / words.length)
    recall = Math.max(recall, common / referenceWords.length)
  }
  return precision === 0 || recall === 0 ? 0 : ((1 + beta2) * precision * recall) / (recall + beta2 * precision)
}

/** ROUGE-L of a corpus (the mean) and of each of its items. */
export function rougeL(items: readonly CaptionItem[]): { corpus: number; items: number[] } {
  const each = items.map(rougeLItem)
  return { corpus: each.reduce((sum, value) => sum + value, 0) / each.length, items: each }
}

// BLEU-1..4 of tokenised captions, as the caption evaluation code defines it: corpus values from summed counts (not means of
// item values), no smoothing but two tiny constants. Because of these an identical caption scores 0.9999999…, not 1, and a
// one-word caption that matches has BLEU-1 of about 1 but BLEU-2 of about 0.001 (0/0 counts as 1e-15/1e-9).

import { countNGrams } from './n-grams.ts'
import { splitWords } from './ptb-tokenizer.ts'

const tiny = 1e-15
const small = 1e-9

/** BLEU-1, BLEU-2, BLEU-3, BLEU-4. */
export type BleuScores = [number, number, number, number]

/** One hypothesis and its references, all tokenised. */
export interface CaptionItem {
  /** Words of the caption, with a blank between them. */
  hypothesis: string
  /** The same of what it should be; one or more. */
  references: readonly string[]
}

interface Counts {
  length: number
  referenceLength: number
  guessed: number[]
  correct: number[]
}

function count({ hypothesis, references }: CaptionItem): Counts {
  const words = splitWords(hypothesis)
  const referenceWords = references.map(splitWords)
  const guessed: number[] = []
  const correct: number[] = []
  for (let order = 1; order <= 4; order++) {
    const limits = referenceWords.map((reference) => countNGrams(reference, order))
    let matched = 0
    for (const [gram, times] of countNGrams(words, order)) {
      matched += Math.min(times, Math.max(0, ...limits.map((limit) => limit.get(gram) ?? 0)))
    }
    guessed.push(Math.max(0, words.length - order + 1))
    correct.push(matched)
  }
  // The reference length closest to the caption's, the shorter one on ties.
  const [referenceLength = 0] = referenceWords
    .map((reference) => reference.length)
    .sort((a, b) => Math.abs(a - words.length) - Math.abs(b - words.length) || a - b)
  return { length: words.length, referenceLength, guessed, correct }
}

function evaluate({ length, referenceLength, guessed, correct }: Counts): BleuScores {
  const ratio = (length + tiny) / (referenceLength + small)
  const brevity = ratio < 1 ? Math.exp(1 - 1 / ratio) : 1
  let product = 1
  return correct.map((matched, i) => {
    product *= (matched + tiny) / (guessed[i]! + small)
    return product ** (1 / (i + 1)) * brevity
  }) as BleuScores
}

/** BLEU of a corpus and of each of its items. */
export function bleu(items: readonly CaptionItem[]): { corpus: BleuScores; items: BleuScores[] } {
  const total: Counts = { length: 0, referenceLength: 0, guessed: [0, 0, 0, 0], correct: [0, 0, 0, 0] }
  const each = items.map((item) => {
    const counts = count(item)
    total.length += counts.length
    total.referenceLength += counts.referenceLength
    for (let i = 0; i < 4; i++) {
      total.guessed[i]! += counts.guessed[i]!
      total.correct[i]! += counts.correct[i]!
    }
    return evaluate(counts)
  })
  return { corpus: evaluate(total), items: each }
}

// The three caption metrics over one corpus, from plain text.

import { ModelError } from '../../errors.ts'
import { type BleuScores, bleu, type CaptionItem } from './bleu.ts'
import { cider } from './cider.ts'
import { tokenizeCaptions } from './ptb-tokenizer.ts'
import { rougeL } from './rouge.ts'

/** Corpus values under the names the evaluation code prints. CIDEr is raw, 0 to 10; the others 0 to 1. */
export interface CaptionScores {
  /** BLEU over single words, 0 to 1. */
  Bleu_1: number
  /** BLEU up to pairs of words, 0 to 1. */
  Bleu_2: number
  /** BLEU up to three words, 0 to 1. */
  Bleu_3: number
  /** BLEU up to four words, 0 to 1. */
  Bleu_4: number
  /** ROUGE-L, 0 to 1. */
  ROUGE_L: number
  /** CIDEr, 0 to 10. */
  CIDEr: number
}

/** One caption within its corpus. */
export interface CaptionItemScores {
  /** The caption as the metrics saw it: its words, with a blank between them. */
  tokens: string
  /** The same of each reference. */
  referenceTokens: string[]
  /** BLEU-1 to BLEU-4, 0 to 1 each. */
  bleu: BleuScores
  /** ROUGE-L, 0 to 1. */
  rougeL: number
  /** CIDEr, 0 to 10; it depends on the other references of the corpus. */
  cider: number
}

/** A text and what it should be; usually one reference, several are allowed. */
export interface CaptionPair {
  /** What is scored. */
  answer: string
  /** What it should be; at least one. */
  references: readonly string[]
}

/**
 * BLEU-1..4, ROUGE-L and CIDEr of a corpus, as the package that DriveLM scores with gives them. That one rewrites its marker of unknown
 * words, `_UNK`, to `_UNKNOWN` in references and not in answers, so a text that holds it does not match itself.
 * Values depend on the whole corpus and its order (see ptb-tokenizer.ts), so score
 * all texts of a run together.
 *
 * @throws {@link ModelError} `BAD_DATA` for an empty corpus, a pair without references, references without any word, and
 *   texts whose line breaks left no line for a later caption.
 */
export function scoreCaptions(pairs: readonly CaptionPair[]): { corpus: CaptionScores; items: CaptionItemScores[] } {
  if (pairs.length === 0) throw new ModelError('BAD_DATA', 'Expected at least one caption to score, found none.')
  const bare = pairs.findIndex((pair) => pair.references.length === 0)
  if (bare >= 0) throw new ModelError('BAD_DATA', `Caption ${bare} has no reference to score it against.`)

  const answers = complete(tokenizeCaptions(pairs.map((pair) => pair.answer)))
  const references = complete(tokenizeCaptions(pairs.flatMap((pair) => pair.references.map(withoutMarker))))
  let at = 0
  const items: CaptionItem[] = pairs.map((pair, i) => {
    at += pair.references.length
    return { hypothesis: answers[i]!, references: references.slice(at - pair.references.length, at) }
  })

  const bleuScores = bleu(items)
  const rougeScores = rougeL(items)
  const ciderScores = cider(items)
  const [Bleu_1, Bleu_2, Bleu_3, Bleu_4] = bleuScores.corpus
  return {
    corpus: { Bleu_1, Bleu_2, Bleu_3, Bleu_4, ROUGE_L: rougeScores.corpus, CIDEr: ciderScores.corpus },
    items: items.map((item, i) => ({
      tokens: item.hypothesis,
      referenceTokens: [...item.references],
      bleu: bleuScores.items[i]!,
      rougeL: rougeScores.items[i]!,
      cider: ciderScores.items[i]!,
    })),
  }
}

const withoutMarker = (reference: string): string => reference.replaceAll('_UNK', '_UNKNOWN')

function complete(lines: (string | undefined)[]): string[] {
  const missing = lines.indexOf(undefined)
  if (missing >= 0)
    throw new ModelError('BAD_DATA', `Tokenising left no line for caption ${missing} of ${lines.length}.`)
  return lines as string[]
}

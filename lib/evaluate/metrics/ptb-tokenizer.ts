// The tokeniser that BLEU, ROUGE-L and CIDEr of captions are defined over: Penn Treebank tokens, lower-cased, without 17
// punctuation words. Scores of two papers compare only if their tokens do, so every quirk of the reference is kept:
//
// * Captions are joined by LF and read as one text, so a rule that looks ahead sees into the next caption, and a CR (or VT,
//   FF, U+2028, U+2029) inside a caption shifts all captions behind it by a line.
// * "A." keeps its period and differs from "A"; the comma before a number belongs to the number.
// * Punctuation is dropped after lower-casing, so "-LRB-" has become "-lrb-" and stays: round brackets count as words.
//
// At each position the rule whose match with its look-ahead is longest wins, the earlier one on ties.

import { Automaton } from '../../automata/patterns.ts'
import { Machine, type Match, type Vain } from '../../automata/scanner.ts'
import { lineBreakRule, type Piece, rules } from './ptb-rules.ts'

interface Tokenizer {
  main: Machine
  /** For rules that look ahead: body and look-ahead alone, to find where the one ends. */
  split: (readonly [body: Machine, ahead: Machine] | undefined)[]
}

let built: Tokenizer | undefined

function tokenizer(): Tokenizer {
  if (built) return built
  const automaton = new Automaton(65_536)
  const start = automaton.state()
  const labels = new Map<number, number>()
  const alone = rules.map(({ body, ahead }, rule) => {
    const bodyEnd = body(automaton, automaton.after(start))
    // The end gets a state of its own: a shared one would carry two labels.
    labels.set(automaton.after(ahead ? ahead(automaton, bodyEnd) : bodyEnd), rule)
    if (!ahead) return undefined
    return [body, ahead].map((pattern) => {
      const from = automaton.state()
      return [from, pattern(automaton, from)] as const
    })
  })
  automaton.seal()
  const machine = ([from, end]: readonly [number, number]): Machine => new Machine(automaton, from, new Map([[end, 0]]))
  built = {
    main: new Machine(automaton, start, labels),
    split: alone.map((pair) => pair && ([machine(pair[0]!), machine(pair[1]!)] as const)),
  }
  return built
}

/** Where the body ends in a match that includes look-ahead: as late as both parts allow. */
function bodyEnd(parts: readonly [Machine, Machine], text: string, from: number, end: number): number {
  const [body, ahead] = parts
  for (const split of body.ends(text, from, end).reverse()) {
    if (ahead.ends(text, split, end).at(-1) === end) return split
  }
  return end
}

/**
 * Penn Treebank tokens of a text, lower-cased, punctuation kept; one string a line, tokens joined by a space.
 *
 * @example
 * ptbLines('Is <c1,CAM_BACK,1088.3,497.5> moving?') // ['is < c1 , cam_back ,1088.3,497.5 > moving ?']
 */
export function ptbLines(text: string): string[] {
  const { main, split } = tokenizer()
  const vain: Vain = new Set()
  const out: string[] = []
  let lineStart = true
  for (let at = 0; at < text.length; ) {
    const match = main.longest(text, at, vain)
    if (!match) {
      at++ // nothing matches: the code unit is dropped
      continue
    }
    const { token, used } = recognise(match, text, at, split[match.label])
    at += used
    if (match.label === lineBreakRule - 1) {
      out.push('\n')
      lineStart = true
    } else if (token !== undefined) {
      if (!lineStart) out.push(' ')
      out.push(token.toLowerCase())
      lineStart = false
    }
  }
  return out.join('').split('\n') // a quoted value inside markup may hold an LF, and splits as well
}

function recognise(match: Match, text: string, from: number, parts: readonly [Machine, Machine] | undefined): Piece {
  const body = text.slice(from, parts ? bodyEnd(parts, text, from, match.end) : match.end)
  return rules[match.label]!.make?.(body) ?? { token: body, used: body.length }
}

const dropped = new Set([
  "''",
  "'",
  '``',
  '`',
  '-LRB-',
  '-RRB-',
  '-LCB-',
  '-RCB-',
  '.',
  '?',
  '!',
  ',',
  ':',
  '-',
  '--',
  '...',
  ';',
])

/** Whitespace in Python's sense, which the metrics' reference is written in: with U+001C to U+001F, without U+FEFF. */
const pythonSpace = new Set(
  '\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000',
)

/** Words between runs of whitespace; none of them empty. A token that holds U+00A0 becomes several words. */
export function splitWords(text: string): string[] {
  const words: string[] = []
  let start = 0
  for (let at = 0; at <= text.length; at++) {
    if (at < text.length && !pythonSpace.has(text[at]!)) continue
    if (at > start) words.push(text.slice(start, at))
    start = at + 1
  }
  return words
}

function trimEnd(line: string): string {
  let end = line.length
  while (end > 0 && pythonSpace.has(line[end - 1]!)) end--
  return line.slice(0, end)
}

/** A tokenised line without its punctuation words. */
export function withoutPunctuation(line: string): string {
  return trimEnd(line)
    .split(' ')
    .filter((token) => !dropped.has(token))
    .join(' ')
}

/**
 * Tokenises the captions of one side of a corpus the way the caption metrics do: as one document.
 *
 * @returns A tokenised caption each. Undefined where no line was left for a caption; surplus lines are ignored.
 */
export function tokenizeCaptions(captions: readonly string[]): (string | undefined)[] {
  const lines = ptbLines(captions.map((caption) => caption.replaceAll('\n', ' ')).join('\n'))
  return captions.map((_, i) => (lines[i] === undefined ? undefined : withoutPunctuation(lines[i])))
}

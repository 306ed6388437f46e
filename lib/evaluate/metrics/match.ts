// Coordinates in free text, and how far an answer's points agree with a reference's.

import { ModelError } from '../../errors.ts'

/** A place in the picture of a camera, in pixels. */
export type Point = readonly [x: number, y: number]

const digitRuns = /\p{Nd}+/gu

/**
 * All decimal numbers of a text: digits, a dot, digits. Integers are invisible, signs and exponents are not read, and decimal
 * digits of any script count by their value. "1.2.3" is 1.2 and a lone 3.
 */
export function decimals(text: string): number[] {
  // Run by run: one pattern with two repetitions would walk a long row of digits again from each of its digits.
  const numbers: number[] = []
  let whole: { digits: string; end: number } | undefined
  for (const { 0: digits, index } of text.matchAll(digitRuns)) {
    if (whole && index === whole.end + 1 && text[whole.end] === '.') {
      numbers.push(Number(`${asciiDigits(whole.digits)}.${asciiDigits(digits)}`))
      whole = undefined
    } else whole = { digits, end: index + digits.length }
  }
  return numbers
}

function asciiDigits(digits: string): string {
  return digits.replace(/[^0-9]/gu, (digit) => String(digitValue(digit.codePointAt(0)!)))
}

/** Decimal digits come in rows of ten, so the place in a row (rows may touch) is the value. */
function digitValue(codePoint: number): number {
  let first = codePoint
  while (/\p{Nd}/u.test(String.fromCodePoint(first - 1))) first--
  return (codePoint - first) % 10
}

/** Numbers of a text taken two by two; a last one without a partner is dropped. Camera names and c-numbers play no part. */
export function pointsOfAnswer(text: string): Point[] {
  const numbers = decimals(text)
  return Array.from({ length: Math.floor(numbers.length / 2) }, (_, i) => [numbers[2 * i]!, numbers[2 * i + 1]!])
}

/**
 * Numbers of a question or reference taken two by two.
 *
 * @throws {@link ModelError} `BAD_DATA` for an odd count, where the official script stops as well.
 */
export function pointsOf(text: string, what = 'text'): Point[] {
  const points = pointsOfAnswer(text)
  const count = decimals(text).length
  if (count % 2 === 1) {
    throw new ModelError('BAD_DATA', `${what} holds ${count} decimal numbers, expected x, y pairs: ${excerpt(text)}`)
  }
  return points
}

function excerpt(text: string): string {
  return JSON.stringify(text.length > 160 ? `${text.slice(0, 160)}…` : text)
}

/** L1 distance in pixels below which two points are the same object. */
const reach = 16
const epsilon = 1e-8

/** How well the points of an answer are those of its reference. */
export interface MatchResult {
  /** Reference points that were found, in the order they were taken. */
  matched: Point[]
  /** 0 to 1. The constant in its denominators keeps a perfect answer just below 1. */
  f1: number
}

/**
 * Matches an answer's points to a reference's: each takes the nearest one that is left if that is strictly nearer than 16
 * pixels (|dx| + |dy|). Greedy in reading order, so not always the best assignment.
 *
 * @throws {@link ModelError} `BAD_DATA` if the reference holds an odd count of decimal numbers.
 */
export function matchPoints(answer: string, reference: string, what = 'The reference'): MatchResult {
  const left = pointsOf(reference, what)
  const wanted = left.length
  const matched: Point[] = []
  let wrong = 0
  for (const [x, y] of pointsOfAnswer(answer)) {
    let nearest = -1
    let distance = Number.POSITIVE_INFINITY
    for (const [i, [gx, gy]] of left.entries()) {
      const apart = Math.abs(x - gx) + Math.abs(y - gy)
      if (apart < distance) {
        nearest = i
        distance = apart
      }
    }
    if (distance < reach) matched.push(...left.splice(nearest, 1))
    else wrong++
  }
  const found = matched.length
  const precision = found / (found + wrong + epsilon)
  const recall = found / (wanted + epsilon) // tp + (n - tp)
  return { matched, f1: (2 * precision * recall) / (precision + recall + epsilon) }
}

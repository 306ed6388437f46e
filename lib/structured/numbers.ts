/** Numbers in decimal, within bounds. */
import { choice, literal, oneOf, optional, type Pattern, repeat, sequence } from '../automata/byte-patterns.ts'

/** Digits that a double holds exactly. */
const mostDigits = 15
export const largestInteger: number = 10 ** mostDigits - 1

const digit = oneOf([0x30, 0x39])
const fraction = sequence(literal('.'), repeat(digit, 1, mostDigits))
const zeros = sequence(literal('.'), repeat(literal('0'), 1, mostDigits))

/** Whole numbers from `low` to `high`, ends included, without leading zeros. */
export function integers(low: number, high: number): Pattern {
  const options: Pattern[] = []
  if (low < 0) options.push(sequence(literal('-'), naturals(Math.max(1, -high), -low)))
  if (high >= 0) options.push(naturals(Math.max(0, low), high))
  return choice(...options)
}

/** Numbers from `low` to `high`, whole bounds: with or without a fraction of up to 15 digits, never an exponent. */
export function numbers(low: number, high: number): Pattern {
  const options: Pattern[] = []
  if (low < 0) options.push(sequence(literal('-'), magnitudes(Math.max(0, -high), -low)))
  if (high >= 0) options.push(magnitudes(Math.max(0, low), high))
  return choice(...options)
}

function magnitudes(low: number, high: number): Pattern {
  const last = sequence(naturals(high, high), optional(zeros))
  return low === high ? last : choice(sequence(naturals(low, high - 1), optional(fraction)), last)
}

function naturals(low: number, high: number): Pattern {
  const options: Pattern[] = []
  for (let length = String(low).length; length <= String(high).length; length++) {
    const least = Math.max(low, length === 1 ? 0 : 10 ** (length - 1))
    options.push(sameLength(String(least), String(Math.min(high, 10 ** length - 1))))
  }
  return choice(...options)
}

/** Digit strings from `low` to `high`, of one length. */
function sameLength(low: string, high: string): Pattern {
  const length = low.length
  if (length === 0) return literal('')
  if (/^0*$/.test(low) && /^9*$/.test(high)) return repeat(digit, length, length)
  const [first, last] = [low.charCodeAt(0), high.charCodeAt(0)]
  if (first === last) return sequence(literal(low[0]!), sameLength(low.slice(1), high.slice(1)))
  const rest = length - 1
  const options = [
    sequence(literal(low[0]!), sameLength(low.slice(1), '9'.repeat(rest))),
    sequence(literal(high[0]!), sameLength('0'.repeat(rest), high.slice(1))),
  ]
  if (last - first > 1) options.push(sequence(oneOf([first + 1, last - 1]), repeat(digit, rest, rest)))
  return choice(...options)
}

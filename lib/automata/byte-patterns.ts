/** Patterns over the bytes of an answer. They all have at least one word. */
import { alt, type CharSet, one, opt, type Pattern, seq, times } from './patterns.ts'

const encoder = new TextEncoder()
const single: CharSet[] = Array.from({ length: 256 }, (_, byte) => [[byte, byte]])

/** Exactly this text, in UTF-8. */
export function literal(text: string): Pattern {
  return seq(...Array.from(encoder.encode(text), (byte) => one(single[byte]!)))
}

/** One byte of these ranges, ends included. */
export function oneOf(...ranges: CharSet): Pattern {
  return one(ranges)
}

export function choice(...options: readonly Pattern[]): Pattern {
  return options.length === 1 ? options[0]! : alt(...options)
}

/** `first`, then `separator` and `of` over and over: so many of `of` in all, at least one. */
export function separated(of: Pattern, separator: Pattern, least: number, most: number): Pattern {
  return seq(of, times(Math.max(0, least - 1), most - 1, seq(separator, of)))
}

export { opt as optional, type Pattern, seq as sequence }

export function repeat(of: Pattern, least: number, most: number): Pattern {
  return times(least, most, of)
}

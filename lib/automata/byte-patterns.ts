/** Languages of bytes, put together from small ones. They all have at least one word. */

/** What an answer's bytes may be. */
export type Pattern =
  | { kind: 'bytes'; bytes: Uint8Array }
  /** One byte of these ranges, ends included. */
  | { kind: 'byte'; ranges: readonly (readonly [number, number])[] }
  | { kind: 'sequence'; parts: readonly Pattern[] }
  | { kind: 'choice'; options: readonly Pattern[] }
  | { kind: 'repeat'; of: Pattern; least: number; most: number }

const encoder = new TextEncoder()

/** Exactly this text, in UTF-8. */
export function literal(text: string): Pattern {
  return { kind: 'bytes', bytes: encoder.encode(text) }
}

export function oneOf(...ranges: readonly (readonly [number, number])[]): Pattern {
  return { kind: 'byte', ranges }
}

export function sequence(...parts: readonly Pattern[]): Pattern {
  return { kind: 'sequence', parts }
}

export function choice(...options: readonly Pattern[]): Pattern {
  return options.length === 1 ? options[0]! : { kind: 'choice', options }
}

export function repeat(of: Pattern, least: number, most: number): Pattern {
  return { kind: 'repeat', of, least, most }
}

export function optional(of: Pattern): Pattern {
  return repeat(of, 0, 1)
}

/** `first`, then `separator` and `of` over and over: so many of `of` in all, at least one. */
export function separated(of: Pattern, separator: Pattern, least: number, most: number): Pattern {
  return sequence(of, repeat(sequence(separator, of), Math.max(0, least - 1), most - 1))
}

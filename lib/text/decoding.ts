/**
 * Ids to text, one id at a time. Decoding at once is the same machine run to its end, so a stream cannot differ from it.
 * No push ever returns half a character: bytes that may still become one are held back.
 */

/** Decodes one sequence; `push` for each id, then `finish` once. */
export interface IncrementalDecoder {
  push(id: number): string
  finish(): string
}

export interface DecodeOptions {
  /** Leave special tokens out. */
  skipSpecial?: boolean
  /**
   * `<ref>`, `<box>`, `<quad>` and their closers: `keep` prints them as they are, `drop` leaves them out, and `reference` (the
   * default) does what the reference does with the special tokens of this checkpoint.
   */
  tags?: 'reference' | 'keep' | 'drop'
}

/** What a decoder does with an id before any vocabulary rule. */
export type IdAction = 'drop' | 'verbatim' | 'text'

/** What decoders need to know of a vocabulary. */
export interface DecodeVocabulary {
  /** Content of the id, undefined for ids that are none. */
  tokenOf(id: number): string | undefined
  isAdded(id: number): boolean
  action(id: number): IdAction
}

/** Byte-level vocabularies: characters stand for bytes by the GPT-2 table. */
export class ByteLevelDecoder implements IncrementalDecoder {
  readonly #vocabulary: DecodeVocabulary
  readonly #utf8 = new TextDecoder('utf-8', { ignoreBOM: true })

  constructor(vocabulary: DecodeVocabulary) {
    this.#vocabulary = vocabulary
  }

  push(id: number): string {
    const token = this.#vocabulary.tokenOf(id)
    const action = this.#vocabulary.action(id)
    if (token === undefined || action === 'drop') return ''
    if (this.#vocabulary.isAdded(id)) return this.finish() + token
    return this.#utf8.decode(bytesOfToken(token), { stream: true })
  }

  finish(): string {
    return this.#utf8.decode()
  }
}

/** GPT-2's printable stand-ins for bytes. */
export const byteCharacters: readonly string[] = (() => {
  const out: string[] = []
  let next = 256
  for (let byte = 0; byte < 256; byte++) {
    const printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae
    out.push(String.fromCharCode(printable ? byte : next++))
  }
  return out
})()

const byteOfCharacter = new Map(byteCharacters.map((character, byte) => [character, byte]))
const utf8Encoder = new TextEncoder()

/** A token with any character outside the table stands for its own UTF-8, as in the compiled library. */
export function bytesOfToken(token: string): Uint8Array {
  const bytes = new Uint8Array(token.length)
  for (let i = 0; i < token.length; i++) {
    const byte = byteOfCharacter.get(token[i]!)
    if (byte === undefined) return utf8Encoder.encode(token)
    bytes[i] = byte
  }
  return bytes
}

const bytePiece = /^<0x([0-9A-Fa-f]{2})>$/

/** `<0xNN>`. */
export function bytePieceName(byte: number): string {
  return `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`
}

/** The byte that a piece `<0xNN>` stands for. */
export function byteOfPiece(piece: string): number | undefined {
  if (piece.length !== 6) return undefined
  const match = bytePiece.exec(piece)
  return match ? Number.parseInt(match[1]!, 16) : undefined
}

const replacement = '\ufffd'

/** SentencePiece's reading of byte pieces: each byte that starts no whole character becomes one U+FFFD. */
export class ByteRun {
  #pending: number[] = []

  push(byte: number): string {
    this.#pending.push(byte)
    return this.#drain(false)
  }

  flush(): string {
    return this.#pending.length === 0 ? '' : this.#drain(true)
  }

  #drain(last: boolean): string {
    let out = ''
    while (this.#pending.length > 0) {
      const [first = 0, ...rest] = this.#pending
      const need =
        first < 0x80 ? 0 : (first & 0xe0) === 0xc0 ? 1 : (first & 0xf0) === 0xe0 ? 2 : (first & 0xf8) === 0xf0 ? 3 : -1
      const trail = rest.slice(0, Math.max(need, 0))
      const sound = need >= 0 && trail.every((byte) => (byte & 0xc0) === 0x80)
      if (sound && trail.length < need && !last) return out
      const whole = sound && trail.length === need ? codePoint(first, trail) : undefined
      out += whole === undefined ? replacement : String.fromCodePoint(whole)
      this.#pending.splice(0, whole === undefined ? 1 : need + 1)
    }
    return out
  }
}

function codePoint(first: number, trail: number[]): number | undefined {
  if (trail.length === 0) return first
  let value = first & (0x3f >> trail.length)
  for (const byte of trail) value = value * 64 + (byte & 0x3f)
  const least = [0, 0x80, 0x800, 0x10000][trail.length]!
  return value >= least && value <= 0x10ffff && !(value >= 0xd800 && value <= 0xdfff) ? value : undefined
}

const spacesRemoved: readonly [string, string][] = [
  [' .', '.'],
  [' ?', '?'],
  [' !', '!'],
  [' ,', ','],
  [" ' ", "'"],
  [" n't", "n't"],
  [" 'm", "'m"],
  [" 's", "'s"],
  [" 've", "'ve"],
  [" 're", "'re"],
]

/** The library's `clean_up_tokenization`, one replacement after the other, on a stream. InternLM2's tokenizer always applies it. */
export class SpaceCleaner {
  readonly #held: string[] = spacesRemoved.map(() => '')

  push(text: string): string {
    return this.#run(text, false)
  }

  /** What was held back; the next push starts a new text. */
  flush(): string {
    return this.#run('', true)
  }

  #run(text: string, last: boolean): string {
    let passing = text
    for (const [stage, [from, to]] of spacesRemoved.entries()) {
      const input = this.#held[stage] + passing
      let out = ''
      let at = 0
      for (let hit = input.indexOf(from); hit >= 0; hit = input.indexOf(from, at)) {
        out += input.slice(at, hit) + to
        at = hit + from.length
      }
      const rest = input.slice(at)
      const hold = last ? 0 : heldPrefix(rest, from)
      this.#held[stage] = rest.slice(rest.length - hold)
      passing = out + rest.slice(0, rest.length - hold)
    }
    return passing
  }
}

/** Length of the longest end of `text` that is a proper beginning of `pattern`. */
export function heldPrefix(text: string, pattern: string): number {
  for (let length = Math.min(pattern.length - 1, text.length); length > 0; length--) {
    if (text.endsWith(pattern.slice(0, length))) return length
  }
  return 0
}

/** How a `tokenizer.json` of the Llama kind turns tokens into text. */
export interface FallbackDecoderRules {
  replace: [string, string][]
  byteFallback: boolean
  /** Strings cut from the start of the whole text, so many times at most. */
  strip?: { content: string; start: number }
  /** Metaspace: blanks for this character, none in the first token. */
  metaspace?: { character: string; dropFirst: boolean }
}

/**
 * The compiled library's decoder for byte-fallback vocabularies: a run of byte tokens is one string if all of it is valid UTF-8
 * and as many U+FFFD as bytes if not. So a run is held back until it ends.
 */
export class FallbackDecoder implements IncrementalDecoder {
  readonly #vocabulary: DecodeVocabulary
  readonly #rules: FallbackDecoderRules
  #run: number[] = []
  #first = true
  #stripLeft: number

  constructor(vocabulary: DecodeVocabulary, rules: FallbackDecoderRules) {
    this.#vocabulary = vocabulary
    this.#rules = rules
    this.#stripLeft = rules.strip?.start ?? 0
  }

  push(id: number): string {
    let token = this.#vocabulary.tokenOf(id)
    const action = this.#vocabulary.action(id)
    if (token === undefined || action === 'drop') return ''
    if (action === 'verbatim') return this.#strip(this.#flushRun() + token)
    for (const [from, to] of this.#rules.replace) token = token.replaceAll(from, to)
    const { metaspace } = this.#rules
    if (metaspace) token = token.replaceAll(metaspace.character, this.#first && metaspace.dropFirst ? '' : ' ')
    this.#first = false
    const byte = this.#rules.byteFallback ? byteOfPiece(token) : undefined
    if (byte !== undefined) {
      this.#run.push(byte)
      return ''
    }
    return this.#strip(this.#flushRun() + token)
  }

  finish(): string {
    return this.#strip(this.#flushRun())
  }

  #flushRun(): string {
    if (this.#run.length === 0) return ''
    const bytes = Uint8Array.from(this.#run)
    this.#run = []
    try {
      return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
    } catch {
      return replacement.repeat(bytes.length)
    }
  }

  #strip(text: string): string {
    const { strip } = this.#rules
    let out = text
    while (strip && this.#stripLeft > 0 && out !== '') {
      if (!out.startsWith(strip.content)) this.#stripLeft = 0
      else {
        out = out.slice(strip.content.length)
        this.#stripLeft--
      }
    }
    return out
  }
}

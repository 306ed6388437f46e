/** What a tokenizer of the family is to the rest of the package. */
import { ModelError } from '../errors.ts'
import { groundingTags, type TextPart } from './added-tokens.ts'
import type { DecodeOptions, IdAction, IncrementalDecoder } from './decoding.ts'

export interface EncodeOptions {
  /** Put bos first where this tokenizer adds one. Default true; without effect for those that add none. */
  addBos?: boolean
  /**
   * The text goes on behind this added token, which ends what was encoded before: no bos, no blank for the start of a text,
   * and white space that the token swallows is gone. encode(a + token) and then encode(b, { after: token }) are
   * encode(a + token + b).
   */
  after?: string
}

export interface Tokenizer {
  readonly rules: 'internlm2' | 'llama' | 'tokenizer.json' | 'qwen2'
  /** One more than the largest id. Rows of the embedding past it belong to no token. */
  readonly size: number
  /** Beginning-of-sequence token, if the files name one. */
  readonly bosId: number | undefined
  /** Padding token, if the files name one. */
  readonly paddingId: number | undefined
  /** `bos_token`, `eos_token` and their like, which chat templates print. */
  readonly namedTokens: Readonly<Record<string, string>>
  /** Whether encoding puts bos first. */
  readonly addsBos: boolean
  /** What to know about these files, and what to do: ids of some texts differ from those of training. */
  readonly warning: string | undefined
  /** Ids left out by `decode` with `skipSpecial`. */
  readonly specialIds: ReadonlySet<number>
  readonly addedIds: ReadonlySet<number>
  /**
   * Ids of a text. Lone surrogates become U+FFFD. Control tokens (`<|im_end|>`, `<IMG_CONTEXT>`, …) in parts that are not trusted
   * are encoded as the letters they are made of; `<ref>` and `<box>` stay tokens, region questions need them.
   */
  encode(text: string | readonly TextPart[], options?: EncodeOptions): number[]
  decode(ids: Iterable<number>, options?: DecodeOptions): string
  /** Decodes one sequence id by id. */
  decoder(options?: DecodeOptions): IncrementalDecoder
  idOf(token: string): number | undefined
  tokenOf(id: number): string | undefined
  /**
   * The bytes that a token adds to a text, whatever stands around it; none for added and control tokens, which are no text. Decoding
   * may differ at the start of a text, see {@link leadingBlank}, and InternLM2's removes blanks before punctuation.
   */
  bytesOf(id: number): Uint8Array
  /** Whether a text may begin with a piece whose blank is not part of the text: SentencePiece's `▁`. */
  readonly leadingBlank: boolean
  /** Added tokens of a text and where they end, in order: places where a prompt may be cut. Bos is not among them. */
  addedTokensIn(text: string | readonly TextPart[]): { content: string; end: number }[]
}

/** Runs a decoder to its end. */
export function decodeAll(decoder: IncrementalDecoder, ids: Iterable<number>): string {
  let text = ''
  for (const id of ids) text += decoder.push(id)
  return text + decoder.finish()
}

/** The ids behind the first `token`, which the text began with. */
export function idsBehind(ids: number[], token: number | undefined, content: string): number[] {
  const at = token === undefined ? -1 : ids.indexOf(token)
  if (at >= 0) return ids.slice(at + 1)
  throw new ModelError(
    'BAD_TOKENIZER',
    `The tokenizer does not find its token ${content} before this text, so a prompt cannot go on behind it; take the tokenizer files from the model's repository.`,
  )
}

/** What the options say about each id. */
export function idAction(tokenizer: Tokenizer, options: DecodeOptions): (id: number) => IdAction {
  const tags = new Set(
    groundingTags.map((tag) => tokenizer.idOf(tag)).filter((id) => id !== undefined && tokenizer.addedIds.has(id)),
  )
  const mode = options.tags ?? 'reference'
  return (id) => {
    if (mode !== 'reference' && tags.has(id)) return mode === 'keep' ? 'verbatim' : 'drop'
    return options.skipSpecial && tokenizer.specialIds.has(id) ? 'drop' : 'text'
  }
}

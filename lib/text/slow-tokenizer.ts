/**
 * The rules of the two slow Python tokenizers over SentencePiece that the reference runs: InternLM2Tokenizer and LlamaTokenizer
 * (Phi-3). Text is cut at added tokens and each stretch is encoded by itself.
 *
 * - InternLM2: stretches as they are; no blank is invented.
 * - Llama, `legacy: false`: one `▁` goes before the whole text, the model's own dummy prefix is off, and a `▁` left alone before
 *   a listed special token is dropped. `<|user|>` and its like are not listed, so `▁` (29871) stays before them.
 * - Llama, `legacy: true`: every stretch gets the model's dummy prefix.
 */
import { type AddedTokenSearch, PythonSearch, type Section } from './added-token-search.ts'
import { isControl, joinParts, type Ranges, type TextPart } from './added-tokens.ts'
import {
  ByteRun,
  byteOfPiece,
  type DecodeOptions,
  type DecodeVocabulary,
  type IncrementalDecoder,
  SpaceCleaner,
} from './decoding.ts'
import { pieceType, SentencePieceEncoder, type SentencePieceModel } from './sentencepiece.ts'
import { decodeAll, type EncodeOptions, idAction, idsBehind, type Tokenizer } from './tokenizer.ts'
import type { TokenizerFiles } from './tokenizer-files.ts'

const utf8 = new TextEncoder()
const space = '\u2581'

export class SlowTokenizer implements Tokenizer {
  readonly rules: 'internlm2' | 'llama'
  readonly size: number
  readonly bosId: number | undefined
  readonly paddingId: number | undefined
  readonly namedTokens: Readonly<Record<string, string>>
  readonly addsBos: boolean
  readonly warning = undefined
  readonly specialIds: ReadonlySet<number>
  readonly addedIds: ReadonlySet<number>
  readonly #legacy: boolean
  readonly #encoder: SentencePieceEncoder
  readonly #search: AddedTokenSearch
  readonly #addedById = new Map<number, string>()
  readonly #addedByContent = new Map<string, number>()
  readonly #ownText: ReadonlySet<number>
  /** Ids of the unknown token's own letters; the reference encodes them in front of a text to keep its first blank. */
  readonly #unkLetters: number

  constructor(rules: 'internlm2' | 'llama', legacy: boolean, model: SentencePieceModel, files: TokenizerFiles) {
    this.rules = rules
    this.#legacy = legacy
    const added = files.added
    const listed = files.listedSpecial
    this.#encoder = new SentencePieceEncoder(model, rules === 'llama' && !legacy ? { addDummyPrefix: false } : {})
    let top = model.pieces.length - 1
    for (const token of added) {
      this.#addedById.set(token.id, token.content)
      this.#addedByContent.set(token.content, token.id)
      top = Math.max(top, token.id)
    }
    this.size = top + 1
    this.addedIds = new Set(this.#addedById.keys())
    const controls = new Set(added.filter((token) => isControl(token, listed)).map((token) => token.id))
    this.#search = new PythonSearch(added, controls)
    this.specialIds = new Set([...listed].map((content) => this.idOf(content)).filter((id) => id !== undefined))
    this.bosId = files.bos === undefined ? undefined : this.idOf(files.bos)
    this.namedTokens = files.namedTokens
    this.paddingId = files.pad === undefined ? undefined : this.idOf(files.pad)
    this.addsBos = files.addBos && this.bosId !== undefined
    const ownText = added.filter(
      (token) =>
        !listed.has(token.content) || (files.additionalSpecial.has(token.content) && token.id >= model.pieces.length),
    )
    this.#ownText = new Set(ownText.map((token) => token.id))
    this.#unkLetters = this.#encoder.encode(files.unk ?? '<unk>').length
  }

  idOf(token: string): number | undefined {
    return this.#addedByContent.get(token) ?? this.#encoder.ids.get(token)
  }

  tokenOf(id: number): string | undefined {
    return this.#addedById.get(id) ?? this.#encoder.model.pieces[id]
  }

  get leadingBlank(): boolean {
    return true
  }

  bytesOf(id: number): Uint8Array {
    const { pieces, types } = this.#encoder.model
    const piece = pieces[id]
    if (piece === undefined || this.addedIds.has(id) || this.specialIds.has(id)) return new Uint8Array()
    const type = types[id]
    const byte = type === pieceType.byte ? byteOfPiece(piece) : undefined
    if (byte !== undefined) return Uint8Array.of(byte)
    if (type !== pieceType.normal && type !== pieceType.userDefined) return new Uint8Array()
    return utf8.encode(piece.replaceAll(space, ' '))
  }

  addedTokensIn(parts: string | readonly TextPart[]): { content: string; end: number }[] {
    const { text, untrusted } = joinParts(parts)
    return this.#sections(text, untrusted).flatMap(({ token, end }) =>
      token ? [{ content: token.content, end: end - (this.#leads(text) ? 1 : 0) }] : [],
    )
  }

  encode(parts: string | readonly TextPart[], options: EncodeOptions = {}): number[] {
    const { text, untrusted } = joinParts(parts, options.after)
    const ids = this.#encodeText(text, untrusted)
    if (options.after !== undefined) return idsBehind(ids, this.idOf(options.after), options.after)
    return this.addsBos && (options.addBos ?? true) ? [this.bosId!, ...ids] : ids
  }

  #encodeText(text: string, untrusted: Ranges): number[] {
    const out: number[] = []
    for (const section of this.#sections(text, untrusted)) {
      if (section.token) out.push(section.token.id)
      else for (const id of this.#encodeStretch(section.text)) out.push(id)
    }
    const alone = this.#encoder.ids.get(space)
    if (this.#leads(text) && out.length > 1 && out[0] === alone && this.specialIds.has(out[1]!)) out.shift()
    return out
  }

  /** Whether the reference puts a `▁` before the whole text. */
  #leads(text: string): boolean {
    return this.rules === 'llama' && !this.#legacy && text !== ''
  }

  #sections(text: string, untrusted: Ranges): Section[] {
    if (!this.#leads(text)) return this.#search.split(text, untrusted)
    const shifted = untrusted.map(([from, to]): [number, number] => [from + 1, to + 1])
    return this.#search.split(space + text.replaceAll(space, ' '), shifted)
  }

  #encodeStretch(text: string): number[] {
    if (this.rules === 'internlm2' || this.#legacy || !(text.startsWith(space) || text.startsWith(' ')))
      return this.#encoder.encode(text)
    return this.#encoder.encode(`<unk>${text}`).slice(this.#unkLetters)
  }

  decode(ids: Iterable<number>, options: DecodeOptions = {}): string {
    return decodeAll(this.decoder(options), ids)
  }

  decoder(options: DecodeOptions = {}): IncrementalDecoder {
    const vocabulary: DecodeVocabulary = {
      tokenOf: (id) => this.tokenOf(id),
      isAdded: (id) => this.#addedById.has(id),
      action: idAction(this, options),
    }
    return new SlowDecoder(vocabulary, {
      rules: this.rules,
      legacy: this.#legacy,
      model: this.#encoder.model,
      special: this.specialIds,
      ownText: this.#ownText,
      pieceIds: this.#encoder.ids,
    })
  }
}

interface SlowDecoderRules {
  rules: 'internlm2' | 'llama'
  legacy: boolean
  model: SentencePieceModel
  /** Printed by the reference between stretches it decodes. */
  special: ReadonlySet<number>
  /** Added tokens that the reference joins to the rest with blanks. */
  ownText: ReadonlySet<number>
  pieceIds: ReadonlyMap<string, number>
}

/**
 * `_decode` of the slow tokenizers. The text falls into stretches between `ownText` tokens, joined by one blank each; an empty
 * stretch vanishes unless it is the last. Inside a stretch special tokens are printed as they are; InternLM2 puts a blank before
 * the text that stands in front of one, so that text waits for what follows it (only when special tokens are printed).
 */
class SlowDecoder implements IncrementalDecoder {
  readonly #vocabulary: DecodeVocabulary
  readonly #is: SlowDecoderRules
  readonly #bytes = new ByteRun()
  /** Stretches or own-text tokens printed so far. */
  #printed = 0
  /** Tokens of the current stretch, and whether any text of it was printed. */
  #tokens = 0
  #started = false
  /** Text that waits for a special token, which would put a blank before it: InternLM2, and Llama's legacy rule. */
  readonly #waits: boolean
  #waiting = ''
  #previousSpecial = false
  /** InternLM2's class removes blanks before punctuation, whatever the config says. */
  readonly #cleaner: SpaceCleaner | undefined
  /** At the start of what the reference hands to SentencePiece in one call. */
  #callStart = true

  constructor(vocabulary: DecodeVocabulary, is: SlowDecoderRules) {
    this.#vocabulary = vocabulary
    this.#is = is
    this.#cleaner = is.rules === 'internlm2' ? new SpaceCleaner() : undefined
    this.#waits =
      (is.rules === 'internlm2' || is.legacy) && [...is.special].some((id) => vocabulary.action(id) === 'text')
  }

  push(id: number): string {
    const token = this.#vocabulary.tokenOf(id)
    const action = this.#vocabulary.action(id)
    if (token === undefined || action === 'drop') return ''
    if (action === 'verbatim') return this.#print(this.#bytes.flush() + token)
    if (this.#is.ownText.has(id)) {
      const before = this.#endStretch(false)
      const out = (this.#printed++ > 0 ? ' ' : '') + token
      return before + out
    }
    const first = this.#tokens++ === 0
    if (this.#is.special.has(id)) return this.#special(token, first)
    return this.#piece(id, token, first)
  }

  finish(): string {
    return this.#endStretch(true)
  }

  #special(token: string, first: boolean): string {
    const text = this.#waiting + this.#bytes.flush()
    this.#waiting = ''
    const blank = !this.#previousSpecial && (this.#is.rules === 'internlm2' || (this.#is.legacy && !first)) ? ' ' : ''
    this.#previousSpecial = true
    this.#callStart = true
    return this.#print(blank + text + token)
  }

  #piece(id: number, token: string, first: boolean): string {
    this.#previousSpecial = false
    const { model, rules } = this.#is
    const piece = rules === 'llama' && first && token.startsWith(space) ? token.slice(1) : token
    const known = piece === token && !this.#vocabulary.isAdded(id) ? id : this.#is.pieceIds.get(piece)
    const type = known === undefined ? pieceType.normal : model.types[known]
    const byte = type === pieceType.byte ? byteOfPiece(piece) : undefined
    let text: string
    if (byte !== undefined) text = this.#bytes.push(byte)
    else if (type === pieceType.control) text = this.#bytes.flush()
    else if (type === pieceType.unknown) text = this.#bytes.flush() + model.unkSurface
    else {
      const strips =
        this.#callStart &&
        ((model.addDummyPrefix && (rules === 'internlm2' || this.#is.legacy)) || model.removeExtraWhitespaces)
      text = this.#bytes.flush() + (strips && piece.startsWith(space) ? piece.slice(1) : piece).replaceAll(space, ' ')
    }
    this.#callStart = false
    if (!this.#waits) return this.#print(text)
    this.#waiting += text
    return ''
  }

  /** Text of the current stretch, led by the blank that joins it to the one before. */
  #print(text: string): string {
    return this.#join(this.#cleaner ? this.#cleaner.push(text) : text)
  }

  #join(text: string): string {
    if (text === '') return ''
    const joint = !this.#started && this.#printed > 0 ? ' ' : ''
    this.#started = true
    return joint + text
  }

  #endStretch(last: boolean): string {
    let out = this.#print(this.#waiting + this.#bytes.flush())
    if (this.#cleaner) out += this.#join(this.#cleaner.flush())
    if (last && !this.#started && this.#tokens > 0 && this.#printed > 0) out = ' '
    if (this.#started) this.#printed++
    this.#waiting = ''
    this.#tokens = 0
    this.#started = false
    this.#previousSpecial = false
    this.#callStart = true
    return out
  }
}

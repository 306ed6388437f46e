/**
 * BPE as a `tokenizer.json` describes it. Every step is ours, from a closed list, held to the compiled library by goldens; @huggingface/tokenizers
 * reads the regular expressions. A folder with `vocab.json` and `merges.txt` is put into the same form with Qwen2's rules, and its added tokens are
 * found as the Python tokenizer finds them, which training used.
 */
import { ModelError } from '../errors.ts'
import { type AddedTokenSearch, CompiledSearch, PythonSearch } from './added-token-search.ts'
import { isControl, joinParts, type Ranges, type TextPart } from './added-tokens.ts'
import { Bpe, pairTable } from './bpe.ts'
import {
  ByteLevelDecoder,
  byteCharacters,
  byteOfPiece,
  bytePieceName,
  bytesOfToken,
  type DecodeOptions,
  type DecodeVocabulary,
  FallbackDecoder,
  type FallbackDecoderRules,
  type IncrementalDecoder,
} from './decoding.ts'
import { type AlignedText, alignedRanges, type Normalizer, originOf, readNormalizer } from './normalizer.ts'
import { type PreTokenizer, readPreTokenizer } from './pre-tokenizer.ts'
import { hasUnknownPattern, qwenPattern, runWatched } from './split-pattern.ts'
import { decodeAll, type EncodeOptions, idAction, idsBehind, type Tokenizer } from './tokenizer.ts'
import type { BpeTables } from './tokenizer-cache.ts'
import { describe, type JsonObject, objectOf, type TokenizerFiles } from './tokenizer-files.ts'
import { decoderRules, readMerges, readVocabulary, refuse, templateIds } from './tokenizer-json.ts'

const utf8 = new TextEncoder()

/** Bytes stand in for missing characters only where the vocabulary came from a `tokenizer.model`. */
const convertedWarning =
  "tokenizer.json was converted from a tokenizer.model, which is not in the folder. Training read the latter; by the former's rules, which are followed, texts that begin with a blank or a role, or have several blanks in a row, may get other ids. Put the tokenizer.model of the original model into the folder."

/** A piece of a text: an added token, or text that is normalised and ready to be cut into words. */
interface Piece {
  text: string
  /** Stretch of the input. */
  start: number
  end: number
  id?: number
}

/** `vocab.json` and `merges.txt` of a Qwen2 folder as a tokenizer.json. */
export function fastTokenizerJson(vocab: JsonObject, mergesFile: Uint8Array): JsonObject {
  let text: string
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(mergesFile)
  } catch (error) {
    throw new ModelError('BAD_TOKENIZER', 'merges.txt: not valid UTF-8; download the file again.', { cause: error })
  }
  // Only the version line is a comment: merges of `#` with `#` are merges.
  const lines = text.split('\n').map((line) => (line.endsWith('\r') ? line.slice(0, -1) : line))
  const merges = lines.filter((line, i) => line !== '' && !(i === 0 && line.startsWith('#version')))
  const byteLevel = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: false, use_regex: false }
  return {
    normalizer: { type: 'NFC' },
    pre_tokenizer: {
      type: 'Sequence',
      pretokenizers: [
        { type: 'Split', pattern: { Regex: qwenPattern }, behavior: 'Isolated', invert: false },
        byteLevel,
      ],
    },
    post_processor: null,
    decoder: byteLevel,
    model: { type: 'BPE', unk_token: null, byte_fallback: false, fuse_unk: false, vocab, merges },
  }
}

function readTables(model: JsonObject, vocabFile: string, mergesFile: string): BpeTables {
  const vocab = objectOf(model.vocab, vocabFile) ?? refuse(`${vocabFile} is missing.`)
  const vocabulary = readVocabulary(vocab, vocabFile)
  const merges = readMerges(model.merges, mergesFile, vocabulary)
  return { vocabulary, merges, pairs: pairTable(merges) }
}

export class FastTokenizer implements Tokenizer {
  readonly rules: 'tokenizer.json' | 'qwen2'
  readonly size: number
  readonly bosId: number | undefined
  readonly paddingId: number | undefined
  readonly namedTokens: Readonly<Record<string, string>>
  readonly addsBos: boolean
  readonly warning: string | undefined
  readonly specialIds: ReadonlySet<number>
  readonly addedIds: ReadonlySet<number>
  /** What the tokenizer looks up; may be kept, see tokenizer-cache.ts. */
  readonly tables: BpeTables
  readonly #added = new Map<string, number>()
  readonly #addedContents = new Map<number, string>()
  readonly #normalize: Normalizer
  readonly #words: PreTokenizer
  /** A regular expression of the file may take for ever. */
  readonly #watched: boolean
  readonly #bpe: Bpe
  /** Searches the text as it came, and what is between the tokens found there once it is normalised. */
  readonly #inText: AddedTokenSearch | undefined
  readonly #inNormalized: AddedTokenSearch
  readonly #decoding: FallbackDecoderRules | 'bytes'
  /** Ids that the post-processor puts around a text. */
  readonly #before: readonly number[]
  readonly #behind: readonly number[]

  /** `kept`: tables that were made of these very files before; `json` needs no vocabulary and no merges then. */
  constructor(rules: 'tokenizer.json' | 'qwen2', json: JsonObject, files: TokenizerFiles, kept?: BpeTables) {
    this.rules = rules
    const vocabFile = rules === 'qwen2' ? 'vocab.json' : 'tokenizer.json: model.vocab'
    const mergesFile = rules === 'qwen2' ? 'merges.txt' : 'tokenizer.json: model.merges'
    const model = objectOf(json.model, 'tokenizer.json: model') ?? refuse('tokenizer.json: model is missing.')
    if (model.type !== undefined && model.type !== 'BPE')
      refuse(`tokenizer.json: model type ${describe(model.type)}, only BPE is supported.`)
    for (const key of ['continuing_subword_prefix', 'end_of_word_suffix', 'dropout']) {
      if (model[key]) refuse(`tokenizer.json: model.${key} is ${describe(model[key])}, only an empty one is supported.`)
    }
    this.#decoding = decoderRules(json.decoder)
    this.tables = kept ?? readTables(model, vocabFile, mergesFile)
    const { vocabulary } = this.tables
    this.#normalize = readNormalizer(json.normalizer) ?? ((text) => ({ text }))
    this.#words = readPreTokenizer(json.pre_tokenizer)
    this.#watched = hasUnknownPattern(json.normalizer) || hasUnknownPattern(json.pre_tokenizer)
    const { bytes } = this.#words
    if (bytes || this.#decoding === 'bytes') {
      const missing = byteCharacters.findIndex((character) => vocabulary.idOf(character) === undefined)
      if (missing >= 0)
        refuse(
          `${vocabFile}: no token for byte ${missing} (${byteCharacters[missing]}), so some texts cannot be encoded; download the file again.`,
        )
    }
    files.checkContents(vocabFile, (content) => vocabulary.idOf(content))
    files.checkIds(vocabFile, (id) => vocabulary.contentOf(id))
    const byteIdsOf = (name: (byte: number) => string): Int32Array =>
      Int32Array.from({ length: 256 }, (_, byte) => vocabulary.idOf(name(byte)) ?? -1)
    const fallback = model.byte_fallback === true ? byteIdsOf(bytePieceName) : undefined
    if (fallback?.includes(-1))
      refuse(`${vocabFile}: byte_fallback is set, but ${bytePieceName(fallback.indexOf(-1))} is missing.`)
    const unk = typeof model.unk_token === 'string' ? model.unk_token : ''
    this.#bpe = new Bpe({
      ...this.tables,
      byteIds: bytes ? byteIdsOf((byte) => byteCharacters[byte]!) : undefined,
      fallbackIds: fallback,
      unkId: vocabulary.idOf(unk) ?? files.added.find((token) => token.content === unk)?.id,
      fuseUnk: model.fuse_unk === true,
      ignoreMerges: model.ignore_merges === true,
    })
    for (const token of files.added) {
      this.#added.set(token.content, token.id)
      this.#addedContents.set(token.id, token.content)
    }
    this.size = files.added.reduce((size, { id }) => Math.max(size, id + 1), vocabulary.size)
    this.addedIds = new Set(files.added.map((token) => token.id))
    const controls = new Set(
      files.added.filter((token) => isControl(token, files.listedSpecial)).map((token) => token.id),
    )
    if (rules === 'qwen2') this.#inNormalized = new PythonSearch(files.added, controls)
    else {
      const plain = files.added.filter((token) => !token.normalized)
      const normalized = files.added.filter((token) => token.normalized)
      this.#inText = new CompiledSearch(plain, controls)
      this.#inNormalized = new CompiledSearch(
        normalized.map((token) => ({ ...token, content: this.#normalize(token.content).text })),
        controls,
      )
    }
    const listed = [...files.listedSpecial].map((content) => this.idOf(content)).filter((id) => id !== undefined)
    // The slow tokenizers skip what the config lists; the compiled ones skip what is flagged.
    const flagged = files.added.filter((token) => token.special).map((token) => token.id)
    const byFlag = !files.lists || files.loadedFast
    this.specialIds = new Set(byFlag ? [...flagged, ...listed] : listed)
    const template = templateIds(json.post_processor, (content) => this.idOf(content))
    const bos = files.bos === undefined ? undefined : this.idOf(files.bos)
    this.#before = template?.before ?? (files.addBos && bos !== undefined ? [bos] : [])
    this.#behind = template?.behind ?? []
    this.bosId = bos ?? this.#before[0]
    this.namedTokens = files.namedTokens
    this.warning = model.byte_fallback === true && !files.hasPieces ? convertedWarning : undefined
    this.paddingId = files.pad === undefined ? undefined : this.idOf(files.pad)
    this.addsBos = this.#before.length > 0
  }

  idOf(token: string): number | undefined {
    return this.#added.get(token) ?? this.tables.vocabulary.idOf(token)
  }

  tokenOf(id: number): string | undefined {
    return this.#addedContents.get(id) ?? this.tables.vocabulary.contentOf(id)
  }

  get leadingBlank(): boolean {
    return this.#decoding !== 'bytes'
  }

  bytesOf(id: number): Uint8Array {
    const token = this.tokenOf(id)
    if (token === undefined || this.addedIds.has(id) || this.specialIds.has(id)) return new Uint8Array()
    if (this.#decoding === 'bytes') return bytesOfToken(token)
    const { replace, byteFallback, metaspace } = this.#decoding
    const byte = byteFallback ? byteOfPiece(token) : undefined
    if (byte !== undefined) return Uint8Array.of(byte)
    let text = token
    for (const [from, to] of replace) text = text.replaceAll(from, to)
    return utf8.encode(metaspace ? text.replaceAll(metaspace.character, ' ') : text)
  }

  addedTokensIn(parts: string | readonly TextPart[]): { content: string; end: number }[] {
    const { text, untrusted } = joinParts(parts)
    const pieces = this.#guard(text, () => this.#pieces(text, untrusted))
    return pieces.flatMap(({ id, end }) => (id === undefined ? [] : [{ content: this.tokenOf(id)!, end }]))
  }

  encode(parts: string | readonly TextPart[], options: EncodeOptions = {}): number[] {
    const { text, untrusted } = joinParts(parts, options.after)
    const ids = this.#guard(text, () => this.#encodeText(text, untrusted))
    if (options.after !== undefined) return idsBehind(ids, this.idOf(options.after), options.after)
    return (options.addBos ?? true) ? [...this.#before, ...ids, ...this.#behind] : ids
  }

  /** 2 s, and a second more for each 50 000 characters, far above what known patterns take. */
  #guard<T>(text: string, run: () => T): T {
    return this.#watched ? runWatched(run, 2000 + Math.ceil(text.length / 50)) : run()
  }

  #encodeText(text: string, untrusted: Ranges): number[] {
    const out: number[] = []
    for (const { text: piece, start, id } of this.#pieces(text, untrusted)) {
      if (id !== undefined) out.push(id)
      else {
        for (const word of this.#words.split(piece, start === 0))
          for (const one of this.#bpe.encode(word)) out.push(one)
      }
    }
    return out
  }

  #pieces(text: string, untrusted: Ranges): Piece[] {
    const sections = this.#inText?.split(text, untrusted) ?? [{ text, start: 0, end: text.length }]
    return sections.flatMap(({ text: part, start, end, token }): Piece[] => {
      if (token) return [{ text: part, start, end, id: token.id }]
      const aligned: AlignedText = this.#normalize(part)
      const shifted = untrusted.map(([from, to]): [number, number] => [from - start, to - start])
      return this.#inNormalized.split(aligned.text, alignedRanges(aligned, shifted)).map((piece) => {
        const [from, to] = originOf(aligned, piece.start, piece.end)
        const place = { text: piece.text, start: start + from, end: start + to }
        return piece.token ? { ...place, id: piece.token.id } : place
      })
    })
  }

  decode(ids: Iterable<number>, options: DecodeOptions = {}): string {
    return decodeAll(this.decoder(options), ids)
  }

  decoder(options: DecodeOptions = {}): IncrementalDecoder {
    const vocabulary: DecodeVocabulary = {
      tokenOf: (id) => this.tokenOf(id),
      isAdded: (id) => this.addedIds.has(id),
      action: idAction(this, options),
    }
    return this.#decoding === 'bytes'
      ? new ByteLevelDecoder(vocabulary)
      : new FallbackDecoder(vocabulary, this.#decoding)
  }
}

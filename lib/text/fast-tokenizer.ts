/**
 * BPE as a `tokenizer.json` describes it: normaliser, pre-tokeniser and merges by @huggingface/tokenizers, added tokens, bos and
 * decoding here (a question's control tokens must be switched off, and answers are decoded id by id). A folder with `vocab.json` and
 * `merges.txt` is put into the same form with Qwen2's rules.
 */
import { Tokenizer as Library } from '@huggingface/tokenizers'
import { ModelError } from '../errors.ts'
import { AddedTokenSplitter, blockControls, isControl, joinParts, type TextPart } from './added-tokens.ts'
import { Bpe } from './bpe.ts'
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
import { decodeAll, type EncodeOptions, idAction, type Tokenizer } from './tokenizer.ts'
import { describe, idFrom, type JsonObject, objectOf, type TokenizerFiles } from './tokenizer-files.ts'

type Normalize = (text: string) => string
type PreTokenize = (text: string, options: { section_index: number }) => string[]

const utf8 = new TextEncoder()

const qwenPattern =
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

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

export class FastTokenizer implements Tokenizer {
  readonly rules: 'tokenizer.json' | 'qwen2'
  readonly size: number
  readonly bosId: number | undefined
  readonly paddingId: number | undefined
  readonly addsBos: boolean
  readonly specialIds: ReadonlySet<number>
  readonly addedIds: ReadonlySet<number>
  readonly #ids: ReadonlyMap<string, number>
  readonly #added = new Map<string, number>()
  readonly #contents: string[]
  readonly #normalize: Normalize | undefined
  readonly #preTokenize: PreTokenize | undefined
  readonly #bpe: Bpe
  readonly #plain: AddedTokenSplitter
  readonly #normalized: AddedTokenSplitter
  readonly #controls: ReadonlySet<number>
  readonly #decoding: FallbackDecoderRules | 'bytes'
  /** Ids that the post-processor puts around a text. */
  readonly #before: readonly number[]
  readonly #behind: readonly number[]

  constructor(rules: 'tokenizer.json' | 'qwen2', json: JsonObject, files: TokenizerFiles) {
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
    const { ids, contents } = readVocabulary(
      objectOf(model.vocab, vocabFile) ?? refuse(`${vocabFile} is missing.`),
      vocabFile,
    )
    const merges = readMerges(model.merges, mergesFile, ids)
    const { preTokenizer, bytes } = splitByteLevel(json.pre_tokenizer)
    if (bytes || this.#decoding === 'bytes') {
      const missing = byteCharacters.findIndex((character) => !ids.has(character))
      if (missing >= 0)
        refuse(
          `${vocabFile}: no token for byte ${missing} (${byteCharacters[missing]}), so some texts cannot be encoded; download the file again.`,
        )
    }
    files.checkContents(vocabFile, (content) => ids.get(content))
    files.checkIds(vocabFile, (id) => contents[id])
    try {
      // The library normalises and cuts into words; the merging is ours, which is faster and needs no copy of the vocabulary.
      const model = { type: 'BPE', vocab: {}, merges: [] }
      const normalizer = json.normalizer ?? null
      const library = new Library(
        { normalizer, pre_tokenizer: preTokenizer, post_processor: null, decoder: null, added_tokens: [], model },
        {},
      )
      this.#normalize = (library.normalizer as Normalize | null) ?? undefined
      this.#preTokenize = (library.pre_tokenizer as PreTokenize | null) ?? undefined
    } catch (error) {
      throw new ModelError(
        'BAD_TOKENIZER',
        `tokenizer.json: ${(error as Error).message}; this package cannot run such a tokenizer.`,
        { cause: error },
      )
    }
    const byteIdsOf = (name: (byte: number) => string): Int32Array =>
      Int32Array.from({ length: 256 }, (_, byte) => ids.get(name(byte)) ?? -1)
    const fallback = model.byte_fallback === true ? byteIdsOf(bytePieceName) : undefined
    if (fallback?.includes(-1))
      refuse(`${vocabFile}: byte_fallback is set, but ${bytePieceName(fallback.indexOf(-1))} is missing.`)
    const unk = typeof model.unk_token === 'string' ? model.unk_token : ''
    this.#bpe = new Bpe({
      ids,
      merges,
      byteIds: bytes ? byteIdsOf((byte) => byteCharacters[byte]!) : undefined,
      fallbackIds: fallback,
      unkId: ids.get(unk) ?? files.added.find((token) => token.content === unk)?.id,
      fuseUnk: model.fuse_unk === true,
      ignoreMerges: model.ignore_merges === true,
    })
    for (const token of files.added) {
      this.#added.set(token.content, token.id)
      contents[token.id] = token.content
    }
    this.#ids = ids
    this.#contents = contents
    this.size = contents.length
    const searched = files.added.map((token) =>
      token.normalized && this.#normalize ? { ...token, content: this.#normalize(token.content) } : token,
    )
    this.#plain = new AddedTokenSplitter(
      searched.filter((token) => !(token.normalized && this.#normalize)),
      'unicode',
    )
    this.#normalized = new AddedTokenSplitter(
      searched.filter((token) => token.normalized && this.#normalize),
      'unicode',
    )
    this.addedIds = new Set(files.added.map((token) => token.id))
    this.#controls = new Set(
      files.added.filter((token) => isControl(token, files.listedSpecial)).map((token) => token.id),
    )
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
    this.paddingId = files.pad === undefined ? undefined : this.idOf(files.pad)
    this.addsBos = this.#before.length > 0
  }

  idOf(token: string): number | undefined {
    return this.#added.get(token) ?? this.#ids.get(token)
  }

  tokenOf(id: number): string | undefined {
    return this.#contents[id]
  }

  get leadingBlank(): boolean {
    return this.#decoding !== 'bytes'
  }

  bytesOf(id: number): Uint8Array {
    const token = this.#contents[id]
    if (token === undefined || this.addedIds.has(id) || this.specialIds.has(id)) return new Uint8Array()
    if (this.#decoding === 'bytes') return bytesOfToken(token)
    const { replace, byteFallback, metaspace } = this.#decoding
    const byte = byteFallback ? byteOfPiece(token) : undefined
    if (byte !== undefined) return Uint8Array.of(byte)
    let text = token
    for (const [from, to] of replace) text = text.replaceAll(from, to)
    return utf8.encode(metaspace ? text.replaceAll(metaspace.character, ' ') : text)
  }

  lastAddedToken(text: string | readonly TextPart[]): { content: string; end: number } | undefined {
    const { text: whole, untrusted } = joinParts(text)
    const last = this.#plain
      .split(whole, blockControls(untrusted, this.#controls, 0))
      .findLast((section) => section.token)
    return last && { content: last.text, end: last.start + last.text.length }
  }

  encode(parts: string | readonly TextPart[], options: EncodeOptions = {}): number[] {
    const { text, untrusted } = joinParts(parts)
    const before = options.after ?? ''
    const ids = this.#encodeText(before + text, untrusted, before.length)
    if (options.after !== undefined) return ids.slice(ids.indexOf(this.idOf(options.after)!) + 1)
    return (options.addBos ?? true) ? [...this.#before, ...ids, ...this.#behind] : ids
  }

  #encodeText(text: string, untrusted: readonly [number, number][], shift: number): number[] {
    const out: number[] = []
    const sections = this.#plain.split(text, blockControls(untrusted, this.#controls, shift))
    for (const [index, section] of sections.entries()) {
      if (section.token) {
        out.push(section.token.id)
        continue
      }
      const normalized = this.#normalize ? this.#normalize(section.text) : section.text
      const from = section.start - shift
      const touched = untrusted.some(([start, end]) => from < end && from + section.text.length > start)
      const blocked = touched ? ({ id }: { id: number }): boolean => this.#controls.has(id) : undefined
      for (const piece of this.#normalized.split(normalized, blocked)) {
        if (piece.token) {
          out.push(piece.token.id)
          continue
        }
        const words = this.#preTokenize ? this.#preTokenize(piece.text, { section_index: index }) : [piece.text]
        for (const word of words) for (const id of this.#bpe.encode(word)) out.push(id)
      }
    }
    return out
  }

  decode(ids: Iterable<number>, options: DecodeOptions = {}): string {
    return decodeAll(this.decoder(options), ids)
  }

  decoder(options: DecodeOptions = {}): IncrementalDecoder {
    const vocabulary: DecodeVocabulary = {
      tokenOf: (id) => this.#contents[id],
      isAdded: (id) => this.addedIds.has(id),
      action: idAction(this, options),
    }
    return this.#decoding === 'bytes'
      ? new ByteLevelDecoder(vocabulary)
      : new FallbackDecoder(vocabulary, this.#decoding)
  }
}

/**
 * The pre-tokeniser without a closing byte-level step, which the merging then does by itself. `bytes` says that there was one.
 */
function splitByteLevel(value: unknown): { preTokenizer: unknown; bytes: boolean } {
  const whole = objectOf(value ?? undefined, 'tokenizer.json: pre_tokenizer')
  const steps: unknown[] =
    whole?.type === 'Sequence' && Array.isArray(whole.pretokenizers) ? whole.pretokenizers : [whole]
  const last = objectOf(steps.at(-1), 'tokenizer.json: pre_tokenizer step')
  if (last?.type !== 'ByteLevel' || last.use_regex !== false || last.add_prefix_space === true) {
    return { preTokenizer: value ?? null, bytes: false }
  }
  const rest = steps.slice(0, -1)
  return { preTokenizer: rest.length === 0 ? null : { type: 'Sequence', pretokenizers: rest }, bytes: true }
}

function refuse(message: string): never {
  throw new ModelError('BAD_TOKENIZER', message)
}

function readVocabulary(vocab: JsonObject, file: string): { ids: Map<string, number>; contents: string[] } {
  const ids = new Map<string, number>()
  const contents: string[] = []
  for (const [content, value] of Object.entries(vocab)) {
    const id = idFrom(value, `${file}: ${JSON.stringify(content)}`)
    if (contents[id] !== undefined)
      refuse(
        `${file}: id ${id} stands for ${JSON.stringify(contents[id])} and ${JSON.stringify(content)}; download the file again.`,
      )
    contents[id] = content
    ids.set(content, id)
  }
  if (ids.size === 0) refuse(`${file}: holds no tokens; download the file again.`)
  return { ids, contents }
}

/** Ids of left, right and both together for each merge. */
function readMerges(value: unknown, file: string, ids: ReadonlyMap<string, number>): Int32Array {
  if (!Array.isArray(value)) return refuse(`${file} is ${describe(value)}, expected a list.`)
  const merges = new Int32Array(value.length * 3)
  for (const [i, entry] of value.entries()) {
    let left: unknown
    let right: unknown
    if (typeof entry === 'string') {
      const cut = entry.indexOf(' ')
      if (cut > 0 && entry.indexOf(' ', cut + 1) < 0) {
        left = entry.slice(0, cut)
        right = entry.slice(cut + 1)
      }
    } else if (Array.isArray(entry) && entry.length === 2) [left, right] = entry
    if (typeof left !== 'string' || typeof right !== 'string') {
      return refuse(`${file}: merge ${i} is ${describe(entry)}, expected two tokens.`)
    }
    const found = [ids.get(left), ids.get(right), ids.get(left + right)]
    if (found.includes(undefined)) {
      return refuse(
        `${file}: merge ${i}, ${describe(entry)}, names a token that the vocabulary lacks; take the files from the same repository.`,
      )
    }
    merges.set(found as number[], i * 3)
  }
  return merges
}

/** Ids around a text by a TemplateProcessing post-processor; undefined when there is none. */
function templateIds(
  value: unknown,
  idOf: (content: string) => number | undefined,
): { before: number[]; behind: number[] } | undefined {
  const processor = objectOf(value ?? undefined, 'tokenizer.json: post_processor')
  if (!processor || processor.type === 'ByteLevel') return undefined
  if (processor.type === 'Sequence') {
    const steps = Array.isArray(processor.processors) ? processor.processors : []
    return steps.map((step) => templateIds(step, idOf)).find((found) => found !== undefined)
  }
  if (processor.type !== 'TemplateProcessing')
    return refuse(`tokenizer.json: post_processor type ${describe(processor.type)} is not supported.`)
  const single = Array.isArray(processor.single)
    ? processor.single
    : refuse('tokenizer.json: post_processor.single is not a list.')
  const special = objectOf(processor.special_tokens, 'tokenizer.json: post_processor.special_tokens') ?? {}
  const before: number[] = []
  const behind: number[] = []
  let sides = before
  for (const step of single) {
    const entry = objectOf(step, 'tokenizer.json: post_processor.single')!
    if (entry.Sequence !== undefined) {
      sides = behind
      continue
    }
    const name = objectOf(entry.SpecialToken, 'tokenizer.json: post_processor.single')?.id
    if (typeof name !== 'string')
      return refuse('tokenizer.json: post_processor.single holds a step that is neither a text nor a token.')
    const given = objectOf(special[name], `tokenizer.json: post_processor.special_tokens[${JSON.stringify(name)}]`)?.ids
    const list = Array.isArray(given) ? given : [idOf(name)]
    for (const id of list) sides.push(idFrom(id, `tokenizer.json: post_processor token ${JSON.stringify(name)}`))
  }
  return { before, behind }
}

function decoderRules(value: unknown): FallbackDecoderRules | 'bytes' {
  const decoder =
    objectOf(value ?? undefined, 'tokenizer.json: decoder') ?? refuse('tokenizer.json: decoder is missing.')
  const steps = decoder.type === 'Sequence' && Array.isArray(decoder.decoders) ? decoder.decoders : [decoder]
  const rules: FallbackDecoderRules = { replace: [], byteFallback: false }
  let fused = false
  for (const step of steps) {
    const { type, content, pattern, start, stop, replacement, prepend_scheme } = objectOf(
      step,
      'tokenizer.json: decoder step',
    )!
    const from = objectOf(pattern ?? undefined, 'tokenizer.json: decoder pattern')?.String
    if (type === 'ByteLevel' && steps.length === 1) return 'bytes'
    if (type === 'Replace' && typeof from === 'string' && from !== '' && typeof content === 'string')
      rules.replace.push([from, content])
    else if (type === 'ByteFallback') rules.byteFallback = true
    else if (type === 'Fuse') fused = true
    else if (type === 'Metaspace')
      rules.metaspace = {
        character: typeof replacement === 'string' && replacement !== '' ? replacement : '\u2581',
        dropFirst: prepend_scheme !== 'never',
      }
    else if (
      type === 'Strip' &&
      fused &&
      typeof content === 'string' &&
      content !== '' &&
      typeof start === 'number' &&
      !stop
    )
      rules.strip = { content, start }
    else return refuse(`tokenizer.json: decoder step ${describe(type)} in this form is not supported.`)
  }
  return rules
}

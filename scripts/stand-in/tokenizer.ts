/**
 * Complete tokenizers of the published sizes, with the published ids for every special token and a vocabulary made by
 * rule (short runs of letters, the CJK block), so that no third-party vocabulary is needed.
 */
import { sentencePieceModel } from './sentencepiece.ts'

export type TokenizerKind = 'qwen2' | 'qwen2.5' | 'qwen3' | 'internlm2' | 'phi3'

export interface AddedToken {
  id: number
  content: string
  special: boolean
  /** Swallows the white space that follows. */
  rstrip: boolean
}

const imageTokens = ['<img>', '</img>', '<IMG_CONTEXT>', '<quad>', '</quad>', '<ref>', '</ref>', '<box>', '</box>']
const chatTokens = ['<|endoftext|>', '<|im_start|>', '<|im_end|>']
const qwen25Tokens = [
  '<|object_ref_start|>',
  '<|object_ref_end|>',
  '<|box_start|>',
  '<|box_end|>',
  '<|quad_start|>',
  '<|quad_end|>',
  '<|vision_start|>',
  '<|vision_end|>',
  '<|vision_pad|>',
  '<|image_pad|>',
  '<|video_pad|>',
  '<tool_call>',
  '</tool_call>',
  '<|fim_prefix|>',
  '<|fim_middle|>',
  '<|fim_suffix|>',
  '<|fim_pad|>',
  '<|repo_name|>',
  '<|file_sep|>',
]
const qwen3Tokens = ['<tool_response>', '</tool_response>', '<think>', '</think>']
const plainTokens = new Set([...qwen25Tokens.slice(11), ...qwen3Tokens])
const actionTokens = [
  '<|plugin|>',
  '<|interpreter|>',
  '<|action_end|>',
  '<|action_start|>',
  '<|im_end|>',
  '<|im_start|>',
]
const phi3Roles = [
  '<|assistant|>',
  '<|placeholder1|>',
  '<|placeholder2|>',
  '<|placeholder3|>',
  '<|placeholder4|>',
  '<|system|>',
  '<|end|>',
  '<|placeholder5|>',
  '<|placeholder6|>',
  '<|user|>',
]

const qwenBase = 151643
const internlm2Base = 92538
const phi3Base = 32000

function added(first: number, contents: readonly string[]): AddedToken[] {
  return contents.map((content, i) => ({
    id: first + i,
    content,
    special: !plainTokens.has(content),
    rstrip: phi3Roles.includes(content),
  }))
}

const controls = (rstrip: boolean): AddedToken[] => [
  { id: 0, content: '<unk>', special: true, rstrip: false },
  { id: 1, content: '<s>', special: true, rstrip: false },
  { id: 2, content: '</s>', special: !rstrip, rstrip },
]

/** Tokens outside the vocabulary proper, by tokenizer. */
export const addedTokens: Record<TokenizerKind, AddedToken[]> = {
  qwen2: added(qwenBase, [...chatTokens, ...imageTokens]),
  'qwen2.5': added(qwenBase, [...chatTokens, ...qwen25Tokens, ...imageTokens]),
  qwen3: added(qwenBase, [...chatTokens, ...qwen25Tokens, ...qwen3Tokens, ...imageTokens]),
  internlm2: [...controls(false), ...added(internlm2Base, [...actionTokens, ...imageTokens])],
  phi3: [...controls(true), ...added(phi3Base, ['<|endoftext|>', ...phi3Roles, ...imageTokens])],
}

/** Files of a tokenizer, by name. */
export function tokenizerFiles(kind: TokenizerKind): Map<string, string | Uint8Array> {
  const files = new Map<string, string | Uint8Array>()
  if (kind === 'internlm2') files.set('tokenizer.model', internlm2Model())
  else if (kind === 'phi3') files.set('tokenizer.model', phi3Model())
  else {
    const { vocab, merges } = byteLevelVocabulary(qwenBase)
    files.set('vocab.json', JSON.stringify(vocab))
    files.set('merges.txt', `#version: 0.2\n${merges.map((pair) => pair.join(' ')).join('\n')}\n`)
  }
  for (const [name, value] of Object.entries(sideFiles(kind))) files.set(name, `${JSON.stringify(value, null, 2)}\n`)
  return files
}

function sideFiles(kind: TokenizerKind): Record<string, unknown> {
  const tokens = addedTokens[kind]
  const special =
    kind === 'internlm2'
      ? [
          '<|im_start|>',
          '<|im_end|>',
          '<|action_start|>',
          '<|action_end|>',
          '<|interpreter|>',
          '<|plugin|>',
          ...imageTokens,
        ]
      : kind === 'phi3'
        ? imageTokens
        : tokens.filter((token) => token.special && token.content !== '<|endoftext|>').map((token) => token.content)
  const ends = {
    internlm2: { bos_token: '<s>', eos_token: '</s>', pad_token: '</s>', unk_token: '<unk>' },
    phi3: { bos_token: '<s>', eos_token: '<|endoftext|>', pad_token: '<|endoftext|>', unk_token: '<unk>' },
    qwen: { bos_token: null, eos_token: '<|im_end|>', pad_token: '<|endoftext|>', unk_token: null },
  }[kind === 'internlm2' || kind === 'phi3' ? kind : 'qwen']
  const own = {
    internlm2: {
      auto_map: { AutoTokenizer: ['tokenization_internlm2.InternLM2Tokenizer', null] },
      tokenizer_class: 'InternLM2Tokenizer',
    },
    phi3: {
      add_bos_token: true,
      add_eos_token: false,
      legacy: false,
      padding_side: 'left',
      sp_model_kwargs: {},
      tokenizer_class: 'LlamaTokenizer',
      use_default_system_prompt: false,
    },
    qwen: {
      add_bos_token: false,
      add_eos_token: false,
      add_prefix_space: false,
      errors: 'replace',
      split_special_tokens: false,
      tokenizer_class: 'Qwen2Tokenizer',
    },
  }[kind === 'internlm2' || kind === 'phi3' ? kind : 'qwen']
  const decoder = tokens.map(({ id, content, rstrip, special: isSpecial }) => [
    id,
    { content, lstrip: false, normalized: false, rstrip, single_word: false, special: isSpecial },
  ])
  // InternLM2's file lists only what lies past the SentencePiece model; Phi-3's and Qwen's list all but the controls.
  const listed = tokens.filter((token) => (kind === 'internlm2' ? imageTokens.includes(token.content) : token.id > 2))
  const sorted = listed.sort((a, b) => (a.content < b.content ? -1 : 1))
  return {
    'added_tokens.json': Object.fromEntries(sorted.map((token) => [token.content, token.id])),
    'special_tokens_map.json': {
      additional_special_tokens: special,
      ...Object.fromEntries(Object.entries(ends).filter(([, content]) => content !== null)),
    },
    'tokenizer_config.json': {
      ...own,
      added_tokens_decoder: Object.fromEntries(decoder),
      additional_special_tokens: special,
      ...ends,
      clean_up_tokenization_spaces: false,
      model_max_length: 8192,
    },
  }
}

const letters = [...'abcdefghijklmnopqrstuvwxyz']

/**
 * Merges of letters: two, a space before one, a space before two, three, a space before three, four. Pairs of parts that
 * exist by then, most useful first; `limit` of them.
 */
export function letterMerges(space: string, limit: number): [left: string, right: string][] {
  const pairs = letters.flatMap((a) => letters.map((b) => a + b))
  const merges: [string, string][] = []
  for (const pair of pairs) merges.push([pair[0]!, pair[1]!])
  for (const letter of letters) merges.push([space, letter])
  for (const pair of pairs) merges.push([space, pair])
  for (const pair of pairs) for (const letter of letters) merges.push([pair, letter])
  for (const pair of pairs) for (const letter of letters) merges.push([space, pair + letter])
  // A stride that has no factor in common with 26⁴ visits every run of four letters once, evenly spread.
  const fours = pairs.length ** 2
  for (let i = 0, at = 0; i < fours && merges.length < limit; i++, at = (at + 278_287) % fours) {
    merges.push([pairs[Math.floor(at / pairs.length)]!, pairs[at % pairs.length]!])
  }
  return merges.slice(0, limit)
}

/** Chinese punctuation, the common ideographs, full-width forms: the system messages are Chinese. */
const cjkRanges: [first: number, last: number][] = [
  [0x3000, 0x303f],
  [0x4e00, 0x9fff],
  [0xff00, 0xffef],
]

function* cjk(): Generator<string> {
  for (const [first, last] of cjkRanges) for (let code = first; code <= last; code++) yield String.fromCodePoint(code)
}

/** The printable character that stands for each byte in byte-level BPE; the second list is the order of ids. */
function byteCharacters(): { characters: string[]; order: number[] } {
  const printable = (byte: number) =>
    (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || (byte >= 0xae && byte <= 0xff)
  const bytes = Array.from({ length: 256 }, (_, byte) => byte)
  const others = bytes.filter((byte) => !printable(byte))
  const characters = bytes.map((byte) => String.fromCodePoint(printable(byte) ? byte : 256 + others.indexOf(byte)))
  return { characters, order: [...bytes.filter(printable), ...others] }
}

/** A byte-level BPE vocabulary of `size` tokens: the bytes, CJK characters and punctuation, runs of letters. */
export function byteLevelVocabulary(size: number): {
  vocab: Record<string, number>
  merges: [left: string, right: string][]
} {
  const { characters, order } = byteCharacters()
  const encoder = new TextEncoder()
  const merges: [string, string][] = []
  const leads = new Set<string>()
  for (const character of cjk()) {
    const [a, b, c] = [...encoder.encode(character)].map((byte) => characters[byte]!) as [string, string, string]
    if (!leads.has(a + b)) {
      leads.add(a + b)
      merges.push([a, b])
    }
    merges.push([a + b, c])
  }
  for (const pair of letterMerges('Ġ', size - 256 - merges.length)) merges.push(pair)
  const vocab: Record<string, number> = {}
  let id = 0
  for (const byte of order) vocab[characters[byte]!] = id++
  for (const [left, right] of merges) vocab[left + right] = id++
  return { vocab, merges }
}

const ascii = Array.from({ length: 94 }, (_, i) => String.fromCharCode(0x21 + i))
const space = '▁'

function internlm2Model(): Uint8Array {
  // The first unused piece follows the vocabulary proper; the chat tokens override the last six.
  const unused = Array.from({ length: 147 }, (_, i) => `[UNUSED_TOKEN_${i}]`)
  const characters = [space, ...ascii, ...cjk()]
  const merged = letterMerges(space, 92544 - 259 - characters.length - unused.length)
  return sentencePieceModel({ merged, characters, userDefined: unused, addDummyPrefix: false })
}

function phi3Model(): Uint8Array {
  // The lone space is piece 29871, as in the real vocabulary.
  const characters = [space, ...ascii, ...cjk()].slice(0, 32000 - 29871)
  const merged = letterMerges(space, 29871 - 259)
  return sentencePieceModel({ merged, characters, userDefined: [], addDummyPrefix: true })
}

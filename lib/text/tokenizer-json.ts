/** Parts of a `tokenizer.json` that become tables: vocabulary, merges, the ids around a text, the rules of decoding. */
import { ModelError } from '../errors.ts'
import type { FallbackDecoderRules } from './decoding.ts'
import { describe, idFrom, isId, type JsonObject, objectOf } from './tokenizer-files.ts'
import { ListedVocabulary, type Vocabulary } from './vocabulary.ts'

/** Far above any token of the family; what decoding makes of one stays small. */
const maxTokenLength = 4096
const maxTemplateIds = 16
const maxReplacement = 64

export function refuse(message: string): never {
  throw new ModelError('BAD_TOKENIZER', message)
}

export function readVocabulary(vocab: JsonObject, file: string): Vocabulary {
  const ids = new Map<string, number>()
  const contents: string[] = []
  // Object.entries makes a list for each token, which takes longer than the table.
  for (const content of Object.keys(vocab)) {
    const value = vocab[content]
    // The label takes longer than all else that is done to a token, and is for the message alone.
    const id = isId(value) ? value : idFrom(value, `${file}: ${JSON.stringify(content)}`)
    if (content.length > maxTokenLength)
      refuse(`${file}: id ${id} is a text of ${content.length} characters; at most ${maxTokenLength} are read.`)
    if (contents[id] !== undefined)
      refuse(
        `${file}: id ${id} stands for ${JSON.stringify(contents[id])} and ${JSON.stringify(content)}; download the file again.`,
      )
    contents[id] = content
    ids.set(content, id)
  }
  if (ids.size === 0) refuse(`${file}: holds no tokens; download the file again.`)
  return new ListedVocabulary(ids, contents)
}

/** Ids of left, right and both together for each merge. */
export function readMerges(value: unknown, file: string, vocabulary: Vocabulary): Int32Array {
  if (!Array.isArray(value)) return refuse(`${file} is ${describe(value)}, expected a list.`)
  const merges = new Int32Array(value.length * 3)
  for (let i = 0; i < value.length; i++) {
    const entry: unknown = value[i]
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
    const leftId = vocabulary.idOf(left)
    const rightId = vocabulary.idOf(right)
    const bothId = vocabulary.idOf(left + right)
    if (leftId === undefined || rightId === undefined || bothId === undefined) {
      return refuse(
        `${file}: merge ${i}, ${describe(entry)}, names a token that the vocabulary lacks; take the files from the same repository.`,
      )
    }
    merges[i * 3] = leftId
    merges[i * 3 + 1] = rightId
    merges[i * 3 + 2] = bothId
  }
  return merges
}

/** Ids around a text by a TemplateProcessing post-processor; undefined when there is none. */
export function templateIds(
  value: unknown,
  idOf: (content: string) => number | undefined,
): { before: number[]; behind: number[] } | undefined {
  const processor = objectOf(value ?? undefined, 'tokenizer.json: post_processor')
  const steps: unknown[] =
    processor?.type === 'Sequence' && Array.isArray(processor.processors) ? processor.processors : [processor]
  let found: { before: number[]; behind: number[] } | undefined
  for (const one of steps) {
    const step = objectOf(one, 'tokenizer.json: post_processor step')
    // ByteLevel changes offsets only.
    if (!step || step.type === 'ByteLevel') continue
    if (step.type !== 'TemplateProcessing')
      refuse(`tokenizer.json: post_processor type ${describe(step.type)} is not supported.`)
    if (found) refuse('tokenizer.json: post_processor: TemplateProcessing stands there twice; this is not supported.')
    found = templateOfStep(step, idOf)
  }
  return found
}

function templateOfStep(
  processor: JsonObject,
  idOf: (content: string) => number | undefined,
): { before: number[]; behind: number[] } {
  const single = Array.isArray(processor.single)
    ? processor.single
    : refuse('tokenizer.json: post_processor.single is not a list.')
  const special = objectOf(processor.special_tokens, 'tokenizer.json: post_processor.special_tokens') ?? {}
  const before: number[] = []
  const behind: number[] = []
  let sides = before
  for (const step of single) {
    const entry = objectOf(step, 'tokenizer.json: post_processor.single') ?? {}
    if (entry.Sequence !== undefined) {
      if (sides === behind) refuse('tokenizer.json: post_processor.single has the text twice; this is not supported.')
      sides = behind
      continue
    }
    const name = objectOf(entry.SpecialToken, 'tokenizer.json: post_processor.single')?.id
    if (typeof name !== 'string')
      return refuse('tokenizer.json: post_processor.single holds a step that is neither a text nor a token.')
    const given = objectOf(
      Object.hasOwn(special, name) ? special[name] : undefined,
      `tokenizer.json: post_processor.special_tokens[${JSON.stringify(name)}]`,
    )?.ids
    const list = Array.isArray(given) ? given : [idOf(name)]
    for (const id of list) {
      if (before.length + behind.length >= maxTemplateIds)
        refuse(
          `tokenizer.json: post_processor puts more than ${maxTemplateIds} tokens around a text; this is not supported.`,
        )
      sides.push(idFrom(id, `tokenizer.json: post_processor token ${JSON.stringify(name)}`))
    }
  }
  return { before, behind }
}

export function decoderRules(value: unknown): FallbackDecoderRules | 'bytes' {
  const decoder =
    objectOf(value ?? undefined, 'tokenizer.json: decoder') ?? refuse('tokenizer.json: decoder is missing.')
  const steps = decoder.type === 'Sequence' && Array.isArray(decoder.decoders) ? decoder.decoders : [decoder]
  const rules: FallbackDecoderRules = { replace: [], byteFallback: false }
  let fused = false
  const seen = new Set<unknown>()
  for (const step of steps) {
    const { type, content, pattern, start, stop, replacement, prepend_scheme } = objectOf(
      step,
      'tokenizer.json: decoder step',
    )!
    if (seen.has(type))
      refuse(`tokenizer.json: decoder step ${describe(type)} stands there twice; this is not supported.`)
    seen.add(type)
    const from = objectOf(pattern ?? undefined, 'tokenizer.json: decoder pattern')?.String
    if (type === 'ByteLevel' && steps.length === 1) return 'bytes'
    if (
      type === 'Replace' &&
      typeof from === 'string' &&
      from !== '' &&
      typeof content === 'string' &&
      content.length <= maxReplacement
    )
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

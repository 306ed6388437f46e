/**
 * What of a conversation is learned: ids, labels, and why a sample teaches nothing. The rules are those of InternVL's own training code,
 * odd cases included (spec/adaptation.md, sections 3 and 4): borders of labels come from the lengths of pieces that are tokenised alone,
 * not from a search for ids.
 */
import { ModelError } from '../errors.ts'
import { imageContextId, imageText, writeOutImages } from '../text/prompt.ts'
import type { Template } from '../text/templates.ts'
import type { Tokenizer } from '../text/tokenizer.ts'

/** The label of a token that is not learned. */
export const ignoredLabel = -100

/** One entry of a sample's `conversations`. */
export interface Message {
  from: 'system' | 'human' | 'gpt'
  value: string
}

/** A conversation and the pictures that its `<image>` markers stand for. */
export interface Conversation {
  messages: readonly Message[]
  /** Image tokens of each picture, in order: tiles times tokens a tile. */
  imageTokens: readonly number[]
  /** The sample names one picture, not a list of pictures: a first message without a marker gets one. */
  single?: boolean
}

/** Why a sample cannot be used. */
export const rejections = {
  'no-conversation': 'it has no messages',
  'system-entry': 'its template takes no system message from the data',
  'roles-do-not-alternate': 'human and gpt do not take turns',
  'marker-count': 'it has fewer <image> markers than pictures',
  'role-text-in-answer': "an answer holds the text of the template's role header",
  'image-token-in-text': 'a text holds <IMG_CONTEXT>, which only pictures may be',
  'pictures-cut': 'it is longer than the maximum length, and the cut takes a part of a picture',
} as const

/** Why a sample that can be used teaches nothing. */
export const emptyReasons = {
  'empty-answer': 'an answer is empty',
  'no-answer': 'it has no answer',
  'ends-with-a-question': 'its last message is a question',
  'turn-end-in-text': "a text holds the template's end of turn",
  'padding-in-text': "a text holds the tokenizer's padding token",
  'lengths-differ': 'its pieces tokenised alone are not as long as the whole',
  'answer-cut': 'the cut to the maximum length leaves no answer',
} as const

export type Rejection = keyof typeof rejections
export type EmptyReason = keyof typeof emptyReasons

export interface LabelledSample {
  /** [tokens]; image tokens are the id of `<IMG_CONTEXT>`. */
  ids: Int32Array<ArrayBuffer>
  /** [tokens]; the id where it is learned, {@link ignoredLabel} elsewhere. Label t is scored against row t − 1 of the logits. */
  labels: Int32Array<ArrayBuffer>
  /** Labels that are learned. */
  learned: number
  /** Set if nothing is learned. */
  nothing?: EmptyReason
}

export type LabelResult = LabelledSample | { rejected: Rejection }

export interface LabelOptions {
  /** Tokens a sample is cut to; `max_seq_length`. Default: no cut. */
  maxLength?: number
}

/**
 * Ids and labels of one sample.
 *
 * @throws {@link ModelError} `BAD_TOKENIZER` if the tokenizer lacks a token of pictures; `UNSUPPORTED_MODEL` for a template that the
 *   reference does not train (`chatml-hf`).
 */
export function labelConversation(
  tokenizer: Tokenizer,
  template: Template,
  conversation: Conversation,
  options: LabelOptions = {},
): LabelResult {
  const messages = withMarker(conversation)
  if (messages.length === 0) return { rejected: 'no-conversation' }
  if (messages.some(({ value }) => value.includes('<IMG_CONTEXT>'))) return { rejected: 'image-token-in-text' }
  const writer = new SampleWriter(tokenizer, conversation.imageTokens)
  const result = label(writer, template, messages, options.maxLength ?? Number.POSITIVE_INFINITY)
  if ('rejected' in result) return result
  if (writer.endsOfPictures(result.ids) !== conversation.imageTokens.length && conversation.imageTokens.length > 0)
    return { rejected: 'pictures-cut' }
  const learned = result.labels.reduce((sum, value) => sum + (value === ignoredLabel ? 0 : 1), 0)
  const nothing = learned > 0 ? undefined : whyNothing(writer, template, messages, result)
  return { ids: result.ids, labels: result.labels, learned, ...(nothing ? { nothing } : {}) }
}

function label(
  writer: SampleWriter,
  template: Template,
  messages: readonly Message[],
  most: number,
): Labels | Rejected {
  switch (template.name) {
    case 'Hermes-2':
    case 'phi3-chat':
    case 'internlm2-chat':
      return labelWhole(writer, template, messages, most)
    case 'internvl2_5':
      return labelMessages(writer, template, messages, most)
    default:
      throw new ModelError(
        'UNSUPPORTED_MODEL',
        `Template ${template.name} has no training rules of the reference; train the checkpoint in its original form.`,
      )
  }
}

interface Labels {
  ids: Int32Array<ArrayBuffer>
  labels: Int32Array<ArrayBuffer>
  /** The lengths of the pieces do not add up. */
  mismatch?: boolean
}

type Rejected = { rejected: Rejection }

/** The reference's rule for one picture: the first message, whatever it is, gets a marker unless it has one. */
function withMarker({ messages, imageTokens, single }: Conversation): readonly Message[] {
  const [first, ...others] = messages
  if (!single || imageTokens.length !== 1 || first === undefined || first.value.includes('<image>')) return messages
  return [{ ...first, value: `<image>\n${first.value}` }, ...others]
}

/** The first three templates: one text, tokenised at once. */
function labelWhole(
  writer: SampleWriter,
  template: Template,
  given: readonly Message[],
  most: number,
): Labels | Rejected {
  const strip = template.name === 'internlm2-chat'
  const messages = given[0]!.from === 'gpt' ? given.slice(1) : given
  if (messages.some(({ from }) => from === 'system')) return { rejected: 'system-entry' }
  if (messages.length === 0 || messages.some(({ from }, i) => from !== (i % 2 === 0 ? 'human' : 'gpt')))
    return { rejected: 'roles-do-not-alternate' }
  const turns = messages.map(({ from, value }) => {
    const role = from === 'human' ? template.user : template.assistant
    const text = strip ? stripSpace(value) : value
    return role + (text === '' ? '' : text + template.sep)
  })
  const text = writer.placePictures(
    template.systemStart + (template.systemMessage ?? '') + template.sep + turns.join(''),
  )
  if (text === undefined) return { rejected: 'marker-count' }
  const ids = writer.ids(text, 0, true).slice(0, most)
  const labels = ids.slice()
  const total = writer.countedTokens(ids)
  const end =
    template.name === 'internlm2-chat'
      ? maskByRole(writer, template, text, labels)
      : maskByTurns(writer, template, text, labels, template.name === 'phi3-chat' ? 1 : 0)
  if (end === undefined) return { rejected: 'role-text-in-answer' }
  labels.fill(ignoredLabel, end)
  if (end >= most || end === total) return { ids, labels }
  return { ids, labels: labels.fill(ignoredLabel), mismatch: true }
}

/** Hermes-2 (`start` 0) and phi3-chat (`start` 1, whose tokenizer puts one stray token behind bos): groups of question and answer. */
function maskByTurns(
  writer: SampleWriter,
  template: Template,
  text: string,
  labels: Int32Array<ArrayBuffer>,
  start: 0 | 1,
): number {
  if (start === 1) {
    const endOfText = writer.tokenizer.idOf('<|endoftext|>')
    for (const [i, id] of labels.entries()) if (id === endOfText) labels[i] = ignoredLabel
  }
  const turns = text.split(template.sep)
  const groups = [turns.slice(0, 3).join(template.sep)]
  for (let i = 3; i < turns.length; i += 2) groups.push(turns.slice(i, i + 2).join(template.sep))
  const header = template.sep + template.assistant
  let at = start
  let pictures = 0
  labels.fill(ignoredLabel, 0, at)
  for (const [i, group] of groups.entries()) {
    if (group === '') break
    const parts = group.split(header)
    if (parts.length !== 2) break
    const masked = writer.length(parts[0] + header, pictures) - (start === 0 ? 0 : i === 0 ? 1 : 2)
    labels.fill(ignoredLabel, at, at + masked)
    at += writer.length(group, pictures) + (start === 0 ? 1 : i === 0 ? 0 : -1)
    pictures += countPictures(group)
  }
  return at
}

/** internlm2-chat: split at the assistant's header; every piece is tokenised with bos, which is not counted. */
function maskByRole(
  writer: SampleWriter,
  template: Template,
  text: string,
  labels: Int32Array<ArrayBuffer>,
): number | undefined {
  const parts = text.split(template.assistant)
  let at = 1
  let pictures = 0
  const take = (piece: string, masked: boolean): void => {
    const length = writer.length(piece, pictures) - 1
    pictures += countPictures(piece)
    if (masked) labels.fill(ignoredLabel, at, at + length)
    at += length
  }
  labels.fill(ignoredLabel, 0, at)
  take(parts[0] + template.assistant, true)
  for (const part of parts.slice(1, -1)) {
    const halves = part.split(template.user)
    if (halves.length !== 2) return undefined
    take(halves[0]!, false)
    take(template.user + halves[1] + template.assistant, true)
  }
  if (parts.length > 1) take(parts.at(-1)!, false)
  return at
}

/** internvl2_5: every message is tokenised alone. */
function labelMessages(
  writer: SampleWriter,
  template: Template,
  given: readonly Message[],
  most: number,
): Labels | Rejected {
  const [first] = given
  const system = first!.from === 'system' ? first!.value : template.systemMessage
  const messages = first!.from === 'system' ? given.slice(1) : given
  if (messages.some(({ from }) => from === 'system')) return { rejected: 'roles-do-not-alternate' }
  const parts: { text: string; learned: boolean }[] = []
  if (system !== undefined) parts.push({ text: template.systemStart + system + template.sep, learned: false })
  let used = 0
  for (const { from, value } of messages) {
    if (from === 'gpt') parts.push({ text: template.assistant + value + template.sep, learned: true })
    else {
      const placed = writer.placeSome(value, used)
      used = placed.used
      parts.push({ text: template.user + placed.text + template.sep, learned: false })
    }
  }
  if (used !== writer.pictures) return { rejected: 'marker-count' }
  const header = writer.ids(template.assistant, 0, false).length
  const ids: number[] = []
  const labels: number[] = []
  let pictures = 0
  for (const [i, { text, learned }] of parts.entries()) {
    const piece = writer.ids(text, pictures, i === 0)
    pictures += countPictures(text)
    for (const [j, id] of piece.entries()) {
      ids.push(id)
      labels.push(learned && j >= header && j < piece.length - 1 ? id : ignoredLabel)
    }
  }
  return { ids: Int32Array.from(ids.slice(0, most)), labels: Int32Array.from(labels.slice(0, most)) }
}

/** Python's `str.strip()`. */
function stripSpace(text: string): string {
  const blank = '[\\s\\x1c-\\x1f\\x85]'
  return text.replace(new RegExp(`^(?:(?!\\ufeff)${blank})+|(?:(?!\\ufeff)${blank})+$`, 'g'), '')
}

function whyNothing(
  writer: SampleWriter,
  template: Template,
  messages: readonly Message[],
  result: Labels,
): EmptyReason {
  const answers = messages.filter(({ from }) => from === 'gpt')
  if (answers.length === 0) return 'no-answer'
  if (!result.mismatch) return 'answer-cut'
  if (answers.some(({ value }) => stripSpace(value) === '')) return 'empty-answer'
  if (messages.at(-1)!.from === 'human') return 'ends-with-a-question'
  if (messages.some(({ value }) => value.includes(template.stop))) return 'turn-end-in-text'
  if (writer.hasPadding(result.ids)) return 'padding-in-text'
  return 'lengths-differ'
}

/** Texts to ids, pictures written out. */
class SampleWriter {
  readonly tokenizer: Tokenizer
  readonly #imageTokens: readonly number[]
  readonly #context: number
  readonly #end: number

  constructor(tokenizer: Tokenizer, imageTokens: readonly number[]) {
    this.tokenizer = tokenizer
    this.#imageTokens = imageTokens
    this.#context = imageContextId(tokenizer)
    this.#end = tokenizer.idOf('</img>')!
  }

  get pictures(): number {
    return this.#imageTokens.length
  }

  /** `text` with every picture in the place of a marker; undefined if there are too few markers. Surplus markers stay text. */
  placePictures(text: string): string | undefined {
    const placed = this.placeSome(text, 0)
    return placed.used === this.pictures ? placed.text : undefined
  }

  /** Puts pictures from number `from` on into the markers of a text. */
  placeSome(text: string, from: number): { text: string; used: number } {
    let used = from
    const placed = text.replace(/<image>/g, (marker) => {
      if (used === this.pictures) return marker
      used++
      return imageText
    })
    return { text: placed, used }
  }

  /** [tokens] of a text whose first picture has number `picture`; bos in front if `start` and the tokenizer adds one. */
  ids(text: string, picture: number, start: boolean): Int32Array<ArrayBuffer> {
    const ids = this.tokenizer.encode([{ text, trusted: true }], { addBos: start })
    const counts = this.#imageTokens.slice(picture, picture + countPictures(text))
    return writeOutImages(ids, this.#context, counts, this.#context)
  }

  length(text: string, picture: number): number {
    return this.ids(text, picture, true).length
  }

  /** Tokens that are not padding: what the reference takes for a sample's length. */
  countedTokens(ids: Int32Array<ArrayBuffer>): number {
    return ids.reduce((sum, id) => sum + (id === this.tokenizer.paddingId ? 0 : 1), 0)
  }

  hasPadding(ids: Int32Array<ArrayBuffer>): boolean {
    return this.countedTokens(ids) < ids.length
  }

  endsOfPictures(ids: Int32Array<ArrayBuffer>): number {
    return ids.reduce((sum, id) => sum + (id === this.#end ? 1 : 0), 0)
  }
}

function countPictures(text: string): number {
  return text.split(imageText).length - 1
}

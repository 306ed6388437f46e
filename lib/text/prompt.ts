/**
 * Prompts to ids, cut where the cache of a scene ends and a question begins.
 *
 * A scene's ids are everything up to the last added token before the question, `</img>` where there are images. Added tokens
 * are hard boundaries in every tokenizer of the family, so the ids of both halves are the ids of the whole; what stands between
 * that token and the question (a line break) belongs to the question's half.
 */
import { ModelError } from '../errors.ts'
import { stripPython, type TextPart, trailingSpace } from './added-tokens.ts'
import type { Template } from './templates.ts'
import type { Tokenizer } from './tokenizer.ts'

/** Marks an image slot in ids. */
export const imageSlot = -1

/** An image in a prompt, by the number of its image tokens. */
export interface ImagePart {
  imageTokens: number
}

export type PromptPart = TextPart | ImagePart

/** How views are put into the text before a question. */
export type ImageLayout =
  /** `<image>\n` for each image: one picture, one canvas, or the -hf way of several. */
  | { kind: 'plain' }
  /** `Image-1: <image>\nImage-2: <image>\n`, the training form of several images. */
  | { kind: 'numbered' }
  /** `CAM_FRONT: <image>\n`. */
  | { kind: 'named'; names: readonly string[] }

/**
 * What is put into the text for views as they were composed: names of the cameras where the model wants them and all views have one, else
 * numbers in the form of several images.
 */
export function imageLayoutOf(
  composed: 'canvas' | 'separate' | 'single',
  cameras: readonly (string | undefined)[],
  { cameraNames, numbered }: { cameraNames: boolean; numbered: boolean },
): ImageLayout {
  if (composed !== 'separate') return { kind: 'plain' }
  const names = cameras.filter((camera) => camera !== undefined)
  if (cameraNames && names.length === cameras.length) return { kind: 'named', names }
  return { kind: numbered ? 'numbered' : 'plain' }
}

function trusted(text: string): TextPart {
  return { text, trusted: true }
}

/** An image as the template prints it. */
export function imageParts(template: Template, image: ImagePart): PromptPart[] {
  const { before, after } = template.image ?? { before: '', after: '' }
  return [...textPart(before), image, ...textPart(after)]
}

function textPart(text: string): TextPart[] {
  return text === '' ? [] : [trusted(text)]
}

/** Everything before the first question. */
export function headParts(template: Template, system: string | undefined): PromptPart[] {
  const user = trusted(template.user)
  const message = system ?? template.systemMessage
  if (message === undefined) return [...textPart(template.begin ?? ''), user]
  if (template.takesSystem === false) {
    throw new ModelError(
      'UNSUPPORTED_MODEL',
      "The chat template of this model has no place for a system message; leave it out, or put it into the folder's chat template.",
    )
  }
  const text = template.trimsSystem ? stripPython(message) : message
  const end = trusted(template.systemSep ?? template.sep)
  return [trusted(template.systemStart), { text, trusted: false }, end, user]
}

/** What stands between a question and its answer. */
export function questionEnd(template: Template, isOpen: boolean): string {
  return (isOpen ? '' : (template.questionSep ?? template.sep)) + template.assistant
}

/** What stands between an answer and the next question. */
export function nextQuestion(template: Template): string {
  return template.sep + template.user
}

/** A question as the template prints it; `behindPicture` says that a picture stands before it in the same text. */
export function questionText(template: Template, question: string, behindPicture: boolean): TextPart {
  const text = !template.trimsQuestion
    ? question
    : behindPicture && template.image?.inText
      ? question.slice(0, trailingSpace(question, 'python'))
      : stripPython(question)
  return { text, trusted: false }
}

/** An image in a text, its image tokens as one: they are written out among the ids. */
export const imageText = '<img><IMG_CONTEXT></img>'

function textParts(parts: readonly PromptPart[]): TextPart[] {
  return parts.map((part) => ('text' in part ? part : trusted(imageText)))
}

/** Ids of a prompt; −1 marks an image slot. `after` as in {@link Tokenizer.encode}. */
export function encodePrompt(
  tokenizer: Tokenizer,
  parts: readonly PromptPart[],
  after?: string,
): Int32Array<ArrayBuffer> {
  const images = parts.filter((part): part is ImagePart => 'imageTokens' in part)
  for (const { imageTokens } of images) {
    if (!Number.isInteger(imageTokens) || imageTokens < 1) {
      throw new ModelError(
        'BAD_ARGUMENT',
        `An image of ${imageTokens} image tokens; expected a whole number of at least 1.`,
      )
    }
  }
  const ids = tokenizer.encode(textParts(parts), after === undefined ? {} : { after })
  if (images.length === 0) return Int32Array.from(ids)
  const counts = images.map(({ imageTokens }) => imageTokens)
  return writeOutImages(ids, imageContextId(tokenizer), counts, imageSlot)
}

/** Ids in which the image token of the i-th image, `context`, stands as `fill`, as often as `counts[i]` says. Further ones stay as they are. */
export function writeOutImages(
  ids: ArrayLike<number>,
  context: number,
  counts: readonly number[],
  fill: number,
): Int32Array<ArrayBuffer> {
  const out = new Int32Array(counts.reduce((sum, count) => sum + count - 1, ids.length))
  let at = 0
  let image = 0
  for (let i = 0; i < ids.length; i++) {
    if (ids[i] === context && image < counts.length) {
      const end = at + counts[image++]!
      out.fill(fill, at, end)
      at = end
    } else out[at++] = ids[i]!
  }
  return out
}

/** @throws {@link ModelError} `BAD_TOKENIZER` if one of the three tokens of an image is none. */
export function imageContextId(tokenizer: Tokenizer): number {
  for (const token of ['<img>', '</img>', '<IMG_CONTEXT>']) {
    const id = tokenizer.idOf(token)
    if (id === undefined || !tokenizer.addedIds.has(id)) {
      throw new ModelError(
        'BAD_TOKENIZER',
        `The tokenizer has no added token ${token}, so it cannot mark images; take added_tokens.json and tokenizer_config.json from the model's repository.`,
      )
    }
  }
  return tokenizer.idOf('<IMG_CONTEXT>')!
}

/** A scene's half of the prompt. */
export interface ScenePrompt {
  /** bos, system message, user role and images; −1 marks an image slot. */
  ids: Int32Array<ArrayBuffer>
  /** Slots of each image, in order. */
  imageSlots: number[]
  /** The added token that ids end with. */
  after: string
  /** What stands between it and the question. */
  carry: TextPart[]
}

export interface SceneOptions {
  system?: string | undefined
  layout?: ImageLayout
  /** Image tokens of each image, in order; empty for a text-only prompt. */
  imageTokens: readonly number[]
}

/** Everything before the question. */
export function buildScenePrompt(tokenizer: Tokenizer, template: Template, options: SceneOptions): ScenePrompt {
  const parts = [...headParts(template, options.system), ...layoutParts(template, options)]
  const cut = cutPlace(tokenizer, textParts(parts))
  if (!cut) {
    throw new ModelError(
      'BAD_TOKENIZER',
      `The tokenizer has none of the tokens of template ${template.name} (${template.user.trim()}), or finds them only before some texts; the files do not belong to this model.`,
    )
  }
  const [head, carry] = cutParts(parts, cut.end)
  return {
    ids: encodePrompt(tokenizer, head),
    imageSlots: [...options.imageTokens],
    after: cut.content,
    carry: textParts(carry),
  }
}

/** Beginnings of questions that could change what stands before them: a letter, a blank, a mark that joins the character before it. */
const probes = ['', 'x', ' x', '\u0338x']

interface CutPlace {
  content: string
  end: number
}

/** Places found before: all scenes of a model mostly begin alike, and a place costs ten encodings. */
const knownPlaces = new WeakMap<Tokenizer, Map<string, CutPlace | undefined>>()
const maxKnownPlaces = 64

function cutPlace(tokenizer: Tokenizer, parts: readonly TextPart[]): CutPlace | undefined {
  const known = knownPlaces.get(tokenizer) ?? new Map<string, CutPlace | undefined>()
  knownPlaces.set(tokenizer, known)
  const key = JSON.stringify(parts)
  if (!known.has(key)) {
    if (known.size >= maxKnownPlaces) known.clear()
    known.set(key, findCutPlace(tokenizer, parts))
  }
  return known.get(key)
}

/** The last added token behind which a prompt may be cut: whatever question follows, the ids of both halves are the ids of the whole. */
function findCutPlace(tokenizer: Tokenizer, parts: readonly TextPart[]): CutPlace | undefined {
  const text = parts.map((part) => part.text).join('')
  return tokenizer.addedTokensIn(parts).findLast(({ content, end }) => {
    // A token that swallows blanks, or that is found inside of its own normalised form, may end elsewhere.
    if (!text.slice(0, end).endsWith(content)) return false
    const [head, carry] = cutParts(parts, end) as [TextPart[], TextPart[]]
    const begun = tokenizer.encode(head)
    return probes.every((question) => {
      const asked = { text: question, trusted: false }
      const whole = tokenizer.encode([...parts, asked])
      const halves = [...begun, ...tokenizer.encode([...carry, asked], { after: content })]
      return whole.length === halves.length && whole.every((id, i) => id === halves[i])
    })
  })
}

function layoutParts(template: Template, { layout = { kind: 'plain' }, imageTokens }: SceneOptions): PromptPart[] {
  if (layout.kind === 'named' && layout.names.length !== imageTokens.length) {
    throw new ModelError(
      'BAD_ARGUMENT',
      `${imageTokens.length} images but ${layout.names.length} names; give each image one name.`,
    )
  }
  return imageTokens.flatMap((count, i): PromptPart[] => {
    const label: TextPart[] =
      layout.kind === 'plain'
        ? []
        : layout.kind === 'numbered'
          ? [trusted(`Image-${i + 1}: `)]
          : [{ text: layout.names[i]!, trusted: false }, trusted(': ')]
    const image = { imageTokens: count }
    return [...label, ...(template.image ? imageParts(template, image) : [image, trusted('\n')])]
  })
}

/** Parts before and behind an offset of their text, images written as {@link imageText}. */
function cutParts(parts: readonly PromptPart[], end: number): [PromptPart[], PromptPart[]] {
  const head: PromptPart[] = []
  const tail: PromptPart[] = []
  let at = 0
  for (const part of parts) {
    const length = 'text' in part ? part.text.length : imageText.length
    if (at + length <= end) head.push(part)
    else if (at >= end) tail.push(part)
    else if ('text' in part) {
      head.push({ ...part, text: part.text.slice(0, end - at) })
      tail.push({ ...part, text: part.text.slice(end - at) })
    }
    at += length
  }
  return [head, tail]
}

/** The question's half: ids that follow the scene's. */
export function buildQuestion(
  tokenizer: Tokenizer,
  template: Template,
  scene: ScenePrompt,
  question: string,
): Int32Array<ArrayBuffer> {
  return encodeAnswer(tokenizer, template, scene, question, '')
}

/** {@link buildQuestion} with the beginning of an answer, encoded as one text. */
export function encodeAnswer(
  tokenizer: Tokenizer,
  template: Template,
  scene: ScenePrompt,
  question: string,
  answer: string,
): Int32Array<ArrayBuffer> {
  // With an image before it a message is never empty.
  const open = template.emptyIsOpen && question === '' && scene.imageSlots.length === 0
  const asked = questionText(template, question, scene.imageSlots.length > 0)
  const parts = [...scene.carry, asked, trusted(questionEnd(template, open)), { text: answer, trusted: false }]
  return encodePrompt(tokenizer, parts, scene.after)
}

/** One more turn behind a generated answer: the end of that answer, the question, the assistant role. */
export function buildTurn(tokenizer: Tokenizer, template: Template, question: string): Int32Array<ArrayBuffer> {
  const stop = stopId(tokenizer, template)
  const parts: PromptPart[] = [
    trusted(nextQuestion(template).slice(template.stop.length)),
    questionText(template, question, false),
    trusted(questionEnd(template, template.emptyIsOpen && question === '')),
  ]
  return Int32Array.from([stop, ...encodePrompt(tokenizer, parts, template.stop)])
}

function stopId(tokenizer: Tokenizer, template: Template): number {
  const id = tokenizer.idOf(template.stop)
  if (id === undefined || !tokenizer.addedIds.has(id)) {
    throw new ModelError(
      'BAD_TOKENIZER',
      `The tokenizer has no added token ${template.stop}, which ends a turn of template ${template.name}; take the tokenizer files from the model's repository.`,
    )
  }
  return id
}

/** Ids that end an answer: the template's turn end, and what generation_config.json adds. */
export function stopIds(
  tokenizer: Tokenizer,
  template: Template,
  generationEos: number | readonly number[] = [],
): number[] {
  const more = typeof generationEos === 'number' ? [generationEos] : generationEos
  for (const id of more) {
    if (!Number.isInteger(id) || id < 0 || id >= tokenizer.size) {
      throw new ModelError(
        'BAD_TOKENIZER',
        `generation_config.json: eos_token_id ${id} is outside of the tokenizer's ${tokenizer.size} ids; the files do not belong together.`,
      )
    }
  }
  return [...new Set([stopId(tokenizer, template), ...more])]
}

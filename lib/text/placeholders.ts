/**
 * `<image>` in a text a caller gives: it stands for a picture, in order, as in training data. In a scene the pictures stand before the
 * question, so placeholders are taken where they say just that, and refused by name everywhere else.
 */
import { ModelError } from '../errors.ts'

/** Where a picture goes, in training data and in the reference's own `chat`. */
export const placeholder = '<image>'

/** How texts that callers give are read. */
export type TextReading = 'placeholders' | 'literal'

/** The pictures of a scene as the text before a question has them. */
export interface PlacedPictures {
  /** Images of the prompt: 1 for a canvas. */
  images: number
  /** Pictures that were given. */
  given: number
  /** What the layout prints before each image, such as `Image-1`; undefined where it prints nothing. */
  labels: readonly string[] | undefined
  /** Cameras that are named inside the picture, in no order. */
  painted: readonly string[]
}

/** Placeholders before a question, and what follows them. */
export interface PictureHead {
  /** One a placeholder; undefined for a bare one. */
  labels: (string | undefined)[]
  question: string
}

const one = /\s*(?:([A-Za-z0-9_-]{1,64})[ \t]*:[ \t]*)?<image>/y

/**
 * Reads `<image>\n` and `Image-1: <image>\n` in front of a question, any number of them.
 *
 * @returns Undefined for a text without placeholders.
 * @throws {@link ModelError} `BAD_ARGUMENT` for a placeholder anywhere else.
 */
export function pictureHead(text: string): PictureHead | undefined {
  if (!text.includes(placeholder)) return undefined
  const labels: (string | undefined)[] = []
  one.lastIndex = 0
  let end = 0
  for (let found = one.exec(text); found !== null; found = one.exec(text)) {
    labels.push(found[1])
    end = one.lastIndex
  }
  const question = text.slice(end).replace(/^[ \t]*(\r?\n)?/, '')
  if (question.includes(placeholder)) {
    throw refused(
      `has ${placeholder} behind other words, and pictures stand before a question. Put the placeholders in front, one a picture, or leave ` +
        'them out',
    )
  }
  return { labels, question }
}

/**
 * A question as it is asked about a scene: without the placeholders in front of it, which the scene's own pictures stand for.
 *
 * @throws {@link ModelError} `BAD_ARGUMENT` if they say something else than the scene does: another number, other labels.
 */
export function withoutPlaceholders(text: string, pictures: PlacedPictures): string {
  const head = pictureHead(text)
  if (head === undefined) return text
  const { labels, question } = head
  const { images, given } = pictures
  if (labels.length !== images && labels.length !== given) {
    const wanted = images === given ? String(given) : `${given}, or ${images} for the image they make,`
    throw refused(
      `has ${labels.length} ${placeholder} for ${count(given)}. Write ${wanted} in front, or none: the pictures are there by themselves`,
    )
  }
  if (!labelsFit(labels, pictures)) {
    const prints = pictures.labels === undefined ? 'nothing' : pictures.labels.map((label) => `"${label}: "`).join(', ')
    const found = labels.map((label) => (label === undefined ? 'nothing' : `"${label}: "`)).join(', ')
    throw refused(`has ${found} before its ${placeholder}, where this model's layout prints ${prints}. Leave them out`)
  }
  if (question.trim() === '') {
    throw new ModelError(
      'BAD_ARGUMENT',
      `The question is empty behind its ${placeholder}; ask something about the views.`,
    )
  }
  return question
}

/** @throws {@link ModelError} `BAD_ARGUMENT` for a placeholder where there are no pictures: system message, later turns, answers. */
export function refusePlaceholders(text: string, what: string, why: string): void {
  if (text.includes(placeholder)) throw refused(`has ${placeholder}, ${why}. Leave it out`, what)
}

function labelsFit(
  labels: readonly (string | undefined)[],
  { labels: printed, painted, images }: PlacedPictures,
): boolean {
  if (labels.every((label) => label === undefined)) return true
  if (printed !== undefined && labels.length === images) return labels.every((label, i) => label === printed[i])
  const named = new Set(labels)
  return named.size === labels.length && labels.every((label) => label !== undefined && painted.includes(label))
}

function count(pictures: number): string {
  return pictures === 1 ? 'one picture' : `${pictures} pictures`
}

function refused(what: string, subject = 'The question'): ModelError {
  return new ModelError('BAD_ARGUMENT', `${subject} ${what}. Who means the letters passes { text: 'literal' }.`)
}

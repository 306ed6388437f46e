/**
 * `<ref>label</ref><box>[[x1, y1, x2, y2]]</box>`: asking for boxes, asking about a box, and reading boxes out of an answer.
 * Answers come from a model: whatever is not a sound box stays text, and reading takes time in proportion to the length.
 */
import { ModelError } from '../errors.ts'
import { type Box, boxToPixels, boxToThousandths, type CameraBox, type CanvasGeometry } from './geometry.ts'

/** `<box>[[x1, y1, x2, y2]]</box>` of boxes in thousandths. `compact` writes no blanks. */
export function formatBoxes(boxes: readonly Box[], options: { compact?: boolean } = {}): string {
  const comma = options.compact ? ',' : ', '
  return `<box>[${boxes.map((box) => `[${box.join(comma)}]`).join(comma)}]</box>`
}

/** `<ref>label</ref><box>…</box>`. */
export function formatObject(label: string, boxes: readonly Box[], options: { compact?: boolean } = {}): string {
  return `<ref>${checkedLabel(label)}</ref>${formatBoxes(boxes, options)}`
}

function checkedLabel(label: string): string {
  if (label.trim() === '' || /<\/?(?:ref|box|quad)>/.test(label)) {
    throw new ModelError(
      'BAD_ARGUMENT',
      `Label ${JSON.stringify(label)}; expected a description without <ref>, <box> or <quad> tags.`,
    )
  }
  return label
}

/** Asks where something is: `sentence` is the form of the RefCOCO evaluation, `detect` that of remote sensing. */
export function locateQuestion(label: string, form: 'sentence' | 'detect' = 'sentence'): string {
  const ref = `<ref>${checkedLabel(label)}</ref>`
  return form === 'detect'
    ? `Detect ${ref}`
    : `Please provide the bounding box coordinate of the region this sentence describes: ${ref}`
}

/** Asks for every object, with labels. */
export const detectAllQuestion = 'Please detect and label all objects in the following image and mark their positions.'

/** Asks about a region given in a camera's pixels; `{box}` in the question is replaced, without it the box goes last. */
export function regionQuestion(
  geometry: CanvasGeometry,
  region: CameraBox,
  question: string = 'What object is in this location',
  options: { compact?: boolean } = {},
): string {
  const box = formatBoxes([boxToThousandths(geometry, region)], options)
  return question.includes('{box}') ? question.replaceAll('{box}', () => box) : question + box
}

/** A label with its boxes in thousandths, as an answer has it. The label is empty where there is none. */
export interface GroundedObject {
  /** What the answer calls it. */
  label: string
  /** [x1, y1, x2, y2] each, in thousandths of the picture. */
  boxes: Box[]
}

/** An answer taken apart: what it names, with boxes, and the text around. */
export interface Grounding {
  /** In the order of the answer. */
  objects: GroundedObject[]
  /** Text and objects in the order of the answer. */
  segments: (string | GroundedObject)[]
  /** The answer with labels in place of the tagged forms. */
  text: string
}

/**
 * Reads an answer in either form: with tags, or with the tags removed (`label[[x1, y1, x2, y2]]`, what InternVL2 and 2.5 give when
 * special tokens are skipped). A label without tags is the text before the box on its line. Numbers outside of 0..1000 are
 * clamped; boxes with swapped corners, wrong counts or other flaws stay text.
 */
export function parseGrounding(answer: string): Grounding {
  const segments: (string | GroundedObject)[] = []
  const closeRef = lastKnown(answer, '</ref>')
  let plain = 0
  const finishText = (end: number): void => {
    if (end > plain) segments.push(answer.slice(plain, end))
  }
  const marks = /<ref>|<box>|\[/g
  for (let mark = marks.exec(answer); mark; mark = marks.exec(answer)) {
    const at = mark.index
    let object: GroundedObject | undefined
    let start = at
    let end = at
    if (mark[0] === '<ref>') {
      const close = closeRef(at)
      if (
        close < 0 ||
        answer.slice(at + 5, Math.min(close, at + 5 + maxLabel)).includes('<ref>') ||
        close - at - 5 > maxLabel
      )
        continue
      const list = readTagged(answer, skipSpace(answer, close + 6))
      if (!list) continue
      object = { label: answer.slice(at + 5, close).trim(), boxes: list.boxes }
      end = list.end
    } else {
      const list = mark[0] === '<box>' ? readTagged(answer, at) : readBoxes(answer, at)
      if (!list) {
        // A flawed list stays text as a whole: its first box is not read by itself.
        if (mark[0] === '[' && answer[skipSpace(answer, at + 1)] === '[')
          marks.lastIndex = skipSpace(answer, at + 1) + 1
        continue
      }
      start = mark[0] === '<box>' ? at : labelStart(answer, plain, at)
      object = { label: answer.slice(start, at).trim(), boxes: list.boxes }
      end = list.end
    }
    finishText(start)
    segments.push(object)
    plain = end
    marks.lastIndex = end
  }
  finishText(answer.length)
  const objects = segments.filter((segment): segment is GroundedObject => typeof segment !== 'string')
  return {
    objects,
    segments,
    text: segments.map((segment) => (typeof segment === 'string' ? segment : segment.label)).join(''),
  }
}

const maxLabel = 1000

/** indexOf for ascending places: each stretch is searched once. */
function lastKnown(text: string, pattern: string): (from: number) => number {
  let known = -2
  return (from) => {
    if (known === -2 || (known >= 0 && known < from)) known = text.indexOf(pattern, from)
    return known
  }
}

/** Start of an untagged label: behind the last line break, box or sentence mark, but not before `from`. */
function labelStart(text: string, from: number, at: number): number {
  let start = at
  while (start > from && at - start < maxLabel && !/[\n>\];]/.test(text[start - 1]!)) start--
  while (start < at && /[\s,.]/.test(text[start]!)) start++
  return start
}

interface BoxList {
  boxes: Box[]
  end: number
}

function readTagged(text: string, at: number): BoxList | undefined {
  if (!text.startsWith('<box>', at)) return undefined
  const list = readBoxes(text, skipSpace(text, at + 5))
  if (!list) return undefined
  const end = skipSpace(text, list.end)
  // An answer that ran out of tokens may end before the closing tag.
  if (end === text.length) return { boxes: list.boxes, end }
  return text.startsWith('</box>', end) ? { boxes: list.boxes, end: end + 6 } : undefined
}

/** `[[a, b, c, d], …]` or `[a, b, c, d]`. */
function readBoxes(text: string, at: number): BoxList | undefined {
  if (text[at] !== '[') return undefined
  const inner = skipSpace(text, at + 1)
  if (text[inner] !== '[') {
    const single = readBox(text, at)
    return single && { boxes: [single.box], end: single.end }
  }
  const boxes: Box[] = []
  for (let next = inner; ; ) {
    const one = readBox(text, next)
    if (!one) return undefined
    boxes.push(one.box)
    next = skipSpace(text, one.end)
    if (text[next] === ']') return { boxes, end: next + 1 }
    if (text[next] !== ',') return undefined
    next = skipSpace(text, next + 1)
  }
}

const numberForm = /-?\d{1,9}(?:\.\d{1,9})?/y

function readBox(text: string, from: number): { box: Box; end: number } | undefined {
  if (text[from] !== '[') return undefined
  const values: number[] = []
  let at = from
  for (let i = 0; i < 4; i++) {
    if (i > 0 && text[at] !== ',') return undefined
    numberForm.lastIndex = skipSpace(text, at + 1)
    const match = numberForm.exec(text)
    if (!match) return undefined
    values.push(Math.min(Math.max(Number(match[0]), 0), 1000))
    at = skipSpace(text, numberForm.lastIndex)
  }
  const [x1, y1, x2, y2] = values as [number, number, number, number]
  if (text[at] !== ']' || x1 > x2 || y1 > y2) return undefined
  return { box: [x1, y1, x2, y2], end: at + 1 }
}

const maxSpaces = 64

function skipSpace(text: string, from: number): number {
  let at = from
  while (at - from < maxSpaces && (text[at] === ' ' || text[at] === '\n' || text[at] === '\t' || text[at] === '\r'))
    at++
  return at
}

/** An object found in an answer, in pixels. */
export interface LocatedObject {
  /** What the answer calls it. */
  label: string
  /** Each in pixels of a camera, and in thousandths of the picture as the answer has it. */
  boxes: (CameraBox & { thousandths: Box })[]
}

/** Objects of an answer with their boxes in pixels: of the camera that each box lies in, or of the one that is named. */
export function locateObjects(geometry: CanvasGeometry, grounding: Grounding, camera?: string): LocatedObject[] {
  return grounding.objects.map(({ label, boxes }) => ({
    label,
    boxes: boxes.map((box) => ({ ...boxToPixels(geometry, box, camera), thousandths: box })),
  }))
}

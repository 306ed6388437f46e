/** From a listed sample to ids, labels and images with their tiles: what a training step takes, or why a sample is left out. */
import type { TilingLimits } from '../checkpoint/config.ts'
import type { ViewLayout } from '../checkpoint/layout.ts'
import type { NativeAddon, NativeGrid } from '../native.ts'
import { imageLayoutOf } from '../text/prompt.ts'
import type { Template } from '../text/templates.ts'
import type { Tokenizer } from '../text/tokenizer.ts'
import { cameras } from '../views/cameras.ts'
import { canvasGrid, imageGrid, tileCount, tileShare } from '../views/compose.ts'
import {
  type EmptyReason,
  emptyReasons,
  ignoredLabel,
  type LabelledSample,
  labelConversation,
  type Message,
  type Rejection,
  rejections,
} from './labels.ts'
import { type PictureChecks, type PictureFault, type PictureSize, pictureFaults } from './pictures.ts'
import type { ListedSample } from './sample-lists.ts'

/** What samples of one model are prepared with. */
export interface Preparation {
  tokenizer: Tokenizer
  template: Template
  tiling: TilingLimits
  /** How views of a moment become images. */
  layout: ViewLayout
  /** Several images are numbered in the text, unless the layout names their cameras. */
  numbered: boolean
  /** Image tokens of a tile. */
  tileTokens: number
  addon: Pick<NativeAddon, 'chooseGrid'>
  pictures: PictureChecks
  /** Tokens a sample is cut to; published 8192. */
  maxLength: number
  /** Most tiles of a sample: those of a pack; published 48. */
  maxSampleTiles: number
}

/** An image of a prompt: one picture, or the canvas of several. */
export interface PlannedImage {
  /** Its picture; undefined for a canvas, whose pictures are the sample's views. */
  file: string | undefined
  grid: NativeGrid
}

/** A sample that can be trained on. */
export interface PreparedSample extends LabelledSample {
  images: PlannedImage[]
  tiles: number
  /**
   * Ids up to the end of the last image, none of which is learned: questions of a moment have them in common. 0 where something is learned
   * before, or where there is no image.
   */
  head: number
  /** Sizes and times of its pictures. */
  stamp: string
  /** A question without an answer stood last, and was left out. */
  trailingQuestion: boolean
}

export type LeftOut = Rejection | EmptyReason | PictureFault | 'views-differ' | 'too-many-tiles'

/** Why a sample is left out, and what to say of it. */
export const leftOut: Readonly<Record<LeftOut, string>> = {
  ...rejections,
  ...emptyReasons,
  ...pictureFaults,
  'views-differ': 'its cameras are not those of the canvas that the model sees',
  'too-many-tiles': 'it has more tiles than a pack may have',
}

/**
 * Prepares one sample.
 *
 * Tiles of pictures are as the reference has them (spec/adaptation.md, section 2): a single picture gets up to `maxTiles`, those of a list
 * share them. Views of a moment go by the model's layout, as when it is asked.
 */
export async function prepareSample(
  sample: ListedSample,
  preparation: Preparation,
  maxTiles: number = preparation.tiling.maxTiles,
): Promise<PreparedSample | { leftOut: LeftOut }> {
  const { tileTokens, tokenizer, template, maxLength, maxSampleTiles } = preparation
  const sizes = new Map<string, PictureSize>()
  for (const file of sample.pictures) {
    const size = await preparation.pictures.sizeOf(file)
    if (typeof size === 'string') return { leftOut: size }
    sizes.set(file, size)
  }
  const placed = sample.views
    ? placeViews(sample.views, sizes, preparation)
    : { images: separatePictures(sample, sizes, preparation, maxTiles), marks: '' }
  if (placed === undefined) return { leftOut: 'views-differ' }
  const { images, marks } = placed
  const counts = images.map(({ grid }) => tileCount(grid))
  const tiles = counts.reduce((sum, count) => sum + count, 0)
  if (tiles > maxSampleTiles) return { leftOut: 'too-many-tiles' }
  const { messages, trailingQuestion } = mended(sample, marks, preparation.layout.promptSuffix ?? '')
  const result = labelConversation(
    tokenizer,
    template,
    { messages, imageTokens: counts.map((count) => count * tileTokens) },
    { maxLength },
  )
  if ('rejected' in result) return { leftOut: result.rejected }
  if (result.nothing !== undefined) return { leftOut: result.nothing }
  const stamp = [...sizes.values()].map((size) => size.stamp).join(' ')
  return { ...result, images, tiles, head: headOf(result, tokenizer), stamp, trailingQuestion }
}

/** One image a picture. */
function separatePictures(
  { pictures, single }: ListedSample,
  sizes: ReadonlyMap<string, PictureSize>,
  { tiling, addon }: Preparation,
  maxTiles: number,
): PlannedImage[] {
  const share = single ? maxTiles : Math.max(1, Math.floor(maxTiles / Math.max(1, pictures.length)))
  return pictures.map((file) => ({ file, grid: imageGrid(sizes.get(file)!, share, { tiling, addon }) }))
}

/** Views by the model's layout, and the markers before the question; undefined if they do not fit into it. */
function placeViews(
  views: Readonly<Record<string, string>>,
  sizes: ReadonlyMap<string, PictureSize>,
  { layout, numbered, tiling, addon }: Preparation,
): { images: PlannedImage[]; marks: string } | undefined {
  const names = orderOfViews(views)
  const { canvas } = layout
  const alone = names.length === 1 && names[0] === 'image'
  if (canvas !== undefined && !alone) {
    const fits =
      names.length === canvas.cameras.length && canvas.cameras.every((camera) => Object.hasOwn(views, camera))
    if (!fits) return undefined
    return { images: [{ file: undefined, grid: canvasGrid(canvas, { tiling, addon }) }], marks: '<image>\n' }
  }
  if (layout.layout === 'single' && names.length > 1) return undefined
  const share = tileShare(layout, names.length)
  const images = names.map((name) => {
    const file = views[name]!
    return { file, grid: imageGrid(sizes.get(file)!, share, { tiling, addon }) }
  })
  const composed = names.length === 1 ? 'single' : 'separate'
  const text = imageLayoutOf(composed, alone ? [undefined] : names, { cameraNames: layout.cameraNames, numbered })
  const label = (i: number): string =>
    text.kind === 'named' ? `${text.names[i]}: ` : text.kind === 'numbered' ? `Image-${i + 1}: ` : ''
  return { images, marks: names.map((_, i) => `${label(i)}<image>\n`).join('') }
}

/** Cameras in the order in which a model that takes separate images sees them. */
function orderOfViews(views: Readonly<Record<string, string>>): string[] {
  const known: readonly string[] = cameras
  return [
    ...known.filter((name) => Object.hasOwn(views, name)),
    ...Object.keys(views).filter((name) => !known.includes(name)),
  ]
}

/** Ids that questions about the same pictures have in common. */
function headOf({ ids, labels }: LabelledSample, tokenizer: Tokenizer): number {
  const head = ids.lastIndexOf(tokenizer.idOf('<IMG_CONTEXT>')!) + 2 // `</img>` stands behind
  const first = labels.findIndex((label) => label !== ignoredLabel)
  return head > 1 && head < first ? head : 0
}

/**
 * Where the reference is odd (section 17): a single picture's marker goes into the first question, not into a system message; a question that
 * nobody answers is left out, where internlm2-chat would learn it.
 *
 * @param marks - Markers of views, which go before the question; `suffix` goes behind it.
 */
function mended(
  { messages, pictures, single, views }: ListedSample,
  marks: string,
  suffix: string,
): { messages: Message[]; trailingQuestion: boolean } {
  const out = [...messages]
  const trailingQuestion = out.length > 1 && out.at(-1)!.from === 'human'
  while (out.length > 1 && out.at(-1)!.from === 'human') out.pop()
  const first = out.findIndex(({ from }) => from === 'human')
  if (views) {
    out[first] = { from: 'human', value: marks + out[first]!.value + suffix }
  } else if (
    single &&
    pictures.length === 1 &&
    first >= 0 &&
    !out.slice(0, first + 1).some(({ value }) => value.includes('<image>'))
  )
    out[first] = { from: 'human', value: `<image>\n${out[first]!.value}` }
  return { messages: out, trailingQuestion }
}

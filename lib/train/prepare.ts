/** From a listed sample to ids, labels and pictures with their tiles: what a training step takes, or why a sample is left out. */
import sharp from 'sharp'
import type { TilingLimits } from '../checkpoint/config.ts'
import type { NativeAddon } from '../native.ts'
import type { Template } from '../text/templates.ts'
import type { Tokenizer } from '../text/tokenizer.ts'
import { maxEdge, maxPixels } from '../views/decode.ts'
import {
  type EmptyReason,
  emptyReasons,
  type LabelledSample,
  labelConversation,
  type Message,
  type Rejection,
  rejections,
} from './labels.ts'
import type { ListedSample } from './sample-lists.ts'

/** What samples of one model are prepared with. */
export interface Preparation {
  tokenizer: Tokenizer
  template: Template
  tiling: TilingLimits
  /** Image tokens of a tile. */
  tileTokens: number
  chooseGrid: NativeAddon['chooseGrid']
  /** Tokens a sample is cut to; published 8192. */
  maxLength: number
}

/** One picture of a sample, cut into `columns · rows` tiles, and one of the whole if `thumbnail`. */
export interface TiledPicture {
  file: string
  width: number
  height: number
  columns: number
  rows: number
  thumbnail: boolean
}

export interface PreparedSample extends LabelledSample {
  pictures: TiledPicture[]
  tiles: number
  /** A question without an answer stood last, and was left out. */
  trailingQuestion: boolean
}

export type LeftOut = Rejection | EmptyReason | 'picture-missing' | 'picture-broken'

/** Why a sample is left out, and what to say of it. */
export const leftOut: Readonly<Record<LeftOut, string>> = {
  ...rejections,
  ...emptyReasons,
  'picture-missing': 'a picture is not there',
  'picture-broken': 'a file is no picture, or a damaged or too large one',
}

/**
 * Prepares one sample. Its pictures' headers are read, their pixels are not.
 *
 * Tiles as the reference has them (spec/adaptation.md, section 2): a single picture gets up to `maxTiles`, those of a list share them.
 */
export async function prepareSample(
  sample: ListedSample,
  preparation: Preparation,
  maxTiles: number = preparation.tiling.maxTiles,
): Promise<PreparedSample | { leftOut: LeftOut }> {
  const { tiling, tileTokens, chooseGrid, tokenizer, template, maxLength } = preparation
  const share = sample.single ? maxTiles : Math.max(1, Math.floor(maxTiles / Math.max(1, sample.pictures.length)))
  const pictures: TiledPicture[] = []
  for (const file of sample.pictures) {
    const size = await sizeOf(file)
    if (typeof size === 'string') return { leftOut: size }
    const { width, height } = size
    const most = tiling.dynamic ? share : 1
    const grid = chooseGrid(width, height, tiling.tileSize, Math.min(tiling.minTiles, most), most, tiling.useThumbnail)
    pictures.push({ file, width, height, ...grid })
  }
  const tiles = pictures.map(({ columns, rows, thumbnail }) => columns * rows + (thumbnail ? 1 : 0))
  const { messages, trailingQuestion } = mended(sample)
  const result = labelConversation(
    tokenizer,
    template,
    { messages, imageTokens: tiles.map((count) => count * tileTokens) },
    { maxLength },
  )
  if ('rejected' in result) return { leftOut: result.rejected }
  if (result.nothing !== undefined) return { leftOut: result.nothing }
  return { ...result, pictures, tiles: tiles.reduce((sum, count) => sum + count, 0), trailingQuestion }
}

/**
 * Where the reference is odd (section 17): a single picture's marker goes into the first question, not into a system message; a question that
 * nobody answers is left out, where internlm2-chat would learn it.
 */
function mended({ messages, pictures, single }: ListedSample): { messages: Message[]; trailingQuestion: boolean } {
  const out = [...messages]
  const trailingQuestion = out.length > 1 && out.at(-1)!.from === 'human'
  while (out.length > 1 && out.at(-1)!.from === 'human') out.pop()
  const first = out.findIndex(({ from }) => from === 'human')
  if (
    single &&
    pictures.length === 1 &&
    first >= 0 &&
    !out.slice(0, first + 1).some(({ value }) => value.includes('<image>'))
  )
    out[first] = { from: 'human', value: `<image>\n${out[first]!.value}` }
  return { messages: out, trailingQuestion }
}

async function sizeOf(file: string): Promise<{ width: number; height: number } | LeftOut> {
  try {
    const { width, height } = await sharp(file, { limitInputPixels: false }).metadata()
    const fits = width >= 1 && height >= 1 && width <= maxEdge && height <= maxEdge && width * height <= maxPixels
    return fits ? { width, height } : 'picture-broken'
  } catch (error) {
    return /missing/i.test((error as Error).message) ? 'picture-missing' : 'picture-broken'
  }
}

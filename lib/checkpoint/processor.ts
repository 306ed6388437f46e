/**
 * Picture settings of an `-hf` folder. transformers 5 reads them from `image_processor` in processor_config.json, and from
 * preprocessor_config.json only where nothing is nested (5.18.0, image_processing_base.py); so does this file. Each key that changes pixels
 * or tiles is honoured or refused by name.
 */
import { ModelError } from '../errors.ts'
import type { VisionDescription } from '../native.ts'
import { describe, shorten } from './files.ts'
import type { JsonReader } from './json-reader.ts'

/** Where a folder keeps its picture settings. */
export interface ProcessorFiles {
  /** The settings that count. */
  image?: JsonReader
  /** processor_config.json as a whole. */
  joint?: JsonReader
  notes: string[]
}

/** What the settings come to: `(u8 / 255 − mean) / std`, and the limits of tiling. */
export interface PictureSettings extends Pick<VisionDescription, 'mean' | 'std'> {
  minTiles: number
  maxTiles: number
}

/** Keys that change nothing here: where tensors live, what the classes are called, and what this processor never looks at. */
const inert = new Set([
  ...['crop_to_patches', 'do_resize', 'do_convert_rgb', 'default_to_square', 'crop_size', 'pad_size', 'device'],
  ...[
    'input_data_format',
    'return_tensors',
    'disable_grouping',
    'processor_class',
    'feature_extractor_type',
    'auto_map',
  ],
  ...['image_processor_type', 'image_seq_length', 'image_token_id', '_processor_class', '_valid_kwargs_names'],
])

const read = new Set([
  ...['resample', 'do_rescale', 'rescale_factor', 'do_normalize', 'image_mean', 'image_std', 'size', 'data_format'],
  ...['min_patches', 'max_patches', 'do_center_crop', 'do_pad'],
])

/** The files of a folder, in the library's order. */
export async function readProcessorFiles(
  object: (name: string) => Promise<JsonReader | undefined>,
): Promise<ProcessorFiles> {
  const older = await object('preprocessor_config.json')
  const joint = await object('processor_config.json')
  const nested = joint?.optional('image_processor', (key) => joint.object(key))
  const image = nested ?? older
  const notes: string[] = []
  if (nested !== undefined && older !== undefined) {
    const same = (key: string) => JSON.stringify(nested.raw(key) ?? null) === JSON.stringify(older.raw(key) ?? null)
    const other = [...read].filter((key) => older.has(key) && !same(key))
    const passed =
      other.length === 0 ? 'says the same' : `says something else of ${other.join(', ')} and is passed over`
    notes.push(`Picture settings are those of image_processor in ${nested.file}; ${older.file} beside it ${passed}.`)
  } else if (image !== undefined) {
    notes.push(
      `Picture settings are those of ${nested === undefined ? image.file : `image_processor in ${image.file}`}.`,
    )
  }
  return { ...(image === undefined ? {} : { image }), ...(joint === undefined ? {} : { joint }), notes }
}

const imagenet = { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] } as const
const tileCount = { min: 1, max: 1024 }

/**
 * @param sizes - Tile edges in pixels that `size` may state: the configured one and the one in use.
 * @param imageTokens - Image tokens a tile becomes.
 * @throws {@link ModelError} `BAD_CHECKPOINT` for impossible values, `UNSUPPORTED_MODEL` for settings that are not run.
 */
export function parseProcessor(
  { image, joint, notes }: ProcessorFiles,
  { sizes, imageTokens, imageTokenId }: { sizes: readonly number[]; imageTokens: number; imageTokenId: number },
): PictureSettings {
  for (const file of [joint, image]) {
    for (const [key, expected] of [
      ['image_seq_length', imageTokens],
      ['image_token_id', imageTokenId],
    ] as const) {
      if (file?.has(key) && file.raw(key) !== expected) throw file.fail(key, `${expected}, as config.json has it`)
    }
  }
  const standard = { mean: [...imagenet.mean], std: [...imagenet.std] } as PictureSettings
  if (image === undefined) return { ...standard, minTiles: 1, maxTiles: 12 }
  refuseOtherProcessors(image)
  checkSize(image, sizes)
  const unread = image.keys().filter((key) => image.has(key) && !read.has(key) && !inert.has(key))
  if (unread.length > 0) {
    notes.push(`${image.file}: ${shorten(unread.join(', '), 200)} is not known here and was not read.`)
  }
  const silent = ['image_mean', 'image_std'].filter((key) => !image.has(key))
  if (silent.length > 0) {
    notes.push(
      `${image.file} does not state ${silent.join(' and ')}; the numbers InternVL was trained with are taken, where the library takes CLIP's.`,
    )
  }
  const minTiles = image.optional('min_patches', (key) => image.integer(key, tileCount)) ?? 1
  const limits = { ...tileCount, min: minTiles }
  const maxTiles = image.optional('max_patches', (key) => image.integer(key, limits)) ?? Math.max(12, minTiles)
  return { ...normalisation(image, standard), minTiles, maxTiles }
}

function refuseOtherProcessors(image: JsonReader): void {
  const type = image.optional('image_processor_type', (key) => image.string(key))
  if (type !== undefined && !/^(GotOcr2|InternVL)ImageProcessor(Fast|Pil)?$/.test(type)) {
    throw image.unsupported('image_processor_type', 'the tiles of "GotOcr2ImageProcessor"')
  }
  if (image.has('resample') && image.raw('resample') !== 3 && image.raw('resample') !== 'bicubic') {
    throw image.unsupported('resample', 'bicubic resizing (3)')
  }
  if (image.has('data_format') && image.raw('data_format') !== 'channels_first') {
    throw image.unsupported('data_format', '"channels_first"')
  }
  for (const key of ['do_center_crop', 'do_pad']) {
    if (image.optional(key, () => image.boolean(key))) throw image.unsupported(key, 'pictures cut into tiles (false)')
  }
  for (const key of ['do_resize', 'do_convert_rgb', 'crop_to_patches']) image.optional(key, () => image.boolean(key))
}

/** `size` is the tile; another one than the model is run with would be another picture. */
function checkSize(image: JsonReader, sizes: readonly number[]): void {
  const size = image.raw('size')
  if (size === undefined || size === null) return
  const [height, width] =
    typeof size === 'object' && !Array.isArray(size)
      ? ['height', 'width'].map((key) => image.object('size').raw(key))
      : Array.isArray(size)
        ? [size[0], size.at(-1)]
        : [size, size]
  if (height === width && sizes.includes(height as number)) return
  const tile = `${sizes[0]} x ${sizes[0]}, the tiles of vision_config.image_size`
  const found = typeof size === 'object' && !Array.isArray(size) ? shorten(JSON.stringify(size), 80) : describe(size)
  throw new ModelError(
    'UNSUPPORTED_MODEL',
    `${image.file}: ${image.path('size')} is ${found}; this package runs ${tile}, only. To run other tiles pass tileSize.`,
  )
}

/** The library computes `(u8 · factor − mean) / std` with each step switched by its key. */
function normalisation(image: JsonReader, standard: PictureSettings): Pick<PictureSettings, 'mean' | 'std'> {
  const on = (key: string): boolean => image.optional(key, () => image.boolean(key)) ?? true
  const factor = image.optional('rescale_factor', (key) => image.number(key, 1e6)) ?? 1 / 255
  const mean = image.optional('image_mean', (key) => triple(image, key, true)) ?? standard.mean
  const std = image.optional('image_std', (key) => triple(image, key, false)) ?? standard.std
  const exact = on('do_rescale') ? 255 * factor : 255
  const scale = Math.abs(exact - 1) < 1e-9 ? 1 : exact
  const of = (values: readonly number[]) => values.map((value) => value / scale) as [number, number, number]
  return on('do_normalize') ? { mean: of(mean), std: of(std) } : { mean: [0, 0, 0], std: of([1, 1, 1]) }
}

/** Three numbers, or one for all channels. */
function triple(image: JsonReader, key: string, zero: boolean): [number, number, number] {
  const value = image.raw(key)
  const fits = (one: unknown) => typeof one === 'number' && Number.isFinite(one) && (one > 0 || (zero && one === 0))
  if (fits(value)) return [value, value, value] as [number, number, number]
  if (!Array.isArray(value) || value.length !== 3 || !value.every(fits)) {
    throw image.fail(key, `a list of 3 positive numbers${zero ? ' or zeros' : ''}`)
  }
  return [...value] as [number, number, number]
}

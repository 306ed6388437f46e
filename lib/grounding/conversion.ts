import type { ViewLayout } from '../checkpoint/layout.ts'
import { drivelmGeometry } from './geometry.ts'

/**
 * What is done to coordinates in questions and answers. `drivelm`: c-tags and prompt as the adapted checkpoints were trained, answers as
 * the reference post-processes them; `drivelm-decimals` prints clamped coordinates with a decimal, which the official score can read.
 */
export const conversions = ['auto', 'drivelm', 'drivelm-decimals', 'none'] as const

export type Conversion = (typeof conversions)[number]

/**
 * `auto` converts where DriveLM's own files meet a model that sees DriveLM's canvas.
 *
 * @param form - Of the question file; `jsonl` is not DriveLM's own.
 */
export function resolveConversion(
  wanted: Conversion,
  form: 'frames' | 'llama' | 'jsonl',
  { layout }: { layout: ViewLayout },
): Exclude<Conversion, 'auto'> {
  if (wanted !== 'auto') return wanted
  const { canvas } = layout
  const { columns, rows, cellWidth, cellHeight, cameras } = drivelmGeometry
  const same =
    canvas !== undefined &&
    canvas.columns === columns &&
    canvas.rows === rows &&
    canvas.cellWidth === cellWidth &&
    canvas.cellHeight === cellHeight &&
    canvas.cameras.join() === cameras.join()
  return same && form !== 'jsonl' ? 'drivelm' : 'none'
}

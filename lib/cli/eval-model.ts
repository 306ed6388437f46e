/** What an evaluation needs to know of a checkpoint: what tells it apart, and how its coordinates are meant. */
import { createHash } from 'node:crypto'
import { open, readdir, stat } from 'node:fs/promises'
import path from 'node:path'
import type { Checkpoint } from '../checkpoint/load-checkpoint.ts'
import { locateObjects, parseGrounding } from '../grounding/boxes.ts'
import { drivelmQuestion, tagsToPixels } from '../grounding/c-tags.ts'
import type { Conversion } from '../grounding/conversion.ts'
import { type CameraBox, type CanvasGeometry, imageGeometry } from '../grounding/geometry.ts'

/** Small files of a model folder that change what it says. */
const sideFiles =
  /^((config|generation_config|drivlm|preprocessor_config|processor_config|tokenizer_config|tokenizer|vocab|added_tokens|special_tokens_map|chat_template)\.json|tokenizer\.model|merges\.txt|chat_template\.jinja|conversation\.py)$/

/**
 * Name and fingerprint of a checkpoint: all of its small files, and of its weights the sizes, the headers, and as much as is read
 * in a moment: everything up to 64 MiB, else a sample of every file.
 */
export async function modelIdentity({ dir, name, files }: Pick<Checkpoint, 'dir' | 'name' | 'files'>): Promise<string> {
  const hash = createHash('sha256')
  for (const one of (await readdir(dir)).filter((one) => sideFiles.test(one)).sort()) {
    await hashFile(hash, path.join(dir, one))
  }
  for (const file of [...files].sort()) await hashFile(hash, file)
  return `${name}@${hash.digest('hex').slice(0, 16)}`
}

const wholeBytes = 64 * 2 ** 20
const headBytes = 4 * 2 ** 20
const sampleBytes = 16 * 2 ** 10
const samples = 256

async function hashFile(hash: ReturnType<typeof createHash>, file: string): Promise<void> {
  const { size } = await stat(file)
  hash.update(`\n${path.basename(file)} ${size}\n`)
  const handle = await open(file)
  try {
    const buffer = Buffer.alloc(Math.min(size, headBytes))
    const take = async (at: number, bytes: number): Promise<void> => {
      const { bytesRead } = await handle.read(buffer, 0, Math.min(bytes, buffer.length), at)
      hash.update(buffer.subarray(0, bytesRead))
    }
    if (size <= wholeBytes) {
      for (let at = 0; at < size; at += headBytes) await take(at, headBytes)
      return
    }
    await take(0, headBytes)
    const step = (size - headBytes - sampleBytes) / (samples - 1)
    for (let i = 0; i < samples; i++) await take(Math.floor(headBytes + i * step), sampleBytes)
  } finally {
    await handle.close()
  }
}

export function converters(conversion: Exclude<Conversion, 'auto'>): {
  toModel?: (question: string) => string
  fromModel?: (answer: string) => string
} {
  if (conversion === 'none') return {}
  const decimals = conversion === 'drivelm-decimals'
  return {
    toModel: (question) => drivelmQuestion(question),
    fromModel: (answer) => tagsToPixels(answer, { decimals }),
  }
}

const tenth = (value: number): number => Math.round(value * 10) / 10

/** The report draws on pictures of this size. */
const drawn = { width: 1600, height: 900 }

/** Boxes of a text in the views, as this model means them: thousandths of its canvas, or of the one picture it saw. */
export function boxReader({
  layout,
}: Pick<Checkpoint, 'layout'>): (text: string, views: Record<string, string>) => CameraBox[] {
  const canvas: CanvasGeometry | undefined = layout.canvas && { ...layout.canvas, imageSize: drawn }
  return (text, views) => {
    const names = Object.keys(views)
    const onCanvas = canvas !== undefined && names.length > 1 && names.every((name) => canvas.cameras.includes(name))
    const geometry = onCanvas ? canvas : names.length === 1 ? imageGeometry(names[0]!, drawn) : undefined
    if (geometry === undefined || !/\[/.test(text)) return []
    return locateObjects(geometry, parseGrounding(text)).flatMap(({ boxes }) =>
      boxes.map(({ camera, box: [left, top, right, bottom] }) => ({
        camera,
        box: [tenth(left), tenth(top), tenth(right), tenth(bottom)] as const,
      })),
    )
  }
}

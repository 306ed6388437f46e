/** Small picture files of many kinds against what Pillow reads from them; scripts/golden/make-pictures.py made both. */
import { createHash } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { ModelError } from '../../lib/errors.ts'
import { decodePicture } from '../../lib/views/decode.ts'
import { firstFrame } from '../../lib/views/gif.ts'

const folder = path.resolve(import.meta.dirname, '../fixtures/pictures')
interface Entry {
  mode: string
  size: [number, number]
  rgb_sha256: string
}
const { pictures } = JSON.parse(readFileSync(path.join(folder, 'table.json'), 'utf8')) as {
  pictures: Record<string, Entry>
}

/** 16-bit grey is scaled to 8 bits; Pillow clips it at 255 (docs/decisions/0001). */
const scaled = (mode: string) => mode === 'I' || mode === 'I;16'

test('the table is of the files that are there', () => {
  const files = readdirSync(folder).filter((file) => file !== 'table.json')
  expect(files.sort()).toEqual(Object.keys(pictures).sort())
  expect(files.length).toBeGreaterThan(100)
})

describe('as Pillow reads it', () => {
  test.each(Object.entries(pictures))('%s', async (file, { mode, size, rgb_sha256: expected }) => {
    const { rgb, width, height } = await decodePicture(path.join(folder, file), file)
    expect([width, height]).toEqual(size)
    const found = createHash('sha256').update(rgb).digest('hex')
    if (scaled(mode)) expect(found).not.toBe(expected)
    else expect(found).toBe(expected)
  })
})

test('a damaged GIF is a picture or an error, and its first frame is read to the end of nothing', async () => {
  for (const file of ['gif-part-local-transparent.gif', 'gif-part.gif', 'gif-animation-transparent.gif']) {
    const good = readFileSync(path.join(folder, file))
    for (let length = 0; length < good.length; length += 1 + Math.floor(length / 40))
      firstFrame(good.subarray(0, length))
    for (let i = 0; i < 150; i++) {
      const bytes = Buffer.from(good)
      bytes[(i * 7919) % Math.min(bytes.length, 120)]! ^= 1 + ((i * 37) % 255)
      const picture = await decodePicture(bytes, file).catch((error: unknown) => {
        expect(error).toBeInstanceOf(ModelError)
        expect((error as ModelError).code).toBe('BAD_VIEW')
      })
      if (picture !== undefined) expect(picture.rgb.length).toBe(picture.width * picture.height * 3)
    }
  }
})

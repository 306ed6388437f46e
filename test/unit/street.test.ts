/** Drawn worlds: the same for a seed, what domains change, and that the pictures of the validation set come out byte for byte. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import sharp from 'sharp'
import { describe, expect, test } from 'vitest'
import { dayCity } from '../../lib/street/domains/day-city.ts'
import { drawView } from '../../lib/street/picture.ts'
import { factsOf, questionsOf } from '../../lib/street/questions.ts'
import { makeWorld } from '../../lib/street/world.ts'
import { fixtures, json } from './tokenizer-shared.ts'

const validation = join(fixtures, 'street-tiny-val')

interface Frame {
  seed: number
  key_frames: Record<
    string,
    { image_paths: Record<string, string>; QA: Record<string, { Q: string; A: string; tag: string }[]> }
  >
}

describe('the validation set of street-tiny', () => {
  const scenes = Object.values<Frame>(json(validation, 'val.json'))

  test.each(scenes.map((scene, i) => [i, scene] as const))(
    'scene %i: pictures, questions and answers',
    async (_, scene) => {
      const world = { ...makeWorld(scene.seed, dayCity), noise: 1 }
      const views = dayCity.views.map((__, view) => drawView(world, view, 112))
      const [frame] = Object.values(scene.key_frames)
      for (const [view, { name }] of dayCity.views.entries()) {
        const { data } = await sharp(readFileSync(join(validation, frame!.image_paths[name]!)))
          .raw()
          .toBuffer({ resolveWithObject: true })
        expect(Buffer.compare(data, Buffer.from(views[view]!.data)), name).toBe(0)
      }
      const stored = Object.values(frame!.QA)
        .flat()
        .map(({ Q, A, tag }) => [tag, Q, A].join(' | '))
      const found = questionsOf(world, factsOf(world, views), stored.length).map(({ type, question, answer }) =>
        [type, question, answer].join(' | '),
      )
      expect(found.sort()).toEqual(stored.sort())
    },
  )
})

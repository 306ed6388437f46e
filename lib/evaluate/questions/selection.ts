// Which questions of a file are asked, and where their pictures are.

import { existsSync } from 'node:fs'
import path from 'node:path'
import { ModelError } from '../../errors.ts'
import type { Moment, Question } from './types.ts'

/** Which questions of a file a run asks. */
export interface Selection {
  /** Only questions with one of these tags. */
  tags?: readonly number[] | undefined
  /** Only the first so many of these. */
  limit?: number | undefined
  /** Part `index` (from 1) of `count`: every count-th moment. Cut after `tags` and `limit`, so that parts add up to the whole. */
  shard?: { index: number; count: number } | undefined
}

/** A question with its number in the whole file, which fixes the order of outputs. */
export interface NumberedQuestion {
  /** Number of the question in the file, from 0. */
  index: number
  /** The question. */
  question: Question
}

/** A moment with the questions of it that are asked. */
export interface PlannedMoment {
  /** As {@link Moment.key}. */
  key: string
  /** As {@link Moment.views}. */
  views: Record<string, string>
  /** Those that are asked, in the order of the file. */
  questions: NumberedQuestion[]
}

/** The selected questions with their numbers in the whole file, moment by moment. */
export async function* selectQuestions(
  moments: AsyncIterable<Moment>,
  { tags, limit = Number.POSITIVE_INFINITY, shard }: Selection,
): AsyncGenerator<PlannedMoment> {
  let index = 0
  let taken = 0
  let place = 0
  for await (const { key, views, questions } of moments) {
    const numbered = questions.map((question) => ({ index: index++, question }))
    const wanted = numbered
      .filter(({ question }) => !tags || question.tags?.some((tag) => tags.includes(tag)))
      .slice(0, limit - taken)
    taken += wanted.length
    const mine = !shard || place % shard.count === shard.index - 1
    place++
    if (mine && wanted.length > 0) yield { key, views, questions: wanted }
    if (taken >= limit) return
  }
}

/**
 * `i/n` from a command line.
 *
 * @throws {@link ModelError} `BAD_ARGUMENT`
 */
export function parseShard(text: string): { index: number; count: number } {
  const [, index, count] = /^(\d{1,6})\/(\d{1,6})$/.exec(text) ?? []
  const shard = { index: Number(index), count: Number(count) }
  if (!(shard.index >= 1 && shard.index <= shard.count)) {
    throw new ModelError('BAD_ARGUMENT', `Expected a shard like 1/4, received ${JSON.stringify(text)}.`)
  }
  return shard
}

/**
 * The file a path of a question file means: below `images`, without the `../` and as many leading folders as it takes, so that
 * `../nuscenes/samples/CAM_FRONT/x.jpg` is found whether `images` is the folder around `nuscenes`, `nuscenes` itself, `samples`,
 * or a flat folder of pictures. Without `images`, beside the question file.
 *
 * @throws {@link ModelError} `BAD_VIEW` if there is no such file.
 */
export function resolveImage(
  name: string,
  { images, data }: { images?: string | undefined; data: string },
  camera = 'image',
): string {
  if (images === undefined) {
    const beside = path.resolve(path.dirname(data), name)
    if (existsSync(beside)) return beside
  }
  const root = images ?? path.dirname(data)
  const parts = name.split(/[/\\]+/).filter((part) => part !== '' && part !== '.' && part !== '..')
  for (let i = 0; i < parts.length; i++) {
    const file = path.resolve(root, ...parts.slice(i))
    if (existsSync(file)) return file
  }
  throw new ModelError('BAD_VIEW', `No picture for ${camera}: ${JSON.stringify(name)} is not below ${root}.`)
}

/** The files of a moment, by camera; errors name the moment. */
export function resolveViews(
  { key, views }: PlannedMoment,
  options: { images?: string | undefined; data: string },
): Record<string, string> {
  if (Object.keys(views).length === 0)
    throw new ModelError('BAD_VIEW', `${key}: the frame has no pictures to ask about.`)
  try {
    return Object.fromEntries(
      Object.entries(views).map(([camera, name]) => [camera, resolveImage(name, options, camera)]),
    )
  } catch (error) {
    if (!(error instanceof ModelError)) throw error
    throw new ModelError(error.code, `${key}: ${error.message}`, { cause: error })
  }
}

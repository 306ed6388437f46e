/** What `drivlm annotate` and `drivlm watch` are asked for: questions, and which topic is which camera. */
import { readFile } from 'node:fs/promises'
import { ModelError } from '../errors.ts'
import type { MomentAnswer } from '../logs/answers.ts'
import { visible } from '../logs/files.ts'

export interface Wanted {
  kind: MomentAnswer['kind']
  question: string
}

/** Questions of the flags `--ask`, `--questions` and `--locate`, in this order. */
export async function questionsOf({
  ask = [],
  locate = [],
  questions,
}: {
  ask?: readonly string[]
  locate?: readonly string[]
  questions?: string
}): Promise<Wanted[]> {
  const lines = questions === undefined ? [] : (await textOf(questions)).split('\n').map((line) => line.trim())
  const wanted: Wanted[] = [
    ...[...ask, ...lines.filter((line) => line !== '')].map((question): Wanted => ({ kind: 'ask', question })),
    ...locate.map((what): Wanted => ({ kind: 'locate', question: questionOf(what) })),
  ]
  if (wanted.length > 0) return wanted
  throw new ModelError('BAD_ARGUMENT', 'There is nothing to ask; give --ask, --questions or --locate.')
}

async function textOf(file: string): Promise<string> {
  try {
    return await readFile(file, 'utf8')
  } catch (error) {
    throw new ModelError('BAD_DATA', `${visible(file)} cannot be read: ${(error as Error).message}.`, { cause: error })
  }
}

/** What is to be found, in the words of InternVL's training; a whole sentence is the question of a model that has learned other words. */
function questionOf(what: string): string {
  return /[.?]$/.test(what)
    ? what
    : `Please provide the bounding box coordinate of the region this sentence describes: <ref>${what}</ref>`
}

/** Topics by camera, of the flags `--map`; undefined without any. */
export async function mapOf(map: readonly string[] | undefined): Promise<Record<string, string> | undefined> {
  if (map === undefined) return undefined
  const cameras: Record<string, string> = {}
  for (const pair of map) {
    for (const [camera, topic] of await pairsOf(pair)) {
      if (Object.hasOwn(cameras, camera)) throw new ModelError('BAD_ARGUMENT', `--map gives ${camera} twice.`)
      cameras[camera] = topic
    }
  }
  return cameras
}

/** `CAM_FRONT=/topic`, or the path of a JSON file of such pairs. */
async function pairsOf(text: string): Promise<[camera: string, topic: string][]> {
  const [, camera, topic] = /^(\w+)=(.+)$/s.exec(text) ?? []
  if (camera !== undefined) return [[camera, topic!]]
  const bad = (what: string, cause?: unknown) =>
    new ModelError('BAD_ARGUMENT', `Expected --map CAMERA=TOPIC or a JSON file of them; ${visible(text)} ${what}.`, {
      cause,
    })
  let found: unknown
  try {
    found = JSON.parse((await readFile(text, 'utf8')).replace(/^\ufeff/, ''))
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    throw bad(code === undefined ? 'is no JSON' : `is neither (${code})`, error)
  }
  const pairs = typeof found === 'object' && found !== null && !Array.isArray(found) ? Object.entries(found) : []
  if (pairs.length === 0 || !pairs.every(([, value]) => typeof value === 'string'))
    throw bad('is no object of topics by camera')
  return pairs
}

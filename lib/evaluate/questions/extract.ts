// How the challenge's test files are made from annotated frames: selection of questions, multiple choice, the flat list.
//
// Real val files hold many more tag-0 and tag-1 questions a frame than this selection yields: take their tags as they are.

import { ModelError } from '../../errors.ts'
import { type Category, categories, type Frame, frameKey, type Qa } from './types.ts'

/**
 * The questions of a frame that go into a test file, with their tags, by the rules of the challenge. Quirks kept:
 *
 * * A record that two rules select is one record: it appears twice, with the tag of the later rule.
 * * Prediction answers are searched for the letters "yes" and "no", not for the words, so "None", "not" and "notice" qualify.
 *   A notice question that comes first loses its tag 3 and appears twice with tag 0.
 * * Without key objects every text holds "all of them", so the first question of a category is taken.
 *
 * @throws {@link ModelError} `BAD_DATA` for a key object without a description.
 */
export function extractFrame(frame: Frame): Frame {
  const copies = new Map<Qa, Qa>()
  const selected: Record<Category, Qa[]> = { perception: [], prediction: [], planning: [], behavior: [] }
  const take = (category: Category, qa: Qa | undefined, tag: number): void => {
    if (!qa) return
    const copy = copies.get(qa) ?? { ...qa }
    copies.set(qa, copy)
    copy.tags = [tag]
    selected[category].push(copy)
  }

  const descriptions = frame.objects.map(({ tag, description }) => {
    if (description !== null) return description.split('.')[0]!
    const place = `scene ${frame.scene.token}, frame ${frame.token}, object ${tag}`
    throw new ModelError('BAD_DATA', `${place}: expected a string for Visual_description, which the selection goes by.`)
  })
  const tags = frame.objects.map((object) => object.tag)
  const read = (category: Category): Qa[] => frame.qa[category].filter(({ unread }) => !unread)
  const [perception, prediction, planning, behavior] = categories.map(read) as [Qa[], Qa[], Qa[], Qa[]]
  const answerHolds = (records: Qa[], parts: string[]): Qa | undefined =>
    records.find((qa) => parts.every((part) => holds(qa.answer, part)))

  take('perception', answerHolds(perception, descriptions), 2)
  take('perception', perception.find(isMovingStatus), 0)
  take('prediction', answerHolds(prediction, tags), 3)
  take(
    'prediction',
    prediction.find((qa) => holds(qa.answer, 'yes') || holds(qa.answer, 'no')),
    0,
  )
  const wanted = ['what actions could the ego vehicle take', 'lead to a collision', 'safe actions']
  const taken = new Set<string>()
  for (const qa of planning) {
    for (const wording of wanted) {
      if (taken.has(wording) || !holds(qa.question, wording)) continue
      taken.add(wording)
      take('planning', qa, 1)
    }
  }
  for (const qa of behavior) take('behavior', qa, 0)
  return { ...frame, scene: { token: frame.scene.token }, objects: [], annotated: false, qa: selected }
}

const holds = (text: string, part: string): boolean => text.toLowerCase().includes(part.toLowerCase())
const isMovingStatus = (qa: Qa): boolean => holds(qa.question, 'what is the moving status of object')

/** What a moving status can be. */
export const movingStatuses: readonly string[] = [
  'Going ahead.',
  'Turn right.',
  'Turn left.',
  'Stopped.',
  'Back up.',
  'Reverse parking.',
  'Drive backward.',
]

const steerings = [
  'going straight',
  'slightly steering to the left',
  'slightly steering to the right',
  'steering to the left',
  'steering to the right',
]
const speeds = ['driving slowly', 'driving with normal speed', 'driving fast', 'driving very fast']
const egoBehavior = (steering: string, speed: string): string =>
  `The ego vehicle is ${steering}. The ego vehicle is ${speed}.`

/** What the behaviour of the ego vehicle can be. */
export const egoBehaviors: readonly string[] = [
  ...steerings.flatMap((steering) => speeds.map((speed) => egoBehavior(steering, speed))),
  egoBehavior('going straight', 'not moving'),
]

/** A random source that a seed fixes: numbers in [0, 1). */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x9e37_79b9) >>> 0
    let mixed = state
    mixed = Math.imul(mixed ^ (mixed >>> 16), 0x21f0_aaad)
    mixed = Math.imul(mixed ^ (mixed >>> 15), 0x735a_2d97)
    return ((mixed ^ (mixed >>> 15)) >>> 0) / 2 ** 32
  }
}

function shuffle<T>(items: T[], random: () => number): T[] {
  for (let i = items.length - 1; i > 0; i--) {
    const other = Math.floor(random() * (i + 1))
    ;[items[i], items[other]] = [items[other]!, items[i]!]
  }
  return items
}

/**
 * Turns moving-status and behaviour questions of an extracted frame into multiple choice: the right answer and three wrong ones
 * in random order; the answer becomes the bare letter.
 *
 * @throws {@link ModelError} `BAD_DATA` for an answer that is not one of {@link movingStatuses} or {@link egoBehaviors}.
 */
export function toMultipleChoice(frame: Frame, random: () => number): Frame {
  const convert = (category: Category, qa: Qa, index: number, possible: readonly string[]): Qa => {
    if (!possible.includes(qa.answer)) {
      const where = `scene ${frame.scene.token}, frame ${frame.token}, ${category} ${index}`
      throw new ModelError(
        'BAD_DATA',
        `${where}: expected one of the ${possible.length} known answers, found ${JSON.stringify(qa.answer)}.`,
      )
    }
    const wrong = shuffle(
      possible.filter((option) => option !== qa.answer),
      random,
    ).slice(0, 3)
    const options = shuffle([...wrong, qa.answer], random)
    const letters = ['A', 'B', 'C', 'D']
    const list = options.map((option, i) => `${letters[i]}. ${option}`).join(' ')
    return {
      ...qa,
      question: `${qa.question} Please select the correct answer from the following options: ${list}`,
      answer: letters[options.indexOf(qa.answer)]!,
    }
  }
  const { perception, behavior } = frame.qa
  return {
    ...frame,
    qa: {
      ...frame.qa,
      perception: perception.map((qa, i) => (isMovingStatus(qa) ? convert('perception', qa, i, movingStatuses) : qa)),
      behavior: behavior.map((qa, i) => convert('behavior', qa, i, egoBehaviors)),
    },
  }
}

/** An item of `test_llama.json`, the flat list for inference. */
export interface LlamaItem {
  /** Of the question. */
  id: string
  /** Paths of its pictures, as the question file has them. */
  image: string[]
  /** The question, and its answer: empty where that is hidden. */
  conversations: [{ from: 'human'; value: string }, { from: 'gpt'; value: string }]
}

/** The flat list of a frame's questions. Paths have every `..` replaced by `data`. */
export function toLlamaItems(frame: Frame): LlamaItem[] {
  const image = frame.images.map(({ path }) => path.replaceAll('..', 'data'))
  return categories
    .flatMap((category) => frame.qa[category])
    .map(({ question, answer }, i) => ({
      id: `${frameKey(frame)}_${i}`,
      image,
      conversations: [
        { from: 'human', value: `<image>\n${question}` },
        { from: 'gpt', value: answer },
      ],
    }))
}

/** A frame in the layout of the files. */
export function frameToJson(frame: Frame): Record<string, unknown> {
  const infos = frame.objects.map(({ tag, category, status, description, box }) => [
    tag,
    { Category: category, Status: status, Visual_description: description, '2d_bbox': box },
  ])
  const qa = categories.map((category) => [
    category,
    frame.qa[category].map(({ question, answer, tags, kind, rest }) => ({
      Q: question,
      A: answer,
      ...rest,
      ...(tags || kind !== undefined ? { tag: tags ?? kind } : {}),
    })),
  ])
  return {
    ...(frame.annotated ? { key_object_infos: Object.fromEntries(infos) } : {}),
    QA: Object.fromEntries(qa),
    image_paths: Object.fromEntries(frame.images.map(({ camera, path }) => [camera, path])),
  }
}

/**
 * The text of a scene file, piece by piece, for frames that come scene by scene. Keys keep the order of the frames whatever
 * they look like.
 */
export async function* framesToJson(frames: Iterable<Frame> | AsyncIterable<Frame>): AsyncGenerator<string> {
  let scene: string | undefined
  for await (const frame of frames) {
    if (frame.scene.token !== scene) {
      const { token, description } = frame.scene
      const text = description === undefined ? '' : `"scene_description": ${JSON.stringify(description)}, `
      yield `${scene === undefined ? '{' : '}},'}\n${JSON.stringify(token)}: {${text}"key_frames": {`
      scene = token
    } else yield ','
    yield `\n${JSON.stringify(frame.token)}: ${JSON.stringify(frameToJson(frame))}`
  }
  yield scene === undefined ? '{}\n' : '}}\n}\n'
}

// What DriveLM's files hold, once read. Everything that is an object with an order in the files is a list here, so that keys
// that look like numbers cannot lose their place.

import type { Camera } from '../../views/cameras.ts'

/** The parts of a frame's `QA`, in the order questions are numbered in. */
export const categories = ['perception', 'prediction', 'planning', 'behavior'] as const

/** One of {@link categories}. */
export type Category = (typeof categories)[number]

/** One question with its answer; empty where the answer is hidden. */
export interface Qa {
  /** As the file has it. */
  question: string
  /** As the file has it; empty where it is hidden. */
  answer: string
  /** Only in test-style files: 0 accuracy, 1 judge, 2 language, 3 match. */
  tags?: number[]
  /** Instead of tags, in sets of the same layout that are not DriveLM's: a word. */
  kind?: string
  /** It could not be read, and stands here so that the others keep their numbers. */
  unread?: true
  /** Further fields of the record as they stand in the file (`C`, `con_up`, …). */
  rest: Record<string, unknown>
}

/** An object of interest; null stands for what the file does not say. */
export interface KeyObject {
  /** Its name in questions and answers, `<cK,CAM,x,y>`. */
  tag: string
  /** Such as `Vehicle`. */
  category: string | null
  /** Null for traffic elements. */
  status: string | null
  /** Such as `White Sedan.`. */
  description: string | null
  /** Pixels of the camera's own image: x_min, y_min, x_max, y_max. */
  box: [number, number, number, number] | null
}

/** A scene's own fields. */
export interface SceneInfo {
  /** Of nuScenes. */
  token: string
  /** What happens in the scene, by nuScenes. */
  description?: string
}

/** A key frame: six pictures and the questions about them. */
export interface Frame {
  /** The scene it is of. */
  scene: SceneInfo
  /** Of nuScenes. */
  token: string
  /** Empty in test-style files. */
  objects: KeyObject[]
  /** Whether the file had `key_object_infos`. */
  annotated: boolean
  /** Its questions by category, in the order of the file. */
  qa: Record<Category, Qa[]>
  /** In the order of the file. Paths as written there. */
  images: { camera: Camera; path: string }[]
}

/** A question with its identity and place. */
export interface Question {
  /** Unique in the file; `<scene>_<frame>_<i>` in DriveLM. */
  id: string
  /** The question alone, without the placeholders of its pictures. */
  text: string
  /** Its number among the questions of its frame; the first sets what the others are gated by. */
  number?: number
  /** Undefined where there is none or it is hidden. */
  reference?: string
  /** What it is scored by: 0 accuracy, 1 judge, 2 language, 3 match; undefined where the file has none. */
  tags?: readonly number[]
  /** From the file, or {@link questionKind}. */
  kind: string
  /** NuScenes-QA's `num_hop`. */
  hop?: number
}

/** All questions about the same pictures. */
export interface Moment {
  /** `<scene>_<frame>`, or the first question's id. */
  key: string
  /** Paths as the file gives them, by camera name (or `image` for a single picture). */
  views: Record<string, string>
  /** In the order of the file. */
  questions: Question[]
  /** The frame it was made from, if the file has frames. */
  frame?: Frame
}

/** An answer in the challenge's form. */
export interface Prediction {
  /** Of the question. */
  id: string
  /** As the file has it. */
  question: string
  /** What the model said. */
  answer: string
}

/** The questions of a frame in the order they are numbered in. */
export function questionsOf(frame: Frame): Question[] {
  const records = categories.flatMap((category) => frame.qa[category].map((qa) => ({ category, qa })))
  return records
    .map(({ category, qa }, i) => ({
      id: `${frameKey(frame)}_${i}`,
      text: qa.question,
      number: i,
      ...(qa.answer === '' ? {} : { reference: qa.answer }),
      ...(qa.tags ? { tags: qa.tags } : {}),
      kind: qa.kind ?? questionKind(qa.question, category),
    }))
    .filter((_, i) => !records[i]!.qa.unread)
}

/** `<scene>_<frame>` */
export function frameKey(frame: Frame): string {
  return `${frame.scene.token}_${frame.token}`
}

const wordings: readonly (readonly [kind: string, wording: RegExp])[] = [
  ['important objects', /what are the important objects/i],
  ['moving status', /what is the moving status of object/i],
  ['notice order', /what object should the ego vehicle notice first/i],
  ['actions', /what actions could the ego vehicle take/i],
  ['collision', /lead to a collision/i],
  ['safe actions', /safe actions/i],
  ['ego behavior', /predict the behavior of the ego/i],
  ['description', /what is the visual description/i],
  ['yes or no', /^\s*(is|are|would|will|do|does|did|can|could|should|has|have|was|were)\b/i],
]

/** Kind of a question by its wording, for tables; a name of its category where no wording is known. */
export function questionKind(question: string, category: string = 'other'): string {
  return (
    wordings.find(([, wording]) => wording.test(question))?.[0] ?? `other ${category}`.replace(/^other other$/, 'other')
  )
}

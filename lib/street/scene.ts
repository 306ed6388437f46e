/** One drawn moment: six views, and questions whose answers are known. */
import { ModelError } from '../errors.ts'
import type { Domain, QuestionType } from './domain.ts'
import { drawView, type StreetView } from './picture.ts'
import { captionOf, factsOf, questionsOf, type StreetQuestion, type ViewFacts } from './questions.ts'
import { makeWorld, type World } from './world.ts'

/** How moments are drawn. */
export interface StreetOptions {
  /** Pixels of a side of each view, 28 to 1344; default 112. */
  size?: number
  /** Most questions; default 12. */
  questions?: number
  /** Which types; default all. */
  types?: readonly QuestionType[]
  /** How often a type is asked, in proportion to the others; usual are 0.15 (`weather`) to 2.6 (`locate`). */
  shares?: Readonly<Partial<Record<QuestionType, number>>>
  /** Levels of noise in the pictures, in place of what the world has (2 to 6). */
  noise?: number
}

/** A drawn moment: its world, its pictures and questions about it. */
export interface StreetScene {
  /** What is true of it. */
  world: World
  /** As the domain's views: `views[i]` is `world.domain.views[i].name`. Raw pictures, as `see` and `ask` take them. */
  views: StreetView[]
  /** What is certain of each view. */
  facts: ViewFacts[]
  /** Drawn questions with their true answers. */
  questions: StreetQuestion[]
  /** What each camera sees, in one text; undefined where something is not clear. */
  caption: string | undefined
}

/**
 * Draws a moment.
 *
 * @param seed - A whole number; the same seed and domain give the same moment, on every machine.
 * @throws {@link ModelError} `BAD_ARGUMENT` for a seed, size, noise, share or number of questions out of range.
 *
 * @example
 * const { views, questions } = drawScene(7, await loadDomain('night-left'))
 * console.log(views.length, questions[0].question, questions[0].answer)
 */
export function drawScene(seed: number, domain: Domain, options: StreetOptions = {}): StreetScene {
  const { size = 112, questions = 12, shares = {}, noise } = options
  const whole = (name: string, value: number, low: number, high: number): void => {
    if (Number.isSafeInteger(value) && value >= low && value <= high) return
    throw new ModelError('BAD_ARGUMENT', `${name}: expected a whole number from ${low} to ${high}, received ${value}.`)
  }
  whole('seed', seed, 0, 2 ** 32 - 1)
  whole('size', size, 28, 1344)
  whole('questions', questions, 0, 1000)
  for (const [type, share] of Object.entries(shares))
    if (!(share >= 0 && share < 1e6))
      throw new ModelError('BAD_ARGUMENT', `shares.${type}: expected a number of at least 0, received ${share}.`)
  if (noise !== undefined && !(noise >= 0 && noise <= 64))
    throw new ModelError('BAD_ARGUMENT', `noise: expected a number from 0 to 64, received ${noise}.`)
  const drawn = makeWorld(seed, domain)
  const world = noise === undefined ? drawn : { ...drawn, noise }
  const views = domain.views.map((_, view) => drawView(world, view, size))
  const facts = factsOf(world, views)
  return {
    world,
    views,
    facts,
    questions: questionsOf(world, facts, questions, options.types, shares),
    caption: captionOf(world, facts),
  }
}

/**
 * Drawn streets: small six-camera moments with questions whose answers are known, by seed. For trying a model out, for tests, and for showing
 * what adapting to a domain does. They are drawings: a model that knows them knows nothing of real roads.
 *
 * @packageDocumentation
 */
export { type StreetDataset, type StreetDatasetOptions, writeStreet } from './dataset.ts'
export {
  type Domain,
  domainNames,
  domainOf,
  loadDomain,
  type ObjectKind,
  type Plan,
  type QuestionType,
  questionTypes,
  type Rgb,
  type Shape,
  type View,
  type Weather,
  type Wording,
} from './domain.ts'
export type { Box } from './geometry.ts'
export type { Sighting, StreetView } from './picture.ts'
export { letterPractice, type Seen, type StreetQuestion, stitchedBox, type ViewFacts } from './questions.ts'
export { drawScene, type StreetOptions, type StreetScene } from './scene.ts'
export type { Clutter, Light, World, WorldObject } from './world.ts'

// Graph gating of the official score: which questions of a frame count depends on what the model found in the first one.
//
// A question that names objects is scored only if all of them are among the reference points the first answer hit. The others
// are dropped, not counted as wrong, so a model that finds fewer objects is scored on fewer questions; and a frame whose first
// reference holds no coordinates drops all its object questions, even for a perfect model.

import { matchPoints, type Point, pointsOf } from './match.ts'

/** Objects of a frame that the first answer found. */
export type Graph = readonly Point[]

/** The graph that the first question of a frame sets. */
export function graphOf(firstAnswer: string, firstReference: string, what?: string): Graph {
  return matchPoints(firstAnswer, firstReference, what).matched
}

/** Whether a later question of the frame is scored. Coordinates are compared exactly; one without any always passes. */
export function passesGraph(graph: Graph, question: string, what = 'The question'): boolean {
  return pointsOf(question, what).every(([x, y]) => graph.some(([gx, gy]) => x === gx && y === gy))
}

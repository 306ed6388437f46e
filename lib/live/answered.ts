/** Answers about a live moment in the form that `drivlm annotate` has them in. */
import { type AnsweredMoment, jsonTimeOf, type MomentAnswer } from '../logs/answers.ts'
import type { WatchResult } from '../watch.ts'
import type { LiveMoment } from './live-cameras.ts'

/**
 * What was answered about a moment, for {@link AnswerServer.send} or a file of one's own. Answers that were late are not in it.
 *
 * @param model - Its name, `model.info.name`.
 * @param number - Of the moment, from 0.
 */
export function answeredMoment(
  { moment, answers, error }: WatchResult<LiveMoment>,
  model: string,
  number: number,
): AnsweredMoment {
  const { stamp, stamps, topics } = moment
  const cameras = Object.entries(stamps).map(([camera, own]) => {
    return [camera, { topic: topics[camera]!, timestamp: jsonTimeOf(own) }] as const
  })
  return {
    moment: number,
    moments: number + 1,
    model,
    timestamp: jsonTimeOf(stamp),
    cameras: Object.fromEntries(cameras),
    answers: answers.flatMap((one) => (one === undefined ? [] : [answerOf(one)])),
    ...(error === undefined ? {} : { skipped: error.message }),
  }
}

function answerOf({ question, kind, text, boxes }: NonNullable<WatchResult['answers'][number]>): MomentAnswer {
  const own = boxes.map(({ camera, label, box: [x1, y1, x2, y2] }) => {
    return { camera, label, box: [x1, y1, x2, y2] as const }
  })
  return { question, answer: text, kind, boxes: own }
}

/**
 * Robots' logs: MCAP, bags of ROS 1 and of rosbag2. Their topics, which of them is which camera, and moments of six pictures to ask about. The
 * packages that read them are loaded when a log is opened.
 *
 * @packageDocumentation
 */
export {
  type AnsweredMoment,
  AnswerLog,
  type JsonTime,
  type MessagesOf,
  type MomentAnswer,
  mergeAnswers,
  readAnswers,
} from './answers.ts'
export type { CameraGuess, CameraTopics } from './camera-names.ts'
export type { Place } from './container.ts'
export type { Damage } from './files.ts'
export {
  Log,
  type LogClock,
  type LogOptions,
  type LogPicture,
  type LogTopic,
  openLog,
  type PictureSelection,
  type PublishedMessage,
  pictureSource,
} from './log.ts'
export { type Moment, type MomentOptions, type MomentPlan, type MomentReport, moments, planMoments } from './moments.ts'
export type { PictureKind, PictureMessage } from './picture.ts'
export { Replay, type ReplayOptions, replay } from './replay.ts'

/**
 * Robots that run: cameras over Foxglove's WebSocket protocol, rosbridge or a node of rclnodejs as moments for `model.watch`, and answers served
 * to Foxglove and Lichtblick.
 *
 * @packageDocumentation
 */
export { type AnswerServer, type AnswerServerOptions, serveAnswers } from './answer-server.ts'
export { answeredMoment } from './answered.ts'
export * as cameras from './cameras.ts'
export type { LiveCameras, LiveMoment, LiveOptions, LiveTopics } from './live-cameras.ts'
export type { RosNode, RosTopics } from './rclnodejs.ts'

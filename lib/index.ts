export type { Answer, Timings, TokenLogprob, Usage } from './answer.ts'
export type { AnswerBatch, AnswerPiece } from './answer-batch.ts'
export type { AnswerStream } from './answer-stream.ts'
export type { Chat, ChatTurn } from './chat.ts'
export type { Choice, Score } from './choices.ts'
export { type ErrorCode, errorCodes, ModelError } from './errors.ts'
export * from './grounding.ts'
export { HubError, type HubReason } from './hub/hub-error.ts'
export type { DownloadProgress } from './hub/pull.ts'
export { bundledModel, loadModel } from './load-model.ts'
export type { BoxOptions, Located, LocatedBox } from './locating.ts'
export type { LoadTimings, Model, ModelInfo, ModelStats } from './model.ts'
export type {
  AskAllOptions,
  AskOptions,
  ChooseOptions,
  LoadOptions,
  LoadProgress,
  LocateOptions,
  ModelAskOptions,
  ScoreOptions,
  SeeOptions,
  UpdateOptions,
  ViewOptions,
  WatchOptions,
} from './options.ts'
export type { Scene, SceneInfo } from './scene.ts'
export type { AnswerFormat } from './structured/answer-format.ts'
export type { JsonSchema, JsonType, JsonValue } from './structured/schema.ts'
export { type Camera, cameras, isCamera } from './views/cameras.ts'
export type { ChangedViews } from './views/change.ts'
export type { NamedViews, Views } from './views/compose.ts'
export type { PictureSource, RawPicture } from './views/decode.ts'
export type { Watch, WatchCounts, WatchedAnswer, WatchMoment, WatchQuestion, WatchResult } from './watch.ts'
export type { CacheInfo } from './weight-cache.ts'

/** What an answer is, and what it cost. */

/** Tokens of one answer. */
export interface Usage {
  /** Everything before the answer: system message, images, question. */
  promptTokens: number
  /** Those of them that are image. */
  imageTokens: number
  /** Tokens of the answer. */
  answerTokens: number
}

/** Milliseconds a stage. A question about a scene that was seen before pays nothing for the first three. */
export interface Timings {
  /** Files to pixels. */
  decodeMs: number
  /** Resizing, stitching, cutting into tiles. */
  preprocessMs: number
  /** Tiles to image tokens. */
  visionMs: number
  /** Prompt into the KV cache, up to the first token of the answer. */
  prefillMs: number
  /** From the first token to the last. */
  generateMs: number
  /** Waiting for other work of the same model. */
  queueMs: number
  /** From the call to the first token in JavaScript. */
  firstTokenMs: number
  /** From the call to the answer. */
  totalMs: number
}

/** A token of an answer. */
export interface TokenLogprob {
  /** Number of the token in the vocabulary. */
  id: number
  /** Its own text; a token that is a part of a character shows as U+FFFD. */
  text: string
  /** Natural-log probability; `null` for a token that an answer format left no choice about. */
  logprob: number | null
}

/** One answer. */
export interface Answer {
  /** What the model said, without special tokens and stop string. */
  text: string
  /**
   * `stop`: the model ended its turn, or a stop string came; `length`: `maxNewTokens` or the end of the context; `cancelled`: the
   * reader of a stream left early.
   */
  finishReason: 'stop' | 'length' | 'cancelled'
  /** Tokens it took. */
  usage: Usage
  /** Milliseconds it took, by stage. */
  timings: Timings
  /** With `logprobs`: every token that was generated, those of a stop string too. */
  logprobs?: TokenLogprob[]
  /** With `answerFormat`: the choice, or what the JSON says. `undefined` if the answer was cut off. */
  value?: unknown
}

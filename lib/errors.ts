/**
 * Every error this package throws on purpose carries one of these codes. The list is closed: messages may
 * change between versions, codes may not.
 */
export const errorCodes = [
  'BAD_ARGUMENT', // a value the caller passed: wrong type, range or combination
  'BAD_CHECKPOINT', // a model folder's config, index or side files: missing, broken, contradictory
  'BAD_WEIGHTS', // a tensor or safetensors file: missing, extra, wrong shape, dtype or byte range
  'BAD_TOKENIZER', // tokenizer files: missing, broken, or at odds with the config
  'BAD_VIEW', // a picture: missing camera, not decodable, too large
  'BAD_DATA', // a dataset, prediction or judgement file
  'BAD_LOG', // a robot's log or live stream: not one, damaged where that cannot be passed over, or of a kind that is not read
  'UNSUPPORTED_MODEL', // a checkpoint that is sound, but not of a family this package runs
  'DOWNLOAD_FAILED', // a model by name: refused by the hub, cut off, damaged, or no room for it
  'CONTEXT_OVERFLOW', // the tokens do not fit into the context
  'OUT_OF_MEMORY', // load or scene would exceed the memory there is, or the limit that was set
  'DEVICE_UNAVAILABLE', // the asked-for device, driver or addon binary cannot be used
  'DEVICE_LOST', // the device failed in use; the model is dead, the process is not
  'BUSY', // too many questions waiting, and the caller preferred an error to a queue
  'ABORTED', // the caller's AbortSignal
  'DISPOSED', // use after dispose()
  'INTERNAL', // a bug of ours; please report
] as const

/** One of {@link errorCodes}. */
export type ErrorCode = (typeof errorCodes)[number]

/** What this package throws: a code for programs, a sentence for people. */
export class ModelError extends Error {
  /** One of a closed list; a sentence may change, its code does not. */
  readonly code: ErrorCode

  /** An error with a code and a sentence. */
  constructor(code: ErrorCode, message: string, options?: ErrorOptions) {
    super(message, options)
    this.name = 'ModelError'
    this.code = code
  }
}

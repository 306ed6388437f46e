/** How good the weights were after so many updates. */
export interface Validation {
  /** 0: before the first. */
  updates: number
  /** `domain` or `general`. */
  set: string
  questions: number
  /** Shares of answers that are right, exactly and by the lenient rule; null where no answer is known. */
  exact: number | null
  lenient: number | null
  /** DriveLM's final score, where all of its parts are there. */
  final: number | null
  kinds: { name: string; exact: number | null; lenient: number | null; count: number }[]
  /** Of all so far in this set; the last one that was is the checkpoint that is kept. */
  best: boolean
}

/** By what validations are ranked. */
export function scoreOf({ final, exact }: Pick<Validation, 'final' | 'exact'>): number {
  return final ?? exact ?? Number.NEGATIVE_INFINITY
}

/** Questions of one moment with the answers of some weights. */
export interface ShownMoment {
  key: string
  /** By camera, files. */
  views: Readonly<Record<string, string>>
  /** `right`: by the lenient rule; null where no answer is known. */
  questions: readonly { question: string; reference: string | null; answer: string | null; right: boolean | null }[]
}

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
  /** Digest of what was asked: question file, limit, coordinates. Absent in logs of earlier versions. */
  asked?: string
  /** The first few moments, for the report. Absent in logs of earlier versions. */
  moments?: readonly ShownMoment[]
}

/** The same moment by the weights at the start and by the last ones. */
export interface MomentPair {
  before: ShownMoment
  after: ShownMoment
  /** Updates of the last ones. */
  updates: number
  /** It was chosen among so many. */
  among: number
}

/** Of the moments that are kept, the one where most answers became right or wrong; undefined before there are two validations. */
export function changedMoment(validations: readonly Validation[], set = 'domain'): MomentPair | undefined {
  const own = validations.filter((one) => one.set === set && one.moments !== undefined)
  const [first, last] = [own[0], own.at(-1)]
  if (first === undefined || last === undefined || first === last || first.updates !== 0) return undefined
  let best: MomentPair | undefined
  let most = -1
  for (const before of first.moments!) {
    const after = last.moments!.find(({ key }) => key === before.key)
    if (after === undefined) continue
    const changes = before.questions.filter(({ right }, i) => right !== after.questions[i]?.right).length
    if (changes <= most) continue
    most = changes
    best = { before, after, updates: last.updates, among: first.moments!.length }
  }
  return best
}

/** By what validations are ranked. */
export function scoreOf({ final, exact }: Pick<Validation, 'final' | 'exact'>): number {
  return final ?? exact ?? Number.NEGATIVE_INFINITY
}

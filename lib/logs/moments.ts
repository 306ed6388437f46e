/**
 * Moments out of topics that know nothing of each other: one picture a camera, taken at nearly the same time. The rule is the same for logs and
 * live: see {@link momentsOf}.
 */
import { ModelError } from '../errors.ts'
import { describeValue, isRecord } from '../messages.ts'
import { throwIfAborted } from '../options.ts'
import { cameras as modelOrder } from '../views/cameras.ts'
import type { PictureSource } from '../views/sources.ts'
import { type CameraTopics, checkCameras } from './camera-names.ts'
import { badLog } from './files.ts'
import type { Log, PublishedMessage } from './log.ts'
import type { PictureMessage } from './picture.ts'
import type { PictureEntry, PictureTable } from './table.ts'
import { distanceOf, thumbnailOf } from './thumbnail.ts'

/** Options of {@link moments}. Of `every`, `at`, `count` and `on` one may be given; `changed` goes with `every` or alone. */
export interface MomentOptions {
  /** A topic for each camera, as `log.guessCameras().cameras` has them. */
  cameras: CameraTopics
  /** Seconds from one moment to the next; 0 takes every picture of the reference camera. Default 0.5, the key frames of nuScenes and DriveLM. */
  every?: number | undefined
  /** The moments nearest to these: seconds from the first (a number), or a stamp in ns (a bigint). */
  at?: readonly (number | bigint)[] | undefined
  /** So many, evenly spread. */
  count?: number | undefined
  /** The moment nearest to each message of this topic. */
  on?: string | undefined
  /**
   * Of those moments only the ones at which the reference camera's picture has changed since the one taken before: by this much on average, in grey
   * levels of 0 to 255, as a thumbnail of 16 x 16 pixels. The first is always taken, and so is one that cannot be decoded.
   */
  changed?: number | undefined
  /** Only what is in the log from here: seconds from the log's first message (a number), or ns (a bigint). */
  from?: number | bigint | undefined
  /** Only what is in the log up to here; as `from`. */
  to?: number | bigint | undefined
  /** Seconds that a picture may be apart from that of the reference camera. Default 0.1. */
  maxSkew?: number | undefined
  /** A moment that lacks a camera is left out (default), or given without it. */
  missing?: 'skip' | 'keep' | undefined
  /** Ends the search with `ABORTED`. */
  signal?: AbortSignal | undefined
}

/** One picture of each camera, of nearly the same time. */
export interface Moment {
  /** Number among those of the run, from 0. */
  index: number
  /** That of the reference camera's picture, ns. */
  stamp: bigint
  /** Of each camera's picture, ns. */
  stamps: Readonly<Record<string, bigint>>
  /** From the earliest to the latest picture, ns. */
  skew: bigint
  /** Cameras without a picture. */
  missing: readonly string[]
  /** Reads the pictures: the bytes of files, or RGB. A signal that is aborted ends it with `ABORTED`. */
  views: (signal?: AbortSignal) => Promise<Record<string, PictureSource>>
  /** Reads one camera's message as it was published. */
  message: (camera: string) => Promise<PictureMessage>
  /** Reads the bytes of one camera's message, with what a log needs to hold it. */
  published: (camera: string) => Promise<PublishedMessage>
}

/** What became of the pictures of a log. */
export interface MomentReport {
  /** The camera that the others are matched with. */
  reference: string
  /** Moments that there are, whether asked for or not. */
  made: number
  /** Of these, those that lacked a camera. */
  incomplete: number
  /** Median of {@link Moment.skew} over the moments made, ns. */
  medianSkew: bigint
  /** Largest {@link Moment.skew} of the moments made, ns. */
  largestSkew: bigint
  /** A camera's pictures, those in no moment, and its usual distance from the reference, ns. */
  cameras: Readonly<Record<string, { pictures: number; unused: number; offset: bigint }>>
}

/** The moments of a log that are asked for, and what became of the rest. */
export interface MomentPlan {
  /** Those that are asked for, in order of time. */
  moments: readonly Moment[]
  /** What became of the pictures. */
  report: MomentReport
}

/** Stamps of a camera, ns, in order. */
export interface Stamps {
  readonly length: number
  stamp(i: number): bigint
}

/** A moment as numbers of pictures: of each camera its i-th, or undefined. */
export interface MatchedMoment {
  stamp: bigint
  pictures: Readonly<Record<string, number | undefined>>
}

const referenceFrames = 20
const defaultSkew = 0.1

/**
 * Matches pictures to moments. The reference camera is the first of the model's order, CAM_FRONT, unless another's period is over 1.5 times as
 * long (of cameras with 10 pictures or more): then the slowest. Each other camera has its usual offset from it, the median over the first 20
 * frames; at a stamp of the reference it gives the unused picture nearest to that, if within 0.6 of its period and the largest skew.
 *
 * @param maxSkew - ns
 */
export function momentsOf(
  stamps: Readonly<Record<string, Stamps>>,
  maxSkew: bigint,
): { reference: string; offsets: Record<string, bigint>; moments: MatchedMoment[] } {
  const names = Object.keys(stamps).filter((name) => stamps[name]!.length > 0)
  const periods = new Map(names.map((name) => [name, periodOf(stamps[name]!)]))
  const reference = referenceOf(names, stamps, periods)
  if (reference === undefined) return { reference: '', offsets: {}, moments: [] }
  const own = stamps[reference]!
  const others = names.filter((name) => name !== reference)
  const offsets: Record<string, bigint> = { [reference]: 0n }
  for (const name of others) offsets[name] = offsetOf(own, stamps[name]!, periods.get(name))
  const next = new Map(others.map((name) => [name, 0]))
  const moments: MatchedMoment[] = []
  for (let i = 0; i < own.length; i++) {
    const stamp = own.stamp(i)
    const pictures: Record<string, number | undefined> = { [reference]: i }
    for (const name of others) {
      const list = stamps[name]!
      const from = next.get(name)!
      if (from >= list.length) continue
      const target = stamp + offsets[name]!
      const best = nearestFrom(list, target, from)
      const period = periods.get(name)
      const apart = distance(list.stamp(best), target)
      if (period !== undefined && apart * 10n >= period * 6n) continue
      if (distance(list.stamp(best), stamp) > maxSkew) continue
      pictures[name] = best
      next.set(name, best + 1)
    }
    moments.push({ stamp, pictures })
  }
  return { reference, offsets, moments }
}

/** The camera that the others are matched with: see {@link momentsOf}. */
export function referenceOf(
  names: readonly string[],
  stamps: Readonly<Record<string, Stamps>>,
  periods: ReadonlyMap<string, bigint | undefined>,
): string | undefined {
  const usual = modelOrder.find((camera) => names.includes(camera)) ?? names[0]
  const known = (name: string) => (stamps[name]!.length < 10 ? undefined : periods.get(name))
  const period = usual === undefined ? undefined : known(usual)
  if (period === undefined) return usual
  let slowest = { name: usual, period }
  for (const name of names) {
    const own = known(name)
    if (own !== undefined && 2n * own > 3n * period && own > slowest.period) slowest = { name, period: own }
  }
  return slowest.name
}

/** The median distance of pictures, ns, of which those of one stamp are one: a message may have come twice. Undefined for fewer than two. */
export function periodOf(list: Stamps): bigint | undefined {
  const most = 10_000
  const gaps: bigint[] = []
  for (let i = 1; i < list.length && i <= most; i++) {
    const gap = list.stamp(i) - list.stamp(i - 1)
    if (gap > 0n) gaps.push(gap)
  }
  return median(gaps)
}

/** How far a camera's pictures usually are from those of the reference, ns. */
export function offsetOf(reference: Stamps, list: Stamps, period: bigint | undefined): bigint {
  const found: bigint[] = []
  for (let i = 0, at = 0; i < Math.min(reference.length, referenceFrames); i++) {
    const stamp = reference.stamp(i)
    at = nearestFrom(list, stamp, at)
    const offset = list.stamp(at) - stamp
    if (period === undefined || 2n * (offset < 0n ? -offset : offset) <= period) found.push(offset)
  }
  return median(found) ?? 0n
}

/** The picture nearest to a time among those from `from` on; of two as near the earlier. */
function nearestFrom(list: Stamps, time: bigint, from: number): number {
  let [low, high] = [from, list.length - 1]
  while (low < high) {
    const middle = (low + high) >> 1
    if (list.stamp(middle) < time) low = middle + 1
    else high = middle
  }
  const earlier = low > from && distance(list.stamp(low - 1), time) <= distance(list.stamp(low), time)
  return earlier ? low - 1 : low
}

function distance(a: bigint, b: bigint): bigint {
  return a < b ? b - a : a - b
}

/** Of an even number, the lower of the two in the middle. */
function median(values: bigint[]): bigint | undefined {
  return values.sort((a, b) => (a < b ? -1 : a > b ? 1 : 0))[(values.length - 1) >> 1]
}

/**
 * The moments of a log, planned: pictures are read when `views()` of a moment is called.
 *
 * @throws {@link ModelError} `BAD_ARGUMENT` for options that are none, `BAD_LOG` if the log has no pictures of these topics.
 */
export async function planMoments(log: Log, options: MomentOptions): Promise<MomentPlan> {
  checkOptions(log, options)
  const { cameras, maxSkew = defaultSkew, missing = 'skip', signal } = options
  throwIfAborted(signal)
  checkCameras(cameras, log.topics)
  const start = log.topics.reduce((first, topic) => (topic.first < first ? topic.first : first), log.topics[0]!.first)
  const from = absolute(options.from, start)
  const to = absolute(options.to, start)
  const tables = await log.tables({ topics: Object.values(cameras), from, to, signal })
  const stamps = Object.fromEntries(Object.entries(cameras).map(([camera, topic]) => [camera, tables.get(topic)!]))
  const { reference, offsets, moments: all } = momentsOf(stamps, nanoseconds(maxSkew))
  if (all.length === 0)
    throw badLog(
      log.files[0]!,
      `there are no pictures of ${Object.keys(cameras).join(', ')} in it${(from ?? to) ? ' between these times' : ''}.`,
    )
  const names = Object.keys(cameras)
  const whole = all.filter(({ pictures }) => names.every((name) => pictures[name] !== undefined))
  const usable = missing === 'keep' ? all : whole
  const chosen = (await choose(log, usable, all, options)).map((moment) => momentOf(log, moment, cameras, stamps))
  const { changed } = options
  const kept = changed === undefined ? chosen : await thoseChanged(log, chosen, reference, changed, signal)
  const made = kept.map((moment, index) => ({ index, ...moment }))
  return { moments: made, report: reportOf(reference, offsets, all, whole, stamps) }
}

/**
 * The moments of a log, one after another.
 *
 * @throws {@link ModelError} as {@link planMoments}.
 */
export async function* moments(log: Log, options: MomentOptions): AsyncGenerator<Moment, void, undefined> {
  yield* (await planMoments(log, options)).moments
}

function momentOf(
  log: Log,
  { stamp, pictures }: MatchedMoment,
  cameras: CameraTopics,
  tables: Readonly<Record<string, PictureTable>>,
): Omit<Moment, 'index'> {
  const entries = new Map<string, PictureEntry>()
  const missing: string[] = []
  for (const camera of Object.keys(cameras)) {
    const picture = pictures[camera]
    if (picture === undefined) missing.push(camera)
    else entries.set(camera, tables[camera]!.entry(picture))
  }
  const stamps = Object.fromEntries([...entries].map(([camera, entry]) => [camera, entry.stamp]))
  const entryOf = (camera: string): PictureEntry => {
    const entry = entries.get(camera)
    if (entry === undefined)
      throw new ModelError('BAD_ARGUMENT', `This moment has no picture of ${describeValue(camera)}.`)
    return entry
  }
  const message = async (camera: string) => log.picture(cameras[camera]!, entryOf(camera).place)
  const published = async (camera: string) => log.published(cameras[camera]!, entryOf(camera))
  const views = async (signal?: AbortSignal): Promise<Record<string, PictureSource>> => {
    const found: Record<string, PictureSource> = {}
    for (const camera of entries.keys()) {
      throwIfAborted(signal)
      found[camera] = await log.source(await message(camera), `${camera} (${cameras[camera]})`, signal)
    }
    return found
  }
  return { stamp, stamps, skew: skewOf(Object.values(stamps)), missing, views, message, published }
}

/** Those whose reference picture differs from that of the one taken before. One that cannot be decoded is taken, so that it is not passed over unsaid. */
async function thoseChanged(
  log: Log,
  moments: readonly Omit<Moment, 'index'>[],
  reference: string,
  changed: number,
  signal: AbortSignal | undefined,
): Promise<Omit<Moment, 'index'>[]> {
  const kept: Omit<Moment, 'index'>[] = []
  let before: Uint8Array | undefined
  for (const moment of moments) {
    throwIfAborted(signal)
    let thumbnail: Uint8Array | undefined
    try {
      thumbnail = await thumbnailOf(await log.source(await moment.message(reference), reference, signal), reference)
    } catch (error) {
      if (!(error instanceof ModelError && (error.code === 'BAD_LOG' || error.code === 'BAD_VIEW'))) throw error
    }
    if (thumbnail !== undefined && before !== undefined && distanceOf(thumbnail, before) < changed) continue
    before = thumbnail ?? before
    kept.push(moment)
  }
  return kept
}

async function choose(
  log: Log,
  usable: readonly MatchedMoment[],
  all: readonly MatchedMoment[],
  { every = 0.5, at, count, on, signal }: MomentOptions,
): Promise<MatchedMoment[]> {
  if (usable.length === 0) return []
  const first = all[0]!.stamp
  const list: Stamps = { length: usable.length, stamp: (i) => usable[i]!.stamp }
  /** The moments nearest to times, each once, in order. */
  const nearest = (times: readonly bigint[], within?: bigint): MatchedMoment[] => {
    const found = new Set<number>()
    for (const time of times) {
      const i = nearestFrom(list, time, 0)
      if (within === undefined || distance(list.stamp(i), time) <= within) found.add(i)
    }
    return [...found].sort((a, b) => a - b).map((i) => usable[i]!)
  }
  if (at !== undefined) return nearest(at.map((time) => absolute(time, first)!))
  if (count !== undefined) {
    if (count >= usable.length) return [...usable]
    const span = all.at(-1)!.stamp - first
    const step = BigInt(Math.max(1, count - 1))
    return nearest(Array.from({ length: count }, (_, i) => first + (span * BigInt(i)) / step))
  }
  if (on !== undefined) {
    if (!log.topics.some(({ topic }) => topic === on))
      throw new ModelError('BAD_ARGUMENT', `The log has no topic ${describeValue(on)}.`)
    const period = periodOf({ length: all.length, stamp: (i) => all[i]!.stamp }) ?? 0n
    const half = nanoseconds(defaultSkew)
    return nearest(await log.times(on, signal), period > 2n * half ? period / 2n : half)
  }
  const step = nanoseconds(every)
  if (step === 0n) return [...usable]
  const best = new Map<bigint, MatchedMoment>()
  for (const moment of usable) {
    const slot = (moment.stamp - first + step / 2n) / step
    const before = best.get(slot)
    const target = first + slot * step
    if (before === undefined || distance(moment.stamp, target) < distance(before.stamp, target)) best.set(slot, moment)
  }
  return [...best.values()]
}

function reportOf(
  reference: string,
  offsets: Readonly<Record<string, bigint>>,
  all: readonly MatchedMoment[],
  whole: readonly MatchedMoment[],
  stamps: Readonly<Record<string, Stamps>>,
): MomentReport {
  const skews = all.map(({ pictures }) =>
    skewOf(Object.entries(pictures).flatMap(([name, i]) => (i === undefined ? [] : [stamps[name]!.stamp(i)]))),
  )
  const cameras = Object.entries(stamps).map(([name, { length }]) => {
    const used = all.filter(({ pictures }) => pictures[name] !== undefined).length
    return [name, { pictures: length, unused: length - used, offset: offsets[name] ?? 0n }] as const
  })
  return {
    reference,
    made: all.length,
    incomplete: all.length - whole.length,
    largestSkew: skews.reduce((a, b) => (a > b ? a : b), 0n),
    medianSkew: median(skews) ?? 0n,
    cameras: Object.fromEntries(cameras),
  }
}

/** From the earliest to the latest, ns. */
export function skewOf(stamps: readonly bigint[]): bigint {
  const [first = 0n] = stamps
  const least = stamps.reduce((a, b) => (a < b ? a : b), first)
  return stamps.reduce((a, b) => (a > b ? a : b), first) - least
}

function nanoseconds(seconds: number): bigint {
  return BigInt(Math.round(seconds * 1e9))
}

function absolute(time: number | bigint | undefined, start: bigint): bigint | undefined {
  return typeof time === 'number' ? start + nanoseconds(time) : time
}

function checkOptions(log: Log, options: MomentOptions): void {
  if (!Array.isArray((log as Partial<Log> | undefined)?.topics))
    throw new ModelError(
      'BAD_ARGUMENT',
      `Expected a log, as \`await openLog\` gives it, received ${describeValue(log)}.`,
    )
  if (!isRecord(options))
    throw new ModelError(
      'BAD_ARGUMENT',
      `Expected options with cameras, such as log.guessCameras() finds, received ${describeValue(options)}.`,
    )
  const { every, at, count, on, changed, maxSkew, missing, from, to } = options
  const bad = (expected: string, name: string, value: unknown) =>
    new ModelError('BAD_ARGUMENT', `Expected ${expected} for options.${name}, received ${describeValue(value)}.`)
  const seconds = (value: unknown) => typeof value === 'number' && value >= 0 && value <= 1e9
  const time = (value: unknown) => typeof value === 'bigint' || seconds(value)
  if (every !== undefined && !seconds(every)) throw bad('seconds, 0 or more,', 'every', every)
  if (maxSkew !== undefined && !seconds(maxSkew)) throw bad('seconds, 0 or more,', 'maxSkew', maxSkew)
  if (count !== undefined && !(Number.isSafeInteger(count) && count > 0))
    throw bad('a positive integer', 'count', count)
  if (at !== undefined && !(Array.isArray(at) && at.every(time)))
    throw bad('a list of seconds or of bigints in ns', 'at', at)
  if (changed !== undefined && !(typeof changed === 'number' && changed >= 0 && changed <= 255))
    throw bad('a number from 0 to 255', 'changed', changed)
  if (on !== undefined && typeof on !== 'string') throw bad('a topic', 'on', on)
  for (const [name, value] of Object.entries({ from, to })) {
    if (value !== undefined && !time(value)) throw bad('seconds or a bigint in ns', name, value)
  }
  if (missing !== undefined && missing !== 'skip' && missing !== 'keep')
    throw bad("'skip' or 'keep'", 'missing', missing)
  // `changed` chooses among the moments of `every`, given or not.
  const choices = { [every === undefined ? 'changed' : 'every']: every ?? changed, at, count, on }
  const given = Object.entries(choices).filter(([, value]) => value !== undefined)
  if (given.length > 1) {
    throw new ModelError(
      'BAD_ARGUMENT',
      `options.${given[0]![0]} and options.${given[1]![0]} both say which moments; give one.`,
    )
  }
}

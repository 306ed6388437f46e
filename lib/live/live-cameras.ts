/** Cameras that send pictures by themselves, as a source of moments: the newest picture of each, and nothing queued. */
import { setImmediate as nextTurn } from 'node:timers/promises'
import { visible } from '../logs/files.ts'
import { pictureSource } from '../logs/log.ts'
import { offsetOf, periodOf, referenceOf, type Stamps, skewOf } from '../logs/moments.ts'
import type { PictureMessage } from '../logs/picture.ts'
import { abortError, throwIfAborted } from '../options.ts'
import type { PictureSource } from '../views/sources.ts'

/** A topic for each camera. */
export type LiveTopics = Readonly<Record<string, string>>

/** Options that every live source has. */
export interface LiveOptions {
  /** Cameras that a moment has to have; where it lacks one, it is left out. Default: those of the map, or the six of nuScenes. */
  cameras?: readonly string[] | undefined
  /** Seconds that a picture may be apart from that of the reference camera. Default 0.1. */
  maxSkew?: number | undefined
  /** A moment that lacks a camera is left out (default), or given without it. */
  missing?: 'skip' | 'keep' | undefined
  /** Ends it; the iteration rejects with `ABORTED`. */
  signal?: AbortSignal | undefined
  /** What to know and can go on with: a lost connection, a message that cannot be read. Default: `process.emitWarning`. */
  onWarning?: ((warning: string) => void) | undefined
  /** What happens: a connection, a topic that is subscribed to. */
  onStatus?: ((status: string) => void) | undefined
}

/** One picture of each camera, the newest there are, of nearly the same time. */
export interface LiveMoment {
  /** That of the reference camera's picture, ns. */
  stamp: bigint
  /** Of each camera's picture, ns. */
  stamps: Readonly<Record<string, bigint>>
  /** The topic of each camera's picture. */
  topics: LiveTopics
  /** From the earliest to the latest picture, ns. */
  skew: bigint
  /** Cameras without a picture. */
  missing: readonly string[]
  /** Moments that this one took the place of before anybody had them. */
  dropped: number
  /** Gives the pictures: the bytes of files, or RGB. */
  views: () => Promise<Record<string, PictureSource>>
}

interface Newest {
  camera: string
  topic: string
  stamp: bigint
  picture: PictureMessage
}

/** A picture of the reference camera, and those of the others that have come to it. */
interface OpenMoment {
  reference: Newest
  pictures: Map<string, Newest>
  /** Of each other camera: when its picture is expected, and how far from that it may be, ns. */
  expected: Map<string, { at: bigint; within: bigint }>
}

interface Waiting {
  resolve: (result: IteratorResult<LiveMoment, undefined>) => void
  reject: (error: unknown) => void
}

/** Where pictures come from. */
export interface LiveInput {
  /** Begins to send, by {@link LiveCameras.put}. */
  start: (cameras: LiveCameras) => void
  stop: () => void
}

/** A stamp further from the clock of the transport than this is not believed, ns: as in logs. */
const believable = 10_000_000_000n
/** Pictures of a camera that tell its period, and its usual distance from the reference. */
const rememberedStamps = 16
/** A camera that was silent for this long is not waited for by `missing: 'keep'`, in periods of the reference. */
const patience = 3n
const usualPeriod = 500_000_000n
const mostWarnings = 200
/** Moments without a camera of which the last is told of: the first may be those of cameras that are just starting. */
const incompleteToWarn = 10

/**
 * A source of moments for `model.watch`. The rule is that of logs: to each picture of the reference camera (CAM_FRONT, or the slowest) the
 * others have theirs at their usual distance; the moment is there when all have come. What is not taken is replaced by the next.
 */
export class LiveCameras implements AsyncIterableIterator<LiveMoment> {
  /** Moments that lacked a camera and were left out. */
  incomplete = 0
  readonly #input: LiveInput
  readonly #options: LiveOptions
  readonly #expected: readonly string[]
  readonly #maxSkew: bigint
  readonly #newest = new Map<string, Newest>()
  readonly #stamps = new Map<string, bigint[]>()
  readonly #told = new Set<string>()
  readonly #used = new Map<string, Newest>()
  #open: OpenMoment | undefined
  #seen = 0
  #ready: LiveMoment | undefined
  #state: 'new' | 'running' | 'ended' = 'new'
  #waiting: Waiting[] = []
  #failure: { error: unknown } | undefined
  #onAbort = () => {}

  /** Comes from `cameras.fromFoxglove` and its like. */
  constructor(input: LiveInput, expected: readonly string[], options: LiveOptions) {
    this.#input = input
    this.#options = options
    this.#expected = options.cameras ?? expected
    this.#maxSkew = BigInt(Math.round((options.maxSkew ?? 0.1) * 1e9))
  }

  /** The next moment; the first call begins. */
  next(): Promise<IteratorResult<LiveMoment, undefined>> {
    return new Promise((resolve, reject) => {
      this.#begin()
      if (this.#failure !== undefined) {
        const { error } = this.#failure
        this.#failure = undefined
        reject(error)
      } else if (this.#state === 'ended') resolve({ done: true, value: undefined })
      else if (this.#ready !== undefined) {
        resolve({ done: false, value: this.#ready })
        this.#ready = undefined
      } else this.#waiting.push({ resolve, reject })
    })
  }

  /** Ends the connection, and calls that wait. */
  async return(): Promise<IteratorResult<LiveMoment, undefined>> {
    this.#end()
    return { done: true, value: undefined }
  }

  [Symbol.asyncIterator](): this {
    return this
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#end()
  }

  /**
   * A picture came.
   *
   * @param clock - Of the transport, ns: stands in for a stamp that is none.
   */
  put(camera: string, topic: string, picture: PictureMessage, clock: bigint): void {
    if (this.#state !== 'running' || !this.#expected.includes(camera)) return
    const entry = { camera, topic, picture, stamp: this.#stampOf(picture, clock, topic) }
    const stamps = this.#stamps.get(camera) ?? []
    // A clock that was set back: what came before is of another time.
    if (entry.stamp < (stamps.at(-1) ?? 0n)) stamps.length = 0
    stamps.push(entry.stamp)
    if (stamps.length > rememberedStamps) stamps.shift()
    this.#stamps.set(camera, stamps)
    this.#newest.set(camera, entry)
    if (camera === this.#reference()) {
      this.#seen++
      if (this.#open !== undefined) this.#giveUp(this.#open)
      this.#open = this.#begun(entry)
    }
    if (this.#open !== undefined) this.#match(this.#open)
  }

  /** A topic is there no more: its last picture is not used again. */
  forget(camera: string): void {
    this.#newest.delete(camera)
    this.#stamps.delete(camera)
    if (this.#open?.reference.camera === camera) this.#open = undefined
  }

  /** Says something once. */
  warn(warning: string): void {
    if (this.#told.size >= mostWarnings || this.#told.has(warning)) return
    this.#told.add(warning)
    const { onWarning = (text: string) => process.emitWarning(text, 'DrivlmWarning') } = this.#options
    onWarning(warning)
  }

  /** Says what happens, to those who listen. */
  say(status: string): void {
    this.#options.onStatus?.(status)
  }

  /** Nothing more will come, because of this. */
  fail(error: unknown): void {
    if (this.#state === 'ended') return
    const waiting = this.#waiting.splice(0)
    if (waiting.length === 0) this.#failure = { error }
    for (const { reject } of waiting) reject(error)
    this.#end()
  }

  #begin(): void {
    if (this.#state !== 'new') return
    const { signal } = this.#options
    throwIfAborted(signal)
    this.#state = 'running'
    this.#onAbort = () => this.fail(abortError(signal!))
    signal?.addEventListener('abort', this.#onAbort)
    this.#input.start(this)
  }

  #end(): void {
    if (this.#state === 'ended') return
    const running = this.#state === 'running'
    this.#state = 'ended'
    this.#options.signal?.removeEventListener('abort', this.#onAbort)
    this.#newest.clear()
    this.#used.clear()
    this.#ready = undefined
    this.#open = undefined
    for (const { resolve } of this.#waiting.splice(0)) resolve({ done: true, value: undefined })
    if (running) this.#input.stop()
  }

  #stampOf({ stamp }: PictureMessage, clock: bigint, topic: string): bigint {
    if (stamp !== undefined && apart(stamp, clock) <= believable) return stamp
    const why = stamp === undefined ? 'have no stamp' : 'have a stamp more than 10 s from the clock of the connection'
    this.warn(`Pictures of ${visible(topic)} ${why}; the time they came with stands in.`)
    return clock
  }

  #reference(): string | undefined {
    const names = [...this.#stamps.keys()]
    const lists = Object.fromEntries(names.map((name) => [name, listOf(this.#stamps.get(name)!)]))
    const periods = new Map(names.map((name) => [name, periodOf(lists[name]!)]))
    return referenceOf(names, lists, periods)
  }

  /** Each other camera has its usual distance from the reference, once that is known. */
  #begun(reference: Newest): OpenMoment {
    const own = listOf(this.#stamps.get(reference.camera)!)
    const others = this.#expected.filter((camera) => camera !== reference.camera)
    const expected = others.map((camera) => {
      const list = listOf(this.#stamps.get(camera) ?? [])
      const period = periodOf(list)
      if (period === undefined) return [camera, { at: reference.stamp, within: this.#maxSkew }] as const
      return [camera, { at: reference.stamp + offsetOf(own, list, period), within: (period * 6n) / 10n }] as const
    })
    return { reference, pictures: new Map([[reference.camera, reference]]), expected: new Map(expected) }
  }

  /** Takes the pictures that have come, and gives the moment once all are there. */
  #match(open: OpenMoment): void {
    const { reference, pictures, expected } = open
    for (const [camera, { at, within }] of expected) {
      const entry = this.#newest.get(camera)
      if (entry === undefined || pictures.has(camera) || entry === this.#used.get(camera)) continue
      const fits = apart(entry.stamp, at) <= within && apart(entry.stamp, reference.stamp) <= this.#maxSkew
      if (fits) pictures.set(camera, entry)
    }
    const period = periodOf(listOf(this.#stamps.get(reference.camera)!)) ?? usualPeriod
    const missed = this.#expected.some((camera) => {
      if (pictures.has(camera)) return false
      if (this.#options.missing !== 'keep') return true
      const last = this.#newest.get(camera)
      // One that was never there may still be on its way.
      return last === undefined ? this.#seen <= 2 : reference.stamp - last.stamp < patience * period
    })
    if (!missed) this.#give(open)
  }

  /** The next picture of the reference is there, and this one's moment was never whole. */
  #giveUp(open: OpenMoment): void {
    if (this.#options.missing === 'keep') {
      this.#give(open)
      return
    }
    this.#open = undefined
    if (++this.incomplete !== incompleteToWarn) return
    const lacking = this.#expected.filter((camera) => !open.pictures.has(camera))
    this.warn(`Moments are left out because they lack ${lacking.join(', ')}: no picture of nearly the same time.`)
  }

  #give({ reference: { stamp }, pictures }: OpenMoment): void {
    this.#open = undefined
    for (const [camera, entry] of pictures) this.#used.set(camera, entry)
    const entries = this.#expected.flatMap((camera) => {
      const entry = pictures.get(camera)
      return entry === undefined ? [] : [[camera, entry] as const]
    })
    const stamps = Object.fromEntries(entries.map(([camera, entry]) => [camera, entry.stamp]))
    const views = async () => {
      const found: Record<string, PictureSource> = {}
      for (const [camera, { topic, picture }] of entries) {
        await nextTurn() // pixels that are converted here are not converted all in one turn
        found[camera] = pictureSource(picture, `${camera} (${topic})`)
      }
      return found
    }
    const moment: LiveMoment = {
      stamp,
      stamps,
      topics: Object.fromEntries(entries.map(([camera, { topic }]) => [camera, topic])),
      skew: skewOf(Object.values(stamps)),
      missing: this.#expected.filter((camera) => !pictures.has(camera)),
      dropped: this.#ready === undefined ? 0 : this.#ready.dropped + 1,
      views,
    }
    const waiting = this.#waiting.shift()
    if (waiting === undefined) this.#ready = moment
    else waiting.resolve({ done: false, value: moment })
  }
}

function listOf(stamps: readonly bigint[]): Stamps {
  return { length: stamps.length, stamp: (i) => stamps[i]! }
}

function apart(a: bigint, b: bigint): bigint {
  return a < b ? b - a : a - b
}

/** A robot's log: its topics, what is damaged, and its pictures. */
import { rm } from 'node:fs/promises'
import { ModelError } from '../errors.ts'
import { untilAborted } from '../job.ts'
import { describeValue } from '../messages.ts'
import { throwIfAborted } from '../options.ts'
import type { PictureSource } from '../views/sources.ts'
import { type CameraGuess, guessCameras } from './camera-names.ts'
import type { Channel, LogMessage, Place } from './container.ts'
import { badLog, type Damage, visible } from './files.ts'
import { knownDefinition, type PictureReader, pictureReader, plainSchema } from './message.ts'
import type { PictureKind, PictureMessage } from './picture.ts'
import { refusedEncoding, toRgb } from './pixels.ts'
import { logFiles, type Opened, openFile } from './sources.ts'
import { type PictureEntry, PictureTable } from './table.ts'
import { checkFfmpeg, codecOf, decodeKeyFrame, isKeyFrame, videoOf } from './video.ts'

/** Which clock says when a picture was taken. */
export type LogClock = 'stamp' | 'publish' | 'log'

/** Options of {@link openLog}. */
export interface LogOptions {
  /** Damage is an error in place of an entry of `log.damage`. Default false. */
  strict?: boolean | undefined
  /** Read all messages now, where an index would say what is there: finds damage, and the pictures' own times. Default false. */
  scan?: boolean | undefined
  /**
   * The clock of pictures: `stamp` (default) is the one in the message, or, where that is 0 or more than 10 s from the log's, the publisher's;
   * `publish` and `log` are those of the log.
   */
  time?: LogClock | undefined
  /** A program, such as `ffmpeg`, that decodes key frames of compressed video. Without it, video is refused. */
  ffmpeg?: string | undefined
}

/** A topic of a log. */
export interface LogTopic {
  /** Name of the topic. */
  topic: string
  /** Of its messages, as written: `sensor_msgs/msg/CompressedImage`. */
  schema: string
  /** `cdr`, `ros1`, `protobuf`, `json`, … */
  encoding: string
  /** Messages. */
  count: number
  /** Messages a second, by the log's clock; undefined for fewer than two. */
  hz: number | undefined
  /** Log time of the first message, ns. */
  first: bigint
  /** Log time of the last message, ns. */
  last: bigint
  /** What kind of pictures it has; undefined for topics of other things. */
  kind: PictureKind | undefined
  /** Why its pictures are not read, as a sentence's end. */
  problem: string | undefined
  /** What else is to be known of its pictures, as a sentence's end. */
  note: string | undefined
  /** Of one of its pictures: the writer's name for a file's format, or the encoding of pixels. */
  format: string | undefined
  /** Of one of its pictures, in pixels. */
  width: number | undefined
  /** Of one of its pictures, in pixels. */
  height: number | undefined
  /** Of one of its pictures: the `frame_id` of its header. */
  frameId: string | undefined
}

/** A picture of a log. */
export interface LogPicture extends PictureMessage {
  /** The topic it was published on. */
  topic: string
  /** When it was recorded, ns. */
  logTime: bigint
  /** When it was published, ns; as `logTime` where the file keeps one time alone. */
  publishTime: bigint
}

/** A message as it was published, with what a file needs to hold it. */
export interface PublishedMessage {
  /** Of its channel. */
  topic: string
  /** Of its schema: name, kind of definition, definition. */
  schema: { name: string; encoding: string; data: Uint8Array }
  /** `cdr`, `ros1`, `protobuf`, `json`, … */
  encoding: string
  /** Of its channel: what else the log says of it. */
  metadata: ReadonlyMap<string, string>
  /** When it was recorded, ns. */
  logTime: bigint
  /** When it was published, ns; where the log has no other, as `logTime`. */
  publishTime: bigint
  /** The message, as it is encoded. */
  data: Uint8Array
}

/** Which pictures, by topic and the log's clock. */
export interface PictureSelection {
  /** Only these; by default all that have pictures. */
  topics?: readonly string[] | undefined
  /** Only what was recorded at this time or later, ns. */
  from?: bigint | undefined
  /** Only what was recorded at this time or earlier, ns. */
  to?: bigint | undefined
  /** Ends the iteration with `ABORTED`. */
  signal?: AbortSignal | undefined
}

/** A stamp further from the log's clock than this is not believed, ns. */
const believable = 10_000_000_000n
/** Most pictures of one log that are looked at, of all topics together. */
const maxPictures = 4_000_000
const maxDamages = 200
/** Most damages that are told from those of an earlier reading. */
const maxKnown = 10_000
/** Tables of other topics and times that are kept: up to 56 bytes for each picture of the log. */
const maxTables = 4

interface TopicState extends LogTopic {
  channel: Channel
  reader: PictureReader | undefined
  sample: (() => Promise<Uint8Array | undefined>) | undefined
  /** Pictures whose stamp was not believed. */
  untimed: number
}

/**
 * A robot's log. Made by {@link openLog}; close it, or let `await using` do so.
 */
export class Log {
  /** The files it is made of, in order. */
  readonly files: readonly string[]
  /** Bytes of all files. */
  readonly bytes: number
  /** `mcap`, `bag` (ROS 1) or `db3` (SQLite of rosbag2). */
  readonly kind: 'mcap' | 'bag' | 'db3'
  /** What was found wrong and passed over, so far. */
  readonly damage: readonly Damage[]
  readonly #opened: readonly Opened[]
  readonly #options: LogOptions
  readonly #damage: Damage[]
  readonly #topics = new Map<string, TopicState>()
  readonly #tables = new Map<string, Promise<Map<string, PictureTable>>>()
  readonly #known = new Set<string>()
  #more = 0
  #scanned = false
  #closed = false

  private constructor(opened: readonly Opened[], damage: Damage[], options: LogOptions) {
    this.#opened = opened
    this.files = opened.map(({ container }) => container.name)
    this.bytes = opened.reduce((sum, { container }) => sum + container.bytes, 0)
    this.kind = opened[0]!.container.kind
    this.#damage = damage
    this.damage = damage
    this.#options = options
  }

  /** See {@link openLog}. */
  static async open(sources: readonly string[], options: LogOptions): Promise<Log> {
    if (options.ffmpeg !== undefined) await checkFfmpeg(options.ffmpeg)
    const damage: Damage[] = []
    const opened: Opened[] = []
    try {
      for (const source of sources) {
        for (const file of await logFiles(source, (found) => damage.push(found))) {
          opened.push(await openFile(file, opened.length))
        }
      }
      const log = new Log(opened, damage, options)
      if (options.strict && damage.length > 0) throw badLog(damage[0]!.file, damage[0]!.message)
      await log.#list()
      return log
    } catch (error) {
      await closeAll(opened)
      throw error
    }
  }

  /** Topics in the order of their names: all of them, those without pictures too. */
  get topics(): LogTopic[] {
    return [...this.#topics.values()]
      .map(({ reader: _, sample: __, untimed: ___, channel: ____, ...topic }) => topic)
      .sort((a, b) => (a.topic < b.topic ? -1 : a.topic > b.topic ? 1 : 0))
  }

  /** Whether all messages were read; if not, the topics are as an index has them, and damage may not have been seen. */
  get scanned(): boolean {
    return this.#scanned
  }

  /** Damage that is not in `damage`, which holds the first 200. */
  get furtherDamage(): number {
    return this.#more
  }

  /** Topics with pictures whose stamps were left out or not believed, with the number of them; the publisher's or the log's clock stands in. */
  get untimed(): { topic: string; count: number }[] {
    return [...this.#topics.values()].flatMap(({ topic, untimed }) => (untimed > 0 ? [{ topic, count: untimed }] : []))
  }

  /** Which topic is which camera, by the words of topics and frames. */
  guessCameras(): CameraGuess {
    return guessCameras(this.topics)
  }

  /** Pictures in the order of the log. Their data is a view that is valid until the next one is taken. */
  async *pictures(selection: PictureSelection = {}): AsyncGenerator<LogPicture, void, undefined> {
    for await (const { message, picture } of this.#scan(selection)) {
      const { channel, logTime, publishTime } = message
      yield { ...picture, topic: channel.topic, logTime, publishTime }
    }
  }

  /** Places of the pictures of topics, by their stamps. */
  async tables({ topics, from, to, signal }: PictureSelection): Promise<Map<string, PictureTable>> {
    const wanted = topics ?? this.#withPictures()
    const key = JSON.stringify([[...wanted].sort(), String(from), String(to)])
    for (;;) {
      throwIfAborted(signal)
      const shared = this.#tables.get(key)
      try {
        return await untilAborted(shared ?? this.#tabulated(key, { topics: wanted, from, to, signal }), signal)
      } catch (error) {
        const abandoned = shared !== undefined && error instanceof ModelError && error.code === 'ABORTED'
        if (!abandoned) throw error // else it was the signal of who began it
      }
    }
  }

  #tabulated(key: string, selection: PictureSelection): Promise<Map<string, PictureTable>> {
    if (this.#tables.size >= maxTables) this.#tables.delete(this.#tables.keys().next().value!)
    const made = this.#tabulate(selection)
    this.#tables.set(key, made)
    made.catch(() => this.#tables.delete(key))
    return made
  }

  #withPictures(): string[] {
    return [
      ...new Set([...this.#topics.values()].filter(({ reader }) => reader !== undefined).map(({ topic }) => topic)),
    ]
  }

  /** Log times of all messages of any topic, ns. */
  async times(topic: string, signal?: AbortSignal): Promise<bigint[]> {
    this.#mustBeOpen()
    throwIfAborted(signal)
    const times: bigint[] = []
    for (const { container } of this.#opened) {
      const wants = (channel: Channel) => channel.topic === topic
      for await (const { logTime } of container.scan({ wants, onDamage: () => undefined })) {
        throwIfAborted(signal)
        if (times.length >= maxPictures)
          throw badLog(container.name, `${visible(topic)} has more than ${maxPictures} messages.`)
        times.push(logTime)
      }
    }
    return times
  }

  /**
   * One picture by its place in the log, its bytes its own.
   *
   * @throws {@link ModelError} `BAD_LOG` if it cannot be read.
   */
  async picture(topic: string, place: Place): Promise<PictureMessage> {
    this.#mustBeOpen()
    const { container } = this.#opened[place.file]!
    const data = await container.read(place)
    try {
      const picture = this.#pictures(topic).reader!.read(data)
      return { ...picture, data: Uint8Array.prototype.slice.call(picture.data) }
    } catch (error) {
      throw badLog(container.name, `a picture of ${visible(topic)} cannot be read: ${(error as Error).message}.`, error)
    }
  }

  /**
   * A picture as a model takes it: the bytes of its file, or its pixels as RGB; of video by the `ffmpeg` of {@link LogOptions}.
   *
   * @param name - What messages call the picture.
   * @throws {@link ModelError} `BAD_LOG` if it is none that can be seen; see {@link pictureSource}.
   */
  async source(picture: PictureMessage, name: string, signal?: AbortSignal): Promise<PictureSource> {
    const { ffmpeg } = this.#options
    const codec = ffmpeg === undefined ? undefined : codecOf(picture)
    return codec === undefined
      ? pictureSource(picture, name)
      : decodeKeyFrame(ffmpeg!, codec, picture.data, name, { signal })
  }

  /** One message by its place in the log, as it was published; its bytes are its own. */
  async published(topic: string, { place, logTime, publishTime }: PictureEntry): Promise<PublishedMessage> {
    this.#mustBeOpen()
    const { container } = this.#opened[place.file]!
    const { schema, encoding, metadata, definition } = this.#pictures(topic).channel
    const known =
      definition !== undefined && definition.data.length > 0 ? definition : knownDefinition(schema, encoding)
    return {
      topic,
      schema: { name: schema, ...known },
      encoding,
      metadata,
      logTime,
      publishTime,
      data: Uint8Array.prototype.slice.call(await container.read(place)),
    }
  }

  /** Closes the files. What is asked of it later is `DISPOSED`. */
  async close(): Promise<void> {
    this.#closed = true
    await closeAll(this.#opened)
  }

  /** See {@link Log.close}. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  async #list(): Promise<void> {
    for (const { container } of this.#opened) {
      const summary = this.#options.scan ? undefined : await container.summary()
      if (summary === undefined) return this.#scanAll()
      for (const { channel, count, first, last, sample } of summary) {
        if (count === 0) continue
        const state = this.#state(channel)
        note(state, count, first, last)
        state.sample ??= sample
      }
    }
    for (const state of this.#topics.values()) {
      const data = state.reader && (await state.sample?.())
      if (data === undefined) continue
      try {
        await this.#describe(state, state.reader!.read(data))
      } catch {
        // Where it is read it is found, and said.
      }
    }
    this.#checkNotEmpty()
  }

  async #scanAll(): Promise<void> {
    this.#topics.clear()
    for (const { container } of this.#opened) {
      const onDamage = (damage: Damage) => this.#found(damage)
      for await (const message of container.scan({ wants: () => true, onDamage })) {
        const state = this.#state(message.channel)
        note(state, 1, message.logTime, message.logTime)
        const picture = state.reader && this.#picture(message)
        if (picture !== undefined && state.format === undefined) await this.#describe(state, picture)
      }
    }
    this.#scanned = true
    this.#checkNotEmpty()
  }

  /** Notes what one of its pictures tells of a topic. */
  async #describe(state: TopicState, picture: PictureMessage): Promise<void> {
    const { kind, format, encoding, width, height, frameId, data } = picture
    state.frameId = frameId
    state.format = kind === 'raw' ? encoding : format
    if (this.#options.ffmpeg !== undefined && codecOf(picture) !== undefined) {
      state.note = 'it is compressed video, whose key frames are decoded by ffmpeg'
      return
    }
    state.problem = problemOf(picture)
    if (kind === 'raw') {
      state.width = width
      state.height = height
    }
    if (kind !== 'compressed' || state.problem !== undefined) return
    // image_transport of noetic and foxy leaves the second part without an encoding.
    if (/^bayer_\w+; jpeg compressed ?$/.test(format))
      state.note = 'its files have the mosaic of the sensor, seen in grey'
    const { default: sharp } = await import('sharp')
    try {
      const size = await sharp(data, { limitInputPixels: false }).metadata()
      state.width = size.width
      state.height = size.height
    } catch {
      state.problem = 'its pictures cannot be decoded'
    }
  }

  #checkNotEmpty(): void {
    if (this.#topics.size > 0) return
    const why = this.#damage[0] === undefined ? '' : ` ${this.#damage[0].message}`
    throw badLog(this.files[0]!, `it has no messages.${why}`)
  }

  async #tabulate({ topics = [], ...rest }: PictureSelection): Promise<Map<string, PictureTable>> {
    const tables = new Map(topics.map((topic) => [topic, new PictureTable()]))
    let count = 0
    for await (const { message, picture } of this.#scan({ topics, ...rest })) {
      const { channel, logTime, publishTime, place } = message
      const codec = this.#options.ffmpeg === undefined ? undefined : codecOf(picture)
      if (codec !== undefined && !isKeyFrame(codec, picture.data)) continue
      count += 1
      if (count > maxPictures) {
        throw badLog(
          this.files[place.file]!,
          `it has more than ${maxPictures} pictures; take a part of it with from and to (--from, --to).`,
        )
      }
      tables.get(channel.topic)!.push({ stamp: this.#stamp(message, picture.stamp), logTime, publishTime, place })
    }
    return tables
  }

  /** Messages with pictures, in the order of the log. */
  async *#scan({
    topics,
    from,
    to,
    signal,
  }: PictureSelection): AsyncGenerator<{ message: LogMessage; picture: PictureMessage }, void, undefined> {
    this.#mustBeOpen()
    throwIfAborted(signal)
    const wanted = topics && new Set(topics)
    const wants = (channel: Channel) =>
      this.#topics.get(keyOf(channel))?.reader !== undefined && wanted?.has(channel.topic) !== false
    for (const { container } of this.#opened) {
      const onDamage = (damage: Damage) => this.#found(damage)
      for await (const message of container.scan({ wants, from, to, onDamage })) {
        throwIfAborted(signal)
        const picture = this.#picture(message)
        if (picture !== undefined) yield { message, picture }
      }
    }
  }

  #mustBeOpen(): void {
    if (this.#closed) throw new ModelError('DISPOSED', 'The log is closed; open it again to read it.')
  }

  /** What is known of a topic with pictures. */
  #pictures(topic: string): TopicState {
    return [...this.#topics.values()].find((one) => one.topic === topic && one.reader !== undefined)!
  }

  /** When a picture was taken, by the clock that is trusted. */
  #stamp({ channel, logTime, publishTime }: LogMessage, stamp: bigint | undefined): bigint {
    const { time = 'stamp' } = this.#options
    const believed = (clock: bigint) => {
      const apart = clock - logTime
      return clock !== 0n && apart < believable && apart > -believable
    }
    if (time === 'log') return logTime
    if (time === 'stamp') {
      if (stamp !== undefined && believed(stamp)) return stamp
      this.#topics.get(keyOf(channel))!.untimed += 1
    }
    return publishTime !== 0n && (time === 'publish' || believed(publishTime)) ? publishTime : logTime
  }

  #picture({ channel, data, place }: LogMessage): PictureMessage | undefined {
    const state = this.#topics.get(keyOf(channel))!
    try {
      return state.reader!.read(data)
    } catch (error) {
      const file = this.#opened[place.file]!.container
      const { chunk, at } = place
      const offset = file.kind === 'db3' ? undefined : chunk < 0 ? at : chunk
      const where =
        file.kind === 'db3' ? `row ${at}` : chunk < 0 ? `byte ${at}` : `byte ${at} of the chunk at byte ${chunk}`
      const message = `a picture of ${visible(channel.topic)} at ${where} is left out: ${(error as Error).message}.`
      this.#found({ file: file.name, offset, message })
      return undefined
    }
  }

  #found(damage: Damage): void {
    if (this.#options.strict) throw badLog(damage.file, damage.message)
    const key = `${damage.file}\0${damage.message}`
    if (this.#known.has(key)) return // found by an earlier reading
    if (this.#known.size < maxKnown) this.#known.add(key)
    if (this.#damage.length < maxDamages) this.#damage.push(damage)
    else this.#more += 1
  }

  #state(channel: Channel): TopicState {
    const key = keyOf(channel)
    const before = this.#topics.get(key)
    if (before !== undefined) return before
    const found = pictureReader(channel)
    const reader = typeof found === 'object' ? found : undefined
    const made: TopicState = {
      channel,
      topic: channel.topic,
      schema: channel.schema,
      encoding: channel.encoding,
      count: 0,
      hz: undefined,
      first: 0n,
      last: 0n,
      kind: reader?.kind ?? (typeof found === 'string' ? 'video' : undefined),
      problem: typeof found === 'string' ? found : undefined,
      note: undefined,
      format: undefined,
      width: undefined,
      height: undefined,
      frameId: undefined,
      reader,
      sample: undefined,
      untimed: 0,
    }
    this.#topics.set(key, made)
    return made
  }
}

/** Channels of one topic and schema are one: a publisher that started again. */
function keyOf({ topic, schema, encoding }: Channel): string {
  return `${topic}\0${plainSchema(schema)}\0${encoding}`
}

function note(state: TopicState, count: number, first: bigint, last: bigint): void {
  if (state.count === 0 || first < state.first) state.first = first
  if (state.count === 0 || last > state.last) state.last = last
  state.count += count
  const seconds = Number(state.last - state.first) / 1e9
  state.hz = state.count > 1 && seconds > 0 ? (state.count - 1) / seconds : undefined
}

/** Why a picture is not read, as a sentence's end. */
function problemOf(picture: PictureMessage): string | undefined {
  const { kind, format, encoding } = picture
  if (kind === 'raw') return refusedEncoding(encoding)
  if (/compressedDepth/.test(format)) return 'it is depth (compressedDepth), no camera'
  const video = videoOf(picture)
  if (video === undefined) return undefined
  const advice = codecOf(picture) === undefined ? '' : ', or have its key frames decoded (--ffmpeg)'
  return `it is compressed video (${video}); republish it as pictures${advice}`
}

/** Whether the first bytes of a file are those of a picture. */
function isPicture(data: Uint8Array): boolean {
  const text = Buffer.from(data.buffer, data.byteOffset, Math.min(data.length, 16)).toString('latin1')
  return /^(\xff\xd8\xff|\x89PNG|RIFF....WEBP|II\*\0|MM\0\*|GIF8|....ftypavi[fs])/s.test(text)
}

/**
 * A picture as a model takes it: the bytes of its file, or its pixels as RGB.
 *
 * @param picture - Its bytes are not copied.
 * @throws {@link ModelError} `BAD_LOG` if it is video or depth, has an encoding that is not read, or too few bytes.
 */
export function pictureSource(picture: PictureMessage, name: string): PictureSource {
  const problem = problemOf(picture)
  if (problem !== undefined) throw new ModelError('BAD_LOG', `${visible(name)}: ${problem}.`)
  if (picture.kind === 'compressed') {
    if (isPicture(picture.data)) return picture.data
    throw new ModelError(
      'BAD_LOG',
      `${visible(name)}: its ${picture.data.length} bytes are no JPEG, PNG, WebP, TIFF or AVIF file.`,
    )
  }
  try {
    return toRgb(picture)
  } catch (error) {
    throw new ModelError('BAD_LOG', `${visible(name)}: ${(error as Error).message}.`, { cause: error })
  }
}

async function closeAll(opened: readonly Opened[]): Promise<void> {
  for (const { container, folder } of opened) {
    await container.close().catch(() => undefined)
    if (folder !== undefined) await rm(folder, { recursive: true, force: true })
  }
}

/**
 * Opens a robot's log: MCAP, a bag of ROS 1, a bag of rosbag2 as its folder or its files. What it is, is told by its content.
 *
 * @param source - A file or folder, or several that are one recording.
 * @throws {@link ModelError} `BAD_LOG` if it is no log, has no messages, or is of a kind that is not read; `BAD_ARGUMENT`.
 *
 * @example
 * const log = await openLog('drive.mcap')
 * const { cameras } = log.guessCameras() // { CAM_FRONT: '/camera/front/image_raw/compressed', … }
 * for await (const moment of moments(log, { cameras, every: 0.5 })) {
 *   const answer = await model.ask(await moment.views(), 'Is the way ahead free?')
 * }
 * await log.close()
 */
export async function openLog(source: string | readonly string[], options: LogOptions = {}): Promise<Log> {
  const sources = typeof source === 'string' ? [source] : source
  if (
    !Array.isArray(sources) ||
    sources.length === 0 ||
    !sources.every((one) => typeof one === 'string' && one !== '')
  ) {
    throw new ModelError(
      'BAD_ARGUMENT',
      `Expected the path of a log or a list of them, received ${describeValue(source)}.`,
    )
  }
  return Log.open(sources, options)
}

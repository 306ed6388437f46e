/**
 * Answers about a log, written beside it: an MCAP of its own that Foxglove and Lichtblick open together with the log. A line of JSON a moment is kept
 * while it is made (`OUT.mcap.journal`), and the file is written from the lines: the same lines give the same bytes, whatever was stopped in between.
 */
import { type FileHandle, open, readFile, rename, rm, stat } from 'node:fs/promises'
import path from 'node:path'
import { ModelError } from '../errors.ts'
import { describeValue, isRecord } from '../messages.ts'
import { packageRoot } from '../native.ts'
import { cannotWrite } from '../whole-file.ts'
import type { LogMessage } from './container.ts'
import { LogFile, visible } from './files.ts'
import type { PublishedMessage } from './log.ts'
import { McapFile } from './mcap.ts'

/** A time as Foxglove's JSON has it. */
export interface JsonTime {
  /** Whole seconds since 1970. */
  sec: number
  /** Nanoseconds of the second, 0 to 999,999,999. */
  nsec: number
}

/** A question about a moment, and its answer. */
export interface MomentAnswer {
  /** As it was asked. */
  question: string
  /** What the model said. */
  answer: string
  /** How it was asked. */
  kind: 'ask' | 'locate'
  /** Of `locate`: what was found, in pixels of the camera’s picture as it was published: x1, y1, x2, y2. */
  boxes: { camera: string; label: string; box: readonly [number, number, number, number] }[]
}

/** A moment and what was answered about it. */
export interface AnsweredMoment {
  /** Number among the moments of the run, from 0. */
  moment: number
  /** Moments of the run. */
  moments: number
  /** What the run tells its model apart by. */
  model: string
  /** Digest of all that the answers depend on: the same in all parts of a run. Files of a caller's own may lack it. */
  run?: string
  /** Time of the reference camera's picture. */
  timestamp: JsonTime
  /** Topic and time of each camera's picture. */
  cameras: Record<string, { topic: string; timestamp: JsonTime }>
  /** In the order of the questions; empty where it was skipped. */
  answers: MomentAnswer[]
  /** Why it was not asked about. */
  skipped?: string
}

/** Most moments of a run: as many as a log may have pictures. */
const maxMoments = 4_000_000

/** The messages that are copied beside the answers of a moment. */
export type MessagesOf = (moment: AnsweredMoment) => AsyncIterable<PublishedMessage>

const topics = { moments: '/drivlm/moments', answers: '/drivlm/answers', log: '/drivlm/log' } as const

/** ns as seconds and nanoseconds. */
export function jsonTimeOf(time: bigint): JsonTime {
  return { sec: Number(time / 1_000_000_000n), nsec: Number(time % 1_000_000_000n) }
}

/** The annotations' topic of an image topic: beside it, as panels look for it. */
export function annotationTopic(topic: string): string {
  return `${topic.slice(0, topic.lastIndexOf('/') + 1)}drivlm_annotations`
}

/**
 * Answers of one run. What is written is safe from then on: a run that is killed goes on with `resume`.
 */
export class AnswerLog {
  /** Path of what is written. */
  readonly file: string
  readonly #lines: Map<number, AnsweredMoment>
  readonly #journal: FileHandle
  /** Bytes of whole lines in the journal. */
  #bytes: number

  private constructor(file: string, lines: Map<number, AnsweredMoment>, journal: FileHandle, bytes: number) {
    this.file = file
    this.#lines = lines
    this.#journal = journal
    this.#bytes = bytes
  }

  /**
   * Begins a run's answers, or goes on with those that are there.
   *
   * @param run - What the answers depend on; a run that goes on has to be of the same.
   * @throws {@link ModelError} `BAD_ARGUMENT` if the file is there and `resume` is not given, or if it was another run; `BAD_DATA` if what is there
   *   cannot be read, or nothing can be written there.
   */
  static async create(file: string, run: object, { resume = false }: { resume?: boolean } = {}): Promise<AnswerLog> {
    const head = JSON.stringify({ drivlm: 1, run })
    const journal = `${file}.journal`
    const before = await readFile(journal, 'utf8').catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return undefined
      throw new ModelError('BAD_DATA', `${visible(journal)} cannot be read: ${error.message}.`, { cause: error })
    })
    const done = await stat(file).catch(() => undefined)
    if (!resume && (before !== undefined || done !== undefined)) {
      throw new ModelError(
        'BAD_ARGUMENT',
        `${visible(file)} is there already; go on with it (--resume), or give another.`,
      )
    }
    if (before === undefined && done !== undefined) {
      throw new ModelError('BAD_ARGUMENT', `${visible(file)} is complete; there is nothing to go on with.`)
    }
    const lines = new Map<number, AnsweredMoment>()
    // A line without its end was being written when the run was killed.
    const whole = (before ?? '').slice(0, (before ?? '').lastIndexOf('\n') + 1)
    const [first = '', ...rest] = whole.split('\n').slice(0, -1)
    if (whole !== '' && first !== head) {
      throw new ModelError(
        'BAD_ARGUMENT',
        `${visible(journal)} is of another log, model or other questions; give another --out.`,
      )
    }
    for (const [i, line] of rest.entries()) {
      const moment = momentOf(line)
      if (moment === undefined)
        throw new ModelError(
          'BAD_DATA',
          `${visible(journal)}, line ${i + 2}: is damaged; remove the file to begin anew.`,
        )
      lines.set(moment.moment, moment)
    }
    // What is there stays there: a kill at any time takes no answer away.
    const handle = await open(journal, 'a').catch((error) => {
      throw cannotWrite(visible(journal), error)
    })
    const made = new AnswerLog(file, lines, handle, Buffer.byteLength(whole))
    try {
      await handle.truncate(made.#bytes)
      if (whole === '') await made.#add(`${head}\n`)
    } catch (error) {
      await handle.close()
      throw cannotWrite(visible(journal), error)
    }
    return made
  }

  /** Whether a moment was answered before. */
  has(moment: number): boolean {
    return this.#lines.has(moment)
  }

  /** Moments that were written, in their order. */
  get lines(): AnsweredMoment[] {
    return [...this.#lines.values()].sort((a, b) => a.moment - b.moment)
  }

  /**
   * Adds what was answered about a moment.
   *
   * @throws {@link ModelError} `BAD_DATA` if the disk is full, for instance; what was written before stays.
   */
  async write(line: AnsweredMoment): Promise<void> {
    await this.#add(`${JSON.stringify(line)}\n`)
    this.#lines.set(line.moment, line)
  }

  /** A whole line, or none of it. */
  async #add(line: string): Promise<void> {
    try {
      await this.#journal.appendFile(line)
      this.#bytes += Buffer.byteLength(line)
    } catch (error) {
      await this.#journal.truncate(this.#bytes).catch(() => undefined)
      throw cannotWrite(visible(`${this.file}.journal`), error)
    }
  }

  /** Takes away what was begun, unless something was answered: that stays, to go on with. */
  async discard(): Promise<void> {
    await this.#journal.close()
    if (this.#lines.size === 0) await rm(`${this.file}.journal`, { force: true })
  }

  /**
   * Writes the file. Unless the run is complete its lines stay beside it, to go on with.
   *
   * @param options - `images` gives the messages to copy beside the answers of a moment.
   * @throws {@link ModelError} `BAD_DATA` if it cannot be written; its lines then stay.
   */
  async close({ complete, images }: { complete: boolean; images?: MessagesOf | undefined }): Promise<void> {
    await this.#journal.close()
    await writeAnswers(this.file, this.lines, images)
    if (complete) await rm(`${this.file}.journal`, { force: true })
  }
}

function momentOf(line: string): AnsweredMoment | undefined {
  try {
    const moment = JSON.parse(line) as AnsweredMoment
    const whole =
      Number.isSafeInteger(moment?.moment) &&
      isTime(moment.timestamp) &&
      isRecord(moment.cameras) &&
      Object.values(moment.cameras).every((one) => typeof one?.topic === 'string' && isTime(one.timestamp)) &&
      Array.isArray(moment.answers) &&
      moment.answers.every((answer) => typeof answer?.answer === 'string' && Array.isArray(answer.boxes))
    return whole ? moment : undefined
  } catch {
    return undefined
  }
}

/** What was asked about a moment. */
function questionsOf({ answers }: AnsweredMoment): string {
  return JSON.stringify(answers.map(({ kind, question }) => [kind, question]))
}

function isTime(time: unknown): boolean {
  return isRecord(time) && Number.isSafeInteger(time.sec) && Number.isSafeInteger(time.nsec)
}

/** A message about a moment, as Foxglove and Lichtblick show it. */
export interface AnswerMessage {
  topic: string
  /** Of {@link answerSchemas}. */
  schema: string
  time: JsonTime
  content: object
}

/** What is said of a moment, in the order of a log. */
export function* answerMessages(line: AnsweredMoment): Generator<AnswerMessage, void, undefined> {
  const { timestamp: time, cameras, model, moment, answers, skipped } = line
  const say = (level: number, message: string): AnswerMessage => {
    const content = { timestamp: time, level, message, name: 'drivlm', file: '', line: 0 }
    return { topic: topics.log, schema: 'foxglove.Log', time, content }
  }
  yield { topic: topics.moments, schema: 'drivlm.Moment', time, content: line }
  if (skipped !== undefined) yield say(3, `Left out: ${skipped}`)
  for (const answer of answers) {
    const content = { timestamp: time, moment, model, cameras, ...answer }
    yield { topic: topics.answers, schema: 'drivlm.Answer', time, content }
    yield say(2, `Q ${answer.question} A ${answer.answer}`)
  }
  for (const [camera, { topic, timestamp: own }] of Object.entries(cameras)) {
    const boxes = answers.flatMap((answer) => answer.boxes.filter((box) => box.camera === camera))
    if (!answers.some(({ kind }) => kind === 'locate')) continue
    // A message without boxes takes those of the moment before away.
    const content = annotationsOf(own, boxes)
    yield { topic: annotationTopic(topic), schema: 'foxglove.ImageAnnotations', time: own, content }
  }
}

/**
 * Writes moments as MCAP: to a temporary name beside it, which is then renamed.
 *
 * @throws {@link ModelError} `BAD_DATA` if it cannot be written, with nothing left half written; what `images` throws.
 */
export async function writeAnswers(
  file: string,
  lines: readonly AnsweredMoment[],
  images: MessagesOf | undefined,
): Promise<void> {
  const partial = `${file}.partial`
  try {
    await writeLines(partial, lines, images)
    await rename(partial, file)
  } catch (error) {
    await rm(partial, { force: true }).catch(() => undefined)
    throw (error as NodeJS.ErrnoException).syscall === undefined ? error : cannotWrite(visible(file), error)
  }
}

async function writeLines(
  partial: string,
  lines: readonly AnsweredMoment[],
  images: MessagesOf | undefined,
): Promise<void> {
  const { McapWriter } = await import('@mcap/core')
  const { default: zstd } = await import('@foxglove/wasm-zstd')
  await zstd.isLoaded
  const { version } = JSON.parse(await readFile(path.join(packageRoot, 'package.json'), 'utf8')) as { version: string }
  const handle = await open(partial, 'w')
  try {
    let position = 0n
    const writer = new McapWriter({
      writable: {
        position: () => position,
        write: async (part) => {
          await handle.writeFile(part) // all of it, where `write` may end early
          position += BigInt(part.length)
        },
      },
      compressChunk: (data) => ({ compression: 'zstd', compressedData: zstd.compress(data) }),
    })
    await writer.start({ profile: '', library: `drivlm ${version}` })
    const channels = new Map<string, { id: number; sequence: number }>()
    const schemas = new Map<string, number>()
    const copy = async ({ topic, schema, encoding, metadata, logTime, publishTime, data }: PublishedMessage) => {
      const key = `${topic}\0${schema.name}\0${encoding}`
      let channel = channels.get(key)
      if (channel === undefined) {
        const form = `${schema.name}\0${schema.encoding}`
        const schemaId = schemas.get(form) ?? (await writer.registerSchema(schema))
        schemas.set(form, schemaId)
        const own = { topic, schemaId, messageEncoding: encoding, metadata: new Map(metadata) }
        channel = { id: await writer.registerChannel(own), sequence: 0 }
        channels.set(key, channel)
      }
      await writer.addMessage({ channelId: channel.id, sequence: channel.sequence++, logTime, publishTime, data })
    }
    const put = (topic: string, name: string, { sec, nsec }: JsonTime, content: object): Promise<void> => {
      const time = BigInt(sec) * 1_000_000_000n + BigInt(nsec)
      return copy({
        topic,
        schema: { name, encoding: 'jsonschema', data: Buffer.from(JSON.stringify(answerSchemas[name])) },
        encoding: 'json',
        metadata: new Map(),
        logTime: time,
        publishTime: time,
        data: Buffer.from(JSON.stringify(content)),
      })
    }
    for (const line of lines) {
      for (const { topic, schema, time, content } of answerMessages(line)) await put(topic, schema, time, content)
      if (images !== undefined && line.skipped === undefined)
        for await (const message of images(line)) await copy(message)
    }
    await writer.end()
    await handle.sync()
  } finally {
    await handle.close()
  }
}

/** A file of answers that is open: its moments, and where the messages that were copied beside them lie. */
class AnswerFile {
  readonly lines: AnsweredMoment[] = []
  readonly #file: McapFile
  readonly #copied = new Map<number, Omit<LogMessage, 'data'>[]>()

  private constructor(file: McapFile) {
    this.#file = file
  }

  /** @throws {@link ModelError} `BAD_LOG` if it has no answers, or is damaged. */
  static async open(name: string): Promise<AnswerFile> {
    const made = new AnswerFile(await McapFile.open(await LogFile.open(name), 0))
    const bad = (message: string) => new ModelError('BAD_LOG', `${visible(name)}: ${message}`)
    try {
      const messages = await made.#read((message) => {
        throw bad(message)
      })
      // One of a shard that had no moment is empty.
      if (made.lines.length === 0 && messages > 0) throw bad('it has no answers of drivlm annotate.')
      return made
    } catch (error) {
      await made.close()
      throw error instanceof ModelError ? error : bad((error as Error).message)
    }
  }

  /** @returns Messages of any kind. */
  async #read(onDamage: (message: string) => void): Promise<number> {
    let messages = 0
    const scan = this.#file.scan({ wants: () => true, onDamage: ({ message }) => onDamage(message) })
    for await (const { data, ...message } of scan) {
      messages += 1
      const { topic, schema, encoding } = message.channel
      const line = this.lines.at(-1)
      if (topic === topics.moments && schema === 'drivlm.Moment') {
        const own = momentOf(Buffer.from(data).toString())
        if (own === undefined) throw new Error('a moment in it is not as drivlm annotate writes them.')
        const { moment, moments } = own
        if (!(moment >= 0 && moment < moments && moments <= maxMoments))
          throw new Error(`a moment in it is number ${moment} of ${moments}.`)
        this.lines.push(own)
      } else if (line !== undefined && !(encoding === 'json' && Object.hasOwn(answerSchemas, schema))) {
        // What is not made of a moment stands behind it, as it was published.
        this.#copied.set(line.moment, [...(this.#copied.get(line.moment) ?? []), message])
      }
    }
    return messages
  }

  /** The messages that were copied beside a moment. */
  async *copied(moment: number): AsyncGenerator<PublishedMessage, void, undefined> {
    for (const { channel, logTime, publishTime, place } of this.#copied.get(moment) ?? []) {
      const { topic, schema, definition, encoding, metadata } = channel
      const known = definition ?? { encoding: '', data: new Uint8Array(0) }
      const data = await this.#file.read(place)
      yield { topic, schema: { name: schema, ...known }, encoding, metadata, logTime, publishTime, data }
    }
  }

  close(): Promise<void> {
    return this.#file.close()
  }
}

/**
 * Reads back the answers of a file of `drivlm annotate`.
 *
 * @throws {@link ModelError} `BAD_LOG` if it is no such file, or is damaged.
 */
export async function readAnswers(name: string): Promise<AnsweredMoment[]> {
  if (typeof name !== 'string')
    throw new ModelError('BAD_ARGUMENT', `Expected the path of a file of answers, received ${describeValue(name)}.`)
  const file = await AnswerFile.open(name)
  await file.close()
  return file.lines
}

/**
 * Puts the answers of shards together, as one run would have written them.
 *
 * @returns Moments in all, and the numbers of those that no shard has.
 * @throws {@link ModelError} `BAD_LOG` if a file has no answers, `BAD_DATA` if they are of different runs, or have a moment twice or, without `partial`,
 * not at all.
 */
export async function mergeAnswers(
  files: readonly string[],
  out: string,
  { partial = false }: { partial?: boolean | undefined } = {},
): Promise<{ moments: number; missing: number[] }> {
  const lines = new Map<number, AnsweredMoment>()
  const fileOf = new Map<number, AnswerFile>()
  const opened: AnswerFile[] = []
  let first: AnsweredMoment | undefined
  let asked: AnsweredMoment | undefined
  const otherRun = (name: string, why: string) =>
    new ModelError('BAD_DATA', `${visible(name)} is of another run: ${why}.`)
  try {
    for (const name of files) {
      const file = await AnswerFile.open(name)
      opened.push(file)
      for (const line of file.lines) {
        first ??= line
        if (line.moments !== first.moments || line.model !== first.model) {
          const found = `${line.moments} moments by ${visible(line.model)}`
          throw otherRun(name, `${found}, not ${first.moments} by ${visible(first.model)}`)
        }
        if (line.run !== first.run) throw otherRun(name, 'its log, model, questions or settings are not the same')
        if (line.skipped === undefined) {
          asked ??= line
          if (questionsOf(line) !== questionsOf(asked)) throw otherRun(name, 'it was asked other questions')
        }
        if (lines.has(line.moment))
          throw new ModelError('BAD_DATA', `${visible(name)} has moment ${line.moment}, which another file has too.`)
        lines.set(line.moment, line)
        fileOf.set(line.moment, file)
      }
    }
    if (first === undefined) throw new ModelError('BAD_DATA', 'None of these files has a moment that was asked about.')
    const all = first.moments
    const missing = Array.from({ length: all }, (_, i) => i).filter((i) => !lines.has(i))
    if (missing.length > 0 && !partial) {
      throw new ModelError(
        'BAD_DATA',
        `${missing.length} of ${all} moments are in no file, the first of them ${missing[0]}; run its shard again, or take what is there (--partial).`,
      )
    }
    const inOrder = [...lines.values()].sort((a, b) => a.moment - b.moment)
    await writeAnswers(out, inOrder, ({ moment }) => fileOf.get(moment)!.copied(moment))
    return { moments: all, missing }
  } finally {
    for (const file of opened) await file.close()
  }
}

const green = { r: 0.1, g: 0.9, b: 0.3, a: 1 }
const clear = { r: 0, g: 0, b: 0, a: 0 }
const lineLoop = 2

/** foxglove.ImageAnnotations: a closed line of four points, and its name above. */
function annotationsOf(timestamp: JsonTime, boxes: MomentAnswer['boxes']): object {
  return {
    timestamp,
    circles: [],
    points: boxes.map(({ box: [x1, y1, x2, y2] }) => ({
      timestamp,
      type: lineLoop,
      points: [
        { x: x1, y: y1 },
        { x: x2, y: y1 },
        { x: x2, y: y2 },
        { x: x1, y: y2 },
      ],
      outline_color: green,
      outline_colors: [],
      fill_color: clear,
      thickness: 2,
    })),
    texts: boxes
      .filter(({ label }) => label !== '')
      .map(({ label, box: [x1, y1] }) => ({
        timestamp,
        position: { x: x1, y: y1 },
        text: label,
        font_size: 12,
        text_color: green,
        background_color: { r: 0, g: 0, b: 0, a: 0.5 },
      })),
    metadata: [],
  }
}

const object = (properties: object) => ({ type: 'object', properties })
const list = (items: object) => ({ type: 'array', items })
const [text, number, integer] = [{ type: 'string' }, { type: 'number' }, { type: 'integer' }]
const time = object({
  sec: { type: 'integer', minimum: 0 },
  nsec: { type: 'integer', minimum: 0, maximum: 999_999_999 },
})
const point = object({ x: number, y: number })
const colour = object({ r: number, g: number, b: number, a: number })
const choice = (names: readonly string[]) => ({ oneOf: names.map((title, value) => ({ title, const: value })) })
const camerasSeen = { type: 'object', additionalProperties: object({ topic: text, timestamp: time }) }
const answerFields = {
  question: text,
  answer: text,
  kind: text,
  boxes: list(object({ camera: text, label: text, box: list(number) })),
}

/** As readers of MCAP want them: an object at the root, enumerations as numbers. https://docs.foxglove.dev/docs/sdk/schemas */
export const answerSchemas: Readonly<Record<string, object>> = {
  'drivlm.Moment': object({
    moment: integer,
    moments: integer,
    model: text,
    run: text,
    timestamp: time,
    cameras: camerasSeen,
    answers: list(object(answerFields)),
    skipped: text,
  }),
  'drivlm.Answer': object({ timestamp: time, moment: integer, model: text, cameras: camerasSeen, ...answerFields }),
  'foxglove.Log': object({
    timestamp: time,
    level: choice(['UNKNOWN', 'DEBUG', 'INFO', 'WARNING', 'ERROR', 'FATAL']),
    message: text,
    name: text,
    file: text,
    line: integer,
  }),
  'foxglove.ImageAnnotations': object({
    timestamp: time,
    circles: list(
      object({
        timestamp: time,
        position: point,
        diameter: number,
        thickness: number,
        fill_color: colour,
        outline_color: colour,
      }),
    ),
    points: list(
      object({
        timestamp: time,
        type: choice(['UNKNOWN', 'POINTS', 'LINE_LOOP', 'LINE_STRIP', 'LINE_LIST']),
        points: list(point),
        outline_color: colour,
        outline_colors: list(colour),
        fill_color: colour,
        thickness: number,
      }),
    ),
    texts: list(
      object({
        timestamp: time,
        position: point,
        text,
        font_size: number,
        text_color: colour,
        background_color: colour,
      }),
    ),
    metadata: list(object({ key: text, value: text })),
  }),
}

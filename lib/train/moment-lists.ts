/**
 * Question files as training data: DriveLM's JSON as it is, and a question a line. They name moments: all questions about the same pictures.
 * Their readers are those of the evaluation, so that what is trained is what is asked.
 */
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { stat } from 'node:fs/promises'
import path from 'node:path'
import type { ViewLayout } from '../checkpoint/layout.ts'
import { ModelError } from '../errors.ts'
import { questionFileForm, readMoments } from '../evaluate/questions/question-files.ts'
import { resolveImage } from '../evaluate/questions/selection.ts'
import { drivelmQuestion, tagsToCanvas } from '../grounding/c-tags.ts'
import { type Conversion, resolveConversion } from '../grounding/conversion.ts'
import type { TextReading } from '../text/placeholders.ts'
import { expectStamp, type ListEntry, type ListedSample, type SampleSource, stampOf } from './sample-lists.ts'

/** How a question file is read for training. */
export interface MomentOptions {
  /** Folder the pictures are looked for in; that of the file by default. */
  images?: string | undefined
  /** Coordinates in questions and answers; `auto` by default. */
  conversion?: Conversion | undefined
  text?: TextReading | undefined
  layout: ViewLayout
}

/** A moment as it is kept: JSON, outside of the heap. */
interface KeptMoment {
  views: Record<string, string>
  questions: { id: string; text: string; answer?: string }[]
}

/** The questions of a file, moment by moment. */
export class MomentList implements SampleSource {
  readonly entry: ListEntry
  readonly lines: number
  readonly sha256: string
  /** What was done to coordinates. */
  readonly conversion: Exclude<Conversion, 'auto'>
  readonly #moments: readonly Buffer[]
  /** [moments + 1]: number of the first question of each. */
  readonly #firsts: Uint32Array
  readonly #stamp: string
  #last: { number: number; moment: KeptMoment } | undefined

  private constructor(
    entry: ListEntry,
    file: { sha256: string; stamp: string; conversion: Exclude<Conversion, 'auto'> },
    moments: readonly Buffer[],
    firsts: readonly number[],
  ) {
    this.entry = entry
    this.sha256 = file.sha256
    this.conversion = file.conversion
    this.#stamp = file.stamp
    this.#moments = moments
    this.#firsts = Uint32Array.from(firsts)
    this.lines = firsts.at(-1)!
  }

  /** @throws {@link ModelError} `BAD_DATA` for a broken file, with the place; or one without questions. */
  static async open(file: string, { images, conversion = 'auto', text, layout }: MomentOptions): Promise<MomentList> {
    const annotation = path.resolve(file)
    const form = await questionFileForm(annotation)
    const resolved = resolveConversion(conversion, form, { layout })
    const [toQuestion, toAnswer] =
      resolved === 'none'
        ? [same, same]
        : [(asked: string) => drivelmQuestion(asked), (said: string) => tagsToCanvas(said)]
    const stamp = stampOf(await stat(annotation))
    const moments: Buffer[] = []
    const firsts = [0]
    for await (const { views, questions } of readMoments(annotation, { text })) {
      if (questions.length === 0) continue
      const kept: KeptMoment = {
        views: Object.fromEntries(
          Object.entries(views).map(([camera, name]) => [camera, pictureOf(name, camera, annotation, images)]),
        ),
        questions: questions.map(({ id, text: asked, reference }) => ({
          id,
          text: toQuestion(asked),
          ...(reference === undefined ? {} : { answer: toAnswer(reference) }),
        })),
      }
      moments.push(Buffer.from(JSON.stringify(kept)))
      firsts.push(firsts.at(-1)! + questions.length)
    }
    if (moments.length === 0) throw new ModelError('BAD_DATA', `${annotation}: there is no question in it.`)
    const hash = createHash('sha256')
    for await (const chunk of createReadStream(annotation)) hash.update(chunk as Buffer)
    const entry: ListEntry = {
      name: path.basename(annotation),
      root: path.resolve(images ?? path.dirname(annotation)),
      annotation,
      augment: false,
      repeat: 1,
      maxTiles: undefined,
    }
    return new MomentList(entry, { sha256: hash.digest('hex'), stamp, conversion: resolved }, moments, firsts)
  }

  /** Moments of the file. */
  get moments(): number {
    return this.#moments.length
  }

  where(index: number): string {
    const { moment, at } = this.#find(index)
    return `${this.entry.annotation}, question ${moment.questions[at]!.id}`
  }

  async read(index: number): Promise<ListedSample> {
    const { number, moment, at } = this.#find(index)
    const { id, text, answer } = moment.questions[at]!
    return {
      id,
      pictures: Object.values(moment.views),
      single: false,
      views: moment.views,
      moment: number,
      messages: [
        { from: 'human', value: text },
        ...(answer === undefined ? [] : [{ from: 'gpt' as const, value: answer }]),
      ],
    }
  }

  expectUnchanged(): Promise<void> {
    return expectStamp(this.entry.annotation, this.#stamp)
  }

  async close(): Promise<void> {}

  /** Questions are mostly read moment by moment, so the last one stays parsed. */
  #find(index: number): { number: number; moment: KeptMoment; at: number } {
    let low = 0
    let high = this.#moments.length - 1
    while (low < high) {
      const middle = (low + high + 1) >> 1
      if (this.#firsts[middle]! <= index) low = middle
      else high = middle - 1
    }
    if (this.#last?.number !== low)
      this.#last = { number: low, moment: JSON.parse(this.#moments[low]!.toString()) as KeptMoment }
    return { number: low, moment: this.#last.moment, at: index - this.#firsts[low]! }
  }
}

function same(text: string): string {
  return text
}

/** Where a picture is; where it should be if it is not there, which the look through all samples then counts. */
function pictureOf(name: string, camera: string, data: string, images: string | undefined): string {
  try {
    return resolveImage(name, { images, data }, camera)
  } catch (error) {
    if (error instanceof ModelError) return path.resolve(images ?? path.dirname(data), name)
    throw error
  }
}

/** Data of a run: lists of samples looked through, put in order, packed and decoded ahead of the steps. */
import { createHash } from 'node:crypto'
import { readCheckpoint } from '../checkpoint/load-checkpoint.ts'
import { ModelError } from '../errors.ts'
import type { Conversion } from '../grounding/conversion.ts'
import { templateFor } from '../load-model.ts'
import { loadAddon, type NetworkDescription } from '../native.ts'
import type { NativeTrainedParts } from '../native-training.ts'
import { loadTokenizer } from '../text/load-tokenizer.ts'
import type { TextReading } from '../text/placeholders.ts'
import { closeLists, openLists } from './lists.ts'
import { type LossReduction, lossReductions, normaliseWeights } from './loss-weights.ts'
import { MomentList } from './moment-lists.ts'
import { unitOperations } from './operations.ts'
import { noGeneralData, Pass } from './order.ts'
import { Packer, publishedLimits } from './packing.ts'
import { type PictureCheck, PictureChecks } from './pictures.ts'
import type { Preparation } from './prepare.ts'
import type { SampleSource } from './sample-lists.ts'
import { partsOf } from './settings.ts'
import { type ListSurvey, surveyLists } from './survey.ts'
import type { AdaptSettings, PackBounds, PackSource, TrainingPack } from './types.ts'
import { UnitTable } from './units.ts'
import { type PackedUnit, type PackWriting, writePacks } from './write-packs.ts'

/** What a run learns from, and how it is packed. Defaults are the published ones (spec/adaptation.md, section 14) where there are any. */
export interface TrainingDataOptions {
  /** Files of the domain: an InternVL meta file or list of conversations, a DriveLM file, or a question a line. */
  data: string | readonly string[]
  /** Files of general data, of the same forms. */
  general?: string | readonly string[] | undefined
  /** Folder that pictures of question files and lists are looked for in; that of the file by default. Meta files name their own. */
  images?: string | undefined
  /** The same for general data; `images` by default. */
  generalImages?: string | undefined
  /** General samples for each domain sample, drawn anew over all of them in each pass. Default 0.25 with general data, as for DriveLM. */
  generalRatio?: number | undefined
  /** Updates of the run; the data are taken as often as they need. */
  steps?: number | undefined
  /** How often the domain data are taken; default 1. Without effect beside `steps`. */
  passes?: number | undefined
  /** Packs of an update, whose loss is one mean; default 8, the published number of devices. */
  packsPerStep?: number | undefined
  /** Default `square`. */
  lossReduction?: LossReduction | undefined
  /** Questions of a moment that go through the network together, its pictures once; default 32 for data that name moments, else 1. */
  questionsPerMoment?: number | undefined
  /** Tokens that a sample is cut to; default 8192, or what the model was made for. */
  maxLength?: number | undefined
  /** Most tokens of a pack; default 16384. */
  maxPackTokens?: number | undefined
  /** Most tiles of a pack; default 48. */
  maxPackTiles?: number | undefined
  /** Encode tiles as JPEG and decode them, for files that are no meta file; default false. */
  augment?: boolean | undefined
  /** Share of a list that may be left out; default 0.01. */
  maxLeftOut?: number | undefined
  /** Of the order and of what is drawn; default 42. */
  seed?: number | undefined
  /** Object coordinates of question files; default `auto`. */
  conversion?: Conversion | undefined
  /** How `<image>` in questions is read. */
  text?: TextReading | undefined
  /** Default `whole`. */
  pictures?: PictureCheck | undefined
  /** Bytes of tiles that may be decoded ahead of their step; default 512 MiB. */
  aheadBytes?: number | undefined
  /** Ends the opening with `ABORTED`. */
  signal?: AbortSignal | undefined
  /** Called while the samples are looked through. */
  onProgress?: ((done: number, total: number) => void) | undefined
}

interface OpenList {
  list: SampleSource
  general: boolean
  survey: ListSurvey
  units: UnitTable
}

/** Operations of a pass, as it is trained and as samples would be one by one. */
export interface OperationCount {
  /** Questions of the pass. */
  samples: number
  /** Operations as it is trained: pictures and what stands before the questions once for all questions of a unit. */
  shared: number
  /** Operations if each question were a sample of its own. */
  separate: number
}

/** Options, checked; undefined where what is read decides. */
interface Settings {
  steps: number | undefined
  passes: number
  packsPerStep: number
  lossReduction: LossReduction
  questionsPerMoment: number | undefined
  maxLength: number
  maxPackTokens: number
  maxPackTiles: number
  generalRatio: number
  augment: boolean
  maxLeftOut: number
  seed: number
  pictures: PictureCheck
  aheadBytes: number
}

/**
 * Opens the data of a run for the model in `dir`: reads the lists and prepares every sample once, its pictures too.
 *
 * @throws {@link ModelError} `BAD_ARGUMENT` for settings; `BAD_DATA` for files that are none, a broken line, or too many samples that cannot
 *   be used, with the place; `UNSUPPORTED_MODEL` for a template without training rules; `ABORTED`.
 *
 * @example
 * const data = await openTrainingData(bundledModel, { data: 'street/drivelm.json', passes: 3 })
 * for await (const { loss } of adapt(bundledModel, { data, out: 'adapted' })) console.log(loss)
 */
export async function openTrainingData(dir: string, options: TrainingDataOptions): Promise<TrainingData> {
  const addon = loadAddon()
  const checkpoint = await readCheckpoint(dir)
  const settings = settingsOf(options, checkpoint.maxPositions)
  const tokenizer = await loadTokenizer(dir)
  const { template } = await templateFor(checkpoint, tokenizer)
  const { layout, tiling, network, format } = checkpoint
  const { tileSize, patchSize } = network.vision
  const preparation: Preparation = {
    tokenizer,
    template,
    tiling,
    layout,
    numbered: format !== 'hf',
    tileTokens: (tileSize / patchSize / 2) ** 2,
    addon,
    pictures: new PictureChecks(settings.pictures),
    maxLength: settings.maxLength,
    maxSampleTiles: settings.maxPackTiles,
  }
  const { signal, onProgress, conversion, text, augment, images } = options
  const reading = { layout, conversion, text, augment }
  const lists: { list: SampleSource; general: boolean }[] = []
  try {
    for (const [general, files] of [
      [false, options.data],
      [true, options.general ?? []],
    ] as const) {
      const own = general ? (options.generalImages ?? images) : images
      for (const file of typeof files === 'string' ? [files] : files) {
        const opened = await openLists(file, { ...reading, images: own })
        lists.push(...opened.map((list) => ({ list, general })))
      }
    }
    if (!lists.some(({ general }) => !general))
      throw new ModelError('BAD_ARGUMENT', 'There is nothing to learn from; give data with a file.')
    if (settings.generalRatio > 0 && !lists.some(({ general }) => general)) throw noGeneralData(settings.generalRatio)
    const { maxLeftOut } = settings
    const surveys = await surveyLists(lists, preparation, { maxLeftOut, signal, onProgress })
    const open = lists.map(({ list, general }, i): OpenList => {
      const survey = surveys[i]!
      const { repeat } = list.entry
      const most = settings.questionsPerMoment ?? (list instanceof MomentList ? 32 : 1)
      const limits = { lines: list.lines, repeat, most, maxTokens: settings.maxPackTokens }
      return { list, general, survey, units: new UnitTable(survey.usable, limits) }
    })
    return new TrainingData(open, settings, { ...preparation, pictures: new PictureChecks('headers') }, network)
  } catch (error) {
    await closeLists(lists.map(({ list }) => list))
    throw error
  }
}

function settingsOf(options: TrainingDataOptions, maxPositions: number): Settings {
  const whole = (name: keyof TrainingDataOptions, value: number): number => {
    if (Number.isSafeInteger(value) && value >= 1) return value
    throw new ModelError('BAD_ARGUMENT', `${name}: expected a whole number of at least 1, found ${value}.`)
  }
  const optional = (name: 'steps' | 'questionsPerMoment'): number | undefined => {
    const value = options[name]
    return value === undefined ? undefined : whole(name, value)
  }
  const { generalRatio = options.general === undefined || options.general.length === 0 ? 0 : 0.25, seed = 42 } = options
  if (!(generalRatio >= 0 && generalRatio < Number.POSITIVE_INFINITY))
    throw new ModelError('BAD_ARGUMENT', `generalRatio: expected a number of at least 0, found ${generalRatio}.`)
  if (!Number.isSafeInteger(seed) || seed < 0)
    throw new ModelError('BAD_ARGUMENT', `seed: expected a whole number of at least 0, found ${seed}.`)
  const { lossReduction = 'square', pictures = 'whole', aheadBytes = 2 ** 29, augment = false } = options
  if (!lossReductions.includes(lossReduction))
    throw new ModelError(
      'BAD_ARGUMENT',
      `lossReduction: expected ${lossReductions.join(', ')}, found ${JSON.stringify(lossReduction)}.`,
    )
  if (!(aheadBytes >= 0)) throw new ModelError('BAD_ARGUMENT', `aheadBytes: expected bytes, found ${aheadBytes}.`)
  const maxPackTokens = whole('maxPackTokens', options.maxPackTokens ?? publishedLimits.maxTokens)
  const maxLength = whole('maxLength', options.maxLength ?? Math.min(8192, maxPositions, maxPackTokens))
  if (maxLength > maxPositions)
    throw new ModelError(
      'BAD_ARGUMENT',
      `maxLength: expected up to ${maxPositions}, the most tokens this model was made for, found ${maxLength}.`,
    )
  if (maxLength > maxPackTokens)
    throw new ModelError(
      'BAD_ARGUMENT',
      `maxLength: a sample of ${maxLength} tokens does not fit into packs of ${maxPackTokens}; raise maxPackTokens.`,
    )
  return {
    steps: optional('steps'),
    passes: whole('passes', options.passes ?? 1),
    packsPerStep: whole('packsPerStep', options.packsPerStep ?? 8),
    questionsPerMoment: optional('questionsPerMoment'),
    maxPackTiles: whole('maxPackTiles', options.maxPackTiles ?? publishedLimits.maxTiles),
    maxLeftOut: options.maxLeftOut ?? 0.01,
    lossReduction,
    maxLength,
    maxPackTokens,
    generalRatio,
    seed,
    pictures,
    aheadBytes,
    augment,
  }
}

interface PassPacks {
  packs: PackedUnit[][]
  pass: Pass
}

/** The packs of a run, in an order that follows from seed and step alone. */
export class TrainingData implements PackSource {
  readonly steps: number
  readonly bounds: PackBounds
  readonly tiles: { all: number; different: number }
  readonly digest: string
  readonly summary: Readonly<Record<string, unknown>>
  /** What was found in each list. */
  readonly surveys: readonly ListSurvey[]
  /** Of the first pass, where everything is trained. */
  readonly operations: OperationCount
  readonly #lists: readonly OpenList[]
  readonly #settings: Settings
  readonly #preparation: Preparation
  readonly #network: NetworkDescription
  /** Packs of the run up to the end of each pass. */
  readonly #ends: number[] = []
  #last: { number: number; packs: PassPacks } | undefined
  #ahead: { step: number; packs: Promise<TrainingPack[]>; stop: AbortController } | undefined
  #closed = false

  /** @internal Made by {@link openTrainingData}. */
  constructor(lists: readonly OpenList[], settings: Settings, preparation: Preparation, network: NetworkDescription) {
    this.#lists = lists
    this.#settings = settings
    this.#preparation = preparation
    this.surveys = lists.map(({ survey }) => survey)
    const first = this.#packsOfPass(0)
    this.#network = network
    this.operations = countOperations(network, first.packs, lists, partsOf({ train: 'all', towerLayers: 0 }, network))
    const wanted = settings.steps === undefined ? undefined : settings.steps * settings.packsPerStep
    const bounds = { rows: 0, tiles: 0 }
    const tiles = { all: 0, different: 0 }
    const seen = new Set<string>()
    for (let pass = 0; wanted === undefined ? pass < settings.passes : (this.#ends.at(-1) ?? 0) < wanted; pass++) {
      const { packs } = this.#packsOfPass(pass)
      for (const units of packs) {
        bounds.rows = Math.max(bounds.rows, total(units, 'tokens'))
        bounds.tiles = Math.max(bounds.tiles, total(units, 'tiles'))
        for (const unit of units) {
          const { list, survey } = lists[unit.list]!
          const pictures = `${unit.list} ${survey.usable.moment[unit.members[0]!]}`
          tiles.all += unit.tiles
          if (list.entry.augment || !seen.has(pictures)) tiles.different += unit.tiles // an augmented picture is another each time
          seen.add(pictures)
        }
      }
      this.#ends.push((this.#ends.at(-1) ?? 0) + packs.length)
    }
    this.bounds = bounds
    this.tiles = tiles
    this.steps = settings.steps ?? Math.ceil(this.#ends.at(-1)! / settings.packsPerStep)
    const { samples, general } = first.pass
    const described = lists.map(({ list, general: isGeneral, survey }) => {
      const { usable: _, ...counts } = survey
      const { annotation, augment, repeat } = list.entry
      return { ...counts, general: isGeneral, file: annotation, sha256: list.sha256, augment, repeat }
    })
    const { aheadBytes: _, pictures: __, ...chosen } = settings
    this.summary = {
      lists: described,
      settings: chosen,
      steps: this.steps,
      pass: { ...samples, generalWanted: general.wanted, packs: first.packs.length, operations: this.operations },
    }
    const made = { lists: described, settings: chosen, template: preparation.template, layout: preparation.layout }
    this.digest = createHash('sha256').update(JSON.stringify(made)).digest('hex')
  }

  /** Of the first pass, by what is trained: what is frozen has no gradient, and nothing behind it a backward. */
  operationsOf(settings: Pick<AdaptSettings, 'train' | 'towerLayers'>): OperationCount {
    return countOperations(this.#network, this.#packsOfPass(0).packs, this.#lists, partsOf(settings, this.#network))
  }

  async packsOfStep(step: number, signal?: AbortSignal): Promise<TrainingPack[]> {
    if (this.#closed) throw new ModelError('DISPOSED', 'The training data are closed.')
    if (!Number.isSafeInteger(step) || step < 0 || step >= this.steps)
      throw new ModelError('BAD_ARGUMENT', `step: expected a whole number below ${this.steps}, found ${step}.`)
    for (const { list } of this.#lists) await list.expectUnchanged()
    const ahead = this.#ahead
    this.#ahead = undefined
    let packs: TrainingPack[]
    if (ahead?.step === step) {
      const stop = (): void => ahead.stop.abort()
      signal?.addEventListener('abort', stop, { once: true })
      if (signal?.aborted) stop()
      packs = await ahead.packs.finally(() => signal?.removeEventListener('abort', stop))
    } else {
      ahead?.stop.abort()
      await ahead?.packs.catch(() => undefined)
      packs = await this.#write(step, signal)
    }
    this.#lookAhead(step + 1)
    return packs
  }

  /** Ends what is decoded ahead, and closes the files. */
  async close(): Promise<void> {
    this.#closed = true
    this.#ahead?.stop.abort()
    await this.#ahead?.packs.catch(() => undefined)
    await closeLists(this.#lists.map(({ list }) => list))
  }

  #lookAhead(step: number): void {
    if (step >= this.steps || this.#closed) return
    const { tileSize } = this.#preparation.tiling
    const tiles = this.#unitsOfStep(step).reduce((sum, { units }) => sum + total(units, 'tiles'), 0)
    if (tiles * tileSize ** 2 * 3 > this.#settings.aheadBytes) return
    const stop = new AbortController()
    const packs = this.#write(step, stop.signal)
    packs.catch(() => undefined) // told where the step asks for it
    this.#ahead = { step, packs, stop }
  }

  async #write(step: number, signal?: AbortSignal): Promise<TrainingPack[]> {
    const writing: PackWriting = {
      lists: this.#lists.map(({ list, survey }) => ({ list, usable: survey.usable })),
      // Looked at anew in each step, so that what has changed is noticed.
      preparation: { ...this.#preparation, pictures: new PictureChecks('headers') },
      addon: loadAddon(),
      reduction: this.#settings.lossReduction,
      seed: this.#settings.seed,
      signal,
    }
    const packs = await writePacks(this.#unitsOfStep(step), writing)
    normaliseWeights(packs.map(({ targets }) => targets))
    return packs
  }

  #unitsOfStep(step: number): { units: PackedUnit[]; pass: number }[] {
    const { packsPerStep } = this.#settings
    const first = step * packsPerStep
    const end = this.#settings.steps === undefined ? this.#ends.at(-1)! : Number.POSITIVE_INFINITY
    const out: { units: PackedUnit[]; pass: number }[] = []
    for (let number = first; number < Math.min(end, first + packsPerStep); number++) {
      const pass = this.#ends.findIndex((passEnd) => number < passEnd)
      const units = this.#packsOfPass(pass).packs[number - (this.#ends[pass - 1] ?? 0)]!
      out.push({ units, pass })
    }
    return out
  }

  #packsOfPass(number: number): PassPacks {
    if (this.#last?.number !== number) this.#last = { number, packs: this.#makePass(number) }
    return this.#last.packs
  }

  #makePass(number: number): PassPacks {
    const { seed, generalRatio, maxPackTokens, maxPackTiles } = this.#settings
    const ordered = this.#lists.map(({ units, general }) => ({
      length: units.length,
      samplesOf: (unit: number) => units.samplesOf(unit),
      general,
    }))
    const pass = new Pass(ordered, { seed, pass: number, generalRatio })
    const packer = new Packer<PackedUnit>({ maxTokens: maxPackTokens, maxTiles: maxPackTiles })
    const packs: PackedUnit[][] = []
    for (let i = 0; i < pass.length; i++) {
      const { list, index, samples } = pass.at(i)
      const { units } = this.#lists[list]!
      const members = units.members(index, { seed, pass: number, list }).slice(0, samples)
      packs.push(...packer.add({ list, members, ...units.sizeOf(members) }))
    }
    packs.push(...packer.finish())
    return { packs, pass }
  }
}

function total(units: readonly PackedUnit[], key: 'tokens' | 'tiles'): number {
  return units.reduce((sum, unit) => sum + unit[key], 0)
}

function countOperations(
  network: NetworkDescription,
  packs: readonly PackedUnit[][],
  lists: readonly OpenList[],
  parts: NativeTrainedParts,
): OperationCount {
  const count = { samples: 0, shared: 0, separate: 0 }
  for (const { list, members, tiles } of packs.flat()) {
    const { tokens, learned, head } = lists[list]!.survey.usable
    const shared = members.length > 1 ? head[members[0]!]! : 0
    const samples = members.map((member) => ({ rows: tokens[member]! - shared, learned: learned[member]! }))
    const operations = unitOperations(network, { tiles, head: shared, samples }, parts)
    count.samples += members.length
    count.shared += operations.shared
    count.separate += operations.separate
  }
  return count
}

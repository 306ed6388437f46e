/**
 * What a drawn world is like, as data: a domain says what there is, how it looks, where it drives and how questions about it are worded. A
 * domain file is JSON that says what differs from one of {@link domainNames}; see docs/street.md.
 */
import { readFile } from 'node:fs/promises'
import { ModelError } from '../errors.ts'
import { dayCity } from './domains/day-city.ts'
import { nightLeft } from './domains/night-left.ts'
import { snow } from './domains/snow.ts'

/** Red, green, blue, 0 to 255. */
export type Rgb = readonly [number, number, number]

/** How a kind of object is drawn, and what can be asked of it. */
export const shapes = ['car', 'truck', 'bus', 'tram', 'pedestrian', 'cyclist', 'cone'] as const
/** Name of a shape that objects are drawn in. */
export type Shape = (typeof shapes)[number]

/** A kind of object: how it is named, how it is drawn, how often it comes. */
export interface ObjectKind {
  /** One of them, as questions and answers name it. */
  name: string
  /** Several of them, likewise. */
  plural: string
  /** What it is drawn as. */
  shape: Shape
  /** Its weight among the kinds of single objects, 0 to 1000. */
  share: number
  /** Its weight among the kinds that a view repeats, 0 to 1000. */
  repeated: number
}

/** A kind of weather: what is said of it, and what it does to colours. */
export interface Weather {
  /** What questions and answers call it. */
  name: string
  /** The answer to how the weather is. */
  sentence: string
  /** Its weight among the kinds of weather, 0 to 1000. */
  share: number
  /** What colours are multiplied with. */
  tint: Rgb
  /** From the top to the horizon. */
  sky: readonly [Rgb, Rgb, Rgb]
  /** What the road's grey is multiplied with. */
  wet: number
  /** Colour of the windows of buildings. */
  windows: Rgb
  /** Streaks of rain, or flakes of snow, over the finished picture. */
  falling?: 'rain' | 'snow'
  /** Lamps and headlights shine, whatever the tint. */
  lamps?: boolean
  /** Tops of things are white. */
  covered?: boolean
}

/** A camera of a domain: its name and where it looks. */
export interface View {
  /** Such as `CAM_FRONT`. */
  name: string
  /** `to the <direction> of the ego car`. */
  direction: string
  /** Degrees to the left of straight ahead. */
  yaw: number
}

/** What the ego car should do, by what is in its way. */
export const plans = ['red', 'pedestrian', 'yellow', 'lead', 'cones', 'go'] as const
/** Name of a reason for what the vehicle does next. */
export type Plan = (typeof plans)[number]

/** Texts of questions; words in braces are filled in. See {@link Wording}. */
export const questionTypes = [
  'objects',
  'exist',
  'count',
  'colour',
  'light',
  'weather',
  'camera',
  'cross',
  'toward',
  'plan',
  'planmc',
  'colourmc',
  'locate',
  'region',
] as const
/** Name of a type of question. */
export type QuestionType = (typeof questionTypes)[number]

/**
 * Forms of each type of question. `{thing}` and `{things}` are an object's name, `{where}` is `in CAM_FRONT` or `to the front of the ego car`,
 * `{box}` a box, `{options}` lettered choices.
 */
export interface Wording {
  /** By type; one of the forms is drawn. */
  questions: Readonly<Record<QuestionType, readonly string[]>>
  /** Answers of the light: none, red, yellow, green. */
  light: readonly [string, string, string, string]
  /** The answer that something is so. */
  yes: string
  /** The answer that it is not. */
  no: string
  /** What the ego car should do, as a whole sentence. */
  actions: Readonly<Record<Plan, string>>
  /** The same in short, for lettered choices. */
  short: Readonly<Record<Plan, string>>
}

/** A world to draw moments of: weather, objects, cameras and the words of questions, as data. */
export interface Domain {
  /** What tells it apart. */
  name: string
  /** One of these is drawn for each moment. */
  weather: readonly Weather[]
  /** The side of the road that is driven on. */
  traffic: 'right' | 'left'
  /** Kinds of objects there are. */
  objects: readonly ObjectKind[]
  /** How often a view is given none, one, two… objects, up to six. */
  objectsPerView: readonly number[]
  /** Colours of vehicles, by name. */
  colours: Readonly<Record<string, Rgb>>
  /** Clothes of pedestrians and cyclists. */
  clothes: readonly Rgb[]
  /** Six views, front row before back row. */
  views: readonly View[]
  /** Field of view across a picture, in degrees. */
  fieldOfView: number
  /** Colours of the ground beside the road, of which one is drawn. */
  verges: readonly Rgb[]
  /** Grey of the road: least and most. */
  road: readonly [number, number]
  /** The words of questions and answers. */
  wording: Wording
}

const shipped: Readonly<Record<string, Domain>> = { 'day-city': dayCity, 'night-left': nightLeft, snow }

/** Domains that come with the package. */
export const domainNames: readonly string[] = Object.keys(shipped)

const maxDomainBytes = 1 << 20

/**
 * A domain by name, or of a JSON file: `{"name": …, "from": "day-city", …}` with what differs. Lists are replaced whole, objects key by key.
 *
 * @throws {@link ModelError} `BAD_DATA` that names the file and the key; `BAD_ARGUMENT` for a name that is neither.
 */
export async function loadDomain(nameOrFile: string): Promise<Domain> {
  const known = Object.hasOwn(shipped, nameOrFile) ? shipped[nameOrFile] : undefined
  if (known !== undefined) return known
  if (!nameOrFile.endsWith('.json')) {
    throw new ModelError(
      'BAD_ARGUMENT',
      `Expected a domain (${domainNames.join(', ')}) or a .json file of one, received ${JSON.stringify(nameOrFile)}.`,
    )
  }
  let json: unknown
  try {
    const bytes = await readFile(nameOrFile)
    if (bytes.length > maxDomainBytes) throw new Error(`${bytes.length} bytes are no domain`)
    json = JSON.parse(bytes.toString('utf8').replace(/^\ufeff/, ''))
  } catch (error) {
    throw new ModelError('BAD_DATA', `${nameOrFile}: cannot be read as a domain: ${(error as Error).message}.`, {
      cause: error,
    })
  }
  return domainOf(json, nameOrFile)
}

type Json = Record<string, unknown>

function isObject(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** A domain of parsed JSON. `file` is for messages. */
export function domainOf(json: unknown, file: string): Domain {
  if (!isObject(json)) throw new ModelError('BAD_DATA', `${file}: expected an object.`)
  const { from = 'day-city', ...changes } = json
  const base = typeof from === 'string' && Object.hasOwn(shipped, from) ? shipped[from] : undefined
  if (base === undefined) {
    throw new ModelError(
      'BAD_DATA',
      `${file}: expected from to be one of ${domainNames.join(', ')}, found ${JSON.stringify(from)}.`,
    )
  }
  const merged = merge(base as unknown as Json, changes, '', file)
  // Colours are replaced whole: a domain without red is one.
  if (isObject(changes.colours)) merged.colours = changes.colours
  check(merged, file)
  return merged as unknown as Domain
}

function merge(into: Json, changes: Json, prefix: string, file: string): Json {
  const out: Json = { ...into }
  for (const [key, value] of Object.entries(changes)) {
    if (!Object.hasOwn(into, key) && prefix !== 'colours.') {
      throw new ModelError(
        'BAD_DATA',
        `${file}: ${prefix}${key} is no key of a domain; known are ${Object.keys(into).join(', ')}.`,
      )
    }
    const old = into[key]
    out[key] = isObject(old) && isObject(value) ? merge(old, value, `${prefix}${key}.`, file) : value
  }
  return out
}

function check(domain: Json, file: string): void {
  const expect = (ok: boolean, key: string, expected: string): void => {
    if (!ok) throw new ModelError('BAD_DATA', `${file}: expected ${key} to be ${expected}.`)
  }
  const list = (value: unknown, least: number, most: number): value is unknown[] =>
    Array.isArray(value) && value.length >= least && value.length <= most
  const text = (value: unknown): boolean => typeof value === 'string' && value !== '' && value.length <= 500
  const number = (value: unknown, low: number, high: number): boolean =>
    typeof value === 'number' && value >= low && value <= high
  const rgb = (value: unknown): boolean => list(value, 3, 3) && value.every((part) => number(part, 0, 255))

  expect(text(domain.name), 'name', 'a text')
  expect(domain.traffic === 'right' || domain.traffic === 'left', 'traffic', '"right" or "left"')
  expect(number(domain.fieldOfView, 30, 110), 'fieldOfView', 'degrees from 30 to 110')
  expect(isObject(domain.colours), 'colours', 'an object of names and [red, green, blue]')
  const colours = Object.entries(domain.colours as Json)
  expect(
    colours.length >= 4 && colours.length <= 32 && colours.every(([name, value]) => text(name) && rgb(value)),
    'colours',
    'four to 32 names, each with [red, green, blue] of 0 to 255',
  )
  expect(list(domain.clothes, 1, 32) && domain.clothes.every(rgb), 'clothes', 'a list of [red, green, blue]')
  expect(list(domain.verges, 1, 32) && domain.verges.every(rgb), 'verges', 'a list of [red, green, blue]')
  expect(
    list(domain.road, 2, 2) && domain.road.every((part) => number(part, 0, 255)),
    'road',
    'the least and the most grey, 0 to 255',
  )
  expect(list(domain.views, 6, 6), 'views', 'a list of six')
  for (const [i, view] of (domain.views as unknown[]).entries()) {
    expect(
      isObject(view) && text(view.name) && text(view.direction) && number(view.yaw, -180, 180),
      `views[${i}]`,
      '{name, direction, yaw from -180 to 180}',
    )
  }
  expect(list(domain.objects, 2, 16), 'objects', 'a list of two to 16 kinds')
  expect(
    list(domain.objectsPerView, 1, 7) &&
      domain.objectsPerView.every((share) => number(share, 0, 1000)) &&
      domain.objectsPerView.some((share) => share !== 0),
    'objectsPerView',
    'shares of none, one, two… objects, up to six, one of them above 0',
  )
  for (const [i, kind] of (domain.objects as unknown[]).entries()) {
    const fits =
      isObject(kind) &&
      text(kind.name) &&
      text(kind.plural) &&
      number(kind.share, 0, 1000) &&
      number(kind.repeated, 0, 1000)
    expect(
      fits && shapes.includes((kind as Json).shape as Shape),
      `objects[${i}]`,
      `{name, plural, shape, share, repeated}, shape one of ${shapes.join(', ')}`,
    )
  }
  for (const shape of ['car', 'pedestrian', 'cone'] as const) {
    expect(
      (domain.objects as Json[]).some((kind) => kind.shape === shape),
      'objects',
      `a list with a kind of shape ${shape}: plans need it`,
    )
  }
  expect(list(domain.weather, 1, 16), 'weather', 'a list of one to 16')
  for (const [i, weather] of (domain.weather as unknown[]).entries()) {
    const fits =
      isObject(weather) &&
      text(weather.name) &&
      text(weather.sentence) &&
      number(weather.share, 0, 1000) &&
      list(weather.tint, 3, 3) &&
      weather.tint.every((part) => number(part, 0, 2)) &&
      list(weather.sky, 3, 3) &&
      weather.sky.every(rgb) &&
      number(weather.wet, 0, 3) &&
      rgb(weather.windows) &&
      [undefined, 'rain', 'snow'].includes(weather.falling as string | undefined)
    expect(
      fits,
      `weather[${i}]`,
      '{name, sentence, share, tint, sky, wet, windows}, with "falling": "rain" or "snow" where there is any',
    )
  }
  const wording = domain.wording as Json
  const questions = wording.questions as Json
  for (const type of questionTypes) {
    expect(
      list(questions[type], 1, 16) && (questions[type] as unknown[]).every(text),
      `wording.questions.${type}`,
      'a list of one to 16 texts',
    )
  }
  expect(
    list(wording.light, 4, 4) && wording.light.every(text),
    'wording.light',
    'four texts: none, red, yellow, green',
  )
  for (const plan of plans) {
    expect(
      text((wording.actions as Json)[plan]) && text((wording.short as Json)[plan]),
      `wording.actions.${plan} and wording.short.${plan}`,
      'texts',
    )
  }
  expect(text(wording.yes) && text(wording.no), 'wording.yes and wording.no', 'texts')
}

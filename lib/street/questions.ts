/** Questions about a world whose answers are known. Answers are drawn first, so that within a type each is about as frequent. */
import { type Domain, type Plan, plans, type QuestionType, questionTypes } from './domain.ts'
import type { Box } from './geometry.ts'
import type { Sighting, StreetView } from './picture.ts'
import { StreetRandom } from './random.ts'
import { isVehicle, type World, type WorldObject, walksAcross } from './world.ts'

/** A question about a drawn moment, with its true answer. */
export interface StreetQuestion {
  /** What kind of question it is. */
  type: QuestionType
  /** In the words of the domain. */
  question: string
  /** True of the moment. */
  answer: string
  /** The view it is about; the front one for questions about everything. */
  view: number
  /** Of `locate`: thousandths of the six views stitched, front row above back row. */
  box?: [number, number, number, number]
}

/** An object that can be asked about, in one view. */
export interface Seen extends Sighting {
  /** The object. */
  thing: WorldObject
}

/** What is certain of one view. */
export interface ViewFacts {
  /** Number of the domain's view. */
  view: number
  /** Objects that are clear in it. */
  seen: Seen[]
  /** Kinds of which something is there that is not clear: nothing is asked about them. */
  unclear: Set<number>
  /** [kinds]: clear objects of each. */
  counts: number[]
}

const numbers = [
  'zero',
  'one',
  'two',
  'three',
  'four',
  'five',
  'six',
  'seven',
  'eight',
  'nine',
  'ten',
  'eleven',
  'twelve',
]
const letters = 'ABCD'
const backView = 4
const frontView = 1

/** How often a type is asked. */
const weights: Readonly<Record<QuestionType, number>> = {
  objects: 1.5,
  exist: 1.5,
  count: 2,
  colour: 0.7,
  light: 0.3,
  weather: 0.15,
  camera: 1.6,
  cross: 1,
  toward: 1.2,
  plan: 0.4,
  planmc: 1.5,
  colourmc: 1.5,
  locate: 2.6,
  region: 1.2,
}

export function factsOf(world: World, views: readonly StreetView[]): ViewFacts[] {
  return views.map(({ sightings }, view) => {
    const seen: Seen[] = []
    const unclear = new Set<number>()
    for (const sighting of sightings) {
      if (sighting.object < 0 || sighting.faint) continue
      const thing = world.objects[sighting.object]!
      if (sighting.clear) seen.push({ ...sighting, thing })
      else unclear.add(thing.kind)
    }
    const counts = world.domain.objects.map((_, kind) => seen.filter(({ thing }) => thing.kind === kind).length)
    return { view, seen, unclear, counts }
  })
}

/** A box of one view in thousandths of the stitched six. */
export function stitchedBox(view: number, box: Box): [number, number, number, number] {
  const column = view % 3
  const row = view < 3 ? 0 : 1
  const thousandth = (value: number): number => Math.round(value * 1000)
  return [
    thousandth((column + box[0]) / 3),
    thousandth((row + box[1]) / 2),
    thousandth((column + box[2]) / 3),
    thousandth((row + box[3]) / 2),
  ]
}

/** Up to `count` questions about a world, each once. `shares`: how often a type is asked, where it is not as usual. */
export function questionsOf(
  world: World,
  facts: readonly ViewFacts[],
  count: number,
  types: readonly QuestionType[] = questionTypes,
  shares: Readonly<Partial<Record<QuestionType, number>>> = {},
): StreetQuestion[] {
  const random = new StreetRandom(Math.imul(world.seed, 40503) + 911)
  const asker = new Asker(world, facts, random)
  const typeWeights = types.map((type) => shares[type] ?? weights[type])
  const out: StreetQuestion[] = []
  const asked = new Set<string>()
  for (let t = 0; t < count * 6 && out.length < count; t++) {
    const question = asker.ask(types[random.weighted(typeWeights)]!)
    if (!question || asked.has(question.question)) continue
    asked.add(question.question)
    out.push(question)
  }
  return out
}

/** What each camera sees, in one text: for training. Undefined where something is not clear. */
export function captionOf(world: World, facts: readonly ViewFacts[]): string | undefined {
  if (facts.some(({ unclear }) => unclear.size > 0)) return undefined
  const { views } = world.domain
  return facts
    .map((fact) => `${views[fact.view]!.name}: ${listOf(world.domain, fact).join(', ') || 'no objects'}.`)
    .join(' ')
}

/** Practice in naming an option: text without pictures, for training. */
export function letterPractice(domain: Domain, seed: number): { question: string; answer: string } {
  const r = new StreetRandom(seed + 31337)
  const texts =
    r.next() < 0.5
      ? Object.keys(domain.colours).map((name) => `${capital(name)}.`)
      : plans.map((plan) => domain.wording.short[plan])
  const options = r.shuffle([...texts]).slice(0, 4)
  const right = r.below(4)
  return { question: `Which option says: ${options[right]} ${lettered(options)}`, answer: letters[right]! }
}

function capital(text: string): string {
  return text[0]!.toUpperCase() + text.slice(1)
}

function lettered(options: readonly string[]): string {
  return options.map((text, i) => `${letters[i]}. ${text}`).join(' ')
}

function listOf(domain: Domain, { counts }: ViewFacts): string[] {
  return domain.objects.flatMap(({ name, plural }, kind) => {
    const count = counts[kind]!
    return count === 0 ? [] : [`${numbers[count] ?? count} ${count > 1 ? plural : name}`]
  })
}

type Key = string | number

interface Candidate {
  view?: number
  kind?: number
  seen?: Seen
}

class Asker {
  readonly #world: World
  readonly #domain: Domain
  readonly #facts: readonly ViewFacts[]
  readonly #random: StreetRandom
  /** What can be asked, by type and then by answer. */
  readonly #candidates = new Map<QuestionType, Map<Key, Candidate[]>>()

  constructor(world: World, facts: readonly ViewFacts[], random: StreetRandom) {
    this.#world = world
    this.#domain = world.domain
    this.#facts = facts
    this.#random = random
    this.#collect()
  }

  #put(type: QuestionType, key: Key, candidate: Candidate): void {
    let keys = this.#candidates.get(type)
    if (!keys) {
      keys = new Map()
      this.#candidates.set(type, keys)
    }
    const list = keys.get(key)
    if (list) list.push(candidate)
    else keys.set(key, [candidate])
  }

  #collect(): void {
    const { objects } = this.#domain
    for (const { view, seen, unclear, counts } of this.#facts) {
      if (unclear.size === 0) {
        const kinds = new Set(seen.map(({ thing }) => thing.kind)).size
        this.#put('objects', Math.min(2, kinds) + (seen.length > 0 ? '+' : ''), { view })
      }
      for (const kind of objects.keys()) {
        if (unclear.has(kind)) continue
        this.#put('exist', counts[kind]! > 0 ? 'y' : 'n', { view, kind })
        this.#put('count', counts[kind]!, { view, kind })
        if (counts[kind] !== 1) continue
        const only = seen.find(({ thing }) => thing.kind === kind)!
        if (isVehicle(only.thing.shape)) {
          this.#put('colour', only.thing.colour, { view, kind, seen: only })
          this.#put('colourmc', only.thing.colour, { view, kind, seen: only })
          if (view === frontView || view === backView) {
            const towards = Math.cos(only.thing.heading) * (view === frontView ? 1 : -1) < 0
            this.#put('toward', towards ? 'y' : 'n', { view, kind, seen: only })
          }
        }
        this.#put('locate', kind, { view, kind, seen: only })
      }
      const walkers = seen.filter(({ thing }) => thing.shape === 'pedestrian')
      if (view < 3 && walkers.length === 1 && !unclear.has(walkers[0]!.thing.kind)) {
        this.#put('cross', crosses(view, walkers[0]!.thing) ? 'y' : 'n', { view, seen: walkers[0]! })
      }
      for (const one of seen) this.#put('region', one.thing.kind, { view, seen: one })
    }
    this.#put('light', this.#world.light, {})
    this.#put('weather', this.#world.weather, {})
    for (const kind of objects.keys()) {
      const views = this.#facts.filter(({ counts, unclear }) => counts[kind]! > 0 || unclear.has(kind))
      if (views.length === 1 && views[0]!.counts[kind]! > 0)
        this.#put('camera', views[0]!.view, { view: views[0]!.view, kind })
    }
    if (this.#facts[frontView]!.unclear.size === 0) {
      this.#put('plan', this.#world.plan, {})
      this.#put('planmc', this.#world.plan, {})
    }
  }

  /** A question of a type; undefined where there is none, or chance leaves it out to keep answers balanced. */
  ask(type: QuestionType): StreetQuestion | undefined {
    const r = this.#random
    const byKey = this.#candidates.get(type)
    if (!byKey) return undefined
    const keys = [...byKey.keys()]
    const { light } = this.#world
    let key: Key
    if (type === 'count')
      key = keys[r.weighted(keys.map((count) => [1, 1, 1.6, 3, 3, 3][Math.min(5, count as number)]!))]!
    else if (type === 'light' && (light === 0 || light === 3) && r.next() < 0.4) return undefined
    else key = r.pick(keys)
    if (type === 'toward' && keys.length === 1 && key === 'n' && r.next() < 0.5) return undefined
    const candidate = r.pick(byKey.get(key)!)
    if (type === 'cross' && key === 'n' && r.next() < (candidate.view === frontView ? 0.1 : 0.8)) return undefined
    const view = candidate.view ?? frontView
    const [question, answer] = this.#word(type, key, candidate, view)
    const box = type === 'locate' ? { box: stitchedBox(view, candidate.seen!.box) } : {}
    return { type, question, answer, view, ...box }
  }

  /** One of the forms of a type; a single form takes no random number. */
  #form(type: QuestionType): string {
    const forms = this.#domain.wording.questions[type]
    return forms.length === 1 ? forms[0]! : this.#random.pick(forms)
  }

  #where(view: number): string {
    const { name, direction } = this.#domain.views[view]!
    return this.#random.next() < 0.5 ? `in ${name}` : `to the ${direction} of the ego car`
  }

  #word(type: QuestionType, key: Key, { kind, seen }: Candidate, view: number): [string, string] {
    const r = this.#random
    const { wording, colours, objects, views } = this.#domain
    const yesNo = key === 'y' ? wording.yes : wording.no
    const named = (form: string, where = ''): string => fill(form, { where, ...namesOf(objects[kind!]!) })
    switch (type) {
      case 'objects': {
        const forms = wording.questions.objects
        const byName = r.next() < 0.35
        const { name, direction } = views[view]!
        const where = byName ? `in ${name}` : `to the ${direction} of the ego car`
        return [fill(byName ? forms.at(-1)! : forms[0]!, { where }), this.#listAnswer(view, where)]
      }
      case 'exist': {
        const form = this.#form(type)
        return [named(form, this.#where(view)), yesNo]
      }
      case 'count': {
        const { name, direction } = views[view]!
        const where = r.next() < 0.5 ? `in ${name}` : `there to the ${direction} of the ego car`
        return [named(this.#form(type), where), `${capital(numbers[key as number] ?? String(key))}.`]
      }
      case 'colour': {
        const form = this.#form(type)
        return [named(form, this.#where(view)), `${capital(Object.keys(colours)[key as number]!)}.`]
      }
      case 'light':
        return [this.#form(type), wording.light[key as number]!]
      case 'weather':
        return [this.#form(type), this.#domain.weather[key as number]!.sentence]
      case 'camera':
        return [named(this.#form(type)), `${views[view]!.name}.`]
      case 'cross':
      case 'toward': {
        const form = this.#form(type)
        const where = this.#where(view)
        return [type === 'toward' ? named(form, where) : fill(form, { where }), yesNo]
      }
      case 'plan':
        return [this.#form(type), wording.actions[key as Plan]]
      case 'planmc': {
        const others = r.shuffle(plans.filter((plan) => plan !== key)).slice(0, 3)
        const options = r.shuffle([key as Plan, ...others])
        const text = fill(this.#form(type), { options: lettered(options.map((plan) => wording.short[plan])) })
        return [text, letters[options.indexOf(key as Plan)]!]
      }
      case 'colourmc': {
        const names = Object.keys(colours)
        const others = r.shuffle([...names.keys()].filter((i) => i !== key)).slice(0, 3)
        const options = r.shuffle([key as number, ...others])
        const where = this.#where(view)
        const listed = lettered(options.map((i) => `${capital(names[i]!)}.`))
        const text = fill(this.#form(type), { where, options: listed, ...namesOf(objects[kind!]!) })
        return [text, letters[options.indexOf(key as number)]!]
      }
      case 'locate': {
        const form = this.#form(type)
        const where = this.#where(view)
        return [named(form, where), `<ref>${objects[kind!]!.name}</ref><box>${boxText(view, seen!.box)}</box>`]
      }
      case 'region': {
        const { thing, box } = seen!
        const colour = thing.colour < 0 ? '' : `${Object.keys(colours)[thing.colour]} `
        return [fill(this.#form(type), { box: boxText(view, box) }), `A ${colour}${objects[thing.kind]!.name}.`]
      }
    }
  }

  #listAnswer(view: number, where: string): string {
    const parts = listOf(this.#domain, this.#facts[view]!)
    if (parts.length === 0) return `There are no objects ${where}.`
    const list = parts.length > 1 ? `${parts.slice(0, -1).join(', ')} and ${parts.at(-1)}` : parts[0]!
    return `There ${list.startsWith('one') ? 'is' : 'are'} ${list} ${where}.`
  }
}

function namesOf({ name, plural }: { name: string; plural: string }): { thing: string; things: string } {
  return { thing: name, things: plural }
}

function boxText(view: number, box: Box): string {
  return `[[${stitchedBox(view, box).join(',')}]]`
}

function fill(form: string, values: Readonly<Record<string, string>>): string {
  return form.replace(/\{(\w+)\}/g, (whole, key: string) => values[key] ?? whole)
}

/** Somebody walking ahead whose way leads over the ego car's lane. */
function crosses(view: number, { pose, y }: WorldObject): boolean {
  if (pose === 0) return false
  return walksAcross(view, y, pose) || (view === frontView && Math.abs(y) < 1.7)
}

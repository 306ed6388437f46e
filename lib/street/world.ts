/**
 * Worlds by seed: what is where, and what the ego car should do about it. Objects are placed so that each is clearly in or clearly out of
 * each view; nothing is asked of what is ambiguous.
 */
import { type Domain, type ObjectKind, type Plan, plans, type Rgb, type Shape } from './domain.ts'
import { areaOf, type Box, type Camera, camerasOf, shareInside } from './geometry.ts'
import { StreetRandom } from './random.ts'

/** Length, width and height in metres. */
export const dimensions: Readonly<Record<Shape, readonly [number, number, number]>> = {
  car: [4.4, 1.9, 1.5],
  truck: [6.6, 2.4, 3.2],
  bus: [9, 2.5, 3.1],
  tram: [11, 2.5, 3.4],
  pedestrian: [0.9, 0.9, 1.8],
  cyclist: [1.8, 0.8, 1.8],
  cone: [0.7, 0.7, 1.0],
}

export function isVehicle(shape: Shape): boolean {
  return shape === 'car' || shape === 'truck' || shape === 'bus' || shape === 'tram'
}

/** An object of a moment: what it is, and where it stands, in metres. */
export interface WorldObject {
  /** Number in the domain's list of kinds. */
  kind: number
  /** As its kind's. */
  shape: Shape
  /** Metres ahead of the ego car; its middle. */
  x: number
  /** Metres to the left of the ego car; its middle. */
  y: number
  /** Where it points: radians to the left of straight ahead. */
  heading: number
  /** Number in the domain's colours; −1 for what is no vehicle. */
  colour: number
  /** Number in the domain's clothes; used for people alone. */
  clothes: number
  /** 0 stands, 1 walks to the left of the picture, 2 to the right. */
  pose: 0 | 1 | 2
  /** In every view, not cut by the picture; undefined where it is not wholly in front. */
  boxes: (Box | undefined)[]
}

/** What stands beside the road and is not asked about. */
export type Clutter =
  | { kind: 'building'; x: number; y: number; length: number; height: number; colour: Rgb }
  | { kind: 'tree'; x: number; y: number; height: number; colour: Rgb }
  | { kind: 'lamp'; x: number; y: number }

/** None, red, yellow, green. */
export type Light = 0 | 1 | 2 | 3

/** Everything that is true of a drawn moment; pictures and answers follow from it. */
export interface World {
  /** The seed it was made from. */
  seed: number
  /** The domain it was made for. */
  domain: Domain
  /** As the domain's views. */
  cameras: readonly Camera[]
  /** Number in the domain's weather. */
  weather: number
  /** What the ego car should do. */
  plan: Plan
  /** The traffic light. */
  light: Light
  /** Metres from the ego car ahead to the traffic light. */
  lightX: number
  /** Metres from the ego car to the left to it. */
  lightY: number
  /** Metres to the crosswalk; 0: there is none. */
  crosswalk: number
  /** Everything that can be asked about. */
  objects: WorldObject[]
  /** Everything else that is drawn. */
  clutter: Clutter[]
  /** What all colours are multiplied with, 0.9 to 1.08. */
  tone: number
  /** Grey of the road, 0 to 255. */
  road: number
  /** Colour of the ground beside the road. */
  verge: Rgb
  /** Levels of noise in pictures. */
  noise: number
  /** Colour of the ego car where a camera sees it. */
  egoColour: Rgb
}

const right = Math.PI / 2
const laneCentres = [3.6, 3.6, -3.6, 7.2, -7.2]
const headings = [0, Math.PI, 0, Math.PI, right, -right]
const buildings: readonly Rgb[] = [
  [150, 120, 100],
  [170, 165, 155],
  [120, 125, 135],
  [185, 160, 120],
  [135, 100, 90],
]
const trees: readonly Rgb[] = [
  [60, 105, 50],
  [80, 120, 55],
  [50, 90, 60],
]
const egoColours: readonly Rgb[] = [
  [60, 62, 70],
  [150, 152, 158],
  [95, 40, 42],
  [40, 55, 95],
]

/** Views by place: front left, front, front right, back left, back, back right. */
const frontView = 1
const backView = 4

/** The world of a seed. Seeds are whole numbers; the same seed and domain give the same world. */
export function makeWorld(seed: number, domain: Domain): World {
  return new Builder(seed, domain).build()
}

class Builder {
  readonly #seed: number
  readonly #domain: Domain
  readonly #random: StreetRandom
  readonly #cameras: readonly Camera[]
  readonly #objects: WorldObject[] = []
  #hazards = 0

  constructor(seed: number, domain: Domain) {
    this.#seed = seed
    this.#domain = domain
    this.#random = new StreetRandom(Math.imul(seed + 1, 2654435761))
    this.#cameras = camerasOf(domain)
  }

  build(): World {
    const r = this.#random
    const domain = this.#domain
    const weather = r.weighted(domain.weather.map(({ share }) => share))
    const drawn = plans[r.below(plans.length)]!
    const light: Light = drawn === 'red' ? 1 : drawn === 'yellow' ? 2 : r.next() < 0.5 ? 3 : 0
    const crosswalk = light !== 0 || drawn === 'pedestrian' ? r.between(9, 13) : r.next() < 0.4 ? r.between(9, 15) : 0
    const lightX = crosswalk ? crosswalk + 3.2 : 14
    const lightY = r.next() < 0.5 ? -4.4 : 4.4
    // Nothing may stand where the traffic light does; the guard is no object of the world.
    const guard = light ? this.#object(this.#kindOf('pedestrian'), lightX, lightY, 0) : undefined
    if (guard) this.#objects.push(guard)
    this.#placeHazards(drawn, crosswalk)
    const plan = needsHazard(drawn) && this.#hazards === 0 ? 'go' : drawn
    const mayCross = plan === 'red' || plan === 'pedestrian'
    for (const view of r.shuffle([0, 1, 2, 3, 4, 5])) this.#fillView(view, mayCross)
    const clutter = this.#clutter()
    const world = {
      seed: this.#seed,
      domain,
      cameras: this.#cameras,
      weather,
      plan,
      light,
      lightX,
      lightY,
      crosswalk,
      objects: this.#objects.filter((object) => object !== guard),
      clutter,
      tone: r.between(0.9, 1.08),
      road: r.between(...domain.road),
      verge: r.pick(domain.verges),
      noise: r.between(2, 6),
      egoColour: r.pick(egoColours),
    }
    if (domain.weather[weather]!.lamps) this.#addLamps(clutter)
    return world
  }

  #kindOf(shape: Shape): number {
    return this.#domain.objects.findIndex((kind) => kind.shape === shape)
  }

  #object(kind: number, x: number, y: number, heading: number): WorldObject {
    const { shape } = this.#domain.objects[kind]!
    const [length, width, height] = dimensions[shape]
    const boxes = this.#cameras.map((camera) => camera.boxOf({ x, y, heading, length, width, height }))
    return { kind, shape, x, y, heading, colour: -1, clothes: 0, pose: 0, boxes }
  }

  /** Adds an object if it fits. */
  #add(kind: number, x: number, y: number, heading: number, pose: 0 | 1 | 2 = 0): boolean {
    const r = this.#random
    const colour = isVehicle(this.#domain.objects[kind]!.shape) ? r.below(Object.keys(this.#domain.colours).length) : -1
    const clothes = r.below(this.#domain.clothes.length)
    const object = { ...this.#object(kind, x, y, heading), colour, clothes, pose }
    if (!this.#fits(object)) return false
    this.#objects.push(object)
    return true
  }

  /** Clearly in or clearly out of every view, and little over the others. */
  #fits(object: WorldObject): boolean {
    let seen = 0
    for (const [view, camera] of this.#cameras.entries()) {
      const box = object.boxes[view]
      if (!box) {
        const depth = camera.depth(object.x, object.y)
        if (depth > 0.5 && Math.abs(camera.left(object.x, object.y) / depth) < camera.tanX * 1.3) return false
        continue
      }
      const inside = shareInside(box)
      if (inside > 0.015 && inside < 0.72) return false
      if (inside <= 0.015) continue
      seen++
      for (const other of this.#objects) {
        const theirs = other.boxes[view]
        if (!theirs) continue
        const both: Box = [
          Math.max(box[0], theirs[0]),
          Math.max(box[1], theirs[1]),
          Math.min(box[2], theirs[2]),
          Math.min(box[3], theirs[3]),
        ]
        if (areaOf(both) > 0.3 * Math.min(areaOf(box), areaOf(theirs))) return false
        if (both[2] - both[0] > 0.45 * Math.min(box[2] - box[0], theirs[2] - theirs[0])) return false
      }
    }
    return seen > 0
  }

  #placeHazards(plan: Plan, crosswalk: number): void {
    const r = this.#random
    const hazard = (added: boolean): boolean => {
      if (added) this.#hazards++
      return added
    }
    if (plan === 'pedestrian') {
      for (let t = 0; t < 8; t++) {
        const y = r.between(-2.2, 2.2)
        if (hazard(this.#add(this.#kindOf('pedestrian'), crosswalk + 1.2, y, 0, y > 0 ? 2 : 1))) break
      }
    } else if (plan === 'lead') {
      const vehicles = this.#domain.objects.flatMap(({ shape }, i) => (isVehicle(shape) ? [i] : []))
      const weights = vehicles.map((_, i) => (i === 0 ? 0.6 : 0.4 / (vehicles.length - 1)))
      for (let t = 0; t < 8; t++) {
        const kind = vehicles[r.weighted(weights)]!
        const x = r.between(9, 13.5)
        if (hazard(this.#add(kind, x, r.between(-0.25, 0.25), 0))) break
      }
    } else if (plan === 'cones') {
      const x = r.between(6.5, 10.5)
      const count = 2 + r.below(2)
      for (let i = 0; i < count; i++) {
        const at = x + r.between(-0.2, 0.2)
        hazard(this.#add(this.#kindOf('cone'), at, (i - (count - 1) / 2) * 1.15 + r.between(-0.1, 0.1), 0))
      }
    }
  }

  #fillView(view: number, mayCross: boolean): void {
    const r = this.#random
    const kinds = this.#domain.objects
    let count = r.weighted(this.#domain.objectsPerView)
    if (view === frontView && this.#hazards > 0) count = Math.max(0, count - 1)
    const repeated = r.next() < 0.45 ? r.weighted(kinds.map((kind) => kind.repeated)) : -1
    for (let i = 0; i < count; i++) {
      for (let t = 0; t < 14; t++) {
        const kind = repeated >= 0 ? repeated : r.weighted(kinds.map(({ share }) => share))
        const place = this.#place(view, kinds[kind]!)
        if (!place) continue
        const [x, y, heading] = place
        const { shape } = kinds[kind]!
        let pose: 0 | 1 | 2 = 0
        if (shape === 'pedestrian' || shape === 'cyclist')
          pose = (shape === 'cyclist' ? 1 + r.below(2) : r.below(3)) as 0 | 1 | 2
        if (shape === 'pedestrian' && view < 3 && pose && !mayCross && walksAcross(view, y, pose)) {
          pose = r.next() < 0.5 ? 0 : ((3 - pose) as 1 | 2)
        }
        if (view === frontView && Math.abs(y) < 2.5) continue
        if (this.#add(kind, x, y, heading, pose)) break
      }
    }
  }

  /** Somewhere in a view that suits a kind; undefined for a place that suits none. */
  #place(view: number, { shape }: ObjectKind): [number, number, number] | undefined {
    const r = this.#random
    const vehicle = isVehicle(shape)
    if (view !== frontView && view !== backView) {
      const angle = this.#cameras[view]!.yaw + r.between(-0.5, 0.5)
      const distance =
        shape === 'car'
          ? r.between(7.5, 15)
          : vehicle
            ? r.between(10.5, 18)
            : shape === 'cone'
              ? r.between(4.5, 9)
              : r.between(5, 11)
      const x = distance * Math.cos(angle)
      const y = distance * Math.sin(angle)
      if (Math.abs(y) < 3) return undefined
      return [x, y, vehicle ? r.pick(headings) + r.between(-0.15, 0.15) : 0]
    }
    const ahead = view === frontView ? 1 : -1
    if (vehicle) {
      const x = ahead * r.between(9, 24)
      let y = r.pick(laneCentres) + r.between(-0.3, 0.3)
      if (view === backView && r.next() < 0.3) y = r.between(-0.4, 0.4)
      const oncoming = r.next() >= 0.5
      if (this.#domain.traffic === 'right') return [x, y, oncoming ? Math.PI : 0]
      // Who drives on the left meets oncoming traffic on the right.
      return [x, -y, Math.abs(y) < 1 || y < 0 ? 0 : Math.PI]
    }
    if (shape === 'cone') {
      const x = ahead * r.between(5, 12)
      return [x, (r.next() < 0.5 ? 1 : -1) * r.between(2, 5.2), 0]
    }
    const x = ahead * r.between(6.5, 13)
    return [x, (r.next() < 0.5 ? 1 : -1) * r.between(shape === 'cyclist' ? 2.6 : 2.9, 6), 0]
  }

  /** Buildings and trees beyond the verge. */
  #clutter(): Clutter[] {
    const r = this.#random
    const out: Clutter[] = []
    for (const side of [1, -1]) {
      for (let x = -34; x < 40; x += r.between(5, 10)) {
        if (r.next() < 0.62) {
          const y = side * r.between(21, 25)
          const length = r.between(4, 8)
          out.push({ kind: 'building', x, y, length, height: r.between(4, 11), colour: r.pick(buildings) })
        } else {
          const y = side * r.between(16, 20)
          out.push({ kind: 'tree', x, y, height: r.between(3.5, 6), colour: r.pick(trees) })
        }
      }
    }
    return out
  }

  #addLamps(clutter: Clutter[]): void {
    for (const side of [1, -1]) {
      for (let x = -30 + this.#random.between(0, 6); x < 34; x += this.#random.between(9, 12)) {
        clutter.push({ kind: 'lamp', x, y: side * 10.4 })
      }
    }
  }
}

function needsHazard(plan: Plan): boolean {
  return plan === 'pedestrian' || plan === 'lead' || plan === 'cones'
}

/** Whether somebody who walks in this pose in a front view comes to the ego car's lane. */
export function walksAcross(view: number, y: number, pose: 1 | 2): boolean {
  const direction = pose === 1 ? -1 : 1
  if (view === frontView) return direction === (y > 0 ? 1 : -1)
  return view === 0 ? direction === 1 : direction === -1
}

/** What a world looks like from one view: polygons from far to near, in the order in which they are painted. */
import type { Domain, Rgb, Weather } from './domain.ts'
import type { Box, Camera, Place, Point } from './geometry.ts'
import { faces, type Patch, part, scaled, tyre, VehiclePainter, white } from './solids.ts'
import { type Clutter, dimensions, isVehicle, type World, type WorldObject } from './world.ts'

/** The id of the traffic light's pixels; objects have their number plus 1, everything else 0. */
export const lightId = 255

export interface Polygon {
  points: readonly Place[]
  rgb: Rgb
  id: number
}

/** After the last polygon of something that has an id: how it stood before anything nearer was painted over it. */
export interface Painted {
  painted: number
  box: Box | undefined
}

/** Parts of the ego car that each camera sees: by them a view can be told from its pixels. */
const egoParts: readonly (readonly Place[])[] = [
  [
    [0.62, 1],
    [1, 0.86],
    [1, 1],
  ],
  [
    [0.12, 1],
    [0.24, 0.93],
    [0.76, 0.93],
    [0.88, 1],
  ],
  [
    [0, 0.86],
    [0.38, 1],
    [0, 1],
  ],
  [
    [0.9, 0.62],
    [1, 0.6],
    [1, 1],
    [0.84, 1],
  ],
  [
    [0, 1],
    [0.05, 0.9],
    [0.35, 0.87],
    [0.65, 0.87],
    [0.95, 0.9],
    [1, 1],
  ],
  [
    [0, 0.6],
    [0.1, 0.62],
    [0.16, 1],
    [0, 1],
  ],
]

/** Everything that a view shows, far to near. */
export function paintView(world: World, view: number): (Polygon | Painted)[] {
  return new Painter(world, view).paint()
}

class Painter {
  readonly #world: World
  readonly #view: number
  readonly #camera: Camera
  readonly #domain: Domain
  readonly #weather: Weather
  readonly #out: (Polygon | Painted)[] = []

  constructor(world: World, view: number) {
    this.#world = world
    this.#view = view
    this.#camera = world.cameras[view]!
    this.#domain = world.domain
    this.#weather = world.domain.weather[world.weather]!
  }

  paint(): (Polygon | Painted)[] {
    this.#ground()
    for (const paintItem of this.#items()) paintItem()
    this.#out.push({ points: egoParts[this.#view]!, rgb: this.#tinted(this.#world.egoColour), id: 0 })
    return this.#out
  }

  #tinted(rgb: Rgb): Rgb {
    const { tint } = this.#weather
    const { tone } = this.#world
    const level = (i: 0 | 1 | 2): number => Math.max(0, Math.min(255, Math.round(rgb[i] * tint[i] * tone)))
    return [level(0), level(1), level(2)]
  }

  #ground(): void {
    const { road, verge, crosswalk } = this.#world
    const { wet, sky } = this.#weather
    for (const [i, colour] of sky.entries()) {
      const top = i * 0.16
      const points: Place[] = [
        [0, top],
        [1, top],
        [1, 0.5],
        [0, 0.5],
      ]
      this.#out.push({ points, rgb: [Math.round(colour[0]), Math.round(colour[1]), Math.round(colour[2])], id: 0 })
    }
    const low: Place[] = [
      [0, 0.47],
      [1, 0.47],
      [1, 1],
      [0, 1],
    ]
    this.#out.push({ points: low, rgb: this.#tinted(verge), id: 0 })
    const asphalt: Rgb = [road, road, road + 3]
    const kerb: Rgb = [165, 160, 155]
    this.#strip(-80, 80, -9.5, 9.5, kerb)
    this.#strip(-80, 80, -7.2 - 1.6, 7.2 + 1.6, scaled(asphalt, wet))
    this.#strip(-80, 80, 9.5, 20, scaled(asphalt, 0.95 * wet))
    this.#strip(-80, 80, -20, -9.5, scaled(asphalt, 0.95 * wet))
    this.#strip(-80, 80, 9.2, 11, kerb)
    this.#strip(-80, 80, -11, -9.2, kerb)
    const marking = this.#tinted([225, 225, 220])
    for (const points of this.#camera.markings) this.#out.push({ points, rgb: marking, id: 0 })
    if (crosswalk) {
      for (let y = -8; y < 8; y += 1.6) this.#strip(crosswalk, crosswalk + 2.6, y, y + 0.8, [235, 235, 235])
    }
  }

  #strip(x0: number, x1: number, y0: number, y1: number, rgb: Rgb): void {
    const points = this.#camera.strip(x0, x1, y0, y1)
    if (points) this.#out.push({ points, rgb: this.#tinted(rgb), id: 0 })
  }

  /** What stands on the ground, far to near. */
  #items(): (() => void)[] {
    const { clutter, objects, light, lightX, lightY } = this.#world
    const items: { distance: number; paint: () => void }[] = []
    for (const thing of clutter) {
      if (!this.#camera.mightSee(thing.x, thing.y, 6)) continue
      items.push({ distance: Math.hypot(thing.x, thing.y), paint: () => this.#clutter(thing) })
    }
    for (const [i, object] of objects.entries()) {
      if (!this.#camera.mightSee(object.x, object.y, 8)) continue
      items.push({ distance: Math.hypot(object.x, object.y), paint: () => this.#object(object, i + 1) })
    }
    if (light && this.#view < 3) {
      items.push({
        distance: Math.hypot(lightX, lightY),
        paint: () => this.#patches(this.#trafficLight(), lightId, undefined),
      })
    }
    return items.sort((a, b) => b.distance - a.distance).map(({ paint }) => paint)
  }

  #patches(patches: readonly Patch[], id: number, box: Box | undefined): void {
    const first = this.#out.length
    for (const { points, rgb, glow } of patches) {
      const seen = this.#camera.project(points)
      if (seen) this.#out.push({ points: seen, rgb: glow ? rgb : this.#tinted(rgb), id })
    }
    if (id && this.#out.length > first) this.#out.push({ painted: id, box })
  }

  #object(object: WorldObject, id: number): void {
    const { road } = this.#world
    const shadow = this.#camera.project(shadowOf(object))
    const patches = isVehicle(object.shape)
      ? this.#vehicle(object)
      : object.shape === 'cone'
        ? this.#cone(object)
        : this.#person(object)
    if (shadow) this.#out.push({ points: shadow, rgb: this.#tinted(scaled([road, road, road + 3], 0.55)), id: 0 })
    this.#patches(patches, id, object.boxes[this.#view])
  }

  #clutter(thing: Clutter): void {
    const covered = this.#weather.covered ?? false
    const lamps = this.#weather.lamps ?? false
    if (thing.kind === 'building') {
      const patches: Patch[] = []
      const half = thing.length / 2
      for (const face of faces(thing.x, thing.y, 0, -half, half, -2, 2, 0, thing.height)) {
        if (face.side === 'top') {
          patches.push({ points: face.points, rgb: covered ? white : scaled(thing.colour, face.shade * 0.9) })
          continue
        }
        patches.push({ points: face.points, rgb: scaled(thing.colour, face.shade * 0.9) })
        for (let b = 0.15; b < 0.85; b += 0.28) {
          for (let a = 0.1; a < 0.9; a += 0.3) {
            patches.push({
              points: part(face.points, a, a + 0.16, b, b + 0.14),
              rgb: this.#weather.windows,
              glow: lamps,
            })
          }
        }
      }
      this.#patches(patches, 0, undefined)
      return
    }
    const at = this.#upright(thing)
    if (thing.kind === 'lamp') {
      const pool: Point[] = Array.from({ length: 8 }, (_, i) => {
        const t = (i / 8) * 2 * Math.PI
        return [thing.x + 1.6 * Math.cos(t), thing.y + 1.6 * Math.sin(t), 0.01]
      })
      this.#patches(
        [
          { points: pool, rgb: [120, 112, 92], glow: true },
          { points: [at(-0.07, 0), at(0.07, 0), at(0.07, 4.6), at(-0.07, 4.6)], rgb: [95, 95, 98] },
          { points: ring(at, 0, 4.7, 0.3, 0.2), rgb: [255, 235, 170], glow: true },
        ],
        0,
        undefined,
      )
      return
    }
    const { height } = thing
    const leaves = covered ? white : thing.colour
    this.#patches(
      [
        { points: [at(-0.2, 0), at(0.2, 0), at(0.15, height * 0.5), at(-0.15, height * 0.5)], rgb: [85, 60, 40] },
        { points: ring(at, 0, height * 0.65, 1.5, height * 0.35), rgb: leaves },
        { points: ring(at, 0.4, height * 0.72, 0.8, height * 0.2, 7), rgb: scaled(leaves, covered ? 0.94 : 1.18) },
      ],
      0,
      undefined,
    )
  }

  /** Points of a flat thing that faces the camera: metres to the right of the picture, metres up. */
  #upright({ x, y }: { x: number; y: number }): (across: number, up: number) => Point {
    const { sin, cos } = this.#camera
    return (across, up) => [x + across * sin, y - across * cos, up]
  }

  #trafficLight(): Patch[] {
    const { light, lightX, lightY } = this.#world
    const at = this.#upright({ x: lightX, y: lightY })
    const on: readonly Rgb[] = [
      [255, 30, 25],
      [255, 205, 30],
      [40, 240, 90],
    ]
    const off: readonly Rgb[] = [
      [70, 20, 20],
      [70, 60, 20],
      [20, 65, 30],
    ]
    const out: Patch[] = [
      { points: [at(-0.1, 0), at(0.1, 0), at(0.1, 3), at(-0.1, 3)], rgb: [70, 70, 72] },
      { points: [at(-0.55, 2.4), at(0.55, 2.4), at(0.55, 5.0), at(-0.55, 5.0)], rgb: [24, 24, 26] },
    ]
    for (let i = 0; i < 3; i++) {
      const shines = light === i + 1
      out.push({
        points: ring(at, 0, 5.0 - 0.45 - i * 0.85, 0.42, 0.4, 8),
        rgb: shines ? on[i]! : off[i]!,
        glow: shines,
      })
    }
    return out
  }

  #vehicle(object: WorldObject): Patch[] {
    const colour = Object.values(this.#domain.colours)[object.colour]!
    const vehicle = new VehiclePainter(object, colour, this.#weather)
    if (object.shape === 'car') return vehicle.car()
    return object.shape === 'truck' ? vehicle.truck() : object.shape === 'bus' ? vehicle.bus() : vehicle.tram()
  }

  #cone(object: WorldObject): Patch[] {
    const at = this.#upright(object)
    return [
      { points: [at(-0.36, 0), at(0.36, 0), at(0.36, 0.1), at(-0.36, 0.1)], rgb: [60, 60, 60] },
      { points: [at(-0.28, 0.1), at(0.28, 0.1), at(0.05, 1.0), at(-0.05, 1.0)], rgb: [255, 110, 15] },
      { points: [at(-0.2, 0.42), at(0.2, 0.42), at(0.13, 0.66), at(-0.13, 0.66)], rgb: [250, 250, 250] },
    ]
  }

  #person(object: WorldObject): Patch[] {
    const at = this.#upright(object)
    const direction = object.pose === 0 ? 0 : object.pose === 1 ? -1 : 1
    const q = (across: number, up: number): Point => at(across * direction, up)
    const shirt = this.#domain.clothes[object.clothes]!
    const trousers: Rgb = [40, 42, 60]
    const skin: Rgb = [225, 175, 140]
    if (object.shape === 'pedestrian') {
      if (direction === 0) {
        return [
          { points: [at(-0.2, 0), at(-0.02, 0), at(-0.02, 0.85), at(-0.22, 0.85)], rgb: trousers },
          { points: [at(0.02, 0), at(0.2, 0), at(0.22, 0.85), at(0.02, 0.85)], rgb: trousers },
          { points: [at(-0.3, 0.8), at(0.3, 0.8), at(0.3, 1.45), at(-0.3, 1.45)], rgb: shirt },
          { points: ring(at, 0, 1.63, 0.17, 0.19), rgb: skin },
        ]
      }
      return [
        { points: [q(-0.5, 0), q(-0.28, 0), q(0.08, 0.85), q(-0.16, 0.85)], rgb: trousers },
        { points: [q(0.32, 0), q(0.56, 0), q(0.16, 0.85), q(-0.1, 0.85)], rgb: trousers },
        // A backpack, on the side that trails.
        { points: [q(-0.5, 0.95), q(-0.18, 0.9), q(-0.12, 1.45), q(-0.46, 1.4)], rgb: [95, 60, 30] },
        { points: [q(-0.2, 0.8), q(0.2, 0.8), q(0.28, 1.45), q(-0.14, 1.45)], rgb: shirt },
        { points: [q(0.1, 1.15), q(0.6, 1.0), q(0.62, 1.12), q(0.14, 1.38)], rgb: scaled(shirt, 0.8) },
        { points: ring(at, 0.14 * direction, 1.63, 0.17, 0.19), rgb: skin },
      ]
    }
    const out: Patch[] = []
    for (const wheel of [-0.62, 0.62]) {
      out.push({ points: ring(at, wheel, 0.36, 0.36, 0.36, 10), rgb: tyre })
      out.push({ points: ring(at, wheel, 0.36, 0.25, 0.25, 10), rgb: [150, 150, 150] })
    }
    const frame: Rgb = [200, 60, 30]
    out.push(
      { points: [q(-0.62, 0.32), q(0.1, 0.38), q(0.1, 0.48), q(-0.62, 0.42)], rgb: frame },
      { points: [q(0.1, 0.38), q(0.55, 0.95), q(0.62, 0.9), q(0.2, 0.38)], rgb: frame },
      { points: [q(-0.2, 0.9), q(0.02, 0.9), q(0.16, 0.3), q(0, 0.3)], rgb: trousers },
      { points: [q(-0.3, 0.85), q(0, 0.85), q(0.4, 1.4), q(0.05, 1.5)], rgb: shirt },
      { points: [q(0.25, 1.3), q(0.62, 1.0), q(0.62, 1.1), q(0.35, 1.42)], rgb: scaled(shirt, 0.8) },
      { points: ring(at, 0.36 * direction, 1.62, 0.17, 0.19), rgb: [40, 140, 200] },
    )
    return out
  }
}

function ring(
  at: (across: number, up: number) => Point,
  across: number,
  up: number,
  radiusAcross: number,
  radiusUp: number,
  corners = 9,
): Point[] {
  return Array.from({ length: corners }, (_, i) => {
    const t = ((i + 0.5) / corners) * 2 * Math.PI
    return at(across + radiusAcross * Math.cos(t), up + radiusUp * Math.sin(t))
  })
}

function shadowOf(object: WorldObject): Point[] {
  const { x, y, heading, shape } = object
  if (isVehicle(shape)) {
    const [length, width] = dimensions[shape]
    const c = Math.cos(heading)
    const s = Math.sin(heading)
    const corners: readonly Place[] = [
      [-1, -1],
      [1, -1],
      [1, 1],
      [-1, 1],
    ]
    return corners.map(([a, b]) => [
      x + a * length * 0.5 * c - b * width * 0.55 * s,
      y + a * length * 0.5 * s + b * width * 0.55 * c,
      0.01,
    ])
  }
  const radius = shape === 'cyclist' ? 0.9 : 0.35
  return Array.from({ length: 6 }, (_, i) => [x + radius * Math.cos(i * 1.047), y + radius * Math.sin(i * 1.047), 0.01])
}

/** Boxes that stand turned on the ground: their faces, and vehicles made of them. */
import type { Rgb, Weather } from './domain.ts'
import { Camera, type Point } from './geometry.ts'
import type { WorldObject } from './world.ts'

export interface Patch {
  points: readonly Point[]
  rgb: Rgb
  /** It shines: no tint of the weather. */
  glow?: boolean
}

type Side = 'front' | 'rear' | 'left' | 'right' | 'top'

interface Face {
  side: Side
  shade: number
  normal: Point
  points: readonly Point[]
}

const glass: Rgb = [45, 60, 80]
export const tyre: Rgb = [22, 22, 24]
export const white: Rgb = [240, 243, 250]
const headlight: Rgb = [255, 250, 200]
const taillight: Rgb = [255, 40, 30]

export function scaled([r, g, b]: Rgb, by: number): Rgb {
  return [r * by, g * by, b * by]
}

export class VehiclePainter {
  readonly #object: WorldObject
  readonly #colour: Rgb
  readonly #lamps: boolean
  readonly #covered: boolean
  readonly #out: Patch[] = []

  constructor(object: WorldObject, colour: Rgb, weather: Weather) {
    this.#object = object
    this.#colour = colour
    this.#lamps = weather.lamps ?? false
    this.#covered = weather.covered ?? false
  }

  #put(points: readonly Point[], rgb: Rgb, glow = false): void {
    this.#out.push({ points, rgb, glow })
  }

  #faces(x0: number, x1: number, y0: number, y1: number, z0: number, z1: number): Face[] {
    const { x, y, heading } = this.#object
    return faces(x, y, heading, x0, x1, y0, y1, z0, z1)
  }

  #body(face: Face, shade = 1): void {
    this.#put(face.points, this.#covered && face.side === 'top' ? white : scaled(this.#colour, face.shade * shade))
  }

  #lights(face: Face, b0: number, b1: number): void {
    const rgb = face.side === 'front' ? headlight : taillight
    this.#put(part(face.points, 0.04, 0.24, b0, b1), rgb, this.#lamps)
    this.#put(part(face.points, 0.76, 0.96, b0, b1), rgb, this.#lamps)
  }

  car(): Patch[] {
    for (const face of this.#faces(-2.2, 2.2, -0.95, 0.95, 0.25, 0.92)) {
      this.#body(face)
      if (face.side === 'front' || face.side === 'rear') {
        this.#lights(face, 0.45, 0.85)
        this.#put(part(face.points, 0, 1, 0, 0.2), tyre)
      }
      if (isSide(face)) {
        this.#put(disc(face.points, 0.2, 0.05, 0.085, 0.5), tyre)
        this.#put(disc(face.points, 0.8, 0.05, 0.085, 0.5), tyre)
      }
    }
    for (const face of this.#faces(-1.5, 0.9, -0.8, 0.8, 0.92, 1.48)) {
      this.#body(face)
      if (face.side !== 'top') this.#put(part(face.points, 0.08, 0.92, 0.05, 0.8), glass)
    }
    return this.#out
  }

  truck(): Patch[] {
    const { x, y, heading } = this.#object
    // The nearer half is painted last.
    if ((0 - x) * Math.cos(heading) + (0 - y) * Math.sin(heading) > 0) {
      this.#cargo()
      this.#cab()
    } else {
      this.#cab()
      this.#cargo()
    }
    return this.#out
  }

  #cab(): void {
    for (const face of this.#faces(1.7, 3.3, -1.15, 1.15, 0.35, 2.5)) {
      this.#body(face, 0.95)
      if (face.side === 'front') {
        this.#put(part(face.points, 0.08, 0.92, 0.5, 0.88), glass)
        this.#lights(face, 0.12, 0.28)
      } else if (isSide(face)) {
        this.#put(part(face.points, 0.2, 0.8, 0.5, 0.88), glass)
        this.#put(disc(face.points, 0.5, 0.0, 0.28, 0.2), tyre)
      }
    }
  }

  #cargo(): void {
    for (const face of this.#faces(-3.3, 1.4, -1.2, 1.2, 0.75, 3.2)) {
      this.#body(face)
      if (face.side === 'rear') {
        this.#put(part(face.points, 0.47, 0.53, 0.05, 0.95), scaled(this.#colour, 0.45))
        this.#lights(face, 0.0, 0.12)
      }
      if (isSide(face)) {
        const [r, g, b] = scaled(this.#colour, 0.6)
        this.#put(part(face.points, 0.05, 0.95, 0.42, 0.58), [r * 0.6 + 90, g * 0.6 + 90, b * 0.6 + 90])
      }
    }
    for (const face of this.#faces(-3.1, 1.3, -1.0, 1.0, 0.1, 0.75)) {
      if (face.side === 'top') continue
      this.#put(face.points, [48, 48, 50])
      if (isSide(face)) {
        this.#put(disc(face.points, 0.18, 0.35, 0.11, 0.62), tyre)
        this.#put(disc(face.points, 0.42, 0.35, 0.11, 0.62), tyre)
      }
    }
  }

  bus(): Patch[] {
    for (const face of this.#faces(-4.5, 4.5, -1.25, 1.25, 0.3, 3.1)) {
      this.#body(face)
      if (isSide(face)) {
        this.#put(part(face.points, 0.03, 0.97, 0.5, 0.85), glass)
        for (let i = 1; i < 7; i++) {
          this.#put(part(face.points, i / 7 - 0.012, i / 7 + 0.012, 0.5, 0.85), scaled(this.#colour, face.shade))
        }
        this.#put(disc(face.points, 0.18, 0.02, 0.055, 0.17), tyre)
        this.#put(disc(face.points, 0.8, 0.02, 0.055, 0.17), tyre)
      }
      if (face.side === 'front') {
        this.#put(part(face.points, 0.06, 0.94, 0.38, 0.82), glass)
        this.#put(part(face.points, 0.2, 0.8, 0.86, 0.97), [255, 170, 40], this.#lamps)
        this.#lights(face, 0.1, 0.22)
      }
      if (face.side === 'rear') {
        this.#put(part(face.points, 0.12, 0.88, 0.55, 0.82), glass)
        this.#lights(face, 0.14, 0.3)
      }
    }
    return this.#out
  }

  /** Long, without wheels to be seen, a broad white band, a pantograph's bar on the roof. */
  tram(): Patch[] {
    for (const face of this.#faces(-5.5, 5.5, -1.25, 1.25, 0.1, 3.1)) {
      this.#body(face)
      if (isSide(face)) {
        this.#put(part(face.points, 0.02, 0.98, 0.5, 0.82), glass)
        this.#put(part(face.points, 0, 1, 0.3, 0.42), [235, 235, 235])
        for (let i = 1; i < 9; i++) {
          this.#put(part(face.points, i / 9 - 0.008, i / 9 + 0.008, 0.5, 0.82), scaled(this.#colour, face.shade))
        }
        this.#put(part(face.points, 0, 1, 0, 0.1), tyre)
      }
      if (face.side === 'front' || face.side === 'rear') {
        this.#put(part(face.points, 0.08, 0.92, 0.42, 0.85), glass)
        this.#put(part(face.points, 0, 1, 0.3, 0.38), [235, 235, 235])
        this.#lights(face, 0.12, 0.22)
      }
    }
    for (const face of this.#faces(-0.9, 0.9, -0.7, 0.7, 3.1, 3.4)) this.#put(face.points, [70, 72, 76])
    return this.#out
  }
}

function isSide({ side }: Face): boolean {
  return side === 'left' || side === 'right'
}

/** Faces of a turned box that are turned to the cameras. */
export function faces(
  x: number,
  y: number,
  heading: number,
  x0: number,
  x1: number,
  y0: number,
  y1: number,
  z0: number,
  z1: number,
): Face[] {
  const c = Math.cos(heading)
  const s = Math.sin(heading)
  const at = (a: number, b: number, z: number): Point => [x + a * c - b * s, y + a * s + b * c, z]
  const all: Face[] = [
    {
      side: 'front',
      shade: 0.82,
      normal: [c, s, 0],
      points: [at(x1, y0, z0), at(x1, y1, z0), at(x1, y1, z1), at(x1, y0, z1)],
    },
    {
      side: 'rear',
      shade: 0.78,
      normal: [-c, -s, 0],
      points: [at(x0, y1, z0), at(x0, y0, z0), at(x0, y0, z1), at(x0, y1, z1)],
    },
    {
      side: 'left',
      shade: 0.95,
      normal: [-s, c, 0],
      points: [at(x1, y1, z0), at(x0, y1, z0), at(x0, y1, z1), at(x1, y1, z1)],
    },
    {
      side: 'right',
      shade: 0.95,
      normal: [s, -c, 0],
      points: [at(x0, y0, z0), at(x1, y0, z0), at(x1, y0, z1), at(x0, y0, z1)],
    },
    {
      side: 'top',
      shade: 1.12,
      normal: [0, 0, 1],
      points: [at(x0, y0, z1), at(x1, y0, z1), at(x1, y1, z1), at(x0, y1, z1)],
    },
  ]
  return all.filter(({ normal, points }) => Camera.faces(normal, points[0]!))
}

/** A point of a face: `a` of its width, `b` of its height. */
function onFace(face: readonly Point[], a: number, b: number): Point {
  const [p, q, r, s] = face as readonly [Point, Point, Point, Point]
  const mix = (i: 0 | 1 | 2): number => (p[i] * (1 - a) + q[i] * a) * (1 - b) + (s[i] * (1 - a) + r[i] * a) * b
  return [mix(0), mix(1), mix(2)]
}

/** A part of a face, from `a0` to `a1` of its width and `b0` to `b1` of its height. */
export function part(face: readonly Point[], a0: number, a1: number, b0: number, b1: number): Point[] {
  return [onFace(face, a0, b0), onFace(face, a1, b0), onFace(face, a1, b1), onFace(face, a0, b1)]
}

function disc(face: readonly Point[], a: number, b: number, radiusA: number, radiusB: number): Point[] {
  const corners = 8
  return Array.from({ length: corners }, (_, i) => {
    const t = ((i + 0.5) / corners) * 2 * Math.PI
    return onFace(face, a + radiusA * Math.cos(t), b + radiusB * Math.sin(t))
  })
}

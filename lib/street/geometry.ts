/** Pin-hole cameras around the ego car. Metres: x ahead, y to the left, z up. Pictures are a unit square: u to the right, v down. */
import type { Domain } from './domain.ts'

export type Point = readonly [number, number, number]
export type Place = readonly [number, number]
/** u0, v0, u1, v1. */
export type Box = readonly [number, number, number, number]

const cameraHeight = 1.6
const nearest = 0.4
const horizon = 0.47

export class Camera {
  readonly cos: number
  readonly sin: number
  readonly yaw: number
  /** Tangent of half the field of view, across and down. */
  readonly tanX: number
  readonly tanY: number
  #markings: readonly (readonly Place[])[] | undefined

  constructor(yawDegrees: number, fieldOfView: number) {
    this.yaw = (yawDegrees * Math.PI) / 180
    this.cos = Math.cos(this.yaw)
    this.sin = Math.sin(this.yaw)
    this.tanX = Math.tan(((fieldOfView / 2) * Math.PI) / 180)
    this.tanY = (this.tanX * 9) / 16
  }

  /** Whether something of this radius around a place can be in the picture. */
  mightSee(x: number, y: number, radius: number): boolean {
    const depth = this.depth(x, y) + radius
    return depth >= nearest && Math.abs(this.left(x, y)) - radius <= (depth + radius) * this.tanX * 1.05
  }

  /** A rectangle on the ground as it is seen. */
  strip(x0: number, x1: number, y0: number, y1: number): readonly Place[] | undefined {
    return this.project([
      [x0, y0, 0],
      [x1, y0, 0],
      [x1, y1, 0],
      [x0, y1, 0],
    ])
  }

  /** Lane markings, which no world changes. */
  get markings(): readonly (readonly Place[])[] {
    this.#markings ??= [1.8, -1.8, 5.4, -5.4].flatMap((y) =>
      Array.from({ length: 12 }, (_, i) => this.strip(6 * i - 36, 6 * i - 33, y - 0.09, y + 0.09)).filter(
        (strip) => strip !== undefined,
      ),
    )
    return this.#markings
  }

  depth(x: number, y: number): number {
    return x * this.cos + y * this.sin
  }

  left(x: number, y: number): number {
    return -x * this.sin + y * this.cos
  }

  /** A polygon as it is seen, cut at the near plane; undefined if nothing of it is in front. */
  project(points: readonly Point[]): Place[] | undefined {
    const count = points.length
    let inFront = 0
    for (let i = 0; i < count; i++) if (this.depth(points[i]![0], points[i]![1]) >= nearest) inFront++
    if (inFront === 0) return undefined
    if (inFront < count) return this.#projectCut(points)
    const places: Place[] = []
    for (let i = 0; i < count; i++) {
      const [x, y, z] = points[i]!
      const depth = this.depth(x, y)
      places.push([this.u(depth, this.left(x, y)), this.v(depth, z - cameraHeight)])
    }
    return places
  }

  #projectCut(points: readonly Point[]): Place[] | undefined {
    const seen: Point[] = points.map(([x, y, z]) => [this.depth(x, y), this.left(x, y), z - cameraHeight])
    const inFront = clipNear(seen)
    return inFront.length < 3 ? undefined : inFront.map((q) => [this.u(q[0], q[1]), this.v(q[0], q[2])])
  }

  u(depth: number, left: number): number {
    return 0.5 - left / depth / (2 * this.tanX)
  }

  v(depth: number, up: number): number {
    return horizon - up / depth / (2 * this.tanY)
  }

  /** Whether a face of this normal at this point is turned to the cameras. */
  static faces(normal: Point, point: Point): boolean {
    return normal[0] * (0 - point[0]) + normal[1] * (0 - point[1]) + normal[2] * (cameraHeight - point[2]) > 0
  }

  /** The box around a solid of `length`, `width` and `height`, not cut by the picture; undefined if a part of it is behind. */
  boxOf(solid: Solid): Box | undefined {
    const { x, y, heading, length, width, height } = solid
    const c = Math.cos(heading)
    const s = Math.sin(heading)
    let u0 = 9
    let v0 = 9
    let u1 = -9
    let v1 = -9
    for (let corner = 0; corner < 4; corner++) {
      const a = corner < 2 ? -length / 2 : length / 2
      const b = corner % 2 === 0 ? -width / 2 : width / 2
      const px = x + a * c - b * s
      const py = y + a * s + b * c
      const depth = this.depth(px, py)
      if (depth < 0.8) return undefined
      const u = this.u(depth, this.left(px, py))
      const low = this.v(depth, 0 - cameraHeight)
      const high = this.v(depth, height - cameraHeight)
      u0 = Math.min(u0, u)
      u1 = Math.max(u1, u)
      v0 = Math.min(v0, low, high)
      v1 = Math.max(v1, low, high)
    }
    return [u0, v0, u1, v1]
  }
}

/** A box that stands on the ground. */
export interface Solid {
  x: number
  y: number
  /** Radians to the left of straight ahead. */
  heading: number
  length: number
  width: number
  height: number
}

const known = new WeakMap<Domain, readonly Camera[]>()

/** The cameras of a domain's views; the same ones each time, with what they know of the ground. */
export function camerasOf(domain: Domain): readonly Camera[] {
  const cameras = known.get(domain) ?? domain.views.map(({ yaw }) => new Camera(yaw, domain.fieldOfView))
  known.set(domain, cameras)
  return cameras
}

function clipNear(points: readonly Point[]): Point[] {
  const out: Point[] = []
  for (const [i, a] of points.entries()) {
    const b = points[(i + 1) % points.length]!
    if (a[0] >= nearest) out.push(a)
    if (a[0] >= nearest !== b[0] >= nearest) {
      const t = (nearest - a[0]) / (b[0] - a[0])
      out.push([nearest, a[1] + t * (b[1] - a[1]), a[2] + t * (b[2] - a[2])])
    }
  }
  return out
}

export function areaOf(box: Box): number {
  return Math.max(0, box[2] - box[0]) * Math.max(0, box[3] - box[1])
}

export function insidePicture(box: Box): Box {
  return [Math.max(0, box[0]), Math.max(0, box[1]), Math.min(1, box[2]), Math.min(1, box[3])]
}

/** Share of a box that is inside of the picture. */
export function shareInside(box: Box): number {
  return areaOf(insidePicture(box)) / areaOf(box)
}

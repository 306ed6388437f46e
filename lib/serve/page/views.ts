/** The six cameras: a place each, with its picture and what is drawn on it. */
import type { LocatedBox } from '../../locating.ts'
import type { Camera } from '../../views/cameras.ts'
import { draw, make } from './dom.ts'
import { places } from './files.ts'

/** Something to draw: a box in pixels of the picture, or a point in shares of its edges. */
export type Mark = { kind: 'answer' | 'asked'; camera: string; label: string } & (
  | { box: LocatedBox['box'] }
  | { point: readonly [number, number] }
)

interface Place {
  button: HTMLButtonElement
  image: HTMLImageElement
  svg: SVGSVGElement
}

export class Views {
  readonly #places = new Map<Camera, Place>()
  readonly #pictures = new Map<Camera, Blob>()
  readonly #onChange: () => void
  #marks: readonly Mark[] = []

  constructor(root: HTMLElement, onChange: () => void, onPick: (camera: Camera) => void) {
    this.#onChange = onChange
    for (const camera of places) {
      const image = make('img', { alt: '', hidden: '' })
      const svg = draw('svg', { 'aria-hidden': 'true' })
      const name = make('span', { class: 'camera', 'aria-hidden': 'true' }, camera)
      const button = make('button', { type: 'button', class: 'view', 'data-camera': camera }, image, svg, name)
      button.addEventListener('click', () => onPick(camera))
      image.addEventListener('load', () => {
        root.style.setProperty('--ratio', `${image.naturalWidth} / ${image.naturalHeight}`)
        this.#draw()
      })
      this.#places.set(camera, { button, image, svg })
      root.append(button)
      this.#show(camera)
    }
    new ResizeObserver(() => this.#draw()).observe(root)
  }

  get pictures(): ReadonlyMap<Camera, Blob> {
    return this.#pictures
  }

  put(pictures: ReadonlyMap<Camera, Blob>): void {
    for (const [camera, picture] of pictures) {
      this.#pictures.set(camera, picture)
      this.#show(camera)
    }
    this.#onChange()
  }

  clear(): void {
    this.#pictures.clear()
    for (const camera of places) this.#show(camera)
    this.#onChange()
  }

  mark(marks: readonly Mark[]): void {
    this.#marks = marks
    this.#draw()
  }

  #show(camera: Camera): void {
    const { button, image } = this.#places.get(camera)!
    const picture = this.#pictures.get(camera)
    if (image.src !== '') URL.revokeObjectURL(image.src)
    image.hidden = picture === undefined
    if (picture === undefined) image.removeAttribute('src')
    else image.src = URL.createObjectURL(picture)
    button.setAttribute(
      'aria-label',
      `${camera}: ${picture === undefined ? 'choose a picture' : 'choose another picture'}`,
    )
  }

  #draw(): void {
    const alone = this.#pictures.size === 1 ? [...this.#pictures.keys()][0] : undefined
    for (const [camera, { image, svg }] of this.#places) {
      const { naturalWidth: width, naturalHeight: height } = image
      svg.replaceChildren()
      if (image.hidden || width === 0) continue
      // As `object-fit: contain` places the picture.
      svg.setAttribute('viewBox', `0 0 ${width} ${height}`)
      const unit = Math.max(width / (svg.clientWidth || width), height / (svg.clientHeight || height))
      for (const mark of this.#marks) {
        if (mark.camera === camera || (mark.camera === 'image' && alone === camera))
          svg.append(...shapes(mark, width, height, unit))
      }
    }
  }
}

/** What a mark looks like; `unit` is a pixel of the screen in the picture's. */
function shapes(mark: Mark, width: number, height: number, unit: number): SVGElement[] {
  const text = (x: number, y: number) =>
    draw('text', { class: mark.kind, x: String(x), y: String(y), 'font-size': String(12 * unit) }, mark.label)
  if ('point' in mark) {
    const [x, y] = [mark.point[0] * width, mark.point[1] * height]
    const circle = draw('circle', { class: mark.kind, cx: String(x), cy: String(y), r: String(7 * unit) })
    return [circle, text(x + 10 * unit, y + 4 * unit)]
  }
  const [left, top, right, bottom] = mark.box
  const size = { x: left, y: top, width: right - left, height: bottom - top }
  const rect = draw('rect', {
    class: mark.kind,
    ...Object.fromEntries(Object.entries(size).map(([name, value]) => [name, String(Math.max(0, value))])),
  })
  const above = top > 18 * unit
  return mark.label === '' ? [rect] : [rect, text(left, above ? top - 5 * unit : bottom + 14 * unit)]
}

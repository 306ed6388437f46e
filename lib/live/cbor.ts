/** Reads the CBOR of rosbridge: https://www.rfc-editor.org/rfc/rfc8949. Lengths are compared with what is left; bytes are views. */

const deepest = 16
const mostItems = 100_000

/** @throws Error if it is cut, nested too deep, or has something behind its end. */
export function readCbor(data: Uint8Array): unknown {
  const reader = new CborReader(data)
  const value = reader.value(0)
  reader.end()
  return value
}

/** Where the next value should be, the end of a list, map or string without a length. */
const stop = Symbol('stop')

class CborReader {
  readonly #data: Uint8Array
  readonly #view: DataView
  #at = 0
  #items = 0

  constructor(data: Uint8Array) {
    this.#data = data
    this.#view = new DataView(data.buffer, data.byteOffset, data.byteLength)
  }

  end(): void {
    if (this.#at < this.#data.length)
      throw new Error(`its CBOR ends ${this.#data.length - this.#at} bytes before the message`)
  }

  value(depth: number): unknown {
    const value = this.#next(depth)
    if (value === stop) throw new Error('its CBOR ends something that has not begun')
    return value
  }

  #next(depth: number): unknown {
    if (depth > deepest) throw new Error(`its CBOR is nested more than ${deepest} deep`)
    if (++this.#items > mostItems) throw new Error(`its CBOR has more than ${mostItems} values`)
    const first = this.#data[this.#take(1)]!
    const [major, info] = [first >> 5, first & 31]
    if (major === 7) return this.#simple(info)
    const open = info === 31
    if (open && (major < 2 || major === 6)) throw new Error('its CBOR has a number without a size')
    const size = open ? undefined : this.#size(info)
    switch (major) {
      case 0:
        return size
      case 1:
        return -1 - size!
      case 2:
        return size === undefined ? Buffer.concat(this.#parts(depth, isBytes)) : this.#bytes(size)
      case 3:
        return size === undefined
          ? this.#parts(depth, isText).join('')
          : Buffer.from(this.#bytes(size)).toString('utf8')
      case 4:
        return [...this.#list(size, depth)]
      case 5:
        return this.#map(size, depth)
      default:
        return this.value(depth + 1) // a tag says what the value is for
    }
  }

  *#list(size: number | undefined, depth: number): Generator<unknown> {
    for (let i = 0; size === undefined || i < size; i++) {
      const value = this.#next(depth + 1)
      if (value === stop && size === undefined) return
      if (value === stop) throw new Error('its CBOR ends something too early')
      yield value
    }
  }

  #map(size: number | undefined, depth: number): Record<string, unknown> {
    const values = [...this.#list(size === undefined ? undefined : 2 * size, depth)]
    if (values.length % 2 === 1) throw new Error('its CBOR has a key without a value')
    const made: Record<string, unknown> = Object.create(null)
    for (let i = 0; i < values.length; i += 2) {
      const key = values[i]
      if (!isText(key)) throw new Error('its CBOR has a key that is no text')
      made[key] = values[i + 1]
    }
    return made
  }

  /** Pieces of a string without a length. */
  #parts<T>(depth: number, fits: (part: unknown) => part is T): T[] {
    const parts = [...this.#list(undefined, depth)]
    if (parts.every(fits)) return parts
    throw new Error('its CBOR has a string of something else')
  }

  #simple(info: number): unknown {
    if (info === 31) return stop
    if (info === 20 || info === 21) return info === 21
    if (info === 22 || info === 23) return undefined
    if (info === 25) return halfFloat(this.#view.getUint16(this.#take(2)))
    if (info === 26) return this.#view.getFloat32(this.#take(4))
    if (info === 27) return this.#view.getFloat64(this.#take(8))
    throw new Error(`its CBOR has the simple value ${info}`)
  }

  #size(info: number): number {
    if (info < 24) return info
    if (info === 24) return this.#view.getUint8(this.#take(1))
    if (info === 25) return this.#view.getUint16(this.#take(2))
    if (info === 26) return this.#view.getUint32(this.#take(4))
    if (info > 27) throw new Error(`its CBOR has a size of the form ${info}`)
    return Number(this.#view.getBigUint64(this.#take(8)))
  }

  #bytes(size: number): Uint8Array {
    const at = this.#take(size)
    return this.#data.subarray(at, at + size)
  }

  #take(size: number): number {
    const at = this.#at
    if (size > this.#data.length - at)
      throw new Error(`its CBOR is cut: ${size} bytes wanted, ${this.#data.length - at} left`)
    this.#at += size
    return at
  }
}

const isBytes = (part: unknown): part is Uint8Array => part instanceof Uint8Array
const isText = (part: unknown): part is string => typeof part === 'string'

function halfFloat(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1
  const exponent = (bits >> 10) & 31
  const fraction = bits & 0x3ff
  if (exponent === 0) return sign * fraction * 2 ** -24
  if (exponent === 31) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15)
}

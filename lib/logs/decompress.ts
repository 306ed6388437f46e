/** The decompressors of chunks: WebAssembly, loaded when a log first needs one. */
import { createRequire } from 'node:module'

/** Most bytes that one chunk may have, decompressed. It is held twice for a moment: in WebAssembly's memory and as a buffer. */
export const maxChunkBytes: number = 128 * 1024 * 1024

/** Compressions of chunks. `lz4` is the frame format. */
export type Compression = 'lz4' | 'zstd' | 'bz2'

type Decompress = (data: Uint8Array, size: number) => Uint8Array

/** An instance of wasm-lz4's WebAssembly. */
interface Lz4Module {
  /** Its memory; another view after it grew. */
  readonly HEAPU8: Uint8Array
  _malloc(bytes: number): number
  _free(at: number): void
  _createDecompressionContext(): number
  /** Bytes made, or -1. */
  _decompressFrame(context: number, to: number, size: number, from: number, length: number): number
}

const require = createRequire(import.meta.url)

const loaders: Record<Compression, () => Promise<Decompress>> = {
  lz4: async () => {
    const make = require('@foxglove/wasm-lz4/dist/wasm-lz4.js') as () => Promise<Lz4Module>
    const lz4 = await make()
    // The package keeps one context for good, which decompresses nothing any more after a frame that was damaged: each instance has its own here.
    const context = lz4._createDecompressionContext()
    return (data, size) => {
      const from = lz4._malloc(data.length)
      const to = lz4._malloc(size)
      try {
        if (from === 0 || to === 0) throw new Error('there is no memory for it')
        lz4.HEAPU8.set(data, from)
        const made = lz4._decompressFrame(context, to, size, from, data.length)
        if (made < 0) throw new Error('it is damaged')
        return lz4.HEAPU8.slice(to, to + made)
      } finally {
        lz4._free(from)
        lz4._free(to)
      }
    }
  },
  zstd: async () => {
    const { default: zstd } = await import('@foxglove/wasm-zstd')
    await zstd.isLoaded
    return zstd.decompress
  },
  bz2: async () => {
    const { default: Bzip2 } = await import('@foxglove/wasm-bz2')
    const bzip2 = await Bzip2.init()
    return (data, size) => bzip2.decompress(data, size, { small: false })
  },
}

const loaded = new Map<string, Promise<Decompress>>()

export function isCompression(name: string): name is Compression {
  return Object.hasOwn(loaders, name)
}

/**
 * @param size - What the data decompresses to, as the log says.
 * @throws Error, a sentence without its end, if it does not, or is more than {@link maxChunkBytes}.
 */
export async function decompress(name: Compression, data: Uint8Array, size: number): Promise<Uint8Array> {
  if (size > maxChunkBytes) {
    throw new Error(`it says it has ${size} bytes when decompressed, of which up to ${maxChunkBytes} are taken`)
  }
  if (size === 0 && data.length === 0) return data
  const ready = loaded.get(name) ?? loaders[name]()
  loaded.set(name, ready)
  const work = await ready
  let result: Uint8Array
  try {
    result = work(data, size)
  } catch {
    if (name === 'lz4') loaded.delete(name)
    throw new Error(`its ${data.length} bytes are no ${name} of ${size} bytes`)
  }
  if (result.length !== size) throw new Error(`expected ${size} bytes when decompressed, found ${result.length}`)
  return result
}

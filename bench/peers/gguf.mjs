// Writes GGUF, the file format of llama.cpp, version 3: a header, metadata as typed pairs, a directory of tensors, then their data, each tensor
// at a multiple of the alignment. Numbers are little-endian; dimensions stand fastest first. https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
import { open, rename, rm } from 'node:fs/promises'

const version = 3
const alignment = 32
const longestName = 63 // bytes; ggml keeps names in 64 with their end

/** Types of tensors that are written here: the number in the file, and bytes an element. */
export const tensorTypes = { F32: [0, 4], F16: [1, 2], BF16: [30, 2] }

/** Types of values: the number in the file, and how one is written. */
const valueTypes = {
  u32: [4, (out, value) => out.integer(value, 4, 0, 2 ** 32 - 1)],
  i32: [5, (out, value) => out.integer(value, 4, -(2 ** 31), 2 ** 31 - 1)],
  f32: [6, (out, value) => out.float(value)],
  bool: [7, (out, value) => out.integer(value ? 1 : 0, 1, 0, 1)],
  string: [8, (out, value) => out.string(value)],
}
const arrayType = 9

/** Bytes that grow. */
class Bytes {
  buffer = Buffer.alloc(1 << 16)
  length = 0

  /** Where so many bytes go. The buffer may be another one afterwards. */
  #room(bytes) {
    if (this.length + bytes > this.buffer.length) {
      const larger = Buffer.alloc(Math.max(2 * this.buffer.length, this.length + bytes))
      this.buffer.copy(larger, 0, 0, this.length)
      this.buffer = larger
    }
    this.length += bytes
    return this.length - bytes
  }

  integer(value, bytes, least, most) {
    if (!Number.isInteger(value) || value < least || value > most)
      throw new Error(`Expected an integer from ${least} to ${most}, received ${value}.`)
    const at = this.#room(bytes)
    if (least < 0) this.buffer.writeIntLE(value, at, bytes)
    else this.buffer.writeUIntLE(value, at, bytes)
  }

  u32(value) {
    this.integer(value, 4, 0, 2 ** 32 - 1)
  }

  u64(value) {
    const at = this.#room(8)
    this.buffer.writeBigUInt64LE(BigInt(value), at)
  }

  float(value) {
    if (!Number.isFinite(value)) throw new Error(`Expected a finite number, received ${value}.`)
    const at = this.#room(4)
    this.buffer.writeFloatLE(value, at)
  }

  string(text) {
    if (typeof text !== 'string') throw new Error(`Expected a string, received ${text}.`)
    const bytes = Buffer.from(text)
    this.u64(bytes.length)
    const at = this.#room(bytes.length)
    bytes.copy(this.buffer, at)
  }

  align() {
    this.#room(aligned(this.length) - this.length)
  }

  written() {
    return this.buffer.subarray(0, this.length)
  }
}

const aligned = (bytes) => Math.ceil(bytes / alignment) * alignment
const elementsOf = ({ shape }) => shape.reduce((product, size) => product * size, 1)
const bytesOf = (tensor) => elementsOf(tensor) * tensorTypes[tensor.type][1]

function writeValue(out, key, type, value) {
  try {
    const element = type.endsWith('[]') ? type.slice(0, -2) : type
    if (!Object.hasOwn(valueTypes, element)) throw new Error(`Expected a known type, received ${type}.`)
    const [number, write] = valueTypes[element]
    if (element === type) {
      out.u32(number)
      return write(out, value)
    }
    if (!Array.isArray(value)) throw new Error(`Expected a list, received ${value}.`)
    out.u32(arrayType)
    out.u32(number)
    out.u64(value.length)
    for (const one of value) write(out, one)
  } catch (error) {
    throw new Error(`${key}: ${error.message}`)
  }
}

function checkTensors(tensors) {
  const names = new Set()
  for (const { name, shape, type } of tensors) {
    if (name.length === 0 || Buffer.byteLength(name) > longestName)
      throw new Error(`${name}: expected a name of 1 to ${longestName} bytes.`)
    if (names.has(name)) throw new Error(`${name}: expected one tensor of this name, received two.`)
    names.add(name)
    if (!Object.hasOwn(tensorTypes, type))
      throw new Error(`${name}: expected a type out of ${Object.keys(tensorTypes).join(', ')}, received ${type}.`)
    if (shape.length < 1 || shape.length > 4 || !shape.every((size) => Number.isSafeInteger(size) && size > 0))
      throw new Error(`${name}: expected 1 to 4 dimensions, all above 0, received [${shape}].`)
  }
}

/**
 * Writes a file. It gets its name when it is whole.
 *
 * @param file - Path.
 * @param metadata - `[key, type, value]`; types are u32, i32, f32, bool, string, and lists of these, such as `string[]`.
 * @param tensors - `{ name, shape, type, data }`: the shape slowest dimension first, `data()` an iterable, also an async one, of Uint8Array.
 * @returns The bytes written.
 * @throws Error for a name, type, shape or value that the format does not have, and where data is not as long as its shape says.
 */
export async function writeGguf(file, metadata, tensors) {
  checkTensors(tensors)
  const head = new Bytes()
  head.u32(0x46554747) // GGUF
  head.u32(version)
  head.u64(tensors.length)
  head.u64(metadata.length + 1)
  const keys = new Set()
  for (const [key, type, value] of [...metadata, ['general.alignment', 'u32', alignment]]) {
    if (keys.has(key)) throw new Error(`${key}: expected one value of this key, received two.`)
    keys.add(key)
    head.string(key)
    writeValue(head, key, type, value)
  }
  let offset = 0
  for (const tensor of tensors) {
    head.string(tensor.name)
    head.u32(tensor.shape.length)
    for (const size of tensor.shape.toReversed()) head.u64(size)
    head.u32(tensorTypes[tensor.type][0])
    head.u64(offset)
    offset += aligned(bytesOf(tensor))
  }
  head.align()

  const unfinished = `${file}.${process.pid}`
  const handle = await open(unfinished, 'w')
  try {
    await handle.writeFile(head.written())
    for (const tensor of tensors) {
      let bytes = 0
      for await (const chunk of tensor.data()) {
        await handle.writeFile(chunk)
        bytes += chunk.byteLength
      }
      if (bytes !== bytesOf(tensor))
        throw new Error(`${tensor.name}: expected ${bytesOf(tensor)} bytes of data, received ${bytes}.`)
      await handle.writeFile(new Uint8Array(aligned(bytes) - bytes))
    }
    await handle.close()
    await rename(unfinished, file)
  } catch (error) {
    await handle.close()
    await rm(unfinished, { force: true })
    throw error
  }
  return head.length + offset
}

// What callers pass is told by what it is, not by the class of one realm: test runners, `vm` contexts and Electron have their own.
import { readFileSync } from 'node:fs'
import path from 'node:path'
import { pathToFileURL } from 'node:url'
import vm from 'node:vm'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { bundledModel, loadModel, type Model, ModelError } from '../../lib/index.ts'
import { describeValue } from '../../lib/messages.ts'

const png = path.join(bundledModel, 'moments', 'dusk', 'CAM_FRONT.png')
const bytes = readFileSync(png)
const elsewhere = (code: string) => vm.runInNewContext(code, { list: [...bytes] })
const few = { maxNewTokens: 4 }
let model: Model
let expected: string

beforeAll(async () => {
  model = await loadModel({ threads: 1 })
  expected = (await model.ask(png, 'How many cars?', few)).text
})
afterAll(async () => model.dispose())

async function refusal(run: () => Promise<unknown>): Promise<string> {
  const error = await run().then(
    () => undefined,
    (reason) => reason,
  )
  expect(error).toBeInstanceOf(ModelError)
  return `${error.code}: ${error.message}`
}

describe('pictures', () => {
  const own = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length)
  const shared = new SharedArrayBuffer(bytes.length)
  new Uint8Array(shared).set(bytes)
  const files: Record<string, () => unknown> = {
    'a Uint8Array of another realm': () => elsewhere('Uint8Array.from(list)'),
    'a Uint8ClampedArray': () => Uint8ClampedArray.from(bytes),
    'an ArrayBuffer': () => own,
    'an ArrayBuffer of another realm': () => elsewhere('Uint8Array.from(list).buffer'),
    'a SharedArrayBuffer': () => shared,
    'a part of a buffer': () => elsewhere('new Uint8Array(Uint8Array.from([1, 2, ...list, 3]).buffer, 2, list.length)'),
    'a Blob': () => new Blob([bytes]),
    'a File': () => new File([bytes], 'front.png'),
    'a file: URL': () => pathToFileURL(png),
    'a list of another realm': () => elsewhere('[Uint8Array.from(list)]'),
  }
  for (const [name, make] of Object.entries(files)) {
    it(`takes ${name}`, async () => {
      expect((await model.ask(make() as never, 'How many cars?', few)).text).toBe(expected)
    })
  }

  const pixels: Record<string, string> = {
    'a Uint8Array': 'new Uint8Array(1800).fill(7)',
    'a Uint8ClampedArray': 'new Uint8ClampedArray(1800).fill(7)',
    'an ArrayBuffer': 'new Uint8Array(1800).fill(7).buffer',
  }
  for (const [name, data] of Object.entries(pixels)) {
    it(`takes raw pixels in ${name} of another realm`, async () => {
      const plain = { data: new Uint8Array(1800).fill(7), width: 30, height: 20 }
      const given = elsewhere(`({ data: ${data}, width: 30, height: 20 })`)
      const answers = [plain, given].map(async (view) => (await model.ask(view, 'How many cars?', few)).text)
      expect(await answers[1]).toBe(await answers[0])
    })
  }

  const transferred = (make: (buffer: ArrayBuffer) => unknown) => () => {
    const buffer = new ArrayBuffer(1800)
    const made = make(buffer)
    structuredClone(buffer, { transfer: [buffer] })
    return made
  }
  const refused: [string, () => unknown, RegExp][] = [
    ['a promise', () => Promise.resolve(bytes), /found a Promise\. Await it first/],
    ['a promise of another realm', () => elsewhere('Promise.resolve(1)'), /found a Promise\. Await it first/],
    ['a Map', () => new Map([['CAM_FRONT', png]]), /found a Map\. Pass Object\.fromEntries\(map\)/],
    ['a Map of another realm', () => elsewhere('new Map()'), /found a Map\. Pass Object\.fromEntries/],
    ['a Set', () => new Set([png]), /found a Set\. Pass \[\.\.\.views\]/],
    ['a generator', () => [png].values(), /Pass \[\.\.\.views\]/],
    ['a DataView', () => new DataView(bytes.buffer), /found a DataView\. Pass new Uint8Array\(view\.buffer/],
    ['wide numbers', () => new Float32Array(8), /found a Float32Array\. Pass new Uint8Array/],
    ['a Response', () => new Response(bytes), /found a Response\. Pass new Uint8Array\(await response/],
    ['a URL of the web', () => new URL('https://example.org/a.png'), /found a URL \(https:.*download it/],
    ['a date', () => new Date(0), /found a Date/],
    ['a detached ArrayBuffer', transferred((buffer) => buffer), /transferred|is empty/],
    ['bytes of a detached ArrayBuffer', transferred((buffer) => new Uint8Array(buffer)), /transferred|is empty/],
    [
      'pixels of a detached ArrayBuffer',
      transferred((buffer) => ({ data: new Uint8Array(buffer), width: 30, height: 20 })),
      /transferred|found 0/,
    ],
    [
      'a size without a prototype',
      () => ({ data: new Uint8Array(3), width: Object.create(null), height: Symbol('h') }),
      /positive integers; found an object x Symbol\(h\)/,
    ],
    ['pixels that are none', () => ({ data: Object.create(null), width: 1, height: 1 }), /found an object/],
    ['a number', () => 12, /found 12/],
    ['null', () => null, /found null/],
  ]
  for (const [name, make, message] of refused) {
    it(`refuses ${name} in a sentence, alone and in a list`, async () => {
      expect(await refusal(async () => model.see(make() as never))).toMatch(message)
      expect(await refusal(async () => model.see(make() as never))).toMatch(/^BAD_VIEW/)
      expect(await refusal(async () => model.see([make()] as never))).toMatch(/^BAD_VIEW/)
    })
  }

  it('says of a Blob that cannot be read why', async () => {
    const blob = new Blob([bytes])
    Object.defineProperty(blob, 'arrayBuffer', { value: async () => Promise.reject(new Error('gone')) })
    expect(await refusal(async () => model.see(blob))).toMatch(/BAD_VIEW.*the Blob given cannot be read; gone/)
  })
})

describe('options', () => {
  it('are no Map, promise or bytes, which would read as no options at all', async () => {
    for (const odd of [
      new Map(),
      new Set(),
      Promise.resolve({}),
      new Uint8Array(3),
      new Date(0),
      elsewhere('new Map()'),
    ]) {
      expect(await refusal(async () => model.ask(png, 'How many cars?', odd))).toMatch(
        /BAD_ARGUMENT: Expected an object for options, received a (Map|Set|Promise|Uint8Array|Date)\./,
      )
    }
    const answer = await model.ask(png, 'How many cars?', elsewhere('({ maxNewTokens: 4, stop: ["zz"] })'))
    expect(answer.text).toBe(expected)
  })

  it('are refused in a sentence whatever they are', async () => {
    const odd = [Object.create(null), Symbol('odd'), new Proxy({}, { get: () => null }), 2n, () => 1]
    for (const value of odd) {
      for (const name of ['device', 'precision', 'weights', 'threads', 'kvMemory', 'evict']) {
        expect(await refusal(async () => loadModel({ [name]: value }))).toMatch(/^BAD_ARGUMENT/)
      }
      for (const name of ['maxNewTokens', 'temperature', 'stop', 'tags', 'signal', 'answerFormat', 'onText']) {
        if (name === 'onText' && typeof value === 'function') continue
        expect(await refusal(async () => model.ask(png, 'How many?', { [name]: value }))).toMatch(/^BAD_ARGUMENT/)
      }
    }
  })

  it('take a signal of another class', async () => {
    // As jsdom and polyfills have it: an own EventTarget, which Node's functions refuse.
    class Signal {
      aborted = false
      reason: unknown
      #listeners = new Set<() => void>()
      addEventListener(_: string, listener: () => void) {
        this.#listeners.add(listener)
      }
      removeEventListener(_: string, listener: () => void) {
        this.#listeners.delete(listener)
      }
      abort(reason: unknown) {
        this.aborted = true
        this.reason = reason
        for (const listener of this.#listeners) listener()
      }
    }
    const foreign = () => new Signal() as Signal & AbortSignal
    const scene = await model.see(png, { signal: foreign() })
    for (const run of [
      async (signal: AbortSignal) => scene.ask('How many cars?', { signal, minNewTokens: 400 }),
      async (signal: AbortSignal) => scene.askAll(['How many cars?'], { signal, minNewTokens: 400 }),
      async (signal: AbortSignal) => model.stream(png, 'How many cars?', { signal, minNewTokens: 400 }).answer,
    ]) {
      const signal = foreign()
      const running = refusal(async () => run(signal))
      setTimeout(() => signal.abort(elsewhere('Object.assign(new Error(), { name: "TimeoutError" })')), 20)
      expect(await running).toBe('ABORTED: Given up, because its time limit passed.')
      expect(await refusal(async () => run(signal))).toMatch(/^ABORTED/)
    }
    scene.dispose()
  })

  it('may come with the model folder as a URL', async () => {
    const other = await loadModel(pathToFileURL(bundledModel), { threads: 1 })
    expect(other.info.name).toBe('street-tiny')
    await other.dispose()
    for (const odd of [new URL('https://example.org/model'), new Map(), 5, '', Promise.resolve('x')]) {
      expect(await refusal(async () => loadModel(odd as never))).toMatch(/^BAD_ARGUMENT.*model folder/)
    }
  })
})

describe('describeValue', () => {
  it('never throws', () => {
    const { proxy, revoke } = Proxy.revocable({}, {})
    revoke()
    const thrower = new Proxy({}, { get: () => { throw new Error('no') }, getPrototypeOf: () => { throw new Error('no') } }) // biome-ignore format: short
    class Own {}
    expect(
      [thrower, Object.create(null), new Own(), [1], null, undefined, Symbol('s'), 2n, new ArrayBuffer(1)].map(
        describeValue,
      ),
    ).toEqual([
      'an object',
      'an object',
      'an object of class Own',
      'a list',
      'null',
      'undefined',
      'Symbol(s)',
      '2',
      'an ArrayBuffer',
    ])
    expect(() => describeValue(proxy)).not.toThrow()
  })
})

/** The addon itself, with values that lib/ would never hand over: every one is refused with a code, and nothing is read past its end. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type Checkpoint, readCheckpoint } from '../../lib/checkpoint/load-checkpoint.ts'
import {
  loadAddon,
  type NativeGenerateRequest,
  type NativeModel,
  type NativeModelOptions,
  type NativePicture,
  type NativeSceneRequest,
} from '../../lib/native.ts'
import { streetTiny } from './street-tiny.ts'

const addon = loadAddon()
const options: NativeModelOptions = {
  device: 'cpu',
  precision: 'f32',
  threads: 1,
  maxContext: 512,
  kvTokens: 1024,
  maxBatch: 4,
  visionCacheBytes: 0,
}
const rejected = (code: string, message: string | RegExp) => ({ code, message: expect.stringMatching(message) })

let checkpoint: Checkpoint
let model: NativeModel
beforeAll(async () => {
  checkpoint = await readCheckpoint(streetTiny)
  model = await addon.load(checkpoint, options)
})
afterAll(() => model.dispose())

let job = 0
function question(changes: Record<string, unknown> = {}): NativeGenerateRequest {
  job++
  const request = {
    job,
    scene: 0,
    ids: Int32Array.of(1, 2, 3),
    maxNewTokens: 4,
    minNewTokens: 0,
    temperature: 0,
    topP: 1,
    seed: 0,
  }
  return { ...request, stopIds: new Int32Array(), vocabLimit: 700, ...changes } as NativeGenerateRequest
}
function moment(changes: Record<string, unknown> = {}): NativeSceneRequest {
  job++
  return { job, ids: Int32Array.of(1, ...Array(16).fill(-1)), images: [tilesOf(90)], ...changes } as NativeSceneRequest
}
const flat = (changes: Record<string, unknown> = {}) =>
  ({ rgb: new Uint8Array(300).fill(90), width: 10, height: 10, ...changes }) as NativePicture
const tilesOf = (value: number) => ({ tiles: new Uint8Array(112 * 112 * 3).fill(value), tileCount: 1, tileSize: 112 })

describe('load', () => {
  const broken: [string, (source: Checkpoint) => unknown, string | RegExp][] = [
    ['nothing', () => undefined, 'source'],
    ['no network', (source) => ({ ...source, network: undefined }), 'network'],
    ['a negative layer count', (source) => change(source, 'language', { layers: -1 }), /network\.language\.layers/],
    ['a fraction', (source) => change(source, 'vision', { dim: 1.5 }), /network\.vision\.dim/],
    ['NaN', (source) => change(source, 'vision', { normEps: Number.NaN }), /network\.vision\.normEps/],
    ['a string for a flag', (source) => change(source, 'language', { tiedHead: 'no' }), /tiedHead/],
    ['an unknown rope', (source) => change(source, 'language', { rope: { kind: 'yarn', theta: 1 } }), /rope\.kind/],
    ['an unknown dtype', (source) => tensors(source, { dtype: 'F64' }), /tensors\[0\]\.dtype/],
    ['five dimensions', (source) => tensors(source, { shape: [1, 1, 1, 1, 1] }), /tensors\[0\]\.shape/],
    [
      'a file that is not listed',
      (source) => tensors(source, { spans: [{ file: 9, offset: 0, rows: 1 }] }),
      /spans\[0\]\.file/,
    ],
    ['fewer sizes than files', (source) => ({ ...source, fileBytes: [] }), /fileBytes/],
  ]
  test.each(broken)('%s', async (_, make, message) => {
    await expect(addon.load(make(checkpoint) as never, options)).rejects.toMatchObject(
      rejected('BAD_ARGUMENT', message),
    )
  })

  const beyond: [string, (source: Checkpoint) => unknown][] = [
    [
      'an offset past the end',
      (source) => tensors(source, { spans: [{ file: 0, offset: 2 ** 40, rows: source.tensors[0]!.shape[0]! }] }),
    ],
    ['a file of another size', (source) => ({ ...source, fileBytes: [source.fileBytes[0]! + 1] })],
    ['a file that is not there', (source) => ({ ...source, files: ['/no/such/file'] })],
    ['a tensor too few', (source) => ({ ...source, tensors: source.tensors.slice(1) })],
    ['a tensor twice', (source) => ({ ...source, tensors: [...source.tensors, source.tensors[0]] })],
    ['a wrong shape', (source) => tensors(source, { shape: [1] })],
  ]
  test.each(beyond)('%s', async (_, make) => {
    await expect(addon.load(make(checkpoint) as never, options)).rejects.toMatchObject({
      code: expect.stringMatching(/^BAD_/),
    })
  })

  test('options out of range', async () => {
    for (const bad of [
      { threads: 0 },
      { maxContext: 1e12 },
      { kvTokens: -5 },
      { maxBatch: 0 },
      { precision: 'int4' },
      { device: 5 },
    ]) {
      const load = addon.load(checkpoint, { ...options, ...bad } as never)
      await expect(load).rejects.toMatchObject({ code: 'BAD_ARGUMENT' })
    }
  })

  test('NativeModel cannot be made by hand, nor its methods moved', () => {
    const NativeModelClass = model.constructor as new (value?: unknown) => NativeModel
    expect(() => new NativeModelClass()).toThrow('comes from load()')
    expect(() => new NativeModelClass({})).toThrow('comes from load()')
    expect(() => model.stats.call({} as NativeModel)).toThrow()
  })

  test('an unknown load is not cancelled', () => {
    addon.cancelLoad(12345)
    expect(() => addon.cancelLoad('x' as never)).toThrow(expect.objectContaining({ code: 'BAD_ARGUMENT' }))
  })

  test('memoryPlan says what load reserves', () => {
    expect(addon.memoryPlan(checkpoint.network, options, 'BF16')).toEqual(model.memory())
    expect(() => addon.memoryPlan(checkpoint.network, options, 'I8' as never)).toThrow(
      expect.objectContaining({ code: 'BAD_ARGUMENT' }),
    )
  })
})

describe('see', () => {
  const bad: [string, Record<string, unknown>, string][] = [
    ['no ids', { ids: undefined }, 'BAD_ARGUMENT'],
    ['ids of another type', { ids: [1, 2] }, 'BAD_ARGUMENT'],
    ['an id past the vocabulary', { ids: Int32Array.of(711, ...Array(16).fill(-1)) }, 'BAD_ARGUMENT'],
    ['a negative id', { ids: Int32Array.of(-2, ...Array(16).fill(-1)) }, 'BAD_ARGUMENT'],
    ['too few slots', { ids: Int32Array.of(1, -1) }, 'BAD_ARGUMENT'],
    ['more than the context', { ids: new Int32Array(5000), images: [] }, 'CONTEXT_OVERFLOW'],
    ['a probe without a name', { probe: [5] }, 'BAD_ARGUMENT'],
    ['a picture in place of tiles', { images: [flat()] }, 'BAD_ARGUMENT'],
    [
      'tiles of another size',
      { images: [{ tiles: new Uint8Array(28 * 28 * 3), tileCount: 1, tileSize: 28 }] },
      'BAD_ARGUMENT',
    ],
    ['tiles too short', { images: [{ tiles: new Uint8Array(5), tileCount: 1, tileSize: 112 }] }, 'BAD_VIEW'],
  ]
  test.each(bad)('%s', async (_, changes, code) => {
    await expect(model.see(moment(changes))).rejects.toMatchObject({ code })
  })
})

describe('generate', () => {
  const bad: [string, Record<string, unknown>, string][] = [
    ['an id past the vocabulary', { ids: Int32Array.of(711) }, 'BAD_ARGUMENT'],
    ['an image slot', { ids: Int32Array.of(-1) }, 'BAD_ARGUMENT'],
    ['a stop id past the vocabulary', { stopIds: Int32Array.of(9999) }, 'BAD_ARGUMENT'],
    ['no tokens at all', { ids: new Int32Array() }, 'BAD_ARGUMENT'],
    ['maxNewTokens 0', { maxNewTokens: 0 }, 'BAD_ARGUMENT'],
    ['a vocabulary limit of nothing', { vocabLimit: 0 }, 'BAD_ARGUMENT'],
    ['temperature NaN', { temperature: Number.NaN }, 'BAD_ARGUMENT'],
    ['topP 0', { topP: 0 }, 'BAD_ARGUMENT'],
    ['a negative seed', { seed: -1 }, 'BAD_ARGUMENT'],
    ['a scene that is not there', { scene: 4711 }, 'DISPOSED'],
    ['more than the context', { ids: new Int32Array(600) }, 'CONTEXT_OVERFLOW'],
  ]
  test.each(bad)('%s', async (_, changes, code) => {
    await expect(model.generate(question(changes))).rejects.toMatchObject({ code })
  })

  test('a job number in use', async () => {
    const request = question({ maxNewTokens: 400 })
    const first = model.generate(request)
    await expect(model.generate(request)).rejects.toMatchObject(rejected('BAD_ARGUMENT', 'in use'))
    expect((await first).ids).toHaveLength(400)
    expect((await model.generate({ ...request, maxNewTokens: 1 })).ids).toHaveLength(1)
  })

  test('tokens come once each and in order, whatever happens to the reader', async () => {
    const seen: number[] = []
    const { ids, finish } = await model.generate(question({ maxNewTokens: 200 }), (batch) => seen.push(...batch))
    expect(seen).toEqual([...ids])
    expect(finish).toBe('length')
    const thrower = model.generate(question({ maxNewTokens: 400 }), () => {
      throw new RangeError('mine')
    })
    await expect(thrower).rejects.toThrow(new RangeError('mine'))
    await expect.poll(() => model.stats().running).toBe(0)
  })

  test('cancel rejects, finish resolves, and neither minds unknown numbers', async () => {
    const cancelled = question({ maxNewTokens: 400 })
    const cancelling = model.generate(cancelled)
    model.cancel(cancelled.job)
    await expect(cancelling).rejects.toMatchObject({ code: 'ABORTED' })
    const finished = question({ maxNewTokens: 400 })
    const finishing = model.generate(finished, () => model.finish(finished.job))
    expect((await finishing).finish).toBe('cancelled')
    model.cancel(999_999)
    model.finish(999_999)
    model.release(999_999)
  })
})

test('no callback of an answer is called after its promise is settled', async () => {
  let settled = false
  let late = 0
  const request = question({ maxNewTokens: 300 })
  const running = model.generate(request, () => {
    if (settled) late++
  })
  setTimeout(() => model.cancel(request.job), 5)
  await running.catch(() => undefined)
  settled = true
  await new Promise((resolve) => setTimeout(resolve, 30))
  expect(late).toBe(0)
})

test('dispose during a load of another model, and twice', async () => {
  const [one, two] = await Promise.all([addon.load(checkpoint, options), addon.load(checkpoint, options)])
  await Promise.all([one.dispose(), one.dispose(), two.dispose()])
  await expect(one.generate(question())).rejects.toMatchObject({ code: 'DISPOSED' })
  expect(() => one.stats()).toThrow(expect.objectContaining({ code: 'DISPOSED' }))
  one.release(1)
  one.cancel(1)
  expect(one.memory()).toEqual(model.memory())
})

function change(source: Checkpoint, part: 'vision' | 'language', values: Record<string, unknown>): unknown {
  return { ...source, network: { ...source.network, [part]: { ...source.network[part], ...values } } }
}

function tensors(source: Checkpoint, values: Record<string, unknown>): unknown {
  return { ...source, tensors: source.tensors.map((tensor, i) => (i === 0 ? { ...tensor, ...values } : tensor)) }
}

/** `cache: true`: the same answers from a file that is made once, made anew when it is stale, and never half written. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import {
  chmodSync,
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { loadModel } from '../../lib/load-model.ts'
import type { LoadOptions } from '../../lib/options.ts'
import { type CacheInfo, weightCachePlace } from '../../lib/weight-cache.ts'
import { modelError, root, temporaryFolder } from './checkpoint-folder.ts'
import { momentViews, streetTiny, weather } from './street-tiny.ts'

/** A copy of the bundled model. */
function copy(): string {
  const dir = temporaryFolder('street')
  cpSync(streetTiny, dir, { recursive: true, filter: (from) => path.basename(from) !== 'moments' })
  return dir
}

const int8 = { device: 'cpu', weights: 'int8' } as const
const cached = { ...int8, cache: true } as const
const cacheOf = (dir: string, weights = 'int8') => path.join(dir, `drivlm-${weights}.cache`)
const leftIn = (dir: string) => readdirSync(dir).filter((name) => name.includes('.cache'))

/** What a load says of its cache, and probabilities of an answer: they show any change of a weight. */
async function loaded(
  dir: string,
  options: LoadOptions = cached,
): Promise<{ cache: CacheInfo | undefined; answer: unknown }> {
  const model = await loadModel(dir, options)
  const { text, logprobs } = await model.ask(momentViews('day'), weather, { logprobs: true })
  await model.dispose()
  return { cache: model.info.cache, answer: { text, logprobs } }
}

describe.each(['bf16', 'int8', 'int4'] as const)('%s', (weights) => {
  test('the first load writes the file, the next maps it, and answers are the same', async () => {
    const dir = copy()
    const options = { ...cached, weights }
    const file = cacheOf(dir, weights)
    const without = await loaded(dir, { ...options, cache: false })
    expect(without.cache).toBeUndefined()
    expect(leftIn(dir)).toEqual([])
    expect(await loaded(dir, options)).toEqual({ ...without, cache: { file, state: 'written' } })
    const { ino } = statSync(file)
    expect(await loaded(dir, options)).toEqual({ ...without, cache: { file, state: 'read' } })
    expect(statSync(file).ino).toBe(ino)
    expect(leftIn(dir)).toEqual([path.basename(file)])
  })
})

/** Open files of this process that are a cache. */
const openCaches = () =>
  readdirSync('/proc/self/fd').filter((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`).endsWith('.cache')
    } catch {
      return false // closed meanwhile
    }
  }).length

test.runIf(existsSync('/proc/self/fd'))(
  'a cache that was opened while the folder was read is closed again',
  async () => {
    const dir = copy()
    await loaded(dir)
    const model = await loadModel(dir, cached)
    expect(model.info.cache?.state).toBe('read')
    expect(openCaches()).toBe(1) // its weights are mapped
    await model.dispose()
    expect(openCaches()).toBe(0)
    const aborted = AbortSignal.timeout(1)
    await loadModel(dir, { ...cached, signal: aborted }).then(
      (model) => model.dispose(),
      () => {},
    )
    writeFileSync(path.join(dir, 'config.json'), '{}')
    await expect(loadModel(dir, cached)).rejects.toMatchObject({ code: 'BAD_CHECKPOINT' })
    expect(openCaches()).toBe(0)
  },
)

test('formats have files of their own, and activations share them', async () => {
  const dir = copy()
  await loaded(dir)
  expect((await loaded(dir, { ...cached, weights: 'int4' })).cache).toMatchObject({ state: 'written' })
  expect((await loaded(dir, { ...cached, activations: 'int8' })).cache).toMatchObject({ state: 'read' })
  expect(leftIn(dir)).toEqual(['drivlm-int4.cache', 'drivlm-int8.cache'])
  copyFileSync(cacheOf(dir, 'int4'), cacheOf(dir))
  expect((await loaded(dir)).cache).toMatchObject({ state: 'written', reason: expect.stringContaining('other files') })
})

describe('a stale file is made anew', () => {
  const stale = { state: 'written', reason: expect.stringMatching(/drivlm-int8\.cache was made from other files/) }

  test('when the checkpoint has another time', async () => {
    const dir = copy()
    await loaded(dir)
    const source = path.join(dir, 'model.safetensors')
    const { atime, mtimeMs } = statSync(source)
    utimesSync(source, atime, new Date(mtimeMs + 10))
    expect((await loaded(dir)).cache).toMatchObject(stale)
    expect((await loaded(dir)).cache).toMatchObject({ state: 'read' })
  })

  test('when the checkpoint has another size', async () => {
    const dir = copy()
    await loaded(dir)
    const source = path.join(dir, 'model.safetensors')
    const bytes = readFileSync(source)
    const { atime, mtime } = statSync(source)
    const header = Number(bytes.readBigUInt64LE())
    const longer = Buffer.alloc(8)
    longer.writeBigUInt64LE(BigInt(header + 64))
    const parts = [longer, bytes.subarray(8, 8 + header), Buffer.alloc(64, ' '), bytes.subarray(8 + header)]
    writeFileSync(source, Buffer.concat(parts))
    utimesSync(source, atime, mtime)
    expect((await loaded(dir)).cache).toMatchObject(stale)
  })

  test('when its weights changed under the same size', async () => {
    const dir = copy()
    const { answer } = await loaded(dir)
    const source = path.join(dir, 'model.safetensors')
    const bytes = readFileSync(source)
    for (let at = bytes.length - 200_000; at < bytes.length; at += 2) bytes[at]! ^= 0x08 // low bytes of bf16
    writeFileSync(source, bytes)
    const changed = await loaded(dir)
    expect(changed.cache).toMatchObject({ state: 'written' })
    expect(changed.answer).not.toEqual(answer)
    expect(changed.answer).toEqual((await loaded(dir, int8)).answer)
  })
})

test('a damaged file is made anew', async () => {
  const dir = copy()
  const file = cacheOf(dir)
  const { answer } = await loaded(dir)
  const whole = readFileSync(file)
  const damages: [string, () => void][] = [
    ...[0, 7, 100, 5000, Math.floor(whole.length / 2), whole.length - 1].map(
      (bytes) => [`cut to ${bytes}`, () => truncateSync(file, bytes)] as [string, () => void],
    ),
    ...[0, 9, 17, 40, 200, 3000, whole.length >> 1, whole.length - 1].map((at): [string, () => void] => [
      `changed at ${at}`,
      () =>
        writeFileSync(
          file,
          whole.map((byte, i) => (i === at ? byte ^ 0x81 : byte)),
        ),
    ]),
    ['another file', () => copyFileSync(path.join(dir, 'config.json'), file)],
  ]
  for (const [what, damage] of damages) {
    writeFileSync(file, whole)
    damage()
    const again = await loaded(dir)
    expect(again, what).toMatchObject({ cache: { state: 'written', reason: expect.any(String) }, answer })
    expect(readFileSync(file).equals(whole), what).toBe(true)
  }
  expect((await loaded(dir)).cache).toMatchObject({ state: 'read' })
})

test('an aborted load leaves nothing', async () => {
  for (const share of [0, 0.5, 1]) {
    const dir = copy()
    const abort = new AbortController()
    const load = loadModel(dir, {
      ...cached,
      signal: abort.signal,
      onProgress: ({ doneBytes, totalBytes }) => doneBytes >= share * totalBytes && abort.abort(),
    })
    await modelError(load, 'ABORTED')
    expect(leftIn(dir).filter((name) => name !== 'drivlm-int8.cache')).toEqual([])
    expect(['read', 'written']).toContain((await loaded(dir)).cache?.state)
  }
})

describe('processes', () => {
  const script = (body: string) => `
    import { loadModel } from ${JSON.stringify(path.join(root, 'dist/index.js'))}
    import { rmSync } from 'node:fs'
    const dir = process.argv[1]
    const load = async () => {
      const model = await loadModel(dir, { device: 'cpu', weights: 'int8', cache: true })
      await model.dispose()
      return model.info.cache
    }
    ${body}`
  const node = (body: string, dir: string) => ['--input-type=module', '-e', script(body), dir]
  const once = 'console.log(JSON.stringify(await load()))'

  test('killed while writing: no part of a file is used, and what is left is cleared away', async () => {
    const dir = copy()
    const { answer } = await loaded(dir, int8)
    const forever = `for (;;) { await load(); rmSync(${JSON.stringify(cacheOf(dir))}); console.log('.') }`
    for (let i = 0; i < 8; i++) {
      const child = spawn(process.execPath, node(forever, dir))
      await firstWord(child)
      await until(() => i % 2 === 1 || leftIn(dir).some((name) => name.endsWith('.tmp')))
      await new Promise((resolve) => setTimeout(resolve, i))
      child.kill('SIGKILL')
      await new Promise((resolve) => child.once('close', resolve))
      const again = await loaded(dir)
      expect(again.answer).toEqual(answer)
      expect(['read', 'written']).toContain(again.cache?.state)
      rmSync(cacheOf(dir))
    }
    expect((await loaded(dir)).cache).toMatchObject({ state: 'written' })
    expect(leftIn(dir)).toEqual(['drivlm-int8.cache'])
  }, 60_000)

  test('that load at once all work, and leave one file', async () => {
    const dir = copy()
    const all = [1, 2, 3].map(() => spawn(process.execPath, node(once, dir)))
    const states = (await Promise.all(all.map(firstWord))).map((line) => JSON.parse(line).state)
    expect(states.every((state) => state === 'written' || state === 'read')).toBe(true)
    expect(states).toContain('written')
    expect(leftIn(dir)).toEqual(['drivlm-int8.cache'])
    expect((await loaded(dir)).cache).toMatchObject({ state: 'read' })
  }, 30_000)

  test('without room on the disk a load goes on, and says why', () => {
    const dir = copy()
    const limited = spawnSync('bash', ['-c', 'ulimit -f 1000; exec "$0" "$@"', process.execPath, ...node(once, dir)])
    expect(JSON.parse(limited.stdout.toString())).toEqual({
      file: cacheOf(dir),
      state: 'none',
      reason: expect.stringMatching(/\.tmp: cannot be written \(File too large\)\.$/),
    })
    expect(leftIn(dir)).toEqual([])
  })

  // root may write everywhere: as another user, where that one can read this package.
  const user = process.getuid?.() === 0 ? { uid: 65534, gid: 65534 } : {}
  const asUser = spawnSync(process.execPath, ['-e', 'require("fs").readFileSync("dist/index.js")'], {
    cwd: root,
    ...user,
  })
  test.skipIf(asUser.status !== 0)('in a folder that cannot be written a load goes on, and says why', () => {
    const dir = copy()
    chmodSync(path.dirname(dir), 0o755)
    chmodSync(dir, 0o555)
    const refused = spawnSync(process.execPath, node(once, dir), user)
    chmodSync(dir, 0o755)
    expect(JSON.parse(refused.stdout.toString())).toMatchObject({
      state: 'none',
      reason: expect.stringMatching(/cannot be created \(Permission denied\)\.$/),
    })
  })
})

test('a folder in the place of the file is left alone', async () => {
  const dir = copy()
  mkdirSync(cacheOf(dir))
  writeFileSync(path.join(cacheOf(dir), 'mine'), '')
  const { cache } = await loaded(dir)
  expect(cache).toMatchObject({ state: 'none', reason: expect.stringMatching(/cannot be replaced/) })
  expect(existsSync(path.join(cacheOf(dir), 'mine'))).toBe(true)
  expect(leftIn(dir)).toEqual(['drivlm-int8.cache'])
})

test('where nothing is packed nothing is kept; each kind of device has its own file', async () => {
  const dir = copy()
  const none = { state: 'none', reason: 'This device packs no weights.' }
  expect((await loaded(dir, { device: 'cpu', precision: 'f32', cache: true })).cache).toMatchObject(none)
  expect(leftIn(dir)).toEqual([])
  expect(await modelError(loadModel({ ...int8, cache: 1 as never }), 'BAD_ARGUMENT')).toContain('true or false')
  const checkpoint = { dir: streetTiny, files: [], tensors: [] }
  const places = await Promise.all(
    ['cpu', 'cuda:1'].map((device) => weightCachePlace(checkpoint, { device, weights: 'int8' })),
  )
  expect(places.map(({ file }) => path.basename(file))).toEqual(['drivlm-int8.cache', 'drivlm-int8-cuda.cache'])
})

/** What a child writes first; what it wrote on stderr if it ended before. */
function firstWord(child: ChildProcess): Promise<string> {
  return new Promise((resolve, reject) => {
    let errors = ''
    child.stderr!.on('data', (chunk) => {
      errors += chunk
    })
    child.stdout!.once('data', (chunk) => resolve(String(chunk)))
    child.once('close', () => reject(new Error(errors)))
  })
}

async function until(done: () => boolean): Promise<void> {
  for (let i = 0; i < 2000 && !done(); i++) await new Promise((resolve) => setImmediate(resolve))
}

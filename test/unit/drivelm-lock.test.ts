import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { pathToFileURL } from 'node:url'
import { Worker } from 'node:worker_threads'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { lockFile, lockFolder } from '../../lib/folder-lock.ts'

let dir: string
let folders = 0

beforeAll(() => {
  dir = mkdtempSync(path.join(os.tmpdir(), 'drivlm-lock-'))
})
afterAll(() => rmSync(dir, { recursive: true }))

const fresh = (): string => path.join(dir, `out${folders++}`)
const lockOf = (folder: string): string => path.join(folder, 'run.lock')
const module = pathToFileURL(path.join(import.meta.dirname, '../../dist/folder-lock.js')).href
const busy = { code: 'BAD_ARGUMENT', message: expect.stringMatching(/is being written by/) }

/** A folder with a lock as this process makes it, changed. */
async function locked(change: Record<string, unknown>): Promise<string> {
  const folder = fresh()
  const unlock = await lockFolder(folder)
  const owner = JSON.parse(readFileSync(lockOf(folder), 'utf8'))
  await unlock()
  writeFileSync(lockOf(folder), JSON.stringify({ ...owner, ...change }))
  return folder
}

function age(folder: string, seconds: number): void {
  const then = new Date(Date.now() - seconds * 1000)
  utimesSync(lockOf(folder), then, then)
}

async function expectFree(folder: string): Promise<void> {
  const unlock = await lockFolder(folder)
  expect(readdirSync(folder)).toEqual(['run.lock'])
  await unlock()
  expect(readdirSync(folder)).toEqual([])
}

describe('the lock of an output folder', () => {
  test('is held by one and given back', async () => {
    const folder = path.join(fresh(), 'deep', 'down')
    const unlock = await lockFolder(folder)
    await expect(lockFolder(folder)).rejects.toMatchObject({
      ...busy,
      message: expect.stringContaining(`process ${process.pid} on ${os.hostname()}`),
    })
    await unlock()
    await unlock()
    await expectFree(folder)
  })

  test('many who want it at once: one gets it', async () => {
    const folder = fresh()
    const all = await Promise.allSettled(Array.from({ length: 20 }, () => lockFolder(folder)))
    expect(all.filter(({ status }) => status === 'fulfilled')).toHaveLength(1)
  })

  test('of a dead process is taken over, by one', async () => {
    const { pid } = spawnSync(process.execPath, ['-e', ''])
    for (let round = 0; round < 20; round++) {
      const folder = await locked({ pid })
      const all = await Promise.allSettled(Array.from({ length: 20 }, () => lockFolder(folder)))
      const [won, ...others] = all.filter(({ status }) => status === 'fulfilled')
      expect(others).toEqual([])
      expect(readdirSync(folder)).toEqual(['run.lock'])
      await (won as PromiseFulfilledResult<() => Promise<void>>).value()
    }
  })

  test('is taken over also if one who tried was killed at it', async () => {
    const { pid } = spawnSync(process.execPath, ['-e', ''])
    const folder = await locked({ pid })
    const claim = `${lockOf(folder)}.claim`
    writeFileSync(claim, '')
    await expect(lockFolder(folder)).rejects.toMatchObject({
      code: 'BAD_ARGUMENT',
      message: expect.stringMatching(/other runs keep locking it/),
    })
    const then = new Date(Date.now() - 120_000)
    utimesSync(claim, then, then)
    await expectFree(folder)
  })

  test('is taken over at once if one who tried and is gone had said who it was', async () => {
    const { pid } = spawnSync(process.execPath, ['-e', ''])
    for (let round = 0; round < 10; round++) {
      const folder = await locked({ pid })
      writeFileSync(`${lockOf(folder)}.claim`, readFileSync(lockOf(folder)))
      const all = await Promise.allSettled(Array.from({ length: 20 }, () => lockFolder(folder)))
      const won = all.filter(({ status }) => status === 'fulfilled')
      expect(won).toHaveLength(1)
      expect(readdirSync(folder)).toEqual(['run.lock'])
      await (won[0] as PromiseFulfilledResult<() => Promise<void>>).value()
    }
  })

  test('is never found empty, at whatever moment its maker is killed', async () => {
    const script = `const { lockFolder } = await import(${JSON.stringify(module)})
      for (;;) await (await lockFolder(process.argv[1]))()`
    const folder = fresh()
    for (let kill = 0; kill < 30; kill++) {
      const child = spawn(process.execPath, ['--input-type=module', '-e', script, folder], { stdio: 'ignore' })
      const gone = new Promise((resolve) => child.on('exit', resolve))
      while (child.exitCode === null && !existsSync(lockOf(folder))) await new Promise((next) => setImmediate(next))
      await new Promise((resolve) => setTimeout(resolve, Math.random() * 3))
      child.kill('SIGKILL')
      await gone
      await expectFree(folder)
    }
  })

  test('of a process whose number is used again is taken over', async () => {
    await expectFree(await locked({ started: '1' }))
  })

  // A child process, or a worker in one, that locks the folder given to it, says so on a line, and stays.
  const holder = `const { lockFolder } = await import(${JSON.stringify(module)})
    await lockFolder(process.argv.at(-1)); console.log('locked'); setInterval(() => {}, 1000)`

  test('of a live process is respected, however old', async () => {
    const folder = fresh()
    const child = spawn(process.execPath, ['--input-type=module', '-e', holder, folder])
    try {
      await once(child.stdout, 'data')
      age(folder, 3600)
      await expect(lockFolder(folder)).rejects.toMatchObject(busy)
      child.kill('SIGKILL')
      await new Promise((resolve) => child.on('exit', resolve))
      await expectFree(folder)
    } finally {
      child.kill('SIGKILL')
    }
  })

  test('of an earlier version, which did not keep it open, is respected while its process lives', async () => {
    await expect(lockFolder(await locked({ thread: undefined }))).rejects.toMatchObject(busy)
  })

  test('of a living worker is respected, of one that was terminated it is taken over, by one', async () => {
    for (let round = 0; round < 5; round++) {
      const folder = fresh()
      const script = `data:text/javascript,${encodeURIComponent(holder)}`
      const worker = new Worker(new URL(script), { argv: [folder], stdout: true })
      await once(worker.stdout, 'data')
      age(folder, 3600)
      await expect(lockFolder(folder)).rejects.toMatchObject(busy)
      await worker.terminate()
      expect(existsSync(lockOf(folder))).toBe(true)
      const all = await Promise.allSettled(Array.from({ length: 10 }, () => lockFolder(folder)))
      const won = all.filter(({ status }) => status === 'fulfilled')
      expect(won).toHaveLength(1)
      expect(readdirSync(folder)).toEqual(['run.lock'])
      await (won[0] as PromiseFulfilledResult<() => Promise<void>>).value()
    }
  })

  test('of another machine is alive while its time stamp moves', async () => {
    const folder = await locked({ place: 'elsewhere', host: 'other' })
    await expect(lockFolder(folder)).rejects.toMatchObject({
      ...busy,
      message: expect.stringContaining('on other. Wait for it'),
    })
    age(folder, 120)
    await expectFree(folder)
  })

  test.each(['', '{"pid": ', 'null', '[]', '{"pid": "x"}'])('that reads %j is given a minute', async (content) => {
    const folder = fresh()
    mkdirSync(folder)
    writeFileSync(lockOf(folder), content)
    await expect(lockFolder(folder)).rejects.toMatchObject(busy)
    age(folder, 120)
    await expectFree(folder)
  })

  test('is not removed by one who lost it', async () => {
    const folder = fresh()
    const unlock = await lockFolder(folder)
    rmSync(lockOf(folder))
    const second = await lockFolder(folder)
    await unlock()
    expect(existsSync(lockOf(folder))).toBe(true)
    await second()
    expect(existsSync(lockOf(folder))).toBe(false)
  })

  test('a folder that cannot be made is named', async () => {
    const file = path.join(dir, 'file')
    writeFileSync(file, '')
    await expect(lockFolder(file)).rejects.toMatchObject({
      code: 'BAD_ARGUMENT',
      message: expect.stringContaining(`${file} cannot be written as an output folder`),
    })
  })
})

describe('the lock of an output file', () => {
  const lockedElsewhere = async (seconds: number): Promise<string> => {
    const folder = await locked({ place: 'elsewhere', host: 'other' })
    age(folder, seconds)
    return lockOf(folder).replace(/\.lock$/, '')
  }

  test('is held by one, and of a dead process taken over', async () => {
    const folder = fresh()
    mkdirSync(folder)
    const file = path.join(folder, 'a[b.mcap')
    const unlock = await lockFile(file)
    expect(readdirSync(folder)).toEqual(['a[b.mcap.lock'])
    await expect(lockFile(file)).rejects.toMatchObject(busy)
    const text = readFileSync(`${file}.lock`, 'utf8')
    await unlock()
    const { pid } = spawnSync(process.execPath, ['-e', ''])
    writeFileSync(`${file}.lock`, JSON.stringify({ ...JSON.parse(text), pid }))
    await (await lockFile(file))()
    expect(readdirSync(folder)).toEqual([])
  })

  test('of another machine is waited for: refused once its time stamp moves, taken over once it has stood still', async () => {
    const told: string[] = []
    const still = await lockedElsewhere(59)
    await (await lockFile(still, { onWait: (who) => told.push(who) }))()
    expect(told).toEqual([`process ${process.pid} on other`])
    const moving = await lockedElsewhere(20)
    const waits = lockFile(moving)
    setTimeout(() => utimesSync(`${moving}.lock`, new Date(), new Date()), 100)
    await expect(waits).rejects.toMatchObject(busy)
  })

  test('is not waited for any longer by who gives up', async () => {
    const file = await lockedElsewhere(0)
    await expect(lockFile(file, { signal: AbortSignal.timeout(50) })).rejects.toMatchObject({ code: 'ABORTED' })
  })

  test('where nothing can be written is refused at once', async () => {
    const refused = { code: 'BAD_DATA', message: expect.stringMatching(/cannot be written: ENOENT/) }
    await expect(lockFile(path.join(fresh(), 'a.mcap'))).rejects.toMatchObject(refused)
  })
})

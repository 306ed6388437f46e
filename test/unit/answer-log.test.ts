/** The answers of `annotate` on disk: what a kill leaves of their lines, and lines that are not ours. */
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
} from 'node:fs'
import { open } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { afterAll, beforeAll, expect, it, vi } from 'vitest'
import { type AnsweredMoment, AnswerLog, mergeAnswers, readAnswers } from '../../lib/logs/answers.ts'

let dir: string
beforeAll(() => {
  dir = mkdtempSync(path.join(os.tmpdir(), 'answer-log-'))
})
afterAll(() => rmSync(dir, { recursive: true, force: true }))

const run = { model: 'street-tiny' }
const time = { sec: 1, nsec: 0 }
const moment = (number: number, more: Partial<AnsweredMoment> = {}): AnsweredMoment => ({
  moment: number,
  moments: 3,
  model: 'm',
  timestamp: time,
  cameras: {},
  answers: [],
  ...more,
})
const asked = (question: string): Pick<AnsweredMoment, 'answers'> => ({
  answers: [{ question, answer: 'Yes.', kind: 'ask', boxes: [] }],
})

/** A finished file of these moments. */
async function finished(name: string, lines: readonly AnsweredMoment[]): Promise<string> {
  const file = path.join(dir, `${name}.mcap`)
  const log = await AnswerLog.create(file, run)
  for (const line of lines) await log.write(line)
  await log.close({ complete: true })
  return file
}

/** A run of three moments that was killed: its lines. */
async function killed(name: string): Promise<string> {
  const file = path.join(dir, `${name}.mcap`)
  const log = await AnswerLog.create(file, run)
  for (const number of [0, 1, 2]) await log.write(moment(number))
  return file
}

it('goes on from every byte at which its lines may have been cut', async () => {
  const file = await killed('cut')
  const lines = readFileSync(`${file}.journal`)
  const text = lines.toString()
  for (let bytes = lines.length; bytes >= 0; bytes--) {
    truncateSync(`${file}.journal`, bytes)
    const whole = text.slice(0, bytes).split('\n').length - 2 // without the head, and what has no end
    const log = await AnswerLog.create(file, run, { resume: true })
    expect(log.lines.map((line) => line.moment)).toEqual([0, 1, 2].slice(0, Math.max(0, whole)))
    // Opening took nothing away.
    expect(
      readFileSync(`${file}.journal`, 'utf8').startsWith(text.slice(0, text.lastIndexOf('\n', bytes - 1) + 1)),
    ).toBe(true)
  }
})

it('says which line is damaged, and that another run is another run', async () => {
  const file = await killed('damaged')
  await expect(AnswerLog.create(file, { model: 'other' }, { resume: true })).rejects.toMatchObject({
    code: 'BAD_ARGUMENT',
  })
  appendFileSync(`${file}.journal`, '{"moment":\n')
  await expect(AnswerLog.create(file, run, { resume: true })).rejects.toMatchObject({
    code: 'BAD_DATA',
    message: expect.stringContaining('line 5'),
  })
  expect(existsSync(`${file}.journal`)).toBe(true)
})

it.each(['{"moment":1}', '{"moment":1,"timestamp":{"sec":1,"nsec":0},"cameras":{},"answers":[null]}', 'null'])(
  'a line that is JSON and no moment is damaged: %s',
  async (line) => {
    const file = await killed(`no-moment-${line.length}`)
    appendFileSync(`${file}.journal`, `${line}\n`)
    await expect(AnswerLog.create(file, run, { resume: true })).rejects.toMatchObject({
      code: 'BAD_DATA',
      message: expect.stringContaining('line 5'),
    })
  },
)

it('where it cannot be written, it says so', async () => {
  await expect(AnswerLog.create(path.join(dir, 'none', 'a.mcap'), run)).rejects.toMatchObject({
    code: 'BAD_DATA',
    message: expect.stringMatching(/a\.mcap\.journal: cannot be written: ENOENT/),
  })
  mkdirSync(path.join(dir, 'folder.mcap.journal'))
  await expect(AnswerLog.create(path.join(dir, 'folder.mcap'), run)).rejects.toMatchObject({
    code: 'BAD_DATA',
    message: expect.stringMatching(/cannot be read: EISDIR/),
  })
})

it.skipIf(!existsSync('/dev/full'))('a full disk: an error, its lines stay, nothing half written does', async () => {
  const file = await killed('full')
  const log = await AnswerLog.create(file, run, { resume: true })
  symlinkSync('/dev/full', `${file}.partial`)
  await expect(log.close({ complete: true })).rejects.toMatchObject({
    code: 'BAD_DATA',
    message: expect.stringMatching(/full\.mcap: cannot be written: ENOSPC/),
  })
  expect([existsSync(file), existsSync(`${file}.partial`), existsSync(`${file}.journal`)]).toEqual([false, false, true])
  await (await AnswerLog.create(file, run, { resume: true })).close({ complete: true })
  expect((await readAnswers(file)).map((line) => line.moment)).toEqual([0, 1, 2])
})

it('a disk that takes a part of a line: the line is whole or an error', async () => {
  const file = path.join(dir, 'part.mcap')
  const log = await AnswerLog.create(file, run)
  const handle = await open(`${file}.journal`)
  const shared = Object.getPrototypeOf(handle) as typeof handle
  const { write } = shared
  await handle.close()
  const part = vi.spyOn(shared, 'write').mockImplementation(function (this: typeof handle, ...given: unknown[]) {
    const bytes = Buffer.from(given[0] as string)
    return write.call(this, bytes.subarray(0, bytes.length >> 1) as never) as never
  })
  await log.write(moment(0)).finally(() => part.mockRestore())
  await log.write(moment(1))
  const again = await AnswerLog.create(file, run, { resume: true })
  expect(again.lines.map((line) => line.moment)).toEqual([0, 1])
})

it('merges shards that had no moment, and refuses those of other questions', async () => {
  const [first, none, other] = [
    await finished('first', [moment(0, asked('A?')), moment(1, { skipped: 'no picture' })]),
    await finished('none', []),
    await finished('other', [moment(2, asked('B?'))]),
  ]
  const last = await finished('last', [moment(2, asked('A?'))])
  const out = path.join(dir, 'merged.mcap')
  expect(await mergeAnswers([none, first, last], out)).toEqual({ moments: 3, missing: [] })
  expect((await readAnswers(out)).map((line) => line.moment)).toEqual([0, 1, 2])
  expect(await readAnswers(none)).toEqual([])
  await expect(mergeAnswers([first, other], out)).rejects.toMatchObject({
    code: 'BAD_DATA',
    message: expect.stringMatching(/other\.mcap is of another run: it was asked other questions/),
  })
  const elsewhere = await finished('elsewhere', [moment(2, { ...asked('A?'), run: 'another log' })])
  await expect(mergeAnswers([first, elsewhere], out)).rejects.toMatchObject({
    code: 'BAD_DATA',
    message: expect.stringMatching(/elsewhere\.mcap is of another run: its log, model, questions or settings/),
  })
  await expect(mergeAnswers([none], out)).rejects.toMatchObject({ code: 'BAD_DATA' })
})

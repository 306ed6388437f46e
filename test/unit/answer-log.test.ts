/** The answers of `annotate` on disk: what a kill leaves of their lines, and lines that are not ours. */
import { appendFileSync, existsSync, mkdtempSync, readFileSync, rmSync, truncateSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { type AnsweredMoment, AnswerLog } from '../../lib/logs/answers.ts'

let dir: string
beforeAll(() => {
  dir = mkdtempSync(path.join(os.tmpdir(), 'answer-log-'))
})
afterAll(() => rmSync(dir, { recursive: true, force: true }))

const run = { model: 'street-tiny' }
const moment = (number: number) => ({ moment: number }) as AnsweredMoment

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

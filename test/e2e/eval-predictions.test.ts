import { spawn } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { drivlm, type Ran } from './run.ts'

const fixtures = 'test/fixtures/drivelm'
const data = `${fixtures}/mini_test_eval.json`
const predictions = `${fixtures}/mini_output_eval_noisy.json`
const expected = JSON.parse(readFileSync(`${fixtures}/mini_expected_scores.json`, 'utf8')).runs[
  'mini_output_eval_noisy.json'
]
/** Gated questions are not judged. */
const judged = expected.counts.chatgpt + expected.counts.match

let dir: string
let runs = 0
let judgements: string
/** A judge that knows the expected numbers, takes a moment, and notes what it was asked. */
let judge: string
let calls: string

beforeAll(() => {
  dir = mkdtempSync(path.join(os.tmpdir(), 'drivlm-scores-'))
  judgements = path.join(dir, 'judgements.json')
  calls = path.join(dir, 'calls.txt')
  writeFileSync(judgements, JSON.stringify(expected.judge_scores))
  const program = path.join(dir, 'judge.mjs')
  writeFileSync(
    program,
    `import { appendFileSync, readFileSync } from 'node:fs'
    const { id, question, answer, reference } = JSON.parse(readFileSync(0, 'utf8'))
    if (![question, answer, reference].every((text) => typeof text === 'string')) process.exit(3)
    const { [id]: score } = JSON.parse(readFileSync(${JSON.stringify(judgements)}, 'utf8'))
    appendFileSync(${JSON.stringify(calls)}, id + '\\n')
    console.log(score)`,
  )
  judge = `'${process.execPath}' '${program}'`
})

afterAll(() => rmSync(dir, { recursive: true }))

const fresh = (): string => path.join(dir, `run${runs++}`)
const score = (...flags: string[]): Promise<Ran> =>
  drivlm(['eval', '--data', data, '--predictions', predictions, ...flags])
const called = (): string[] => (existsSync(calls) ? readFileSync(calls, 'utf8').trim().split('\n') : [])

// biome-ignore lint/suspicious/noExplicitAny: the sheet as it is printed
function expectExpected(sheet: any): void {
  expect(sheet.score.final).toBeCloseTo(expected.final_score, 9)
  expect(sheet.score.accuracy).toBeCloseTo(expected.accuracy, 9)
  expect(sheet.score.chatgpt).toBeCloseTo(expected.chatgpt, 9)
  expect(sheet.score.match).toBeCloseTo(expected.match, 9)
  for (const [name, value] of Object.entries(expected.language))
    expect(sheet.score.language[name]).toBeCloseTo(value as number, 9)
  expect(sheet.score.counts).toEqual(expected.counts)
  expect(sheet.score.gated).toEqual(expected.skipped)
}

describe('drivlm eval with predictions', () => {
  it('gives the expected scores with judgements from a file', async () => {
    const { code, stdout, stderr } = await score('--judgements', judgements, '--json')
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    expectExpected(JSON.parse(stdout))
  })

  it('prints the sheet and writes the report', async () => {
    const out = fresh()
    const { stdout } = await score('--judgements', judgements, '--out', out)
    expect(stdout).toMatch(
      /^mini_output_eval_noisy\.json on mini_test_eval\.json: 59 of 59 questions answered, 8 moments$/m,
    )
    expect(stdout).toMatch(/accuracy +0\.7895 +19 questions; leniently 0\.\d{4}, not official/)
    expect(stdout).toMatch(/chatgpt +92\.63 +16 answers/)
    expect(stdout).toMatch(/BLEU-1 to 4 +0\.9469 {2}0\.9192 {2}0\.8929 {2}0\.8663/)
    expect(stdout).toMatch(/match +85\.92 +6 answers: coordinate F1 \d+\.\d\d, judge \d+\.\d\d/)
    expect(stdout).toMatch(/final +0\.8701/)
    expect(stdout).toMatch(/\d+ questions not counted: they name objects/)
    expect(stdout).not.toContain('Missing')
    for (const name of ['report.html', 'report.json', 'report.csv']) expect(existsSync(path.join(out, name))).toBe(true)
    expect(existsSync(path.join(out, 'output.json'))).toBe(false) // the predictions are somebody else's
    expect(readFileSync(path.join(out, 'report.html'), 'utf8')).toContain('Mini-InternVL-DA-1B') // beside the published ones
  })

  it('says what is missing without a judge, and invents nothing', async () => {
    const { stdout } = await score()
    expect(stdout).toMatch(/chatgpt +– /)
    expect(stdout).toMatch(/match +– .*coordinate F1 \d+\.\d\d, judge –/)
    expect(stdout).toMatch(/final +–/)
    expect(stdout).toMatch(/Missing: chatgpt: 16 answers need a judge/)
    expect(stdout).toMatch(/Missing: match: 6 answers need a judge/)
  })

  it('asks a judge command for each answer once, over several calls too', async () => {
    const out = fresh()
    rmSync(calls, { force: true })
    const { code, stdout, stderr } = await score('--judge-command', judge, '--out', out, '--json')
    expect({ code, stderr: stderr.replace(/^Scoring.*\n/gm, '') }).toEqual({ code: 0, stderr: '' })
    expectExpected(JSON.parse(stdout))
    expect(new Set(called()).size).toBe(judged)
    expect(called()).toHaveLength(judged)
    expectExpected(JSON.parse((await score('--judge-command', judge, '--out', out, '--json')).stdout))
    expect(called()).toHaveLength(judged)
    // What was collected is a file of judgements, and a changed answer is judged again.
    const kept = path.join(out, 'judgements.jsonl')
    expectExpected(JSON.parse((await score('--judgements', kept, '--json')).stdout))
    const changed = JSON.parse(readFileSync(predictions, 'utf8'))
    const first = expected.evaluated.find((id: string) => id in expected.judge_scores)
    changed.find(({ id }: { id: string }) => id === first).answer += ' '
    const file = path.join(dir, 'changed.json')
    writeFileSync(file, JSON.stringify(changed))
    const again = ['eval', '--data', data, '--predictions', file, '--judge-command', judge, '--out', out]
    expect((await drivlm(again)).code).toBe(0)
    expect(called().slice(judged)).toEqual([first])
    expect(readFileSync(kept, 'utf8').trim().split('\n')).toHaveLength(judged)
  })

  it('goes on with the judge after an interruption', async () => {
    const out = fresh()
    rmSync(calls, { force: true })
    const args = ['eval', '--data', data, '--predictions', predictions, '--out', out, '--judge-jobs', '1']
    const child = spawn(process.execPath, ['dist/cli/main.js', ...args, '--judge-command', judge])
    let stderr = ''
    child.stderr.on('data', (chunk) => {
      stderr += chunk
    })
    const ended = new Promise((resolve) => child.on('close', resolve))
    const kept = path.join(out, 'judgements.jsonl')
    while (!(existsSync(kept) && readFileSync(kept, 'utf8').split('\n').length > 4)) await sleep(3)
    child.kill('SIGINT')
    expect(await ended).toBe(130)
    expect(stderr).toMatch(
      /Stopped\.\nJudgements are kept in .*judgements\.jsonl; the same command goes on from there\.\n$/,
    )
    const before = readFileSync(kept, 'utf8').trim().split('\n').length
    writeFileSync(kept, `${readFileSync(kept, 'utf8')}{"id":"half`) // as a kill may leave it
    rmSync(calls)
    const { code } = await drivlm([...args, '--judge-command', judge])
    expect(code).toBe(0)
    expect(called()).toHaveLength(judged - before)
    expectExpected(JSON.parse((await score('--judgements', kept, '--json')).stdout))
  })

  it('waits for nothing that a judge leaves in the background', async () => {
    const done = path.join(dir, 'done')
    const { code } = await score('--judge-command', `(until [ -e '${done}' ]; do sleep 1; done) & echo 70`, '--json')
    writeFileSync(done, '')
    expect(code).toBe(0)
  })

  it.each([
    ['echo good', /replied "good", expected a number only/],
    ['echo so >&2; exit 4', /ended with status 4 \(so\) for question/],
    ['no-such-judge-program', /ended with status 127 \(.*not found\) for question/],
    ['yes', /wrote more than 65536 characters for question/],
  ])('names what is wrong with the judge %j', async (command, message) => {
    const { code, stderr } = await score('--judge-command', command)
    expect(code).toBe(1)
    expect(stderr).toMatch(/^ModelError \[BAD_DATA\] The judge command/)
    expect(stderr).toMatch(message)
  })

  it('names missing and unknown answers, and lists them with --keep-going', async () => {
    const some = JSON.parse(readFileSync(predictions, 'utf8'))
    const [gone] = some.splice(5, 1)
    some.push({ id: 'from elsewhere', question: '', answer: '' })
    const file = path.join(dir, 'some.json')
    writeFileSync(file, JSON.stringify(some))
    const flags = ['eval', '--data', data, '--predictions', file]
    const { code, stderr } = await drivlm(flags)
    expect(code).toBe(1)
    expect(stderr).toMatch(
      new RegExp(`^ModelError \\[BAD_DATA\\] No prediction for question ${gone.id} \\(1 missing\\)`),
    )
    const going = await drivlm([...flags, '--keep-going'])
    expect(going.code).toBe(0)
    expect(going.stdout).toMatch(
      /2 problems skipped\n.*No prediction for question .*\n.*answers question from elsewhere/,
    )
    const missing = await drivlm([...flags.slice(0, 3), '--predictions', path.join(dir, 'none.json')])
    expect(missing.stderr).toMatch(/^ModelError \[BAD_DATA\] .*none\.json/)
    const folder = await drivlm([...flags.slice(0, 3), '--predictions', fixtures])
    expect(folder.stderr).toMatch(/^ModelError \[BAD_DATA\] .* is a folder without the journal of a run/)
  })

  it('names predictions of another file where the data has no tags, and data without a question', async () => {
    const [plain, empty, answers] = ['plain.json', 'empty.json', 'answers.json'].map((name) => path.join(dir, name))
    writeFileSync(plain!, JSON.stringify([{ id: '1', views: 'a.png', question: 'Why?', answer: 'So.' }]))
    writeFileSync(empty!, '[]')
    writeFileSync(answers!, JSON.stringify([{ id: '2', answer: 'So.' }]))
    const [foreign, going, nothing] = await Promise.all([
      drivlm(['eval', '--data', plain!, '--predictions', answers!]),
      drivlm(['eval', '--data', plain!, '--predictions', answers!, '--keep-going']),
      drivlm(['eval', '--data', empty!, '--predictions', answers!]),
    ])
    expect(foreign).toMatchObject({ code: 1, stderr: expect.stringMatching(/BAD_DATA.*answers question 2, which/) })
    expect(going).toMatchObject({ code: 0, stdout: expect.stringMatching(/1 problem skipped\n.*answers question 2/) })
    expect(nothing).toMatchObject({ code: 1, stderr: expect.stringMatching(/BAD_DATA.*has no question to score/) })
  })

  it('scores a part of the data', async () => {
    const limited = JSON.parse((await score('--limit', '16', '--json')).stdout)
    expect(limited.totals).toMatchObject({ frames: 2, questions: 16, answered: 16 })
    const language = JSON.parse((await score('--tags', '2', '--json')).stdout)
    expect(language.score.counts).toEqual({ accuracy: 0, chatgpt: 0, language: 7, match: 0 })
    expect(language.score.language.CIDEr).toBeCloseTo(expected.language.CIDEr, 9)
    // Without the first question of a frame there is nothing to gate by.
    const located = JSON.parse((await score('--tags', '3', '--json')).stdout)
    expect(located.score.gated).toEqual([])
  })
})

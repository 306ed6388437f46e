import { spawn } from 'node:child_process'
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { pathToFileURL } from 'node:url'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { cameras } from '../../lib/views/cameras.ts'
import { Browser, findChromium } from '../fixtures/drivelm/chromium.mjs'
import { drivlm, type Ran, run } from './run.ts'

const fixture = 'test/fixtures/street-tiny-val'
const model = 'models/street-tiny'
const val = `${fixture}/val.json`
const outputs = [
  'journal.jsonl',
  'output.json',
  'problems.json',
  'report.csv',
  'report.html',
  'report.json',
  'submission.json',
]

let dir: string
let runs = 0
/** One whole run over the first 120 questions, to compare others with. */
let whole: string

beforeAll(async () => {
  dir = mkdtempSync(path.join(os.tmpdir(), 'drivlm-eval-'))
  whole = path.join(dir, 'whole')
  const { code, stderr } = await ask(whole, '--limit', '120')
  expect({ code, stderr: stderr.replace(/^(Asking|Writing) .*\n/gm, '') }).toEqual({ code: 0, stderr: '' })
}, 120_000)

afterAll(() => rmSync(dir, { recursive: true }))

const fresh = (): string => path.join(dir, `run${runs++}`)
const text = (...parts: string[]): string => readFileSync(path.join(...parts), 'utf8')
const ask = (out: string, ...flags: string[]): Promise<Ran> =>
  drivlm(['eval', '--data', val, '--images', fixture, '--model', model, '--out', out, ...flags])

interface Item {
  id: string
  question: string
  answer: string
}
const answers = (folder: string): Item[] => JSON.parse(text(folder, 'output.json'))

/** Starts a run, and hands its end out; `signal` goes to it once the journal has so many lines, or when it is told. */
async function stopped(
  out: string,
  signal: NodeJS.Signals,
  when: number | (() => boolean),
  ...flags: string[]
): Promise<Ran> {
  const args = ['dist/cli/main.js', 'eval', '--data', val, '--images', fixture, '--model', model, '--out', out]
  const child = spawn(process.execPath, [...args, ...flags])
  const ran: Ran = { code: null, stdout: '', stderr: '' }
  child.stdout.on('data', (chunk) => {
    ran.stdout += chunk
  })
  child.stderr.on('data', (chunk) => {
    ran.stderr += chunk
  })
  const ended = new Promise<void>((resolve) =>
    child.on('close', (code) => {
      ran.code = code
      resolve()
    }),
  )
  const journal = path.join(out, 'journal.jsonl')
  const now = typeof when === 'function' ? when : () => existsSync(journal) && text(journal).split('\n').length > when
  while (child.exitCode === null && !now()) await sleep(3)
  child.kill(signal)
  await ended
  return ran
}

describe('drivlm eval with a model', () => {
  it('says of data without questions that there are none, and not that they hide their answers', async () => {
    const empty = path.join(dir, 'empty.json')
    writeFileSync(empty, '[]')
    const { code, stdout } = await drivlm([
      'eval',
      '--data',
      empty,
      '--images',
      dir,
      '--model',
      model,
      '--out',
      fresh(),
    ])
    expect({ code, hides: stdout.includes('hides its answers') }).toEqual({ code: 0, hides: false })
    expect(stdout).toMatch(/: 0 of 0 questions answered, 0 moments/)
  })

  it('writes answers in the form of the challenge, and a report', async () => {
    const reference = JSON.parse(text(fixture, 'golden.json')).answers as { question: string; answer: string }[]
    const found = answers(whole)
    expect(found).toHaveLength(120)
    expect(Object.keys(found[0]!)).toEqual(['id', 'question', 'answer'])
    expect(found[0]!.id).toBe('scene-00_frame-00_0')
    expect(found[0]!.question).toMatch(/^<image>\nWhat are objects/)
    const submission = JSON.parse(text(whole, 'submission.json'))
    expect(Object.keys(submission)).toEqual(['method', 'team', 'authors', 'email', 'institution', 'country', 'results'])
    expect(submission.results).toEqual(found)
    const known = new Map<string, Set<string>>()
    for (const { question, answer } of reference) known.set(question, (known.get(question) ?? new Set()).add(answer))
    // The reference answers in f32; in bf16 a few near-ties fall the other way.
    const other = found.filter(({ question, answer }) => !known.get(question.slice('<image>\n'.length))?.has(answer))
    expect(other.length).toBeLessThan(4)
    for (const name of outputs) expect(statSync(path.join(whole, name)).size).toBeGreaterThan(2)
    expect(existsSync(path.join(whole, 'run.lock'))).toBe(false)
    const report = JSON.parse(text(whole, 'report.json'))
    expect(report.notes).toMatchObject({ device: 'cpu', precision: 'bf16', 'coordinate conversion': 'none' })
    expect(report.totals).toMatchObject({ frames: 10, questions: 120, answered: 120, problems: 0 })
    expect(report.latency.map(({ stage }: { stage: string }) => stage)).toContain('vision')
    const located = report.frames[0].questions.find(({ kind }: { kind: string }) => kind === 'locate')
    expect(located.boxes.reference[0]).toEqual({ camera: 'CAM_BACK_RIGHT', box: [592, 390.6, 769.6, 675] })
  })

  it('prints accuracy by kind, and the same as JSON without asking again', async () => {
    const before = text(whole, 'output.json')
    const { stdout, code } = await ask(whole, '--limit', '120', '--json')
    const sheet = JSON.parse(stdout)
    expect(code).toBe(0)
    expect(sheet.notes['asked in this call']).toBe('0 of 120')
    expect(sheet.notes.device).toBeUndefined() // nothing was loaded
    expect(text(whole, 'output.json')).toBe(before)
    const table = (await ask(whole, '--limit', '120')).stdout
    expect(table).toMatch(
      /^street-tiny on val\.json \(first questions 120\): 120 of 120 questions answered, 10 moments$/m,
    )
    const { exact } = sheet.overall
    expect(exact.count).toBe(120)
    expect(table).toMatch(new RegExp(`^ {2}all +${(100 * exact.value).toFixed(1)} % .* 120$`, 'm'))
    const locate = sheet.byKind.find(({ name }: { name: string }) => name === 'locate')
    expect(locate.lenient.right).toBeGreaterThan(locate.exact.right) // boxes by overlap
  })

  it('killed at random moments and resumed, it writes the same bytes', { timeout: 180_000 }, async () => {
    const out = fresh()
    for (let kill = 0; kill < 5; kill++) {
      const at = kill * 20 + Math.floor(Math.random() * 20)
      const { code } = await stopped(out, 'SIGKILL', at, '--limit', '120')
      expect(code).toBe(null)
      expect(existsSync(path.join(out, 'output.json'))).toBe(false)
    }
    expect(existsSync(path.join(out, 'run.lock'))).toBe(true) // nobody unlocked it; it is taken over
    const { code } = await ask(out, '--limit', '120')
    expect(code).toBe(0)
    for (const name of ['output.json', 'submission.json']) expect(text(out, name)).toBe(text(whole, name))
    const ids = text(out, 'journal.jsonl')
      .trim()
      .split('\n')
      .slice(1)
      .map((line) => JSON.parse(line).id)
    expect(new Set(ids).size).toBe(120)
    expect(ids).toHaveLength(120)
  })

  it.each([
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ] as const)('%s ends it cleanly and says how to go on', async (signal, status) => {
    const out = fresh()
    const { code, stderr, stdout } = await stopped(out, signal, 10, '--limit', '120')
    expect({ code, stdout }).toEqual({ code: status, stdout: '' })
    expect(stderr).toMatch(/^Stopped\.\n\d+ of 120 answers are kept in .*; the same command goes on from there\.\n$/m)
    const kept = Number(/^(\d+) of 120/m.exec(stderr)![1])
    const lines = text(out, 'journal.jsonl').split('\n')
    expect(lines).toHaveLength(kept + 2)
    expect(lines.at(-1)).toBe('')
    expect(existsSync(path.join(out, 'run.lock'))).toBe(false)
    expect((await ask(out, '--limit', '120')).code).toBe(0)
    expect(text(out, 'output.json')).toBe(text(whole, 'output.json'))
  })

  it('two runs at once do not share a folder', async () => {
    const out = fresh()
    let refused = false
    const first = stopped(out, 'SIGINT', () => refused)
    while (!existsSync(path.join(out, 'run.lock'))) await sleep(3)
    const { code, stderr } = await ask(out)
    refused = true
    expect(code).toBe(1)
    expect(stderr).toMatch(
      /ModelError \[BAD_ARGUMENT\] .* is being written by process \d+ on .*choose another output folder/,
    )
    expect((await first).code).toBe(130)
  })

  it('says what differs when a folder holds another run', async () => {
    const { code, stderr } = await ask(whole, '--limit', '120', '--max-new-tokens', '5')
    expect(code).toBe(1)
    expect(stderr).toMatch(/ModelError \[BAD_DATA\] .*the journal is of another run: settings .*"maxNewTokens": ?200/)
  })

  it('merged shards are one run', { timeout: 120_000 }, async () => {
    const shards = [fresh(), fresh(), fresh()]
    for (const [i, out] of shards.entries()) {
      const { code, stdout } = await ask(out, '--limit', '120', '--shard', `${i + 1}/3`)
      expect(code).toBe(0)
      expect(stdout).toContain(`(shard ${i + 1}/3, first questions 120)`)
    }
    const out = fresh()
    const early = await drivlm(['merge', shards[0]!, shards[2]!, '--out', out])
    expect(early.stderr).toMatch(/ModelError \[BAD_DATA\] .*shards are missing: 2\/3/)
    const { code, stdout } = await drivlm(['merge', ...shards, '--out', out])
    expect({ code, stdout }).toMatchObject({ code: 0, stdout: expect.stringMatching(/^120 answers of 3 runs are in/) })
    for (const name of ['output.json', 'submission.json']) expect(text(out, name)).toBe(text(whole, name))
    // The merged folder is a run: with the model nothing is left to ask, and as predictions it keeps its times.
    const sheet = JSON.parse((await ask(out, '--limit', '120', '--json')).stdout)
    expect(sheet.notes['asked in this call']).toBe('0 of 120')
    const given = ['eval', '--data', val, '--limit', '120', '--predictions', out, '--json']
    const scored = JSON.parse((await drivlm(given)).stdout)
    expect(scored.model).toBe('street-tiny')
    expect(scored.overall).toEqual(sheet.overall)
    expect(scored.latency).toEqual(sheet.latency)
  })

  it('draws from the seed, whatever was asked before', { timeout: 120_000 }, async () => {
    const [one, two, other] = [fresh(), fresh(), fresh()]
    const flags = ['--limit', '36', '--temperature', '2', '--max-new-tokens', '8']
    await ask(one, ...flags, '--seed', '7')
    await stopped(two, 'SIGKILL', 9, ...flags, '--seed', '7')
    await ask(two, ...flags, '--seed', '7')
    await ask(other, ...flags, '--seed', '8')
    expect(text(two, 'output.json')).toBe(text(one, 'output.json'))
    expect(text(other, 'output.json')).not.toBe(text(one, 'output.json'))
  })
})

describe('drivlm eval and bad data', () => {
  it('names a missing picture, keeps what was answered, and skips it with --keep-going', async () => {
    const images = path.join(dir, 'images')
    cpSync(fixture, images, { recursive: true })
    const gone = path.join(images, 'images/CAM_BACK/scene-02.png')
    rmSync(gone)
    const out = fresh()
    const flags = ['eval', '--data', val, '--images', images, '--model', model, '--out', out, '--limit', '48']
    const first = await drivlm(flags)
    expect(first.code).toBe(1)
    expect(first.stderr).toMatch(/ModelError \[BAD_VIEW\] scene-02_frame-02: No picture for CAM_BACK: .*scene-02\.png/)
    const { code, stdout } = await drivlm([...flags, '--keep-going'])
    expect(code).toBe(0)
    expect(stdout).toMatch(/: 36 of 48 questions answered/)
    expect(stdout).toMatch(/1 problem skipped\n {2}scene-02_frame-02: No picture for CAM_BACK/)
    expect(answers(out)).toHaveLength(36)
    expect(JSON.parse(text(out, 'problems.json'))).toMatchObject([{ id: 'scene-02_frame-02', code: 'BAD_VIEW' }])
    // A picture that is no picture is found out when it is looked at: earlier answers stay.
    writeFileSync(gone, 'not a picture')
    const broken = fresh()
    const at = [...flags.slice(0, 8), broken, '--limit', '48']
    const third = await drivlm(at)
    expect(third.code).toBe(1)
    expect(third.stderr).toMatch(
      /ModelError \[BAD_VIEW\] .*CAM_BACK.*\n24 of 48 answers are kept in .* With --keep-going/,
    )
    const fourth = await drivlm([...at, '--keep-going'])
    expect(fourth.code).toBe(0)
    expect(text(broken, 'output.json')).toBe(text(out, 'output.json'))
    // With the picture back, only its questions are asked.
    cpSync(`${fixture}/images/CAM_BACK/scene-02.png`, gone)
    expect((await drivlm(flags)).code).toBe(0)
    expect(answers(out)).toEqual(answers(whole).slice(0, 48))
  })

  const lines = (count: number): Record<string, unknown>[] =>
    Array.from({ length: count }, (_, i) => ({
      id: `q${i}`,
      views: cameras.map((camera) => `${camera}.png`),
      question: 'What is the weather like?',
      answer: 'It is dusk.',
      kind: 'status',
    }))
  const jsonl = (name: string, list: readonly unknown[]): string => {
    const file = path.join(dir, name)
    writeFileSync(file, list.map((one) => `${typeof one === 'string' ? one : JSON.stringify(one)}\n`).join(''))
    return file
  }
  const evaluate = (data: string, ...flags: string[]): Promise<Ran> =>
    drivlm([
      ...['eval', '--data', data, '--images', 'models/street-tiny/moments/dusk', '--model', model, '--out', fresh()],
      ...flags,
    ])

  it.each([
    [
      'an unknown camera',
      { id: 'x', views: { CAM_TOP: 'a.png' }, question: 'q' },
      /line 3, "x": unknown camera "CAM_TOP" in views; known are CAM_FRONT/,
    ],
    ['broken JSON', '{"id": "x", "views": {"CAM_FRONT": ', /line 3/],
    ['JSON of another form', '[1, 2]', /line 3/],
    [
      'an id that is there twice',
      { id: 'q0', views: { CAM_FRONT: 'CAM_FRONT.png' }, question: 'again' },
      /the question id "q0" is there twice/,
    ],
  ])('names %s with its place, and skips it with --keep-going', async (name, bad, message) => {
    const [a, b, c] = lines(3)
    const data = jsonl(`${name}.jsonl`, [a, b, bad, c])
    const { code, stderr } = await evaluate(data)
    expect(code).toBe(1)
    expect(stderr).toMatch(/^ModelError \[BAD_DATA\] /)
    expect(stderr).toMatch(message)
    const going = await evaluate(data, '--keep-going')
    expect(going.code).toBe(0)
    expect(going.stdout).toMatch(/3 of 3 questions answered/)
    expect(going.stdout).toMatch(message)
  })

  it('names broken JSON in a scene file', async () => {
    const cut = path.join(dir, 'cut.json')
    writeFileSync(cut, text(val).slice(0, 150_000))
    const { code, stderr } = await drivlm([
      'eval',
      '--data',
      cut,
      '--images',
      fixture,
      '--model',
      model,
      '--out',
      fresh(),
    ])
    expect(code).toBe(1)
    expect(stderr).toMatch(/^ModelError \[BAD_DATA\] .*cut\.json.*scene/)
  })

  it.each([
    ['a missing question file', ['--data', 'nowhere.json'], /ModelError \[BAD_DATA\] .*nowhere\.json/],
    ['a missing model', ['--model', 'nowhere'], /ModelError \[BAD_CHECKPOINT\] .*nowhere/],
    [
      'an output folder that is a file',
      ['--out', 'package.json'],
      /ModelError \[BAD_ARGUMENT\] package\.json cannot be written/,
    ],
  ])('names %s', async (_, [flag, value], message) => {
    const given = { '--data': val, '--images': fixture, '--model': model, '--out': fresh(), [flag!]: value! }
    const { code, stderr } = await drivlm(['eval', ...Object.entries(given).flat(), '--keep-going', '--limit', '1'])
    expect(code).toBe(1)
    expect(stderr).toMatch(message)
  })

  it.each([
    ['--shard', '5/4'],
    ['--shard', 'x'],
    ['--tags', '1,x'],
    ['--limit', '0'],
    ['--conversion', 'other'],
  ])('refuses %s %s', async (flag, value) => {
    const { code, stderr } = await drivlm(['eval', '--data', val, '--model', model, '--out', fresh(), flag, value])
    expect(code).toBe(2)
    expect(stderr).toContain(value)
  })

  it('wants either a model or predictions, and one judge', async () => {
    const neither = await drivlm(['eval', '--data', val])
    expect(neither.stderr).toMatch(/ModelError \[BAD_ARGUMENT\] There is nothing to evaluate; give --model/)
    const both = await drivlm(['eval', '--data', val, '--model', model, '--predictions', 'p.json'])
    expect(both.stderr).toMatch(/ModelError \[BAD_ARGUMENT\] Give --model .* or --predictions .*, not both/)
    const nowhere = await drivlm(['eval', '--data', val, '--model', model])
    expect(nowhere.stderr).toMatch(/ModelError \[BAD_ARGUMENT\] Give --out/)
    const judges = ['--judge-command', 'echo 1', '--judgements', 'j.json']
    const two = await drivlm(['eval', '--data', val, '--predictions', 'p.json', ...judges])
    expect(two.stderr).toMatch(/ModelError \[BAD_ARGUMENT\] Give --judge-command or --judgements, not both/)
    expect([neither, both, nowhere, two].map(({ code }) => code)).toEqual([1, 1, 1, 1])
  })

  it('runs question sets of the plain form, with hops and sentences', async () => {
    const set = lines(4).map((line, i) => ({ ...line, hop: i % 2, ...(i === 3 ? { answer: 'It is raining.' } : {}) }))
    const sheet = JSON.parse((await evaluate(jsonl('hops.jsonl', set), '--json')).stdout)
    expect(sheet.score).toBe(null)
    expect(sheet.overall.exact).toEqual({ value: 0.75, right: 3, count: 4 })
    expect(sheet.byKindAndHop).toEqual({
      'status H0': { value: 1, right: 2, count: 2 },
      'status H1': { value: 0.5, right: 1, count: 2 },
    })
    expect(sheet.captions.Bleu_1).toBeGreaterThan(0.5)
    const long = set.map((line) => ({ ...line, answer: 'It is dusk on a wide street.' }))
    const { stdout } = await evaluate(jsonl('sentences.jsonl', long))
    expect(stdout).toMatch(/By kind and number of hops\n {2}.*\n {2}status H0 +0\.0 % +2\n/)
    expect(stdout).toMatch(/Text metrics over all answers\n {2}BLEU-1 to 4 {2}0\.\d{4} /)
  })

  it('asks questions whose answers are hidden, and scores nothing', async () => {
    const set = lines(2).map(({ answer: _, ...line }) => line)
    const data = jsonl('hidden.jsonl', set)
    const { code, stdout } = await evaluate(data)
    expect(code).toBe(0)
    expect(stdout).toMatch(/hides its answers, so there is nothing to score here/)
    expect(stdout).not.toMatch(/Right answers/)
    const given = await drivlm(['eval', '--data', data, '--predictions', path.join(whole, 'output.json')])
    expect(given.stderr).toMatch(/ModelError \[BAD_DATA\] .* hides its answers/)
  })
})

describe('npm run eval:demo', () => {
  it('evaluates the bundled moments and the validation set within a minute', { timeout: 90_000 }, async () => {
    const out = fresh()
    const started = performance.now()
    const { code, stdout } = await run(['scripts/eval-demo.mjs', out])
    expect(performance.now() - started).toBeLessThan(60_000)
    expect(code).toBe(0)
    expect(stdout).toMatch(/on moments\.jsonl: 27 of 27 questions answered, 3 moments/)
    expect(stdout).toMatch(/on val\.json: 720 of 720 questions answered, 60 moments/)
    const { overall } = JSON.parse(text(out, 'val', 'report.json'))
    const golden = JSON.parse(text(fixture, 'golden.json')).answers as { answer: string; truth: string }[]
    const right = golden.filter(({ answer, truth }) => answer === truth).length
    expect(Math.abs(overall.exact.right - right) / 720).toBeLessThan(0.01)
  })
})

describe.skipIf(findChromium() === undefined)('the report in a browser', () => {
  it('draws the boxes that question, answer and reference name', async () => {
    const browser = new Browser(findChromium()!)
    try {
      await browser.open(pathToFileURL(path.resolve(whole, 'report.html')).href)
      const count = (selector: string): Promise<number> =>
        browser.evaluate(`document.querySelectorAll('.frame:first-child ${selector}').length`)
      expect(await count('rect.answer')).toBe(0)
      const { frames } = JSON.parse(text(whole, 'report.json'))
      const { id, boxes } = frames[0].questions.find(({ kind }: { kind: string }) => kind === 'locate')
      await browser.evaluate(`document.querySelector('[data-id="${id}"]').click()`)
      expect(await count(`[data-camera=${boxes.answer[0].camera}] rect.answer`)).toBe(1)
      expect(await count(`[data-camera=${boxes.reference[0].camera}] rect.reference`)).toBe(1)
      const [left, top, right, bottom] = boxes.reference[0].box
      const drawn = await browser.evaluate(
        `(() => { const view = document.querySelector('.frame:first-child [data-camera=${boxes.reference[0].camera}]'); const box = view.querySelector('rect.reference').getBBox(); return [box.x, box.y, box.x + box.width, box.y + box.height] })()`,
      )
      for (const [i, side] of [left, top, right, bottom].entries()) expect(drawn[i]).toBeCloseTo(side, 1)
      const stroke = `getComputedStyle(document.querySelector('.frame:first-child rect.reference')).stroke`
      expect(await browser.evaluate(stroke)).toBe('rgb(75, 224, 138)')
      const region = frames[0].questions.find(({ kind }: { kind: string }) => kind === 'region')
      await browser.evaluate(`document.querySelector('[data-id="${region.id}"]').click()`)
      expect([await count('rect.asked'), await count('rect.reference')]).toEqual([1, 0])
    } finally {
      browser.close()
    }
  })
})

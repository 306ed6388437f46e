import { spawn, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import {
  type EvalModel,
  type EvalOptions,
  type EvalProgress,
  mergeRuns,
  parseShard,
  readFrames,
  readMoments,
  readPredictions,
  runEval,
} from '../../lib/drivelm/index.ts'

const root = path.resolve(import.meta.dirname, '../..')
const dir = mkdtempSync(path.join(tmpdir(), 'drivelm-eval-'))
const fixture = path.join(root, 'test/fixtures/drivelm/mini_test_eval.json')
const images = path.join(dir, 'nuscenes')
let runs = 0

beforeAll(async () => {
  for await (const { images: pictures } of readFrames(fixture)) {
    for (const { path: name } of pictures) {
      const file = path.join(images, name.replace('../nuscenes/', ''))
      mkdirSync(path.dirname(file), { recursive: true })
      writeFileSync(file, 'not looked at')
    }
  }
})
afterAll(() => rmSync(dir, { recursive: true }))

/** Answers at once, and counts what it is asked. */
function fakeModel(answer: (question: string) => string = (question) => `re: ${question}`): EvalModel & {
  seen: number
  asked: string[]
  open: number
} {
  const model = {
    seen: 0,
    asked: [] as string[],
    open: 0,
    async see() {
      model.seen++
      model.open++
      return {
        timings: { visionMs: 5 },
        async ask(question: string) {
          model.asked.push(question)
          return { text: answer(question), timings: { decodeMs: 1 } }
        },
        dispose: () => void model.open--,
      }
    },
  }
  return model
}

function setup(changes: Partial<EvalOptions> = {}): EvalOptions & { model: ReturnType<typeof fakeModel> } {
  const out = path.join(dir, `run${runs++}`)
  return { data: fixture, images, out, modelId: 'fake', model: fakeModel(), ...changes } as never
}

const text = (file: string): string => readFileSync(file, 'utf8')

describe('an evaluation', () => {
  test('sees each moment once and answers all of it in the challenge form', async () => {
    const options = setup()
    const steps: EvalProgress[] = []
    const { files, total, entries, problems } = await runEval({ ...options, onProgress: (step) => steps.push(step) })
    expect({ total, seen: options.model.seen, open: options.model.open, problems }).toEqual({
      total: 59,
      seen: 8,
      open: 0,
      problems: [],
    })
    expect(steps).toHaveLength(60)
    expect(steps.at(-1)).toMatchObject({ done: 59, total: 59, resumed: 0, secondsLeft: 0 })
    const output = JSON.parse(text(files.output))
    expect(output).toHaveLength(59)
    expect(output[1]).toEqual({
      id: entries[1]!.id,
      question: `<image>\n${options.model.asked[1]}`,
      answer: `re: ${options.model.asked[1]}`,
    })
    const submission = JSON.parse(text(files.submission))
    expect(Object.keys(submission)).toEqual(['method', 'team', 'authors', 'email', 'institution', 'country', 'results'])
    expect(submission.results).toEqual(output)
    expect(entries.map(({ timings }) => timings).slice(0, 2)).toEqual([{ visionMs: 5, decodeMs: 1 }, { decodeMs: 1 }])
  })

  test('asks nothing twice, and does not load a model for nothing', async () => {
    const options = setup()
    const { files } = await runEval(options)
    const first = text(files.output)
    const again = await runEval({ ...options, model: () => Promise.reject(new Error('not to be loaded')) })
    expect(again.resumed).toBe(59)
    expect(text(files.output)).toBe(first)
  })

  test('several questions at a time give the same outputs', async () => {
    const one = await runEval(setup())
    const slow = fakeModel()
    const { see } = slow
    slow.see = async () => {
      const scene = await see({}, {})
      const ask = async (question: string): ReturnType<typeof scene.ask> => {
        await sleep(Math.random() * 3)
        return scene.ask(question, { id: 'slow' })
      }
      return { ...scene, ask }
    }
    const many = await runEval(setup({ model: slow, concurrency: 4 }))
    expect(text(many.files.output)).toBe(text(one.files.output))
  })

  test('coordinates are converted both ways, the model words kept', async () => {
    const options = setup({
      limit: 2,
      toModel: (question) => question.toUpperCase(),
      fromModel: (answer) => answer.toLowerCase(),
    })
    const { entries } = await runEval(options)
    expect(options.model.asked[0]).toMatch(/^WHAT ARE THE IMPORTANT/)
    expect(entries[0]).toMatchObject({
      answer: expect.stringMatching(/^re: what/),
      raw: expect.stringMatching(/^re: WHAT/),
    })
    expect(entries[0]!.question).toMatch(/^<image>\nWhat are/)
  })

  test('limit and tags choose; a larger limit goes on from there', async () => {
    const options = setup({ limit: 10 })
    expect((await runEval(options)).entries).toHaveLength(10)
    const more = await runEval({ ...options, limit: 12 })
    expect([more.resumed, more.entries.length, options.model.asked.length]).toEqual([10, 12, 12])
    const language = await runEval(setup({ tags: [2] }))
    expect(language.total).toBe(7)
  })

  test.each([2, 3, 20])('%i shards make the whole', async (count) => {
    const whole = await runEval(setup({ limit: 50 }))
    const parts: string[] = []
    for (let index = 1; index <= count; index++) {
      const options = setup({ limit: 50, shard: { index, count } })
      await runEval(options)
      parts.push(options.out)
    }
    const merged = path.join(dir, `merged${count}`)
    const { files, missing } = await mergeRuns(parts.toReversed(), merged)
    expect(missing).toEqual([])
    expect(text(files.output)).toBe(text(whole.files.output))
    expect(text(files.submission)).toBe(text(whole.files.submission))
    await expect(mergeRuns(parts.slice(1), `${merged}x`)).rejects.toThrow(`shards are missing: 1/${count}`)
    expect((await mergeRuns(parts.slice(1), `${merged}y`, { partial: true })).missing).toEqual([`1/${count}`])
    await expect(mergeRuns([...parts, parts[0]!], `${merged}z`)).rejects.toThrow(/is there twice/)
    const resumed = await runEval(setup({ out: merged, limit: 50 })) // a merged run is a run
    expect(resumed.resumed).toBe(50)
  })

  test('parts of different runs, and unfinished ones, are not merged', async () => {
    const one = setup({ shard: { index: 1, count: 2 } })
    const two = setup({ shard: { index: 2, count: 2 }, modelId: 'another' })
    await runEval(one)
    await runEval(two)
    await expect(mergeRuns([one.out, two.out], path.join(dir, 'mixed'))).rejects.toThrow(
      /model "another" instead of "fake"/,
    )
    rmSync(path.join(one.out, 'output.json'))
    await expect(mergeRuns([one.out], path.join(dir, 'mixed'))).rejects.toThrow(/has not finished/)
    await expect(mergeRuns([dir], path.join(dir, 'mixed'))).rejects.toThrow(/there is no journal/)
  })

  test.each([
    ['another model', { modelId: 'other' }, /model "fake" instead of "other"/],
    ['other settings', { settings: { maxNewTokens: 5 } }, /settings/],
    ['another seed', { seed: 4 }, /seed 0 instead of 4/],
    ['another shard', { shard: { index: 1, count: 2 } }, /shard "1\/1" instead of "1\/2"/],
  ])('a journal is not continued with %s', async (_, changes, message) => {
    const options = setup({ limit: 3 })
    await runEval(options)
    await expect(runEval({ ...options, ...changes })).rejects.toThrow(message)
  })

  test('the order of settings does not matter, other data does', async () => {
    const options = setup({ limit: 3, settings: { a: 1, b: { c: 2, d: 3 } } })
    await runEval(options)
    expect((await runEval({ ...options, settings: { b: { d: 3, c: 2 }, a: 1 } })).resumed).toBe(3)
    const data = path.join(dir, 'changed.json')
    writeFileSync(data, `${text(fixture)} `)
    await expect(runEval({ ...options, data })).rejects.toThrow(/the journal is of another run: data/)
  })
})

describe('what goes wrong', () => {
  test('a missing picture is named before anything is asked', async () => {
    const flat = path.join(dir, 'flat')
    mkdirSync(flat, { recursive: true })
    const options = setup({ images: flat })
    await expect(runEval(options)).rejects.toMatchObject({
      code: 'BAD_VIEW',
      message: expect.stringMatching(
        /^2658e27b\w+_3f0b9def\w+: No picture for CAM_FRONT: ".*mini-alpha__CAM_FRONT__\d+.jpg" is not below/,
      ),
    })
    expect(options.model.asked).toEqual([])
  })

  test('with keepGoing missing pictures are listed and the rest is answered', async () => {
    const line = (id: string, picture: string): string =>
      JSON.stringify({ id, views: picture, question: `What is ${id}?` })
    const data = path.join(dir, 'lines.jsonl')
    writeFileSync(path.join(dir, 'here.png'), 'x')
    writeFileSync(
      data,
      `${[line('a', 'here.png'), line('b', 'gone.png'), '{"id"', line('d', 'here.png')].join('\n')}\n`,
    )
    const options = setup({ data, images: undefined as never, keepGoing: true })
    delete (options as Partial<EvalOptions>).images
    const { entries, problems, files } = await runEval(options)
    expect(entries.map(({ id }) => id)).toEqual(['a', 'd'])
    expect(problems).toEqual([
      { id: '', code: 'BAD_DATA', message: expect.stringMatching(/lines.jsonl, line 3: broken JSON/) },
      { id: 'b', code: 'BAD_VIEW', message: expect.stringMatching(/gone.png/) },
    ])
    expect(JSON.parse(text(files.problems))).toEqual(problems)
    writeFileSync(path.join(dir, 'gone.png'), 'x') // and what was missing is asked when it is there
    const { resumed, entries: all } = await runEval(options)
    expect([resumed, all.map(({ id }) => id)]).toEqual([2, ['a', 'b', 'd']])
  })

  test('a question the model fails on keeps the answers before it', async () => {
    const failing = fakeModel((question) => {
      if (/behavior/.test(question)) throw new Error('no idea')
      return 'ok'
    })
    const options = setup({ model: failing })
    await expect(runEval(options)).rejects.toThrow('no idea')
    expect(failing.open).toBe(0)
    expect(existsSync(path.join(options.out, 'output.json'))).toBe(false)
    const before = failing.asked.length
    const { resumed, problems, entries } = await runEval({ ...options, keepGoing: true })
    expect(resumed).toBe(before - 1)
    expect(problems.length).toBeGreaterThan(3)
    expect(problems[0]).toMatchObject({ id: expect.stringMatching(/_\d+$/), message: 'no idea' })
    expect(entries.length + problems.length).toBe(59)
  })

  test.each(['It is dusk.', undefined, { answer: 'x' }, { text: 7 }])(
    'a model that gives %j in place of { text } is told so, and leaves a journal that goes on',
    async (given) => {
      const options = setup({ keepGoing: true })
      const model = { see: async () => ({ ask: async () => given, dispose() {} }) } as unknown as EvalModel
      await expect(runEval({ ...options, model })).rejects.toMatchObject({
        code: 'BAD_ARGUMENT',
        message: expect.stringContaining("Expected { text } of the model's ask"),
      })
      expect((await runEval(options)).resumed).toBe(0)
    },
  )

  test('an abort ends it, also with keepGoing, and it goes on later', async () => {
    const control = new AbortController()
    const model = fakeModel((question) => {
      if (model.asked.length === 20) control.abort()
      return question
    })
    const options = setup({ model, keepGoing: true })
    await expect(runEval({ ...options, signal: control.signal })).rejects.toMatchObject({ code: 'ABORTED' })
    const { resumed, entries } = await runEval(options)
    expect(resumed).toBeGreaterThanOrEqual(19)
    expect(entries).toHaveLength(59)
  })

  test('a journal cut at any byte goes on; damage elsewhere is named', async () => {
    const options = setup({ limit: 3 })
    const { files } = await runEval(options)
    const [journal, output] = [readFileSync(files.journal), text(files.output)]
    for (let cut = 0; cut < journal.length; cut += 41) {
      writeFileSync(files.journal, journal.subarray(0, cut))
      await runEval(options)
      expect(text(files.output)).toBe(output)
    }
    writeFileSync(files.journal, Buffer.concat([journal, Buffer.alloc(30), Buffer.from('\n')])) // blocks never written
    expect((await runEval(options)).resumed).toBe(3)
    const lines = journal.toString().split('\n')
    writeFileSync(files.journal, [lines[0], lines[1]!.slice(1), ...lines.slice(2)].join('\n'))
    await expect(runEval(options)).rejects.toThrow(/journal.jsonl, line 2: broken JSON/)
    writeFileSync(files.journal, [lines[0], lines[1], ...lines.slice(1)].join('\n'))
    await expect(runEval(options)).rejects.toThrow(/line 3: the id .* is there twice/)
    writeFileSync(files.journal, '{"some":"thing"}\n')
    await expect(runEval(options)).rejects.toThrow(/expected a journal of version 1/)
  })

  test.each([
    ['limit', { limit: 0 }],
    ['shard', { shard: { index: 3, count: 2 } }],
    ['concurrency', { concurrency: 1.5 }],
  ])('a bad %s', async (_, changes) => {
    await expect(runEval(setup(changes))).rejects.toMatchObject({ code: 'BAD_ARGUMENT' })
  })

  test('shards in words', () => {
    expect(parseShard('2/4')).toEqual({ index: 2, count: 4 })
    for (const bad of ['0/4', '5/4', '1', '1/', 'a/b', '-1/2', '1/2/3'])
      expect(() => parseShard(bad)).toThrow(/like 1\/4/)
  })
})

describe('kills', () => {
  const compiled = path.join(root, '.cache/drivelm-test')
  const child = path.join(root, 'test/fixtures/drivelm/eval-child.mjs')
  const start = (out: string, ms: number): string[] => [
    child,
    path.join(compiled, 'drivelm/index.js'),
    fixture,
    images,
    out,
    String(ms),
  ]
  const answered = (out: string): string[] => {
    const journal = existsSync(path.join(out, 'journal.jsonl')) ? text(path.join(out, 'journal.jsonl')) : ''
    return journal
      .split('\n')
      .slice(1, -1)
      .map((line) => JSON.parse(line).id)
  }
  const tally = (keys: readonly string[]): Map<string, number> => {
    const counts = new Map<string, number>()
    for (const key of keys) counts.set(key, (counts.get(key) ?? 0) + 1)
    return counts
  }

  test('twenty kills at random moments leave the same bytes', async () => {
    const tsc = path.join(root, 'node_modules/typescript/bin/tsc')
    const build = spawnSync(process.execPath, [tsc, '-p', root, '--outDir', compiled, '--declaration', 'false'], {
      encoding: 'utf8',
    })
    expect(existsSync(path.join(compiled, 'drivelm/index.js')), build.stdout).toBe(true)

    const whole = path.join(dir, 'unkilled')
    expect(spawnSync(process.execPath, start(whole, 0), { encoding: 'utf8' }).stdout).toMatch(/finished/)

    // A frame may hold a question twice, so questions are counted by picture and text.
    const keyOf = new Map<string, string>()
    for await (const { views, questions } of readMoments(fixture)) {
      for (const { id, text } of questions) keyOf.set(id, JSON.stringify([path.basename(views.CAM_FRONT!), text]))
    }
    const wanted = tally([...keyOf.values()])

    const killed = path.join(dir, 'killed')
    let kills = 0
    for (let run = 0; run < 20; run++) {
      const before = tally(answered(killed).map((id) => keyOf.get(id)!))
      const log = `${killed}.asked`
      rmSync(log, { force: true })
      const running = spawn(process.execPath, start(killed, 200), { stdio: ['ignore', 'pipe', 'ignore'] })
      const exit = new Promise<NodeJS.Signals | null>((done) => running.on('exit', (_, signal) => done(signal)))
      // Every fourth at any moment of its life, also while it starts; the others within a question, most after one was answered.
      const kept = answered(killed).length
      if (run % 4 < 2) while (running.exitCode === null && answered(killed).length === kept) await sleep(5)
      else if (run % 4 === 2) await new Promise((ready) => running.stdout.once('data', ready))
      await sleep(Math.random() * 100)
      running.kill('SIGKILL')
      const signal = await exit
      if (signal === 'SIGKILL') kills++
      const asked = existsSync(log) ? text(log).trim().split('\n').filter(Boolean) : []
      for (const [key, times] of tally(asked))
        expect(times + (before.get(key) ?? 0)).toBeLessThanOrEqual(wanted.get(key)!)
    }
    const left = answered(killed).length
    expect(left).toBeGreaterThan(0)
    expect(left).toBeLessThan(59)
    expect(spawnSync(process.execPath, start(killed, 0), { encoding: 'utf8' }).stdout).toMatch(/finished/)
    for (const name of ['output.json', 'submission.json']) {
      expect(readFileSync(path.join(killed, name)).equals(readFileSync(path.join(whole, name)))).toBe(true)
    }
    expect(kills).toBe(20)
    expect((await readPredictions(path.join(killed, 'output.json'))).size).toBe(59)
  })
})

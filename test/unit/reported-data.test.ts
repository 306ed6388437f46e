/** Files as people really have them (test/fixtures/cases), and more of each kind. */
import { execFileSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { pathToFileURL } from 'node:url'
import { afterAll, describe, expect, it, test } from 'vitest'
import {
  type EvalModel,
  extractFrame,
  judgeFrom,
  type LeftOut,
  type Moment,
  parseJudgement,
  questionFileForm,
  type ReadOptions,
  readFrames,
  readJudgements,
  readMoments,
  readPredictions,
  runEval,
  scoreCaptions,
  scoreDrivelm,
} from '../../lib/drivelm/index.ts'
import { loadModel } from '../../lib/index.ts'
import { camerasOfPath } from '../../lib/views/cameras.ts'
import { momentViews } from './street-tiny.ts'

const cases = path.resolve(import.meta.dirname, '../fixtures/cases')
const dir = mkdtempSync(path.join(tmpdir(), 'reported-data-'))
afterAll(() => rmSync(dir, { recursive: true }))
let files = 0

function file(content: unknown, extension = 'json'): string {
  const name = path.join(dir, `${files++}.${extension}`)
  writeFileSync(name, typeof content === 'string' ? content : JSON.stringify(content))
  return name
}

async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const list: T[] = []
  for await (const item of items) list.push(item)
  return list
}

const moments = (name: string, options: ReadOptions = {}): Promise<Moment[]> => all(readMoments(name, options))
const inCase = (name: string): string => path.join(cases, name)
const failure = (work: Promise<unknown>): Promise<string> =>
  work.then(
    () => 'nothing was thrown',
    (error) => `${error.code}: ${error.message}`,
  )

const six = ['CAM_FRONT', 'CAM_FRONT_LEFT', 'CAM_FRONT_RIGHT', 'CAM_BACK', 'CAM_BACK_LEFT', 'CAM_BACK_RIGHT']
const paths = six.map((camera) => `samples/${camera}/n__${camera}__1.jpg`)
const chat = (value: string, changes: object = {}): object => ({
  id: 'a',
  image: paths,
  conversations: [
    { from: 'human', value },
    { from: 'gpt', value: '1' },
  ],
  ...changes,
})

describe('placeholders in files', () => {
  const textOf = async (items: unknown, options: ReadOptions = {}): Promise<string> =>
    (await moments(file(items), options))[0]!.questions[0]!.text

  test('the flat list of the report', async () => {
    const [moment] = await moments(inCase('image-tags-in-flat-list/flat.json'))
    expect(moment!.questions[0]!.text).toBe('How many cars are in CAM_BACK?')
  })

  test('one a picture, or one for all; in every form', async () => {
    expect(await textOf([chat(`${'<image>\n'.repeat(6)}How?`)])).toBe('How?')
    expect(await textOf([chat('<image>\nHow?')])).toBe('How?')
    expect(await textOf([chat('<image>\nHow?', { image: 'a.jpg' })])).toBe('How?')
    expect(await textOf([{ id: 'a', views: ['a.jpg'], question: '<image>\nHow?' }])).toBe('How?')
    const QA = { perception: [{ Q: '<image>\nHow?', A: '' }] }
    expect(await textOf({ s: { key_frames: { f: { QA, image_paths: { CAM_FRONT: 'a.jpg' } } } } })).toBe('How?')
    // What the layout prints is known where the model is.
    expect(await textOf([chat('Image-1: <image>\nHow?', { image: ['a.jpg'] })])).toBe('Image-1: <image>\nHow?')
  })

  test("text: 'literal' keeps all but the form's own", async () => {
    expect(await textOf([chat('<image>\nIs <image> there?')], { text: 'literal' })).toBe('Is <image> there?')
    const own = [{ id: 'a', views: 'a.jpg', question: '<image>\nHow?' }]
    expect(await textOf(own, { text: 'literal' })).toBe('<image>\nHow?')
  })

  it.each([
    ['two for six', '<image>\n<image>\nHow?', 'the question has 2 <image> for 6 pictures'],
    ['in the middle', 'How does <image> look?', 'has <image> behind other words'],
    ['alone', '<image>\n', 'the question is empty'],
  ])('%s cost one question', async (_, value, message) => {
    const name = file([chat(value), chat('<image>\nHow?', { id: 'b' })])
    expect(await failure(moments(name))).toContain(`item 0, "a": `)
    const problems: string[] = []
    const [moment] = await moments(name, { onProblem: (error) => problems.push(error.message) })
    expect(moment!.questions.map(({ id }) => id)).toEqual(['b'])
    expect(problems).toEqual([expect.stringContaining(message)])
  })
})

describe('a judge', () => {
  test('out of range is named, wherever its number comes from', async () => {
    expect(await failure(readJudgements(inCase('judge-out-of-range/judgements.json')))).toMatch(
      /^BAD_DATA: .*judgements.json, sceneA_frameA_0: expected a number from 0 to 100, found 900/,
    )
    for (const score of ['900', -5, 100.5, '-1', '1e3']) {
      expect(await failure(readJudgements(file([{ id: 'a', score }])))).toMatch(
        /expected a number from 0 to 100, found/,
      )
      expect(await failure(readJudgements(file({ a: score })))).toMatch(/expected a number from 0 to 100, found/)
      expect(() => parseJudgement(String(score))).toThrow('from 0 to 100')
    }
    expect(parseJudgement('100')).toBe(100)
    expect(parseJudgement('0')).toBe(0)
    const data = readMoments(inCase('judge-out-of-range/data.json'))
    const answers = new Map([['sceneA_frameA_0', 'Keep going.']])
    const judged = (value: unknown): Promise<string> =>
      failure(scoreDrivelm(data, answers, { judge: async () => value as number }))
    expect(await judged(900)).toBe('BAD_DATA: The judge gave 900 for sceneA_frameA_0, expected a number from 0 to 100.')
  })

  test('that does not know a question says what it knows', async () => {
    const judge = judgeFrom(new Map([['z', 5]]), 'numbers.json')
    expect(await failure(judge('q', 'a', 'r', 'x'))).toContain('no judgement for question x; it has 1, for z and so on')
  })
})

describe('the camera of a path', () => {
  it.each<[string, string[]]>([
    ['samples/CAM_FRONT_RIGHT/n000__CAM_BACK__15.jpg', ['CAM_BACK']],
    ['samples/CAM_FRONT_RIGHT/n000.jpg', ['CAM_FRONT_RIGHT']],
    ['CAM_BACK/stitched/frame.jpg', []],
    ['x/n__CAM_FRONT__CAM_BACK__1.jpg', ['CAM_FRONT', 'CAM_BACK']],
    ['CAM_FRONT-CAM_BACK/1.jpg', ['CAM_FRONT', 'CAM_BACK']],
    ['CAM_FRONT_LEFT.png', ['CAM_FRONT_LEFT']],
    ['a\\CAM_BACK_LEFT\\1.png', ['CAM_BACK_LEFT']],
    ['x/0012_CAM_BACK_0003.png', ['CAM_BACK']],
    ['x/CAM_FRONT_WIDE.png', []],
    ['x/MYCAM_FRONT.png', []],
    ['x/cam_front.png', ['CAM_FRONT']],
    ['x/CAM_BACK__CAM_BACK.png', ['CAM_BACK']],
  ])('%s', (name, expected) => {
    expect(camerasOfPath(name)).toEqual(expected)
  })

  test('the flat list of the report, and a tie', async () => {
    const [moment] = await moments(inCase('camera-in-path/flat.json'))
    expect(Object.keys(moment!.views)).toEqual(['CAM_BACK'])
    const tie = file([chat('How?', { image: ['x/n__CAM_FRONT__CAM_BACK__1.jpg', 'x/CAM_BACK/1.jpg'] })])
    expect(await failure(moments(tie))).toMatch(/names CAM_FRONT and CAM_BACK; which camera is it of/)
  })
})

describe('ids, answers and what is absent', () => {
  test('the files of the report agree', async () => {
    const [line] = await moments(inCase('ids-as-numbers/question.jsonl'))
    const [item] = await moments(inCase('ids-as-numbers/flat.json'))
    expect([line!.questions[0]!.id, item!.questions[0]!.id]).toEqual(['7', '7'])
    const expected = new Map([['7', { id: '7', question: 'How many cars?', answer: '1' }]])
    expect(await readPredictions(inCase('ids-as-numbers/predictions.json'))).toEqual(expected)
    expect(await readPredictions(inCase('ids-as-numbers/predictions.jsonl'))).toEqual(expected)
    expect(await readJudgements(inCase('ids-as-numbers/judgements.json'))).toEqual(new Map([['7', 90]]))
  })

  test('lines are lines whatever the file is called, and lists lists', async () => {
    const lines = '{"id": 1, "answer": 2}\n{"id": "b", "answer": "x"}\n'
    expect([...(await readPredictions(file(lines))).values()].map(({ id, answer }) => [id, answer])).toEqual([
      ['1', '2'],
      ['b', 'x'],
    ])
    expect([...(await readPredictions(file([{ id: 1, answer: '2' }], 'jsonl'))).keys()]).toEqual(['1'])
    expect([...(await readJudgements(file('{"id": 1, "score": 2}\n{"id": 2, "score": "3"}\n'))).keys()]).toEqual([
      '1',
      '2',
    ])
    expect((await moments(file([{ id: 1, views: 'a.jpg', question: 'How?' }], 'jsonl')))[0]!.key).toBe('1')
    const questions = '{"image": "a.jpg", "id": 1, "conversations": [{"from": "human", "value": "How?"}]}\n'
    expect((await moments(file(questions + questions.replace('1', '2'))))[0]!.questions).toHaveLength(2)
  })

  test('a pipe is read once', async () => {
    const script = `import { readJudgements, readPredictions } from ${JSON.stringify(pathToFileURL(path.resolve('dist/drivelm/index.js')).href)}
      const read = process.argv[2] === 'judge' ? readJudgements : readPredictions
      console.log((await read('/dev/stdin')).size)`
    const name = path.join(dir, 'pipe.mjs')
    writeFileSync(name, script)
    const sizeOf = (what: string, input: string): string => {
      const pipe = `cat "$1" | "$2" "$3" "$4"` // node gives a child a socket, which cannot be opened as a file
      const words = [file(input), process.execPath, name, what]
      return execFileSync('sh', ['-c', pipe, 'sh', ...words], { encoding: 'utf8' }).trim()
    }
    expect(sizeOf('answers', '[{"id": 1, "answer": "a"}]')).toBe('1')
    expect(sizeOf('answers', '{"id": 1, "answer": "a"}\n{"id": 2, "answer": "a"}\n')).toBe('2')
    expect(sizeOf('answers', '{"method": "m", "results": [{"id": 1, "answer": "a"}]}')).toBe('1')
    expect(sizeOf('judge', '{"a": 5}')).toBe('1')
  })

  test('7 and "7" are the same question', async () => {
    const twice = [
      { id: 7, answer: 'a' },
      { id: '7', answer: 'b' },
    ]
    expect(await failure(readPredictions(file(twice)))).toContain('the id "7" is there twice')
  })

  it.each([[1.5], [2 ** 53], [true], [null], [''], [['a']]])('%j is no id', async (id) => {
    const places: (() => Promise<unknown>)[] = [
      () => moments(file([chat('How?', { id })])),
      () => moments(file(`${JSON.stringify({ views: 'a.jpg', id, question: 'How?' })}\n`, 'jsonl')),
      () => readPredictions(file([{ id, answer: 'a' }])),
      () => readJudgements(file([{ id, score: 1 }])),
    ]
    for (const place of places)
      expect(await failure(place())).toMatch(/^BAD_DATA: .*expected a string or a whole number/)
  })

  test('null is absent', async () => {
    const line = {
      id: 'a',
      views: { CAM_FRONT: 'a.jpg', CAM_BACK: null },
      question: 'Is it?',
      answer: null,
      kind: null,
      hop: null,
      tags: null,
    }
    const [moment] = await moments(file(`${JSON.stringify(line)}\n`, 'jsonl'))
    expect(moment!.views).toEqual({ CAM_FRONT: 'a.jpg' })
    expect(moment!.questions).toEqual([{ id: 'a', text: 'Is it?', kind: 'yes or no' }])
    const QA = { perception: [{ Q: 'How?', A: null, tag: null }], planning: null }
    const frame = { QA, key_object_infos: null, image_paths: { CAM_FRONT: 'a', CAM_BACK: null } }
    const [read] = await moments(file({ s: { scene_description: null, key_frames: { f: frame } } }))
    expect(read!.questions).toEqual([{ id: 's_f_0', text: 'How?', number: 0, kind: 'other perception' }])
    expect(read!.views).toEqual({ CAM_FRONT: 'a' })
  })

  test('predictions of another split name the foreign ids', async () => {
    const data = (): AsyncIterable<Moment> => readMoments(inCase('judge-out-of-range/data.json'))
    const foreign = new Map(Array.from({ length: 9 }, (_, i) => [`other_${i}`, 'x']))
    expect(await failure(scoreDrivelm(data(), foreign))).toMatch(
      /^BAD_DATA: No prediction for question sceneA_frameA_0 .* Of 9 predictions 9 .*\(other_0, other_1, other_2, other_3, …\); are they of another split/,
    )
    const sheet = await scoreDrivelm(data(), foreign, { keepGoing: true })
    expect(sheet.problems.map(({ id }) => id)).toEqual(['sceneA_frameA_0', ...foreign.keys()])
  })
})

describe('frames with more than needed, or less', () => {
  const question = { Q: 'How many cars are in CAM_BACK?', A: '1', tag: [0] }
  const frames = (frame: object): string => file({ s: { key_frames: { f: frame } } })

  it.each([
    ['lidar', ['image_paths.LIDAR_TOP']],
    ['category', ['QA.robust_qas']],
    ['object', []],
    ['tag', []],
  ])('%s.json of the report', async (name, expected) => {
    const parts: LeftOut[] = []
    const data = inCase(`frame-with-more-than-needed/${name}.json`)
    const [moment] = await moments(data, { onLeftOut: (part) => parts.push(part) })
    expect(moment!.questions).toMatchObject([{ id: 'sceneA_frameA_0', text: question.Q, reference: '1', tags: [0] }])
    expect(Object.keys(moment!.views)).toEqual(six)
    expect(parts.map(({ what }) => what)).toEqual(expected)
    for (const { where } of parts) expect(where).toMatch(/scene sceneA, frame frameA$/)
  })

  test('a key object without a description is missed where it is needed', async () => {
    const [frame] = await all(readFrames(inCase('frame-with-more-than-needed/object.json')))
    expect(frame!.objects).toMatchObject([{ category: 'Vehicle', description: null, box: null }])
    expect(() => extractFrame(frame!)).toThrow(
      'object <c1,CAM_BACK,100.0,100.0>: expected a string for Visual_description',
    )
  })

  test('a bad question costs itself: the others keep their ids, and the first sets the graph', async () => {
    const QA = {
      perception: [
        { Q: null, A: 'x <c1,CAM_BACK,100.0,100.0>' },
        question,
        { Q: 'Where is <c1,CAM_BACK,100.0,100.0>?', A: 'No.', tag: '0' },
      ],
      planning: ['what'],
      behavior: [{ Q: 'Next?', A: 5, tag: 0 }],
    }
    const name = frames({ QA, image_paths: { CAM_FRONT: 'a.jpg' } })
    expect(await failure(moments(name))).toContain('perception 0: expected a string for Q, found null')
    const problems: string[] = []
    const list = await moments(name, { onProblem: ({ message }) => problems.push(message) })
    expect(list[0]!.questions.map(({ id, tags }) => [id, tags])).toEqual([
      ['s_f_1', [0]],
      ['s_f_2', [0]],
      ['s_f_4', [0]],
    ])
    expect(problems).toEqual([expect.stringContaining('perception 0'), expect.stringContaining('planning 0')])
    const answers = new Map(list[0]!.questions.map(({ id, reference }) => [id, reference!]))
    const { gated, accuracy } = await scoreDrivelm(list, answers)
    expect({ gated, accuracy }).toEqual({ gated: ['s_f_2'], accuracy: 1 })
  })

  test('pictures are needed to ask, not to score', async () => {
    const name = frames({ QA: { perception: [question] } })
    const answers = new Map([['s_f_0', '1']])
    expect((await scoreDrivelm(readMoments(name), answers)).accuracy).toBe(1)
    const model: EvalModel = { see: () => Promise.reject(new Error('asked')) }
    const run = runEval({ data: name, out: path.join(dir, 'run-bare'), model, modelId: 'm' })
    expect(await failure(run)).toBe('BAD_VIEW: s_f: the frame has no pictures to ask about.')
  })

  test('sensors that are no cameras are left out of lists and views', async () => {
    const parts: string[] = []
    const options = { onLeftOut: ({ what }: LeftOut) => parts.push(what) }
    const lidar = 'samples/LIDAR_TOP/n__LIDAR_TOP__1.pcd.bin'
    const [one] = await moments(file([chat('How?', { image: [...paths, lidar] })]), options)
    const views = { CAM_FRONT: 'a', LIDAR_TOP: 'b' }
    const [two] = await moments(file([{ id: 'a', views, question: 'How?' }]), options)
    expect([Object.keys(one!.views), Object.keys(two!.views)]).toEqual([six, ['CAM_FRONT']])
    expect(parts).toEqual(['a picture of LIDAR_TOP', 'views.LIDAR_TOP'])
  })

  test("views are of cameras or the one picture 'image', which would hide the others", async () => {
    const views = { image: 'a.png', CAM_FRONT: 'b.png' }
    await expect(moments(file([{ id: 'a', views, question: 'How?' }]))).rejects.toMatchObject({
      code: 'BAD_DATA',
      message: expect.stringMatching(/pictures of cameras and the one picture 'image'/),
    })
  })
})

describe('other forms of question files', () => {
  test('chat data of the report: lines, one picture, a list of scenes', async () => {
    const [stitched] = await moments(inCase('internvl-chat-lines/chat.jsonl'))
    expect(stitched).toEqual({
      key: '0',
      views: { image: 'stitched/sceneA_frameA.jpg' },
      questions: [{ id: '0', text: 'How many cars are in CAM_BACK?', kind: 'other', reference: '1' }],
    })
    const [single] = await moments(inCase('internvl-chat-lines/single.json'))
    expect(single!.views).toEqual({ image: expect.stringMatching(/__CAM_FRONT__/) })
    const scenes = inCase('internvl-chat-lines/list-of-scenes.json')
    expect(await questionFileForm(scenes)).toBe('frames')
    expect((await moments(scenes))[0]).toMatchObject({ key: 'sceneA_frameA', questions: [{ id: 'sceneA_frameA_0' }] })
    expect((await all(readFrames(scenes)))[0]!.token).toBe('frameA')
  })

  test('what a file is follows from what it holds', async () => {
    expect(await questionFileForm(inCase('internvl-chat-lines/chat.jsonl'))).toBe('jsonl')
    expect(await questionFileForm(inCase('ids-as-numbers/flat.json'))).toBe('llama')
    expect(await questionFileForm(inCase('judge-out-of-range/data.json'))).toBe('frames')
    expect(await questionFileForm(file(`${JSON.stringify(chat('How?'))}\n`))).toBe('llama')
  })

  test('DriveBench: questions are numbered within their frame', async () => {
    const item = (frame: string, question: string): object => ({
      scene_token: 's',
      frame_token: frame,
      image_path: { CAM_FRONT: `${frame}.jpg` },
      question_type: 'perception',
      question,
      answer: 'Yes.',
      tag: [0],
    })
    const parts: string[] = []
    const name = file([item('f', 'Is it?'), item('f', 'Is it not?'), item('g', 'And now?')])
    const list = await moments(name, { onLeftOut: ({ what }) => parts.push(what) })
    expect(list.map(({ questions }) => questions.map(({ id, kind }) => `${id} ${kind}`))).toEqual([
      ['s_f_0 perception', 's_f_1 perception'],
      ['s_g_0 perception'],
    ])
    expect(new Set(parts)).toEqual(new Set(['tag (of DriveBench)']))
    expect(await questionFileForm(name)).toBe('jsonl')
  })

  const human = (value: string): object => ({ from: 'human', value })
  const gpt = (value: string): object => ({ from: 'gpt', value })
  it.each<[string, object, string]>([
    ['several turns', { conversations: [human('a'), gpt('b'), human('c'), gpt('d')] }, 'found human, gpt, human, gpt'],
    ['a system turn', { conversations: [{ from: 'system', value: 'x' }, human('a')] }, 'found system, human'],
    ['no question', { conversations: [] }, 'found none'],
    ['a video', { video: 'a.mp4' }, 'is about a video'],
    ['no picture', { image: '' }, 'expected at least one picture for image'],
    ['pictures of no camera', { image: ['a.jpg', 'b.jpg'] }, 'no known camera in the path "a.jpg"'],
  ])('%s in chat data is named', async (_, changes, message) => {
    expect(await failure(moments(file([chat('How?', changes)])))).toContain(message)
  })

  test('an item of no known form is named by its keys', async () => {
    expect(await failure(moments(file([{ sample_token: 'x', query: 'y' }])))).toMatch(
      /BAD_DATA: .*item 0: expected a question: .*found "sample_token", "query"/,
    )
    expect(await failure(moments(file([{ key_frames: {} }])))).toContain('expected a string for scene_token')
  })
})

describe('an evaluation', () => {
  test('of a model of loadModel', async () => {
    const model = await loadModel()
    try {
      const views = momentViews('dusk')
      const question = 'How many cars are in CAM_BACK?'
      const lines = [
        { id: 1, views, question },
        { id: 2, views, question: `${'<image>\n'.repeat(6)}${question}` },
        { id: 3, views, question: `CAM_FRONT: <image>\n${question}` },
      ]
      const data = file(lines.map((line) => `${JSON.stringify(line)}\n`).join(''), 'jsonl')
      const settings = { data, modelId: 'tiny', ask: { maxNewTokens: 8 }, keepGoing: true }
      const { entries, problems } = await runEval({ ...settings, out: path.join(dir, 'run-loaded'), model })
      const { text } = await model.ask(views, question)
      expect(entries.map(({ id, answer }) => [id, answer])).toEqual([
        ['1', text],
        ['2', text],
      ])
      expect(problems).toMatchObject([
        { code: 'BAD_DATA', message: expect.stringContaining('has 1 <image> for 6 pictures') },
      ])
      const journal = readFileSync(path.join(dir, 'run-loaded', 'journal.jsonl'), 'utf8')
      expect(JSON.parse(journal.split('\n')[0]!).run.settings).toEqual({ maxNewTokens: 8 })
    } finally {
      await model.dispose()
    }
  })

  test('lists what no question needed', async () => {
    const model: EvalModel = { see: async () => ({ ask: async () => ({ text: '1' }), dispose: () => undefined }) }
    writeFileSync(path.join(dir, 'a.jpg'), '')
    const QA = { perception: [{ Q: 'How?', A: '1' }], more: [] }
    const frame = { QA, image_paths: { CAM_FRONT: 'a.jpg', LIDAR_TOP: 'b' } }
    const data = file({ s: { key_frames: { f: frame, g: frame } } })
    const { leftOut } = await runEval({ data, out: path.join(dir, 'run-more'), model, modelId: 'm' })
    const where = expect.stringMatching(/scene s, frame f$/)
    expect(leftOut).toEqual([
      { what: 'QA.more', count: 2, where },
      { what: 'image_paths.LIDAR_TOP', count: 2, where },
    ])
  })

  test('names the file that a full disk has no room for, and leaves nothing half written', async () => {
    const model: EvalModel = { see: async () => ({ ask: async () => ({ text: '1' }), dispose: () => undefined }) }
    writeFileSync(path.join(dir, 'a.jpg'), '')
    const data = file('{"id": 1, "views": "a.jpg", "question": "How?"}\n', 'jsonl')
    const out = path.join(dir, 'run-full')
    const settings = { data, out, model, modelId: 'm' }
    await runEval(settings)
    for (const name of ['output.json', 'submission.json', 'problems.json']) {
      const partial = path.join(out, `${name}.partial`)
      symlinkSync('/dev/full', partial)
      expect(await failure(runEval(settings))).toMatch(
        new RegExp(`^BAD_DATA: .*${name}: cannot be written: ENOSPC.* Make room there`),
      )
      expect(existsSync(partial)).toBe(false)
    }
    await runEval(settings)
  })
})

test('the marker of unknown words is rewritten in references only, as in the package of the official score', () => {
  const others = [
    { answer: 'a red car is ahead', references: ['a red car is ahead'] },
    { answer: 'keep going', references: ['keep going'] },
  ]
  const { items, corpus } = scoreCaptions([{ answer: '_UNK token', references: ['_UNK token'] }, ...others])
  expect(items[0]!.tokens).not.toBe(items[0]!.referenceTokens[0])
  expect(items[0]!.rougeL).toBeLessThan(1)
  expect(corpus.Bleu_1).toBeLessThan(0.99)
  expect(scoreCaptions([{ answer: '_UNKNOWN token', references: ['_UNK token'] }, ...others]).items[0]!.rougeL).toBe(1)
})

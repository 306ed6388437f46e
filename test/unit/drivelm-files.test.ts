import { createWriteStream, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { finished } from 'node:stream/promises'
import { afterAll, describe, expect, test } from 'vitest'
import {
  extractFrame,
  type Frame,
  framesToJson,
  type Moment,
  type ReadOptions,
  readFrames,
  readJudgements,
  readMoments,
  readPredictions,
  seededRandom,
  toMultipleChoice,
} from '../../lib/drivelm/index.ts'
import { JsonCursor } from '../../lib/evaluate/questions/json-stream.ts'

const dir = mkdtempSync(path.join(tmpdir(), 'drivelm-files-'))
afterAll(() => rmSync(dir, { recursive: true }))
const fixtures = path.resolve(import.meta.dirname, '../fixtures/drivelm')
let files = 0

function file(content: string | object, extension = 'json'): string {
  const name = path.join(dir, `${files++}.${extension}`)
  writeFileSync(name, typeof content === 'string' ? content : JSON.stringify(content))
  return name
}

async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const list: T[] = []
  for await (const item of items) list.push(item)
  return list
}

const camera = { CAM_FRONT: 'samples/CAM_FRONT/x.jpg' }
const frameOf = (changes: object = {}): object => ({
  QA: { perception: [{ Q: 'q', A: 'a' }] },
  image_paths: camera,
  ...changes,
})
const scenesOf = (frames: object): object => ({ s1: { key_frames: frames } })

describe('scene files', () => {
  test('keys that look like numbers keep their place', async () => {
    const text = `{"10": {"key_frames": {"7": ${JSON.stringify(frameOf())}, "1": ${JSON.stringify(frameOf())}}},
      "2": {"scene_description": "x", "key_frames": {"0": ${JSON.stringify(frameOf())}}}}`
    const order = async (name: string): Promise<string[]> =>
      (await all(readFrames(name))).map(({ scene, token }) => `${scene.token}/${token}`)
    const name = file(text)
    expect(await order(name)).toEqual(['10/7', '10/1', '2/0'])
    expect(await order(file((await all(framesToJson(readFrames(name)))).join('')))).toEqual(['10/7', '10/1', '2/0'])
  })

  test('what is written is what was read', async () => {
    const original = path.join(fixtures, 'mini_v1_1_train_nus.json')
    const copy = file((await all(framesToJson(readFrames(original)))).join(''))
    expect(await all(readFrames(copy))).toEqual(await all(readFrames(original)))
  })

  test('the same seed converts alike, another differently', async () => {
    const frames = await all(readFrames(path.join(fixtures, 'mini_extracted_test.json')))
    const convert = (seed: number): Frame[] => {
      const random = seededRandom(seed)
      return frames.map((frame) => toMultipleChoice(frame, random))
    }
    expect(convert(7)).toEqual(convert(7))
    expect(convert(7)).not.toEqual(convert(8))
  })

  test('the letters of the conversion are evenly spread', async () => {
    const [frame] = await all(readFrames(path.join(fixtures, 'mini_extracted_test.json')))
    const random = seededRandom(3)
    const letters: Record<string, number> = {}
    for (let i = 0; i < 4000; i++) {
      const { answer } = toMultipleChoice(frame!, random).qa.behavior[0]!
      letters[answer] = (letters[answer] ?? 0) + 1
    }
    for (const letter of ['A', 'B', 'C', 'D']) expect(Math.abs(letters[letter]! - 1000)).toBeLessThan(120)
  })

  test('an answer that is no option is named', async () => {
    const [frame] = await all(
      readFrames(file(scenesOf({ f1: frameOf({ QA: { behavior: [{ Q: 'Predict', A: 'Flies.' }] } }) }))),
    )
    expect(() => toMultipleChoice(extractFrame(frame!), seededRandom(1))).toThrow(
      /scene s1, frame f1, behavior 0.*Flies/,
    )
  })

  const bad: [name: string, content: string | object, message: RegExp][] = [
    [
      'a question that is no string',
      scenesOf({
        f1: frameOf({
          QA: {
            planning: [
              { Q: 'x', A: 'y' },
              { Q: 5, A: '' },
            ],
          },
        }),
      }),
      /scene s1, frame f1, planning 1: expected a string for Q, found 5/,
    ],
    [
      'an unknown camera',
      scenesOf({ f1: frameOf({ image_paths: { CAM_TOP: 'x' } }) }),
      /scene s1, frame f1: unknown camera "CAM_TOP"/,
    ],
    [
      'a category that is no list',
      scenesOf({ f1: frameOf({ QA: { planning: {} } }) }),
      /frame f1: expected a list for QA.planning, found {}/,
    ],
    [
      'a bad tag',
      scenesOf({ f1: frameOf({ QA: { planning: [{ Q: 'x', A: 'y', tag: [1.5] }] } }) }),
      /planning 0: expected a list of whole numbers for tag/,
    ],
    ['no key frames', { s1: {} }, /scene s1: expected the key key_frames/],
    ['a scene that is no object', { s1: [] }, /scene s1.*expected '{', found '\['/],
    [
      'a frame twice',
      `{"s1":{"key_frames":{"f1":${JSON.stringify(frameOf())},"f1":${JSON.stringify(frameOf())}}}}`,
      /scene s1: the key "f1" is there twice/,
    ],
    [
      'a scene twice',
      '{"s1":{"key_frames":{}},\n"s1":{"key_frames":{}}}',
      /the key "s1" is there twice, again in line 2/,
    ],
    ['a broken frame', '{"s1":{"key_frames":{"f1":{"QA":{,}}}}}', /scene s1, frame f1: broken JSON/],
    ['a cut file', '{"s1":{"key_frames":{"f1":{"QA":{"perc', /scene s1, frame f1: broken JSON: the file ends/],
    [
      'a file cut between keys',
      '{"s1":{"key_frames":{',
      /scene s1: broken JSON in line 1: expected '"', found the end/,
    ],
    ['text behind the end', '{"s1":{"key_frames":{}}} x', /expected the end of the file, found 'x'/],
    ['nothing', '', /expected a JSON object/],
    ['a number', '12', /expected a JSON object/],
  ]
  test.each(bad)('%s is named with its place', async (_, content, message) => {
    await expect(all(readMoments(file(content)))).rejects.toThrow(
      expect.objectContaining({ code: 'BAD_DATA', message: expect.stringMatching(message) }),
    )
  })

  test('bytes that are not UTF-8, and no file at all', async () => {
    const name = path.join(dir, 'latin1.json')
    writeFileSync(name, Buffer.from([0x7b, 0x22, 0xe9, 0x22, 0x7d]))
    await expect(all(readFrames(name))).rejects.toThrow(/latin1.json: the file is not UTF-8 text/)
    await expect(all(readFrames(path.join(dir, 'none.json')))).rejects.toMatchObject({ code: 'BAD_DATA' })
  })

  test('a bad frame can be skipped, the others keep their ids', async () => {
    const name = file(
      scenesOf({ f1: frameOf({ image_paths: 5 }), f2: frameOf(), f3: frameOf({ QA: [] }), f4: frameOf() }),
    )
    const problems: string[] = []
    const options: ReadOptions = { onProblem: (error) => problems.push(error.message) }
    const moments = await all(readMoments(name, options))
    expect(moments.map(({ questions }) => questions[0]!.id)).toEqual(['s1_f2_0', 's1_f4_0'])
    expect(problems).toEqual([expect.stringMatching(/frame f1/), expect.stringMatching(/frame f3/)])
  })

  test('broken at any byte, it never crashes or hangs', async () => {
    const whole = JSON.stringify({
      s1: { scene_description: 'd\\"', key_frames: { f1: frameOf({ key_object_infos: {} }) } },
    })
    for (let cut = 0; cut < whole.length; cut++) {
      for (const text of [whole.slice(0, cut), `${whole.slice(0, cut)}]${whole.slice(cut + 1)}`]) {
        const outcome = await all(readMoments(file(text))).then(
          () => 'read',
          (error) => error.code,
        )
        expect(['read', 'BAD_DATA']).toContain(outcome)
      }
    }
  })

  test('pieces of any size read alike', async () => {
    const text = '\ufeff {"a": [1, "x\\\\", {"b": "]}"}], "": -1.5e3 , "c":null}'.slice(1)
    for (let size = 1; size < 12; size++) {
      const chunks = async function* (): AsyncGenerator<string> {
        for (let i = 0; i < text.length; i += size) yield text.slice(i, i + size)
      }
      const cursor = new JsonCursor(chunks())
      const found: [string, unknown][] = []
      for await (const key of cursor.keys(['x'])) found.push([key, await cursor.value(['x'])])
      await cursor.end(['x'])
      expect(found).toEqual([
        ['a', [1, 'x\\', { b: ']}' }]],
        ['', -1500],
        ['c', null],
      ])
    }
  })

  test('a large file is read in bounded memory', async () => {
    const name = path.join(dir, 'large.json')
    const out = createWriteStream(name)
    const text = 'What is the moving status of the object far ahead? '.repeat(40)
    const records = Array.from({ length: 40 }, (_, i) => ({ Q: `${i} ${text}`, A: text, C: null }))
    const frame = JSON.stringify(frameOf({ QA: { perception: records } }))
    out.write('{')
    for (let scene = 0; scene < 20; scene++) {
      out.write(`${scene > 0 ? ',' : ''}\n"scene${scene}": {"key_frames": {`)
      for (let i = 0; i < 30; i++)
        if (!out.write(`${i > 0 ? ',' : ''}"f${i}": ${frame}`))
          await new Promise<void>((go) => out.once('drain', () => go()))
      out.write('}}')
    }
    out.end('}')
    await finished(out)
    let questions = 0
    let peak = 0
    const before = process.memoryUsage().rss
    for await (const { qa } of readFrames(name)) {
      questions += qa.perception.length
      peak = Math.max(peak, process.memoryUsage().rss - before)
    }
    expect(questions).toBe(20 * 30 * 40)
    expect(frame.length * 600).toBeGreaterThan(90e6)
    expect(peak).toBeLessThan(150e6)
  })
})

describe('other forms', () => {
  test('test_llama gives the questions of the frames it was made from', async () => {
    const fromList = await all(readMoments(path.join(fixtures, 'mini_test_llama.json')))
    const fromFrames = await all(readMoments(path.join(fixtures, 'mini_test_eval.json')))
    const asked = (moments: Moment[]): string[][] =>
      moments.map(({ questions }) => questions.map(({ id, text }) => `${id} ${text}`))
    expect(asked(fromList)).toEqual(asked(fromFrames))
    expect(Object.keys(fromList[0]!.views)).toEqual(Object.keys(fromFrames[0]!.views))
  })

  test('a question a line', async () => {
    const lines = [
      {
        id: 'a',
        views: { CAM_FRONT: 'f.png', CAM_BACK: 'b.png' },
        question: 'How many?',
        answer: '2',
        kind: 'count',
        hop: 1,
      },
      { id: 'b', views: { CAM_FRONT: 'f.png', CAM_BACK: 'b.png' }, question: 'Is it raining?' },
      { id: 7, views: 'one.jpg', question: 'What next?', tags: [1] },
      { id: 'd', views: ['x/CAM_BACK_LEFT/1.jpg', 'n__CAM_BACK__2.jpg'], question: 'And?' },
    ]
    const moments = await all(readMoments(file(`${lines.map((line) => JSON.stringify(line)).join('\n')}\n\n`, 'jsonl')))
    expect(moments.map(({ views }) => views)).toEqual([
      { CAM_FRONT: 'f.png', CAM_BACK: 'b.png' },
      { image: 'one.jpg' },
      { CAM_BACK_LEFT: 'x/CAM_BACK_LEFT/1.jpg', CAM_BACK: 'n__CAM_BACK__2.jpg' },
    ])
    expect(moments[0]!.questions).toEqual([
      { id: 'a', text: 'How many?', kind: 'count', reference: '2', hop: 1 },
      { id: 'b', text: 'Is it raining?', kind: 'yes or no' },
    ])
    expect(moments[1]!.questions[0]).toMatchObject({ id: '7', tags: [1] })
  })

  test.each([
    [
      'an id twice',
      '{"id":"a","views":"x","question":"q"}\n{"id":"a","views":"y","question":"q"}',
      /the question id "a" is there twice/,
    ],
    ['broken JSON', '{"id":"a","views":"x","question":"q"}\n{"id":', /line 2: broken JSON/],
    ['an unknown camera', '{"id":"a","views":{"CAM_UP":"x"},"question":"q"}', /line 1, "a": unknown camera "CAM_UP"/],
    ['no question', '{"id":"a","views":"x"}', /line 1, "a": expected a string for question, found nothing/],
    ['no pictures', '{"id":"a","views":{},"question":"q"}', /expected at least one picture/],
  ])('%s in a line is named', async (_, text, message) => {
    await expect(all(readMoments(file(text, 'jsonl')))).rejects.toThrow(message)
  })

  test('predictions, alone or in a submission', async () => {
    const list = [{ id: 'a', question: 'q', answer: 'x', gt_answer: 'y' }]
    const expected = new Map([['a', { id: 'a', question: 'q', answer: 'x' }]])
    expect(await readPredictions(file(list))).toEqual(expected)
    expect(await readPredictions(file({ method: 'm', results: list }))).toEqual(expected)
    await expect(readPredictions(file([...list, ...list]))).rejects.toThrow(/item 1: the id "a" is there twice/)
    await expect(readPredictions(file([{ id: 'a' }]))).rejects.toThrow(
      /item 0: expected a string for the answer to a, found nothing/,
    )
    await expect(readPredictions(file({}))).rejects.toThrow(/found neither/)
    await expect(readPredictions(file('[{"id":"a","answer":"x"}'))).rejects.toThrow(
      /expected ',' or '\]', found the end/,
    )
    const problems: string[] = []
    const kept = await readPredictions(file([{ id: 'z' }, ...list]), {
      onProblem: ({ message }) => problems.push(message),
    })
    expect([...kept.keys(), problems.length]).toEqual(['a', 1])
  })

  test('judgements in three forms', async () => {
    const expected = new Map([
      ['a', 85],
      ['b', 10.5],
    ])
    expect(await readJudgements(file({ a: 85, b: ' 10.5 ' }))).toEqual(expected)
    expect(
      await readJudgements(
        file([
          { id: 'a', score: 85 },
          { id: 'b', score: 10.5 },
        ]),
      ),
    ).toEqual(expected)
    expect(await readJudgements(file('{"id":"a","score":85}\n{"id":"b","score":"10.5"}\n', 'jsonl'))).toEqual(expected)
    await expect(readJudgements(file({ a: 'about 80' }))).rejects.toThrow(/replied "about 80", expected a number only/)
    await expect(readJudgements(file({ a: null }))).rejects.toThrow(/expected a number for "a", found null/)
  })
})

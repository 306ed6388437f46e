import { describe, expect, test } from 'vitest'
import {
  accuracyByKind,
  chosenLetter,
  decimals,
  finalScore,
  isRightLeniently,
  type Judge,
  judgeFrom,
  matchPoints,
  optionsOf,
  parseJudgement,
  passesGraph,
  pointsOf,
  ptbLines,
  rougeL,
  type ScoredMoment,
  scoreCaptions,
  scoreDrivelm,
  tokenizeCaptions,
} from '../../lib/drivelm/index.ts'
import { processorSeconds } from './processor-time.js'

const question = (id: string, tags: number[], text: string, reference: string): ScoredMoment['questions'][number] => ({
  id,
  tags,
  text,
  reference,
  kind: 'any',
})
const objects = 'The IDs are <c1,CAM_FRONT,100.0,200.0> and <c2,CAM_BACK,300.5,400.5>.'
const frame: ScoredMoment = {
  key: 'f',
  questions: [
    question('f_0', [2], 'What are the important objects?', objects),
    question('f_1', [0], 'Is <c1,CAM_FRONT,100.0,200.0> moving?', 'Yes.'),
    question('f_2', [0], 'Is <c2,CAM_BACK,300.5,400.5> moving?', 'No.'),
    question('f_3', [1], 'What are safe actions?', 'Brake.'),
    question('f_4', [3], 'What to notice first?', 'Notice <c1,CAM_FRONT,100.0,200.0>.'),
  ],
}
const second: ScoredMoment = {
  key: 'g',
  questions: [question('g_0', [2], 'What are the objects?', 'A bus waits here.')],
}
const right = new Map(
  [frame, second].flatMap(({ questions }) => questions.map(({ id, reference }) => [id, reference!] as const)),
)
const judge: Judge = async (_question, answer, reference) => (answer === reference ? 90 : 10)

describe('the tokeniser', () => {
  const cases: [text: string, tokens: string][] = [
    ['<c1,CAM_FRONT,1043.2,82.2>', '< c1 , cam_front ,1043.2,82.2 >'],
    ['A. Going', 'a. going'],
    ['No. 5', 'no. 5'],
    ["it's don't cannot", "it 's do n't can not"],
    ['(80%)', '-lrb- 80 % -rrb-'],
    ['list:[(a', 'list :[ -lrb- a'],
    ['a\u{1f697}b', 'a b'],
  ]
  test.each(cases)('%s', (text, tokens) => expect(ptbLines(text)).toEqual([tokens]))

  test('sees the next caption, and is shifted by line breaks inside captions', () => {
    expect(tokenizeCaptions(['Inc.', 'He left'])).toEqual(['inc.', 'he left'])
    expect(tokenizeCaptions(['a\rb', 'c'])).toEqual(['a', 'b'])
    expect(tokenizeCaptions(['', 'a\nb', ''])).toEqual(['', 'a b', ''])
  })

  test.each([
    ['markup that never closes', '<!a'],
    ['quotes that never close', '<a b="x" c=\''],
    ['addresses without an end', 'http://a,<'],
    ['no space at all', 'a,'],
    ['digits', '1'],
    ['lone surrogates', '\ud800'],
    ['abbreviations before markup', 'Inc. <!a '],
    ['hyphens and apostrophes', "x-'n'"],
  ])('takes linear time: %s', (_, part) => {
    const long = part.repeat(400_000 / part.length)
    const started = processorSeconds()
    ptbLines(long)
    expect(processorSeconds() - started).toBeLessThan(8) // quadratic would be minutes
  })
})

describe('caption metrics', () => {
  test('two empty captions are equal to ROUGE-L only', () => {
    const { items } = scoreCaptions([
      { answer: '', references: [''] },
      { answer: 'a bus', references: ['a bus'] },
    ])
    expect(items[0]).toMatchObject({ rougeL: 1, cider: 0 })
    expect(items[0]!.bleu[0]).toBeLessThan(1e-9)
  })

  test('a corpus of one item has CIDEr 0', () => {
    expect(scoreCaptions([{ answer: 'a red car', references: ['a red car'] }]).corpus.CIDEr).toBe(0)
  })

  test('a no-break space splits words for BLEU but not for ROUGE-L', () => {
    expect(rougeL([{ hypothesis: '1\u00a01/2', references: ['1 1/2'] }]).corpus).toBe(0)
    expect(scoreCaptions([{ answer: '1 1/2', references: ['1/2 1'] }]).corpus.Bleu_1).toBeGreaterThan(0.99)
  })

  test.each([
    ['an empty corpus', []],
    ['no reference', [{ answer: 'a', references: [] }]],
    ['references without words', [{ answer: 'a', references: ['.'] }]],
  ])('%s is an error', (_, pairs) => {
    expect(() => scoreCaptions(pairs)).toThrow(expect.objectContaining({ code: 'BAD_DATA' }))
  })
})

describe('coordinates', () => {
  test('only numbers with a point count, digits of any script', () => {
    expect(decimals('1 2.5 -3.5e7 1,000.25 1.2.3 ١٢.٥ 𝟏.𝟗')).toEqual([2.5, 3.5, 0.25, 1.2, 12.5, 1.9])
  })

  test('long rows of digits take linear time', () => {
    const started = processorSeconds()
    expect(decimals('1'.repeat(1_000_000))).toEqual([])
    expect(processorSeconds() - started).toBeLessThan(2)
  })

  test('an odd count is an error in a reference, and dropped in an answer', () => {
    expect(() => pointsOf('1.0 2.0 3.0', 'Question q')).toThrow(/Question q holds 3 decimal numbers/)
    expect(matchPoints('1.0 2.0 3.0', '1.0 2.0').matched).toEqual([[1, 2]])
  })

  test('a perfect answer stays just below 1, and 16 pixels are too far', () => {
    expect(matchPoints('1.0 2.0', '1.0 2.0').f1).toBe(0.9999999850000002)
    expect(matchPoints('9.0 10.0', '1.0 2.0').f1).toBe(0)
  })

  test('a question passes if all its objects were found', () => {
    expect(passesGraph([[1, 2]], 'Is <c1,CAM_FRONT,1.0,2.0> moving?')).toBe(true)
    expect(passesGraph([[1, 2]], 'Is <c1,CAM_FRONT,1.0,2.1> moving?')).toBe(false)
    expect(passesGraph([], 'Is it raining?')).toBe(true)
  })
})

describe('the official score', () => {
  test('of right answers', async () => {
    const sheet = await scoreDrivelm([frame, second], right, { judge, strict: true })
    expect(sheet).toMatchObject({ accuracy: 1, chatgpt: 90, gated: [], missing: [] })
    expect(sheet.counts).toEqual({ accuracy: 2, chatgpt: 1, language: 2, match: 1 })
    expect(sheet.match).toBeCloseTo(95, 5)
    expect(sheet.final).toBe(finalScore(sheet))
  })

  test('without a judge names what is missing and invents nothing', async () => {
    const sheet = await scoreDrivelm([frame, second], right)
    expect(sheet).toMatchObject({ final: null, chatgpt: null, match: null, matchJudge: null, accuracy: 1 })
    expect(sheet.matchF1).toBeCloseTo(100, 5)
    expect(sheet.missing).toEqual([
      'chatgpt: 1 answers need a judge, and none was given.',
      'match: 1 answers need a judge, and none was given.',
    ])
    await expect(scoreDrivelm([frame, second], right, { strict: true })).rejects.toMatchObject({ code: 'BAD_DATA' })
  })

  test('an empty group is null, not a division by zero', async () => {
    const sheet = await scoreDrivelm([second], new Map([['g_0', 'A bus waits here.']]), { judge })
    expect(sheet).toMatchObject({ accuracy: null, chatgpt: null, match: null, final: null })
    expect(sheet.missing).toHaveLength(3)
  })

  test('objects that were not found take their questions along', async () => {
    const missed = new Map(right).set('f_0', 'The ID is <c1,CAM_FRONT,101.0,201.0>.').set('f_2', 'wrong')
    const sheet = await scoreDrivelm([frame, second], missed, { judge })
    expect(sheet.gated).toEqual(['f_2'])
    expect(sheet.accuracy).toBe(1)
    expect((await scoreDrivelm([frame, second], missed, { judge, gating: 'none' })).accuracy).toBe(0.5)
  })

  test('strings are compared as they are, leniently only under another name', async () => {
    const loose = new Map(right).set('f_1', 'yes').set('f_2', 'No. ')
    const sheet = await scoreDrivelm([frame, second], loose, { judge })
    expect(sheet.accuracy).toBe(0)
    expect(sheet.lenientAccuracy).toEqual({ value: 1, right: 2, count: 2 })
  })

  test('bad data is named, and keepGoing lists it', async () => {
    const odd = {
      key: 'h',
      questions: [question('h_0', [2], 'Objects?', 'at 3.5'), question('h_1', [0], 'Sure?', 'Yes.')],
    }
    const answers = new Map(right).set('h_0', 'none').set('h_1', 'Yes.').set('zzz', 'stray')
    const moments = [frame, second, odd]
    await expect(scoreDrivelm(moments, answers)).rejects.toThrow(/reference of h_0 holds 1 decimal number/)
    answers.delete('f_3')
    const sheet = await scoreDrivelm(moments, answers, { keepGoing: true, judge })
    expect(sheet.problems.map(({ id }) => id)).toEqual(['h_0', 'f_3', 'zzz'])
    expect(sheet.accuracy).toBe(1)
    expect(sheet.counts.accuracy).toBe(3)
  })

  test('a judge that fails is named; hidden answers cannot be scored', async () => {
    const broken = judgeFrom(new Map([['f_3', 50]]), 'judged.json')
    await expect(scoreDrivelm([frame, second], right, { judge: broken })).rejects.toThrow(/judged.json: .*f_4/)
    const noNumber: Judge = async () => Number.NaN
    await expect(scoreDrivelm([frame, second], right, { judge: noNumber })).rejects.toThrow(/gave NaN for f_/)
    const { reference: _, ...hidden } = second.questions[0]!
    const moments = [{ key: 'g', questions: [hidden] }]
    await expect(scoreDrivelm(moments, new Map([['g_0', 'x']]))).rejects.toThrow(/hides the answers/)
  })

  test.each([0, -1, 1.5, Number.NaN])(
    '%s judges at a time are refused: nobody would judge',
    async (judgeConcurrency) => {
      await expect(scoreDrivelm([frame, second], right, { judge, judgeConcurrency })).rejects.toMatchObject({
        code: 'BAD_ARGUMENT',
        message: expect.stringContaining('options.judgeConcurrency'),
      })
    },
  )

  test('a judgement is a number and nothing else', () => {
    expect([' 85 ', '7.5', '1e2'].map((reply) => parseJudgement(reply))).toEqual([85, 7.5, 100])
    for (const reply of ['85/100', 'Score: 85', '', 'NaN', '0x10']) {
      expect(() => parseJudgement(reply)).toThrow(/expected a number/)
    }
  })
})

describe('short answers', () => {
  const options = 'A. Going ahead. B. Turn left. C. Stopped. D. Back up.'
  const asked = `What is it? Please select the correct answer from the following options: ${options}`

  test('options of a lettered question', () => {
    expect([...optionsOf(asked)]).toEqual([
      ['A', 'Going ahead.'],
      ['B', 'Turn left.'],
      ['C', 'Stopped.'],
      ['D', 'Back up.'],
    ])
    expect([...optionsOf('Which colour? A. Red. B. Blue.').keys()]).toEqual(['A', 'B'])
    expect(optionsOf('Is A. Smith there?').size).toBe(0)
  })

  test.each([
    ['B', 'B'],
    ['B.', 'B'],
    ['(C) Stopped.', 'C'],
    ['The answer is D, I think', 'D'],
    ['the correct option is: b', 'B'],
    ['It has stopped', 'C'],
    ['A car is there, so C', 'C'],
    ['A car', undefined],
    ['E', undefined],
    ['', undefined],
  ])('"%s" means %s', (answer, letter) => expect(chosenLetter(answer, asked)).toBe(letter))

  test('yes and no', () => {
    expect(isRightLeniently('yes, it is', 'Yes.', '')).toBe(true)
    expect(isRightLeniently('Nothing there', 'No.', '')).toBe(false)
    expect(isRightLeniently('two cars', 'Two cars.', '')).toBe(true)
  })

  test('accuracy by kind and hop, as NuScenes-QA reports it', () => {
    const list = [
      { answer: 'yes', reference: 'yes', kind: 'exist', hop: 0 },
      { answer: 'no', reference: 'yes', kind: 'exist', hop: 1 },
      { answer: '3', reference: '3', kind: 'count', hop: 0 },
    ]
    const { overall, byKind, byKindAndHop } = accuracyByKind(list)
    expect(overall).toEqual({ value: 2 / 3, right: 2, count: 3 })
    expect(byKind).toMatchObject({ exist: { value: 0.5, count: 2 }, count: { value: 1 } })
    expect(byKindAndHop).toMatchObject({ 'exist H0': { value: 1 }, 'exist H1': { value: 0 } })
    expect(accuracyByKind([]).overall.value).toBeNull()
  })
})

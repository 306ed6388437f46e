import { describe, expect, test, vi } from 'vitest'
import {
  type Box,
  boxToPixels,
  boxToThousandths,
  type CanvasGeometry,
  cameraAt,
  choiceQuestion,
  classifyQuestion,
  detectAllQuestion,
  drivelmGeometry,
  drivelmQuestion,
  formatBoxes,
  formatObject,
  imageGeometry,
  locateObjects,
  locateQuestion,
  parseGrounding,
  readChoice,
  regionQuestion,
  roundHalfEven,
  shortAnswerQuestion,
  tagsToCanvas,
  tagsToPixels,
} from '../../lib/grounding.ts'
import { processorSeconds } from './processor-time.js'
import { fixtures, json, missing, shared } from './tokenizer-shared.ts'

// Two shared cores may be slow; a hang is still found.
vi.setConfig({ testTimeout: 120_000 })

const badArgument = expect.objectContaining({ code: 'BAD_ARGUMENT' })

describe('c-tags back to pixels', () => {
  const golden: { cases: { input: string; output: string }[] } = json(fixtures, 'internvl_postprocess.json')

  test.each(golden.cases.map(({ input, output }) => [input, output]))('%s', (input, output) => {
    expect(tagsToPixels(input!)).toBe(output)
  })

  test('the fixture is the shared reference', (context) => {
    const absent = missing('golden', 'drivelm', 'internvl_postprocess.json')
    if (absent) return context.skip(absent)
    expect(json(shared, 'golden', 'drivelm', 'internvl_postprocess.json')).toEqual(golden)
  })

  test.each([
    ['<c1,CAM_BACK,[560, 776]>', '<c1,CAM_BACK,1088.0,496.8>'],
    ['<c1,CAM_FRONT,[551, 46]>', '<c1,CAM_FRONT,1044.8,82.8>'],
    ['<c1,CAM_BACK_RIGHT,[925, 839]>', '<c1,CAM_BACK_RIGHT,1240.0,610.2>'],
    ['<c1,CAM_BACK_RIGHT,[925, 840]>', '<c1,CAM_BACK_RIGHT,1240.0,612.0>'],
    ['<c1,CAM_BACK,[511, 786]>', '<c1,CAM_BACK,852.8,514.8>'],
  ])('%s', (input, output) => {
    expect(tagsToPixels(input)).toBe(output)
  })

  test('decimals for clamped coordinates', () => {
    expect(tagsToPixels('<c1,CAM_FRONT,[0, 1000]> <c2,CAM_FRONT,[1000, 0]>', { decimals: true })).toBe(
      '<c1,CAM_FRONT,0.0,900.0> <c2,CAM_FRONT,1600.0,0.0>',
    )
    expect(tagsToPixels('<c1,CAM_FRONT,[0, 1000]> <c2,CAM_FRONT,[1000, 0]>')).toBe(
      '<c1,CAM_FRONT,0,900> <c2,CAM_FRONT,1600,0>',
    )
  })

  test('exact halves are rounded to even', () => {
    const halves = imageGeometry('CAM_FRONT', { width: 1000, height: 1000 })
    const at = (x: string): string => tagsToPixels(`<c1,CAM_FRONT,[${x}, 5]>`, { geometry: halves })
    expect(at('0.25')).toBe('<c1,CAM_FRONT,0.2,5.0>')
    expect(at('0.75')).toBe('<c1,CAM_FRONT,0.8,5.0>')
    expect(at('2.25')).toBe('<c1,CAM_FRONT,2.2,5.0>')
  })

  test('a tag begins at the first <c that reaches its commas', () => {
    expect(tagsToPixels('<car <c1,CAM_FRONT,[500, 250]>')).toBe('<car <c1,CAM_FRONT,800.0,450.0>')
    expect(tagsToPixels('<c1, CAM_FRONT,[500, 250]>')).toBe('<c1, CAM_FRONT,[500, 250]>')
    expect(tagsToPixels('<c1,CAM_FRONT,[05, 250]>')).toBe('<c1,CAM_FRONT,[05, 250]>')
    expect(tagsToPixels('<c1,CAM_FRONT,[500, 250]')).toBe('<c1,CAM_FRONT,[500, 250]')
    expect(tagsToPixels('<c1,toString,[500, 250]>')).toBe('<c1,toString,[500, 250]>')
    expect(tagsToPixels(`<c1,CAM_FRONT,[${'9'.repeat(400)}, 1]>`)).toBe('<c1,CAM_FRONT,1600,1.8>')
  })
})

describe('c-tags onto the canvas', () => {
  test.each([
    ['<c1,CAM_BACK,1088.3,497.5>', '<c1,CAM_BACK,[560, 776]>'],
    ['<c2,CAM_FRONT,1043.2,82.2>', '<c2,CAM_FRONT,[551, 46]>'],
    ['<c3,CAM_BACK_RIGHT,1238.6,610.0>', '<c3,CAM_BACK_RIGHT,[925, 839]>'],
    ['<c4,CAM_FRONT_RIGHT,1600,900>', '<c4,CAM_FRONT_RIGHT,[1000, 500]>'],
    ['<c4,CAM_TOP,1,2>', '<c4,CAM_TOP,1,2>'],
    ['<c4,CAM_FRONT,[1, 2]>', '<c4,CAM_FRONT,[1, 2]>'],
  ])('%s', (input, output) => {
    expect(tagsToCanvas(input)).toBe(output)
  })

  test('there and back within a canvas unit', () => {
    for (const camera of drivelmGeometry.cameras) {
      for (let i = 1; i < 40; i++) {
        const [x, y] = [(i * 39.7).toFixed(1), (i * 22.1).toFixed(1)]
        const back = tagsToPixels(tagsToCanvas(`<c1,${camera},${x},${y}>`), { decimals: true })
        const [, , bx, by] = back.slice(1, -1).split(',')
        expect(Math.abs(Number(bx) - Number(x))).toBeLessThanOrEqual(2.41)
        expect(Math.abs(Number(by) - Number(y))).toBeLessThanOrEqual(0.91)
      }
    }
  })

  test('the question of the adapted checkpoints', () => {
    expect(drivelmQuestion('Is <c2,CAM_BACK_RIGHT,1238.6,612.0> moving?')).toBe(
      'Is <c2,CAM_BACK_RIGHT,[925, 840]> moving? Objects are encoded using <c,CAM,[cx,cy]>, where c is the identifier, CAM indicates the camera where the object\u2019s center point is situated, and x, y represent the horizontal and vertical coordinates of the center point of the 2D bounding box.',
    )
  })
})

describe('asking for and about boxes', () => {
  test('prompts', () => {
    expect(locateQuestion('the red car')).toBe(
      'Please provide the bounding box coordinate of the region this sentence describes: <ref>the red car</ref>',
    )
    expect(locateQuestion('ships', 'detect')).toBe('Detect <ref>ships</ref>')
    expect(detectAllQuestion).toBe(
      'Please detect and label all objects in the following image and mark their positions.',
    )
    expect(
      formatObject('car', [
        [1, 2, 3, 4],
        [5, 6, 7, 8],
      ]),
    ).toBe('<ref>car</ref><box>[[1, 2, 3, 4], [5, 6, 7, 8]]</box>')
    expect(formatBoxes([[1, 2, 3, 4]], { compact: true })).toBe('<box>[[1,2,3,4]]</box>')
    for (const label of ['', '  ', 'a</ref>', '<box>']) expect(() => locateQuestion(label)).toThrowError(badArgument)
  })

  test('regions of a camera, on the canvas and alone', () => {
    const region = { camera: 'CAM_BACK', box: [800, 450, 1600, 900] as Box }
    expect(regionQuestion(drivelmGeometry, region)).toBe(
      'What object is in this location<box>[[500, 750, 667, 1000]]</box>',
    )
    expect(regionQuestion(drivelmGeometry, region, 'What is the object at {box}?', { compact: true })).toBe(
      'What is the object at <box>[[500,750,667,1000]]</box>?',
    )
    expect(regionQuestion(imageGeometry('CAM_BACK', { width: 1600, height: 900 }), region)).toBe(
      'What object is in this location<box>[[500, 500, 1000, 1000]]</box>',
    )
    for (const box of [
      [5, 5, 1, 9],
      [0, 0, 1601, 1],
      [-1, 0, 1, 1],
      [Number.NaN, 0, 1, 1],
    ] as unknown as Box[]) {
      expect(() => boxToThousandths(drivelmGeometry, { camera: 'CAM_BACK', box })).toThrowError(badArgument)
    }
    expect(() => boxToThousandths(drivelmGeometry, { camera: 'CAM_TOP', box: [0, 0, 1, 1] })).toThrowError(badArgument)
  })

  test('Python rounding', () => {
    expect([0.5, 1.5, 2.5, 2.4, 2.6, 999.5, -0.5].map(roundHalfEven)).toEqual([0, 2, 2, 2, 3, 1000, -0])
  })
})

describe('reading boxes', () => {
  const objects = (answer: string): unknown => parseGrounding(answer).objects

  test('one, several boxes, several labels', () => {
    expect(objects('<ref>the red car</ref><box>[[123, 45, 678, 900]]</box>')).toEqual([
      { label: 'the red car', boxes: [[123, 45, 678, 900]] },
    ])
    expect(
      objects('<ref>car</ref><box>[[1, 2, 3, 4], [5,6,7,8.5]]</box>\n<ref>bus</ref><box>[[9, 9, 9, 9]]</box>'),
    ).toEqual([
      {
        label: 'car',
        boxes: [
          [1, 2, 3, 4],
          [5, 6, 7, 8.5],
        ],
      },
      { label: 'bus', boxes: [[9, 9, 9, 9]] },
    ])
    expect(objects('<ref>pedestrian</ref><box>[[899,719,929,859]]</box>')).toEqual([
      { label: 'pedestrian', boxes: [[899, 719, 929, 859]] },
    ])
    expect(objects('at <box>[1, 2, 3, 4]</box>')).toEqual([{ label: '', boxes: [[1, 2, 3, 4]] }])
  })

  test('with the tags removed', () => {
    expect(objects('the red car[[123, 45, 678, 900]]')).toEqual([
      { label: 'the red car', boxes: [[123, 45, 678, 900]] },
    ])
    expect(objects('car[[1, 2, 3, 4], [5, 6, 7, 8]]\nbus[[9, 9, 10, 10]]')).toEqual([
      {
        label: 'car',
        boxes: [
          [1, 2, 3, 4],
          [5, 6, 7, 8],
        ],
      },
      { label: 'bus', boxes: [[9, 9, 10, 10]] },
    ])
    expect(objects('car[[1, 2, 3, 4]], bus[[9, 9, 10, 10]]')).toEqual([
      { label: 'car', boxes: [[1, 2, 3, 4]] },
      { label: 'bus', boxes: [[9, 9, 10, 10]] },
    ])
    expect(objects('[[1, 2, 3, 4]]')).toEqual([{ label: '', boxes: [[1, 2, 3, 4]] }])
  })

  test('text around objects stays in order', () => {
    const { segments, text } = parseGrounding('I see <ref>a car</ref><box>[[1, 2, 3, 4]]</box> ahead.')
    expect(segments).toEqual(['I see ', { label: 'a car', boxes: [[1, 2, 3, 4]] }, ' ahead.'])
    expect(text).toBe('I see a car ahead.')
  })

  test('what was written is read', () => {
    for (const compact of [true, false]) {
      const boxes: Box[] = [
        [0, 0, 1000, 1000],
        [12, 34, 56, 78],
      ]
      expect(objects(formatObject('a [very] odd, label', boxes, { compact }))).toEqual([
        { label: 'a [very] odd, label', boxes },
      ])
    }
  })

  test('an answer cut off behind its box', () => {
    expect(objects('<ref>car</ref><box>[[1, 2, 3, 4]]')).toEqual([{ label: 'car', boxes: [[1, 2, 3, 4]] }])
  })

  test('numbers outside are clamped', () => {
    expect(objects('<box>[[-5, 0, 1200, 10]]</box>')).toEqual([{ label: '', boxes: [[0, 0, 1000, 10]] }])
  })

  test.each([
    '<ref>car</ref>',
    '<ref>car<box>[[1, 2, 3]]</box>',
    '<ref>car</ref><box>[[1, 2, 3]]</box>',
    '<ref>car</ref><box>[[1, 2, 3, 4, 5]]</box>',
    '<box>[[1, 2, 3, x]]</box>',
    '<box>[[10, 2, 3, 4]]</box>',
    '<box>[[1, 20, 3, 4]]</box>',
    '<box>[[1, 2, 3, 4',
    '<box>[[]]</box>',
    '[1, 2, 3]',
    '[[1, 2, 3, 4], [1, 2]]]',
    '<c1,CAM_FRONT,[500, 250]>',
    '[[1e5, NaN, Infinity, 4]]',
    '</box></ref>',
    '',
  ])('malformed: %s', (answer) => {
    expect(parseGrounding(answer)).toEqual({ objects: [], segments: answer === '' ? [] : [answer], text: answer })
  })
})

describe('boxes and cameras', () => {
  test('the cell that holds the middle', () => {
    expect(cameraAt(drivelmGeometry, 100, 100)).toBe('CAM_FRONT_LEFT')
    expect(cameraAt(drivelmGeometry, 500, 499)).toBe('CAM_FRONT')
    expect(cameraAt(drivelmGeometry, 999, 501)).toBe('CAM_BACK_RIGHT')
    expect(cameraAt(drivelmGeometry, 1000, 1000)).toBe('CAM_BACK_RIGHT')
    expect(cameraAt(drivelmGeometry, -5, 2000)).toBe('CAM_BACK_LEFT')
  })

  test('to pixels, clamped to the camera', () => {
    expect(boxToPixels(drivelmGeometry, [500, 750, 666, 1000])).toEqual({
      camera: 'CAM_BACK',
      box: [800, 450, expect.closeTo(1596.8, 6), 900],
    })
    const seam = boxToPixels(drivelmGeometry, [300, 100, 500, 200])
    expect(seam.camera).toBe('CAM_FRONT')
    expect(seam.box[0]).toBe(0)
    expect(boxToPixels(drivelmGeometry, [300, 100, 500, 200], 'CAM_FRONT_LEFT').box[2]).toBe(1600)
  })

  test('there and back', () => {
    for (const camera of drivelmGeometry.cameras) {
      const box: Box = [160, 90, 800, 450]
      const back = boxToPixels(drivelmGeometry, boxToThousandths(drivelmGeometry, { camera, box }))
      expect(back.camera).toBe(camera)
      for (let i = 0; i < 4; i++) expect(Math.abs(back.box[i]! - box[i]!)).toBeLessThanOrEqual(i % 2 ? 0.91 : 2.41)
    }
  })

  test('cameras of different sizes', () => {
    const geometry: CanvasGeometry = {
      columns: 2,
      rows: 1,
      cellWidth: 448,
      cellHeight: 448,
      cameras: ['left', 'right'],
      imageSize: { left: { width: 640, height: 480 }, right: { width: 1920, height: 1080 } },
    }
    expect(boxToPixels(geometry, [500, 0, 1000, 1000])).toEqual({ camera: 'right', box: [0, 0, 1920, 1080] })
    expect(boxToPixels(geometry, [0, 0, 500, 500])).toEqual({ camera: 'left', box: [0, 0, 640, 240] })
    const { left } = geometry.imageSize as Record<string, { width: number; height: number }>
    expect(() => boxToPixels({ ...geometry, imageSize: { left: left! } }, [600, 0, 900, 1000])).toThrowError(
      badArgument,
    )
  })

  test('an answer in pixels of the cameras', () => {
    const found = locateObjects(
      drivelmGeometry,
      parseGrounding('<ref>car</ref><box>[[334, 0, 666, 500], [0, 500, 100, 600]]</box>'),
    )
    expect(found[0]!.boxes.map(({ camera }) => camera)).toEqual(['CAM_FRONT', 'CAM_BACK_LEFT'])
    expect(found[0]!.boxes[1]).toMatchObject({
      box: [0, 0, 480, expect.closeTo(180, 9)],
      thousandths: [0, 500, 100, 600],
    })
  })
})

describe('choices', () => {
  const four = ['Going ahead.', 'Turn right.', 'Turn left.', 'Stopped.']

  test('questions', () => {
    expect(choiceQuestion('What is the moving status?', four)).toBe(
      'What is the moving status? Please select the correct answer from the following options: A. Going ahead. B. Turn right. C. Turn left. D. Stopped.',
    )
    expect(choiceQuestion('Q?', ['x', 'y'], 'lines')).toBe(
      "Q?\nA. x\nB. y\nAnswer with the option's letter from the given choices directly.",
    )
    expect(classifyQuestion(['airport', 'school'])).toBe(
      'Classify the image within one of the given classes: airport, school. Answer with one word or short phrase.',
    )
    expect(shortAnswerQuestion('Is it wet?')).toBe('Is it wet?\nAnswer the question using a single word or phrase.')
    for (const choices of [[], ['a'], ['a', ' '], new Array(27).fill('x')])
      expect(() => choiceQuestion('Q', choices)).toThrowError(badArgument)
    expect(() => classifyQuestion(['one'])).toThrowError(badArgument)
  })

  test.each<[string, number | undefined]>([
    ['B', 1],
    [' b. ', 1],
    ['(C)', 2],
    ['D. Stopped.', 3],
    ['A) Going ahead', 0],
    ['The answer is C.', 2],
    ['Turn left.', 2],
    ['turn  LEFT', 2],
    ['The car will turn right soon.', 1],
    ['It may turn left or turn right.', undefined],
    ['A car is parked.', undefined],
    ['E', undefined],
    ['I do not know.', undefined],
    ['', undefined],
  ])('%j', (answer, index) => {
    expect(readChoice(answer, four)).toBe(index)
  })

  test('classes', () => {
    const classes = ['residential area', 'dense residential area', 'school', 'a']
    expect(readChoice('Dense residential area', classes, { letters: false })).toBe(1)
    expect(
      readChoice('It is a dense residential area.', ['residential area', 'dense residential area', 'school'], {
        letters: false,
      }),
    ).toBe(1)
    expect(readChoice('preschool', ['school', 'airport'], { letters: false })).toBeUndefined()
    expect(readChoice('A', classes, { letters: false })).toBe(3)
  })
})

describe('a megabyte from a hostile model', () => {
  const units = [
    '<c',
    '<c,',
    '<c,,',
    '<c,CAM_FRONT,',
    '<c1,CAM_FRONT,[',
    '<c1,CAM_FRONT,[5, 5]',
    '<c1,CAM_FRONT,[5, 5]>',
    '9',
    ',',
    ' ',
    '[',
    '[[',
    '[ ',
    '[[1,2,3,4],',
    '[[1,2,3,4],[',
    '<ref>',
    '<ref>x',
    '</ref>',
    '<box>',
    '<box>[[',
    '<box>[[1,2,3,4]',
    '<ref>a</ref>',
    '<ref>a</ref><box>',
    'A',
    'A. ',
    'answer is ',
    'turn left ',
    '(',
    '-1',
    '.1',
    '\n',
    '>',
  ]

  test.each(units)('%j', (unit) => {
    const text = unit.repeat(Math.ceil((1 << 20) / unit.length))
    for (const hostile of [text, `<c1,CAM_FRONT,[${text}`, `<ref>[[1,${text}</ref>`]) {
      const started = processorSeconds()
      tagsToPixels(hostile)
      tagsToCanvas(hostile)
      parseGrounding(hostile)
      readChoice(hostile, ['Turn left.', 'Stopped.'])
      expect(processorSeconds() - started).toBeLessThan(15)
    }
  })
})

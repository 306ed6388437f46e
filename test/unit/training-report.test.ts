/** The report of a training run: which validation is called the best, what is said of boxes, a moment before and after, and the page itself. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { describe, expect, test } from 'vitest'
import { type TrainingReport, trainingReportHtml } from '../../lib/train/report/html.ts'
import { changedMoment, type ShownMoment, type Validation } from '../../lib/train/report/validation.ts'
import { Browser, findChromium } from '../fixtures/drivelm/chromium.mjs'

const common = { set: 'domain', questions: 8, final: null }

function validation(updates: number, exact: number, best: boolean): Validation {
  const kinds = [
    { name: 'count', exact, lenient: exact, count: 4 },
    { name: 'locate', exact: 0, lenient: exact / 2, count: 4 },
  ]
  return { ...common, updates, exact, lenient: exact, best, kinds }
}

test('the last best validation is shown, and boxes as they are leniently compared', () => {
  const validations = [
    validation(0, 0.25, true),
    validation(5, 0.5, true),
    validation(10, 0.75, true),
    validation(15, 0.5, false),
  ]
  const html = trainingReportHtml({ title: 'run', facts: {}, lists: [], steps: [], validations })
  expect([...html.matchAll(/<th scope="col">(before|after [^<]+)</g)].map((match) => match[1])).toEqual([
    'before',
    'after 10, best',
    'after 15',
  ])
  const cells = (kind: string) => new RegExp(`>${kind}</th>(.*?)</tr>`).exec(html)?.[1]
  expect(cells('count')).toBe('<td>25.0 %</td><td>75.0 %</td><td>50.0 %</td>')
  expect(cells('locate')).toBe('<td>0.0 % (12.5 %)</td><td>0.0 % (37.5 %)</td><td>0.0 % (25.0 %)</td>')
})

const asked = (key: string, answers: readonly (string | null)[]): ShownMoment => ({
  key,
  views: { CAM_BACK: 'back.png', CAM_FRONT: 'front.png' },
  questions: answers.map((answer, i) => ({
    question: `<image>\nIs it <${i}>?`,
    reference: 'Yes.',
    answer,
    right: answer === 'Yes.',
  })),
})
const before = [asked('first', ['Yes.', 'No.']), asked('second', ['No.', '<b>'])]
const after = [asked('first', ['Yes.', 'Yes.']), asked('second', ['Yes.', 'Yes.'])]

test('the moment that is shown is the one where most answers changed, by the first and the last weights', () => {
  const validations = [
    { ...validation(0, 0, true), moments: before },
    { ...validation(5, 0, false), moments: before },
    { ...validation(9, 1, true), moments: after },
  ]
  expect(changedMoment(validations)).toEqual({ before: before[1], after: after[1], updates: 9, among: 2 })
  expect(changedMoment(validations.slice(0, 1))).toBeUndefined()
  expect(changedMoment(validations.slice(1))).toBeUndefined() // nothing before the first update
  expect(changedMoment(validations.map(({ moments: _, ...one }) => one))).toBeUndefined()
})

const report: TrainingReport = {
  title: 'run',
  facts: { updates: '40' },
  lists: [],
  steps: Array.from({ length: 40 }, (_, step) => ({
    step,
    loss: 2 / (step + 1),
    gradientNorm: 1,
    learningRate: 1e-4,
    visionLearningRate: 5e-5,
  })),
  validations: [validation(0, 0.25, true), validation(40, 0.5, true)],
  moment: {
    before: before[1]!,
    after: after[1]!,
    updates: 40,
    among: 2,
    pictures: { CAM_FRONT: { src: 'data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA=', aspect: 1 } },
  },
}

test('a moment has its pictures as they stand around the vehicle, and both answers beside what is right', () => {
  const html = trainingReportHtml(report)
  expect(html.indexOf('<span class="camera">front</span>')).toBeLessThan(
    html.indexOf('<span class="camera">back</span>'),
  )
  expect(html).toContain('<span class="missing">no picture</span>')
  const row = /Is it &lt;1&gt;\?<\/th>(.*?)<\/tr>/.exec(html)?.[1]
  expect(row).toBe(
    '<td>Yes.</td><td><span class="verdict wrong">✗</span> &lt;b&gt;</td><td><span class="verdict right">✓</span> Yes.</td>',
  )
})

const program = findChromium()

describe.skipIf(!program)(`in a browser${program ? '' : ' (skipped: no Chromium is installed)'}`, () => {
  test('curves are drawn, with units, and nothing is asked of the network', async () => {
    const dir = mkdtempSync(join(tmpdir(), 'drivlm-report-'))
    const browser = new Browser(program!)
    try {
      writeFileSync(join(dir, 'report.html'), trainingReportHtml(report))
      const url = pathToFileURL(join(dir, 'report.html')).href
      await browser.open(url)
      const lines = await browser.evaluate(
        '[...document.querySelectorAll("[data-chart]")].map((one) => [one.dataset.chart, one.querySelectorAll("path.line").length])',
      )
      expect(lines).toEqual([
        ['Right answers', 1],
        ['Loss', 1],
        ['Learning rate', 2],
        ['Gradient norm', 1],
      ])
      const ticks: string = await browser.evaluate('document.querySelector("[data-chart] svg").textContent')
      expect(ticks).toContain('100 %')
      expect(ticks).toContain('updates')
      expect(await browser.evaluate('document.querySelector(".moment img").naturalWidth')).toBe(1)
      const others = browser.events.filter(({ method }) => method !== 'Network.requestWillBeSent')
      expect(others).toEqual([])
    } finally {
      browser.close()
      rmSync(dir, { recursive: true, force: true })
    }
  })
})

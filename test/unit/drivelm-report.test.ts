import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { pathToFileURL } from 'node:url'
import vm from 'node:vm'
import sharp from 'sharp'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import {
  buildReport,
  judgeFrom,
  type Moment,
  type Report,
  readFrames,
  readMoments,
  readPredictions,
  reportCsv,
  reportHtml,
  resolveImage,
  scoreDrivelm,
  writeReport,
} from '../../lib/drivelm/index.ts'
import { pageScript } from '../../lib/evaluate/report/page-assets.ts'
import { Browser, findChromium } from '../fixtures/drivelm/chromium.mjs'

const fixtures = path.resolve(import.meta.dirname, '../fixtures/drivelm')
const dir = mkdtempSync(path.join(tmpdir(), 'drivelm-report-'))
const data = path.join(fixtures, 'mini_test_eval.json')
const images = path.join(dir, 'nuscenes')
const hostile = '</script><script>globalThis.hacked = 1</script><img src=x onerror="globalThis.hacked = 1">\u2028<!--'
let report: Report

beforeAll(async () => {
  const expected = JSON.parse(readFileSync(path.join(fixtures, 'mini_expected_scores.json'), 'utf8'))
  const { judge_scores: judged } = expected.runs['mini_output_eval_noisy.json']
  const predictions = await readPredictions(path.join(fixtures, 'mini_output_eval_noisy.json'))
  const answers = new Map([...predictions].map(([id, { answer }]) => [id, answer]))
  const annotated = new Map<string, Moment['frame']>()
  for await (const frame of readFrames(path.join(fixtures, 'mini_v1_1_train_nus.json')))
    annotated.set(frame.token, frame)
  const moments: Moment[] = []
  for await (const moment of readMoments(data)) {
    const frame = moment.frame && annotated.get(moment.frame.token)
    moments.push({ ...moment, ...(frame ? { frame } : {}) })
  }
  const picture = await sharp({
    create: {
      width: 1600,
      height: 900,
      channels: 3,
      background: '#7a8',
      noise: { type: 'gaussian', mean: 120, sigma: 30 },
    },
  })
    .jpeg()
    .toBuffer()
  for (const [i, { views }] of moments.entries()) {
    if (i === 7) continue // a frame whose pictures are missing
    for (const name of Object.values(views)) {
      const file = path.join(images, name.replace('../nuscenes/', ''))
      mkdirSync(path.dirname(file), { recursive: true })
      await sharp(picture).toFile(file)
    }
  }
  const sheet = await scoreDrivelm(moments, answers, { judge: judgeFrom(new Map(Object.entries(judged))) })
  const first = moments[0]!.questions[1]!
  moments[0]!.questions[1] = { ...first, text: `${hostile} ${first.text}` }
  answers.set(moments[0]!.questions[2]!.id, hostile)
  const entries = [...predictions.values()].map(({ id, question, answer }, index) => ({
    index,
    id,
    question,
    answer,
    timings: { ...(id.endsWith('_0') ? { visionMs: 100 } : {}), decodeMs: index + 1 },
  }))
  const problems = [{ id: '', message: `line 3: ${hostile}` }]
  report = buildReport({
    model: hostile,
    data: 'mini.json',
    notes: { device: hostile },
    moments,
    answers,
    sheet,
    entries,
    problems,
  })
  await writeReport(report, dir, { resolve: (name, camera) => resolveImage(name, { images, data }, camera) })
})
afterAll(() => rmSync(dir, { recursive: true, maxRetries: 5 }))

test('the page has the script and the style of its files', async () => {
  const { pageAssets } = await import('../../scripts/embed-page.mjs' as string)
  expect(readFileSync('lib/evaluate/report/page-assets.ts', 'utf8')).toBe(pageAssets())
})

test('the script of the page runs without a browser too, where objects have no box', () => {
  interface Node {
    children: (Node | string)[]
    [name: string]: unknown
  }
  const listeners: (() => void)[] = []
  const element = (tag: string): Node => {
    const node: Node = { tag, children: [], style: {}, dataset: {}, value: '', setAttribute() {}, scrollIntoView() {} }
    node.append = (...children: Node[]) => node.children.push(...children)
    node.replaceChildren = (...children: Node[]) => {
      node.children = children
    }
    node.addEventListener = (_: string, listener: () => void) => listeners.push(listener)
    return node
  }
  const byId = new Map<string, Node>()
  const document = {
    documentElement: element('html'),
    createElement: element,
    createElementNS: (_: string, tag: string) => element(tag),
    getElementById: (id: string) => byId.get(id) ?? byId.set(id, element(id)).get(id)!,
  }
  const frames = report.frames.map((frame) => ({ ...frame, pictures: {} }))
  const [object] = frames[0]!.objects
  frames[0] = { ...frames[0]!, objects: [{ ...object!, box: null, description: null, category: null }] }
  document.getElementById('report-data').textContent = JSON.stringify({ frames })
  vm.runInNewContext(pageScript, { document, setTimeout: (run: () => void) => run(), clearTimeout() {} })
  expect((document.documentElement.dataset as Record<string, string>).ready).toBe('true')
  expect(byId.get('frames')!.children).toHaveLength(6)
  expect(byId.get('count')!.textContent).toBe('59 questions in 8 frames')
  expect(listeners.length).toBeGreaterThan(59)
})

describe('what a report says', () => {
  test('counts and groups', () => {
    expect(report.totals).toEqual({ frames: 8, questions: 59, answered: 59, gated: 11, problems: 1 })
    const kinds = report.byKind.map(({ name }) => name)
    expect(kinds).toEqual(expect.arrayContaining(['moving status', 'yes or no', 'ego behavior']))
    const all = report.byKind.reduce((sum, { exact }) => sum + exact.count, 0)
    expect(report.overall.exact.count).toBe(all)
    expect(report.byCamera.at(-1)!.name).toBe('no camera named')
    for (const { exact, lenient } of report.byKind) expect(lenient.right).toBeGreaterThanOrEqual(exact.right)
    expect(report.letters.references).toEqual(['A', 'B', 'C', 'D'])
    const lettered = report.letters.counts.flat().reduce((sum, count) => sum + count, 0)
    const references = report.frames
      .flatMap(({ questions }) => questions)
      .filter(({ reference }) => /^[A-D]$/.test(reference!))
    expect(lettered).toBe(references.length)
    expect(report.lengths.reduce((sum, { references }) => sum + references, 0)).toBe(59)
  })

  test('percentiles are measured values', () => {
    expect(report.latency.map(({ stage }) => stage)).toEqual(['vision', 'decode', 'all together'])
    expect(report.latency[1]).toEqual({ stage: 'decode', count: 59, mean: 30, p50: 30, p90: 54, p99: 59, max: 59 })
  })

  test('verdicts follow the score sheet', () => {
    const questions = report.frames.flatMap((frame) => frame.questions)
    expect(questions.filter(({ verdict }) => verdict === 'gated')).toHaveLength(11)
    expect(questions.find(({ tags }) => tags.includes(3))).toMatchObject({
      f1: expect.any(Number),
      judge: expect.any(Number),
    })
    expect(questions[0]).toMatchObject({ verdict: 'rated', rougeL: expect.any(Number) })
  })

  test('a set without references, or without answers', () => {
    const moment = { key: 'm', views: { image: 'x.png' }, questions: [{ id: 'a', text: 'What?', kind: 'other' }] }
    const open = buildReport({ model: 'm', data: 'd', moments: [moment], answers: new Map([['a', 'This.']]) })
    expect([open.frames[0]!.questions[0]!.verdict, open.score, open.overall.exact.value]).toEqual(['open', null, null])
    const silent = buildReport({ model: 'm', data: 'd', moments: [moment], answers: new Map() })
    expect(silent.frames[0]!.questions[0]!.verdict).toBe('unanswered')
    for (const one of [open, silent])
      expect(reportHtml(one, []).split('<dialog')[0]).not.toMatch(/NaN|undefined|null %/)
  })

  test('JSON and CSV hold the same', () => {
    const json = JSON.parse(readFileSync(path.join(dir, 'report.json'), 'utf8'))
    expect(json.frames).toEqual(JSON.parse(JSON.stringify(report.frames)))
    const csv = readFileSync(path.join(dir, 'report.csv'), 'utf8')
    expect(csv.split('\r\n')).toHaveLength(61)
    expect(csv).toContain('onerror=""globalThis.hacked = 1""')
  })

  test('no cell of the CSV runs as a formula', () => {
    const formula = { key: 'm', views: {}, questions: [{ id: '=1+1', text: '@SUM(A1)', kind: '-x', reference: '+5' }] }
    const csv = reportCsv(
      buildReport({ model: 'm', data: 'd', moments: [formula], answers: new Map([['=1+1', '\t=x,"y"']]) }),
    )
    expect(csv.split('\r\n')[1]).toBe(`m,'=1+1,'-x,,wrong,,,,,,,'@SUM(A1),"'\t=x,""y""",'+5`)
  })

  test('nothing hostile is markup, and the page may load nothing', () => {
    const html = readFileSync(path.join(dir, 'report.html'), 'utf8')
    expect(html.match(/<script/g)).toHaveLength(2)
    expect(html).not.toContain('<img')
    expect(html).toMatch(
      /default-src 'none'; img-src data: file: 'self'; style-src 'unsafe-inline'; script-src 'sha256-/,
    )
    expect(html).not.toMatch(/https?:\/\/(?!www\.w3\.org\/2000\/svg)/)
  })

  test('pictures beyond the budget are links that lead there', async () => {
    const folder = path.join(dir, 'linked # ü')
    const resolve = (name: string, camera: string): string => resolveImage(name, { images, data }, camera)
    const { html } = await writeReport(report, folder, { resolve, budget: 1 })
    const embedded = [...readFileSync(html, 'utf8').matchAll(/"src":"([^"]+)"/g)].map(([, src]) => src!)
    expect(embedded.filter((src) => src.startsWith('data:'))).toHaveLength(1)
    const links = embedded.filter((src) => !src.startsWith('data:'))
    expect(links).toHaveLength(41)
    for (const link of links) expect(existsSync(path.join(folder, decodeURIComponent(link)))).toBe(true)
    const none = await writeReport(report, folder, { resolve, mode: 'none' })
    expect(readFileSync(none.html, 'utf8')).not.toContain('"src"')
  })
})

const program = findChromium()

describe.skipIf(!program)(`in a browser${program ? '' : ' (skipped: no Chromium is installed)'}`, () => {
  let browser: Browser
  const url = pathToFileURL(path.join(dir, 'report.html')).href
  const count = (): Promise<string> => browser.evaluate('document.getElementById("count").textContent')
  const set = (id: string, value: string): Promise<void> =>
    browser.evaluate(
      `(() => { const control = document.getElementById(${JSON.stringify(id)}); control.value = ${JSON.stringify(value)}; control.dispatchEvent(new Event('input')) })()`,
    )

  beforeAll(() => {
    browser = new Browser(program!)
  })
  afterAll(() => browser?.close())

  test('opens from disk, asks the network for nothing and runs nothing it should not', async () => {
    await browser.open(url)
    expect(await count()).toBe('59 questions in 8 frames')
    const requests = browser.events.filter(({ method }) => method === 'Network.requestWillBeSent')
    const urls = requests
      .map(({ params }) => params.request.url as string)
      .filter((address) => !address.startsWith('data:'))
    expect(urls).toEqual([url])
    expect(browser.events.filter(({ method }) => method !== 'Network.requestWillBeSent')).toEqual([])
    expect(await browser.evaluate('globalThis.hacked ?? "safe"')).toBe('safe')
    expect(await browser.evaluate('document.querySelector("h1").textContent')).toContain('<img src=x onerror=')
    expect(await browser.evaluate('document.querySelector(".question:nth-child(2)").textContent')).toContain(
      '</script><script>',
    )
  })

  test('shows the score beside the published ones', async () => {
    const rows: string[] = await browser.evaluate(
      '[...document.querySelectorAll(".published tbody tr")].map((row) => row.textContent)',
    )
    expect(rows).toHaveLength(9)
    expect(rows[0]).toContain(report.score!.final!.toFixed(4))
    expect(rows[7]).toBe('Mini-InternVL-DA-1B1B0.700763.840.73620.56780.73650.166939.760.5686')
    for (const id of ['by-kind', 'by-camera', 'letters', 'lengths', 'latency', 'problems']) {
      expect(await browser.evaluate(`document.getElementById('${id}')?.offsetHeight > 0`)).toBe(true)
    }
  })

  test('shows six views with boxes, and marks a question', async () => {
    const views: string[] = await browser.evaluate(
      '[...document.querySelector(".frame").querySelectorAll(".view")].map((view) => view.dataset.camera)',
    )
    expect(views).toEqual([
      'CAM_FRONT_LEFT',
      'CAM_FRONT',
      'CAM_FRONT_RIGHT',
      'CAM_BACK_LEFT',
      'CAM_BACK',
      'CAM_BACK_RIGHT',
    ])
    await browser.evaluate('document.querySelector(".frame").scrollIntoView()')
    await browser.until(
      '[...document.querySelectorAll(".frame:first-child img")].every((image) => image.complete && image.naturalWidth === 512)',
    )
    const box = report.frames[0]!.objects[0]!
    const drawn = await browser.evaluate(
      `(() => { const view = document.querySelector('.frame [data-camera=${box.camera}]'); const rect = view.querySelector('rect').getBoundingClientRect(); const all = view.getBoundingClientRect(); return [(rect.left - all.left) / all.width, (rect.top - all.top) / all.height, (rect.right - all.left) / all.width, (rect.bottom - all.top) / all.height] })()`,
    )
    const expected = box.box!.map((side, i) => side / (i % 2 === 0 ? 1600 : 900))
    for (const [i, side] of expected.entries()) expect(Math.abs(drawn[i] - side)).toBeLessThan(0.015)
    expect(await browser.evaluate('document.querySelectorAll(".frame:first-child circle").length')).toBe(0)
    await browser.evaluate('document.querySelector(".question").click()')
    expect(await browser.evaluate('document.querySelectorAll(".frame:first-child circle.reference").length')).toBe(4)
    await browser.evaluate('document.querySelector(".frame .view").click()')
    expect(
      await browser.evaluate(
        'document.getElementById("large").open && document.querySelectorAll("#large circle").length > 0',
      ),
    ).toBe(true)
    await browser.evaluate('document.getElementById("large").close()')
  })

  test('filters, searches and turns pages', async () => {
    await set('verdict', 'wrong')
    const wrong = report.frames
      .flatMap(({ questions }) => questions)
      .filter(({ verdict }) => verdict === 'wrong').length
    await browser.until(`document.getElementById('count').textContent.startsWith('${wrong} question')`)
    const shown: string[] = await browser.evaluate(
      '[...document.querySelectorAll(".verdict")].map((node) => node.textContent)',
    )
    expect(new Set(shown)).toEqual(new Set(['wrong']))
    await set('verdict', '')
    await set('kind', 'ego behavior')
    await browser.until(`document.getElementById('count').textContent === '7 questions in 7 frames'`)
    expect(
      await browser.evaluate(
        '[document.querySelectorAll(".frame").length, document.getElementById("page").textContent].join()',
      ),
    ).toBe('6,page 1 of 2')
    await browser.evaluate('document.getElementById("next").click()')
    expect(await browser.evaluate('document.querySelectorAll(".frame").length')).toBe(1)
    await set('kind', '')
    await set('search', 'ONERROR= hacked')
    await browser.until(`document.getElementById('count').textContent === '2 questions in 1 frame'`)
    await set('search', 'no such words anywhere')
    await browser.until(`document.getElementById('count').textContent === '0 questions in 0 frames'`)
    await set('search', '')
    await set('camera', 'CAM_FRONT')
    const inFront = report.frames
      .flatMap(({ questions }) => questions)
      .filter(({ question }) => /CAM_FRONT\b/.test(question)).length
    await browser.until(`document.getElementById('count').textContent.startsWith('${inFront} question')`)
    await set('camera', '')
  })

  test('a frame without pictures says so', async () => {
    await set('search', report.frames[7]!.key)
    await browser.until('document.querySelectorAll(".frame").length === 1')
    expect(await browser.evaluate('document.querySelectorAll(".missing").length')).toBe(6)
  })

  test.each([360, 390, 768])('nothing sticks out at a width of %i', async (width) => {
    await browser.open(url, { width, height: 800, mobile: width < 700 })
    const beyond = await browser.evaluate(
      `[...document.querySelectorAll('main *')].filter((node) => node.getBoundingClientRect().right > ${width} + 1 && !node.closest('.scroll, .panel')).length`,
    )
    expect([beyond, await browser.evaluate('document.documentElement.scrollWidth')]).toEqual([0, width])
    expect(
      await browser.evaluate('parseFloat(getComputedStyle(document.querySelector(".question p")).fontSize)'),
    ).toBeGreaterThanOrEqual(14)
  })

  test.each([false, true])('text stands out from the ground (dark: %s)', async (dark) => {
    await browser.open(url, { dark })
    const contrasts: Record<string, number> = await browser.evaluate(`(() => {
      const light = (colour) => colour.match(/[\\d.]+/g).slice(0, 3).map((part) => part / 255)
        .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
        .reduce((sum, part, i) => sum + part * [0.2126, 0.7152, 0.0722][i], 0)
      const ground = (node) => { for (; node; node = node.parentElement) { const colour = getComputedStyle(node).backgroundColor; if (!/, 0\\)$/.test(colour)) return colour } }
      const result = {}
      for (const selector of ['body', '.soft', '.card.main b', '.verdict.right', '.verdict.wrong', '.question code', '.own td', '.legend', '.published thead th:last-child']) {
        const node = document.querySelector(selector)
        const [a, b] = [light(getComputedStyle(node).color), light(ground(node))].sort((x, y) => y - x)
        result[selector] = (a + 0.05) / (b + 0.05)
      }
      return result
    })()`)
    for (const [selector, contrast] of Object.entries(contrasts)) expect(contrast, selector).toBeGreaterThan(4.5)
    const body = await browser.evaluate('getComputedStyle(document.body).backgroundColor')
    expect(body).toBe(dark ? 'rgb(20, 22, 26)' : 'rgb(251, 251, 250)')
  })
})

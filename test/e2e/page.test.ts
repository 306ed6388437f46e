/// <reference lib="dom" />
/** The page of `drivlm serve`, by mouse and keyboard in Debian's Chromium. */
import { existsSync, readFileSync } from 'node:fs'
import path from 'node:path'
import type { FastifyInstance } from 'fastify'
import { type Browser, chromium, type Page } from 'playwright-core'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { bundledModel, cameras, loadModel, type Model } from '../../lib/index.ts'
import { createServer } from '../../lib/serve/server.ts'

const executablePath = process.env.CHROMIUM ?? '/usr/bin/chromium'
const flags =
  '--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync'
const pictures = Object.fromEntries(
  cameras.map((name) => [name, readFileSync(path.join(bundledModel, 'moments', 'dusk', `${name}.png`))]),
)

describe.skipIf(!existsSync(executablePath))(`the page (skipped where ${executablePath} is not there)`, () => {
  let browser: Browser
  let model: Model
  let server: FastifyInstance
  let base: string
  let page: Page
  /** What the browser complained about: errors of scripts, what the policy refused. */
  let complaints: string[]
  beforeAll(async () => {
    browser = await chromium.launch({ executablePath, args: flags.split(' ') })
    model = await loadModel({ evict: true, device: 'cpu' })
    server = createServer(model)
    base = await server.listen({ host: '127.0.0.1', port: 0 })
  })
  afterAll(async () => {
    await browser?.close()
    await server?.close()
    await model?.dispose()
  })
  beforeEach(async () => {
    page = await browser.newPage()
    complaints = []
    page.on('pageerror', (error) => complaints.push(String(error)))
    page.on('console', (line) => {
      if (line.type() === 'error' && !line.text().startsWith('Failed to load resource')) complaints.push(line.text())
    })
  })
  afterEach(async () => {
    await page.close()
    expect(complaints).toEqual([])
  })

  const done = (count: number) => page.locator('#answers > li:not([aria-busy])').nth(count - 1)
  const shown = () => page.locator('.view img:not([hidden])').count()

  /** Drops files on an element, as a file manager does. */
  async function drop(target: string, files: Record<string, Buffer>): Promise<void> {
    const given = Object.entries(files).map(([name, bytes]) => [name, bytes.toString('base64')] as const)
    const data = await page.evaluateHandle((list) => {
      const transfer = new DataTransfer()
      for (const [name, text] of list) {
        const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))
        transfer.items.add(new File([bytes], name, { type: name.endsWith('.png') ? 'image/png' : 'text/plain' }))
      }
      return transfer
    }, given)
    for (const type of ['dragenter', 'dragover', 'drop']) {
      await page.dispatchEvent(target, type, { dataTransfer: data })
    }
  }
  const dropSix = () =>
    drop('body', Object.fromEntries(Object.entries(pictures).map(([name, bytes]) => [`n015__${name}__1.png`, bytes])))

  test('six pictures are dropped; an answer streams in, a box is where the library says, several at once, a choice', async () => {
    const question = 'Where is the bus in CAM_BACK?'
    await page.goto(base)
    await page.getByText('street-tiny · 3.26 M parameters').waitFor()
    await dropSix()
    await expect.poll(shown).toBe(6)
    // From left to right and from top to bottom, whatever stands first in the page.
    const seen = await page.locator('.view').evaluateAll((all) => {
      const at = all.map((one) => ({ name: one.getAttribute('data-camera'), ...one.getBoundingClientRect().toJSON() }))
      return at.sort((a, b) => a.y - b.y || a.x - b.x).map(({ name }) => name)
    })
    const row = (name: string) => [`${name}_LEFT`, name, `${name}_RIGHT`]
    expect(seen).toEqual([...row('CAM_FRONT'), ...row('CAM_BACK')])
    await page.locator('#questions').fill(question)
    await page.keyboard.press('Enter')
    await done(1).waitFor()
    const scene = await model.see(pictures)
    const { boxes } = await scene.locate(question)
    expect(await done(1).locator('.text').textContent()).toBe('bus')
    expect(await done(1).locator('dt').allTextContents()).toEqual(expect.arrayContaining(['prefill', 'first token']))
    expect(await page.locator('#stages dt').allTextContents()).toEqual(expect.arrayContaining(['decode', 'vision']))
    expect(await page.locator('#status').textContent()).toBe('Answer: bus')
    const place = (await page.locator('[data-camera=CAM_BACK] img').boundingBox())!
    const drawn = (await page.locator('[data-camera=CAM_BACK] rect').boundingBox())!
    const [left, top, right, bottom] = boxes[0]!.box
    const scale = place.width / 112
    const expected = [place.x + left * scale, place.y + top * scale, (right - left) * scale, (bottom - top) * scale]
    const line = 3 // is counted in the box
    for (const [i, value] of [drawn.x, drawn.y, drawn.width, drawn.height].entries()) {
      expect(Math.abs(value - expected[i]!), `${i}: ${value}, ${expected[i]}`).toBeLessThanOrEqual(line + 1)
    }
    await page.getByRole('button', { name: 'Marked in CAM_BACK' }).click()
    expect(await page.locator('rect').count()).toBe(0)

    const both = ['Which camera sees the cyclist?', 'Describe the weather and the time of day.']
    await page.locator('#questions').fill(both.join('\n'))
    await page.getByRole('button', { name: 'Ask', exact: true }).click()
    await done(3).waitFor()
    expect(await page.locator('#answers .text').allTextContents()).toEqual(['CAM_FRONT_LEFT.', 'It is dusk.', 'bus'])

    await page.locator('summary').click()
    await page.locator('#choices').fill('CAM_BACK.\nCAM_FRONT_LEFT.')
    await page.locator('#questions').fill(both[0]!)
    await page.keyboard.press('Enter')
    await done(4).waitFor()
    const { probabilities } = await scene.choose(both[0]!, ['CAM_BACK.', 'CAM_FRONT_LEFT.'])
    expect(await done(1).locator('.value').allTextContents()).toEqual(
      probabilities.map((share) => `${(100 * share).toFixed(1)} %`),
    )
    const bars = await done(1)
      .locator('.bar i')
      .evaluateAll((all) => all.map((one) => one.getBoundingClientRect().width))
    expect(bars[1]! / (bars[0]! + bars[1]!)).toBeCloseTo(probabilities[1]!, 1)
    scene.dispose()
  })

  test('a moment by keyboard; what cannot be answered is a sentence; a picture that is none is told apart', async () => {
    await page.goto(base)
    await page.getByRole('button', { name: 'Rain, no traffic light' }).focus()
    await page.keyboard.press('Enter')
    await expect.poll(shown).toBe(6)
    await page.locator('#suggestions button').first().press('Enter')
    await page.keyboard.press('Enter') // the question has the focus
    await done(1).waitFor()
    expect(await done(1).locator('.text').textContent()).toBe('One.')
    const alert = page.getByRole('alert')
    await page.locator('#questions').fill(`Where is <box>[[1,2,3,4]]</box>${' the car'.repeat(9000)}?`)
    await page.keyboard.press('Enter')
    await expect.poll(() => alert.textContent()).toMatch(/^[A-Z][^{}]+\.$/)
    expect(await page.locator('#answers > li').count()).toBe(1) // that question has no answer to wait for
    await drop('[data-camera=CAM_BACK]', { 'a.png': Buffer.from('no picture') })
    await page.locator('#questions').fill('What is there?')
    await page.keyboard.press('Enter')
    await expect.poll(() => alert.textContent()).toMatch(/^CAM_BACK.+\.$/)
    await page.getByRole('button', { name: 'Clear' }).click()
    await page.locator('#send').click()
    await expect.poll(() => alert.textContent()).toMatch(/no pictures yet/)
    await drop('body', { 'notes.txt': Buffer.from('x') })
    expect(await page.locator('#placed').textContent()).toBe('There is no picture among these files.')
  })

  test('Escape stops what is being answered, and the model with it', async () => {
    // Of this page every answer is as long as the context: together they take far longer than a key does to be pressed.
    await page.route('**/ask-all', (route) =>
      route.continue({ postData: { ...route.request().postDataJSON(), temperature: 50, seed: 1, maxNewTokens: 3900 } }),
    )
    await page.goto(base)
    await dropSix()
    await page.locator('#questions').fill('What is there?\n'.repeat(40))
    await page.keyboard.press('Enter')
    await expect.poll(async () => (await page.locator('#answers .text').allTextContents()).join('')).not.toBe('')
    expect(model.stats().running).toBeGreaterThan(0)
    await page.keyboard.press('Escape')
    await done(40).waitFor()
    expect(await page.getByText('Stopped.').count()).toBeGreaterThan(1)
    await expect.poll(() => model.stats().running + model.stats().waiting).toBe(0)
    expect(await page.locator('#stop').isHidden()).toBe(true)
  })

  test('a server with a token asks for it, and the page keeps it in memory alone', async () => {
    const guarded = createServer(model, { token: 'secret' })
    await page.goto(await guarded.listen({ host: '127.0.0.1', port: 0 }))
    await page.getByRole('dialog').waitFor()
    await page.keyboard.press('Escape')
    await expect.poll(() => page.getByRole('alert').textContent()).toMatch(/load the page again/)
    await page.reload()
    for (const given of ['wrong', 'secret']) {
      await page.getByRole('textbox', { name: 'The token of this server' }).fill(given)
      await page.keyboard.press('Enter')
      if (given === 'wrong') await page.getByText('That is not the token').waitFor()
    }
    await page.getByRole('button', { name: 'Dusk, at a red light' }).click()
    await expect.poll(shown).toBe(6)
    const kept = await page.evaluate(() =>
      JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie]),
    )
    expect(kept).toBe('[{},{},""]')
    await page.close()
    await guarded.close()
  })

  test('nothing is fetched from elsewhere, and the policy is strict', async () => {
    const asked: string[] = []
    page.on('request', (request) => asked.push(new URL(request.url()).origin))
    const response = await page.goto(base)
    await page.getByRole('button', { name: 'Dusk, at a red light' }).waitFor()
    expect(new Set(asked)).toEqual(new Set([base]))
    const policy = response!.headers()['content-security-policy']!
    expect(policy).toContain("default-src 'none'")
    expect(policy).not.toMatch(/unsafe|\*|https?:|data:/)
  })
})

/** Questions and what came of them, latest first. */
import type { Answer } from '../../answer.ts'
import type { Choice } from '../../choices.ts'
import { tagsToPixels } from '../../grounding/c-tags.ts'
import type { LocatedBox } from '../../locating.ts'
import { formatMs, make } from './dom.ts'
import type { Mark } from './views.ts'

/** A DriveLM tag with pixels of a 1600 x 900 picture. */
const tag = /<(c\d+),(CAM_[A-Z_]+),([\d.]+),([\d.]+)>/g
/** What grounding is written in; people read the words. */
const grounding = /<\/?ref>|<box>.*?<\/box>/gs

function pointsOf(text: string): Mark[] {
  return [...text.matchAll(tag)].map(([, label, camera, x, y]) => ({
    kind: 'answer',
    camera: camera!,
    label: label!,
    point: [Number(x) / 1600, Number(y) / 900],
  }))
}

/** Where an answer's marks are shown: those of one answer at a time. */
export class AnswerList {
  readonly #root: HTMLElement
  readonly #show: (marks: readonly Mark[]) => void

  constructor(root: HTMLElement, show: (marks: readonly Mark[]) => void) {
    this.#root = root
    this.#show = show
  }

  add(question: string): AnswerCard {
    const card = new AnswerCard(question, (pressed, marks) => this.#press(pressed, marks))
    this.#root.prepend(card.root)
    return card
  }

  /** The pictures changed: no answer's marks belong to them. */
  unmark(): void {
    for (const button of this.#root.querySelectorAll('.marks')) button.remove()
    this.#show([])
  }

  #press(pressed: HTMLButtonElement, marks: readonly Mark[]): void {
    const on = pressed.getAttribute('aria-pressed') !== 'true'
    for (const button of this.#root.querySelectorAll('.marks')) {
      button.setAttribute('aria-pressed', String(button === pressed && on))
    }
    this.#show(on ? marks : [])
  }
}

export class AnswerCard {
  readonly root: HTMLLIElement = make('li', { 'aria-busy': 'true' })
  readonly #text = make('p', { class: 'text' })
  readonly #times = make('dl', { class: 'stages' })
  readonly #press: (pressed: HTMLButtonElement, marks: readonly Mark[]) => void
  #written = ''

  constructor(question: string, press: (pressed: HTMLButtonElement, marks: readonly Mark[]) => void) {
    this.#press = press
    this.root.append(make('p', { class: 'question' }, question), this.#text, this.#times)
  }

  write(text: string): void {
    this.#written += text
    this.#text.textContent = this.#written.replace(grounding, '')
  }

  /** The whole answer. Returns what a listener is told. */
  finish(
    { text, finishReason, timings, usage }: Answer,
    boxes: readonly LocatedBox[],
    asked: readonly LocatedBox[],
  ): string {
    this.#end()
    const pixels = tagsToPixels(text)
    const plain = pixels.replace(grounding, '').trim() || (boxes.length > 0 ? 'Here.' : 'The answer is empty.')
    this.#text.textContent = plain.replace(tag, '$1 ($2)')
    if (finishReason === 'length') this.#text.append(make('span', { class: 'soft' }, ' … cut at the length asked for'))
    stages(this.#times, {
      queue: formatMs(timings.queueMs),
      prefill: formatMs(timings.prefillMs),
      generate: formatMs(timings.generateMs),
      'first token': formatMs(timings.firstTokenMs),
      total: formatMs(timings.totalMs),
      tokens: String(usage.answerTokens),
    })
    const marks: Mark[] = [
      ...asked.map(({ camera, box }): Mark => ({ kind: 'asked', camera, label: '', box })),
      ...boxes.map(({ camera, label, box }): Mark => ({ kind: 'answer', camera, label, box })),
      ...pointsOf(pixels),
    ]
    if (marks.length > 0) {
      const where = [...new Set(marks.map(({ camera }) => camera))].join(', ')
      const button = make('button', { type: 'button', class: 'marks quiet' }, `Marked in ${where}`)
      button.addEventListener('click', () => this.#press(button, marks))
      this.root.append(button)
      this.#press(button, marks)
    }
    return this.#text.textContent
  }

  /** Shares of given answers. Returns what a listener is told. */
  choose(choices: readonly string[], { choice, index, probabilities }: Choice, ms: number): string {
    this.#end()
    this.#text.textContent = choice
    const bars = make('ul', { class: 'bars' })
    for (const [i, text] of choices.entries()) {
      const share = probabilities[i]!
      const bar = make('span', { class: 'bar', 'aria-hidden': 'true' }, make('i'))
      ;(bar.firstChild as HTMLElement).style.inlineSize = `${100 * share}%`
      const name = make('span', { class: 'name' }, text)
      const row = make(
        'li',
        i === index ? { class: 'best' } : {},
        name,
        bar,
        make('span', { class: 'value' }, percent(share)),
      )
      bars.append(row)
    }
    this.#text.after(bars)
    stages(this.#times, { total: formatMs(ms), choices: String(choices.length) })
    return `${choice} ${percent(probabilities[index]!)}`
  }

  fail(sentence: string): void {
    this.#end()
    this.root.append(make('p', { class: 'error' }, sentence))
  }

  /** What was asked is over: without an answer by now, it was stopped, or nothing began. */
  end(stopped: boolean): void {
    if (this.root.getAttribute('aria-busy') === null) return
    this.#end()
    if (!stopped) {
      this.root.remove()
      return
    }
    this.#times.replaceChildren()
    this.root.append(make('p', { class: 'soft' }, 'Stopped.'))
  }

  #end(): void {
    this.root.removeAttribute('aria-busy')
  }
}

const percent = (share: number): string => `${(100 * share).toFixed(1)} %`

/** Short terms with their values. */
export function stages(list: HTMLElement, values: Readonly<Record<string, string>>): void {
  list.replaceChildren(
    ...Object.entries(values).map(([name, value]) => make('div', {}, make('dt', {}, name), make('dd', {}, value))),
  )
}

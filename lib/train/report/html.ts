/** The report of a training run as one HTML file that needs nothing else and works from disk without a network. */
import { createHash } from 'node:crypto'
import { escapeHtml, scriptJson } from '../../evaluate/report/html.ts'
import { pageStyle as sharedStyle } from '../../evaluate/report/page-assets.ts'
import type { PagePicture } from '../../evaluate/report/pictures.ts'
import { pageScript, pageStyle } from './page-assets.ts'
import type { MomentPair, ShownMoment, Validation } from './validation.ts'

/** What the report shows of an update. */
export interface ReportedStep {
  step: number
  loss: number
  gradientNorm: number
  learningRate: number
  /** Absent in logs of earlier versions. */
  visionLearningRate?: number
}

/** A list of samples, for the table of data. */
export interface ReportedList {
  name: string
  general: boolean
  samples: number
  used: number
  leftOut: Readonly<Record<string, { count: number; examples: string[] }>>
}

export interface TrainingReport {
  title: string
  facts: Readonly<Record<string, string>>
  lists: readonly ReportedList[]
  steps: readonly ReportedStep[]
  validations: readonly Validation[]
  /** With its pictures by camera. */
  moment?: (MomentPair & { pictures: Readonly<Record<string, PagePicture>> }) | undefined
}

interface Series {
  name: string
  points: [number, number][]
}

interface Chart {
  series: Series[]
  percent: boolean
}

/** Points of a curve; longer ones are thinned to means. */
const mostPoints = 600

const whole = (value: number): string => value.toLocaleString('en')
const percent = (value: number | null): string => (value === null ? '–' : `${(100 * value).toFixed(1)} %`)

export function trainingReportHtml(report: TrainingReport): string {
  const charts = chartsOf(report)
  const scriptHash = createHash('sha256').update(pageScript).digest('base64')
  const policy = `default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-${scriptHash}'; img-src data:`
  const facts = Object.entries(report.facts).map(
    ([name, value]) => `<div><dt>${escapeHtml(name)}</dt><dd>${escapeHtml(value)}</dd></div>`,
  )
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="${policy}">
<meta name="color-scheme" content="light dark">
<title>${escapeHtml(report.title)}</title>
<style>${sharedStyle}${pageStyle}</style>
</head>
<body>
<main>
<h1>${escapeHtml(report.title)}</h1>
<dl class="facts">${facts.join('')}</dl>
${validationPart(report.validations, charts)}
${momentPart(report.moment)}
<h2>Updates</h2>
<div class="columns">${['Loss', 'Learning rate', 'Gradient norm'].map((name) => panel(name, charts)).join('\n')}</div>
<noscript><p class="notice">The curves need JavaScript; every update is in steps.jsonl and steps.csv as well.</p></noscript>
${dataPart(report.lists)}
</main>
<script type="application/json" id="report-data">${scriptJson({ charts })}</script>
<script>${pageScript}</script>
</body>
</html>
`
}

function chartsOf({ steps, validations }: TrainingReport): Record<string, Chart> {
  const curve = (name: string, value: (step: ReportedStep) => number): Series => ({
    name,
    points: thinned(steps.map((step) => [step.step + 1, value(step)])),
  })
  const ofTower = ({ learningRate, visionLearningRate = 0 }: ReportedStep) => visionLearningRate || learningRate
  const towerDiffers = steps.some((step) => ofTower(step) !== step.learningRate)
  const charts: Record<string, Chart> = {
    Loss: { series: [curve('loss', ({ loss }) => loss)], percent: false },
    'Learning rate': {
      series: [
        curve('learning rate', ({ learningRate }) => learningRate),
        ...(towerDiffers ? [curve('of the vision tower', ofTower)] : []),
      ],
      percent: false,
    },
    'Gradient norm': { series: [curve('gradient norm', ({ gradientNorm }) => gradientNorm)], percent: false },
  }
  const sets = setsOf(validations)
  if (sets.length > 0) {
    const points = (set: string): [number, number][] =>
      validations.flatMap((one) => (one.set === set && one.exact !== null ? [[one.updates, 100 * one.exact]] : []))
    charts['Right answers'] = { series: sets.map((set) => ({ name: set, points: points(set) })), percent: true }
  }
  return charts
}

function thinned(points: readonly [number, number][]): [number, number][] {
  const together = Math.ceil(points.length / mostPoints)
  const out: [number, number][] = []
  for (let first = 0; first < points.length; first += together) {
    const group = points.slice(first, first + together)
    out.push([group.at(-1)![0], group.reduce((sum, [, value]) => sum + value, 0) / group.length])
  }
  return out
}

function panel(name: string, charts: Readonly<Record<string, Chart>>): string {
  const { series } = charts[name]!
  if (series.every(({ points }) => points.length === 0)) return ''
  const keys = series.map(({ name: own }, i) => `<i class="key key-${i}"></i>${escapeHtml(own)}`).join('')
  const legend = series.length > 1 ? `<p class="legend">${keys}</p>` : ''
  return `<div class="panel"><h3>${name}</h3><div data-chart="${name}" data-name="${name} by update"></div>${legend}</div>`
}

const setsOf = (validations: readonly Validation[]): string[] => [...new Set(validations.map(({ set }) => set))]

type Right = Pick<Validation, 'exact' | 'lenient'>

/** Exactly right, and leniently where that says more: a box is hardly ever the same to the thousandth. */
function rightOf({ exact, lenient }: Right = { exact: null, lenient: null }): string {
  return exact === null || !(lenient! > exact) ? percent(exact) : `${percent(exact)} (${percent(lenient)})`
}

function validationPart(validations: readonly Validation[], charts: Readonly<Record<string, Chart>>): string {
  const sets = setsOf(validations)
  if (sets.length === 0) return ''
  const tables = sets.map((set) => {
    const own = validations.filter((one) => one.set === set)
    const first = own[0]!
    const last = own.at(-1)!
    const best = own.findLast(({ best: isBest }) => isBest)
    const columns = [
      first,
      ...(best && best !== first && best !== last ? [best] : []),
      ...(last === first ? [] : [last]),
    ]
    const kinds = [...new Set(own.flatMap(({ kinds: all }) => all.map(({ name }) => name)))]
    const row = (name: string, values: readonly (Right | undefined)[], mark = ''): string =>
      `<tr${mark}><th scope="row">${escapeHtml(name)}</th>${values.map((value) => `<td>${rightOf(value)}</td>`).join('')}</tr>`
    const body = kinds.map((kind) =>
      row(
        kind,
        columns.map(({ kinds: all }) => all.find(({ name }) => name === kind)),
      ),
    )
    const heads = columns.map(
      (one) => `<th scope="col">${afterUpdates(one.updates)}${one === best ? ', best' : ''}</th>`,
    )
    const total = row(`all ${whole(last.questions)}`, columns, ' class="own"')
    return `<div class="panel"><h3>${escapeHtml(set)}: exactly right (leniently, where more is), by kind of question</h3>
<div class="scroll"><table><thead><tr><th></th>${heads.join('')}</tr></thead><tbody>${body.join('')}${total}</tbody></table></div></div>`
  })
  return `<h2>Validation</h2>\n<div class="columns">${panel('Right answers', charts)}${tables.join('\n')}</div>`
}

const afterUpdates = (updates: number): string => (updates === 0 ? 'before' : `after ${whole(updates)}`)

/** As they stand around the vehicle: what is ahead above, what is behind below. */
const around = ['CAM_FRONT_LEFT', 'CAM_FRONT', 'CAM_FRONT_RIGHT', 'CAM_BACK_LEFT', 'CAM_BACK', 'CAM_BACK_RIGHT']

/** A moment, its questions, and what the weights say before and after. */
function momentPart(moment: TrainingReport['moment']): string {
  if (moment === undefined) return ''
  const { before, after, updates, among, pictures } = moment
  const names = Object.keys(before.views)
  const cameras = [...around.filter((name) => names.includes(name)), ...names.filter((name) => !around.includes(name))]
  const views = cameras.map((camera) => {
    const picture = pictures[camera]
    const name = escapeHtml(camera.replace('CAM_', '').replaceAll('_', ' ').toLowerCase())
    const image =
      picture === undefined
        ? '<span class="missing">no picture</span>'
        : `<img src="${escapeHtml(picture.src)}" alt="${name}">`
    return `<div class="view" style="aspect-ratio:${picture?.aspect ?? 16 / 9}">${image}<span class="camera">${name}</span></div>`
  })
  const cell = ({ answer, right }: ShownMoment['questions'][number]): string => {
    const text = answer === null ? '<span class="soft">no answer</span>' : escapeHtml(answer)
    const mark = right === null ? '' : `<span class="verdict ${right ? 'right' : 'wrong'}">${right ? '✓' : '✗'}</span> `
    return `<td>${mark}${text}</td>`
  }
  const rows = before.questions.map((own, i) => {
    const question = escapeHtml(own.question.replace(/^(\s*<image>\s*)+/, ''))
    const later = after.questions[i] ?? { ...own, answer: null, right: null }
    return `<tr><th scope="row">${question}</th><td>${escapeHtml(own.reference ?? '–')}</td>${cell(own)}${cell(later)}</tr>`
  })
  const heads = ['question', 'right answer', 'before', `${afterUpdates(updates)} updates`]
  const chosen =
    among > 1 ? `Of the first ${among} moments of the validation, the one where most answers changed: ` : ''
  return `<h2>One moment, before and after</h2>
<p class="soft small">${chosen}${escapeHtml(before.key)}</p>
<div class="moment"><div class="views">${views.join('')}</div>
<div class="scroll"><table class="answers"><thead><tr>${heads.map((head) => `<th scope="col">${head}</th>`).join('')}</tr></thead><tbody>${rows.join('')}</tbody></table></div></div>`
}

function dataPart(lists: readonly ReportedList[]): string {
  const rows = lists.map(({ name, general, samples, used, leftOut }) => {
    const reasons = Object.entries(leftOut).map(
      ([reason, { count, examples }]) => `${reason}: ${count} (${examples.join('; ')})`,
    )
    const cells = [general ? 'general' : 'domain', whole(samples), whole(used)].map((cell) => `<td>${cell}</td>`)
    return `<tr><th scope="row">${escapeHtml(name)}</th>${cells.join('')}<td>${escapeHtml(reasons.join('; ') || '–')}</td></tr>`
  })
  const heads = ['', 'kind', 'samples', 'used', 'left out'].map((head) => `<th scope="col">${head}</th>`)
  return `<h2>Data</h2>\n<div class="scroll"><table><thead><tr>${heads.join('')}</tr></thead><tbody>${rows.join('')}</tbody></table></div>`
}

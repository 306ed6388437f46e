// The report as one HTML file that needs nothing else: style, script, data and small copies of the pictures are inside. It works
// from disk without a network, and its own policy forbids it to load anything.

import { createHash } from 'node:crypto'
import type { Report, ReportGroup } from './build.ts'
import { pageScript, pageStyle } from './page-assets.ts'
import type { PagePicture } from './pictures.ts'
import { type PublishedScore, publishedScores } from './published.ts'

/** The page. `pictures`: by frame and camera, in the order of the report's frames. */
export function reportHtml(report: Report, pictures: readonly Record<string, PagePicture>[]): string {
  const frames = report.frames.map((frame, i) => ({ ...frame, pictures: pictures[i] ?? {} }))
  const scriptHash = createHash('sha256').update(pageScript).digest('base64')
  const policy = `default-src 'none'; img-src data: file: 'self'; style-src 'unsafe-inline'; script-src 'sha256-${scriptHash}'`
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="${policy}">
<meta name="color-scheme" content="light dark">
<title>${escapeHtml(report.title)}</title>
<style>${pageStyle}</style>
</head>
<body>
<main>
${header(report)}
${scoreCards(report)}
${warnings(report)}
${publishedTable(report)}
${accuracies(report)}
${details(report)}
${browser(report)}
</main>
<dialog id="large"><form method="dialog"><span id="large-name"></span><button>Close</button></form><div id="large-picture"></div></dialog>
<script type="application/json" id="report-data">${scriptJson({ frames })}</script>
<script>${pageScript}</script>
</body>
</html>
`
}

/** Text for element content and quoted attributes. */
export function escapeHtml(text: string): string {
  const names: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' }
  return text.replace(/[&<>"']/g, (char) => names[char]!)
}

/** JSON that cannot end the script element it stands in, nor open a comment there. */
export function scriptJson(value: unknown): string {
  return JSON.stringify(value).replace(
    /[<>\u2028\u2029]/g,
    (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`,
  )
}

const number = (value: number | null | undefined, digits: number): string =>
  value === null || value === undefined ? '–' : value.toFixed(digits)
const percent = (value: number | null): string => (value === null ? '–' : `${(value * 100).toFixed(1)} %`)
const whole = (value: number): string => value.toLocaleString('en')

function header({ title, model, data, notes, totals }: Report): string {
  const facts: [string, string][] = [
    ['model', model],
    ['data', data],
    ['frames', whole(totals.frames)],
    ['questions', whole(totals.questions)],
    ['answered', whole(totals.answered)],
    ...Object.entries(notes),
  ]
  const list = facts.map(([name, value]) => `<div><dt>${escapeHtml(name)}</dt><dd>${escapeHtml(value)}</dd></div>`)
  return `<h1>${escapeHtml(title)}</h1>\n<dl class="facts">${list.join('')}</dl>`
}

function scoreCards({ score, overall }: Report): string {
  const card = (name: string, value: string, main = false): string =>
    `<div class="card${main ? ' main' : ''}"><b>${value}</b><span>${name}</span></div>`
  const exact = card(
    `exact answers (${whole(overall.exact.right)} of ${whole(overall.exact.count)})`,
    percent(overall.exact.value),
    !score,
  )
  const lenient = card('leniently compared', percent(overall.lenient.value))
  if (!score) return `<div class="cards">${exact}${lenient}</div>`
  const { final, accuracy, chatgpt, match, matchF1, languageScore, counts, lenientAccuracy } = score
  return `<div class="cards">
${card('final score', number(final, 4), true)}
${card(`accuracy, ${whole(counts.accuracy)} questions`, number(accuracy, 4))}
${card(`judge, ${whole(counts.chatgpt)} answers`, number(chatgpt, 2))}
${card(`language, ${whole(counts.language)} texts`, number(languageScore, 4))}
${card(`match, ${whole(counts.match)} answers`, number(match, 2))}
${match === null ? card('coordinate F1 of match', number(matchF1, 2)) : ''}
${card('lenient accuracy (not official)', number(lenientAccuracy.value, 4))}
</div>`
}

function warnings({ score, totals, problems }: Report): string {
  const parts: string[] = []
  const list = (items: readonly string[]): string =>
    `<ul>${items.map((item) => `<li>${escapeHtml(item)}</li>`).join('')}</ul>`
  if (score && score.missing.length > 0) {
    parts.push(`<div class="notice" id="missing">Parts of the final score are missing:${list(score.missing)}</div>`)
  }
  if (totals.gated > 0) {
    const sentence =
      `The official score drops ${whole(totals.gated)} of ${whole(totals.questions)} questions: they name objects that the first answer of ` +
      'their frame did not find.'
    parts.push(`<div class="notice">${sentence}</div>`)
  }
  if (problems.length > 0) {
    const shown = problems
      .slice(0, 50)
      .map(({ id, message }) => (id === '' || message.includes(id) ? message : `${id}: ${message}`))
    const more =
      problems.length > shown.length
        ? `<p class="small soft">and ${whole(problems.length - shown.length)} more</p>`
        : ''
    parts.push(
      `<div class="notice" id="problems">${problems.length === 1 ? 'A problem was' : `${whole(problems.length)} problems were`} skipped:${list(shown)}${more}</div>`,
    )
  }
  return parts.join('\n')
}

function publishedTable({ score, model }: Report): string {
  if (!score) return ''
  const own: PublishedScore = {
    name: model,
    params: null,
    accuracy: score.accuracy,
    chatgpt: score.chatgpt,
    bleu1: score.language?.Bleu_1 ?? null,
    bleu4: score.language?.Bleu_4 ?? null,
    rougeL: score.language?.ROUGE_L ?? null,
    cider: score.language?.CIDEr ?? null,
    match: score.match,
    final: score.final,
  }
  const row = (entry: PublishedScore, isOwn: boolean): string => {
    const { name, params, accuracy, chatgpt, bleu1, bleu4, rougeL, cider, match, final } = entry
    const cells = [
      params === null ? '' : escapeHtml(params),
      number(accuracy, 4),
      number(chatgpt, 2),
      number(bleu1, 4),
      number(bleu4, 4),
      number(rougeL, 4),
      number(cider, 4),
      number(match, 2),
      number(final, 4),
    ]
    const mark = isOwn ? ' class="own"' : ''
    return `<tr${mark}><th scope="row">${escapeHtml(name)}</th>${cells.map((cell) => `<td>${cell}</td>`).join('')}</tr>`
  }
  const heads = ['', 'size', 'accuracy', 'judge', 'BLEU-1', 'BLEU-4', 'ROUGE-L', 'CIDEr', 'match', 'final']
  return `<h2>Beside published results</h2>
<p class="small soft">Published rows are from the official test server: its answers are hidden and its judge was gpt-3.5. Scores of a local
split, or with another judge, only rank models among themselves.</p>
<div class="scroll"><table class="published"><thead><tr>${heads.map((head) => `<th scope="col">${head}</th>`).join('')}</tr></thead>
<tbody>${row(own, true)}${publishedScores.map((entry) => row(entry, false)).join('')}</tbody></table></div>`
}

function bars(groups: readonly ReportGroup[]): string {
  const rows = groups.map(({ name, exact, lenient }) => {
    const width = (value: number | null): string => `${((value ?? 0) * 100).toFixed(2)}%`
    return `<span class="name">${escapeHtml(name)}</span>
<span class="bar"><i style="width:${width(lenient.value)}"></i><i style="width:${width(exact.value)}"></i></span>
<span class="value">${percent(exact.value)} of ${whole(exact.count)}</span>`
  })
  return `<div class="bars">${rows.join('')}</div>`
}

function accuracies({ byKind, byCamera, overall }: Report): string {
  if (overall.exact.count === 0) return ''
  const camera =
    byCamera.length > 0
      ? `<div class="panel" id="by-camera"><h3>By camera named in the question</h3>${bars(byCamera)}</div>`
      : ''
  return `<h2>Short answers</h2>
<div class="columns"><div class="panel" id="by-kind"><h3>By kind of question</h3>${bars(byKind)}
<p class="legend">Full colour: equal character by character. Pale: by the lenient rule (option letter, yes or no, boxes by overlap, no case), which no official score uses.</p></div>
${camera}</div>`
}

function details({ letters, lengths, latency }: Report): string {
  const panels: string[] = []
  if (letters.references.length > 0) {
    const top = Math.max(1, ...letters.counts.flat())
    const rows = letters.references.map((reference, i) => {
      const cells = letters.counts[i]!.map((count, j) => {
        const hit = letters.answers[j] === reference
        const strength = Math.round((count / top) * 45)
        return `<td${hit ? ' class="hit"' : ''} style="background:color-mix(in srgb, var(--${hit ? 'good' : 'bad'}) ${strength}%, transparent)">${whole(count)}</td>`
      })
      return `<tr><th scope="row">${escapeHtml(reference)}</th>${cells.join('')}</tr>`
    })
    const heads = letters.answers.map(
      (answer) => `<th scope="col" style="text-align:center">${escapeHtml(answer)}</th>`,
    )
    panels.push(`<div class="panel confusion" id="letters"><h3>Letters: reference (rows) and answer (columns)</h3>
<table><thead><tr><th></th>${heads.join('')}</tr></thead><tbody>${rows.join('')}</tbody></table></div>`)
  }
  if (lengths.length > 0) {
    const top = Math.max(1, ...lengths.flatMap((row) => [row.answers, row.references]))
    const height = (count: number): string => `${((count / top) * 100).toFixed(2)}%`
    const columns = lengths.map(({ from, to, answers, references }) => {
      const name = to === null ? `${from}+` : from === to ? String(to) : `${from}–${to}`
      const title = `${whole(answers)} answers, ${whole(references)} references`
      return `<div title="${title}"><div class="pair"><i style="height:${height(answers)}"></i><i style="height:${height(references)}"></i></div>${name}</div>`
    })
    panels.push(`<div class="panel" id="lengths"><h3>Length in words</h3><div class="histogram">${columns.join('')}</div>
<p class="legend">Coloured: answers. Grey: references.</p></div>`)
  }
  if (latency.length > 0) {
    const heads = ['ms', 'n', 'mean', 'p50', 'p90', 'p99', 'max']
    const rows = latency.map(({ stage, count, mean, p50, p90, p99, max }) => {
      const cells = [
        whole(count),
        ...[mean, p50, p90, p99, max].map((value) => number(value, value < 10 ? 2 : value < 100 ? 1 : 0)),
      ]
      return `<tr><th scope="row">${escapeHtml(stage)}</th>${cells.map((cell) => `<td>${cell}</td>`).join('')}</tr>`
    })
    panels.push(`<div class="panel" id="latency"><h3>Time a question</h3><div style="overflow-x:auto"><table><thead><tr>${heads
      .map((head) => `<th scope="col">${head}</th>`)
      .join('')}</tr></thead><tbody>${rows.join('')}</tbody></table></div>
<p class="legend">Seeing a moment is counted to its first question.</p></div>`)
  }
  return panels.length > 0 ? `<h2>Answers</h2>\n<div class="columns">${panels.join('\n')}</div>` : ''
}

const verdictNames: [string, string][] = [
  ['right', 'right'],
  ['close', 'right only leniently'],
  ['wrong', 'wrong'],
  ['rated', 'rated'],
  ['gated', 'not counted (gated)'],
  ['open', 'no reference'],
  ['unanswered', 'no answer'],
]

function browser({ frames }: Report): string {
  const all = frames.flatMap((frame) => frame.questions)
  const present = new Set<string>(all.map(({ verdict }) => verdict))
  const select = (id: string, label: string, entries: [string, string][]): string =>
    `<select id="${id}" aria-label="${label}"><option value="">${label}</option>${entries
      .map(([value, name]) => `<option value="${escapeHtml(value)}">${escapeHtml(name)}</option>`)
      .join('')}</select>`
  const kinds = [...new Set(all.map(({ kind }) => kind))].map((kind): [string, string] => [kind, kind])
  const cameras = [...new Set(frames.flatMap((frame) => Object.keys(frame.views)))]
    .filter((name) => /^CAM_[A-Z_]+$/.test(name))
    .map((name): [string, string] => [name, name])
  return `<h2 id="browse">Frames</h2>
<p class="small soft">Select a question to mark its coordinates and boxes in the views: green is the reference, orange the answer, pink the question; thin
blue boxes are key objects. Select a view to enlarge it.</p>
<div class="controls">
<input id="search" type="search" placeholder="Search questions, answers, ids" aria-label="Search">
${select('kind', 'every kind', kinds)}
${select(
  'verdict',
  'every verdict',
  verdictNames.filter(([value]) => present.has(value)),
)}
${select('camera', 'every camera', cameras)}
<output id="count"></output>
</div>
<noscript><p class="notice">The list of frames needs JavaScript; everything is in report.json and report.csv as well.</p></noscript>
<div id="frames"></div>
<div class="pager"><button id="previous" type="button">Previous</button><span id="page"></span><button id="next" type="button">Next</button></div>`
}

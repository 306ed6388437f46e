// Script of the report page: the browsable list of frames. Plain JavaScript for any browser of the last years. Texts of data sets only
// ever become text nodes; nothing here parses HTML.
const { frames } = JSON.parse(document.getElementById('report-data').textContent)
const perPage = 6
const order = ['CAM_FRONT_LEFT', 'CAM_FRONT', 'CAM_FRONT_RIGHT', 'CAM_BACK_LEFT', 'CAM_BACK', 'CAM_BACK_RIGHT']
const words = {
  right: 'right',
  close: 'right, leniently',
  wrong: 'wrong',
  rated: 'rated',
  gated: 'not counted (gated)',
  open: 'no reference',
  unanswered: 'no answer',
}
const byId = (id) => document.getElementById(id)
const controls = { search: byId('search'), kind: byId('kind'), verdict: byId('verdict'), camera: byId('camera') }
let page = 0

function make(tag, attributes, ...children) {
  const node = document.createElement(tag)
  for (const [name, value] of Object.entries(attributes || {})) if (value !== undefined) node.setAttribute(name, value)
  node.append(...children)
  return node
}
function draw(tag, attributes, ...children) {
  const node = document.createElementNS('http://www.w3.org/2000/svg', tag)
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value)
  node.append(...children)
  return node
}

const tagPattern = /<c\d+,\s*(CAM_[A-Z_]+),\s*(\d+(?:\.\d+)?),\s*(\d+(?:\.\d+)?)>/g
function withTags(text) {
  const parts = []
  let end = 0
  for (const match of text.matchAll(tagPattern)) {
    parts.push(text.slice(end, match.index), make('code', {}, match[0]))
    end = match.index + match[0].length
  }
  return [...parts, text.slice(end)]
}
function points(text, camera) {
  return [...(text || '').matchAll(tagPattern)]
    .filter((match) => match[1] === camera)
    .map((match) => [match[2], match[3]])
}

function overlay(frame, camera, question) {
  const svg = draw('svg', { viewBox: '0 0 1600 900', preserveAspectRatio: 'none', 'aria-hidden': 'true' })
  for (const { tag, box, description, camera: seen } of frame.objects) {
    if (seen !== camera || !box) continue
    const [left, top, right, bottom] = box
    const size = { x: left, y: top, width: Math.max(0, right - left), height: Math.max(0, bottom - top) }
    svg.append(draw('rect', size, draw('title', {}, `${tag} ${description || ''}`)))
  }
  if (question) {
    for (const [kind, text] of [
      ['reference', question.reference],
      ['answer', question.answer],
      ['asked', question.question],
    ]) {
      const radius = kind === 'reference' ? 34 : kind === 'answer' ? 22 : 46
      for (const [x, y] of points(text, camera)) svg.append(draw('circle', { cx: x, cy: y, r: radius, class: kind }))
      for (const { camera: seen, box } of question.boxes?.[kind] || []) {
        const [left, top, right, bottom] = box
        if (seen === camera)
          svg.append(draw('rect', { x: left, y: top, width: right - left, height: bottom - top, class: kind }))
      }
    }
  }
  return svg
}

function camerasOf(frame) {
  const names = Object.keys(frame.views)
  return names.some((name) => order.includes(name)) ? order.filter((name) => names.includes(name)) : names
}

function view(frame, camera, open) {
  const picture = frame.pictures[camera]
  const cell = make('button', {
    class: 'view',
    type: 'button',
    'aria-label': `${camera}, enlarge`,
    'data-camera': camera,
  })
  cell.style.aspectRatio = String(picture?.aspect || 16 / 9)
  if (picture) cell.append(make('img', { src: picture.src, alt: camera, loading: 'lazy' }))
  else cell.append(make('span', { class: 'missing' }, 'no picture'))
  cell.append(
    overlay(frame, camera),
    make('span', { class: 'camera' }, camera.replace('CAM_', '').replaceAll('_', ' ').toLowerCase()),
  )
  cell.addEventListener('click', open)
  return cell
}

function enlarge(frame, camera, question) {
  const picture = frame.pictures[camera]
  const dialog = byId('large')
  const box = make('div', { class: 'large' })
  box.style.aspectRatio = String(picture?.aspect || 16 / 9)
  if (picture) box.append(make('img', { src: picture.src, alt: camera }))
  box.append(overlay(frame, camera, question))
  byId('large-name').textContent = camera
  byId('large-picture').replaceChildren(box)
  dialog.showModal()
}

function score(question) {
  const parts = []
  const add = (name, value, digits) =>
    value !== undefined && value !== null && parts.push(`${name} ${value.toFixed(digits)}`)
  add('F1', question.f1, 3)
  add('judge', question.judge, 1)
  add('BLEU-4', question.bleu4, 3)
  add('ROUGE-L', question.rougeL, 3)
  add('CIDEr', question.cider, 2)
  if (question.milliseconds !== undefined) parts.push(`${Math.round(question.milliseconds)} ms`)
  return parts.map((part) => make('span', {}, part))
}

function questionRow(question, select) {
  const text = (label, value, missing) =>
    make(
      'p',
      {},
      make('span', { class: 'label' }, label),
      ...(value === null ? [make('span', { class: 'soft' }, missing)] : withTags(value)),
    )
  const row = make(
    'div',
    { class: 'question', role: 'button', tabindex: '0', 'aria-pressed': 'false', 'data-id': question.id },
    make(
      'div',
      { class: 'head' },
      make('span', { class: `verdict ${question.verdict}` }, words[question.verdict] || question.verdict),
      make('span', {}, question.kind),
      ...(question.tags.length > 0 ? [make('span', {}, `tag ${question.tags.join(', ')}`)] : []),
      ...score(question),
    ),
    text('question', question.question, ''),
    text('answer', question.answer, 'none'),
    text('reference', question.reference, 'none'),
  )
  const toggle = () => select(row, question)
  row.addEventListener('click', toggle)
  row.addEventListener('keydown', (event) => {
    if (event.key !== 'Enter' && event.key !== ' ') return
    event.preventDefault()
    toggle()
  })
  return row
}

function frameCard(frame, questions) {
  let selected
  const cameras = camerasOf(frame)
  const views = make(
    'div',
    { class: cameras.length === 1 ? 'views single' : 'views' },
    ...cameras.map((camera) => view(frame, camera, () => enlarge(frame, camera, selected))),
  )
  const select = (row, question) => {
    const same = selected === question
    selected = same ? undefined : question
    for (const other of row.parentNode.children) other.setAttribute('aria-pressed', String(other === row && !same))
    for (const cell of views.children) {
      cell.querySelector('svg').replaceWith(overlay(frame, cell.dataset.camera, selected))
    }
  }
  const objects = frame.objects.map(({ tag, category, status, description }) =>
    make(
      'li',
      {},
      make('code', {}, tag),
      ' ' +
        (description || '').replace(/\.$/, '') +
        ' (' +
        [category, status].filter(Boolean).join(', ').toLowerCase() +
        ')',
    ),
  )
  return make(
    'article',
    { class: 'frame', 'data-key': frame.key },
    make('h3', {}, frame.key + (frame.description ? ` · ${frame.description}` : '')),
    views,
    ...(objects.length > 0 ? [make('ul', { class: 'objects' }, ...objects)] : []),
    make('div', { class: 'questions' }, ...questions.map((question) => questionRow(question, select))),
  )
}

const haystacks = new Map()
function haystack(frame, question) {
  let text = haystacks.get(question)
  if (text === undefined) {
    text = [
      frame.key,
      frame.description || '',
      question.id,
      question.question,
      question.answer || '',
      question.reference || '',
    ]
      .join('\n')
      .toLowerCase()
    haystacks.set(question, text)
  }
  return text
}

function found() {
  const wanted = controls.search.value.trim().toLowerCase().split(/\s+/).filter(Boolean)
  const { kind, verdict, camera } = controls
  const matches = []
  for (const frame of frames) {
    const questions = frame.questions.filter(
      (question) =>
        (!kind.value || question.kind === kind.value) &&
        (!verdict.value || question.verdict === verdict.value) &&
        (!camera.value || new RegExp(`\\b${camera.value}\\b`).test(question.question)) &&
        wanted.every((word) => haystack(frame, question).includes(word)),
    )
    if (questions.length > 0) matches.push([frame, questions])
  }
  return matches
}

function show() {
  const matches = found()
  const pages = Math.max(1, Math.ceil(matches.length / perPage))
  page = Math.min(page, pages - 1)
  const count = matches.reduce((sum, [, questions]) => sum + questions.length, 0)
  byId('count').textContent =
    count +
    (count === 1 ? ' question in ' : ' questions in ') +
    matches.length +
    (matches.length === 1 ? ' frame' : ' frames')
  byId('frames').replaceChildren(
    ...matches.slice(page * perPage, (page + 1) * perPage).map(([frame, questions]) => frameCard(frame, questions)),
  )
  byId('page').textContent = `page ${page + 1} of ${pages}`
  byId('previous').disabled = page === 0
  byId('next').disabled = page === pages - 1
}

let waiting
const refresh = () => {
  page = 0
  show()
}
for (const control of Object.values(controls)) {
  control.addEventListener('input', () => {
    clearTimeout(waiting)
    waiting = setTimeout(refresh, control === controls.search ? 120 : 0)
  })
}
for (const [id, step] of [
  ['previous', -1],
  ['next', 1],
]) {
  byId(id).addEventListener('click', () => {
    page += step
    show()
    byId('browse').scrollIntoView()
  })
}
show()
document.documentElement.dataset.ready = 'true'

// Script of the report of a training run: curves, drawn from the data in the page. Plain JavaScript for any browser of the last years.
const { charts } = JSON.parse(document.getElementById('report-data').textContent)
// No name of the window's own may be declared here: it has a `top` that cannot be, and the script would not run.
const [width, height] = [560, 246]
const edge = { left: 58, right: 12, top: 12, bottom: 42 }

function draw(tag, attributes, ...children) {
  const node = document.createElementNS('http://www.w3.org/2000/svg', tag)
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value)
  node.append(...children)
  return node
}

/** Round numbers between two ends. */
function ticks(low, high) {
  const step = 10 ** Math.floor(Math.log10((high - low) / 3))
  const size = [1, 2, 5, 10].map((factor) => factor * step).find((one) => (high - low) / one <= 5)
  const out = []
  for (let at = Math.ceil(low / size) * size; at <= high + size * 1e-6; at += size) out.push(Number(at.toPrecision(12)))
  return out
}

function show(value) {
  if (value === 0) return '0'
  return Math.abs(value) < 0.001 || Math.abs(value) >= 1e5
    ? value.toExponential(1)
    : String(Number(value.toPrecision(4)))
}

function chart(place, { series, percent }) {
  const points = series.flatMap((one) => one.points)
  const xs = points.map(([x]) => x)
  const ys = points.map(([, y]) => y)
  const [first, last] = [Math.min(...xs), Math.max(...xs)]
  const low = percent ? 0 : Math.min(0, ...ys)
  const unit = percent ? ' %' : ''
  const high = percent ? 100 : Math.max(...ys) || 1
  const x = (value) => edge.left + ((value - first) / Math.max(1, last - first)) * (width - edge.left - edge.right)
  const y = (value) => height - edge.bottom - ((value - low) / (high - low)) * (height - edge.top - edge.bottom)
  const svg = draw('svg', { viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': place.dataset.name })
  for (const value of ticks(low, high)) {
    svg.append(draw('line', { class: 'grid', x1: edge.left, x2: width - edge.right, y1: y(value), y2: y(value) }))
    svg.append(
      draw('text', { class: 'tick', x: edge.left - 6, y: y(value) + 4, 'text-anchor': 'end' }, show(value) + unit),
    )
  }
  for (const value of ticks(first, Math.max(last, first + 1)).filter((one) => one === Math.round(one) && one <= last)) {
    svg.append(draw('text', { class: 'tick', x: x(value), y: height - 24, 'text-anchor': 'middle' }, show(value)))
  }
  const middle = (edge.left + width - edge.right) / 2
  svg.append(draw('text', { class: 'tick', x: middle, y: height - 6, 'text-anchor': 'middle' }, 'updates'))
  for (const [i, { points: own }] of series.entries()) {
    const path = own.map(([a, b], j) => `${j === 0 ? 'M' : 'L'}${x(a).toFixed(1)} ${y(b).toFixed(1)}`).join('')
    svg.append(draw('path', { class: `line line-${i}`, d: path }))
    if (own.length < 30)
      for (const [a, b] of own) svg.append(draw('circle', { class: `dot dot-${i}`, cx: x(a), cy: y(b), r: 3 }))
  }
  const cursor = draw('line', { class: 'cursor', y1: edge.top, y2: height - edge.bottom, x1: -9, x2: -9 })
  svg.append(cursor)
  const reading = document.createElement('output')
  svg.addEventListener('pointermove', (event) => {
    const box = svg.getBoundingClientRect()
    const at =
      first +
      (((event.clientX - box.left) / box.width) * width - edge.left) /
        ((width - edge.left - edge.right) / Math.max(1, last - first))
    const near = xs.reduce((best, one) => (Math.abs(one - at) < Math.abs(best - at) ? one : best), first)
    cursor.setAttribute('x1', x(near))
    cursor.setAttribute('x2', x(near))
    const values = series.flatMap(({ name, points: own }) => {
      const found = own.find(([one]) => one === near)
      return found ? [`${name} ${show(found[1])}${unit}`] : []
    })
    reading.textContent = `after ${near}: ${values.join(', ')}`
  })
  place.append(svg, reading)
}

for (const place of document.querySelectorAll('[data-chart]')) chart(place, charts[place.dataset.chart])
document.documentElement.dataset.ready = 'true'

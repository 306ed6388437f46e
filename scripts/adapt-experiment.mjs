#!/usr/bin/env node
// npm run adapt:experiment: the paper's experiment on drawn streets. The bundled model is adapted to night with traffic on the left, with 0 to 1 general
// samples (day in the city) for each of the domain, all parameters; and with the projector alone. Every way is trained with several seeds.
//
//   node scripts/adapt-experiment.mjs [--out DIR] [--scenes 80] [--held-out 40] [--seeds 3] [--passes 2] [--threads N]
//
// OUT gets experiment.md (the tables), experiment.svg (the plot) and experiment.json. Runs that are done are not done again: the same command goes
// on. Minutes include validation, and are right of runs that were not stopped.

import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { openTrainingData } from 'drivlm/train'

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..')
const { values } = parseArgs({
  options: {
    out: { type: 'string', default: path.join(root, '.cache', 'adapt-experiment') },
    scenes: { type: 'string', default: '80' },
    'held-out': { type: 'string', default: '40' },
    seeds: { type: 'string', default: '3' },
    passes: { type: 'string', default: '2' },
    threads: { type: 'string', default: String(os.availableParallelism()) },
  },
})
const out = path.resolve(values.out)
const ways = [
  ...[0, 0.1, 0.25, 0.5, 1].map((ratio) => ({ name: `all parameters, r = ${ratio}`, train: 'all', ratio })),
  { name: 'projector alone, r = 0.25', train: 'projector', ratio: 0.25 },
]

async function drivlm(...args) {
  const child = spawn(process.execPath, [path.join(root, 'dist', 'cli', 'main.js'), ...args], {
    stdio: ['ignore', 'ignore', 'inherit'],
  })
  const wait = () => undefined // a terminal sends it to the command too, which saves
  process.on('SIGINT', wait)
  const [status] = await new Promise((resolve) => child.on('exit', (...found) => resolve(found)))
  process.off('SIGINT', wait)
  if (status !== 0) process.exit(status ?? 1)
}

/** Moments that no other part of the experiment has: each its own seeds. */
async function drawn(name, domain, scenes, seed) {
  const folder = path.join(out, `${name}-${scenes}`)
  const size = ['--scenes', scenes, '--seed', seed, '--questions', '16']
  if (!existsSync(folder)) await drivlm('street', '--out', folder, '--domain', domain, ...size)
  return path.join(folder, 'drivelm.json')
}

/** Right answers of each kind: exact ones, of boxes those that overlap by half. */
const sharesOf = ({ kinds }) =>
  new Map(kinds.map(({ name, exact, lenient }) => [name, name === 'locate' ? lenient : exact]))

const mean = (numbers) => numbers.reduce((sum, number) => sum + number, 0) / numbers.length
const spread = (numbers) => Math.sqrt(mean(numbers.map((number) => (number - mean(numbers)) ** 2)))
const meanOfKinds = (validation) => mean([...sharesOf(validation).values()])

await mkdir(out, { recursive: true })
const night = await drawn('night', 'night-left', values.scenes, '600000')
const day = await drawn('day', 'day-city', values.scenes, '700000')
const heldOut = {
  domain: await drawn('night-held-out', 'night-left', values['held-out'], '800000'),
  general: await drawn('day-held-out', 'day-city', values['held-out'], '900000'),
}

/** Of a run, of what is trained in it. What a frozen tower gives is kept after the first pass, and counted in all of them. */
async function operationsOf(model, { train, ratio }, seed) {
  const general = ratio > 0 ? { general: day, generalRatio: ratio } : {}
  const data = await openTrainingData(model, { data: night, ...general, seed, packsPerStep: 1, maxPackTiles: 12 })
  const { shared } = data.operationsOf({ train, towerLayers: 0 })
  await data.close()
  return shared * Number(values.passes)
}

/** One run; what it was before and after, its time and its operations. */
async function adapted({ train, ratio }, seed) {
  const folder = path.join(out, `${train}-${ratio}-${seed}`)
  const begun = performance.now()
  const general = ratio > 0 ? ['--general', day, '--general-ratio', String(ratio)] : []
  const packs = [
    '--packs-per-step',
    '1',
    '--max-pack-tiles',
    '12',
    '--passes',
    values.passes,
    '--threads',
    values.threads,
  ]
  const rate = ['--learning-rate', '4e-4', '--weight-decay', '0', '--seed', String(seed)]
  const validation = [
    '--validate',
    heldOut.domain,
    '--validate-general',
    heldOut.general,
    '--validate-every',
    '1000000',
  ]
  const model = path.join(root, 'models', 'street-tiny')
  const done = existsSync(folder)
  await drivlm(
    ...['adapt', '-m', model, '--out', folder, '--train', train, '--data', night, ...general, ...packs, ...rate],
    ...validation,
  )
  const timeFile = path.join(`${folder}.run`, 'minutes.json')
  if (!done) await writeFile(timeFile, JSON.stringify((performance.now() - begun) / 60_000))
  const lines = (await readFile(path.join(`${folder}.run`, 'validations.jsonl'), 'utf8')).trim().split('\n')
  const validations = lines.map((line) => JSON.parse(line))
  const of = (set) => validations.filter((one) => one.set === set)
  return {
    before: { domain: of('domain')[0], general: of('general')[0] },
    after: { domain: of('domain').at(-1), general: of('general').at(-1) },
    minutes: JSON.parse(await readFile(timeFile, 'utf8')),
    operations: await operationsOf(model, { train, ratio }, seed),
  }
}

const results = []
for (const way of ways) {
  const runs = []
  for (let seed = 1; seed <= Number(values.seeds); seed++) {
    runs.push(await adapted(way, seed))
    console.error(`${way.name}, seed ${seed}: ${runs.at(-1).minutes.toFixed(1)} min`)
  }
  results.push({ ...way, runs })
}
await writeFile(path.join(out, 'experiment.json'), `${JSON.stringify({ settings: values, results }, null, 1)}\n`)

const percent = (share) => (100 * share).toFixed(1)
const withSpread = (numbers) => `${percent(mean(numbers))} ± ${percent(spread(numbers))}`
const before = results[0].runs[0].before
const rows = results.map(({ name, runs }) => {
  const after = (set) => withSpread(runs.map(({ after: found }) => meanOfKinds(found[set])))
  const minutes = mean(runs.map((run) => run.minutes)).toFixed(1)
  const operations = (mean(runs.map((run) => run.operations)) / 1e12).toFixed(1)
  return `| ${name} | ${after('domain')} | ${after('general')} | ${minutes} | ${operations} |`
})
const kindTable = (set) => {
  const kinds = [...sharesOf(before[set]).keys()].sort()
  const lines = kinds.map((kind) => {
    const cells = results.map(({ runs }) => withSpread(runs.map(({ after }) => sharesOf(after[set]).get(kind))))
    return `| \`${kind}\` | ${percent(sharesOf(before[set]).get(kind))} | ${cells.join(' | ')} |`
  })
  const heads = results.map(({ train, ratio }) => (train === 'all' ? `r = ${ratio}` : 'projector'))
  return [`| ${set} | before | ${heads.join(' | ')} |`, `|---|---|${heads.map(() => '---|').join('')}`, ...lines].join(
    '\n',
  )
}
const markdown = `Mean of all kinds of question, in percent, over ${values.seeds} seeds (± standard deviation); ${values.scenes} moments of the domain, ${values.passes} passes,
${values['held-out']} held-out moments of each. \`locate\` counts boxes that overlap by half.

| | domain | general | minutes | 10¹² operations |
|---|---|---|---|---|
| before | ${percent(meanOfKinds(before.domain))} | ${percent(meanOfKinds(before.general))} | | |
${rows.join('\n')}

${kindTable('domain')}

${kindTable('general')}
`
await writeFile(path.join(out, 'experiment.md'), markdown)

/** Domain and general accuracy over r, with spread. */
function plot() {
  const [width, height, left, bottom, top] = [640, 360, 60, 50, 20]
  const curve = results.filter(({ train }) => train === 'all')
  const x = (i) => left + 40 + (i * (width - left - 100)) / (curve.length - 1)
  const y = (share) => top + (1 - share) * (height - top - bottom)
  const part = (set, colour) => {
    const points = curve.map(({ runs }, i) => {
      const found = runs.map(({ after }) => meanOfKinds(after[set]))
      return { x: x(i), y: y(mean(found)), low: y(mean(found) - spread(found)), high: y(mean(found) + spread(found)) }
    })
    const line = points.map((point) => `${point.x.toFixed(1)},${point.y.toFixed(1)}`).join(' ')
    const marks = points.map(
      (point) =>
        `<line x1="${point.x.toFixed(1)}" x2="${point.x.toFixed(1)}" y1="${point.low.toFixed(1)}" y2="${point.high.toFixed(1)}"/><circle cx="${point.x.toFixed(1)}" cy="${point.y.toFixed(1)}" r="3" fill="${colour}"/>`,
    )
    const start = y(meanOfKinds(before[set])).toFixed(1)
    const level = `<line x1="${left}" x2="${width - 20}" y1="${start}" y2="${start}" stroke-dasharray="2 4"/>`
    return `<g stroke="${colour}" fill="none"><polyline points="${line}"/>${marks.join('')}${level}</g>`
  }
  const ticks = [0, 0.25, 0.5, 0.75, 1].map(
    (share) => `<text x="${left - 8}" y="${y(share) + 4}" text-anchor="end">${100 * share} %</text>`,
  )
  const ratios = curve.map(
    ({ ratio }, i) => `<text x="${x(i)}" y="${height - bottom + 20}" text-anchor="middle">${ratio}</text>`,
  )
  const frame = `<path d="M${left} ${top}V${height - bottom}H${width - 20}" fill="none" stroke="#888"/>`
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" font-family="sans-serif" font-size="12" fill="#444">
<rect width="${width}" height="${height}" fill="#fff"/>${frame}
${ticks.join('')}${ratios.join('')}
<text x="${width / 2}" y="${height - 10}" text-anchor="middle">general samples for each of the domain (r); dotted: before</text>
${part('domain', '#c2410c')}${part('general', '#1d4ed8')}
<text x="${left + 50}" y="${height - bottom - 30}" fill="#c2410c">night, traffic on the left (domain)</text>
<text x="${left + 50}" y="${height - bottom - 12}" fill="#1d4ed8">day in the city (general)</text>
</svg>
`
}
await writeFile(path.join(out, 'experiment.svg'), plot())
console.log(markdown)

// Two results, row by row.
import { betterBy, percent, show, table } from './statistics.mjs'

/** Rows that both results have a value for. A ratio above 1 is better than before, whatever the unit. */
export function compareRows(before, after) {
  const old = new Map(before.rows.map((row) => [row.name, row]))
  return after.rows.flatMap((row) => {
    const was = old.get(row.name)
    if (!was || was.unit !== row.unit || !(was.value > 0) || !(row.value > 0)) return []
    const { name, unit, value, share } = row
    return [
      {
        name,
        unit,
        before: was.value,
        after: value,
        ratio: betterBy(value, was.value, unit),
        shares: [was.share, share],
      },
    ]
  })
}

/** As text, worst first. */
export function comparisonText(before, after) {
  const compared = compareRows(before, after).sort((a, b) => a.ratio - b.ratio)
  const lines = []
  for (const key of ['cpu', 'device', 'threads', 'tier', 'compiler', 'governor']) {
    if (before.device[key] !== after.device[key])
      lines.push(`${key}: ${before.device[key]} before, ${after.device[key]} now`)
  }
  if (before.model !== after.model) lines.push(`model: ${before.model} before, ${after.model} now`)
  const rows = compared.map(({ name, unit, before: was, after: is, ratio, shares }) => [
    name,
    unit,
    show(was),
    show(is),
    `${ratio.toFixed(3)}x`,
    `${percent(shares[0])} -> ${percent(shares[1])}`,
  ])
  lines.push(table(['row', 'unit', 'before', 'now', 'better', 'share of floor'], rows))
  const names = new Set(compared.map(({ name }) => name))
  const gone = before.rows.filter(({ name, value }) => value !== null && !names.has(name))
  if (gone.length > 0) lines.push(`without a value now: ${gone.map(({ name }) => name).join(', ')}`)
  return lines.join('\n')
}

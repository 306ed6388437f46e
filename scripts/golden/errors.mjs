// The rows of models run with --errors as a table: for each model the largest error over its cases of what leaves a part of the network.

const columns = [
  ['vision tower', /^vit\.last_hidden/, 'percent'],
  ['projector', /^projector /, 'percent'],
  ['decoder', /^llm\.final_norm /, 'percent'],
  ['logits', /^logits bf16/, 'percent'],
  ['logprob', /^decode\.logprobs/, 'number'],
]

/** A Markdown table. Errors are the rms of the difference in parts of the reference's own rms, log-probabilities the largest difference. */
export function errorTable(rows) {
  const models = new Map()
  for (const row of rows) {
    const name = String(row.name).split(' ')[0]
    models.set(name, [...(models.get(name) ?? []), row])
  }
  const heads = ['model', ...columns.map(([head]) => head), 'other tokens']
  const lines = [heads, heads.map(() => '---')]
  const streets = []
  for (const [name, own] of models) {
    const street = own.find(({ accuracy }) => accuracy !== undefined)
    if (street)
      streets.push(
        `${name}: ${street.accuracy.toFixed(1)} % right, ${street.error.toFixed(1)} points below the reference`,
      )
    else lines.push([name, ...columns.map((column) => cell(own, column)), otherTokens(own)])
  }
  const table = lines.length > 2 ? lines.map((line) => `| ${line.join(' | ')} |`) : []
  return [...table, ...streets].join('\n')
}

function cell(rows, [, stage, unit]) {
  const errors = rows.filter((row) => stage.test(row.stage)).map(({ error }) => error)
  if (errors.length === 0) return ''
  const worst = errors.every(Number.isFinite) ? Math.max(...errors) : Number.NaN
  return unit === 'percent' ? `${(100 * worst).toFixed(2)} %` : worst.toFixed(3)
}

/** Greedy choices that differ, of those that the reference makes by a gap over 1. */
function otherTokens(rows) {
  const choices = rows.filter(({ compared }) => compared !== undefined)
  const sum = (of) => choices.reduce((total, row) => total + of(row), 0)
  return `${sum(({ error }) => error)} of ${sum(({ compared }) => compared)}`
}

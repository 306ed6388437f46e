/** The value below which a part of the samples lies, interpolated. */
export function quantile(samples, part) {
  const sorted = [...samples].sort((a, b) => a - b)
  const at = part * (sorted.length - 1)
  const low = Math.floor(at)
  const high = Math.ceil(at)
  return sorted[low] + (at - low) * (sorted[high] - sorted[low])
}

/** Units in which more is better. */
const rates = ['tok/s', '1/s', 'GFLOP/s', 'GB/s']

export const isRate = (unit) => rates.includes(unit)

/** How many times better a value is than another: above 1 is faster, or smaller. */
export const betterBy = (value, other, unit) => (isRate(unit) ? value / other : other / value)

/** Enough digits to read and to compare. */
export function show(value) {
  if (value === null || value === undefined) return '-'
  if (value === 0) return '0'
  const digits = Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value))))
  return value.toFixed(Math.min(digits, 4))
}

export const percent = (part) => (part === null || part === undefined ? '-' : `${(100 * part).toFixed(0)} %`)

/** Columns of text; the first on the left, the others on the right. */
export function table(header, rows) {
  const widths = header.map((_, i) => Math.max(...[header, ...rows].map((row) => row[i].length)))
  const line = (row) => row.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]) : cell.padStart(widths[i]))).join('  ')
  return [line(header), widths.map((width) => '-'.repeat(width)).join('  '), ...rows.map(line)]
    .map((text) => text.trimEnd())
    .join('\n')
}

import type { Report } from './build.ts'

const columns = [
  'frame',
  'id',
  'kind',
  'tags',
  'verdict',
  'f1',
  'judge',
  'rougeL',
  'cider',
  'bleu4',
  'milliseconds',
  'question',
  'answer',
  'reference',
] as const

/**
 * A question a line, with a header (RFC 4180). Texts that a spreadsheet would run as a formula get an apostrophe in front; the
 * JSON file has them as they are.
 */
export function reportCsv(report: Report): string {
  const lines = report.frames.flatMap((frame) =>
    frame.questions.map((question) =>
      columns.map((column) =>
        cell(column === 'frame' ? frame.key : column === 'tags' ? question.tags.join(' ') : question[column]),
      ),
    ),
  )
  return [columns, ...lines].map((line) => `${line.join(',')}\r\n`).join('')
}

function cell(value: string | number | null | undefined): string {
  if (typeof value === 'number') return String(value)
  const text = value ?? ''
  const safe = /^[=+\-@\t\r]/.test(text) ? `'${text}` : text
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe
}

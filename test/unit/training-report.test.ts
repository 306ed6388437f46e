/** The report of a training run: which validation is called the best, and what is said of boxes. */
import { expect, test } from 'vitest'
import { trainingReportHtml } from '../../lib/train/report/html.ts'
import type { Validation } from '../../lib/train/report/validation.ts'

const common = { set: 'domain', questions: 8, final: null }

function validation(updates: number, exact: number, best: boolean): Validation {
  const kinds = [
    { name: 'count', exact, lenient: exact, count: 4 },
    { name: 'locate', exact: 0, lenient: exact / 2, count: 4 },
  ]
  return { ...common, updates, exact, lenient: exact, best, kinds }
}

test('the last best validation is shown, and boxes as they are leniently compared', () => {
  const validations = [
    validation(0, 0.25, true),
    validation(5, 0.5, true),
    validation(10, 0.75, true),
    validation(15, 0.5, false),
  ]
  const html = trainingReportHtml({ title: 'run', facts: {}, lists: [], steps: [], validations })
  expect([...html.matchAll(/<th scope="col">(after [^<]+)</g)].map((match) => match[1])).toEqual([
    'after 0',
    'after 10, best',
    'after 15',
  ])
  const cells = (kind: string) => new RegExp(`>${kind}</th>(.*?)</tr>`).exec(html)?.[1]
  expect(cells('count')).toBe('<td>25.0 %</td><td>75.0 %</td><td>50.0 %</td>')
  expect(cells('locate')).toBe('<td>0.0 % (12.5 %)</td><td>0.0 % (37.5 %)</td><td>0.0 % (25.0 %)</td>')
})

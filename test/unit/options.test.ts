/** Types, checks, flags and documentation of options follow from one schema, lib/option-tables.ts. */
import { readFileSync } from 'node:fs'
import path from 'node:path'
import { Command } from 'commander'
import { describe, expect, test } from 'vitest'
import { addFlags, optionsFrom } from '../../lib/cli/flags.ts'
import * as schema from '../../lib/option-tables.ts'
import {
  type AskOptions,
  askAllSettings,
  askSettings,
  checkChooseOptions,
  checkScoreOptions,
  checkSeeOptions,
  checkUpdateOptions,
  engineNumbers,
  loadSettings,
  locateSettings,
  watchSettings,
} from '../../lib/options.ts'

const { expected, ...tables } = schema
const {
  answerOptions,
  cameraOptions,
  choiceOptions,
  indexedPieceOptions,
  loadOptions,
  orderOptions,
  pieceOptions,
  scoreOptions,
  signalOptions,
  systemOptions,
  textOptions,
  viewOptions,
  watchOptions,
} = tables
const documentation = readFileSync(path.resolve(import.meta.dirname, '../../docs/options.md'), 'utf8')

const asked = { ...answerOptions, ...textOptions, ...signalOptions }
const score = { ...scoreOptions, ...textOptions, ...signalOptions }
/** What each call takes, by the name of its check. */
const calls: [string, (options: never) => unknown, schema.OptionTable][] = [
  ['loadModel', loadSettings, loadOptions],
  ['see', checkSeeOptions, { ...viewOptions, ...systemOptions, ...textOptions, ...signalOptions }],
  ['update', checkUpdateOptions, { ...orderOptions, ...signalOptions }],
  ['ask', askSettings, { ...asked, ...pieceOptions }],
  ['askAll', askAllSettings, { ...asked, ...indexedPieceOptions }],
  ['locate', locateSettings, { ...asked, ...pieceOptions, ...cameraOptions }],
  ['choose', checkChooseOptions, { ...choiceOptions, ...score }],
  ['score', checkScoreOptions, score],
  [
    'watch',
    (options: object) => watchSettings({ questions: ['What is there?'], ...options }),
    { ...watchOptions, ...viewOptions, ...systemOptions, ...asked },
  ],
]
const cases = calls.flatMap(([call, check, table]) =>
  Object.entries(table).flatMap(([name, row]) =>
    row.kind === 'format' ? [] : [[call, name, check as (options: unknown) => unknown, row] as const],
  ),
)

describe('checks', () => {
  test.each(cases)('%s refuses a bad %s and says what fits', (_, name, check, row) => {
    expect(() => check({ [name]: Number.NaN })).toThrow(`Expected ${expected(row)} for options.${name}, received NaN.`)
    expect(() => check({ [name]: undefined })).not.toThrow()
  })

  test.each(calls)('%s refuses what is no option', (_, check, table) => {
    const wrong = { maxTokens: 1 } as never
    const known = Object.keys(table)
    expect(() => check(wrong)).toThrow('options.maxTokens is not an option here; expected ')
    for (const name of known) expect(() => check(wrong)).toThrow(name)
    expect(() => check({ constructor: 1 } as never)).toThrow('options.constructor is not an option here')
  })

  test.each(cases.filter(([, , , { kind }]) => ['integer', 'number'].includes(kind)))(
    '%s holds %s to its bounds',
    (_, name, check, { kind, low, above, high }) => {
      const past = kind === 'integer' ? 1 : 0.001
      const outside = [above ?? low! - past, ...(high === undefined ? [2 ** 53] : [high + past]), '7']
      for (const value of outside) expect(() => check({ [name]: value })).toThrow(`options.${name}`)
      const inside = [above === undefined ? low! : above + past, ...(high === undefined ? [] : [high])]
      for (const value of inside) {
        const others = name === 'minNewTokens' ? { maxNewTokens: 2 ** 53 - 1 } : {}
        expect(() => check({ ...others, [name]: value })).not.toThrow()
      }
    },
  )

  test('what is left out is filled in, and the engine gets its numbers', () => {
    const settings = askSettings({ stop: 'end', seed: 7 })
    expect(settings).toMatchObject({
      maxNewTokens: 512,
      topP: 1,
      tags: 'keep',
      stop: ['end'],
      speculate: 4,
      logprobs: false,
    })
    const numbers = { maxNewTokens: 512, minNewTokens: 0, temperature: 0, topP: 1, seed: 7, speculate: 4 }
    expect(engineNumbers(settings)).toEqual(numbers)
    expect(loadSettings({})).toMatchObject({ device: 'auto', precision: 'bf16', maxBatch: 20, evict: false })
  })
})

describe('documentation', () => {
  test('docs/options.md is made from the schema', async () => {
    const { optionsDocument } = await import('../../scripts/options-doc.mjs' as string)
    expect(documentation, 'run npx tsc -p . and node scripts/options-doc.mjs').toBe(optionsDocument(schema))
  })

  test('a sentence names the default that the row has', () => {
    const lines = documentation.split('\n').filter((line) => line.startsWith('| `'))
    expect(lines).toHaveLength(Object.values(tables).flatMap((table) => Object.keys(table)).length)
    const silent = Object.values(tables).flatMap((table) =>
      Object.entries<schema.OptionRow>(table).flatMap(([name, { default: usual }]) => {
        if (usual === undefined) return []
        const sentence = lines
          .find((line) => line.startsWith(`| \`${name}\` |`))!
          .split(' | ')
          .slice(4)
          .join(' | ')
        const said = new RegExp(`Default \`?${usual}\\b|\\b${usual}\`? \\(default\\)|an error \\(default\\)`)
        return said.test(sentence) ? [] : [`${name}: ${sentence}`]
      }),
    )
    expect(silent).toEqual([])
  })
})

describe('flags', () => {
  const parse = (name: string, args: string[]): AskOptions => {
    const command = addFlags(
      new Command(name),
      { ...viewOptions, ...answerOptions },
      name === 'eval' ? { seed: 3 } : {},
    )
    return command
      .exitOverride()
      .configureOutput({ writeErr: () => undefined })
      .parse(args, { from: 'user' })
      .opts()
  }

  test('give the values of their options', () => {
    const args = ['--max-tiles', '3', '--top-p', '.5', '--stop', 'a', '--stop', 'b', '--missing-views', 'black']
    const given = { maxTilesPerImage: 3, topP: 0.5, stop: ['a', 'b'], missingViews: 'black' }
    expect(parse('ask', args)).toEqual(given)
    expect(optionsFrom(answerOptions, parse('ask', args))).toMatchObject({ topP: 0.5, stop: ['a', 'b'] })
    // `tags` of eval are those of its questions.
    expect(optionsFrom(answerOptions, { topP: 0.5, tags: 'drop' })).not.toHaveProperty('tags')
  })

  test('are refused by what the option says, and where a command does not have them', () => {
    expect(() => parse('ask', ['--max-new-tokens', '0'])).toThrow('Expected a whole number of at least 1.')
    expect(() => parse('ask', ['--temperature', 'hot'])).toThrow('Expected a number')
    expect(() => parse('ask', ['--missing-views', 'red'])).toThrow('error, black')
    expect(() => parse('eval', ['--max-tiles', '3'])).toThrow("unknown option '--max-tiles'")
  })
})

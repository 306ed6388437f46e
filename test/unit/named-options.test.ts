/** What messages advise exists: every option and flag that a text of ours names is one that can be passed. */
import { readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import type { OptionRow } from '../../lib/option-tables.ts'
import * as schema from '../../lib/option-tables.ts'
import { cameras } from '../../lib/views/cameras.ts'

const root = path.resolve(import.meta.dirname, '..', '..')

function sources(folder: string, endings: RegExp): { file: string; text: string }[] {
  return readdirSync(path.join(root, folder), { recursive: true, encoding: 'utf8' })
    .filter((file) => endings.test(file))
    .map((file) => ({ file: `${folder}/${file}`, text: readFileSync(path.join(root, folder, file), 'utf8') }))
}

/** Texts in quotes, what is computed in them left out; comments are none. */
function texts(source: string): string[] {
  const code = source.replace(/\/\*[\s\S]*?\*\//g, '').replace(/^\s*\/\/.*$/gm, '')
  const quoted = code.matchAll(/'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*"|`(?:[^`\\]|\\.)*`/g)
  return [...quoted].map(([text]) => text.replace(/\$\{[^}]*\}/g, '…'))
}

const lib = sources('lib', /\.ts$/)
const messages = [...lib, ...sources('native', /\.(cpp|h|cu|cuh)$/)].flatMap(({ file, text }) =>
  texts(text).map((message) => ({ file, message })),
)

const { expected: _, ...tables } = schema
const rows = Object.values(tables).flatMap((table) => Object.entries<OptionRow>(table))

/** Names of the schema, and keys of every other `interface …Options`. */
const options = new Set([
  ...rows.map(([name]) => name),
  ...lib.flatMap(({ text }) =>
    [...text.matchAll(/interface \w*Options\b[^{]*\{([\s\S]*?)\n\}/g)].flatMap(([, body]) =>
      [...body!.matchAll(/^ {2}(?:readonly )?(\w+)\??:/gm)].map(([, name]) => name!),
    ),
  ),
])

/** Flags of the commands, from where they are defined. */
const flags = new Set([
  ...cameras.map((camera) => camera.replace('CAM_', '').replace('_', '-').toLowerCase()),
  ...rows.flatMap(([, { flag }]) => (flag ? [/^--([a-z-]+)/.exec(flag.name)![1]!] : [])),
  ...sources('lib/cli', /^(main|flags)\.ts$/).flatMap(({ text }) =>
    [...text.matchAll(/(?:ption\(\s*'(?:-\w, )?)--([a-z][a-z-]*)/g)].map(([, name]) => name!),
  ),
  'version',
  'help',
])

/** Flags of other programs that messages tell a person to use. */
const foreign = new Set<string>(['external', 'ignore-scripts'])

describe('messages', () => {
  test('the lists that are compared with are read', () => {
    for (const name of ['maxNewTokens', 'kvMemory', 'missingViews', 'camera', 'withEnd'])
      expect(options).toContain(name)
    for (const name of ['max-new-tokens', 'front-left', 'weights', 'views', 'shard']) expect(flags).toContain(name)
    expect(messages.filter(({ message }) => message.includes('options.')).length).toBeGreaterThan(15)
    expect(texts("// options.gone\nfail('options.there', `options.too`)")).toEqual(["'options.there'", '`options.too`'])
  })

  test('name options that exist', () => {
    const unknown = messages.flatMap(({ file, message }) =>
      [...message.matchAll(/\boptions\.([A-Za-z]\w*)/g)]
        .filter(([, name]) => !options.has(name!) && name !== 'ts')
        .map(([whole]) => `${file}: ${whole}`),
    )
    expect(unknown).toEqual([])
  })

  test('show options to pass that exist', () => {
    const unknown = messages.flatMap(({ file, message }) =>
      [...message.matchAll(/(?:pass|with|set|load with) \{ (\w+): /g)]
        .filter(([, name]) => !options.has(name!))
        .map(([whole]) => `${file}: ${whole}`),
    )
    expect(unknown).toEqual([])
  })

  test('name flags that exist', () => {
    // What is a sentence; arguments for other programs and styles are none.
    const sentences = messages.filter(({ file, message }) => /\w \w/.test(message) && !file.endsWith('page-assets.ts'))
    const unknown = sentences.flatMap(({ file, message }) =>
      [...message.matchAll(/(?<![\w-])--([a-z][a-z-]*[a-z])/g)]
        .filter(([, name]) => !flags.has(name!) && !foreign.has(name!))
        .map(([whole]) => `${file}: ${whole}`),
    )
    expect(unknown).toEqual([])
  })
})

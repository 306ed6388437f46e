#!/usr/bin/env node
// Writes docs/options.md from the schema of options and the comments of its rows, after `npx tsc -p .`. test/unit/options.test.ts holds it.
import { readFileSync, writeFileSync } from 'node:fs'

const schema = new URL('../lib/option-tables.ts', import.meta.url)
const target = new URL('../docs/options.md', import.meta.url)

/** Headings, and the tables below each. */
const sections = [
  ['`loadModel`', ['loadOptions']],
  ['Seeing: `model.see`, `model.ask`, `model.stream`', ['viewOptions', 'systemOptions']],
  ['`scene.update`', ['orderOptions']],
  ['Answers: `ask`, `stream` and `askAll`, of a model, scene or chat, and `scene.locate`', ['answerOptions']],
  ['`ask`, `stream` and `scene.locate` alone', ['pieceOptions']],
  ['`scene.askAll` alone', ['indexedPieceOptions']],
  ['`scene.locate` alone', ['cameraOptions']],
  ['`scene.choose`', ['choiceOptions']],
  ['`scene.choose` and `scene.score`', ['scoreOptions']],
  ['`model.watch`, beside those of seeing and of answers', ['watchOptions']],
  ['Every call that takes a text', ['textOptions']],
  ['Every call on a loaded model', ['signalOptions']],
]

/**
 * The document's text.
 *
 * @param {Record<string, unknown>} schemaModule - What lib/option-tables.ts exports.
 */
export function optionsDocument({ expected, ...tables }) {
  const sentences = sentencesOf(readFileSync(schema, 'utf8'))
  const left = new Set(Object.keys(tables))
  const parts = sections.map(([heading, names]) => {
    const rows = names.flatMap((name) => {
      left.delete(name)
      return Object.entries(tables[name]).map(([option, row]) =>
        cells(option, row, expected(row), sentences[name]?.[option]),
      )
    })
    return `## ${heading}\n\n| option | value | default | flag | |\n|---|---|---|---|---|\n${rows.join('\n')}\n`
  })
  if (left.size > 0) throw new Error(`scripts/options-doc.mjs has no section for ${[...left].join(', ')}.`)
  const head = '# Options\n\nMade by scripts/options-doc.mjs from lib/option-tables.ts; change that.\n\n'
  return head + parts.join('\n')
}

/** Comments of rows, by table and option; the file stands as Biome formats it. */
function sentencesOf(source) {
  const tables = [...source.matchAll(/^export const (\w+) = \{\n([\s\S]*?)^\} as const$/gm)]
  return Object.fromEntries(
    tables.map(([, name, rows]) => {
      const comments = [...rows.matchAll(/^ {2}\/\*\*([\s\S]*?)\*\/\n {2}(\w+):/gm)]
      const texts = comments.map(([, text, option]) => [option, text.replaceAll(/\s+(\* )?/g, ' ').trim()])
      return [name, Object.fromEntries(texts)]
    }),
  )
}

/** A row of the document. */
function cells(option, { default: usual, flag }, value, sentence) {
  const shown = usual === undefined ? '' : typeof usual === 'string' ? `\`'${usual}'\`` : `\`${usual}\``
  const flagText = flag === undefined ? '' : `\`${flag.name}\` of ${flag.on.join(', ')}`
  const cell = (text) => text.replaceAll('|', '\\|')
  return `| \`${option}\` | ${cell(value.replace(/,$/, ''))} | ${shown} | ${flagText} | ${cell(sentence)} |`
}

if (process.argv[1] === new URL(import.meta.url).pathname) {
  writeFileSync(target, optionsDocument(await import('../dist/option-tables.js')))
}

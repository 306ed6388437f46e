#!/usr/bin/env node
// npm run docs: TypeDoc writes the reference of every entry of package.json's exports to .cache/docs, from the types. Fails where something that is
// exported, or a member of it, has no sentence. Ends with `N passed, N failed`: those with and without.

import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { sentences } from './docs/sentences.mjs'

const root = path.resolve(import.meta.dirname, '..')
const tools = path.join(root, 'scripts', 'docs')
const out = path.join(root, '.cache', 'docs')
const typedoc = path.join(tools, 'node_modules', 'typedoc', 'bin', 'typedoc')
const run = (command, args) => spawnSync(command, args, { cwd: root, stdio: ['ignore', 'inherit', 'inherit'] }).status

if (
  !existsSync(typedoc) &&
  run('npm', ['ci', '--prefix', tools, '--ignore-scripts', '--no-audit', '--no-fund']) !== 0
) {
  process.exit(1)
}
const { exports } = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8'))
const entries = Object.values(exports).flatMap((entry) =>
  entry.types ? [entry.types.replace(/^\.\/dist\/(.*)\.d\.ts$/, 'lib/$1.ts')] : [],
)
const json = path.join(out, 'reference.json')
const options = ['--options', path.join(tools, 'typedoc.json'), '--out', out, '--json', json]
if (run(process.execPath, [typedoc, ...options, ...entries.flatMap((entry) => ['--entryPoints', entry])]) !== 0) {
  process.exit(1)
}

const { passed, without } = sentences(JSON.parse(readFileSync(json, 'utf8')))
if (without.length > 0) console.log(`\nExported without a sentence that says what it is:\n  ${without.join('\n  ')}`)
console.log(`\n${passed} passed, ${without.length} failed`)
process.exitCode = without.length === 0 ? 0 : 1

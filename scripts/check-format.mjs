#!/usr/bin/env node
// Holds C++ and CUDA sources to .clang-format, by clang-format as WebAssembly: the same lines on every machine.
//
//   node scripts/check-format.mjs [--write] [file ...]     --write formats what is not; without files all of them

import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { format } from '@wasm-fmt/clang-format'

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..')
const folders = ['native', 'test', 'bench']
const style = readFileSync(path.join(root, '.clang-format'), 'utf8')
const write = process.argv.includes('--write')
const named = process.argv.slice(2).filter((argument) => !argument.startsWith('--'))

const all = folders.flatMap((folder) =>
  readdirSync(path.join(root, folder), { recursive: true, encoding: 'utf8' })
    .filter((file) => /\.(cpp|h|cu|cuh)$/.test(file))
    .map((file) => path.join(folder, file)),
)
const files = named.length > 0 ? named.map((file) => path.relative(root, path.resolve(file))) : all

let wrong = 0
for (const file of files) {
  const text = readFileSync(path.join(root, file), 'utf8')
  const formatted = format(text, file.replace(/\.cuh?$/, '.cpp'), style)
  if (formatted === text) continue
  if (write) {
    writeFileSync(path.join(root, file), formatted)
    continue
  }
  const lines = text.split('\n')
  const line = formatted.split('\n').findIndex((wanted, i) => wanted !== lines[i])
  console.error(`${file}:${line + 1}: not as .clang-format has it`)
  wrong++
}
if (wrong > 0) console.error(`${wrong} of ${files.length} files; "npm run format" writes them`)
process.exit(wrong > 0 ? 1 : 0)

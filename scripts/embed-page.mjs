#!/usr/bin/env node
// Puts script and style of the report page into a module, so that the page is whole wherever the package is bundled to.
//
//   node scripts/embed-page.mjs            writes lib/evaluate/report/page-assets.ts; part of every build
//   node scripts/embed-page.mjs --check    fails if it is not what the files say
import { readFileSync, writeFileSync } from 'node:fs'

const report = new URL('../lib/evaluate/report/', import.meta.url)
const target = new URL('page-assets.ts', report)
const read = (name) => readFileSync(new URL(`page/${name}`, report), 'utf8')

/** Of the module: script and style of the page. */
export function pageAssets() {
  const line = (name, file) => `/** ${file} */\nexport const ${name}: string = ${JSON.stringify(read(file))}\n`
  const head = '// Made by scripts/embed-page.mjs from the files in page/; change those.\n\n'
  return `${head}${line('pageScript', 'script.js')}\n${line('pageStyle', 'style.css')}`
}

if (process.argv[1] === new URL(import.meta.url).pathname) {
  if (!process.argv.includes('--check')) writeFileSync(target, pageAssets())
  else if (readFileSync(target, 'utf8') !== pageAssets()) {
    process.stderr.write(
      'lib/evaluate/report/page-assets.ts is not what page/ says; run node scripts/embed-page.mjs.\n',
    )
    process.exitCode = 1
  }
}

#!/usr/bin/env node
// Puts script and style of the report pages into modules, so that a page is whole wherever the package is bundled to.
//
//   node scripts/embed-page.mjs            writes page-assets.ts beside each page/; part of every build
//   node scripts/embed-page.mjs --check    fails if one is not what the files say
import { readFileSync, writeFileSync } from 'node:fs'

const reports = ['lib/evaluate/report/', 'lib/train/report/']

/** Of the module: script and style of the page. */
export function pageAssets(report = reports[0]) {
  const read = (name) => readFileSync(new URL(`../${report}page/${name}`, import.meta.url), 'utf8')
  const line = (name, file) => `/** ${file} */\nexport const ${name}: string = ${JSON.stringify(read(file))}\n`
  const head = '// Made by scripts/embed-page.mjs from the files in page/; change those.\n\n'
  return `${head}${line('pageScript', 'script.js')}\n${line('pageStyle', 'style.css')}`
}

if (process.argv[1] === new URL(import.meta.url).pathname) {
  for (const report of reports) {
    const target = new URL(`../${report}page-assets.ts`, import.meta.url)
    if (!process.argv.includes('--check')) writeFileSync(target, pageAssets(report))
    else if (readFileSync(target, 'utf8') !== pageAssets(report)) {
      process.stderr.write(`${report}page-assets.ts is not what page/ says; run node scripts/embed-page.mjs.\n`)
      process.exitCode = 1
    }
  }
}

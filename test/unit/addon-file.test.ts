/** Why the addon cannot be used, said so that somebody can act on it: a sentence for each case, and no crash for a damaged file. */
import { spawnSync } from 'node:child_process'
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { addonFiles, buildCommand, damageOf, isBundled, thisHost, whyMissing, whyUnfit } from '../../lib/addon-file.ts'
import { packageRoot } from '../../lib/native.ts'

const scratch = mkdtempSync(path.join(os.tmpdir(), 'drivlm-addon-'))
afterAll(() => rmSync(scratch, { recursive: true, force: true }))
const glibc = { platform: 'linux', arch: 'x64', glibc: '2.36' }
const built = path.join(packageRoot, 'build', 'Release', 'drivlm.node')

/** A copy of the package in an application's folder, as far as its places go. */
function installed(...parts: string[]): string {
  const root = path.join(scratch, ...parts, 'node_modules', 'drivlm')
  mkdirSync(root, { recursive: true })
  writeFileSync(path.join(root, 'package.json'), '{ "name": "drivlm" }')
  return root
}

/** The head of an ELF file for another machine, as long as it says. */
function elf(name: string, machine: number): string {
  const bytes = Buffer.alloc(64)
  bytes.writeUInt32BE(0x7f454c46, 0)
  bytes.set([2, 1, 1], 4)
  bytes.writeUInt16LE(machine, 18)
  const file = path.join(scratch, name)
  writeFileSync(file, bytes)
  return file
}

test('this process is found out about', () => {
  expect(thisHost()).toEqual({ platform: 'linux', arch: process.arch, glibc: expect.stringMatching(/^2\.\d+$/) })
  expect(isBundled(packageRoot)).toBe(false)
  expect(isBundled(scratch)).toBe(true)
})

test('own builds come before shipped ones, and those are for two platforms', () => {
  const names = (platform: string, arch: string) => addonFiles('/p', { platform, arch })
  expect(names('linux', 'arm64')).toEqual([
    '/p/build/Release/drivlm.node',
    '/p/prebuilds/linux-arm64/drivlm.glibc.node',
  ])
  expect(names('linux', 'riscv64')).toEqual(['/p/build/Release/drivlm.node'])
  expect(names('darwin', 'arm64')).toHaveLength(1)
})

describe('there is none', () => {
  const root = installed('none')
  test.each([
    ['macOS', { platform: 'darwin', arch: 'arm64', glibc: undefined }, /macOS \(darwin-arm64\).*runs on Linux/],
    ['Windows', { platform: 'win32', arch: 'x64', glibc: undefined }, /Windows \(win32-x64\).*WSL2/],
    ['FreeBSD', { platform: 'freebsd', arch: 'x64', glibc: undefined }, /for freebsd \(freebsd-x64\)/],
    ['musl', { platform: 'linux', arch: 'x64', glibc: undefined }, /musl, as Alpine\).*node:22-slim/],
    [
      'RISC-V',
      { ...glibc, arch: 'riscv64' },
      /for linux-riscv64, only for linux-x64 and linux-arm64. `npx drivlm build`/,
    ],
    [
      'a copy without it',
      glibc,
      /neither build\/Release\/drivlm.node nor prebuilds\/linux-x64\/.*`npx drivlm build`.*cmake/,
    ],
  ])('%s', (_, host, sentence) => expect(whyMissing(root, host)).toMatch(sentence))
})

describe('it does not load', () => {
  const root = installed('unfit')
  const shipped = path.join(root, 'prebuilds', 'linux-x64', 'drivlm.glibc.node')
  const own = path.join(root, 'build', 'Release', 'drivlm.node')
  for (const file of [shipped, own]) {
    mkdirSync(path.dirname(file), { recursive: true })
    copyFileSync(elf('x64', 62), file)
  }
  const old = "/lib/libm.so.6: version `GLIBC_2.29' not found (required by …)"

  test('with an older C library', () => {
    const host = { ...glibc, glibc: '2.28' }
    expect(whyUnfit(root, shipped, old, host)).toMatch(
      /needs glibc 2\.29, and this system has glibc 2\.28.*`npx drivlm build` builds one for this machine/,
    )
    expect(whyUnfit(root, own, old, host)).toMatch(/built where that is there/)
  })

  test('with another C library', () => {
    const reason = 'Error loading shared library ld-linux-x86-64.so.2: No such file or directory'
    expect(whyUnfit(root, shipped, reason, { ...glibc, glibc: undefined })).toMatch(/musl, as Alpine/)
  })

  test('on another machine', () => {
    const host = { ...glibc, arch: 'arm64' }
    expect(whyUnfit(root, own, 'invalid ELF header', host)).toMatch(/was built for x64, and this Node is for arm64/)
    expect(whyUnfit(root, elf('riscv', 243), '', glibc)).toMatch(/another machine \(ELF 243\)/)
  })

  test('for a reason of the loader', () => {
    expect(whyUnfit(root, own, 'undefined symbol: x', glibc)).toMatch(/\(undefined symbol: x\).*prebuilt one is taken/)
    expect(whyUnfit(root, shipped, 'undefined symbol: x', glibc)).toMatch(/\(undefined symbol: x\).*npx drivlm build/)
  })

  test('since it is damaged, and the process lives', () => {
    expect(damageOf(built)).toBeUndefined()
    const { length } = readFileSync(built)
    for (const size of [0, 10, 63, 64, 4096, 200_000, length >> 1, length - 1]) {
      const file = path.join(scratch, `cut-${size}.node`)
      copyFileSync(built, file)
      truncateSync(file, size)
      expect(damageOf(file), `${size}`).toMatch(/ELF file|has \d+ bytes where/)
      const code = `import('${packageRoot}/dist/native.js').then(({ loadAddon }) => loadAddon()).catch((e) => console.log(e.code, e.message))`
      const env = { ...process.env, DRIVLM_ADDON: file }
      const { status, stdout } = spawnSync(process.execPath, ['-e', code], { env, encoding: 'utf8' })
      expect({ status, stdout }).toEqual({
        status: 0,
        stdout: expect.stringMatching(/^DEVICE_UNAVAILABLE DRIVLM_ADDON/),
      })
    }
    writeFileSync(shipped, 'version https://git-lfs.github.com/spec/v1\n')
    expect(whyUnfit(root, shipped, '', glibc)).toMatch(
      /is no ELF file \(43 bytes\). Remove the folder.*install it again/,
    )
  })
})

test('the command that builds it is the one of the package manager in use', () => {
  expect(buildCommand(packageRoot)).toBe('npm run build:native')
  const npm = installed('npm')
  expect(buildCommand(npm, {})).toBe('npx drivlm build')
  expect(buildCommand(npm, { npm_config_user_agent: 'yarn/1.22.22 npm/? node/v20' })).toBe('yarn drivlm build')
  expect(buildCommand(installed('pnpm', 'node_modules', '.pnpm', 'drivlm@0.1.0'), {})).toBe('pnpm exec drivlm build')
  expect(buildCommand(installed('pnp', '.yarn', 'unplugged', 'drivlm-npm-0.1.0'), {})).toBe('yarn drivlm build')
  for (const [name, file] of [
    ['yarn1', '.yarn-integrity'],
    ['yarn4', '.yarn-state.yml'],
  ] as const) {
    const root = installed(name)
    writeFileSync(path.join(root, '..', file), '')
    expect(buildCommand(root, {})).toBe('yarn drivlm build')
  }
})

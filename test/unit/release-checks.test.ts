/** What stands between a build and a release: the checks of prebuilt addons and of the reference. */
import { spawnSync } from 'node:child_process'
import { chmodSync, copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { sentences } from '../../scripts/docs/sentences.mjs'

const root = path.resolve(import.meta.dirname, '../..')
const scratch = mkdtempSync(path.join(os.tmpdir(), 'drivlm-release-'))
afterAll(() => rmSync(scratch, { recursive: true, force: true }))
const other = process.arch === 'x64' ? 'arm64' : 'x64'
const own = process.env.DRIVLM_ADDON ?? path.join(root, 'build/Release/drivlm.node')

test('a build for another processor is refused when the compiler in force makes this one', () => {
  const done = path.join(scratch, 'cmake')
  writeFileSync(done, '#!/bin/sh\n') // in place of CMake: it "builds" what is there already
  chmodSync(done, 0o755)
  const folder = path.join(scratch, 'addon')
  mkdirSync(folder)
  copyFileSync(own, path.join(folder, 'drivlm.node'))
  const build = (arch: string) =>
    spawnSync(process.execPath, ['scripts/build-native.mjs', `--out=${scratch}/build`, `--arch=${arch}`], {
      cwd: root,
      encoding: 'utf8',
      env: { ...process.env, CMAKE: done, DRIVLM_ADDON_DIR: folder },
    })
  expect(build(process.arch)).toMatchObject({ status: 0, stderr: '' })
  const { status, stderr } = build(other)
  expect(status).toBe(1)
  expect(stderr).toMatch(`an addon for ${other} was asked for, and the compiler in force made one for ${process.arch}`)
})

test('an addon is not shipped for another processor, nor with what this one needs', () => {
  const { status, stderr } = spawnSync(process.execPath, ['scripts/prebuild/check.mjs', other, own], {
    cwd: root,
    encoding: 'utf8',
  })
  expect(status).toBe(1)
  expect(stderr).toMatch(/is not fit to be shipped:\n {2}it was built for /)
})

test('every package that is fetched is pinned by version and hash', () => {
  const lines = readFileSync(path.join(root, 'scripts/prebuild/packages.txt'), 'utf8').trim().split('\n')
  const rows = lines.filter((line) => !line.startsWith('#'))
  expect(rows.length).toBeGreaterThan(10)
  for (const row of rows) expect(row).toMatch(/^(sysroot|cuda|run) +\w+ +(amd64|arm64) +\S+ +\d\S* +[0-9a-f]{64}$/)
})

test('the reference tells exports and members without a sentence', () => {
  const comment = { summary: [{ kind: 'text', text: 'What it is.' }] }
  const called = (name: string, more = {}) => ({ name, kind: 2048, signatures: [{ name, ...more }] })
  const reference = {
    children: [
      {
        name: 'index',
        children: [
          { name: 'Told', kind: 128, comment, children: [called('told', { comment }), called('untold')] },
          { name: 'Plain', kind: 256, children: [{ name: 'field', kind: 1024 }, called('[iterator]')] },
          { name: 'getter', kind: 128, comment, children: [{ name: 'got', kind: 262144, getSignature: { comment } }] },
          { name: 'Told', variant: 'reference' },
          { name: 'blank', kind: 64, signatures: [{ comment: { summary: [{ kind: 'text', text: ' ' }] } }] },
        ],
      },
    ],
  }
  expect(sentences(reference)).toEqual({
    passed: 4,
    without: ['index: Told.untold', 'index: Plain', 'index: Plain.field', 'index: blank'],
  })
})

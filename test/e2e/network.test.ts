// The network alone in C++, and its gradients (drivlm_network_test, which `npm test` builds): right on the fixtures, wrong on damaged ones.
import { spawnSync } from 'node:child_process'
import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'

const root = path.resolve(import.meta.dirname, '..', '..')
const binary = path.join(root, '.cmake-build', 'drivlm_network_test')
const goldens = path.join(root, 'test', 'fixtures', 'golden')
const dir = mkdtempSync(path.join(os.tmpdir(), 'drivlm-network-test-'))
afterAll(() => rmSync(dir, { recursive: true, force: true }))

/** Dumps of folders, written as `npm test` writes them. */
function dump(folders: string[], out: string): string[] {
  const script = path.join(root, 'scripts', 'dump-network.mjs')
  const { status, stdout, stderr } = spawnSync(process.execPath, [script, ...folders, out], { encoding: 'utf8' })
  expect(status, stderr).toBe(0)
  return stdout.trim().split('\n')
}

const check = (files: string[]) => spawnSync(binary, files, { encoding: 'utf8' })

describe.skipIf(!existsSync(binary))('the network without engine, addon and Node', () => {
  it('gives every stored stage of the fixtures', () => {
    const files = dump(
      readdirSync(goldens).map((name) => path.join(goldens, name)),
      path.join(dir, 'whole'),
    )
    const { status, stdout } = check(files)
    expect(stdout).toMatch(/^network: \d{3} passed, 0 failed\n$/)
    expect(status).toBe(0)
  })

  it('says so when a stored value, a weight or a description differs', () => {
    const copy = path.join(dir, 'b2-internlm2-ntk')
    cpSync(path.join(goldens, 'b2-internlm2-ntk'), copy, { recursive: true })
    const file = dump([copy], path.join(dir, 'changed'))[0]!
    const bytes = readFileSync(file)
    const [, offset] = /^array c1\.expect\.llm\.layer0 f32 2 \d+ \d+ (\d+)$/m.exec(bytes.toString('latin1'))!
    const [, start] = /^data (\d+)$/m.exec(bytes.toString('latin1'))!
    const at = Number(start) + Number(offset)
    bytes.writeFloatLE(bytes.readFloatLE(at) + 0.01, at)
    writeFileSync(file, bytes)
    const changed = check([file])
    expect(changed.stdout).toMatch(/FAIL b2-internlm2-ntk\.dump c1 llm\.layer0 .*\nnetwork: \d+ passed, 1 failed\n$/)
    expect(changed.status).toBe(1)

    const other = bytes.toString('latin1').replace(/^language\.rope\.theta \d+$/m, (line) => line.replace(/ \d/, ' 9'))
    writeFileSync(file, Buffer.from(other, 'latin1'))
    expect(check([file]).stdout).toMatch(/FAIL .* t0 logits/)

    const weights = path.join(copy, 'model.safetensors')
    const stored = readFileSync(weights)
    stored.fill(0xff, stored.length - 64) // NaN
    writeFileSync(weights, stored)
    expect(check([file]).status).toBe(1)
  })

  it('gives loss and every gradient of the training goldens, and says so when one differs', () => {
    const script = path.join(root, 'scripts', 'dump-training.mjs')
    const fixtures = path.join(root, 'test', 'fixtures')
    const args = [script, path.join(fixtures, 'training'), path.join(fixtures, 'golden'), path.join(dir, 'training')]
    const { stdout: file, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8' })
    expect(file.trim(), stderr).toMatch(/e1-qwen3\.training\.dump$/)
    const right = check([file.trim()])
    expect(right.stdout).toMatch(/^network: \d{3} passed, 0 failed\n$/)
    const bytes = readFileSync(file.trim())
    const text = bytes.toString('latin1')
    const [, offset] = /^array text\.grad\.language_model\.model\.norm\.weight\.val f32 1 \d+ (\d+)$/m.exec(text)!
    const at = Number(/^data (\d+)$/m.exec(text)![1]) + Number(offset)
    for (let i = 0; i < 8; i++) bytes.writeFloatLE(1.01 * bytes.readFloatLE(at + 4 * i), at + 4 * i)
    writeFileSync(file.trim(), bytes)
    expect(check([file.trim()]).stdout).toMatch(
      /FAIL .* text d language_model\.model\.norm\.weight .*\nnetwork: \d+ passed, 1 failed\n$/,
    )
  })

  it('fails on nothing', () => {
    expect(check([]).status).toBe(1)
    expect(check([path.join(dir, 'absent.dump')]).stdout).toContain('no dump of a network')
  })
})

/** Killed at any moment, nothing half-done is taken for whole: moments that are drawn, weights that are kept. Runs of eval have tests of their own. */
import { spawn } from 'node:child_process'
import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { drivlm } from './run.ts'

let dir: string
beforeAll(() => {
  dir = mkdtempSync(path.join(os.tmpdir(), 'drivlm-kills-'))
})
afterAll(() => rmSync(dir, { recursive: true, force: true }))

/** Runs a command and kills it after a time, if it has not ended. Returns whether it was killed. */
async function killedAfter(ms: number, args: readonly string[]): Promise<boolean> {
  const child = spawn(process.execPath, ['dist/cli/main.js', ...args], { stdio: 'ignore' })
  const ended = new Promise<void>((resolve) => child.on('close', () => resolve()))
  await Promise.race([ended, sleep(ms)])
  const killed = child.exitCode === null && child.kill('SIGKILL')
  await ended
  return killed
}

describe('kill -9 at random moments', () => {
  it('leaves drawn moments whole or not there, and the next run clears away', { timeout: 180_000 }, async () => {
    const flags = ['--scenes', '25', '--seed', '3', '--size', '56']
    const whole = path.join(dir, 'whole')
    const start = performance.now()
    expect((await drivlm(['street', ...flags, '--out', whole])).code).toBe(0)
    const took = performance.now() - start
    const out = path.join(dir, 'drawn')
    const isWhole = () =>
      expect(readFileSync(path.join(out, 'drivelm.json'))).toEqual(readFileSync(path.join(whole, 'drivelm.json')))
    // A machine may be faster or slower than at the first run, so kills are counted, and a run that ended first is taken back.
    let kills = 0
    for (let t = 0; t < 100 && kills < 5; t++) {
      if (await killedAfter(Math.random() * took, ['street', ...flags, '--out', out])) kills++
      if (!existsSync(out)) continue
      isWhole()
      rmSync(out, { recursive: true })
    }
    expect(kills).toBe(5)
    expect((await drivlm(['street', ...flags, '--out', out])).code).toBe(0)
    isWhole()
    expect(readdirSync(dir).sort()).toEqual(['drawn', 'whole'])
  })

  it('leaves weights that are kept usable or made anew', { timeout: 180_000 }, async () => {
    const model = path.join(dir, 'model')
    cpSync('models/street-tiny', model, { recursive: true })
    const ask = ['ask', '-m', model, '--views', 'models/street-tiny/moments/dusk', '--weights', 'int8', '--cache']
    const question = 'Which camera sees the cyclist?'
    for (let t = 0; t < 6; t++) {
      await killedAfter(50 + Math.random() * 700, [...ask, question])
      const { code, stdout } = await drivlm([...ask, question])
      expect({ code, stdout }).toEqual({ code: 0, stdout: 'CAM_FRONT_LEFT.\n' })
      if (t < 5) rmSync(path.join(model, 'drivlm-int8.cache'))
    }
    expect(readdirSync(model).filter((name) => name.includes('cache'))).toEqual(['drivlm-int8.cache'])
  })
})

import { readdirSync } from 'node:fs'
import { expect, it } from 'vitest'
import { run } from './run.ts'

/** What each example must print. */
const expected: Record<string, RegExp> = {
  'ask.mjs': /^Red\.\n96 image tokens, first word after \d+ ms\n$/,
  'frames.mjs': /^CAM_FRONT_LEFT\.\nBAD_VIEW: CAM_BACK is missing.*\nRed\.\n$/,
  'latency.mjs':
    /^\| drivlm.*\| latency +\|\n\|-+\|-+\|\n\| model +\| street-tiny, .*\n(\| .+ \| .+ \|\n)*\| tokens a second, after \d+ +\| \d+\.\d +\|\n(\| memory .+ \| \d+ MiB +\|\n){2}$/,
  'scene.mjs': /^6 tiles seen in \d+ ms\n.*It is raining\.\n.*Three\.\n.*Red\.\n$/,
  'stream.mjs': /^Keep going at the same speed\.\n\(stop, \d+ ms\)\n$/,
}

/** Run by tests of their own. */
const elsewhere = ['control-loop.mjs', 'live.mjs', 'log.mjs']

it('knows every example', () => {
  const known = [...Object.keys(expected), ...elsewhere].sort()
  expect(readdirSync('examples').filter((name) => name.endsWith('.mjs'))).toEqual(known)
})

it.each(Object.entries(expected))('examples/%s', async (name, output) => {
  const { code, stdout, stderr } = await run([`examples/${name}`])
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
  expect(stdout).toMatch(output)
})

// Logs with random damage: test/mutations.mjs with few of them. By hand it has more: node test/mutations.mjs --count 100000
import { expect, it } from 'vitest'
import { run } from './run.ts'

it('ends in a typed error or a note, whatever is flipped, cut, doubled or overwritten', async () => {
  const ran = await run(['test/mutations.mjs', '--count', process.env.DRIVLM_LOG_MUTATIONS ?? '60'])
  expect(ran).toMatchObject({ code: 0, stderr: '' })
  for (const name of ['mcap', 'bag', 'db3', 'cdr', 'ros1', 'protobuf', 'json']) {
    expect(ran.stdout).toMatch(new RegExp(`^${name}: \\d+ mutations`, 'm'))
  }
})

import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { commit, HubServer } from '../unit/hub-server.ts'
import { drivlm } from './run.ts'

const tiny = 'models/street-tiny'
const question = ['--views', `${tiny}/moments/dusk`, 'Which camera sees the cyclist?']
let server: HubServer
let cache: string
let env: Record<string, string>

beforeAll(async () => {
  const names = ['config.json', 'drivlm.json', 'generation_config.json', 'preprocessor_config.json', 'tokenizer.json']
  const all = [...names, 'special_tokens_map.json', 'tokenizer_config.json', 'model.safetensors', 'README.md']
  server = await new HubServer(
    Object.fromEntries(all.map((file) => [file, readFileSync(path.join(tiny, file))])),
  ).start()
  cache = mkdtempSync(path.join(os.tmpdir(), 'drivlm-pull-'))
  env = { HF_HUB_CACHE: cache, HF_ENDPOINT: server.endpoint, HF_TOKEN: '' }
})

afterAll(async () => {
  await server.stop()
  rmSync(cache, { recursive: true })
})

describe('a model by name', () => {
  it('is not fetched by surprise', async () => {
    const { code, stderr } = await drivlm(['ask', '-m', 'org/model', ...question], { env })
    expect(code).toBe(1)
    expect(stderr).toMatch(
      /^ModelError \[BAD_CHECKPOINT\] org\/model: there is no such folder .* `npx drivlm pull org\/model`/,
    )
    expect(server.seen).toEqual([])
  })

  it('says how much it is, and fetches nothing on a dry run', async () => {
    const { code, stdout, stderr } = await drivlm(['pull', 'org/model', '--dry-run'], { env })
    expect({ code, stderr }).toEqual({
      code: 0,
      stderr: `org/model@main (commit ${commit.slice(0, 12)}): 8 of 8 files, 6.3 MiB from ${new URL(server.endpoint).host} to ${cache}.\n`,
    })
    expect(stdout).toMatch(/^ +6\.2 MiB {2}model\.safetensors$/m)
    expect((await drivlm(['models'], { env })).stdout).toMatch(/^There are no models in /)
  })

  it('is fetched with --yes, then asked without a request', async () => {
    const first = await drivlm(['ask', '-m', 'org/model', '--yes', ...question], { env })
    expect(first).toMatchObject({ code: 0, stdout: 'CAM_FRONT_LEFT.\n' })
    expect(first.stderr).toMatch(/8 of 8 files, 6\.3 MiB/)
    server.seen = []
    expect(await drivlm(['ask', '-m', 'org/model@main', ...question], { env })).toEqual({
      code: 0,
      stdout: 'CAM_FRONT_LEFT.\n',
      stderr: '',
    })
    const inspected = JSON.parse((await drivlm(['inspect', 'org/model', '--json'], { env })).stdout)
    expect(inspected).toMatchObject({ name: 'model', problems: [] })
    expect(server.seen).toEqual([])
  })

  it('is listed and pulled again', async () => {
    const { stdout } = await drivlm(['models'], { env })
    expect(stdout).toMatch(
      new RegExp(`^org/model {2}6\\.3 MiB\n {2}commit {2}${commit} \\(main\\)\n {2}family {2}internvl`),
    )
    const told = JSON.parse((await drivlm(['models', '--json'], { env })).stdout)
    expect(told).toMatchObject({ cacheDir: cache, models: [{ repository: 'org/model', commit, missing: [] }] })
    const again = await drivlm(['pull', 'org/model', '--revision', commit, '--json'], { env })
    expect(JSON.parse(again.stdout)).toMatchObject({ commit, fetchedBytes: 0 })
    expect((await drivlm(['pull', '../model'], { env })).stderr).toMatch(/Expected the name of a model/)
  })
})

import { execFile, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, symlinkSync } from 'node:fs'
import { createServer as createHttpServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { bundledModel, loadModel, type Model } from '../../lib/index.ts'
import { createServer } from '../../lib/serve/server.ts'
import { drivlm } from './run.ts'

describe('drivlm serve', () => {
  it('says where it listens, answers, and ends well on SIGTERM', async () => {
    let health: Promise<unknown> | undefined
    const onStdout = (text: string, kill: (signal: NodeJS.Signals) => void) => {
      const url = / on (http:\S+)\n/.exec(text)?.[1]
      if (url === undefined || health !== undefined) return
      health = fetch(`${url}/healthz`)
        .then((response) => response.json())
        .finally(() => kill('SIGTERM'))
    }
    const { code, stderr } = await drivlm(['serve', '--port', '0', '--max-context', '1024'], { onStdout })
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    expect(await health).toEqual({ status: 'ok', model: 'street-tiny' })
  })

  it('says which port it cannot have', async () => {
    const other = createHttpServer().listen(0, '127.0.0.1')
    await once(other, 'listening')
    const { port } = other.address() as AddressInfo
    const { code, stderr } = await drivlm(['serve', '--port', String(port)]).finally(() => other.close())
    expect(code).toBe(1)
    expect(stderr).toBe(
      `ModelError [BAD_ARGUMENT] Port ${port} of 127.0.0.1 cannot be served on (EADDRINUSE); give another.\n`,
    )
  })

  it('takes no time that is longer than a timer can be set to, which would be at once', async () => {
    const { code, stderr } = await drivlm(['serve', '--max-seconds', '10000000'])
    expect(code).toBe(2)
    expect(stderr).toContain('Expected a whole number of at least 1 and at most 86400.')
  })

  it('opens no door without a token', async () => {
    const { code, stderr } = await drivlm(['serve', '--host', '0.0.0.0', '--port', '0'], { env: { DRIVLM_TOKEN: '' } })
    expect(code).toBe(1)
    expect(stderr).toMatch(/ModelError \[BAD_ARGUMENT\] Serving on 0\.0\.0\.0 lets other machines in; give a token/)
  })
})

describe('examples of docs/serving.md', () => {
  const text = readFileSync('docs/serving.md', 'utf8')
  const dir = mkdtempSync(path.join(tmpdir(), 'serving-'))
  let model: Model
  let server: ReturnType<typeof createServer>
  let url: string
  beforeAll(async () => {
    symlinkSync(path.join(bundledModel, 'moments/dusk'), path.join(dir, 'moment'))
    model = await loadModel({ device: 'cpu' })
    server = createServer(model)
    url = await server.listen({ host: '127.0.0.1', port: 0 })
  })
  afterAll(async () => {
    await server.close()
    await model.dispose()
    rmSync(dir, { recursive: true })
  })

  it.each([
    ['python', 'python3', '-c', /^CAM_FRONT_LEFT\.\n\[0\.\d+, 0\.\d+\]\n$/],
    ['sh', 'bash', '-ec', /"text":"CAM_FRONT_LEFT\.",.*data: \{"index":0,"text":.*data: \{"index":0,"answer":/s],
  ])('%s', async (language, program, flag, expected) => {
    const needed = language === 'sh' ? ['bash', 'curl'] : [program]
    const missing = needed.find((name) => spawnSync(name, ['--version']).error !== undefined)
    if (missing !== undefined) return console.warn(`not run: there is no ${missing} here`)
    const blocks = [...text.matchAll(/^```(\w+)\n(.*?)^```/gms)].filter(
      ([, of, code]) => of === language && !/openai/i.test(code!),
    )
    expect(blocks.length).toBe(1)
    const code = blocks[0]![2]!.replaceAll('http://127.0.0.1:8080', url)
    const { stdout, stderr } = await promisify(execFile)(program, [flag, code], { cwd: dir })
    expect({ stdout, stderr }).toEqual({ stdout: expect.stringMatching(expected), stderr: '' })
  })
})

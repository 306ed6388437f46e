import { describe, expect, it } from 'vitest'
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

  it('opens no door without a token', async () => {
    const { code, stderr } = await drivlm(['serve', '--host', '0.0.0.0', '--port', '0'], { env: { DRIVLM_TOKEN: '' } })
    expect(code).toBe(1)
    expect(stderr).toMatch(/ModelError \[BAD_ARGUMENT\] Serving on 0\.0\.0\.0 lets other machines in; give a token/)
  })
})

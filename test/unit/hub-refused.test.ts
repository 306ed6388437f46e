/** What fetch refuses for good, a port or a certificate: said at once, with what to do, and not asked for again. */
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer as createHttpServer, type RequestListener, type Server } from 'node:http'
import { createServer as createHttpsServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import os from 'node:os'
import path from 'node:path'
import { afterAll, afterEach, expect, test } from 'vitest'
import { type HubSettings, hubSettings } from '../../lib/hub/environment.ts'
import type { HubError } from '../../lib/hub/hub-error.ts'
import { planPull } from '../../lib/hub/pull.ts'

/** Made for these tests by `openssl ca -selfsign` for localhost, valid from 2020 to 2120; base64 of DER. */
const selfSigned = {
  key:
    'MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgefLTc9jmx/Bi1tByv6X8GBLUwQ2ixoA8VTdG/BDIDX6hRANCAASj/3KPmncTRf' +
    'Q/mNmlTrmG8SfZEIUK5Ro9QaBm2+55MHNdr2ZdUd4DGo/GpKOgFezVkl0Aet1Zl6+8bfp+U7dr',
  cert:
    'MIIBUDCB9qADAgECAgEBMAoGCCqGSM49BAMCMBQxEjAQBgNVBAMMCWxvY2FsaG9zdDAgFw0yMDAxMDEwMDAwMDBaGA8yMTIwMDEwMTAwMDAwMF' +
    'owFDESMBAGA1UEAwwJbG9jYWxob3N0MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEo/9yj5p3E0X0P5jZpU65hvEn2RCFCuUaPUGgZtvueTBz' +
    'Xa9mXVHeAxqPxqSjoBXs1ZJdAHrdWZevvG36flO3a6M3MDUwFAYDVR0RBA0wC4IJbG9jYWxob3N0MB0GA1UdDgQWBBTVYQFFe1zpHkNBb9XTEK' +
    'FCtdY+sTAKBggqhkjOPQQDAgNJADBGAiEA+KhyfsHRW06Ir/P+7nH9+LiO5vlD3WypUFqn5ysYfZ8CIQCaCc1n8DVGqDUhwKFZIWlDfy2bR3xK' +
    'yBycAM6nGBPnVw==',
}
const pem = (what: string, der: string) => `-----BEGIN ${what}-----\n${der}\n-----END ${what}-----\n`

const folder = mkdtempSync(path.join(os.tmpdir(), 'drivlm-refused-'))
let server: Server | undefined
let attempts = 0

afterAll(() => rmSync(folder, { recursive: true, force: true }))
afterEach(async () => {
  if (server === undefined) return
  server.closeAllConnections()
  server.close()
  await once(server, 'close')
  server = undefined
})

async function listen(made: Server): Promise<number> {
  server = made.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return (server.address() as AddressInfo).port
}

/** What a pull ends with; every request is counted. */
async function failure(endpoint: string, fetch: HubSettings['fetch'] = globalThis.fetch): Promise<HubError> {
  attempts = 0
  const counting: HubSettings['fetch'] = (...request) => {
    attempts++
    return fetch(...request)
  }
  const settings = { ...hubSettings({ HF_HUB_CACHE: folder, HF_ENDPOINT: endpoint }), retryMs: 1, fetch: counting }
  const error = await planPull(settings, { repository: 'org/model', revision: 'main' }).then(
    () => undefined,
    (thrown: HubError) => thrown,
  )
  expect(error).toMatchObject({ code: 'DOWNLOAD_FAILED', reason: 'network' })
  return error!
}

test('a port of the block list, as the endpoint', async () => {
  const { message } = await failure('http://127.0.0.1:6666')
  expect(message).toMatch(/127\.0\.0\.1:6666.*\(bad port\).*refuses port 6666.*another one/)
  expect(attempts).toBe(1)
})

test('a port of the block list, behind a redirect', async () => {
  const redirect: RequestListener = (_, response) =>
    response.writeHead(302, { location: 'http://127.0.0.1:6666/x' }).end()
  const port = await listen(createHttpServer(redirect))
  const { message } = await failure(`http://127.0.0.1:${port}`)
  expect(message).toMatch(/^127\.0\.0\.1:6666 .*refuses port 6666/)
  expect(message).not.toContain('HF_ENDPOINT')
  expect(attempts).toBe(2)
})

test('a certificate that nobody vouches for', async () => {
  const sealed = { key: pem('PRIVATE KEY', selfSigned.key), cert: pem('CERTIFICATE', selfSigned.cert) }
  const port = await listen(createHttpsServer(sealed, (_, response) => response.end()))
  const { message } = await failure(`https://localhost:${port}`)
  expect(message).toMatch(/\(DEPTH_ZERO_SELF_SIGNED_CERT\).*NODE_EXTRA_CA_CERTS/)
  expect(attempts).toBe(1)
})

test.each([
  ['SELF_SIGNED_CERT_IN_CHAIN', /NODE_EXTRA_CA_CERTS/],
  ['UNABLE_TO_VERIFY_LEAF_SIGNATURE', /NODE_EXTRA_CA_CERTS/],
  ['UNABLE_TO_GET_ISSUER_CERT_LOCALLY', /NODE_EXTRA_CA_CERTS/],
  ['CERT_HAS_EXPIRED', /expired.*clock/],
  ['CERT_NOT_YET_VALID', /not valid yet.*clock/],
  ['ERR_TLS_CERT_ALTNAME_INVALID', /another name/],
])('%s is said in words of its own, once', async (code, words) => {
  const { message } = await failure('https://hub.test', async () => {
    throw new TypeError('fetch failed', { cause: Object.assign(new Error('certificate'), { code }) })
  })
  expect(message).toMatch(words)
  if (!words.source.includes('NODE_EXTRA')) expect(message).not.toContain('NODE_EXTRA_CA_CERTS')
  expect(attempts).toBe(1)
})

test('another failure, whose words name a certificate, is asked again', async () => {
  const { message } = await failure('https://hub.test', async () => {
    throw new TypeError('fetch failed', {
      cause: Object.assign(new Error('CERT of a bad port'), { code: 'ECONNRESET' }),
    })
  })
  expect(message).toMatch(/ECONNRESET/)
  expect(message).not.toMatch(/certificate|port/)
  expect(attempts).toBe(6)
})

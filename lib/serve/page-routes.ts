/** The page at `/`, and what it shows before anybody asks: what the model is, and moments to try it with. */
import { readFile } from 'node:fs/promises'
import path from 'node:path'
import type { FastifyInstance } from 'fastify'
import type { Model } from '../model.ts'
import { bundledMoments, momentsFolder } from '../moments.ts'
import { isCamera } from '../views/cameras.ts'
import { namesOf } from './chat.ts'
import { RequestError } from './errors.ts'
import { pageIcon, pageMarkup, pageScript, pageStyle } from './page-assets.ts'

const files: Record<string, readonly [type: string, text: string]> = {
  '/': ['text/html; charset=utf-8', pageMarkup],
  '/page.js': ['text/javascript; charset=utf-8', pageScript],
  '/page.css': ['text/css; charset=utf-8', pageStyle],
  '/icon.svg': ['image/svg+xml', pageIcon],
}

/** Paths that need no token: they say nothing of the model, and the page asks for the token itself. */
export const openPaths: ReadonlySet<string> = new Set(['/healthz', ...Object.keys(files)])

/** Pictures that were dropped are `blob:`; all else comes from this server, and no other page may frame this one. */
const policy = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "img-src 'self' blob:",
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join('; ')

/** The files of the page. */
export function addPageRoutes(server: FastifyInstance): void {
  for (const [url, [type, text]] of Object.entries(files)) {
    server.get(url, async (_, reply) => {
      reply.headers({
        'content-security-policy': policy,
        'cross-origin-opener-policy': 'same-origin',
        'cross-origin-resource-policy': 'same-origin',
        'referrer-policy': 'no-referrer',
        'cache-control': 'no-cache',
      })
      return reply.type(type).send(text)
    })
  }
}

/** `/v1/info` and the bundled moments. */
export function addInfoRoutes(server: FastifyInstance, model: Model, limits: object): void {
  server.get('/v1/info', async () => {
    const { parameters, device, precision, weights, layout, cameras, maxContext } = model.info
    return { name: namesOf(model)[0], parameters, device, precision, weights, layout, cameras, maxContext, limits }
  })
  server.get('/v1/moments', async () => {
    const { moments } = await bundledMoments()
    return { moments: moments.map(({ folder, title, questions }) => ({ name: folder, title, questions })) }
  })
  server.get('/v1/moments/:name/:camera', async (request, reply) => {
    const { name, camera } = request.params as { name: string; camera: string }
    const { moments } = await bundledMoments()
    const moment = moments.find(({ folder }) => folder === name) // what was sent never becomes a path
    if (moment === undefined || !isCamera(camera)) {
      throw new RequestError(404, 'not_found', `There is no picture ${name.slice(0, 60)}/${camera.slice(0, 60)}.`)
    }
    return reply.type('image/png').send(await readFile(path.join(momentsFolder, moment.folder, `${camera}.png`)))
  })
}

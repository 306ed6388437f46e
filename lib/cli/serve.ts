/** `drivlm serve`: a model over HTTP, until SIGTERM or Ctrl-C; running answers finish. */
import { ModelError } from '../errors.ts'
import { loadModel } from '../load-model.ts'
import { loadOptions } from '../option-tables.ts'
import { type LoadFlags, noteCache, optionsFrom } from './flags.ts'
import { modelFolder } from './model-folder.ts'
import { print, withProgress } from './terminal.ts'

export interface ServeFlags extends LoadFlags {
  model?: string
  host: string
  port: number
  token?: string
  maxRequests: number
  maxBody: number
  maxPictures: number
  maxSeconds: number
  logs?: boolean
}

export async function serve(flags: ServeFlags): Promise<void> {
  const { createServer } = await import('../serve/server.ts').catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ERR_MODULE_NOT_FOUND') throw error
    const install = 'npm install fastify@5.12.8 prom-client@15.1.3'
    throw new ModelError('BAD_ARGUMENT', `Serving needs two packages that drivlm does not bring along: ${install}`)
  })
  const dir = await modelFolder(flags.model, flags.yes)
  const model = await withProgress('Loading', () => loadModel(dir, { ...optionsFrom(loadOptions, flags), evict: true }))
  noteCache(model)
  try {
    const { host, port, maxRequests, maxPictures, maxSeconds } = flags
    const token = flags.token || process.env.DRIVLM_TOKEN || undefined
    const limits = { maxRequests, maxPictures, maxSeconds, maxBodyBytes: flags.maxBody * 2 ** 20 }
    const server = createServer(model, { host, token, ...limits, logger: flags.logs === true })
    const stopped = new Promise<void>((resolve) => {
      process.once('SIGTERM', resolve).once('SIGINT', resolve)
    })
    const address = await server.listen({ host, port }).catch((error: NodeJS.ErrnoException) => {
      const why = `Port ${port} of ${host} cannot be served on (${error.code ?? error.message}); give another.`
      throw new ModelError('BAD_ARGUMENT', why, { cause: error })
    })
    print(`${model.info.name} on ${address}`)
    await stopped
    await server.close()
  } finally {
    await model.dispose()
  }
}

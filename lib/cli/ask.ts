/** `drivlm ask`: a question about pictures, streamed to the terminal. */
import { readdir } from 'node:fs/promises'
import path from 'node:path'
import type { Answer } from '../answer.ts'
import { ModelError } from '../errors.ts'
import { loadModel } from '../load-model.ts'
import type { Model } from '../model.ts'
import { answerOptions, loadOptions, systemOptions, textOptions, viewOptions } from '../option-tables.ts'
import type { ModelAskOptions } from '../options.ts'
import { type Camera, cameras, camerasOfPath } from '../views/cameras.ts'
import type { NamedViews, Views } from '../views/compose.ts'
import { type LoadFlags, noteCache, optionsFrom } from './flags.ts'
import { modelFolder } from './model-folder.ts'
import { formatMs, print, printable, printJson, withProgress } from './terminal.ts'

export interface AskFlags extends LoadFlags, ModelAskOptions, Partial<Record<CameraKey, string>> {
  model?: string
  views?: string
  image?: string[]
  timings?: boolean
  json?: boolean
}

type CameraKey = 'front' | 'frontLeft' | 'frontRight' | 'back' | 'backLeft' | 'backRight'

const cameraKeys: Record<Camera, CameraKey> = {
  CAM_FRONT: 'front',
  CAM_FRONT_LEFT: 'frontLeft',
  CAM_FRONT_RIGHT: 'frontRight',
  CAM_BACK: 'back',
  CAM_BACK_LEFT: 'backLeft',
  CAM_BACK_RIGHT: 'backRight',
}

export async function ask(question: string, flags: AskFlags): Promise<void> {
  const views = await viewsOf(flags)
  const interrupt = new AbortController()
  const onInterrupt = () => interrupt.abort()
  process.once('SIGINT', onInterrupt)
  try {
    const model = await load(flags, interrupt.signal)
    try {
      noteCache(model)
      await answer(model, views, question, { ...askOptions(flags), signal: interrupt.signal }, flags)
    } finally {
      await model.dispose()
    }
  } catch (error) {
    if (!interrupt.signal.aborted) throw error
    process.exitCode = 130
  } finally {
    process.off('SIGINT', onInterrupt)
  }
}

async function load(flags: AskFlags, signal: AbortSignal): Promise<Model> {
  const name = flags.model === undefined ? 'street-tiny' : path.basename(path.resolve(flags.model))
  const folder = await modelFolder(flags.model, flags.yes)
  return withProgress(`Loading ${name}`, (progress) => {
    const onProgress = ({ doneBytes, totalBytes }: { doneBytes: number; totalBytes: number }) =>
      progress.update(doneBytes / totalBytes)
    return loadModel(folder, { ...optionsFrom(loadOptions, flags), signal, onProgress })
  })
}

async function answer(model: Model, views: Views, question: string, options: ModelAskOptions, flags: AskFlags) {
  const stream = model.stream(views, question, options)
  const pieces = stream[Symbol.asyncIterator]()
  let piece = await withProgress('Looking at the views', () => pieces.next())
  let written = ''
  while (!piece.done) {
    if (!flags.json) process.stdout.write(printable(piece.value))
    written += piece.value
    piece = await pieces.next()
  }
  if (!flags.json && !written.endsWith('\n')) print()
  const result = await stream.answer
  if (flags.json) {
    const { name, device, precision } = model.info
    printJson({ question, ...result, model: { name, device, precision } })
  }
  if (flags.timings) process.stderr.write(`${timingsLine(result)}\n`)
}

function timingsLine({ timings, usage }: Answer): string {
  const stages = [
    ['decode', timings.decodeMs],
    ['preprocess', timings.preprocessMs],
    ['vision', timings.visionMs],
    ['prefill', timings.prefillMs],
    ['generate', timings.generateMs],
  ] as const
  const each = stages.map(([name, ms]) => `${name} ${formatMs(ms)}`).join(', ')
  return `${each}; first token after ${formatMs(timings.firstTokenMs)}, ${usage.promptTokens} + ${usage.answerTokens} tokens`
}

function askOptions(flags: AskFlags): ModelAskOptions {
  return optionsFrom({ ...viewOptions, ...systemOptions, ...answerOptions, ...textOptions }, flags)
}

async function viewsOf(flags: AskFlags): Promise<Views> {
  const named: Partial<Record<Camera, string>> = flags.views === undefined ? {} : await viewsIn(flags.views)
  for (const camera of cameras) {
    const file = flags[cameraKeys[camera]]
    if (file !== undefined) named[camera] = file
  }
  const images = flags.image ?? []
  const count = Object.keys(named).length
  if (count > 0 && images.length > 0) {
    throw new ModelError('BAD_ARGUMENT', 'Give pictures by camera or with --image, not both.')
  }
  if (count > 0) return named satisfies NamedViews
  if (images.length > 0) return images.length === 1 ? images[0]! : images
  throw new ModelError(
    'BAD_ARGUMENT',
    'There are no pictures; give --views with a folder, --front and the other cameras, or --image.',
  )
}

/** Files of a folder that are named after a camera: `CAM_FRONT.jpg`, or nuScenes' `n015-…__CAM_FRONT__….jpg`. */
export async function viewsIn(dir: string): Promise<Partial<Record<Camera, string>>> {
  const names = await readdir(dir).catch((error: NodeJS.ErrnoException) => {
    const reason =
      error.code === 'ENOENT' ? 'does not exist' : error.code === 'ENOTDIR' ? 'is not a folder' : error.code
    throw new ModelError('BAD_VIEW', `--views: ${dir} ${reason}; give a folder of pictures.`, { cause: error })
  })
  const found: Partial<Record<Camera, string>> = {}
  for (const name of names.sort()) {
    if (!/\.(jpe?g|png|webp|tiff?|gif|avif)$/i.test(name)) continue
    const [camera, other] = camerasOfPath(name)
    if (camera === undefined) continue
    if (other !== undefined) {
      throw new ModelError('BAD_VIEW', `--views: ${name} names ${camera} and ${other}; which camera is it of?`)
    }
    if (found[camera] !== undefined) {
      throw new ModelError(
        'BAD_VIEW',
        `--views: ${path.basename(found[camera])} and ${name} are both of ${camera}; leave one picture a camera in ${dir}.`,
      )
    }
    found[camera] = path.join(dir, name)
  }
  if (Object.keys(found).length > 0) return found
  throw new ModelError(
    'BAD_VIEW',
    `--views: ${dir} has no picture that is named after a camera; expected names such as ${cameras[0]}.jpg.`,
  )
}

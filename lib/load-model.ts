/** From a model folder to a model. */
import os from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { bundledAdvice, isBundled } from './addon-file.ts'
import { type Checkpoint, readCheckpoint } from './checkpoint/load-checkpoint.ts'
import { ModelError } from './errors.ts'
import { hubSettings } from './hub/environment.ts'
import { asModelName, resolveModel } from './hub/resolve-model.ts'
import { anySignal, runJob, untilAborted } from './job.ts'
import { Listener } from './listener.ts'
import { describeValue, isRecord } from './messages.ts'
import { Model, warningsOf } from './model.ts'
import {
  loadAddon,
  type NativeAddon,
  type NativeModel,
  type NativeModelOptions,
  type NativeSystem,
  packageRoot,
  toModelError,
} from './native.ts'
import { type LoadOptions, type LoadSettings, loadSettings, throwIfAborted } from './options.ts'
import { type FolderTemplate, templateOfFolder } from './text/chat-template.ts'
import { loadTokenizer } from './text/load-tokenizer.ts'
import { type Template, templateOf, withSystemMessage } from './text/templates.ts'
import type { Tokenizer } from './text/tokenizer.ts'
import type { Room } from './text/tokenizer-files.ts'
import { isUrl } from './views/sources.ts'
import { cacheFile, cacheInfo, weightCachePlace } from './weight-cache.ts'

/** The model inside this package: `street-tiny`, which knows drawn street scenes and nothing else. */
export const bundledModel: string = path.join(packageRoot, 'models', 'street-tiny')

/**
 * Loads a model: reads and checks its folder, maps its weights, and reserves all the memory it will ever use.
 *
 * @param dir - A model folder as downloaded from the hub, or the name of a model in the hub's cache: `org/name`, `org/name@revision`. A path
 *   that exists wins over a name; a name is fetched with `download: true` alone. Without one: {@link bundledModel}.
 * @throws {@link ModelError} `BAD_ARGUMENT`; `BAD_CHECKPOINT`, `BAD_WEIGHTS`, `BAD_TOKENIZER` with the file and what is wrong with it;
 *   `UNSUPPORTED_MODEL`; `DOWNLOAD_FAILED`; `OUT_OF_MEMORY` with what is missing; `DEVICE_UNAVAILABLE`; `ABORTED`.
 *
 * @example
 * const model = await loadModel('models/Mini-InternVL2-1B-DA-DriveLM', {
 *   onProgress: ({ doneBytes, totalBytes }) => console.error(`${Math.round((100 * doneBytes) / totalBytes)} %`),
 * })
 */
export async function loadModel(dir?: string | URL, options?: LoadOptions): Promise<Model>
export async function loadModel(options: LoadOptions): Promise<Model>
export async function loadModel(first?: string | URL | LoadOptions, second: LoadOptions = {}): Promise<Model> {
  const [given, options] = isRecord(first) ? [bundledModel, first as LoadOptions] : [folderOf(first), second]
  const settings = loadSettings(options)
  const { signal, onProgress, tileSize, layout, download, onDownload } = settings
  throwIfAborted(signal)
  const addon = loadAddon()
  if (given === bundledModel && isBundled(packageRoot)) {
    throw new ModelError(
      'BAD_CHECKPOINT',
      `This code of drivlm was bundled into another file, and the model of the package does not lie beside that. ${bundledAdvice}, or name a model's folder.`,
    )
  }
  // A folder has nothing to do with the hub, whatever its variables say.
  const named = (await asModelName(given)) !== undefined
  const dir = named ? await resolveModel(hubSettings(), given, { download, onDownload, signal }) : given
  const begun = performance.now()
  const listener = new Listener(onProgress)
  const unreadable = new AbortController()
  // A thread compares the cache with its checksums while the folder is read here.
  const ahead = settings.cache ? openCache(addon, dir, settings) : 0
  let checkpoint: Checkpoint
  let nativeOptions: NativeModelOptions
  let folderMs: number
  let reading: Promise<NativeModel>
  try {
    checkpoint = await readCheckpoint(dir, {
      ...(tileSize === undefined ? {} : { tileSize }),
      ...(layout === undefined ? {} : { layout }),
    })
    nativeOptions = resolveOptions(addon, checkpoint, settings)
    if (settings.cache) nativeOptions.weightCache = { ...(await weightCachePlace(checkpoint, nativeOptions)), ahead }
    folderMs = performance.now() - begun
    const start = (job: number) => {
      listener.onFailure = () => addon.cancelLoad(job)
      const tell = (doneBytes: number, totalBytes: number) => listener.call({ doneBytes, totalBytes })
      return addon.load(checkpoint, nativeOptions, onProgress && tell, job)
    }
    reading = runJob(anySignal(signal, unreadable.signal), start, (job) => addon.cancelLoad(job))
  } finally {
    addon.closeCache(ahead)
  }
  reading.catch(() => {}) // it is looked at once the tokenizer is there
  // The tokenizer is made here while threads of the addon read the weights.
  const room = (bytes: number) => largeRoom(addon, bytes)
  const text = await readText(checkpoint, settings.cache, room).catch(async (error: unknown) => {
    listener.onFailure = undefined
    unreadable.abort()
    await reading.then((native) => native.dispose()).catch(() => {})
    throw error
  })
  const native = await reading.catch((error: unknown) => {
    listener.throwIfFailed()
    throw error
  })
  listener.onFailure = undefined
  try {
    await untilAborted(listener.settled(), signal)
    listener.throwIfFailed()
    throwIfAborted(signal)
    const { device, maxContext, visionCacheBytes } = nativeOptions
    const { precision, weights, kvCache, maxBatch } = settings
    const activations = nativeOptions.int8Activations ? 'int8' : 'bf16'
    const limits = {
      evictedThrow: settings.evict === 'throw',
      maxQueue: settings.maxQueue ?? Number.POSITIVE_INFINITY,
      maxBatch,
    }
    const { tokenizer, template, tokenizerMs } = text
    const parts = { addon, native, checkpoint, tokenizer, template }
    const automatic = settings.device === 'auto' && device === 'cpu'
    const deviceReason = automatic ? systemOf(addon).cuda.reason : undefined
    const cache = cacheInfo(nativeOptions, native)
    const { weightsMs, cacheMs } = native.loadReport()
    const loading = { folderMs, tokenizerMs, weightsMs, cacheMs, totalMs: performance.now() - begun }
    for (const warning of warningsOf(tokenizer)) process.emitWarning(`${checkpoint.dir}: ${warning}`, 'DrivlmWarning')
    return new Model({
      ...parts,
      device,
      deviceReason,
      precision,
      weights,
      activations,
      kvCache,
      cache,
      loading,
      maxContext,
      visionCacheBytes,
      limits,
    })
  } catch (error) {
    await native.dispose()
    throw error
  }
}

/** 0 where there is no cache, or none that a load could take: what is wrong is told by the load. */
function openCache(addon: NativeAddon, dir: string, settings: LoadSettings): number {
  try {
    const file = cacheFile(path.resolve(dir), { device: pickDevice(addon, settings.device), weights: settings.weights })
    return addon.openCache(file, Math.max(1, threadsOf(settings) - 1))
  } catch {
    return 0
  }
}

const threadsOf = ({ threads }: LoadSettings): number => threads ?? os.availableParallelism()

/** Memory for a file that is looked at right away: small pages cost a virtual machine more time than reading a few megabytes. */
function largeRoom(addon: NativeAddon, bytes: number): Uint8Array {
  const largePage = 2 << 20
  const all = Buffer.allocUnsafeSlow(bytes < largePage ? bytes : bytes + 2 * largePage)
  const begin = addon.largePages(all)
  return all.subarray(begin, begin + bytes)
}

async function readText(
  checkpoint: Checkpoint,
  cache: boolean,
  room: Room,
): Promise<{ tokenizer: Tokenizer; template: Template; tokenizerMs: number }> {
  const begun = performance.now()
  const tokenizer = await loadTokenizer(checkpoint.dir, { cache, room })
  const { template } = await templateFor(checkpoint, tokenizer)
  checkVocabulary(checkpoint, tokenizer)
  return { tokenizer, template, tokenizerMs: performance.now() - begun }
}

/** The template a folder asks for, with the system message it was trained with, and what was decided from what. */
export async function templateFor(checkpoint: Checkpoint, tokenizer: Tokenizer | undefined): Promise<FolderTemplate> {
  const { template, note } =
    checkpoint.format === 'hf'
      ? await templateOfFolder(checkpoint.chatTemplate, tokenizer)
      : { template: templateOf(checkpoint.template ?? ''), note: 'config.json names it.' }
  const sources = {
    config: checkpoint.layout.systemMessage ?? checkpoint.systemMessage?.text,
    v15: checkpoint.v15,
  }
  return { template: withSystemMessage(template, sources), note }
}

/** As the addon counts them: no limit. */
const mostScenes = 2 ** 30

/** What the addon is asked to reserve. */
export function resolveOptions(addon: NativeAddon, checkpoint: Checkpoint, options: LoadOptions): NativeModelOptions {
  const settings = loadSettings(options)
  const maxContext = settings.maxContext ?? Math.min(checkpoint.maxPositions, 8192)
  if (maxContext > checkpoint.maxPositions) {
    throw new ModelError(
      'BAD_ARGUMENT',
      `Expected up to ${checkpoint.maxPositions} for options.maxContext, the most this model was made for, received ${maxContext}.`,
    )
  }
  const native: NativeModelOptions = {
    device: pickDevice(addon, settings.device),
    precision: settings.precision,
    weights: settings.weights,
    int8Activations: false,
    kvCache: settings.kvCache,
    threads: threadsOf(settings),
    maxContext,
    kvTokens: 2 * maxContext,
    visionCacheBytes: 0,
    maxBatch: settings.maxBatch,
    maxMemoryBytes: settings.maxMemory ?? 0,
    maxScenes: Math.min(settings.maxScenes ?? mostScenes, mostScenes),
    evict: settings.evict !== false,
  }
  native.int8Activations = (settings.activations ?? usualActivations(native)) === 'int8'
  native.visionCacheBytes = settings.visionCache ?? 2 * sceneImageBytes(checkpoint, native)
  if (settings.kvMemory !== undefined) native.kvTokens = kvTokens(addon, checkpoint, native, settings.kvMemory)
  return native
}

/** 8 bits cost nothing beside weights in 4, and make a prompt faster; on a GPU that was not seen. docs/decisions/0041-activations-beside-int4.md */
const usualActivations = ({ weights, device }: NativeModelOptions) =>
  weights === 'int4' && device === 'cpu' ? 'int8' : 'bf16'

/** Image tokens of the largest scene, as the vision cache keeps them. */
function sceneImageBytes({ layout, network }: Checkpoint, { maxContext, precision }: NativeModelOptions): number {
  const { vision, language } = network
  const tileTokens = (vision.tileSize / vision.patchSize / 2) ** 2
  const { canvas } = layout
  const most = Math.floor(maxContext / tileTokens)
  const tiles = canvas === undefined ? most : Math.min(most, canvas.maxTiles + (canvas.thumbnail ? 1 : 0))
  return tiles * tileTokens * language.dim * (precision === 'f32' ? 4 : 2)
}

/** Whole pages in so many bytes. */
function kvTokens(addon: NativeAddon, checkpoint: Checkpoint, native: NativeModelOptions, bytes: number): number {
  try {
    const { kvBytesPerToken, pageTokens } = addon.memoryPlan(checkpoint.network, native, checkpoint.weightsDType)
    const pages = Math.floor(bytes / (kvBytesPerToken * pageTokens))
    if (pages >= 1) return pages * pageTokens
    throw new ModelError(
      'BAD_ARGUMENT',
      `Expected at least ${kvBytesPerToken * pageTokens} for options.kvMemory, the bytes of one page of ${pageTokens} tokens, received ${bytes}.`,
    )
  } catch (error) {
    throw toModelError(error)
  }
}

function systemOf(addon: NativeAddon): NativeSystem {
  try {
    return addon.system()
  } catch (error) {
    throw toModelError(error)
  }
}

function pickDevice(addon: NativeAddon, wanted: string): string {
  if (wanted === 'cpu') return wanted
  const { devices, reason } = systemOf(addon).cuda
  const first = devices.findIndex((one) => one.usable)
  if (wanted === 'auto') return first < 0 ? 'cpu' : `cuda:${first}`
  const index = wanted === 'cuda' ? first : Number(wanted.slice('cuda:'.length))
  if (devices[index]?.usable) return `cuda:${index}`
  const why =
    first < 0
      ? reason
      : `the usable NVIDIA devices are ${devices.flatMap((one, i) => (one.usable ? [`cuda:${i}`] : [])).join(', ')}.`
  throw new ModelError(
    'DEVICE_UNAVAILABLE',
    `Device '${wanted}' was asked for, but ${lowerFirst(why)} To run on the CPU pass { device: 'cpu' }.`,
  )
}

function lowerFirst(sentence: string): string {
  return /^[A-Z][a-z]/.test(sentence) ? sentence[0]!.toLowerCase() + sentence.slice(1) : sentence
}

/**
 * Ids are handed to the embedding. Added tokens may lie past it (`-hf` folders have a `<video>` that was never trained): what uses one is refused
 * by the engine. A vocabulary that does is another model's.
 */
function checkVocabulary(checkpoint: Checkpoint, tokenizer: Tokenizer): void {
  const { imageTokenId } = checkpoint
  const own = tokenizer.idOf('<IMG_CONTEXT>')
  if (imageTokenId !== undefined && own !== imageTokenId) {
    throw new ModelError(
      'BAD_TOKENIZER',
      `config.json: expected image_token_id to be the id of <IMG_CONTEXT>, found ${imageTokenId}; the tokenizer has ${own === undefined ? 'no such token' : own}. The files belong to different models.`,
    )
  }
  for (let id = checkpoint.vocab; id < tokenizer.size; id++) {
    if (tokenizer.addedIds.has(id) || tokenizer.tokenOf(id) === undefined) continue
    throw new ModelError(
      'BAD_TOKENIZER',
      `The tokenizer has ids up to ${tokenizer.size - 1}, the embedding has ${checkpoint.vocab} rows; the files belong to different models.`,
    )
  }
}

function folderOf(given: unknown): string {
  if (given === undefined || given === null) return bundledModel
  if (isUrl(given) && given.protocol === 'file:') return fileURLToPath(given.href)
  if (typeof given === 'string' && given !== '') return given
  throw new ModelError(
    'BAD_ARGUMENT',
    `Expected the path of a model folder, received ${describeValue(given)}; leave it out for the bundled model.`,
  )
}

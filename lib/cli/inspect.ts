/** `drivlm inspect`: what a model folder is, what it will need, and what is missing. */
import { readdir } from 'node:fs/promises'
import path from 'node:path'
import { type Checkpoint, readCheckpoint } from '../checkpoint/load-checkpoint.ts'
import { ModelError } from '../errors.ts'
import { bundledModel, resolveOptions, templateFor } from '../load-model.ts'
import { limitBytes } from '../model.ts'
import {
  loadAddon,
  type NativeAddon,
  type NativeMemoryPlan,
  type NativeModelOptions,
  toModelError,
  type VisionDescription,
} from '../native.ts'
import { loadOptions } from '../option-tables.ts'
import { loadTokenizer } from '../text/load-tokenizer.ts'
import type { Tokenizer } from '../text/tokenizer.ts'
import { tileCount } from '../views/compose.ts'
import { type CardFormat, cardFormats, totalOf } from './doctor-card.ts'
import { type LoadFlags, optionsFrom } from './flags.ts'
import { modelFolder } from './model-folder.ts'
import { formatBytes, formatCount, print, printable, printFields, printJson, styled, withProgress } from './terminal.ts'

export interface InspectFlags extends LoadFlags {
  json?: boolean
}

/** One thing that was looked at: what it is, or why it is not. */
type Found<T> = { ok: true; value: T } | { ok: false; error: ModelError }

export async function inspect(given: string | undefined, flags: InspectFlags): Promise<void> {
  const dir = path.resolve((await modelFolder(given, flags.yes)) ?? bundledModel)
  const checkpoint = await withProgress(`Reading ${dir}`, () => attempt(() => readCheckpoint(dir)))
  const tokenizer = await attempt(() => loadTokenizer(dir))
  const known = tokenizer.ok ? tokenizer.value : undefined
  const template = await attempt(async () => (checkpoint.ok ? templateFor(checkpoint.value, known) : undefined))
  const memory = await attempt(async () => (checkpoint.ok ? planOf(checkpoint.value, flags) : undefined))
  const problems = [checkpoint, tokenizer, template, memory].flatMap((found) => (found.ok ? [] : [found.error]))
  const files = await filesOf(dir)
  if (checkpoint.ok) files.weights = checkpoint.value.files.map((file) => path.basename(file))

  const facts = {
    dir,
    ...(checkpoint.ok ? describeCheckpoint(checkpoint.value) : {}),
    ...(template.ok && template.value
      ? {
          template: template.value.template.name,
          templateWhy: template.value.note,
          systemMessage: template.value.template.systemMessage,
        }
      : {}),
    ...(tokenizer.ok ? { tokenizer: describeTokenizer(tokenizer.value) } : {}),
    ...(memory.ok && memory.value ? { memory: memory.value } : {}),
    files,
    problems: problems.map(({ code, message }) => ({ code, message })),
  }
  if (flags.json) printJson(facts)
  else printReport(facts)
  if (problems.length > 0) process.exitCode = 1
}

function describeTokenizer({ rules, size, warning }: Tokenizer) {
  return { rules, tokens: size, ...(warning === undefined ? {} : { warning }) }
}

async function attempt<T>(work: () => Promise<T>): Promise<Found<T>> {
  try {
    return { ok: true, value: await work() }
  } catch (error) {
    if (error instanceof ModelError) return { ok: false, error }
    throw error
  }
}

function describeCheckpoint(checkpoint: Checkpoint) {
  const { name, family, format, network, parameters, weightsBytes, weightsDType, layout, tiling, maxPositions } =
    checkpoint
  const { vision, projector, language } = network
  return {
    name,
    family,
    format,
    parameters,
    weights: { files: checkpoint.files.length, bytes: weightsBytes, dtype: weightsDType },
    vision: {
      layers: vision.outputLayer,
      dim: vision.dim,
      heads: vision.heads,
      tileSize: vision.tileSize,
      patchSize: vision.patchSize,
      tileTokens: tileTokensOf(vision),
    },
    projector: { shuffle: projector.shuffle },
    language: {
      layers: language.layers,
      dim: language.dim,
      heads: language.heads,
      kvHeads: language.kvHeads,
      headDim: language.headDim,
      vocab: language.vocab,
      rope: language.rope.kind,
      tiedHead: language.tiedHead,
      maxPositions,
    },
    layout,
    tiling,
    notes: checkpoint.notes,
  }
}

function tileTokensOf({ tileSize, patchSize }: VisionDescription): number {
  return (tileSize / patchSize / 2) ** 2
}

interface MemoryReport extends NativeMemoryPlan {
  totalBytes: number
  weights: 'bf16' | 'int8' | 'int4'
  activations: 'bf16' | 'int8'
  kvCache: 'bf16' | 'int8'
  /** What the model takes in each format, with the other options as they are; in precision `f32` there are none. */
  formats: (CardFormat & { totalBytes: number })[]
  /** A page of the KV cache, and the longest sequence. */
  pageBytes: number
  contextBytes: number
  /** Most host memory for image tokens of pictures that were seen before. */
  visionCacheBytes: number
  /** Image tokens of one moment, for a model with a canvas. */
  canvasTokens?: number
  device: string
  precision: string
  maxContext: number
  maxBatch: number
}

function planOf(checkpoint: Checkpoint, flags: InspectFlags): MemoryReport {
  const addon = loadAddon()
  const options: NativeModelOptions = resolveOptions(addon, checkpoint, optionsFrom(loadOptions, flags))
  try {
    const { network, weightsDType } = checkpoint
    const plan = addon.memoryPlan(network, options, weightsDType)
    const { device, precision, maxContext, maxBatch, weights = 'bf16', kvCache = 'bf16' } = options
    const activations: MemoryReport['activations'] = options.int8Activations ? 'int8' : 'bf16'
    const totalBytes = totalOf(plan)
    const formats = (precision === 'bf16' ? cardFormats : []).map((format) => {
      // Activations in 8 bits go with weights in fewer bits only.
      const int8Activations = format.weights !== 'bf16' && options.int8Activations === true
      const other = { ...options, ...format, int8Activations }
      return { ...format, totalBytes: totalOf(addon.memoryPlan(network, other, weightsDType)) }
    })
    const canvasTokens = canvasTokensOf(checkpoint, addon)
    const limits = { ...limitBytes(plan, maxContext), visionCacheBytes: options.visionCacheBytes }
    const tokens = canvasTokens && { canvasTokens }
    const asked = { device, precision, weights, activations, kvCache, maxContext, maxBatch }
    return { ...plan, ...limits, totalBytes, ...tokens, ...asked, formats }
  } catch (error) {
    throw toModelError(error)
  }
}

function canvasTokensOf({ layout: { canvas }, tiling, network: { vision } }: Checkpoint, addon: NativeAddon) {
  if (canvas === undefined) return undefined
  const { columns, rows, cellWidth, cellHeight, maxTiles, thumbnail } = canvas
  const { tileSize, minTiles } = tiling
  const least = Math.min(minTiles, maxTiles)
  const grid = addon.chooseGrid(columns * cellWidth, rows * cellHeight, tileSize, least, maxTiles, thumbnail)
  return tileCount(grid) * tileTokensOf(vision)
}

/** What a folder may hold, and what each file is for. */
const roles: readonly (readonly [string, RegExp])[] = [
  ['config', /^config\.json$/],
  ['weights', /\.safetensors$/],
  ['shard index', /\.safetensors\.index\.json$/],
  ['tokenizer', /^(tokenizer\.(json|model)|vocab\.json|merges\.txt)$/],
  ['added tokens', /^(added_tokens|special_tokens_map|tokenizer_config)\.json$/],
  ['preprocessor', /^(preprocessor|processor)_config\.json$/],
  ['chat template', /^(chat_template\.(json|jinja)|conversation\.py)$/],
  ['generation', /^generation_config\.json$/],
  ['layout of views', /^drivlm\.json$/],
]

async function filesOf(dir: string): Promise<Record<string, string[]>> {
  const names = await readdir(dir).catch(() => [])
  return Object.fromEntries(roles.map(([role, pattern]) => [role, names.filter((name) => pattern.test(name)).sort()]))
}

type Facts = Partial<ReturnType<typeof describeCheckpoint>> & {
  dir: string
  template?: string
  /** Why this template, as a sentence. */
  templateWhy?: string
  systemMessage?: string | undefined
  tokenizer?: ReturnType<typeof describeTokenizer>
  memory?: MemoryReport
  files: Record<string, string[]>
  problems: { code: string; message: string }[]
}

function printReport(facts: Facts): void {
  const { name, family, format, parameters, weights, vision, projector, language, layout } = facts
  print(`${styled('bold', printable(name ?? path.basename(facts.dir)))}  ${styled('dim', printable(facts.dir))}`)
  const fields: [string, string][] = []
  if (family !== undefined && format !== undefined) {
    fields.push(['family', `${family} (${format === 'hf' ? "'-hf' names" : 'remote-code names'})`])
  }
  if (parameters !== undefined && weights !== undefined) {
    const files = `${weights.files} ${weights.files === 1 ? 'file' : 'files'}`
    fields.push(['parameters', formatCount(parameters)])
    fields.push(['weights', `${formatBytes(weights.bytes)} of ${weights.dtype} in ${files}`])
  }
  if (vision !== undefined && projector !== undefined) {
    fields.push([
      'vision',
      `${vision.layers} layers of ${vision.dim}, ${vision.heads} heads; tiles of ${vision.tileSize} px, ` +
        `${vision.tileTokens} tokens a tile (shuffle ${projector.shuffle})`,
    ])
  }
  if (language !== undefined) {
    fields.push([
      'language',
      `${language.layers} layers of ${language.dim}, ${language.heads} heads / ${language.kvHeads} KV of ${language.headDim}; ` +
        `vocabulary ${language.vocab}${language.tiedHead ? ', tied head' : ''}; rope ${language.rope}, ` +
        `up to ${language.maxPositions} tokens`,
    ])
  }
  if (facts.tokenizer !== undefined) {
    fields.push(['tokenizer', `${facts.tokenizer.tokens} tokens, rules of ${facts.tokenizer.rules}`])
    const { warning } = facts.tokenizer
    if (warning !== undefined) fields.push(['', styled('yellow', printable(warning))])
  }
  if (facts.template !== undefined) {
    const system = facts.systemMessage
    fields.push(['template', facts.template])
    if (facts.templateWhy !== undefined) fields.push(['', styled('dim', printable(facts.templateWhy))])
    fields.push(['system message', system === undefined ? 'none' : printable(JSON.stringify(system))])
  }
  if (layout !== undefined) {
    fields.push(['views', layoutText(layout)])
    fields.push(['', styled('dim', printable(layout.why))])
  }
  if (facts.memory?.canvasTokens !== undefined) fields.push(['', `${facts.memory.canvasTokens} image tokens a moment`])
  if (facts.memory !== undefined) fields.push(...memoryFields(facts.memory))
  for (const [i, note] of (facts.notes ?? []).entries()) fields.push([i === 0 ? 'decided' : '', printable(note)])
  if (fields.length > 0) printFields(fields)

  print('\nFiles')
  printFields(
    Object.entries(facts.files).map(([role, names]) => [
      role,
      names.length === 0
        ? styled('dim', 'none')
        : printable(names.length > 4 ? `${names.length} files` : names.join(', ')),
    ]),
  )
  if (facts.problems.length === 0) {
    print(`\n${styled('green', 'Nothing is missing.')}`)
    return
  }
  print(
    `\n${styled('red', facts.problems.length === 1 ? 'It cannot be loaded:' : 'It cannot be loaded, for these reasons:')}`,
  )
  for (const { code, message } of facts.problems) print(`  ModelError [${code}] ${printable(message)}`)
}

function layoutText({ layout, canvas, maxTilesPerImage, tileBudget, cameraNames }: Checkpoint['layout']): string {
  if (canvas !== undefined) {
    const { columns, rows, cellWidth, cellHeight, labels, thumbnail, maxTiles } = canvas
    return (
      `one canvas of ${columns} x ${rows} cells of ${cellWidth} x ${cellHeight}${labels ? ', labelled' : ''}, ` +
      `up to ${maxTiles} tiles${thumbnail ? ' and a thumbnail' : ''}: ${canvas.cameras.join(', ')}`
    )
  }
  if (layout === 'single') return `one picture, up to ${maxTilesPerImage} tiles`
  return (
    `separate images, up to ${maxTilesPerImage} tiles each and ${tileBudget} in all` +
    (cameraNames ? ', camera names in the text' : '')
  )
}

function memoryFields(memory: MemoryReport): [string, string][] {
  const { weightsBytes, kvBytes, arenaBytes, totalBytes, kvBytesPerToken, device, maxContext, maxBatch } = memory
  const { pageBytes, pageTokens, contextBytes, visionCacheBytes } = memory
  return [
    [
      'memory',
      `${formatBytes(totalBytes)} on ${device} in ${formatText(memory)}, context ${maxContext}, batch ${maxBatch}`,
    ],
    [
      '',
      `weights ${formatBytes(weightsBytes)}, KV cache ${formatBytes(kvBytes)} (${formatBytes(kvBytesPerToken)} a token), ` +
        `arena ${formatBytes(arenaBytes)}`,
    ],
    [
      '',
      `${kvBytes / pageBytes} pages of ${pageTokens} tokens (${formatBytes(pageBytes)}); a sequence of ${maxContext} takes ` +
        `${formatBytes(contextBytes)}; vision cache up to ${formatBytes(visionCacheBytes)} more on the host`,
    ],
    ...formatFields(memory),
  ]
}

/** `bf16`, or what differs from it: `int8, activations int8, KV cache int8`. */
function formatText({ precision, weights, activations, kvCache }: MemoryReport): string {
  const parts = [
    weights === 'bf16' ? precision : weights,
    activations === 'int8' && 'activations int8',
    kvCache === 'int8' && 'KV cache int8',
  ]
  return parts.filter(Boolean).join(', ')
}

/** What the model takes by format, and on a GPU what is free for it. */
function formatFields({ formats, freeBytes, device }: MemoryReport): [string, string][] {
  if (formats.length === 0) return []
  const sizes = (cache: CardFormat['kvCache']) =>
    formats
      .filter(({ kvCache }) => kvCache === cache)
      .map(({ weights, totalBytes }) => `${weights} ${formatBytes(totalBytes)}`)
      .join(', ')
  const free = freeBytes === undefined || device === 'cpu' ? '' : `; ${formatBytes(freeBytes)} are free`
  return [['by weights', `${sizes('bf16')}; with a KV cache in int8: ${sizes('int8')}${free}`]]
}

/** Which of the published models a GPU holds, and in which formats: the plan of a load, asked for by `drivlm doctor`. */
import type { NativeAddon, NativeMemoryPlan, NativeModelOptions, NetworkDescription } from '../native.ts'
import { formatBytes } from './terminal.ts'

/** What a model is kept as. */
export interface CardFormat {
  weights: 'bf16' | 'int8' | 'int4'
  kvCache: 'bf16' | 'int8'
}

/** What a GPU holds of one model. */
export interface CardProposal {
  model: string
  /** The formats nearest to the checkpoint's own that fit, and the longest context with them; absent if none does. */
  fits?: CardFormat & { maxContext: number; totalBytes: number }
  /** What the smallest formats take at the shortest context. */
  leastBytes: number
}

/** Plans a load on the GPU. */
export type Planner = (
  network: NetworkDescription,
  options: Pick<NativeModelOptions, 'weights' | 'kvCache' | 'maxContext'>,
) => NativeMemoryPlan

const vision: NetworkDescription['vision'] = {
  dim: 1024,
  layers: 24,
  heads: 16,
  headDim: 64,
  ffnDim: 4096,
  patchSize: 14,
  tileSize: 448,
  positionGrid: 32,
  norm: 'layer',
  normEps: 1e-6,
  qkvBias: true,
  qkNorm: false,
  outputLayer: 24,
  mean: [0.485, 0.456, 0.406],
  std: [0.229, 0.224, 0.225],
}

function networkOf(language: Partial<NetworkDescription['language']>): NetworkDescription {
  const common = { normEps: 1e-6, qkvBias: false, qkNorm: false, tiedHead: false }
  const rope = { kind: 'default', theta: 1e6 } as const
  return {
    vision,
    projector: { normEps: 1e-5, shuffle: 'v2' },
    language: { ...common, rope, ...language } as NetworkDescription['language'],
  }
}

/** Sizes of the Mini-InternVL checkpoints for driving, as their configs have them. */
export const drivingModels: Readonly<Record<string, NetworkDescription>> = {
  '1B': networkOf({
    dim: 896,
    layers: 24,
    heads: 14,
    kvHeads: 2,
    headDim: 64,
    ffnDim: 4864,
    vocab: 151655,
    qkvBias: true,
  }),
  '2B': networkOf({ dim: 2048, layers: 24, heads: 16, kvHeads: 8, headDim: 128, ffnDim: 8192, vocab: 92553 }),
  '4B': networkOf({ dim: 3072, layers: 32, heads: 32, kvHeads: 32, headDim: 96, ffnDim: 8192, vocab: 32020 }),
}

/** From the checkpoint's own to the smallest; a cache in 8 bits costs fewer answers than weights in 4. */
export const cardFormats: readonly CardFormat[] = [
  { weights: 'bf16', kvCache: 'bf16' },
  { weights: 'bf16', kvCache: 'int8' },
  { weights: 'int8', kvCache: 'bf16' },
  { weights: 'int8', kvCache: 'int8' },
  { weights: 'int4', kvCache: 'bf16' },
  { weights: 'int4', kvCache: 'int8' },
]

/** A moment of six cameras is 3328 tokens: 4096 is the least that its questions go with. */
const contexts = [8192, 4096] as const

/** Bytes on the device. */
export function totalOf({ weightsBytes, kvBytes, arenaBytes }: NativeMemoryPlan): number {
  return weightsBytes + kvBytes + arenaBytes
}

/** What a GPU has room for now, of each model. */
export function proposeForCard(plan: Planner): CardProposal[] {
  return Object.entries(drivingModels).map(([model, network]) => {
    const leastBytes = totalOf(plan(network, { ...cardFormats.at(-1)!, maxContext: contexts.at(-1)! }))
    for (const format of cardFormats) {
      for (const maxContext of contexts) {
        const found = plan(network, { ...format, maxContext })
        const totalBytes = totalOf(found)
        if (totalBytes <= (found.freeBytes ?? Number.POSITIVE_INFINITY))
          return { model, fits: { ...format, maxContext, totalBytes }, leastBytes }
      }
    }
    return { model, leastBytes }
  })
}

/** One line a model: `2B: weights int8, KV cache int8, context 8192 (4.1 GiB)`. */
export function cardLines(proposals: readonly CardProposal[]): string[] {
  return proposals.map(({ model, fits, leastBytes }) => {
    if (fits === undefined) return `${model}: needs ${formatBytes(leastBytes)} at least, more than is free`
    const { weights, kvCache, maxContext, totalBytes } = fits
    return `${model}: weights ${weights}, KV cache ${kvCache}, context ${maxContext} (${formatBytes(totalBytes)})`
  })
}

/** Plans loads on one GPU, as `loadModel` with defaults would ask for them. */
export function cardPlanner(addon: Pick<NativeAddon, 'memoryPlan'>, device: string): Planner {
  const common = {
    device,
    precision: 'bf16',
    threads: 1,
    visionCacheBytes: 0,
    maxBatch: 20,
    maxMemoryBytes: 0,
  } as const
  return (network, { maxContext, ...format }) =>
    addon.memoryPlan(
      network,
      { ...common, ...format, maxContext, kvTokens: 2 * maxContext, maxScenes: 1, evict: true },
      'BF16',
    )
}

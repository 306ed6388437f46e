/** `drivlm doctor --deadline`: what to choose so that an answer about six cameras is there in time on this machine, from measured runs. */
import path from 'node:path'
import { loadModel } from '../load-model.ts'
import type { Model } from '../model.ts'
import { packageRoot } from '../native.ts'
import type { LoadOptions } from '../options.ts'
import { cameras } from '../views/cameras.ts'
import type { NamedViews } from '../views/compose.ts'
import { modelFolder } from './model-folder.ts'
import { formatMs, print, withProgress } from './terminal.ts'

/** How a model is run. */
export interface Choice {
  weights: 'bf16' | 'int8' | 'int4'
  activations: 'bf16' | 'int8'
  /** Tiles shared out among separate images; undefined for as many as the layout has. */
  tileBudget: number | undefined
}

/** What a choice took, in milliseconds: its slowest run. */
export interface Measured extends Choice {
  tiles: number
  seeMs: number
  answerMs: number
  totalMs: number
}

/** What meets the deadline, and what comes nearest to it. */
export interface Proposal {
  /** With all tiles: the first of the formats, which stand in the order of what they cost in accuracy. */
  format: Measured | undefined
  /** With the most tiles. */
  tileBudget: Measured | undefined
  fastest: Measured
}

export interface DeadlineReport {
  model: string
  device: string
  deadlineMs: number
  answerTokens: number
  measured: Measured[]
  proposal: Proposal
}

export interface DeadlineFlags {
  deadline: number
  model?: string
  device?: LoadOptions['device']
  maxNewTokens: number
  yes?: boolean
}

const question = 'What are the important objects in the current scene?'
const runs = 3
/** A run this many times slower than wanted is not made again. */
const hopeless = 10
const formats: readonly Pick<Choice, 'weights' | 'activations'>[] = [
  { weights: 'bf16', activations: 'bf16' },
  { weights: 'int8', activations: 'bf16' },
  { weights: 'int8', activations: 'int8' },
  { weights: 'int4', activations: 'bf16' },
  { weights: 'int4', activations: 'int8' },
]

/** Measures formats with all tiles until one is in time; then, if the model as it is was not, tile budgets. */
export async function measureDeadline(flags: DeadlineFlags): Promise<DeadlineReport> {
  const folder = await modelFolder(flags.model, flags.yes)
  const moments = await pictures()
  const measured: Measured[] = []
  let about = { model: '', device: '', budgets: false }
  const inTime = ({ totalMs }: Measured) => totalMs <= flags.deadline
  const within = async (
    format: (typeof formats)[number],
    work: (run: (budget?: number) => Promise<Measured>) => Promise<void>,
  ) => {
    const device = flags.device === undefined ? {} : { device: flags.device }
    const model = await loadModel(folder, { ...format, ...device, visionCache: 0 }) // what was seen before is seen again
    try {
      about = { model: model.info.name, device: model.info.device, budgets: model.info.layout === 'separate' }
      await work(async (tileBudget) => {
        const one = await measure(model, moments, { ...format, tileBudget }, flags)
        measured.push(one)
        return one
      })
    } finally {
      await model.dispose()
    }
  }
  await withProgress('Measuring', async (progress) => {
    for (const [i, format] of formats.entries()) {
      progress.update(i / formats.length, nameOf({ ...format, tileBudget: undefined }))
      await within(format, async (run) => {
        const whole = await run()
        if (i === 0 && about.budgets && !inTime(whole)) await searchBudget(whole.tiles, flags.deadline, run)
      })
      if (inTime(measured.at(-1)!) && measured.at(-1)!.tileBudget === undefined) break
    }
    const { weights, activations, tiles } = propose(
      measured.filter(({ tileBudget }) => tileBudget === undefined),
      0,
    ).fastest
    if (!about.budgets || measured.some(inTime) || weights === 'bf16') return
    progress.update(1, `weights ${weights} with fewer tiles`)
    await within({ weights, activations }, (run) => searchBudget(tiles, flags.deadline, run))
  })
  const { model, device } = about
  const proposal = propose(measured, flags.deadline)
  return { model, device, deadlineMs: flags.deadline, answerTokens: flags.maxNewTokens, measured, proposal }
}

/** Finds the largest number of tiles an image that is in time: by halves, since more tiles take longer. */
export async function searchBudget(
  tiles: number,
  deadline: number,
  run: (budget: number) => Promise<Measured>,
): Promise<void> {
  let [low, high] = [1, Math.ceil(tiles / cameras.length)]
  while (low <= high) {
    const share = (low + high) >> 1
    const { totalMs } = await run(share * cameras.length)
    if (totalMs <= deadline) low = share + 1
    else high = share - 1
  }
}

export function propose(measured: readonly Measured[], deadline: number): Proposal {
  const inTime = measured.filter(({ totalMs }) => totalMs <= deadline)
  const budgets = inTime.filter(({ tileBudget }) => tileBudget !== undefined)
  return {
    format: inTime.find(({ tileBudget }) => tileBudget === undefined),
    tileBudget: budgets.sort((a, b) => b.tiles - a.tiles)[0],
    fastest: measured.reduce((best, one) => (one.totalMs < best.totalMs ? one : best)),
  }
}

/** Three moments of six JPEG files of nuScenes' size. */
async function pictures(): Promise<NamedViews[]> {
  const { default: sharp } = await import('sharp')
  const moment = async (name: string): Promise<NamedViews> => {
    const files = cameras.map(async (camera) => {
      const file = path.join(packageRoot, 'models', 'street-tiny', 'moments', name, `${camera}.png`)
      const data = await sharp(file).resize(1600, 900, { fit: 'fill' }).jpeg().toBuffer()
      return [camera, data] as const
    })
    return Object.fromEntries(await Promise.all(files))
  }
  return Promise.all(['day', 'dusk', 'rain'].map(moment))
}

async function measure(
  model: Model,
  moments: readonly NamedViews[],
  choice: Choice,
  flags: DeadlineFlags,
): Promise<Measured> {
  const { deadline, maxNewTokens } = flags
  let slowest: Measured | undefined
  for (let run = 0; run <= runs; run++) {
    const begun = performance.now()
    const options = choice.tileBudget === undefined ? {} : { tileBudget: choice.tileBudget }
    const scene = await model.see(moments[run % moments.length]!, options)
    const seeMs = performance.now() - begun
    await scene.ask(question, { minNewTokens: maxNewTokens, maxNewTokens })
    const totalMs = performance.now() - begun
    scene.dispose()
    const one = { ...choice, tiles: scene.info.tiles, seeMs, answerMs: totalMs - seeMs, totalMs }
    if (totalMs > hopeless * deadline) return one
    if (run > 0 && (slowest === undefined || totalMs > slowest.totalMs)) slowest = one // the first run warms up
  }
  return slowest!
}

/** `weights int8, activations int8, a tile budget of 12` */
export function nameOf({ weights, activations, tileBudget }: Choice): string {
  return [
    `weights ${weights}`,
    ...(activations === 'bf16' && weights !== 'int4' ? [] : [`activations ${activations}`]),
    ...(tileBudget === undefined ? [] : [`a tile budget of ${tileBudget}`]),
  ].join(', ')
}

/** What was measured, and what follows from it, a line each. */
export function deadlineLines({
  measured,
  proposal,
  deadlineMs,
  answerTokens,
}: Omit<DeadlineReport, 'model' | 'device'>): string[] {
  const { format, tileBudget, fastest } = proposal
  const rows = measured.map((one) => {
    const took = `${one.tiles} tiles seen in ${formatMs(one.seeMs)}, ${answerTokens} tokens answered in ${formatMs(one.answerMs)}`
    return `  ${one.totalMs <= deadlineMs ? '✓' : '✗'} ${nameOf(one)}: ${took}, together ${formatMs(one.totalMs)}`
  })
  if (format?.weights === 'bf16') return [...rows, 'The model as it is meets the deadline.']
  const said = [tileBudget, format].flatMap((one) =>
    one === undefined ? [] : [`The deadline is met with ${nameOf(one)}.`],
  )
  if (said.length > 0) return [...rows, ...said]
  const tokens = Math.floor((deadlineMs - fastest.seeMs) / (fastest.answerMs / answerTokens))
  const shorter = tokens > 0 ? ` With answers of at most ${tokens} tokens it would.` : ''
  const slow = `None of these meets the deadline; the fastest, ${nameOf(fastest)}, takes ${formatMs(fastest.totalMs)}.${shorter}`
  return [...rows, slow]
}

export function printDeadline(report: DeadlineReport): void {
  const { model, device, deadlineMs } = report
  print(`\nAnswers of ${model} on ${device} within ${formatMs(deadlineMs)}; of each the slowest of ${runs} runs:`)
  for (const line of deadlineLines(report)) print(line)
}

/** `drivlm doctor`: whether everything works here, and what to do where it does not. */
import { readFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { buildCommand } from '../addon-file.ts'
import { ModelError } from '../errors.ts'
import { loadModel } from '../load-model.ts'
import { addonFile, loadAddon, type NativeAddon, type NativeSystem, packageRoot, toModelError } from '../native.ts'
import { viewsIn } from './ask.ts'
import { type CardProposal, cardLines, cardPlanner, proposeForCard } from './doctor-card.ts'
import { type DeadlineFlags, measureDeadline, printDeadline } from './doctor-deadline.ts'
import { errorText, formatBytes, formatMs, print, printFields, printJson, styled, withProgress } from './terminal.ts'

interface Check {
  name: string
  ok: boolean
  /** A missing GPU is no failure. */
  optional?: boolean
  found: string
  advice?: string
}

interface Card {
  device: string
  models: CardProposal[]
}

export interface DoctorFlags extends Omit<DeadlineFlags, 'deadline'> {
  deadline?: number
  json?: boolean
}

export async function doctor(flags: DoctorFlags): Promise<void> {
  for (const name of ['model', 'device', 'yes'] as const) {
    if (flags.deadline !== undefined || flags[name] === undefined) continue
    throw new ModelError('BAD_ARGUMENT', `--${name} is of what --deadline measures; give --deadline too.`)
  }
  const checks: Check[] = [checkNode()]
  const addon = checkAddon(checks)
  const system = addon === undefined ? undefined : checkSystem(addon, checks)
  const cards = addon === undefined || system === undefined ? [] : checkCards(addon, system, checks)
  checks.push(checkMemory(), await checkSharp())
  if (addon !== undefined) checks.push(await checkAnswer())

  const failed = checks.filter(({ ok, optional }) => !ok && !optional)
  if (!flags.json) printChecks(checks, failed.length)
  const { deadline } = flags
  const timed = deadline !== undefined && failed.length === 0
  const report = timed ? await measureDeadline({ ...flags, deadline }) : undefined
  if (flags.json) printJson({ ok: failed.length === 0, checks, system, build: addon?.build, cards, deadline: report })
  else if (report !== undefined) printDeadline(report)
  const missed =
    report !== undefined && report.proposal.format === undefined && report.proposal.tileBudget === undefined
  if (failed.length > 0 || missed) process.exitCode = 1
}

function checkNode(): Check {
  const { version } = JSON.parse(readFileSync(path.join(packageRoot, 'package.json'), 'utf8')) as { version: string }
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number)
  const ok = process.platform === 'linux' && (major > 20 || (major === 20 && minor >= 19))
  const found = `drivlm ${version}, Node ${process.versions.node}, ${process.platform}-${process.arch}`
  return ok
    ? { name: 'node', ok, found }
    : { name: 'node', ok, found, advice: 'drivlm is made for Linux and Node 20.19 or later; install that.' }
}

function checkAddon(checks: Check[]): NativeAddon | undefined {
  try {
    const addon = loadAddon()
    const { cuda, sanitizer, compiler } = addon.build
    const parts = [
      `compiler ${compiler}`,
      cuda ? 'with CUDA kernels' : 'without CUDA kernels',
      sanitizer && `sanitizer ${sanitizer}`,
    ]
    const file = path.relative(packageRoot, addonFile()!)
    checks.push({ name: 'addon', ok: true, found: `${addon.version}, ${file}, ${parts.filter(Boolean).join(', ')}` })
    return addon
  } catch (error) {
    checks.push({ name: 'addon', ok: false, found: errorText(error) }) // the sentence says what to do
    return undefined
  }
}

function checkSystem(addon: NativeAddon, checks: Check[]): NativeSystem | undefined {
  try {
    const system = addon.system()
    checks.push(checkCpu(system), checkGpu(system))
    return system
  } catch (error) {
    const advice = 'Set right what the sentence says, and run drivlm doctor again.'
    checks.push({ name: 'processor', ok: false, found: errorText(toModelError(error)), advice })
    return undefined
  }
}

function checkCpu({ cpuFeatures, cpuTarget, cores }: NativeSystem): Check {
  const model = os.cpus()[0]?.model.trim() ?? 'unknown'
  const features =
    cpuFeatures.length === 0 ? 'none of the vector extensions it has kernels for' : `has ${cpuFeatures.join(', ')}`
  return {
    name: 'processor',
    ok: true,
    found: `${model}, ${cores} cores, ${os.availableParallelism()} for this process; kernels ${cpuTarget}; ${features}`,
  }
}

function checkGpu({ cuda }: NativeSystem): Check {
  const driver = driverVersion()
  const driverText = driver === undefined ? '' : `; driver ${driver}`
  if (cuda.devices.length > 0) {
    const devices = cuda.devices.map(
      ({ name, computeCapability, memoryBytes, usable }, i) =>
        `cuda:${i} ${name}, compute ${computeCapability}, ${formatBytes(memoryBytes)}${usable ? '' : ', not usable'}`,
    )
    const ok = cuda.devices.some(({ usable }) => usable)
    const found = `${devices.join('; ')}${driverText}`
    return { name: 'gpu', ok, optional: true, found, ...(ok ? {} : { advice: cuda.reason }) }
  }
  const advice = cuda.built
    ? 'The CPU is used. For a GPU, install an NVIDIA driver that nvidia-smi can talk to.'
    : `The CPU is used. For a GPU, install the CUDA toolkit, then run ${buildCommand(packageRoot)}.`
  return { name: 'gpu', ok: false, optional: true, found: `${cuda.reason}${driverText}`, advice }
}

/** What each usable GPU holds of the driving models. */
function checkCards(addon: NativeAddon, { cuda }: NativeSystem, checks: Check[]): Card[] {
  const cards: Card[] = []
  for (const [i, { usable }] of cuda.devices.entries()) {
    if (!usable) continue
    const device = `cuda:${i}`
    try {
      const models = proposeForCard(cardPlanner(addon, device))
      cards.push({ device, models })
      checks.push({ name: `${device} holds`, ok: true, optional: true, found: cardLines(models).join('; ') })
    } catch (error) {
      const advice = 'Free some of its memory, and run drivlm doctor again.'
      checks.push({ name: `${device} holds`, ok: false, optional: true, found: errorText(toModelError(error)), advice })
    }
  }
  return cards
}

function driverVersion(): string | undefined {
  try {
    return readFileSync('/proc/driver/nvidia/version', 'utf8').match(/\d+\.\d+(\.\d+)?/)?.[0]
  } catch {
    return undefined
  }
}

function checkMemory(): Check {
  const found = `${formatBytes(os.freemem())} free of ${formatBytes(os.totalmem())}`
  return { name: 'memory', ok: true, found: `${found}; drivlm inspect DIR says what a model needs` }
}

async function checkSharp(): Promise<Check> {
  try {
    const { versions } = (await import('sharp')).default
    return { name: 'pictures', ok: true, found: `sharp ${versions.sharp}, libvips ${versions.vips}` }
  } catch (error) {
    return {
      name: 'pictures',
      ok: false,
      found: String((error as Error).message).split('\n', 1)[0]!,
      advice: 'Run npm install sharp for this platform; until then pictures can be passed as raw RGB only.',
    }
  }
}

async function checkAnswer(): Promise<Check> {
  const question = 'Which camera sees the cyclist?'
  const truth = 'CAM_FRONT_LEFT.'
  const started = performance.now()
  try {
    const text = await withProgress('Asking the bundled model', async () => {
      const model = await loadModel({ maxContext: 512 })
      try {
        const views = await viewsIn(path.join(packageRoot, 'models', 'street-tiny', 'moments', 'dusk'))
        return (await model.ask(views, question, { maxNewTokens: 32 })).text
      } finally {
        await model.dispose()
      }
    })
    const took = formatMs(performance.now() - started)
    if (text === truth) return { name: 'an answer', ok: true, found: `${question} ${text} (${took})` }
    const advice = 'The computation is wrong on this machine; please report it with the output of drivlm doctor --json.'
    return { name: 'an answer', ok: false, found: `${question} ${text} in place of ${truth}`, advice }
  } catch (error) {
    const advice = `Try ${buildCommand(packageRoot)}; if that does not help, please report it with the output of drivlm doctor --json.`
    return { name: 'an answer', ok: false, found: errorText(error), advice }
  }
}

function printChecks(checks: readonly Check[], failed: number): void {
  const fields = checks.flatMap(({ name, ok, optional, found, advice }): [string, string][] => {
    const mark = ok ? styled('green', '✓') : optional ? styled('yellow', '-') : styled('red', '✗')
    return [[name, `${mark} ${found}`], ...(advice === undefined ? [] : [['', `  ${advice}`] as [string, string]])]
  })
  printFields(fields)
  print(
    failed === 0
      ? `\n${styled('green', 'Everything that is needed works.')}`
      : `\n${failed} of ${checks.length} checks failed.`,
  )
}

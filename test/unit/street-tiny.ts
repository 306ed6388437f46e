/** The bundled model and its moments, for tests. */
import { readFileSync } from 'node:fs'
import path from 'node:path'
import v8 from 'node:v8'
import vm from 'node:vm'
import { vi } from 'vitest'
import type { Model } from '../../lib/model.ts'
import { packageRoot } from '../../lib/native.ts'
import { cameras } from '../../lib/views/cameras.ts'
import type { NamedViews } from '../../lib/views/compose.ts'

export const streetTiny: string = path.join(packageRoot, 'models', 'street-tiny')

export function momentViews(moment: 'day' | 'dusk' | 'rain'): NamedViews {
  return Object.fromEntries(
    cameras.map((camera) => [camera, path.join(streetTiny, 'moments', moment, `${camera}.png`)]),
  )
}

/** Question and true answer of each moment, of a type that is always right. */
export const weather: string = 'What is the weather like?'

/** An answer that takes a second or more. */
export const long: { minNewTokens: number; maxNewTokens: number } = { minNewTokens: 3000, maxNewTokens: 3000 }

/** Waits until the model has nothing in its cache and nothing to do. */
export async function idle(model: Model): Promise<void> {
  await vi.waitFor(
    () => {
      const { running, waiting, scenes, pagesUsed } = model.stats()
      if (running + waiting + scenes + pagesUsed > 0) throw new Error(JSON.stringify(model.stats()))
    },
    { timeout: 10_000, interval: 5 },
  )
}

v8.setFlagsFromString('--expose-gc')

/** Runs the garbage collector. */
export const collect = vm.runInNewContext('gc') as () => void

/** Collects until `done`, since finalisers run some time after a collection. */
export async function collectUntil(done: () => boolean): Promise<void> {
  for (let i = 0; i < 200 && !done(); i++) {
    collect()
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
}

export function rssMiB(): number {
  return Number(/VmRSS:\s+(\d+) kB/.exec(readFileSync('/proc/self/status', 'utf8'))![1]) / 1024
}

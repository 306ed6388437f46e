// The maker of stand-ins for plain JavaScript. It is no part of the package, so it is compiled where it is used.
import { mkdirSync, renameSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'

const cache = new URL('../../.cache/', import.meta.url)

/** What index.ts exports. */
export async function loadStandIns() {
  const { outputFiles } = await build({
    entryPoints: [fileURLToPath(new URL('index.ts', import.meta.url))],
    bundle: true,
    platform: 'node',
    format: 'esm',
    target: 'node20',
    write: false,
  })
  mkdirSync(cache, { recursive: true })
  const file = new URL('stand-in.mjs', cache)
  const own = new URL(`stand-in-${process.pid}.mjs`, cache) // two who load at once see whole files
  writeFileSync(own, outputFiles[0].text)
  renameSync(own, file)
  return import(file.href)
}

// The model that is timed where none is given: InternVL2-1B's shapes with seeded random weights, made once in a cache folder.
import { existsSync } from 'node:fs'
import { rename, rm } from 'node:fs/promises'
import path from 'node:path'
import { packageRoot } from '../dist/native.js'
import { loadStandIns } from '../scripts/stand-in/load.mjs'

/** The folder of a stand-in, of other shapes if told so: a family, and fewer layers. */
export async function standIn(log, { family = 'internvl2-1b', layers } = {}) {
  const name = layers === undefined ? family : `${family}-${layers}-layers`
  const dir = path.join(packageRoot, '.cache', `stand-in-${name}`)
  // config.json is written last, and the folder gets its name when it is whole.
  if (existsSync(path.join(dir, 'config.json'))) return dir
  log(`Making a stand-in of ${name} in ${path.relative(process.cwd(), dir)} (about 2 GB, once)`)
  const unfinished = `${dir}.${process.pid}`
  await rm(unfinished, { recursive: true, force: true })
  try {
    const { makeCheckpoint } = await loadStandIns()
    await makeCheckpoint({ family, out: unfinished, ...(layers === undefined ? {} : { layers }) })
    await rename(unfinished, dir)
  } catch (error) {
    await rm(unfinished, { recursive: true, force: true })
    throw error
  }
  return dir
}

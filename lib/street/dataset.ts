/** Drawn moments on disk, in DriveLM's form: `ask`, `eval` and `adapt` take them as they are. */
import { readdir, rename, rm, writeFile } from 'node:fs/promises'
import path from 'node:path'
import sharp from 'sharp'
import { ModelError } from '../errors.ts'
import { cannotWrite, makeFolder } from '../whole-file.ts'
import type { Domain, QuestionType } from './domain.ts'
import { drawScene, type StreetOptions, type StreetScene } from './scene.ts'
import { isVehicle } from './world.ts'

/** What a drawn dataset holds, and where it goes. */
export interface StreetDatasetOptions extends StreetOptions {
  /** Moments. */
  scenes: number
  /** Seed of the first moment; the others follow. */
  seed: number
  /** A folder that is not there yet, or is empty. */
  out: string
  /** Ends the drawing with `ABORTED`; nothing is left of it. */
  signal?: AbortSignal
  /** Called with the moments that are drawn. */
  onProgress?: (done: number) => void
}

/** What was written of a drawn dataset. */
export interface StreetDataset {
  /** The questions, in the layout of DriveLM-nuScenes. */
  file: string
  /** How many there are. */
  questions: number
  /** Questions of each type. */
  types: Partial<Record<QuestionType, number>>
}

/** Each type's list in a DriveLM frame. */
const layers: Readonly<Record<QuestionType, 'perception' | 'prediction' | 'planning'>> = {
  objects: 'perception',
  exist: 'perception',
  count: 'perception',
  colour: 'perception',
  light: 'perception',
  weather: 'perception',
  camera: 'perception',
  cross: 'prediction',
  toward: 'prediction',
  plan: 'planning',
  planmc: 'planning',
  colourmc: 'perception',
  locate: 'perception',
  region: 'perception',
}

/** Size of the pictures that DriveLM's boxes are in. */
const [frameWidth, frameHeight] = [1600, 900]

/**
 * Draws `scenes` moments into a folder: `images/<camera>/scene-<n>.png` and `drivelm.json`.
 *
 * @throws {@link ModelError} `BAD_ARGUMENT` for settings out of range or a folder that holds something; `BAD_DATA` if the folder cannot be written;
 *   `ABORTED`. Nothing half-done is left: the folder gets its name when it is whole.
 */
export async function writeStreet(domain: Domain, options: StreetDatasetOptions): Promise<StreetDataset> {
  const { scenes, seed, out, signal, onProgress } = options
  if (!Number.isSafeInteger(scenes) || scenes < 1 || scenes > 1_000_000)
    throw new ModelError('BAD_ARGUMENT', `scenes: expected a whole number from 1 to 1000000, received ${scenes}.`)
  const partial = `${path.resolve(out)}.partial-${process.pid}`
  await removeAbandoned(path.resolve(out))
  const dataset: StreetDataset = { file: path.join(out, 'drivelm.json'), questions: 0, types: {} }
  await expectNew(out)
  try {
    for (const { name } of domain.views) await makeFolder(path.join(partial, 'images', name))
    const frames: Record<string, unknown> = {}
    const digits = String(scenes - 1).length
    for (let i = 0; i < scenes; i++) {
      if (signal?.aborted) throw new ModelError('ABORTED', 'Drawing was aborted.')
      const number = String(i).padStart(Math.max(2, digits), '0')
      const scene = drawScene(seed + i, domain, options)
      frames[`scene-${number}`] = frameOf(scene, number)
      const written = await Promise.allSettled(
        scene.views.map(async ({ data, width, height }, view) => {
          const picture = sharp(data, { raw: { width, height, channels: 3 } })
          const file = await picture.png({ compressionLevel: 9, adaptiveFiltering: true }).toBuffer()
          await writeFile(path.join(partial, pictureOf(domain, view, number)), file)
        }),
      )
      for (const one of written) if (one.status === 'rejected') throw one.reason // nobody writes any more
      dataset.questions += scene.questions.length
      for (const { type } of scene.questions) dataset.types[type] = (dataset.types[type] ?? 0) + 1
      onProgress?.(i + 1)
    }
    await writeFile(path.join(partial, 'drivelm.json'), `${JSON.stringify(frames, null, 1)}\n`)
    await rename(partial, path.resolve(out))
    return dataset
  } catch (error) {
    await rm(partial, { recursive: true, force: true }).catch(() => undefined)
    throw cannotWrite(out, error)
  }
}

/** Removes what runs into the same folder left that were killed. */
async function removeAbandoned(out: string): Promise<void> {
  const prefix = `${path.basename(out)}.partial-`
  for (const name of await readdir(path.dirname(out)).catch(() => [])) {
    const pid = name.startsWith(prefix) ? Number(name.slice(prefix.length)) : Number.NaN
    if (Number.isSafeInteger(pid) && pid > 0 && !isRunning(pid))
      await rm(path.join(path.dirname(out), name), { recursive: true, force: true })
  }
}

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}

/** Says before anything is drawn that a folder is taken. */
async function expectNew(out: string): Promise<void> {
  const entries = await readdir(out).catch((error: NodeJS.ErrnoException) => (error.code === 'ENOENT' ? [] : undefined))
  if (entries === undefined || entries.length > 0)
    throw new ModelError('BAD_ARGUMENT', `${out}: is there already and holds something; name a new folder.`)
}

function pictureOf(domain: Domain, view: number, number: string): string {
  return `images/${domain.views[view]!.name}/scene-${number}.png`
}

function frameOf({ world, facts, questions }: StreetScene, number: string): object {
  const { domain } = world
  const objects: Record<string, object> = {}
  let id = 0
  for (const { view, seen } of facts) {
    for (const { box, thing } of seen) {
      const [x0, y0, x1, y1] = [
        box[0] * frameWidth,
        box[1] * frameHeight,
        box[2] * frameWidth,
        box[3] * frameHeight,
      ].map((value) => Math.round(value * 10) / 10) as [number, number, number, number]
      const centre = `${((x0 + x1) / 2).toFixed(1)},${((y0 + y1) / 2).toFixed(1)}`
      const colour = thing.colour < 0 ? '' : `${Object.keys(domain.colours)[thing.colour]} `
      id++
      objects[`<c${id},${domain.views[view]!.name},${centre}>`] = {
        Category: isVehicle(thing.shape)
          ? 'Vehicle'
          : thing.shape === 'cone'
            ? 'Traffic element'
            : 'Vulnerable road user',
        Status: thing.shape === 'pedestrian' ? (thing.pose === 0 ? 'Standing' : 'Walking') : null,
        Visual_description: `${colour}${domain.objects[thing.kind]!.name}.`,
        '2d_bbox': [x0, y0, x1, y1],
      }
    }
  }
  const lists: Record<string, object[]> = { perception: [], prediction: [], planning: [], behavior: [] }
  for (const [i, { type, question, answer, box }] of questions.entries()) {
    lists[layers[type]]!.push({
      Q: question,
      A: answer,
      C: null,
      con_up: null,
      con_down: null,
      cluster: null,
      layer: null,
      tag: type,
      id: `${number}-${String(i).padStart(2, '0')}`,
      ...(box ? { box } : {}),
    })
  }
  const light = ['none', 'red', 'yellow', 'green'][world.light]
  return {
    scene_description: `Drawn scene ${world.seed} of ${domain.name}: ${domain.weather[world.weather]!.name}, traffic light ${light}.`,
    seed: world.seed,
    key_frames: {
      [`frame-${number}`]: {
        key_object_infos: objects,
        QA: lists,
        image_paths: Object.fromEntries(domain.views.map(({ name }, view) => [name, pictureOf(domain, view, number)])),
      },
    },
  }
}

/** The adapted checkpoint's folder: the start's, with other values. */
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { copyFile, readdir, readFile, rm, stat } from 'node:fs/promises'
import path from 'node:path'
import type { Checkpoint } from '../checkpoint/load-checkpoint.ts'
import { ModelError } from '../errors.ts'
import type { NativeTrainer } from '../native-training.ts'
import { cannotWrite, makeFolder, syncFolder, written } from '../whole-file.ts'

/** What is written beside the weights. */
export const recordFile = 'adapt.json'

/** Weights of other formats, caches and records of an earlier adaptation: they do not belong to the new weights. */
const stale = /\.(safetensors|bin|pt|pth|ckpt|h5|msgpack|gguf|onnx|cache|partial)$|\.cache\.|^adapt\.json$/

/** SHA-256 of a file, hexadecimal. */
export async function sha256Of(file: string): Promise<string> {
  const hash = createHash('sha256')
  try {
    for await (const chunk of createReadStream(file, { highWaterMark: 1 << 20 })) hash.update(chunk)
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    throw new ModelError('BAD_CHECKPOINT', `${file}: cannot be read (${code ?? message}).`, { cause: error })
  }
  return hash.digest('hex')
}

/** SHA-256 of every file of a checkpoint that its adaptation reads or copies, by name, weights included. */
export async function hashesOf(checkpoint: Checkpoint): Promise<Record<string, string>> {
  const files = [
    ...checkpoint.files.map((file) => path.relative(checkpoint.dir, file)),
    ...(await sideFiles(checkpoint)),
  ]
  const hashes: Record<string, string> = {}
  for (const name of files.sort()) hashes[name] = await sha256Of(path.join(checkpoint.dir, name))
  return hashes
}

/** Files of the folder that are no weights: tokenizer, configuration, index, code, texts. */
async function sideFiles({ dir }: Checkpoint): Promise<string[]> {
  const names = (await readdir(dir)).filter((name) => !name.startsWith('.') && !stale.test(name))
  const files = await Promise.all(
    names.map(async (name) => ((await stat(path.join(dir, name))).isFile() ? [name] : [])),
  )
  return files.flat()
}

/**
 * Writes the folder. `to` is made anew, and whole only when this has resolved.
 *
 * @param record - What adapt.json says beside the hashes of the weights.
 * @throws {@link ModelError} `BAD_DATA` if it cannot be written, `BAD_WEIGHTS` if a value does not fit into its dtype.
 */
export async function writeCheckpointFolder(
  checkpoint: Checkpoint,
  trainer: NativeTrainer,
  to: string,
  record: Record<string, unknown>,
): Promise<void> {
  const place = (name: string) => path.join(to, name)
  const weights = checkpoint.files.map((file) => path.relative(checkpoint.dir, file))
  try {
    await rm(to, { recursive: true, force: true })
    await makeFolder(to)
    for (const name of weights) await makeFolder(path.dirname(place(name)))
    for (const name of await sideFiles(checkpoint)) {
      const from = path.join(checkpoint.dir, name)
      if (name === 'config.json') await written(place(name), withoutDropPath(await readFile(from, 'utf8')))
      else await copyFile(from, place(name))
    }
  } catch (error) {
    throw cannotWrite(to, error)
  }
  await trainer.write(weights.map(place))
  const hashes: Record<string, string> = {}
  for (const name of weights) hashes[name] = await sha256Of(place(name))
  try {
    await written(place(recordFile), `${JSON.stringify({ ...record, weights: hashes }, null, 1)}\n`)
    await syncFolder(to)
  } catch (error) {
    throw cannotWrite(to, error)
  }
}

/** The text as it is, unless the tower's drop path is on: it is of training alone. */
function withoutDropPath(text: string): string {
  const config = JSON.parse(text.replace(/^\ufeff/, '')) as { vision_config?: { drop_path_rate?: unknown } }
  if (!config.vision_config?.drop_path_rate) return text
  config.vision_config.drop_path_rate = 0
  return `${JSON.stringify(config, null, 2)}\n`
}

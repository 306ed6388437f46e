/** What a folder is that is not a model folder, and what to pass or do in its place. */
import { readdir, readFile } from 'node:fs/promises'
import path from 'node:path'
import { ModelError } from '../errors.ts'
import { describe, readJsonObject, regularFileBytes, shorten } from './files.ts'

const listed = (dir: string): Promise<string[]> =>
  readdir(dir).then(
    (names) => names.sort(),
    () => [],
  )

const isThere = (file: string): Promise<boolean> =>
  regularFileBytes(file, 'BAD_CHECKPOINT').then(
    (bytes) => bytes !== undefined,
    () => false,
  )

/** The error for a path without config.json. */
export async function missingConfig(root: string): Promise<ModelError> {
  const bytes = await regularFileBytes(root, 'BAD_CHECKPOINT').catch(() => 'folder')
  const found = bytes === undefined ? 'no such folder' : bytes === 'folder' ? 'a folder without config.json' : 'a file'
  const advice = bytes === 'folder' ? await adviceFor(root) : undefined
  return new ModelError(
    'BAD_CHECKPOINT',
    `${root}: expected a model folder with config.json, found ${found}. ${advice ?? 'Pass the path of a folder as downloaded from the hub.'}`,
  )
}

async function adviceFor(root: string): Promise<string | undefined> {
  const adapter = await adapterAdvice(root)
  if (adapter !== undefined) return adapter
  const snapshot = await snapshotOf(root)
  if (snapshot !== undefined) return `It is a repository of the hub's cache; pass its snapshot: ${snapshot}`
  const below: string[] = []
  for (const name of (await listed(root)).slice(0, 1000)) {
    const inner = path.join(root, name)
    if (await isThere(path.join(inner, 'config.json'))) below.push(inner)
    else {
      const cached = await snapshotOf(inner)
      if (cached !== undefined) below.push(cached)
    }
  }
  if (below.length === 0) return undefined
  const more = below.length > 5 ? ` and ${below.length - 5} more` : ''
  return `There are model folders below it; pass one of them: ${below.slice(0, 5).join(', ')}${more}`
}

/** The snapshot of a repository in a hub cache: the one that `main` names, else the first; also for the folder `snapshots` itself. */
async function snapshotOf(root: string): Promise<string | undefined> {
  const repository = path.basename(root) === 'snapshots' ? path.dirname(root) : root
  if (!path.basename(repository).startsWith('models--')) return undefined
  const snapshots = path.join(repository, 'snapshots')
  const whole: string[] = []
  for (const name of await listed(snapshots)) {
    if (await isThere(path.join(snapshots, name, 'config.json'))) whole.push(name)
  }
  const main = await readFile(path.join(repository, 'refs', 'main'), 'utf8').catch(() => '')
  const best = whole.find((name) => name === main.trim()) ?? whole[0]
  return best === undefined ? undefined : path.join(snapshots, best)
}

/** A folder that holds a LoRA adapter and no model. */
async function adapterAdvice(root: string): Promise<string | undefined> {
  const names = await listed(root)
  if (!names.some((name) => /^adapter_(config\.json|model\.(safetensors|bin))$/.test(name))) return undefined
  const config = await readJsonObject(path.join(root, 'adapter_config.json'), 'BAD_CHECKPOINT').catch(() => undefined)
  const base = config?.base_model_name_or_path
  const onto = typeof base === 'string' && base !== '' ? ` (${shorten(describe(base), 200)})` : ''
  return `It holds a LoRA adapter without its base model${onto}; merge the adapter into the base model, and pass the folder that was saved.`
}

/** The error for a model folder without weights that can be read. */
export async function missingWeights(dir: string, indexName: string): Promise<ModelError> {
  const names = await listed(dir)
  const others = names.filter((name) => /\.(bin|pt|pth|gguf|onnx|ckpt)$/.test(name))
  const shards = names.filter((name) => /\.safetensors$/.test(name) && !name.startsWith('adapter_'))
  const advice =
    (await adapterAdvice(dir)) ??
    (shards.length > 0
      ? `There is ${shorten(shards.join(', '), 200)}, but not ${indexName}, which says what is in them; download or save it as well.`
      : others.length > 0
        ? `There is ${shorten(others.join(', '), 200)}, but only safetensors weights can be read; save the model in that form.`
        : 'Only safetensors weights can be read; download them into this folder.')
  return new ModelError('BAD_WEIGHTS', `${dir}: expected model.safetensors or ${indexName}, found neither. ${advice}`)
}

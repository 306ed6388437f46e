import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { gunzipSync } from 'node:zlib'
import { afterAll } from 'vitest'

const root = resolve(dirname(fileURLToPath(import.meta.url)), '..', '..')
export const shared: string = process.env.DRIVLM_SHARED ?? resolve(root, '..', 'shared')
/** Fixtures inside the project. */
export const fixtures: string = join(root, 'test', 'fixtures')

/** Why a test over the full reference set cannot run; undefined when it can. */
export function missing(...path: string[]): string | undefined {
  const full = join(shared, ...path)
  return existsSync(full) ? undefined : `${path.join('/')} of the shared reference data is not here (set DRIVLM_SHARED)`
}

// biome-ignore lint/suspicious/noExplicitAny: reference files have many shapes
export function json(...path: string[]): any {
  return JSON.parse(readFileSync(join(...path), 'utf8'))
}

const temporary: string[] = []

/** A folder with these files, removed after the tests. */
export function folder(files: Record<string, string | Uint8Array | object>): string {
  const dir = mkdtempSync(join(tmpdir(), 'drivlm-text-'))
  temporary.push(dir)
  for (const [name, content] of Object.entries(files)) {
    mkdirSync(dirname(join(dir, name)), { recursive: true })
    const raw = typeof content === 'string' || content instanceof Uint8Array
    writeFileSync(join(dir, name), raw ? content : JSON.stringify(content))
  }
  return dir
}

afterAll(() => {
  for (const dir of temporary) rmSync(dir, { recursive: true, force: true })
})

/** The real vocabularies as model folders: `tokenizer.json` and `vocab.json` + `merges.txt` both come from one compressed file. */
export function realFolder(name: string, form?: 'tokenizer.json' | 'vocab'): string {
  const data = join(shared, 'golden', 'tokenizer', 'data')
  const files: Record<string, string | Uint8Array | object> = {}
  for (const side of ['added_tokens.json', 'tokenizer_config.json', 'tokenizer.model']) {
    if (existsSync(join(data, name, side))) files[side] = readFileSync(join(data, name, side))
  }
  if (name.startsWith('qwen')) {
    const packed = readFileSync(join(data, 'qwen3-internvl35', 'tokenizer.json.gz'))
    const text = gunzipSync(packed)
    if (form === 'tokenizer.json') files['tokenizer.json'] = text
    else {
      const { model } = JSON.parse(text.toString('utf8'))
      files['vocab.json'] = model.vocab
      files['merges.txt'] = `#version: 0.2\n${model.merges.map((pair: string[]) => pair.join(' ')).join('\n')}\n`
    }
  }
  return folder(files)
}

/** An I32 tensor of a safetensors file. */
export function readIds(file: string, name: string): number[] {
  const bytes = readFileSync(file)
  const header = Number(bytes.readBigUInt64LE(0))
  const entry = JSON.parse(bytes.subarray(8, 8 + header).toString('utf8'))[name]
  const [begin, end] = entry.data_offsets
  const ids: number[] = []
  for (let at = begin; at < end; at += 4) ids.push(bytes.readInt32LE(8 + header + at))
  return ids
}

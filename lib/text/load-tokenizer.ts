/**
 * Tokenizers of the family, loaded from a model folder as it was downloaded.
 *
 * | files | `tokenizer_class` | rules |
 * |---|---|---|
 * | `tokenizer.model` | InternLM2Tokenizer, LlamaTokenizer | the slow Python tokenizer's, which training and the official scripts use |
 * | `tokenizer.json` | any | what the file says |
 * | `vocab.json` + `merges.txt` | Qwen2Tokenizer | byte-level BPE of Qwen2 |
 *
 * The first row that fits wins; `rules: 'tokenizer.json'` prefers that file over `tokenizer.model`. A `tokenizer.model` alone is read
 * whatever the class is called: as InternLM2's if there is an added `<|im_start|>`, as Llama's if not.
 */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { ModelError } from '../errors.ts'
import { FastTokenizer, fastTokenizerJson } from './fast-tokenizer.ts'
import { parseSentencePiece } from './sentencepiece.ts'
import { SlowTokenizer } from './slow-tokenizer.ts'
import type { Tokenizer } from './tokenizer.ts'
import { readTokenizerCache, tokenizerCacheKey, writeTokenizerCache } from './tokenizer-cache.ts'
import {
  type JsonObject,
  objectOf,
  type Room,
  readBounded,
  readJson,
  readTokenizerFiles,
  type TokenizerFiles,
} from './tokenizer-files.ts'

export interface TokenizerOptions {
  /** Which rules to follow where a folder has both `tokenizer.model` and `tokenizer.json`. Default: the reference's (the former). */
  rules?: 'reference' | 'tokenizer.json'
  /** Keep a large vocabulary's tables in the folder, and take them from there. */
  cache?: boolean
  /** Where the tables are read to. */
  room?: Room
}

const maxModelBytes = 64 << 20
const maxJsonBytes = 256 << 20

/** Loads the tokenizer of a model folder. */
export async function loadTokenizer(dir: string, options: TokenizerOptions = {}): Promise<Tokenizer> {
  const key = options.cache ? await tokenizerCacheKey(dir) : undefined
  const kept = key === undefined ? undefined : await readTokenizerCache(dir, key, options.room)
  const json =
    kept?.rules === 'qwen2'
      ? undefined
      : (kept?.json ?? objectOf(await readJson(dir, 'tokenizer.json', maxJsonBytes), 'tokenizer.json'))
  const files = await readTokenizerFiles(dir, json)
  const name = files.className?.replace(/Fast$/, '')
  const slowClass = name === 'InternLM2Tokenizer' || name === 'LlamaTokenizer'
  const pieces = async (): Promise<Tokenizer | undefined> => {
    const bytes = await readBounded(join(dir, 'tokenizer.model'), 'tokenizer.model', maxModelBytes)
    if (!bytes) return undefined
    const model = parseSentencePiece(bytes, 'tokenizer.model')
    const own = slowClass ? files : await readTokenizerFiles(dir, json, true)
    checkAgainstPieces(own, model.pieces)
    const internlm2 = name === 'InternLM2Tokenizer' || (!slowClass && own.contents.has('<|im_start|>'))
    return new SlowTokenizer(internlm2 ? 'internlm2' : 'llama', own.legacy, model, own)
  }
  const fast = async (rules: FastTokenizer['rules'], json: JsonObject, files: TokenizerFiles): Promise<Tokenizer> => {
    const tokenizer = new FastTokenizer(rules, json, files, kept?.tables)
    if (key !== undefined && !kept) await writeTokenizerCache(dir, key, { rules, json, tables: tokenizer.tables })
    return tokenizer
  }
  if (slowClass && !(json && options.rules === 'tokenizer.json')) {
    const slow = await pieces()
    if (slow) return slow
  }
  if (json) {
    // Without its own files the slow tokenizer cannot have been the reference, whatever class the config names.
    const alone = !existsSync(join(dir, 'vocab.json'))
    return fast('tokenizer.json', json, alone ? { ...files, loadedFast: true } : files)
  }
  if (kept) return fast('qwen2', kept.json, files)
  const vocab = objectOf(await readJson(dir, 'vocab.json', maxJsonBytes), 'vocab.json')
  const merges = await readBounded(join(dir, 'merges.txt'), 'merges.txt', maxModelBytes)
  if (vocab && merges) return fast('qwen2', fastTokenizerJson(vocab, merges), files)
  if (vocab || merges) {
    const [found, missing] = vocab ? ['vocab.json', 'merges.txt'] : ['merges.txt', 'vocab.json']
    throw new ModelError(
      'BAD_TOKENIZER',
      `${dir}: ${found} is there, ${missing} is not; download ${missing} from the same repository.`,
    )
  }
  const slow = await pieces()
  if (slow) return slow
  const wanted = slowClass
    ? 'tokenizer.model (or tokenizer.json)'
    : 'tokenizer.json, or vocab.json with merges.txt, or tokenizer.model'
  const hint = slowClass
    ? ' Early snapshots of some adapted models lack it; the file of the InternVL2 model they were made from is the same.'
    : ''
  throw new ModelError(
    'BAD_TOKENIZER',
    `${dir}: no tokenizer found (tokenizer_class ${files.className ?? 'not given'}); put ${wanted} there.${hint}`,
  )
}

/** An added token may take over a piece's id (InternLM2's do), but its own text must not stand at another id. */
function checkAgainstPieces(files: TokenizerFiles, pieces: readonly string[]): void {
  const ids = new Map(pieces.map((piece, id) => [piece, id]))
  files.checkContents('tokenizer.model', (content) => ids.get(content))
}

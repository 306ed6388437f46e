// Tokenizers and prompts: ids and texts, all exactly.

import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import { gunzipSync } from 'node:zlib'
import { loadTokenizer } from '../../dist/text/load-tokenizer.js'
import * as prompts from '../../dist/text/prompt.js'
import { templateOf, templates } from '../../dist/text/templates.js'
import { conversationRenderer, fillPlaceholders, promptText } from './conversation.mjs'

const renderConversation = conversationRenderer(prompts)

const readJson = (...parts) => JSON.parse(readFileSync(path.join(...parts), 'utf8'))

/** How many of two lists differ; a difference in length counts whole. */
function differences(found, expected) {
  const length = Math.max(found.length, expected.length)
  return Array.from({ length }).filter((_, i) => !isDeepStrictEqual(found[i], expected[i])).length
}

/** The model folders that a golden tokenizer's data stand for, as lists of files. */
function foldersOf(dir, name) {
  const data = path.join(dir, 'data', name)
  const files = {}
  for (const file of [
    'added_tokens.json',
    'tokenizer_config.json',
    'special_tokens_map.json',
    'tokenizer.model',
    'vocab.json',
    'merges.txt',
    'tokenizer.json',
  ]) {
    if (existsSync(path.join(data, file))) files[file] = readFileSync(path.join(data, file))
  }
  if (files['tokenizer.model'] || files['vocab.json']) return [['its files', files]]
  if (files['tokenizer.json']) return [['tokenizer.json', files]]
  // Byte-level vocabularies of one base: one packed tokenizer.json serves all; some keep only what they add to it.
  const own = path.join(data, 'tokenizer.json.gz')
  const packed = [own, ...['qwen3-internvl35'].map((base) => path.join(dir, 'data', base, 'tokenizer.json.gz'))].find(
    (file) => existsSync(file),
  )
  if (packed === undefined) return []
  const json = gunzipSync(readFileSync(packed))
  const { model } = JSON.parse(json.toString('utf8'))
  const merges = model.merges.map((pair) => (Array.isArray(pair) ? pair.join(' ') : pair)).join('\n')
  const split = { ...files, 'vocab.json': JSON.stringify(model.vocab), 'merges.txt': `#version: 0.2\n${merges}\n` }
  const folders = [['vocab.json + merges.txt', split]]
  if (packed === own) folders.push(['tokenizer.json', { ...files, 'tokenizer.json': json }])
  return folders
}

/** What `use` gives of a folder with a golden tokenizer's files, the first form of them; undefined if it has no vocabulary. */
export async function withFolder(dir, name, use) {
  const [first] = foldersOf(dir, name)
  if (first === undefined) return undefined
  const folder = mkdtempSync(path.join(os.tmpdir(), 'drivlm-golden-'))
  try {
    for (const [file, content] of Object.entries(first[1])) writeFileSync(path.join(folder, file), content)
    return await use(folder)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

async function tokenizerRows(name, form, files, golden, strings, prompts) {
  const dir = mkdtempSync(path.join(os.tmpdir(), 'drivlm-golden-'))
  const rows = []
  const add = (stage, error) => rows.push({ name, stage: `${stage} (${form})`, error, bound: 0, ok: error === 0 })
  try {
    for (const [file, content] of Object.entries(files)) writeFileSync(path.join(dir, file), content)
    const tokenizer = await loadTokenizer(dir)
    add(
      'encode',
      differences(
        strings.map((text) => tokenizer.encode(text)),
        golden.encode,
      ),
    )
    const bare = golden.encode_without_bos ?? golden.encode
    add(
      'encode without bos',
      differences(
        strings.map((text) => tokenizer.encode(text, { addBos: false })),
        bare,
      ),
    )
    add(
      'decode',
      differences(
        golden.encode.map((ids) => tokenizer.decode(ids)),
        golden.decode_keep_special,
      ),
    )
    add(
      'decode without special',
      differences(
        golden.encode.map((ids) => tokenizer.decode(ids, { skipSpecial: true })),
        golden.decode_skip_special,
      ),
    )
    const pieces = golden.encode.map((ids) => {
      const decoder = tokenizer.decoder()
      return ids.map((id) => decoder.push(id)).join('') + decoder.finish()
    })
    add('decode as a stream', differences(pieces, golden.decode_keep_special))
    const cases = (golden.prompts ?? []).map((prompt) => ({
      ids: prompt.ids,
      found: prompts?.find(({ template, id }) => template === prompt.template && id === prompt.id)?.prompt,
    }))
    const known = cases.filter(({ found }) => typeof found === 'string')
    if (known.length > 0)
      add(
        `prompts (${known.length})`,
        differences(
          known.map(({ found }) => tokenizer.encode(found)),
          known.map(({ ids }) => ids),
        ),
      )
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
  return rows
}

export async function runTokenizerGolden(dir) {
  const strings = readJson(dir, 'strings.json')
  const promptsFile = path.join(dir, '..', 'prompts', 'prompts.json')
  const prompts = existsSync(promptsFile) ? readJson(promptsFile).cases : undefined
  const rows = []
  for (const file of readdirSync(dir).filter((name) => name.endsWith('.json') && name !== 'strings.json')) {
    const golden = readJson(dir, file)
    const name = golden.tokenizer ?? path.basename(file, '.json')
    const folders = foldersOf(dir, name)
    if (folders.length === 0) rows.push({ name, stage: 'all', skipped: `data/${name} has no vocabulary` })
    for (const [form, files] of folders)
      rows.push(...(await tokenizerRows(name, form, files, golden, strings, prompts)))
  }
  return rows
}

function remoteRow(entry) {
  const filled = fillPlaceholders(
    entry.turns.map(([user]) => user),
    entry.num_patches_list.map((tiles) => tiles * entry.num_image_token),
  )
  const turns = entry.turns.map(([, assistant], i) => ({ user: filled[i], assistant }))
  const conversation = entry.system === null ? { turns } : { system: entry.system, turns }
  const text = promptText(renderConversation(templateOf(entry.template), conversation))
  const short = text.replace(/<img>(?:<IMG_CONTEXT>)*<\/img>/g, '<image>')
  const whole = entry.prompt === null ? text.length === entry.prompt_chars : text === entry.prompt
  const ok = whole && short === entry.prompt_before_image_tokens
  return { name: entry.template, stage: entry.id, error: ok ? 0 : 'differs', bound: 0, ok }
}

function hfRow(entry) {
  const images = [...entry.image_tiles]
  const videos = [...entry.video_frame_tiles]
  const turns = []
  let system
  const part = ({ type, text }) => {
    if (type === 'image') return { imageTokens: images.shift() * entry.num_image_token }
    if (type === 'video') return { frames: videos.shift().map((tiles) => tiles * entry.num_image_token) }
    return { text }
  }
  for (const { role, content } of entry.messages) {
    const text = typeof content === 'string' ? content : content.map((one) => one.text ?? '').join('')
    if (role === 'system') system = text
    else if (role === 'assistant') turns.at(-1).assistant = text
    else turns.push({ user: typeof content === 'string' ? content : content.map(part) })
  }
  const ok = promptText(renderConversation(templates['chatml-hf'], { system, turns })) === entry.prompt
  return { name: 'chatml-hf', stage: entry.id, error: ok ? 0 : 'differs', bound: 0, ok }
}

export async function runPromptsGolden(dir) {
  const rows = readJson(dir, 'prompts.json').cases.map(remoteRow)
  const hf = path.join(dir, 'prompts_hf.json')
  return existsSync(hf) ? [...rows, ...readJson(hf).map(hfRow)] : rows
}

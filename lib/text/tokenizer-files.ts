/** Side files of a tokenizer: added tokens from every place that holds them, named special tokens, bos. */
import { existsSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { join } from 'node:path'
import { ModelError } from '../errors.ts'
import { adviceOfRead } from '../messages.ts'
import type { AddedToken } from './added-tokens.ts'

export type JsonObject = Record<string, unknown>

export interface TokenizerFiles {
  /** `tokenizer_class` of tokenizer_config.json. */
  className: string | undefined
  /** Every added token with an id, by ascending id. */
  added: AddedToken[]
  contents: ReadonlySet<string>
  /** bos, eos, unk, pad … and additional_special_tokens, by content. */
  listedSpecial: ReadonlySet<string>
  additionalSpecial: ReadonlySet<string>
  bos: string | undefined
  pad: string | undefined
  /** `bos_token`, `eos_token` and their like, by these names. */
  namedTokens: Readonly<Record<string, string>>
  unk: string | undefined
  addBos: boolean
  /** Whether the files list special tokens at all; if not, the flags of the added tokens decide. */
  lists: boolean
  /** The folder's own code loads the compiled tokenizer: a class named so, or an -hf folder's processor. */
  loadedFast: boolean
  /** There is a tokenizer.model, or, in an `-hf` folder with a processor, the reference never reads one. */
  hasPieces: boolean
  /** LlamaTokenizer's `legacy`. */
  legacy: boolean
  /** Throws when a vocabulary file has an added token's content under another id. */
  checkContents(file: string, idOf: (content: string) => number | undefined): void
  /** Throws when a vocabulary file has another content under an added token's id. */
  checkIds(file: string, contentOf: (id: number) => string | undefined): void
}

const maxSideBytes = 16 << 20
/** Larger than any vocabulary, small enough for a table. */
export const maxId = 4_194_304
/** Far above any added token; texts are searched for these. */
const maxContentLength = 1024
const namedTokens = [
  'bos_token',
  'eos_token',
  'unk_token',
  'sep_token',
  'pad_token',
  'cls_token',
  'mask_token',
] as const

/** Where so many bytes are read to: memory that nobody else has. */
export type Room = (bytes: number) => Uint8Array

/** A file's bytes in a buffer of their own, undefined when there is no such file. */
export async function readBounded(
  path: string,
  name: string,
  maxBytes: number,
  room: Room = Buffer.allocUnsafeSlow,
): Promise<Uint8Array | undefined> {
  let handle: Awaited<ReturnType<typeof open>>
  try {
    handle = await open(path, 'r')
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined
    throw new ModelError('BAD_TOKENIZER', `${name}: cannot be opened (${code}). ${adviceOfRead(code)}`, {
      cause: error,
    })
  }
  try {
    const stat = await handle.stat()
    if (!stat.isFile())
      throw new ModelError('BAD_TOKENIZER', `${name}: not a regular file; put the downloaded file there.`)
    if (stat.size > maxBytes) {
      throw new ModelError(
        'BAD_TOKENIZER',
        `${name}: ${stat.size} bytes, at most ${maxBytes} are read; this is not the tokenizer of a supported model.`,
      )
    }
    // In one go: `readFile` takes half a megabyte at a time, each in a turn of the event loop.
    const bytes = room(stat.size)
    let read = 0
    for (let got = 1; got > 0 && read < bytes.length; read += got)
      got = (await handle.read(bytes, read, bytes.length - read, read)).bytesRead
    return bytes.subarray(0, read)
  } finally {
    await handle.close()
  }
}

/** A parsed JSON file, undefined when there is none. */
export async function readJson(dir: string, name: string, maxBytes: number = maxSideBytes): Promise<unknown> {
  const bytes = await readBounded(join(dir, name), name, maxBytes)
  if (!bytes) return undefined
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes))
  } catch (error) {
    throw new ModelError(
      'BAD_TOKENIZER',
      `${name}: not valid JSON (${(error as Error).message}); download the file again.`,
      { cause: error },
    )
  }
}

/** The value as an object; undefined stays undefined. */
export function objectOf(value: unknown, name: string): JsonObject | undefined {
  if (value === undefined) return undefined
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new ModelError(
      'BAD_TOKENIZER',
      `${name}: holds ${describe(value)}, expected an object; download the file again.`,
    )
  }
  return value as JsonObject
}

/** Kind of a JSON value, for messages. */
export function describe(value: unknown): string {
  if (value === null) return 'null'
  if (Array.isArray(value)) return 'a list'
  if (typeof value === 'object') return 'an object'
  const text = JSON.stringify(value) ?? String(value)
  return text.length > 60 ? `${text.slice(0, 60)}…` : text
}

/** Id in range. */
export function isId(value: unknown): value is number {
  return typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= maxId
}

export function idFrom(value: unknown, what: string): number {
  if (!isId(value)) {
    throw new ModelError(
      'BAD_TOKENIZER',
      `${what} has id ${describe(value)}, expected a whole number from 0 to ${maxId}.`,
    )
  }
  return value
}

interface Declared {
  token: AddedToken
  file: string
  /** Flags were given, not assumed. */
  flagged: boolean
}

class AddedTokenTable {
  readonly #byId = new Map<number, Declared>()
  readonly #byContent = new Map<string, Declared>()

  add(file: string, id: number, content: string, flags: JsonObject | undefined): void {
    const sameId = this.#byId.get(id)
    if (sameId && sameId.token.content !== content) {
      throw new ModelError(
        'BAD_TOKENIZER',
        `Token id ${id} is ${JSON.stringify(sameId.token.content)} in ${sameId.file} and ${JSON.stringify(content)} in ${file}; take both files from the same repository.`,
      )
    }
    const sameContent = this.#byContent.get(content)
    if (sameContent && sameContent.token.id !== id) {
      throw new ModelError(
        'BAD_TOKENIZER',
        `Token ${JSON.stringify(content)} has id ${sameContent.token.id} in ${sameContent.file} and ${id} in ${file}; take both files from the same repository.`,
      )
    }
    if (sameId && (sameId.flagged || !flags)) return
    const special = flags?.special === true
    const token: AddedToken = {
      id,
      content,
      special,
      lstrip: flags?.lstrip === true,
      rstrip: flags?.rstrip === true,
      singleWord: flags?.single_word === true,
      normalized: flags ? (typeof flags.normalized === 'boolean' ? flags.normalized : !special) : false,
    }
    const declared = { token, file, flagged: flags !== undefined }
    this.#byId.set(id, declared)
    this.#byContent.set(content, declared)
  }

  get(content: string): Declared | undefined {
    return this.#byContent.get(content)
  }

  get all(): Declared[] {
    return [...this.#byId.values()].sort((a, b) => a.token.id - b.token.id)
  }
}

/** Reads added_tokens.json, tokenizer_config.json and special_tokens_map.json; `tokenizerJson` is the parsed tokenizer.json. With
 * `sentencePiece` the special tokens of such classes are assumed where none are named. */
export async function readTokenizerFiles(
  dir: string,
  tokenizerJson: JsonObject | undefined,
  sentencePiece?: boolean,
): Promise<TokenizerFiles> {
  const configFile = 'tokenizer_config.json'
  const mapFile = 'special_tokens_map.json'
  const addedFile = 'added_tokens.json'
  const read = await Promise.all([configFile, mapFile, addedFile].map((file) => readJson(dir, file)))
  const config = objectOf(read[0], configFile) ?? {}
  const specialMap = objectOf(read[1], mapFile) ?? {}
  const table = new AddedTokenTable()

  const fromJson = tokenizerJson?.added_tokens ?? []
  if (!Array.isArray(fromJson))
    throw new ModelError('BAD_TOKENIZER', `tokenizer.json: added_tokens is ${describe(fromJson)}, expected a list.`)
  for (const [i, entry] of fromJson.entries()) {
    const flags = objectOf(entry, `tokenizer.json: added_tokens[${i}]`)!
    table.add(
      'tokenizer.json',
      idFrom(flags.id, `tokenizer.json: added_tokens[${i}]`),
      contentFrom(flags.content, `tokenizer.json: added_tokens[${i}]`),
      flags,
    )
  }
  for (const [key, entry] of Object.entries(
    objectOf(config.added_tokens_decoder, `${configFile}: added_tokens_decoder`) ?? {},
  )) {
    const what = `${configFile}: added_tokens_decoder[${JSON.stringify(key)}]`
    const flags = objectOf(entry, what)!
    table.add(configFile, idFrom(/^\d+$/.test(key) ? Number(key) : key, what), contentFrom(flags.content, what), flags)
  }
  for (const [content, id] of Object.entries(objectOf(read[2], addedFile) ?? {})) {
    const what = `${addedFile}: ${JSON.stringify(content)}`
    table.add(addedFile, idFrom(id, what), contentFrom(content, what), undefined)
  }

  const className = config.tokenizer_class
  if (className !== undefined && className !== null && typeof className !== 'string') {
    throw new ModelError('BAD_TOKENIZER', `${configFile}: tokenizer_class is ${describe(className)}, expected a name.`)
  }
  const name = typeof className === 'string' ? className : undefined
  const named = new Map<string, string>()
  for (const key of namedTokens) {
    const value = key in config ? config[key] : specialMap[key]
    const content = tokenContent(value, `${key in config ? configFile : mapFile}: ${key}`)
    if (content !== undefined) named.set(key, content)
  }
  const additionalSpecial = new Set<string>()
  // Newer library versions call the list extra_special_tokens; -hf folders have names in it.
  for (const [key, source, file] of [
    [
      'additional_special_tokens',
      'additional_special_tokens' in config ? config : specialMap,
      'additional_special_tokens' in config ? configFile : mapFile,
    ],
    ['extra_special_tokens', config, configFile],
  ] as const) {
    const value = source[key]
    if (value === undefined || value === null) continue
    if (typeof value !== 'object') {
      throw new ModelError('BAD_TOKENIZER', `${file}: ${key} is ${describe(value)}, expected a list.`)
    }
    for (const [i, entry] of Object.entries(value)) {
      const content = tokenContent(entry, `${file}: ${key}[${i}]`)
      if (content !== undefined) additionalSpecial.add(content)
    }
  }
  const lists = named.size > 0 || additionalSpecial.size > 0
  const pieces = sentencePiece ?? /^(InternLM2|Llama)Tokenizer/.test(name ?? '')
  if (pieces) {
    for (const [key, content] of [
      ['bos_token', '<s>'],
      ['eos_token', '</s>'],
      ['unk_token', '<unk>'],
    ] as const) {
      if (!named.has(key) && config[key] === undefined) named.set(key, content)
    }
  }
  const added = table.all.map(({ token }) => token)
  return {
    className: name,
    added,
    contents: new Set(added.map((token) => token.content)),
    listedSpecial: new Set([...named.values(), ...additionalSpecial]),
    additionalSpecial,
    bos: named.get('bos_token'),
    pad: named.get('pad_token'),
    namedTokens: Object.fromEntries(named),
    unk: named.get('unk_token'),
    addBos: typeof config.add_bos_token === 'boolean' ? config.add_bos_token : pieces,
    lists,
    loadedFast: name === undefined || name.endsWith('Fast') || config.processor_class !== undefined,
    hasPieces: config.processor_class !== undefined || existsSync(join(dir, 'tokenizer.model')),
    legacy: config.legacy !== false,
    checkContents(file, idOf) {
      for (const { token, file: where } of table.all) {
        const id = idOf(token.content)
        if (id !== undefined && id !== token.id) {
          throw new ModelError(
            'BAD_TOKENIZER',
            `Token ${JSON.stringify(token.content)} has id ${token.id} in ${where} and ${id} in ${file}; take both files from the same repository.`,
          )
        }
      }
    },
    checkIds(file, contentOf) {
      for (const { token, file: where } of table.all) {
        const content = contentOf(token.id)
        if (content !== undefined && content !== token.content) {
          throw new ModelError(
            'BAD_TOKENIZER',
            `Token id ${token.id} is ${JSON.stringify(token.content)} in ${where} and ${JSON.stringify(content)} in ${file}; take both files from the same repository.`,
          )
        }
      }
    },
  }
}

function contentFrom(value: unknown, what: string): string {
  if (typeof value !== 'string' || value === '' || value.length > maxContentLength)
    throw new ModelError(
      'BAD_TOKENIZER',
      `${what}: content is ${describe(value)}, expected a text of 1 to ${maxContentLength} characters.`,
    )
  return value
}

/** A token given as a string or as an object with `content`. */
function tokenContent(value: unknown, what: string): string | undefined {
  if (value === undefined || value === null) return undefined
  if (typeof value === 'string') return value
  return contentFrom(objectOf(value, what)!.content, what)
}

/** Reports of wrong prompts, each as a model folder of zeros with a fixture's tokenizer: what the package says of it from the outside. */
import { copyFileSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test, vi } from 'vitest'
import { loadModel } from '../../lib/index.ts'
import { loadTokenizer } from '../../lib/text/load-tokenizer.ts'
import { fixture, write } from './checkpoint-folder.ts'
import { fixtures, folder, json } from './tokenizer-shared.ts'

vi.setConfig({ testTimeout: 120_000 })

interface Case {
  base: 'a1-qwen2' | 'd1-qwen25' | 'f1-hf-qwen2'
  /** Files by name. */
  write?: Record<string, string>
  remove?: string[]
  /** Added tokens that get `normalized: true`. */
  normalized?: string[]
}

function folderOf({ base, write: written = {}, remove = [], normalized = [] }: Case): string {
  const dir = write(fixture(base))
  const from = join(fixtures, 'tokenizer', base)
  for (const name of readdirSync(from)) if (name !== 'golden.json') copyFileSync(join(from, name), join(dir, name))
  for (const [name, text] of Object.entries(written)) writeFileSync(join(dir, name), text)
  for (const name of remove) rmSync(join(dir, name))
  const mark = (tokens: { content: string; normalized: boolean }[]): void => {
    for (const token of tokens) if (normalized.includes(token.content)) token.normalized = true
  }
  for (const name of readdirSync(dir).filter((one) => /^tokenizer(_config)?\.json$/.test(one))) {
    const content = json(dir, name)
    mark(content.added_tokens ?? Object.values(content.added_tokens_decoder ?? {}))
    writeFileSync(join(dir, name), JSON.stringify(content))
  }
  return dir
}

const view = { data: new Uint8Array(64 * 48 * 3), width: 64, height: 48 }
const question = 'Is there a car <ref>car</ref> ahead? 12'

/** Prompt tokens of one question, a dialogue's second turn included. */
async function promptTokens(spec: Case): Promise<number[]> {
  const model = await loadModel(folderOf(spec), { precision: 'f32', device: 'cpu', threads: 1 })
  try {
    const { usage } = await model.ask(view, question, { maxNewTokens: 1 })
    const scene = await model.see(view)
    const chat = scene.chat()
    await chat.ask(question, { maxNewTokens: 1 })
    const second = await chat.ask(question, { maxNewTokens: 1 })
    return [usage.promptTokens, second.usage.promptTokens]
  } finally {
    await model.dispose()
  }
}

const caseOf = (name: string): Case => json(fixtures, 'cases', name, 'case.json')

describe('a role token saved as normalized', () => {
  test.each([['d1-qwen25'], ['a1-qwen2']] as const)('asks the same prompt: %s', async (base) => {
    const spec = { ...caseOf('added-token-normalized-role'), base }
    const plain = await promptTokens({ base })
    expect(await promptTokens(spec)).toEqual(plain)
    expect(plain[0]).toBe({ 'd1-qwen25': 140, 'a1-qwen2': 143 }[base])
  })
})

describe("a folder's own chat template", () => {
  test('one of another kind is refused by name', async () => {
    for (const source of [caseOf('hf-chat-template-foreign').write!['chat_template.jinja']!, 'hello']) {
      for (const spec of [
        { write: { 'chat_template.jinja': source } },
        { write: { 'chat_template.json': JSON.stringify({ chat_template: source }) }, remove: ['chat_template.jinja'] },
      ]) {
        await expect(promptTokens({ base: 'f1-hf-qwen2', ...spec })).rejects.toMatchObject({
          code: 'UNSUPPORTED_MODEL',
          message: expect.stringMatching(/^chat_template\.(jinja|json): prompts cannot be cut/),
        })
      }
    }
  })

  test('the published one, in any spelling and in any file, asks what it asked before; another one what it prints', async () => {
    const source = readFileSync(join(fixtures, 'tokenizer', 'f1-hf-qwen2', 'chat_template.jinja'), 'utf8')
    const plain = await promptTokens({ base: 'f1-hf-qwen2' })
    expect(plain[0]).toBe(240)
    const none = { base: 'f1-hf-qwen2', remove: ['chat_template.jinja'] } as const
    expect(await promptTokens({ ...none, remove: [...none.remove] })).toEqual(plain)
    const config = json(fixtures, 'tokenizer', 'f1-hf-qwen2', 'tokenizer_config.json')
    const inConfig = { 'tokenizer_config.json': JSON.stringify({ ...config, chat_template: source }) }
    expect(await promptTokens({ ...none, remove: [...none.remove], write: inConfig })).toEqual(plain)
    // Three line breaks more: behind the picture, behind the question, behind the answer.
    const longer = source.replaceAll("\\n' -}}", "\\n\\n' -}}")
    const changed = await promptTokens({ base: 'f1-hf-qwen2', write: { 'chat_template.jinja': longer } })
    expect(changed[0]).toBeGreaterThan(plain[0]!)
  })
})

describe('a Phi-3 tokenizer that the newest library saved', () => {
  const dir = join(fixtures, 'cases', 'phi3-tokenizer-saved-again')
  const files = (): Record<string, Uint8Array> =>
    Object.fromEntries(['tokenizer.json', 'tokenizer_config.json'].map((name) => [name, readFileSync(join(dir, name))]))

  test('gives the ids of its file, and says what to do', async () => {
    const { texts, ids, decoded } = json(dir, 'expected.json')
    const tokenizer = await loadTokenizer(folder(files()))
    expect(tokenizer.rules).toBe('tokenizer.json')
    for (const [i, text] of texts.entries()) {
      expect(tokenizer.encode(text), JSON.stringify(text)).toEqual(ids[i])
      expect(tokenizer.decode(ids[i]), JSON.stringify(text)).toBe(decoded[i])
    }
    expect(tokenizer.warning).toMatch(/tokenizer\.model of the original model/)
  })

  test('is silent where the original file is there, or was never read', async () => {
    const original = join(fixtures, 'tokenizer', 'c1-phi3')
    const model = readFileSync(join(original, 'tokenizer.model'))
    expect((await loadTokenizer(folder({ ...files(), 'tokenizer.model': model }))).warning).toBeUndefined()
    const config = { ...json(dir, 'tokenizer_config.json'), processor_class: 'InternVLProcessor' }
    expect((await loadTokenizer(folder({ ...files(), 'tokenizer_config.json': config }))).warning).toBeUndefined()
    for (const name of readdirSync(join(fixtures, 'tokenizer'))) {
      expect((await loadTokenizer(join(fixtures, 'tokenizer', name))).warning, name).toBeUndefined()
    }
  })

  test('a model that is loaded with it warns once and lists it', async () => {
    const to = write(fixture('c1-phi3'))
    for (const [name, bytes] of Object.entries(files())) writeFileSync(join(to, name), bytes)
    const emit = vi.spyOn(process, 'emitWarning').mockImplementation(() => {})
    const model = await loadModel(to, { precision: 'f32', device: 'cpu', threads: 1 })
    expect(emit).toHaveBeenCalledTimes(1)
    expect(emit).toHaveBeenCalledWith(expect.stringContaining('tokenizer.model'), 'DrivlmWarning')
    expect(model.info.warnings).toEqual([expect.stringContaining('tokenizer.model')])
    emit.mockRestore()
    await model.dispose()
  })
})

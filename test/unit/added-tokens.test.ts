import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { loadTokenizer } from '../../lib/text/load-tokenizer.ts'
import * as prompts from '../../lib/text/prompt.ts'
import { buildQuestion, buildScenePrompt, buildTurn, encodePrompt } from '../../lib/text/prompt.ts'
import { templateOf, templates } from '../../lib/text/templates.ts'
import { conversationRenderer } from '../../scripts/golden/conversation.mjs'
import { fixtures, folder, json } from './tokenizer-shared.ts'

const renderConversation = conversationRenderer(prompts)

interface Flags {
  id: number
  content: string
  lstrip: boolean
  rstrip: boolean
  single_word: boolean
  normalized: boolean
  special: boolean
}

interface Case {
  base: string
  /** Which reference: the compiled library reads tokenizer.json, the Python tokenizers read the other files. */
  by: 'compiled' | 'python'
  tokens: Flags[]
  normalizer?: object | null
  pre_tokenizer?: object | null
  texts: string[]
  ids: number[][]
}

const sideFiles =
  /^(vocab\.json|merges\.txt|tokenizer\.(json|model)|added_tokens\.json|tokenizer_config\.json|special_tokens_map\.json)$/

/** A fixture whose added tokens have other flags, and further ones. */
function changedFolder(base: string, tokens: Partial<Flags>[], change: Partial<Case> = {}): string {
  const dir = join(fixtures, 'tokenizer', base)
  const files: Record<string, string | Uint8Array | object> = {}
  for (const name of readdirSync(dir)) if (sideFiles.test(name)) files[name] = readFileSync(join(dir, name))
  if (change.by === 'python') delete files['tokenizer.json']
  const config = json(dir, 'tokenizer_config.json')
  const added = files['added_tokens.json'] ? json(dir, 'added_tokens.json') : {}
  const whole = files['tokenizer.json'] ? json(dir, 'tokenizer.json') : undefined
  for (const token of tokens) {
    const { id, ...rest } = token
    const known = Object.keys(config.added_tokens_decoder).find(
      (key) => config.added_tokens_decoder[key].content === token.content,
    )
    const key = known ?? String(id)
    config.added_tokens_decoder[key] = { ...config.added_tokens_decoder[key], ...rest }
    if (known === undefined) added[token.content!] = id
    if (!whole) continue
    const entry = whole.added_tokens.find((one: Flags) => one.content === token.content)
    if (entry) Object.assign(entry, rest)
    else whole.added_tokens.push(token)
  }
  files['tokenizer_config.json'] = config
  files['added_tokens.json'] = added
  if (whole) {
    if (change.normalizer !== undefined) whole.normalizer = change.normalizer
    if (change.pre_tokenizer !== undefined) whole.pre_tokenizer = change.pre_tokenizer
    files['tokenizer.json'] = whole
  }
  return folder(files)
}

describe('added tokens of every kind, with the ids of the reference', () => {
  const cases: Case[] = json(fixtures, 'cases', 'added-tokens.json')

  test.each(cases.map((entry, i) => [`${i} ${entry.base} ${entry.by}`, entry] as const))('%s', async (_, entry) => {
    const tokenizer = await loadTokenizer(changedFolder(entry.base, entry.tokens, entry))
    for (const [i, text] of entry.texts.entries()) {
      expect(tokenizer.encode(text), JSON.stringify(text)).toEqual(entry.ids[i])
      // Cutting a text into parts that are all trusted changes nothing.
      const parts = [...text].map((character) => ({ text: character, trusted: true }))
      expect(tokenizer.encode(parts), JSON.stringify(text)).toEqual(entry.ids[i])
    }
  })
})

describe('tokens of the template saved with other flags', () => {
  const bases = readdirSync(join(fixtures, 'tokenizer'))
  const roles = ['<|im_start|>', '<|im_end|>', '<img>', '</img>', '<|system|>', '<|user|>', '<|assistant|>', '<|end|>']
  const forms = bases.flatMap((base) =>
    (['compiled', 'python'] as const)
      .filter((by) => readdirSync(join(fixtures, 'tokenizer', base)).includes('tokenizer.json') || by === 'python')
      .map((by) => [base, by] as const),
  )

  test.each(forms)('normalized: true changes no prompt: %s, %s', async (base, by) => {
    const name = json(fixtures, 'tokenizer', base, 'golden.json').template
    const template = name === 'hf' ? templates['chatml-hf'] : templateOf(name)
    const plain = await loadTokenizer(changedFolder(base, [], { by }))
    const known = roles.filter((content) => plain.idOf(content) !== undefined)
    const question = `Is there a car <ref>car</ref> ahead? ${roles.join('')} e\u0301 12`
    for (const content of [...known.map((one) => [one]), known]) {
      const changed = await loadTokenizer(
        changedFolder(
          base,
          content.map((one) => ({ content: one, normalized: true })),
          { by },
        ),
      )
      const prompts = [plain, changed].map((tokenizer) => {
        const scene = buildScenePrompt(tokenizer, template, { imageTokens: [2, 1], layout: { kind: 'numbered' } })
        const bare = buildScenePrompt(tokenizer, template, { imageTokens: [], system: 'e\u0301' })
        const turns = [{ user: question, assistant: 'Yes. <|im_end|>' }, { user: question }]
        return [
          [...scene.ids],
          [...buildQuestion(tokenizer, template, scene, question)],
          [...bare.ids],
          [...buildQuestion(tokenizer, template, bare, question)],
          [...buildTurn(tokenizer, template, question)],
          [...encodePrompt(tokenizer, renderConversation(template, { turns }))],
        ]
      })
      expect(prompts[1], content.join(' ')).toEqual(prompts[0])
    }
  })

  test('a control token in a question is letters, whatever its flags, and one beside it in the template is none the less a token', async () => {
    for (const [base, by] of forms) {
      const plain = await loadTokenizer(changedFolder(base, [], { by }))
      const content = roles.find((one) => plain.idOf(one) !== undefined)!
      for (const flags of [{}, { lstrip: true }, { rstrip: true }, { special: false }]) {
        for (const normalized of [false, true]) {
          const tokenizer = await loadTokenizer(changedFolder(base, [{ content, normalized, ...flags }], { by }))
          const id = tokenizer.idOf(content)!
          const parts = (first: boolean, last: boolean) => [
            { text: `a${content}`, trusted: first },
            { text: content.slice(0, 3), trusted: first },
            { text: content.slice(3), trusted: last },
            { text: `${content} b`, trusted: last },
          ]
          const count = (first: boolean, last: boolean): number =>
            tokenizer.encode(parts(first, last)).filter((one) => one === id).length
          const what = `${base} ${by} ${JSON.stringify({ ...flags, normalized })}`
          expect([count(true, true), count(true, false), count(false, true), count(false, false)], what).toEqual([
            3, 1, 1, 0,
          ])
        }
      }
    }
  })

  test('a token that stands alone only is never where a prompt is cut', async () => {
    const template = templateOf('internvl2_5')
    const tokenizer = await loadTokenizer(changedFolder('d1-qwen25', [{ content: '</img>', single_word: true }]))
    const scene = buildScenePrompt(tokenizer, template, { imageTokens: [2], system: '' })
    for (const question of ['What?', ' x', '']) {
      const whole = renderConversation(template, {
        system: '',
        turns: [{ user: [{ imageTokens: 2 }, { text: `\n${question}` }] }],
      })
      const halves = [...scene.ids, ...buildQuestion(tokenizer, template, scene, question)]
      expect(halves).toEqual([...encodePrompt(tokenizer, whole)])
    }
  })
})

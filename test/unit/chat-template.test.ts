import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Template as Jinja } from '@huggingface/jinja'
import { beforeAll, describe, expect, test, vi } from 'vitest'
import { templateOfFolder } from '../../lib/text/chat-template.ts'
import { loadTokenizer } from '../../lib/text/load-tokenizer.ts'
import * as prompts from '../../lib/text/prompt.ts'
import { buildQuestion, buildScenePrompt, buildTurn, encodePrompt, imageSlot } from '../../lib/text/prompt.ts'
import { templates } from '../../lib/text/templates.ts'
import type { Tokenizer } from '../../lib/text/tokenizer.ts'
import { conversationRenderer, promptText } from '../../scripts/golden/conversation.mjs'
import { fixtures } from './tokenizer-shared.ts'

const renderConversation = conversationRenderer(prompts)

// A worker is begun for each template, and the machine may be busy.
vi.setConfig({ testTimeout: 120_000 })

const folder = join(fixtures, 'tokenizer', 'f1-hf-qwen2')
let tokenizer: Tokenizer
beforeAll(async () => {
  tokenizer = await loadTokenizer(folder)
})
const read = (source: string) => templateOfFolder({ source, file: 'chat_template.jinja' }, tokenizer)

const published =
  "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n'}}{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for content in message['content'] %}{% if content['type'] == 'image' %}{{ '<IMG_CONTEXT>\\n' }}{% elif content['type'] == 'video' %}{{ '<video>\\n' }}{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}{% endfor %}{% endif %}{{'<|im_end|>\\n'}}{% endfor %}{% if add_generation_prompt %}{{'<|im_start|>assistant\\n' }}{% endif %}"
const role = (name: string, text: string): string => `{{ '<|im_start|>${name}\n' + ${text} + '<|im_end|>\n' }}`
const ask = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
/** Texts and pictures of a message, as `text`. */
const flat = (picture: string, text = 'part.text'): string =>
  `{% set ns = namespace(t='') %}{% if m.content is string %}{% set ns.t = m.content %}{% else %}{% for part in m.content %}{% if part.type == 'image' %}{% set ns.t = ns.t + ${picture} %}{% else %}{% set ns.t = ns.t + ${text} %}{% endif %}{% endfor %}{% endif %}`

/** Templates that differ from the published one in all that prompts are made of. */
const others: Record<string, string> = {
  'a default system message': `{% if messages[0].role != 'system' %}${role('system', "'Be kind.'")}{% endif %}{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}${ask}`,
  'no line break behind a turn': published.replace("'<|im_end|>\\n'", "'<|im_end|>'"),
  'no line break behind a picture': published.replace('<IMG_CONTEXT>\\n', '<IMG_CONTEXT>'),
  'words around a picture': `{% for m in messages %}${flat("'Picture: <image>.\\n'")}{{ '<|im_start|>' + m.role + '\n' + ns.t + '<|im_end|>\n' }}{% endfor %}${ask}`,
  'blanks taken off': `{% for m in messages %}${flat("'<IMG_CONTEXT>\\n'", 'part.text | trim')}{{ '<|im_start|>' + m.role + '\n' }}{{ ns.t if m.role == 'user' and m.content is not string else ns.t | trim }}{{ '<|im_end|>\n' }}{% endfor %}${ask}`,
  'other ends and roles': `{% for m in messages %}${flat("'<IMG_CONTEXT>\\n'")}{% if m.role == 'user' %}{{ '[INST] ' + ns.t + ' [/INST]' }}{% elif m.role == 'system' %}{{ 'Rules: ' + ns.t + '\n\n' }}{% else %}{{ ' ' + ns.t + '<|im_end|>' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ ' ' }}{% endif %}`,
  'no system message': `{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system messages') }}{% endif %}${flat("'<IMG_CONTEXT>\\n'")}{{ '<|im_start|>' + m.role + '\n' + ns.t + '<|im_end|>\n' }}{% endfor %}${ask}`,
  'a token of the files': `{{ bos_token or '' }}{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + eos_token }}{% endfor %}${ask}`,
}

const words = ['What is ahead?', '', ' a\n', '<|im_end|>', 'e\u0301 x'] as const

describe('chat templates of -hf folders', () => {
  test('the published ones, however they are spelled, are the known template', async () => {
    const file = readFileSync(join(folder, 'chat_template.jinja'), 'utf8')
    for (const source of [
      file,
      published,
      published.replaceAll("'", '"'),
      published.replace('<IMG_CONTEXT>', '<image>'),
      published.replaceAll('%}{%', '%}\n  {%'),
    ]) {
      expect((await read(source)).template).toBe(templates['chatml-hf'])
    }
    const none = await templateOfFolder(undefined, tokenizer)
    expect(none).toMatchObject({ template: templates['chatml-hf'], note: expect.stringContaining('no chat template') })
  })

  test.each(Object.entries(others))('%s: prompts are what the template prints', async (_, source) => {
    const { template, note } = await read(source)
    expect(template.name).toBe('chat-template')
    expect(note).toContain('not that of the published')
    const jinja = new Jinja(source)
    const render = (messages: object[]): string =>
      jinja.render({ ...tokenizer.namedTokens, messages, add_generation_prompt: true })
    const systems = template.takesSystem === false ? [undefined] : [undefined, 'Rule.', ' padded \n']
    for (const system of systems) {
      const first = system === undefined ? [] : [{ role: 'system', content: system }]
      for (const question of words) {
        const turns = [{ user: question, assistant: 'Yes.' }, { user: question, assistant: 'No.' }, { user: question }]
        const messages = turns.flatMap(({ user, assistant }) => [
          { role: 'user', content: template.image?.inText ? user : [{ type: 'text', text: user }] },
          ...(assistant ? [{ role: 'assistant', content: assistant }] : []),
        ])
        const whole = renderConversation(template, { system, turns })
        expect(promptText(whole)).toBe(render([...first, ...messages]))

        const imageTokens = [2, 1]
        const given = [...imageTokens.map((count) => ({ imageTokens: count })), { text: question }]
        const content = template.image?.inText
          ? `<IMG_CONTEXT>\n<IMG_CONTEXT>\n${question}`
          : [{ type: 'image' }, { type: 'image' }, { type: 'text', text: question }]
        const printed = render([...first, { role: 'user', content }])
        const seen = renderConversation(template, { system, turns: [{ user: given }] })
        const marked = promptText(seen).replaceAll(/<img>(<IMG_CONTEXT>)+<\/img>/g, '<IMG_CONTEXT>')
        expect(marked).toBe(printed.replaceAll('<image>', '<IMG_CONTEXT>'))

        // Cut behind the pictures and behind the answer, the ids are the same.
        const scene = buildScenePrompt(tokenizer, template, { system, imageTokens })
        expect(scene.ids.at(-1)).toBe(tokenizer.idOf('</img>'))
        expect(scene.ids.filter((id) => id === imageSlot).length).toBe(3)
        const halves = [...scene.ids, ...buildQuestion(tokenizer, template, scene, question)]
        expect(halves).toEqual([...encodePrompt(tokenizer, seen)])
        const open = renderConversation(template, {
          system,
          turns: [{ user: given, assistant: 'Yes.' }, { user: question }],
        })
        const tail = buildTurn(tokenizer, template, question)
        expect([...encodePrompt(tokenizer, open)].slice(-tail.length)).toEqual([...tail])
      }
    }
    if (template.takesSystem === false) {
      expect(() => renderConversation(template, { system: 'x', turns: [{ user: 'a' }] })).toThrowError(
        expect.objectContaining({ code: 'UNSUPPORTED_MODEL' }),
      )
    }
  })

  const foreign = JSON.parse(readFileSync(join(fixtures, 'cases', 'hf-chat-template-foreign', 'case.json'), 'utf8'))
    .write['chat_template.jinja']

  test.each<[string, string, RegExp]>([
    ['another kind', foreign, /no added token .* behind an answer/],
    ['no question in it', 'hello', /every question/],
    ['nothing', '', /every question/],
    ['no program', '{{', /fails/],
    ['a program that fails', "{{ raise_exception('not today') }}", /fails \(not today\)/],
    [
      'turns of another kind',
      `{% for m in messages %}{{ '<|im_start|>' + m.content + '<|im_end|>' ~ loop.index }}{% endfor %}${ask}`,
      /before an answer|behind every answer/,
    ],
    [
      'thoughts before an answer',
      `${published.replace(/\{% if add_generation.*$/, '')}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}`,
      /before an answer/,
    ],
    [
      'loud questions',
      published
        .replace("{{ content['text'] }}", "{{ content['text'] | upper }}")
        .replace("{{ message['content'] }}", "{{ message['content'] | upper }}"),
      /every question/,
    ],
    [
      'questions cut short',
      published
        .replaceAll("content['text'] }}", "content['text'][:40] | replace(' ', '') }}")
        .replace("{{ message['content'] }}", "{{ message['content'] | replace(' ', '') }}"),
      /text of a question/,
    ],
    [
      'numbered pictures',
      published
        .replace("{{ '<IMG_CONTEXT>\\n' }}", "{{ loop.index ~ '<IMG_CONTEXT>\\n' }}")
        .replace("message['content'] is string", 'false'),
      /every picture/,
    ],
    [
      'a loop without end',
      '{% for i in range(10000) %}{% for j in range(10000) %}{{ j }}{% endfor %}{% endfor %}',
      /does more than/,
    ],
    ['a long list', '{{ range(1000000000) | length }}', /a number above/],
    [
      'a text that doubles',
      "{% set ns = namespace(s='aaaaaaaa') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s | upper }}",
      /more than 32768/,
    ],
    [
      'lists of lists of lists',
      '{% set ns = namespace(l=[1]) %}{% for i in range(40) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l | tojson }}',
      /does more than/,
    ],
    ['a list in itself', '{% set ns = namespace(l=1) %}{% set ns.l = [ns] %}{{ ns.l | tojson }}', /fails/],
    ['a deep expression', `{{ ${'('.repeat(20_000)}1${')'.repeat(20_000)} }}`, /fails/],
    ['a book', 'x'.repeat(300_000), /300000 characters/],
    ['a way out', "{{ messages.constructor.constructor('return process')().exit(1) }}", /fails/],
  ])('%s is refused by name', async (_, source, why) => {
    await expect(read(source)).rejects.toMatchObject({
      code: 'UNSUPPORTED_MODEL',
      message: expect.stringMatching(why),
    })
  })
})

/**
 * Prompt templates as data, byte for byte those of the reference's conversation.py, and which one a checkpoint wants.
 *
 * ```
 * prompt = systemStart + S + systemSep (or begin), then per turn  user + question + questionSep + assistant + answer + sep
 * ```
 * The last answer is open: generation starts right behind the assistant role.
 */
import { ModelError } from '../errors.ts'

export interface Template {
  name: TemplateName
  systemStart: string
  /** Default system message; undefined prints no system block at all. */
  systemMessage: string | undefined
  user: string
  assistant: string
  sep: string
  /** Token that ends a turn; generation stops at it. */
  stop: string
  /** The reference prints an empty message as the bare role, without separator; the -hf templates print it as any other. */
  emptyIsOpen: boolean
  /** Printed first where there is no system message: a default one, or a token for the beginning. */
  begin?: string | undefined
  /** Behind a system message and behind a question, where that is not `sep`. */
  systemSep?: string
  questionSep?: string
  /** Printed around a picture by the template itself, or, with `inText`, written into the text. Without it line breaks are part of a text. */
  image?: { before: string; after: string; inText?: boolean }
  /** Blanks around a question or a system message are taken off. */
  trimsQuestion?: boolean
  trimsSystem?: boolean
  /** False: there is no place for a system message. */
  takesSystem?: boolean
}

/** `chat-template` is what a folder's own chat template prints, where that is none of the known ones. */
export type TemplateName = 'Hermes-2' | 'internlm2-chat' | 'phi3-chat' | 'internvl2_5' | 'chatml-hf' | 'chat-template'

const internvl2 =
  '你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, 是一个有用无害的人工智能助手。'
const internvl25 =
  '你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。'

const chatml = {
  systemStart: '<|im_start|>system\n',
  user: '<|im_start|>user\n',
  assistant: '<|im_start|>assistant\n',
  sep: '<|im_end|>',
  stop: '<|im_end|>',
  emptyIsOpen: true,
}

export const templates: Readonly<Record<Exclude<TemplateName, 'chat-template'>, Template>> = {
  'Hermes-2': { ...chatml, name: 'Hermes-2', systemMessage: internvl2 },
  'internlm2-chat': { ...chatml, name: 'internlm2-chat', systemMessage: internvl2 },
  'phi3-chat': {
    name: 'phi3-chat',
    systemStart: '<|system|>\n',
    systemMessage: internvl2,
    user: '<|user|>\n',
    assistant: '<|assistant|>\n',
    sep: '<|end|>',
    stop: '<|end|>',
    emptyIsOpen: true,
  },
  internvl2_5: { ...chatml, name: 'internvl2_5', sep: '<|im_end|>\n', systemMessage: internvl25 },
  'chatml-hf': {
    ...chatml,
    name: 'chatml-hf',
    sep: '<|im_end|>\n',
    systemMessage: undefined,
    emptyIsOpen: false,
    image: { before: '', after: '\n' },
  },
}

/** System messages that the Mini-InternVL-Chat-*-V1-5 models were released with, under the same template names. */
export const systemMessagesV15: Readonly<Partial<Record<TemplateName, string>>> = {
  'Hermes-2': 'Answer the questions.',
  'internlm2-chat': 'You are an AI assistant whose name is InternLM (书生·浦语).',
  'phi3-chat': 'You are an AI assistant whose name is Phi-3.',
}

/** The template of a config's `template` key. */
export function templateOf(name: string): Template {
  const template = Object.hasOwn(templates, name) ? templates[name as keyof typeof templates] : undefined
  if (!template) {
    throw new ModelError(
      'UNSUPPORTED_MODEL',
      `Template ${JSON.stringify(name)} is not known; known are ${Object.keys(templates).join(', ')}.`,
    )
  }
  return template
}

/** Where a checkpoint's own system message may stand, in falling order of weight. */
export interface SystemMessageSources {
  /** What the checkpoint's own files state; null and undefined mean nothing. */
  config?: string | null | undefined
  /** A V1-5 checkpoint. */
  v15?: boolean
}

/** The template with the system message this checkpoint was trained with. */
export function withSystemMessage(template: Template, sources: SystemMessageSources): Template {
  const fallback = (sources.v15 ? systemMessagesV15[template.name] : undefined) ?? template.systemMessage
  return { ...template, systemMessage: sources.config ?? fallback }
}

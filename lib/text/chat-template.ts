/**
 * Chat templates of `-hf` folders (chat_template.jinja, or `chat_template` in tokenizer_config.json). They are programs; none is
 * run. The published ones differ in spelling only: what they print is compared with what the known template prints.
 */
import { ModelError } from '../errors.ts'
import { type Template, templates } from './templates.ts'

export interface RecognisedTemplate {
  template: Template
  /** False: a ChatML template this package has not seen. It gets the plain form, and people should be told. */
  exact: boolean
  /** Why, in a sentence. */
  note: string
}

const maxLength = 1 << 18
/** What the known templates print, in order; the image line is `<IMG_CONTEXT>\n` now and was `<image>\n` first. */
const known = [
  ['<|im_start|>', '\n', '<IMG_CONTEXT>\n', '<video>\n', '<|im_end|>\n', '<|im_start|>assistant\n'],
  ['<|im_start|>', '\n', '<image>\n', '<video>\n', '<|im_end|>\n', '<|im_start|>assistant\n'],
  ['<|im_start|>', '\n', '<IMG_CONTEXT>\n', '<|im_end|>\n', '<|im_start|>assistant\n'],
  ['<|im_start|>', '\n', '<image>\n', '<|im_end|>\n', '<|im_start|>assistant\n'],
].map((prints) => JSON.stringify(prints))

/** The template to use for a folder's chat template; undefined text means the folder has none. */
export function recogniseChatTemplate(text: string | undefined): RecognisedTemplate {
  const template = templates['chatml-hf']
  if (text === undefined)
    return {
      template,
      exact: false,
      note: 'The folder has no chat template; the plain ChatML form of the -hf models is used.',
    }
  const prints = printedLiterals(text.slice(0, maxLength))
  if (known.includes(JSON.stringify(prints)))
    return { template, exact: true, note: 'The chat template is that of the published -hf models.' }
  const printed = prints.join('')
  if (text.length <= maxLength && printed.includes('<|im_start|>') && printed.includes('<|im_end|>')) {
    return {
      template,
      exact: false,
      note: 'The chat template is of the ChatML kind but not one this package knows; its plain form, without a default system message, is used.',
    }
  }
  throw new ModelError(
    'UNSUPPORTED_MODEL',
    `The chat template prints neither <|im_start|> nor <|im_end|> in a form this package can follow; supported are the ChatML templates of the InternVL -hf models.`,
  )
}

/** String literals of the `{{ … }}` parts and text outside of tags, in order. Keys in `[…]` are not printed. */
function printedLiterals(source: string): string[] {
  const out: string[] = []
  let at = 0
  /** White space before the next text is cut: behind `-%}`, or the line end behind `%}`. */
  let trim: 'none' | 'line' | 'all' = 'none'
  while (at < source.length) {
    const open = nextTag(source, at)
    let text = source.slice(at, open)
    if (trim === 'all') text = text.replace(/^\s+/, '')
    else if (trim === 'line' && text.startsWith('\n')) text = text.slice(1)
    if (open < source.length) {
      if (source[open + 2] === '-') text = text.trimEnd()
      else if (source[open + 1] !== '{') text = text.slice(0, lastLineIndent(text))
    }
    if (text !== '') out.push(text)
    if (open >= source.length) break
    const kind = source[open + 1]!
    const close = kind === '{' ? '}}' : kind === '%' ? '%}' : '#}'
    const end = tagEnd(source, open + 2, close, kind !== '#')
    const body = source.slice(open + 2, end)
    if (kind === '{') out.push(...printedStrings(body))
    trim = body.endsWith('-') ? 'all' : kind === '{' ? 'none' : 'line'
    at = end + 2
  }
  return out
}

function nextTag(source: string, from: number): number {
  for (let at = source.indexOf('{', from); at >= 0; at = source.indexOf('{', at + 1)) {
    if (source[at + 1] === '{' || source[at + 1] === '%' || source[at + 1] === '#') return at
  }
  return source.length
}

/** Start of the blanks that lead up to a tag on its own line. */
function lastLineIndent(text: string): number {
  let at = text.length
  while (at > 0 && (text[at - 1] === ' ' || text[at - 1] === '\t')) at--
  return at === 0 || text[at - 1] === '\n' ? at : text.length
}

/** Where the closing mark stands, quoted text passed over. */
function tagEnd(source: string, from: number, close: string, quotes: boolean): number {
  for (let at = from; at < source.length; at++) {
    if (source.startsWith(close, at)) return at
    if (quotes && (source[at] === "'" || source[at] === '"')) at = stringEnd(source, at)
  }
  return source.length
}

/** Position of the closing quote. */
function stringEnd(source: string, from: number): number {
  for (let at = from + 1; at < source.length; at++) {
    if (source[at] === '\\') at++
    else if (source[at] === source[from]) return at
  }
  return source.length
}

function printedStrings(body: string): string[] {
  const out: string[] = []
  for (let at = 0; at < body.length; at++) {
    if (body[at] !== "'" && body[at] !== '"') continue
    const end = stringEnd(body, at)
    const isKey = body.slice(0, at).trimEnd().endsWith('[')
    if (!isKey)
      out.push(
        body.slice(at + 1, end).replace(/\\(.)/gs, (_, character: string) => (character === 'n' ? '\n' : character)),
      )
    at = end
  }
  return out
}

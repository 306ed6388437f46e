/**
 * Chat templates of `-hf` folders (chat_template.jinja, or `chat_template` in tokenizer_config.json). A template is rendered for conversations of
 * known words; what stands between the words are the pieces that prompts are made of: before a system message, before a question, before an
 * answer, behind it, around a picture. A template whose pieces are not the same in every turn, or whose answers no token ends, is refused.
 */
import { ModelError } from '../errors.ts'
import { type Rendered, renderAll } from './jinja.ts'
import { type Template, templates } from './templates.ts'
import type { Tokenizer } from './tokenizer.ts'

export interface FolderTemplate {
  template: Template
  /** What was decided, in a sentence. */
  note: string
}

/** What a template is given, as the library gives it: a content is a text, or a list of parts. */
type Part = { type: 'text'; text: string } | { type: 'image' }
type Content = string | Part[]
interface Message {
  role: 'system' | 'user' | 'assistant'
  content: Content
}

const system = 'DrivlmSystem'
const questions = ['DrivlmQuestionA', 'DrivlmQuestionB', 'DrivlmQuestionC'] as const
const answers = ['DrivlmAnswerA', 'DrivlmAnswerB'] as const
const label = 'DrivlmLabel'
const blank = ' \n '
/** What templates print for a picture, before the processor puts its tokens there. */
const pictures = ['<IMG_CONTEXT>', '<image>']

/** Ways to write contents: the library's processors pass lists; templates for texts only take strings. */
const forms = ['lists', 'lists for questions', 'strings'] as const
type Form = (typeof forms)[number]

/**
 * The prompt template of an `-hf` folder.
 *
 * @param chatTemplate - Source and file; undefined means the folder has none.
 * @param tokenizer - Says which tokens end an answer.
 * @throws {@link ModelError} `UNSUPPORTED_MODEL` for a template that prompts cannot be cut from; the message says why.
 */
export async function templateOfFolder(
  chatTemplate: { source: string; file: string } | undefined,
  tokenizer: Tokenizer | undefined,
): Promise<FolderTemplate> {
  if (chatTemplate === undefined) {
    return {
      template: templates['chatml-hf'],
      note: 'The folder has no chat template; the ChatML form of the published -hf models is used.',
    }
  }
  const { source, file } = chatTemplate
  if (tokenizer === undefined) {
    return { template: templates['chatml-hf'], note: `${file} was not looked at, as there is no tokenizer.` }
  }
  const contexts = forms.flatMap((form) =>
    probes(form).map(([messages, generate]) => ({
      ...tokenizer.namedTokens,
      messages,
      add_generation_prompt: generate,
    })),
  )
  const rendered = await renderAll(source, contexts, file)
  const count = rendered.length / forms.length
  let furthest: Refusal = { step: -1, why: '' }
  for (const [i, form] of forms.entries()) {
    const pieces = readPieces(rendered.slice(i * count, (i + 1) * count), form, tokenizer)
    if (!('why' in pieces)) return described(pieces, file)
    if (pieces.step >= furthest.step) furthest = pieces
  }
  throw new ModelError(
    'UNSUPPORTED_MODEL',
    `${file}: prompts cannot be cut from this chat template: it ${furthest.why}. Put the template of the published model there, or remove the file for the ChatML form of the -hf models.`,
  )
}

function described(template: Template, file: string): FolderTemplate {
  const published = templates['chatml-hf']
  const same = (Object.keys(template) as (keyof Template)[]).every(
    (key) => key === 'name' || JSON.stringify(template[key]) === JSON.stringify(published[key]),
  )
  if (same) return { template: published, note: `${file} prints what the published -hf models do.` }
  return { template, note: `${file} is not that of the published -hf models; prompts follow what it prints.` }
}

/** Conversations of one form, and whether an answer is to be made. {@link readPieces} takes them in this order. */
function probes(form: Form): [Message[], boolean][] {
  const content = (text: string, role: Message['role']): Content =>
    form === 'strings' || (form !== 'lists' && role !== 'user') ? text : [{ type: 'text', text }]
  const say = (role: Message['role'], text: string): Message => ({ role, content: content(text, role) })
  const [q1, q2, q3] = questions.map((text) => say('user', text)) as [Message, Message, Message]
  const [a1, a2] = answers.map((text) => say('assistant', text)) as [Message, Message]
  const ask = (...parts: Part[]): Message => ({ role: 'user', content: parts })
  const text = (words: string): Part => ({ type: 'text', text: words })
  const image: Part = { type: 'image' }
  return [
    [[q1], true],
    [[q1, a1, q2], true],
    [[q1, a1, q2, a2, q3], true],
    [[say('system', system), q1], true],
    [[say('system', system), q1, a1, q2], true],
    [[q1, a1], false],
    [[say('user', blank + questions[0] + blank)], true],
    [[say('system', blank + system + blank), q1], true],
    [[ask(image, text(questions[0]))], true],
    [[ask(text(label), image, image, text(questions[0]))], true],
  ]
}

/** Why a template was refused, and how far it came: of three forms the one that came furthest is spoken of. */
interface Refusal {
  step: number
  why: string
}

/** The template that renderings show, or why there is none. */
function readPieces(rendered: Rendered[], form: Form, tokenizer: Tokenizer): Template | Refusal {
  const refuse = (step: number, why: string): Refusal => ({ step, why })
  const [one, two, three, withSystem, systemAndTurns, closed, blankQuestion, blankSystem, picture, labelled] = rendered
  const failed = [one, two, three].find((result) => 'error' in result!)
  if (failed && 'error' in failed) return refuse(0, `fails (${failed.error})`)
  const first = cut(one, [questions[0]])
  const second = cut(two, [questions[0], answers[0], questions[1]])
  const third = cut(three, [questions[0], answers[0], questions[1], answers[1], questions[2]])
  if (!first || !second || !third) return refuse(1, 'does not print every question and answer once, in order')
  const [opening, questionEnd] = first as [string, string]
  const answerEnd = second[2]!
  if ([second[0], third[0]].some((piece) => piece !== opening))
    return refuse(2, 'begins a conversation in another way when it has more turns')
  if ([second[1], second[3], third[1], third[3], third[5]].some((piece) => piece !== questionEnd))
    return refuse(
      3,
      'prints something else before an answer that is there than before one that is to be made, so a conversation cannot go on',
    )
  if ([third[2], third[4]].some((piece) => piece !== answerEnd))
    return refuse(4, 'does not print the same behind every answer')
  const stop = tokenizer.addedTokensIn(answerEnd)[0]
  if (!stop || stop.end !== stop.content.length || !answerEnd.startsWith(stop.content))
    return refuse(
      5,
      'prints no added token of this tokenizer right behind an answer, so nothing says where an answer ends',
    )
  const turn = turnsOf(opening, questionEnd, answerEnd, stop.content, cut(closed, [questions[0], answers[0]])?.[2])
  if (!turn) return refuse(6, 'begins its first turn in another way than the others')
  const image = readImage(form, { picture, labelled, opening, questionEnd })
  if (typeof image === 'string') return refuse(3, image)
  const trimsQuestion = trims(blankQuestion, questions[0], opening, questionEnd)
  if (trimsQuestion === undefined) return refuse(7, 'changes the text of a question')
  const head = readSystem({ withSystem, systemAndTurns, blankSystem, questionEnd, answerEnd, turn })
  if (typeof head === 'string') return refuse(8, head)
  const bos = tokenizer.addsBos && tokenizer.bosId !== undefined ? (tokenizer.tokenOf(tokenizer.bosId) ?? '') : ''
  // Encoding puts bos first by itself.
  const unmarked = (text: string): string => (bos !== '' && text.startsWith(bos) ? text.slice(bos.length) : text)
  return {
    ...templates['chatml-hf'],
    name: 'chat-template',
    ...turn,
    ...head,
    systemStart: unmarked(head.systemStart),
    begin: turn.begin === undefined ? undefined : unmarked(turn.begin),
    stop: stop.content,
    image,
    ...(trimsQuestion ? { trimsQuestion } : {}),
  }
}

/** Texts around words that stand in a rendering once each and in order; undefined if they do not. */
function cut(rendered: Rendered | undefined, words: readonly string[]): string[] | undefined {
  if (!rendered || 'error' in rendered) return undefined
  const pieces: string[] = []
  let from = 0
  for (const word of words) {
    const at = rendered.text.indexOf(word, from)
    if (at < 0) return undefined
    pieces.push(rendered.text.slice(from, at))
    from = at + word.length
  }
  pieces.push(rendered.text.slice(from))
  const all = [system, label, ...questions, ...answers]
  return pieces.some((piece) => all.some((word) => piece.includes(word))) ? undefined : pieces
}

/** Ends of turns and roles: `answerEnd` is the end of an answer and the role of a question, `questionEnd` the same of the other two. */
function turnsOf(
  opening: string,
  questionEnd: string,
  answerEnd: string,
  stop: string,
  closed: string | undefined,
): Pick<Template, 'begin' | 'user' | 'assistant' | 'sep' | 'questionSep'> | undefined {
  const ends = (sep: string): boolean => answerEnd.startsWith(sep) && opening.endsWith(answerEnd.slice(sep.length))
  let sep = closed?.startsWith(stop) && ends(closed) ? closed : undefined
  for (let length = stop.length; sep === undefined && length <= answerEnd.length; length++) {
    if (ends(answerEnd.slice(0, length))) sep = answerEnd.slice(0, length)
  }
  if (sep === undefined) return undefined
  const user = answerEnd.slice(sep.length)
  const begin = opening.slice(0, opening.length - user.length)
  const shared = questionEnd.startsWith(sep)
  return {
    begin: begin === '' ? undefined : begin,
    user,
    assistant: shared ? questionEnd.slice(sep.length) : questionEnd,
    sep,
    ...(shared ? {} : { questionSep: '' }),
  }
}

/** Whether blanks around a text are taken off; undefined if something else is done to it. */
function trims(rendered: Rendered | undefined, word: string, before: string, behind: string): boolean | undefined {
  if (!rendered || 'error' in rendered) return undefined
  if (rendered.text === before + word + behind) return true
  return rendered.text === before + blank + word + blank + behind ? false : undefined
}

interface SystemProbes {
  withSystem: Rendered | undefined
  systemAndTurns: Rendered | undefined
  blankSystem: Rendered | undefined
  questionEnd: string
  answerEnd: string
  turn: Pick<Template, 'user' | 'sep'>
}

function readSystem(
  probes: SystemProbes,
): Pick<Template, 'systemStart' | 'systemSep' | 'trimsSystem' | 'takesSystem'> | string {
  const { withSystem, systemAndTurns, blankSystem, questionEnd, answerEnd, turn } = probes
  const one = cut(withSystem, [system, questions[0]])
  // A template without a place for a system message is fine as long as none is given.
  if (!one) return { systemStart: '', takesSystem: false }
  const two = cut(systemAndTurns, [system, questions[0], answers[0], questions[1]])
  const [systemStart, systemEnd] = one as [string, string]
  const same =
    one[2] === questionEnd &&
    two?.join('\0') === [systemStart, systemEnd, questionEnd, answerEnd, questionEnd].join('\0')
  if (!same || !systemEnd.endsWith(turn.user)) return 'prints turns in another way where there is a system message'
  const trimmed = trims(blankSystem, system, systemStart, systemEnd + questions[0] + questionEnd)
  if (trimmed === undefined) return 'changes the text of a system message'
  const systemSep = systemEnd.slice(0, systemEnd.length - turn.user.length)
  return {
    systemStart,
    ...(systemSep === turn.sep ? {} : { systemSep }),
    ...(trimmed ? { trimsSystem: true } : {}),
  }
}

interface PictureProbes {
  picture: Rendered | undefined
  labelled: Rendered | undefined
  opening: string
  questionEnd: string
}

function readImage(
  form: Form,
  { picture, labelled, opening, questionEnd }: PictureProbes,
): NonNullable<Template['image']> | string {
  // A text with the picture's mark in it and a line break, as the processor is used with such templates.
  if (form === 'strings') return { before: '', after: '\n', inText: true }
  const found = cut(picture, [questions[0]])
  const mark = found && pictures.find((one) => found[0]!.split(one).length === 2)
  if (!found || !mark || !found[0]!.startsWith(opening) || found[1] !== questionEnd)
    return `prints no ${pictures.join(' or ')} for a picture`
  const [before, after] = found[0]!.slice(opening.length).split(mark) as [string, string]
  const whole = opening + label + (before + mark + after).repeat(2) + questions[0] + questionEnd
  if (!labelled || 'error' in labelled || labelled.text !== whole)
    return 'does not print the same for every picture, in the order of the texts and pictures'
  return { before, after }
}

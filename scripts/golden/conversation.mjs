/**
 * Whole conversations as the reference renders them, put together from the pieces that the package's own prompts are made of: texts with
 * pictures anywhere, given answers, videos. The package itself never renders more than a scene, a question behind it or a turn, so this is no
 * part of it; tests hand in the sources, goldens the compiled package.
 *
 * @typedef {import('../../lib/text/prompt.ts').PromptPart} PromptPart
 * @typedef {import('../../lib/text/prompt.ts').ImagePart} ImagePart
 * @typedef {import('../../lib/text/templates.ts').Template} Template
 *
 * @typedef {{ text: string } | ImagePart | { frames: number[] }} MessagePart  text (never trusted), an image, or a video by its frames' image tokens
 * @typedef {{ user: string | readonly MessagePart[], assistant?: string | null }} Turn  without an answer it is open: only the last may be
 * @typedef {{ system?: string | undefined, turns: readonly Turn[] }} Conversation
 */

/**
 * `<image>` in texts, filled from left to right with images of so many tokens; further ones stay text.
 *
 * @param {readonly string[]} texts
 * @param {readonly number[]} imageTokens
 * @returns {MessagePart[][]}
 */
export function fillPlaceholders(texts, imageTokens) {
  let used = 0
  return texts.map((text) => {
    /** @type {MessagePart[]} */
    const parts = []
    const pieces = text.split('<image>')
    let pending = pieces[0]
    for (const piece of pieces.slice(1)) {
      if (used < imageTokens.length) {
        parts.push({ text: pending }, { imageTokens: imageTokens[used++] })
        pending = piece
      } else pending += `<image>${piece}`
    }
    parts.push({ text: pending })
    return parts
  })
}

/**
 * The prompt as one string, image tokens written out: what the reference tokenises.
 *
 * @param {readonly PromptPart[]} parts
 */
export function promptText(parts) {
  return parts
    .map((part) => ('text' in part ? part.text : `<img>${'<IMG_CONTEXT>'.repeat(part.imageTokens)}</img>`))
    .join('')
}

/**
 * What renders whole conversations with these pieces.
 *
 * @param {Pick<typeof import('../../lib/text/prompt.ts'), 'headParts' | 'imageParts' | 'questionText' | 'questionEnd' | 'nextQuestion'>} pieces
 * @returns {(template: Template, conversation: Conversation) => PromptPart[]}
 */
export function conversationRenderer({ headParts, imageParts, questionText, questionEnd, nextQuestion }) {
  const trusted = (text) => ({ text, trusted: true })

  const userParts = (template, content) => {
    if (typeof content === 'string') return [questionText(template, content, false)]
    const out = []
    for (const part of content) {
      if ('text' in part) out.push(questionText(template, part.text, out.length > 0))
      else if ('imageTokens' in part) out.push(...imageParts(template, part))
      else {
        for (const [i, imageTokens] of part.frames.entries()) {
          out.push(trusted(`Frame${i + 1}: `), { imageTokens })
          if (i + 1 < part.frames.length || template.image) out.push(trusted('\n'))
        }
      }
    }
    return out
  }

  return (template, { system, turns }) => {
    const out = headParts(template, system)
    for (const [i, { user, assistant }] of turns.entries()) {
      const last = i === turns.length - 1
      const question = userParts(template, user)
      const empty = question.every((part) => 'text' in part && part.text === '')
      out.push(...question, trusted(questionEnd(template, template.emptyIsOpen && empty)))
      if (typeof assistant !== 'string') {
        if (last) break
        throw new Error(`Turn ${i + 1} of ${turns.length} has no answer; only the last may be open.`)
      }
      const open = template.emptyIsOpen && assistant === ''
      if (open) out.push(...(last ? [] : [trusted(template.user)]))
      else out.push({ text: assistant, trusted: false }, trusted(last ? template.sep : nextQuestion(template)))
    }
    return out
  }
}

/** Classification as a question: multiple choice with letters, or a closed list of classes; and reading the answer. */
import { ModelError } from '../errors.ts'

/**
 * `drivelm` puts the options into one sentence behind the question, as DriveLM's test files do; `lines` gives each its line and asks
 * for the letter, the general form of the family.
 */
export type ChoiceForm = 'drivelm' | 'lines'

/** Letters of the options, A to Z. */
export function choiceLetter(index: number): string {
  return String.fromCharCode(65 + index)
}

function checkChoices(choices: readonly string[]): void {
  if (choices.length < 2 || choices.length > 26 || choices.some((choice) => choice.trim() === '')) {
    throw new ModelError('BAD_ARGUMENT', `${choices.length} choices; give 2 to 26, none of them empty.`)
  }
}

/** A question with lettered options. */
export function choiceQuestion(question: string, choices: readonly string[], form: ChoiceForm = 'drivelm'): string {
  checkChoices(choices)
  const options = choices.map((choice, i) => `${choiceLetter(i)}. ${choice}`)
  if (form === 'drivelm')
    return `${question} Please select the correct answer from the following options: ${options.join(' ')}`
  return `${question}\n${options.join('\n')}\nAnswer with the option's letter from the given choices directly.`
}

/** `Classify the image within one of the given classes: …`. */
export function classifyQuestion(classes: readonly string[]): string {
  checkClasses(classes)
  return `Classify the image within one of the given classes: ${classes.join(', ')}. Answer with one word or short phrase.`
}

function checkClasses(classes: readonly string[]): void {
  if (classes.length < 2 || classes.some((name) => name.trim() === '')) {
    throw new ModelError('BAD_ARGUMENT', `${classes.length} classes; give at least 2, none of them empty.`)
  }
}

/** Asks for a short answer. */
export function shortAnswerQuestion(question: string): string {
  return `${question}\nAnswer the question using a single word or phrase.`
}

const bareLetter = /^\(?([A-Za-z])[.):]{0,2}$/
const leadingLetter = /^\(?([A-Z])[.):]{1,2}\s/
const namedLetter = /\b(?:answer|option|choice)(?: is)?:? {0,4}\(?([A-Z])(?=[).,;:!\s]|$)/

/**
 * Which of the choices an answer means, undefined when it does not say. A letter (`B`, `(B)`, `B. Stopped.`, `The answer is B`)
 * counts first, then the text of one choice, then the only choice that the answer mentions.
 */
export function readChoice(
  answer: string,
  choices: readonly string[],
  options: { letters?: boolean } = {},
): number | undefined {
  const text = answer.slice(0, 4096).trim()
  const plain = normal(text)
  const exact = choices.findIndex((choice) => normal(choice) === plain)
  if (options.letters ?? true) {
    const letter = (bareLetter.exec(text) ?? leadingLetter.exec(text) ?? namedLetter.exec(text))?.[1]
    const index = letter === undefined ? -1 : letter.toUpperCase().charCodeAt(0) - 65
    if (index >= 0 && index < choices.length && (exact < 0 || exact === index)) return index
  }
  if (exact >= 0) return exact
  const mentioned = choices.map((choice, i) => ({ i, at: normal(choice) })).filter(({ at }) => mentions(plain, at))
  // `turn left` also mentions `left`: the longer one covers the shorter.
  const outer = mentioned.filter(({ at }) => !mentioned.some((other) => other.at !== at && mentions(other.at, at)))
  return outer.length === 1 ? outer[0]!.i : undefined
}

function normal(text: string): string {
  return text.trim().toLowerCase().replace(/\s+/g, ' ').replace(/[.!]$/, '')
}

/** Whole words only. */
function mentions(text: string, phrase: string): boolean {
  const word = /[\p{L}\p{N}]/u
  for (let at = text.indexOf(phrase); at >= 0; at = text.indexOf(phrase, at + 1)) {
    const before = text[at - 1] ?? ' '
    const after = text[at + phrase.length] ?? ' '
    if (!word.test(before) && !word.test(after)) return true
  }
  return false
}

/**
 * Renders chat templates with @huggingface/jinja. A template is a program from outside: it runs in a worker of its own, what its values weigh is
 * counted, and its time is limited.
 */
import { createRequire } from 'node:module'
import { Worker } from 'node:worker_threads'
import { ModelError } from '../errors.ts'

/** What one rendering printed, or why it failed. */
export type Rendered = { text: string } | { error: string }

const maxTemplateLength = 1 << 18
const limits = { maxText: 1 << 15, maxNumber: 100_000, maxCount: 10_000, budget: 16_000_000 }
const limitMs = 10_000
const resourceLimits = { stackSizeMb: 2 }

/**
 * Every value that an expression or a block has passes through the interpreter's `evaluate`, so that is where its size is looked at: a string may not be
 * longer than `maxText`, and what the values of all renderings weigh together may not exceed `budget`. A value that is too large is thrown away the moment it is made.
 */
const program = `
const { parentPort, workerData } = require('node:worker_threads')
const { library, source, contexts, limits } = workerData
const { Environment, Interpreter, Template } = require(library)
const tooMuch = 'does more than a chat template does'
let left = limits.budget
const weigh = (value) => {
  left -= 64
  const held = value === undefined || value === null ? undefined : value.value
  if (typeof held === 'string') {
    if (held.length > limits.maxText) throw new Error('makes a text of more than ' + limits.maxText + ' characters')
    left -= held.length
  } else if (typeof held === 'number') {
    if (!(Math.abs(held) <= limits.maxNumber)) throw new Error('makes a number above ' + limits.maxNumber)
  } else if (Array.isArray(held) || held instanceof Map) {
    for (const one of held.values()) {
      if (left < 0) break
      weigh(one)
    }
  }
  if (left < 0) throw new Error(tooMuch)
}
const evaluate = Interpreter.prototype.evaluate
Interpreter.prototype.evaluate = function (statement, environment) {
  const value = evaluate.call(this, statement, environment)
  weigh(value)
  return value
}
const range = (start, stop, step = 1) => {
  const [from, to] = stop === undefined ? [0, start] : [start, stop]
  const count = Math.max(0, Math.ceil((to - from) / step))
  if (!(count <= limits.maxCount)) throw new Error('counts to more than ' + limits.maxCount)
  return Array.from({ length: count }, (_, i) => from + i * step)
}
const set = Environment.prototype.set
Environment.prototype.set = function (name, value) {
  return set.call(this, name, name === 'range' ? range : value)
}
const attempt = (run) => {
  try {
    return run()
  } catch (error) {
    return { error: String(error && error.message).slice(0, 300) }
  }
}
const parsed = attempt(() => ({ template: new Template(source) }))
const render = (context) => {
  if (left < 0) throw new Error(tooMuch)
  return { text: String(parsed.template.render(context)) }
}
parentPort.postMessage(contexts.map((context) => (parsed.error === undefined ? attempt(() => render(context)) : parsed)))
`

/**
 * Renders a template once for each context.
 *
 * @param source - Jinja, as transformers reads it.
 * @param file - Where it came from, for errors.
 * @throws {@link ModelError} `UNSUPPORTED_MODEL` if it takes too much time or memory.
 */
export async function renderAll(source: string, contexts: readonly object[], file: string): Promise<Rendered[]> {
  const library = createRequire(import.meta.url).resolve('@huggingface/jinja')
  const refused = (what: string, cause?: unknown): ModelError =>
    new ModelError(
      'UNSUPPORTED_MODEL',
      `${file}: the chat template ${what}; take the file from the model's repository.`,
      cause === undefined ? {} : { cause },
    )
  if (source.length > maxTemplateLength)
    throw refused(`has ${source.length} characters, at most ${maxTemplateLength} are read`)
  const worker = new Worker(program, {
    eval: true,
    workerData: { library, source, contexts, limits },
    resourceLimits,
    env: {},
    execArgv: [],
    stdout: true,
    stderr: true,
  })
  let timer: NodeJS.Timeout | undefined
  try {
    return await new Promise((resolve, reject) => {
      timer = setTimeout(() => reject(refused(`took more than ${limitMs / 1000} s`)), limitMs)
      worker.once('message', resolve)
      worker.once('error', (error) => reject(refused(`failed (${error.message})`, error)))
      worker.once('exit', () => reject(refused('ended without a result')))
    })
  } finally {
    clearTimeout(timer)
    await worker.terminate()
  }
}

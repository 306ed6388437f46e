/**
 * The judge as a program: it is started for every answer, reads one line of JSON `{ id, question, answer, reference }` from stdin, and
 * prints a number. What it said is kept, so that an interrupted scoring pays for no reply twice.
 */
import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { setMaxListeners } from 'node:events'
import { appendFile, readFile } from 'node:fs/promises'
import { ModelError } from '../errors.ts'
import { type Judge, parseJudgement } from '../evaluate/metrics/judge.ts'
import { cannotWrite, writeWhole } from '../whole-file.ts'

interface Kept {
  id: string
  /** The reply as it came, trimmed. */
  score: string
  /** Of command, question, answer and reference. */
  of: string
}

/**
 * @param file - Where replies are kept, a line each; `--judgements` takes such a file.
 */
export async function judgeByCommand(command: string, file: string | undefined, signal: AbortSignal): Promise<Judge> {
  const kept = file === undefined ? new Map<string, Kept>() : await readKept(file)
  let writing = Promise.resolve()
  setMaxListeners(0, signal) // one a judge at work
  return async (question, answer, reference, id) => {
    const of = createHash('sha256')
      .update(JSON.stringify([command, question, answer, reference]))
      .digest('hex')
    const known = kept.get(id)
    if (known?.of === of) return parseJudgement(known.score, `${file}, about ${id},`)
    const reply = await ask(command, `${JSON.stringify({ id, question, answer, reference })}\n`, id, signal)
    const score = parseJudgement(reply, `The judge command, about ${id},`)
    const line: Kept = { id, score: reply.trim(), of }
    kept.set(id, line)
    if (file !== undefined) {
      // With a new reply about an answer that changed, the old one goes.
      writing = writing.then(() =>
        known === undefined ? appendFile(file, `${JSON.stringify(line)}\n`) : writeWhole(file, linesOf(kept)),
      )
      await writing.catch((error) => {
        throw cannotWrite(file, error)
      })
    }
    return score
  }
}

const linesOf = (kept: ReadonlyMap<string, Kept>): string =>
  [...kept.values()].map((line) => `${JSON.stringify(line)}\n`).join('')

/** Whole lines of an earlier scoring; what a kill cut off is dropped from the file as well. */
async function readKept(file: string): Promise<Map<string, Kept>> {
  const kept = new Map<string, Kept>()
  const text = await readFile(file, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return ''
    throw new ModelError('BAD_DATA', `${file} cannot be read: ${error.message}.`, { cause: error })
  })
  for (const line of text.split('\n')) {
    try {
      const one = JSON.parse(line) as Kept
      if (typeof one.id === 'string' && typeof one.score === 'string' && typeof one.of === 'string')
        kept.set(one.id, one)
    } catch {
      // Half a line, or none.
    }
  }
  if (text !== '' && text !== linesOf(kept)) await writeWhole(file, linesOf(kept))
  return kept
}

const mostReply = 1 << 16

/** How long what a judge wrote may be on its way when it has ended: a program that it left in the background may keep its outputs open for good. */
const graceMs = 200

function ask(command: string, input: string, id: string, signal: AbortSignal): Promise<string> {
  return new Promise((resolve, reject) => {
    const fail = (what: string): void => {
      reject(new ModelError('BAD_DATA', `The judge command ${what} for question ${id}.`))
    }
    if (signal.aborted) {
      fail('was not started')
      return
    }
    // A group of its own: a shell that is killed leaves its programs running.
    const child = spawn(command, { shell: true, detached: true, stdio: ['pipe', 'pipe', 'pipe'] })
    const end = (): void => {
      try {
        if (child.pid !== undefined) process.kill(-child.pid, 'SIGKILL')
      } catch {
        // It has ended by itself.
      }
    }
    signal.addEventListener('abort', end)
    let stdout = ''
    let stderr = ''
    child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
      if (stdout.length <= mostReply) stdout += chunk
      if (stdout.length > mostReply) end()
    })
    child.stderr.setEncoding('utf8').on('data', (chunk: string) => {
      stderr = (stderr + chunk).slice(-2000)
    })
    child.stdin.on('error', () => undefined) // it need not read
    child.on('error', (error) => fail(`could not be run (${error.message})`))
    let grace: NodeJS.Timeout | undefined
    let told = false
    const settle = (code: number | null, killedBy: NodeJS.Signals | null): void => {
      if (told) return
      told = true
      clearTimeout(grace)
      signal.removeEventListener('abort', end)
      for (const pipe of [child.stdin, child.stdout, child.stderr]) pipe.destroy()
      if (stdout.length > mostReply) fail(`wrote more than ${mostReply} characters`)
      else if (code !== 0) {
        const said = stderr.trim().split('\n').at(-1)
        fail(`ended with ${code === null ? killedBy : `status ${code}`}${said ? ` (${said})` : ''}`)
      } else resolve(stdout)
    }
    child.on('close', settle)
    child.on('exit', (code, killedBy) => {
      // Also where the timer fires late, what is there is read before an immediate.
      grace = setTimeout(() => setImmediate(settle, code, killedBy), graceMs)
    })
    child.stdin.end(input)
  })
}

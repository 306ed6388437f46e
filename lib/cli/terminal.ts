/** What the commands write: results to stdout, everything else to stderr. */
import { styleText } from 'node:util'
import { ModelError } from '../errors.ts'

type Style = Parameters<typeof styleText>[0]

/** Styled for stdout; plain where that is no terminal or NO_COLOR is set. */
export function styled(style: Style, text: string): string {
  return styleText(style, text, { stream: process.stdout })
}

export function print(line = ''): void {
  process.stdout.write(`${line}\n`)
}

/** Text from a file or a model, without the control characters that would steer a terminal. */
export function printable(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
  return text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g, '�')
}

/** Lines of `name  value`, the names padded to one width. */
export function printFields(fields: readonly (readonly [string, string])[], indent = '  '): void {
  const width = Math.max(...fields.map(([name]) => name.length))
  for (const [name, value] of fields) print(`${indent}${styled('dim', name.padEnd(width))}  ${value}`)
}

/** What steers a terminal stands as `\\u009b` in it, also what JSON would leave as it is. */
export function printJson(value: unknown): void {
  const escaped = (sign: string) => `\\u${sign.charCodeAt(0).toString(16).padStart(4, '0')}`
  print(JSON.stringify(value, null, 2).replace(/[\u007f-\u009f\u2028-\u202e\u2066-\u2069]/g, escaped))
}

/** Sizes of memory, as the GPU tools write them. */
export function formatBytes(bytes: number): string {
  if (bytes < 1024) return `${bytes} B`
  const mebibytes = bytes / 2 ** 20
  if (mebibytes < 1) return `${(bytes / 1024).toFixed(1)} KiB`
  return mebibytes < 1024 ? `${mebibytes.toFixed(1)} MiB` : `${(mebibytes / 1024).toFixed(2)} GiB`
}

export function formatCount(count: number): string {
  if (count < 1e4) return String(count)
  if (count < 1e6) return `${(count / 1e3).toFixed(1)} k`
  return count < 1e9 ? `${(count / 1e6).toFixed(2)} M` : `${(count / 1e9).toFixed(2)} G`
}

/** Seconds as a person says them: `48 s`, `3 min 20 s`, `2 h 05 min`. */
export function formatDuration(seconds: number): string {
  const whole = Math.round(seconds)
  if (whole < 60) return `${whole} s`
  const minutes = Math.floor(whole / 60)
  if (minutes < 60) return `${minutes} min ${String(whole % 60).padStart(2, '0')} s`
  return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, '0')} min`
}

export function formatMs(ms: number): string {
  if (ms >= 10_000) return `${(ms / 1000).toFixed(1)} s`
  return ms >= 10 ? `${ms.toFixed(0)} ms` : `${ms.toFixed(1)} ms`
}

/** How an error is shown: the sentence of ours, the stack of a bug. */
export function errorText(error: unknown): string {
  if (error instanceof ModelError) return `ModelError [${error.code}] ${printable(error.message)}`
  if ((error as NodeJS.ErrnoException | null)?.syscall === 'uv_cwd') {
    return 'ModelError [BAD_ARGUMENT] The present folder was removed; change to one that is there, or give whole paths.'
  }
  return error instanceof Error ? (error.stack ?? error.message) : String(error)
}

/** Says on stderr what takes longer than a second. */
export class Progress {
  readonly #label: string
  readonly #started: number = performance.now()
  #fraction: number | undefined
  #detail = ''
  #timer: NodeJS.Timeout
  #shown = 0

  constructor(label: string) {
    this.#label = printable(label)
    this.#timer = setTimeout(() => this.#show(), 1000)
  }

  /** How much is done, 0 to 1, and what else there is to say. */
  update(fraction: number, detail = ''): void {
    this.#fraction = fraction
    this.#detail = detail
  }

  end(): void {
    clearTimeout(this.#timer)
    if (this.#shown > 0 && process.stderr.isTTY) process.stderr.write('\r\u001b[K')
    this.#shown = 0
  }

  // A terminal gets one line that changes, a log a line now and then.
  #show(): void {
    const seconds = Math.round((performance.now() - this.#started) / 1000)
    const percent = this.#fraction === undefined ? '' : ` ${Math.floor(100 * this.#fraction)} %,`
    const line = `${this.#label} …${percent} ${seconds} s${this.#detail && `, ${this.#detail}`}`
    const terminal = process.stderr.isTTY
    process.stderr.write(terminal ? `\r\u001b[K${line}` : `${line}\n`)
    this.#shown += 1
    this.#timer = setTimeout(() => this.#show(), terminal ? 250 : 10_000)
  }
}

/** Runs `work`, and says so if it takes long. */
export async function withProgress<T>(label: string, work: (progress: Progress) => Promise<T>): Promise<T> {
  const progress = new Progress(label)
  try {
    return await work(progress)
  } finally {
    progress.end()
  }
}

/** Runs a program of this package and collects what it writes. */
import { spawn } from 'node:child_process'

export interface Ran {
  code: number | null
  stdout: string
  stderr: string
}

export interface RunOptions {
  cwd?: string
  /** `undefined` takes a variable away. */
  env?: Record<string, string | undefined>
  /** Called with everything written to stdout so far. */
  onStdout?: (text: string, kill: (signal: NodeJS.Signals) => void) => void
}

/** The same in another folder. */
export function runIn(cwd: string, args: readonly string[]): Promise<Ran> {
  return run(args, { cwd })
}

export function run(args: readonly string[], options: RunOptions = {}): Promise<Ran> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, args, { cwd: options.cwd, env: { ...process.env, ...options.env } })
    let stdout = ''
    let stderr = ''
    child.stdout.on('data', (chunk) => {
      stdout += chunk
      options.onStdout?.(stdout, (signal) => child.kill(signal))
    })
    child.stderr.on('data', (chunk) => {
      stderr += chunk
    })
    child.on('error', reject)
    child.on('close', (code) => resolve({ code, stdout, stderr }))
  })
}

/** Takes out the lines that say what is still going on after a second: a busy machine has them. */
export function withoutProgress(stderr: string): string {
  return stderr.replace(/^.+ …(?: \d+ %,)? \d+ s(?:, .*)?\n/gm, '')
}

/** The command line, {@link withoutProgress}. */
export async function drivlm(args: readonly string[], options?: RunOptions): Promise<Ran> {
  const ran = await run(['dist/cli/main.js', ...args], options)
  return { ...ran, stderr: withoutProgress(ran.stderr) }
}

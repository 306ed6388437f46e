// Kill -9 of `drivlm annotate` at random moments, `--resume` each time: in the end the same bytes as one run that nobody killed, so every answer once.
//
//   node test/annotate-kills.mjs [--kills 20] [--moments 40]
import { spawn } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { packageRoot } from '../dist/native.js'
import { streetLog } from './made-logs.mjs'

const { values } = parseArgs({ options: { kills: { type: 'string' }, moments: { type: 'string' } } })
const kills = Number(values.kills ?? 20)
const moments = Number(values.moments ?? 40)
const dir = mkdtempSync(path.join(os.tmpdir(), 'drivlm-kills-'))
const at = (name) => path.join(dir, name)
const asked = [
  '--ask',
  'How many cars are in CAM_BACK?',
  '--ask',
  'What is the weather like?',
  '--locate',
  'the cyclist',
]

/** Runs to its end, or is killed after a time. Gives the exit code; undefined where it was killed. */
async function annotate(out, args, ms) {
  const program = path.join(packageRoot, 'dist', 'cli', 'main.js')
  const child = spawn(process.execPath, [program, 'annotate', at('drive.mcap'), ...asked, '--out', at(out), ...args], {
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  let said = ''
  child.stderr.on('data', (text) => {
    said += text
  })
  const ended = new Promise((resolve) => child.on('close', (code) => resolve(code ?? undefined)))
  if (ms !== undefined) {
    await Promise.race([ended, sleep(ms)])
    child.kill('SIGKILL')
  }
  const code = await ended
  if (code !== undefined && code !== 0) throw new Error(`it ended with ${code}: ${said}`)
  return code
}

try {
  writeFileSync(at('drive.mcap'), await streetLog(moments))
  const started = performance.now()
  await annotate('whole.mcap', [])
  const took = performance.now() - started
  const whole = readFileSync(at('whole.mcap'))
  let [killed, runs] = [0, 0]
  const lines = new Set()
  while (killed < kills) {
    const ended = await annotate('killed.mcap', ['--resume'], Math.random() * took)
    if (ended === undefined) {
      killed += 1
      const journal = at('killed.mcap.journal')
      lines.add(existsSync(journal) ? readFileSync(journal, 'utf8').split('\n').length - 1 : 0)
    }
    // Without its lines it is complete: they are removed last.
    const isWhole = () => existsSync(at('killed.mcap')) && !existsSync(at('killed.mcap.journal'))
    if (!isWhole() && killed < kills) continue
    if (!isWhole()) await annotate('killed.mcap', ['--resume'])
    runs += 1
    if (!readFileSync(at('killed.mcap')).equals(whole)) throw new Error(`after ${killed} kills the answers are others`)
    rmSync(at('killed.mcap'))
  }
  const found = [...lines].sort((a, b) => a - b).join(', ')
  console.log(
    `${killed} kills in ${runs} runs of ${moments} moments, with ${found} lines on disk: the same bytes each time.`,
  )
} finally {
  rmSync(dir, { recursive: true, force: true })
}

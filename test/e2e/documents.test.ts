/**
 * Every code block of README.md and docs/ is run as a reader would run it, in a folder where the names it uses stand for something:
 * pictures of a bundled moment, the bundled model, a small question file. A block of a new kind has to be put into one of the lists here.
 */
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, it, test } from 'vitest'
import { packageRoot } from '../../lib/native.ts'
import { loadDomain, writeStreet } from '../../lib/street/index.ts'
import { cameras } from '../../lib/views/cameras.ts'
import { type Ran, runIn } from './run.ts'

interface Block {
  name: string
  language: string
  text: string
}

const documents = ['README.md', ...readdirSync(path.join(packageRoot, 'docs')).map((name) => `docs/${name}`)]
const blocks = documents.filter((name) => name.endsWith('.md')).flatMap(blocksOf)

function blocksOf(file: string): Block[] {
  const lines = readFileSync(path.join(packageRoot, file), 'utf8').split('\n')
  const found: Block[] = []
  let block: Block | undefined
  for (const [i, line] of lines.entries()) {
    const fence = /^\s*```\s*(\S*)\s*$/.exec(line)
    if (fence === null) {
      if (block) block.text += `${line}\n`
    } else if (block) {
      found.push(block)
      block = undefined
    } else block = { name: `${file}:${i + 1}`, language: fence[1]!, text: '' }
  }
  if (block) throw new Error(`${block.name} has no end.`)
  return found
}

/** Blocks that are pictures or output, by what they begin with. */
const notRun = [
  /^first machine/,
  /^apiVersion: batch/,
  /^#!\/bin\/bash\n#SBATCH/,
  /^Which camera sees the cyclist\?/,
  /^\s*┌ page ┐/,
]
/** Languages of blocks that other programs read. */
const foreign = ['python', 'ini', 'sh']

const kindOf = ({ language, text }: Block): string => {
  if (['ts', 'js', 'mjs', 'typescript', 'javascript'].includes(language)) return 'script'
  if (language === 'json') return 'json'
  if (/^(\$ )?(npx )?(drivlm|npm) /.test(text)) return 'commands'
  return foreign.includes(language) || notRun.some((start) => start.test(text)) ? 'not run' : 'unknown'
}
const ofKind = (kind: string): [string, Block][] =>
  blocks.filter((block) => kindOf(block) === kind).map((block) => [block.name, block])

const dir = mkdtempSync(path.join(tmpdir(), 'documents-'))
afterAll(() => rmSync(dir, { recursive: true }))
const tiny = path.join(packageRoot, 'models/street-tiny')
const cli = path.join(packageRoot, 'dist/cli/main.js')

/** What scripts use without saying where it comes from. */
const standIns = `
import { loadModel } from 'drivlm'
const text = (await import('node:fs')).readFileSync(process.argv[1], 'utf8')
const model = /\\b(model|scene)\\b/.test(text) ? await loadModel() : undefined
const views = Object.fromEntries(${JSON.stringify(cameras)}.map((camera) => [camera, 'moment/' + camera + '.png']))
const questions = ['How many cars are in CAM_BACK?', 'What is the weather like?']
Object.assign(globalThis, {
  model, views, questions, frame: 'front.jpg', scene: /\\bscene\\b/.test(text) ? await model.see(views) : undefined, data: 'questions.jsonl', images: '.', rate: () => 50,
})
`

beforeAll(async () => {
  mkdirSync(path.join(dir, 'node_modules'))
  mkdirSync(path.join(dir, 'models'))
  symlinkSync(packageRoot, path.join(dir, 'node_modules/drivlm'))
  symlinkSync(tiny, path.join(dir, 'models/Mini-InternVL2-1B-DA-DriveLM'))
  symlinkSync(path.join(tiny, 'moments/dusk'), path.join(dir, 'moment'))
  const views = Object.fromEntries(cameras.map((camera) => [camera, `moment/${camera}.png`]))
  for (const camera of cameras) {
    const name = camera.slice(4).toLowerCase().replace('_', '-')
    symlinkSync(path.join(tiny, `moments/dusk/${camera}.png`), path.join(dir, `${name}.jpg`))
  }
  symlinkSync(path.join(tiny, 'moments/rain/CAM_FRONT.png'), path.join(dir, 'next-front.jpg'))
  const line = { id: 1, views, question: 'How many cars are in CAM_BACK?', answer: 'Two.', tags: [0] }
  writeFileSync(path.join(dir, 'questions.jsonl'), `${JSON.stringify(line)}\n`)
  symlinkSync(path.join(packageRoot, 'test/fixtures/logs/ros2-six-fastwrite.mcap'), path.join(dir, 'drive.mcap'))
  symlinkSync(tiny, path.join(dir, 'models/street-tiny'))
  for (const [i, [out, domain]] of [
    ['night', 'night-left'],
    ['day', 'day-city'],
    ['held-out', 'night-left'],
  ].entries()) {
    await writeStreet(await loadDomain(domain!), { scenes: 2, seed: i, questions: 4, out: path.join(dir, out!) })
  }
  writeFileSync(path.join(dir, 'output.json'), JSON.stringify([{ id: 1, answer: 'Two.' }]))
  writeFileSync(path.join(dir, 'stand-ins.mjs'), standIns)
})

const node = (args: readonly string[]): Promise<Ran> => runIn(dir, args)
const ended = ({ code, stdout, stderr }: Ran): string => (code === 0 ? 'well' : `${code}: ${stderr}${stdout}`)

test('every block is of a kind that is known', () => {
  expect(ofKind('unknown').map(([name, { text }]) => `${name} ${text.split('\n')[0]}`)).toEqual([])
  expect([ofKind('script').length > 3, ofKind('commands').length > 3]).toEqual([true, true])
})

describe('scripts', () => {
  it.each(ofKind('script'))('%s', async (name, { text }) => {
    const file = `${name.replaceAll(/\W/g, '-')}.mjs`
    writeFileSync(path.join(dir, file), text)
    expect(ended(await node(['--import', './stand-ins.mjs', file]))).toBe('well')
  })

  test('a block that breaks fails', async () => {
    writeFileSync(path.join(dir, 'broken.mjs'), "await scene.ask('What is there?', { maxTokens: 1 })\n")
    expect(ended(await node(['--import', './stand-ins.mjs', 'broken.mjs']))).toContain('maxTokens is not an option')
  })
})

describe('settings', () => {
  it.each(ofKind('json'))('%s', async (name, { text }) => {
    const settings = JSON.parse(text)
    const folder = path.join(dir, name.replaceAll(/\W/g, '-'))
    if ('from' in settings) {
      // A domain of drawn streets.
      const file = `${folder}.json`
      writeFileSync(file, text)
      const out = `${folder}-drawn`
      expect(ended(await node([cli, 'street', '--domain', file, '--out', out, '--scenes', '1']))).toBe('well')
      return
    }
    cpSync(tiny, folder, { recursive: true, filter: (source) => !source.includes('moments') })
    writeFileSync(path.join(folder, 'drivlm.json'), text)
    const ran = await node([cli, 'inspect', folder, '--json'])
    expect(ended(ran)).toBe('well')
    expect(ran.stdout).toContain(JSON.stringify(settings.layout))
  })
})

/** What capitals and invented names stand for. */
const values: Record<string, string> = {
  DIR: 'models/Mini-InternVL2-1B-DA-DriveLM',
  FOLDER: 'moment',
  FILE: 'questions.jsonl',
  'v1_1_val_nus_q_only.json': 'questions.jsonl',
  'InternVL2-1B': 'models/street-tiny',
  adapted: 'models/street-tiny',
  'v1_1_train_nus.json': 'night/drivelm.json',
  'train.json': 'night/drivelm.json',
  'general.json': 'day/drivelm.json',
  'general.jsonl': 'day/drivelm.json',
  'held-out.json': 'night/drivelm.json',
  nuscenes: 'night',
}
/** Commands that take minutes, a machine or a network: only that they and their options exist is looked at. */
const onlyKnown = ['build', 'pull', 'serve', 'watch']

/** Commands of a block, without the remarks behind two spaces. */
const commandsOf = ({ text }: Block): string[] =>
  text
    .replaceAll(/ *\\\n */g, ' ')
    .split('\n')
    .flatMap((line) => {
      const [command] = line.replace(/^\$ /, '').split(/ {2,}| #/)
      return command!.trim() === '' ? [] : command!.split(/, | && /).map((one) => one.trim())
    })

describe('commands', () => {
  const commands = ofKind('commands').flatMap(([name, block]) => commandsOf(block).map((command) => [name, command]))
  const scripts = JSON.parse(readFileSync(path.join(packageRoot, 'package.json'), 'utf8')).scripts

  it.each(commands)('%s: %s', async (_, command) => {
    const [program, ...words] = [...command!.replace(/^npx /, '').matchAll(/"([^"]*)"|\S+/g)].map(
      (word) => word[1] ?? word[0],
    )
    if (program === 'npm') {
      const script = words[0] === 'run' ? words[1]! : words[0]!
      expect(['ci', 'install', ...Object.keys(scripts)]).toContain(script)
      return
    }
    expect(program).toBe('drivlm')
    const args = words.map((word, i) => {
      if (words[i - 1] === '--images' && words[0] !== 'adapt' && word !== 'held-out') return '.'
      if (words[i - 1] === '--scenes') return '3' // a reader waits for more
      if (words[i - 1] === '--out') return `run-${i}-${command!.length}`
      return values[word] ?? word
    })
    const bare = (args.length === 1 && ['eval', 'merge'].includes(args[0]!)) || onlyKnown.includes(args[0]!)
    const ran = await node([cli, ...args, ...(bare ? ['--help'] : [])])
    expect(ended(ran)).toBe('well')
    if (bare) for (const word of args) if (word.startsWith('--')) expect(ran.stdout).toContain(word)
  })
})

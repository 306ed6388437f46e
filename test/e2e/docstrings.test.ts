/**
 * Every `@example` of a docstring in lib/ is run as a reader would run it: in a folder where the names it uses stand for something, with everything that the
 * package exports at hand. An example of a new kind has to find its names among the stand-ins.
 */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { transform } from 'esbuild'
import { afterAll, beforeAll, expect, it, test } from 'vitest'
import { packageRoot } from '../../lib/native.ts'
import { loadDomain, writeStreet } from '../../lib/street/index.ts'
import { cameras } from '../../lib/views/cameras.ts'
import { runIn } from './run.ts'

interface Example {
  name: string
  text: string
}

const lib = path.join(packageRoot, 'lib')
const examples = readdirSync(lib, { recursive: true, encoding: 'utf8' })
  .filter((file) => file.endsWith('.ts'))
  .flatMap((file) => examplesOf(file, readFileSync(path.join(lib, file), 'utf8')))

/** Text after `@example` up to the next tag or the end of its comment, without the comment's stars and fences. */
function examplesOf(file: string, source: string): Example[] {
  return [...source.matchAll(/@example\b(.*\n[\s\S]*?)(?=\n\s*\* @\w|\*\/)/g)].map((match) => ({
    name: `lib/${file}:${source.slice(0, match.index).split('\n').length}`,
    text: match[1]!
      .split('\n')
      .map((line) => line.replace(/^\s*\* ?/, ''))
      .filter((line) => !/^\s*```/.test(line))
      .join('\n'),
  }))
}

const dir = mkdtempSync(path.join(tmpdir(), 'docstrings-'))
afterAll(() => rmSync(dir, { recursive: true }))
const tiny = path.join(packageRoot, 'models/street-tiny')
const exported = Object.entries(
  JSON.parse(readFileSync(path.join(packageRoot, 'package.json'), 'utf8')).exports as Record<string, unknown>,
).flatMap(([name, entry]) => (typeof entry === 'string' ? [] : [path.posix.join('drivlm', name)]))

/** What examples use without saying where it comes from; loaded only where an example names it. */
const prelude = `
${exported.map((name, i) => `import * as entry${i} from '${name}'`).join('\n')}
Object.assign(globalThis, ${exported.map((_, i) => `entry${i}`).join(', ')})
const text = (await import('node:fs')).readFileSync(process.argv[1], 'utf8')
const names = (name) => new RegExp('\\\\b' + name + '\\\\b').test(text)
const views = Object.fromEntries(${JSON.stringify(cameras)}.map((camera) => [camera, 'moment/' + camera + '.png']))
const model = names('model') || names('scene') ? await entry0.loadModel() : undefined
const scene = names('scene') ? await model.see(views) : undefined
const judge = async (question, answer, reference) => (answer === reference ? 100 : 0)
const questions = ['How many cars are in CAM_BACK?', 'What is the weather like?']
const moments = []
for await (const moment of readMoments('val.json')) moments.push(moment)
const predictions = new Map([[moments[0].questions[0].id, 'Two.']])
const { buildReport } = await import('${packageRoot}/dist/evaluate/report/build.js')
const report = names('report') ? buildReport({ model: 'tiny', data: 'val.json', moments, answers: predictions }) : undefined
Object.assign(globalThis, {
  views, model, scene, judge, questions, predictions, report, frame: 'front.jpg', lines: ['', ''], images: '.', data: 'val.json',
})
`

beforeAll(async () => {
  await writeStreet(await loadDomain('day-city'), { scenes: 1, seed: 1, questions: 4, out: path.join(dir, 'street') })
  mkdirSync(path.join(dir, 'node_modules'))
  mkdirSync(path.join(dir, 'models'))
  symlinkSync(packageRoot, path.join(dir, 'node_modules/drivlm'))
  symlinkSync(tiny, path.join(dir, 'models/Mini-InternVL2-1B-DA-DriveLM'))
  symlinkSync(path.join(tiny, 'moments/dusk'), path.join(dir, 'moment'))
  symlinkSync(path.join(packageRoot, 'test/fixtures/logs/ros2-six-fastwrite.mcap'), path.join(dir, 'drive.mcap'))
  symlinkSync(dir, path.join(dir, 'nuscenes'))
  for (const camera of cameras) {
    const name = camera.slice(4).toLowerCase().replace('_', '-')
    symlinkSync(path.join(tiny, `moments/dusk/${camera}.png`), path.join(dir, `${name}.jpg`))
  }
  const image_paths = Object.fromEntries(cameras.map((camera) => [camera, `../nuscenes/moment/${camera}.png`]))
  const pair = { Q: 'How many cars are in CAM_BACK?', A: 'Two.', tag: [0] }
  const key_frames = {
    frame: {
      key_object_infos: {},
      image_paths,
      QA: { perception: [pair], prediction: [], planning: [], behavior: [] },
    },
  }
  const drivelm = JSON.stringify({ scene: { key_frames } })
  for (const name of ['v1_1_val_nus_q_only.json', 'v1_1_train_nus.json', 'test_eval.json', 'val.json']) {
    writeFileSync(path.join(dir, name), drivelm)
  }
  writeFileSync(path.join(dir, 'prelude.mjs'), prelude)
})

async function run(name: string, text: string): Promise<string> {
  const file = `${name.replaceAll(/\W/g, '-')}.mjs`
  const { code } = await transform(text, { loader: 'ts', format: 'esm', target: 'es2023' })
  // What is not exported to users documents itself with examples too: its own module is at hand.
  const own = /^lib\/(.*)\.ts:/.exec(name)?.[1]
  const module = own === undefined ? '' : `Object.assign(globalThis, await import('${packageRoot}/dist/${own}.js'));`
  writeFileSync(path.join(dir, file), `${module}{\n${code}\n}\n`)
  const ran = await runIn(dir, ['--import', './prelude.mjs', file])
  return ran.code === 0 ? 'well' : `${ran.code}: ${ran.stderr}${ran.stdout}`
}

test('examples are found', () => expect(examples.length).toBeGreaterThan(15))

it.each(examples.map(({ name, text }) => [name, text]))('%s', async (name, text) => {
  expect(await run(name!, text!)).toBe('well')
})

test('an example that breaks fails', async () => {
  expect(await run('broken', "await scene.ask('What is there?', { maxTokens: 1 })")).toContain(
    'maxTokens is not an option',
  )
})

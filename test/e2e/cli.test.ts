import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { copyFileSync, cpSync, existsSync, mkdirSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import * as schema from '../../lib/option-tables.ts'
import { cdrCompressed, mcap } from '../unit/logs-files.ts'
import { drivlm, withoutProgress } from './run.ts'

const dusk = 'models/street-tiny/moments/dusk'
let dir: string

beforeAll(() => {
  dir = mkdtempSync(path.join(os.tmpdir(), 'drivlm-cli-'))
})

afterAll(() => rmSync(dir, { recursive: true }))

const flagsOf = (...cameras: string[]) => cameras.flatMap((camera) => [`--${camera}`, `${dusk}/${fileOf(camera)}`])
const fileOf = (camera: string) => `CAM_${camera.toUpperCase().replace('-', '_')}.png`

describe('flags', () => {
  it.each(['demo', 'ask', 'inspect', 'eval', 'annotate'])(
    '%s has every flag that the schema of options gives it',
    async (name) => {
      const { expected: _, ...tables } = schema
      const { stdout } = await drivlm([name, '--help'])
      const shown = [...stdout.matchAll(/^ {2}(--.+?) {2}/gm)].map(([, flag]) => flag)
      const rows = Object.values(tables).flatMap((table) => Object.values<schema.OptionRow>(table))
      const wanted = rows.flatMap(({ flag }) => (flag?.on.includes(name) ? [flag.name] : []))
      expect(wanted.length).toBeGreaterThan(6)
      expect(wanted.filter((flag) => !shown.includes(flag))).toEqual([])
    },
  )
})

describe('drivlm demo', () => {
  it('answers every question with the truth, and says what each stage took', async () => {
    const started = performance.now()
    const { code, stdout, stderr } = await drivlm(['demo'])
    expect(performance.now() - started).toBeLessThan(10_000)
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    expect(stdout.match(/^ {4}✓ (.+?) {2}truth: \1 {2}[\d.]+ ms$/gm)).toHaveLength(27)
    expect(stdout).toMatch(/27 of 27 answers are the truth/)
    expect(stdout.match(/Seen in .* decode .* preprocess .* vision .* prefill /g)).toHaveLength(3)
    expect(stdout).toContain('moments/dusk.png')
    expect(stdout).toMatch(/no driving system/)
    // biome-ignore lint/suspicious/noControlCharactersInRegex: no colours where stdout is no terminal
    expect(stdout).not.toMatch(/\u001b/)
  })

  it('prints JSON', async () => {
    const { stdout } = await drivlm(['demo', '--json'])
    const told = JSON.parse(stdout)
    expect(told).toMatchObject({ right: 27, asked: 27, model: { name: 'street-tiny' } })
    expect(told.moments[0].seen).toMatchObject({ tiles: 6, layout: 'canvas' })
  })

  it('ends quietly when its reader has seen enough', async () => {
    const child = spawn(process.execPath, ['dist/cli/main.js', 'demo'])
    let stderr = ''
    child.stderr.on('data', (chunk) => {
      stderr += chunk
    })
    child.stdout.once('data', () => child.stdout.destroy())
    const code = await new Promise((resolve) => child.on('close', resolve))
    expect({ code, stderr: withoutProgress(stderr) }).toEqual({ code: 0, stderr: '' })
  })
})

describe('drivlm street', () => {
  it('leaves nothing half drawn when it is interrupted', async () => {
    const out = path.join(dir, 'interrupted')
    const child = spawn(process.execPath, ['dist/cli/main.js', 'street', '--out', out, '--scenes', '100000'])
    let stderr = ''
    child.stderr.on('data', (chunk) => {
      stderr += chunk
    })
    const ended = new Promise((resolve) => child.on('close', resolve))
    const half = `${out}.partial-${child.pid}`
    while (!existsSync(half) && child.exitCode === null) await new Promise((resolve) => setTimeout(resolve, 20))
    child.kill('SIGINT')
    expect({ code: await ended, stderr: withoutProgress(stderr) }).toEqual({
      code: 130,
      stderr: 'Stopped; nothing was kept.\n',
    })
    expect([out, half].filter(existsSync)).toEqual([])
  })

  it('says that the present folder was removed', () => {
    const gone = path.join(dir, 'gone')
    const script = 'mkdir "$1" && cd "$1" && rmdir "$1" && exec "$2" "$3" street --out new --scenes 1'
    const { status, stderr } = spawnSync(
      'sh',
      ['-c', script, 'sh', gone, process.execPath, path.resolve('dist/cli/main.js')],
      { encoding: 'utf8' },
    )
    expect({ status, stderr }).toEqual({
      status: 1,
      stderr: expect.stringMatching(/^ModelError \[BAD_ARGUMENT\] The present folder was removed.*\n$/),
    })
  })
})

describe('drivlm ask', () => {
  it('keeps quantised weights where it can, and says where it cannot', async () => {
    const model = path.join(dir, 'cached')
    cpSync('models/street-tiny', model, { recursive: true })
    const ask = (weights: string) =>
      drivlm([
        'ask',
        '--model',
        model,
        '--views',
        dusk,
        '--weights',
        weights,
        '--cache',
        'Which camera sees the cyclist?',
      ])
    const stdout = 'CAM_FRONT_LEFT.\n'
    expect(await ask('int8')).toEqual({ code: 0, stdout, stderr: '' })
    expect(existsSync(path.join(model, 'drivlm-int8.cache'))).toBe(true)
    expect(await ask('int8')).toEqual({ code: 0, stdout, stderr: '' })
    mkdirSync(path.join(model, 'drivlm-int4.cache'))
    const stderr = expect.stringMatching(
      /^The weights could not be kept\. .*drivlm-int4\.cache: cannot be replaced .*\n$/,
    )
    expect(await ask('int4')).toEqual({ code: 0, stdout, stderr })
    expect(await ask('bf16')).toEqual({ code: 0, stdout, stderr: '' })
    expect(existsSync(path.join(model, 'drivlm-bf16.cache'))).toBe(true)
  })

  it('reads a folder of views', async () => {
    expect(await drivlm(['ask', '--views', dusk, 'Which camera sees the cyclist?'])).toEqual({
      code: 0,
      stdout: 'CAM_FRONT_LEFT.\n',
      stderr: '',
    })
  })

  it('reads nuScenes file names', async () => {
    const views = path.join(dir, 'nuscenes')
    mkdirSync(views)
    for (const camera of ['FRONT', 'FRONT_LEFT', 'FRONT_RIGHT', 'BACK', 'BACK_LEFT', 'BACK_RIGHT']) {
      const name = `n015-2018-07-18-11-07-57+0800__CAM_${camera}__1531883530412470.png`
      copyFileSync(`${dusk}/CAM_${camera}.png`, path.join(views, name))
    }
    writeFileSync(path.join(views, 'notes.txt'), 'CAM_FRONT')
    const { stdout } = await drivlm(['ask', '--views', views, 'Which camera sees the cyclist?'])
    expect(stdout).toBe('CAM_FRONT_LEFT.\n')
    copyFileSync(`${dusk}/CAM_BACK.png`, path.join(views, 'cam_back.png'))
    const { code, stderr } = await drivlm(['ask', '--views', views, 'x'])
    expect(code).toBe(1)
    expect(stderr).toMatch(/^ModelError \[BAD_VIEW\] --views: .* and .* are both of CAM_BACK; /)
  })

  it('takes a picture a flag, and says what each stage took', async () => {
    const six = flagsOf('front', 'front-left', 'front-right', 'back', 'back-left', 'back-right')
    const { stdout, stderr } = await drivlm(['ask', ...six, 'Which camera sees the cyclist?', '--timings'])
    expect(stdout).toBe('CAM_FRONT_LEFT.\n')
    expect(stderr).toMatch(/^decode .* preprocess .* vision .* prefill .* generate .*; first token after .* tokens\n$/)
  })

  it('prints JSON', async () => {
    const question = 'What is the color of the traffic light?'
    const { stdout } = await drivlm(['ask', ...flagsOf('front'), '--missing-views', 'black', question, '--json'])
    expect(JSON.parse(stdout)).toMatchObject({
      question,
      text: 'Red.',
      finishReason: 'stop',
      usage: { imageTokens: 96 },
      timings: { visionMs: expect.any(Number) },
      model: { name: 'street-tiny', device: 'cpu' },
    })
  })

  it('hands the sampling flags on', async () => {
    const ask = async (...flags: string[]) => {
      const hot = ['--temperature', '50', '--min-new-tokens', '24', '--max-new-tokens', '24']
      return JSON.parse((await drivlm(['ask', '--views', dusk, 'What now?', ...hot, '--json', ...flags])).stdout)
    }
    const [first, again, other] = [await ask('--seed', '1'), await ask('--seed', '1'), await ask('--seed', '2')]
    expect(first.text).toBe(again.text)
    expect(first.text).not.toBe(other.text)
    expect(first).toMatchObject({ finishReason: 'length', usage: { answerTokens: 24 } })
    const { stdout } = await drivlm(['ask', '--views', dusk, 'Which camera sees the cyclist?', '--stop', '_LEFT'])
    expect(stdout).toBe('CAM_FRONT\n')
  })

  it('stops within moments when it is interrupted', async () => {
    let interrupted = 0
    const long = ['--min-new-tokens', '3900', '--max-new-tokens', '3900']
    const { code, stderr } = await drivlm(['ask', '--views', dusk, 'What now?', ...long], {
      onStdout: (_, kill) => {
        if (interrupted > 0) return
        interrupted = performance.now()
        kill('SIGINT')
      },
    })
    expect({ code, stderr }).toEqual({ code: 130, stderr: '' })
    expect(performance.now() - interrupted).toBeLessThan(2000)
  })

  const failures: [string, () => string[], number, RegExp][] = [
    ['no pictures', () => ['x'], 1, /^ModelError \[BAD_ARGUMENT\] There are no pictures; give --views /],
    [
      'one of six',
      () => [...flagsOf('front'), 'x'],
      1,
      /\[BAD_VIEW\] CAM_FRONT_LEFT, .* missing.*--missing-views black/,
    ],
    [
      'a missing file',
      () => ['--front', 'none.jpg', '--missing-views', 'black', 'x'],
      1,
      /CAM_FRONT: none\.jpg does not exist/,
    ],
    ['a folder that is not there', () => ['--views', 'none', 'x'], 1, /--views: none does not exist/],
    ['a folder that is a file', () => ['--views', 'README.md', 'x'], 1, /--views: README\.md is not a folder/],
    ['a folder without views', () => ['--views', 'lib', 'x'], 1, /has no picture that is named after a camera/],
    ['both forms', () => ['--image', 'a.png', '--front', 'b.png', 'x'], 1, /by camera or with --image, not both/],
    ['no such model', () => ['--views', dusk, '-m', 'none', 'x'], 1, /\[BAD_CHECKPOINT\] .*none/],
    ['an empty question', () => ['--views', dusk, ' '], 1, /\[BAD_ARGUMENT\] The question is empty/],
    ['a device that is none', () => ['--views', dusk, '--device', 'tpu', 'x'], 1, /'cuda:N' for options\.device/],
    ['no question', () => ['--views', dusk], 2, /missing required argument 'question'/],
    ['a number that is none', () => ['--views', dusk, '--threads', '1e3', 'x'], 2, /whole number of at least 1/],
    ['a decimal that is none', () => ['--views', dusk, '--top-p', 'all', 'x'], 2, /Expected a number such as 0\.7/],
    ['a choice that is none', () => ['--views', dusk, '--precision', 'f8', 'x'], 2, /Allowed choices are bf16, f32/],
    ['an unknown flag', () => ['--verbose', 'x'], 2, /unknown option '--verbose'/],
  ]
  it.each(failures)('says what is wrong: %s', async (_, args, status, sentence) => {
    const { code, stdout, stderr } = await drivlm(['ask', ...args()])
    expect(stderr).toMatch(sentence)
    expect({ code, stdout }).toEqual({ code: status, stdout: '' })
  })
})

describe('drivlm log', () => {
  const file = 'test/fixtures/logs/ros2-six-fastwrite.mcap'

  it('says what is there, which topic is which camera, and what is damaged', async () => {
    const { code, stdout, stderr } = await drivlm(['log', file])
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    expect(stdout).toMatch(/MCAP, 82\.7 KiB, 1\.1 s from 2018-07-24/)
    expect(stdout).toMatch(/CAM_BACK_LEFT +\/camera\/back_left\/image_raw\/compressed/)
    expect(stdout).toMatch(/3, of which 0 lack a camera[\s\S]*median 42\.6 ms/)
    const damaged = await drivlm(['log', 'test/fixtures/logs/ros2-bad-chunk-crc.mcap'])
    expect(damaged).toMatchObject({ code: 0, stdout: expect.stringMatching(/Damage\n.*checksum is b67e1c3a/) })
    expect(await drivlm(['log', '--strict', 'test/fixtures/logs/ros2-bad-chunk-crc.mcap'])).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/\[BAD_LOG\] ros2-bad-chunk-crc\.mcap: a chunk is lost/),
    })
  })

  it('prints nothing of a log that steers a terminal', async () => {
    const topic = '/front\u001b]0;owned\u0007\u009b31m\u202e'
    const file = path.join(dir, 'steering.mcap')
    writeFileSync(
      file,
      await mcap([{ topic, data: cdrCompressed(Buffer.from('none'), { frame: topic, format: topic }) }]),
    )
    for (const args of [[], ['--json']]) {
      const { code, stdout, stderr } = await drivlm(['log', file, ...args])
      expect(code).toBe(0)
      // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what must not be there
      expect(stdout + stderr).not.toMatch(/[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u202e]/)
      if (args.length > 0) expect(JSON.parse(stdout).topics[0].topic).toBe(topic)
    }
  })

  it('prints JSON', async () => {
    const told = JSON.parse((await drivlm(['log', file, '--json'])).stdout)
    expect(told).toMatchObject({
      kind: 'mcap',
      scanned: true,
      cameras: { CAM_FRONT: '/camera/front/image_raw/compressed' },
      moments: {
        made: 3,
        incomplete: 0,
        medianSkewMs: 42.579,
        cameras: { CAM_BACK: { pictures: 3, offsetMs: 25.065 } },
      },
      damage: [],
    })
    expect(told.topics[0]).toMatchObject({ count: 3, width: 112, height: 112, first: { sec: 1532402927 } })
  })

  it('refuses what is no log', async () => {
    const refused = await drivlm(['log', 'package.json'])
    expect(refused).toMatchObject({ code: 1, stdout: '', stderr: expect.stringMatching(/BAD_LOG\] .*no robot log/) })
    expect(await drivlm(['log'])).toMatchObject({ code: 2 })
  })
})

describe('drivlm inspect', () => {
  it('says what the bundled model is and needs', async () => {
    const { code, stdout, stderr } = await drivlm(['inspect', '--device', 'cpu'])
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    expect(stdout).toMatch(/family .*qwen2/)
    expect(stdout).toMatch(/parameters +3\.26 M/)
    expect(stdout).toMatch(/one canvas of 3 x 2 cells of 112 x 112/)
    expect(stdout).toMatch(/memory .* on cpu in bf16, context 4096/)
    expect(stdout).toMatch(
      /by weights +bf16 .*, int8 .*, int4 .*; with a KV cache in int8: bf16 .*, int8 .*, int4 [\d.]+ MiB\n/,
    )
    expect(stdout).toMatch(/Nothing is missing\./)
  })

  it('prints JSON whose memory adds up', async () => {
    const { stdout } = await drivlm(['inspect', 'models/street-tiny', '--json', '--max-context', '512'])
    const { memory, problems, layout } = JSON.parse(stdout)
    expect(problems).toEqual([])
    expect(layout).toMatchObject({ layout: 'canvas', why: expect.stringContaining('drivlm.json') })
    expect(memory).toMatchObject({ maxContext: 512, canvasTokens: 96 })
    expect(memory.totalBytes).toBe(memory.weightsBytes + memory.kvBytes + memory.arenaBytes)
    expect(memory.weightsBytes).toBeGreaterThan(6_000_000)
    expect(memory.formats).toHaveLength(6)
    expect(memory.formats[0]).toEqual({ weights: 'bf16', kvCache: 'bf16', totalBytes: memory.totalBytes })
  })

  it('plans for the formats that are asked for', async () => {
    const asked = ['--device', 'cpu', '--weights', 'int4', '--kv-cache', 'int8', '--max-context', '512']
    const { stdout } = await drivlm(['inspect', ...asked, '--json'])
    const { memory } = JSON.parse(stdout)
    expect(memory).toMatchObject({ weights: 'int4', activations: 'int8', kvCache: 'int8', device: 'cpu' })
    expect(memory.formats.at(-1)).toEqual({ weights: 'int4', kvCache: 'int8', totalBytes: memory.totalBytes })
    expect((await drivlm(['inspect', ...asked])).stdout).toMatch(
      /on cpu in int4, activations int8, KV cache int8, context 512/,
    )
    const plain = await drivlm(['inspect', '--device', 'cpu', '--precision', 'f32', '--json'])
    expect(JSON.parse(plain.stdout).memory.formats).toEqual([])
  })

  it('lists all that is missing', async () => {
    const broken = path.join(dir, 'broken')
    cpSync('models/street-tiny', broken, { recursive: true })
    rmSync(path.join(broken, 'tokenizer.json'))
    truncateSync(path.join(broken, 'model.safetensors'), 1_000_000)
    const { code, stdout } = await drivlm(['inspect', broken])
    expect(code).toBe(1)
    expect(stdout).toMatch(/It cannot be loaded, for these reasons:\n/)
    expect(stdout).toMatch(/ModelError \[BAD_WEIGHTS\] .*model\.safetensors/)
    expect(stdout).toMatch(/ModelError \[BAD_TOKENIZER\] /)
    expect(stdout).toMatch(/weights +model\.safetensors\n/)
    const { problems } = JSON.parse((await drivlm(['inspect', broken, '--json'])).stdout)
    expect(problems.map(({ code }: { code: string }) => code)).toEqual(['BAD_WEIGHTS', 'BAD_TOKENIZER'])
  })

  it('says so where what it prints cannot be written, as on a full disk', () => {
    const command = `"${process.execPath}" dist/cli/main.js inspect > /dev/full`
    const { status, stderr } = spawnSync('sh', ['-c', command], { encoding: 'utf8' })
    expect(status).toBe(1)
    expect(stderr).toMatch(/^ModelError \[BAD_DATA\] The output: cannot be written: .*ENOSPC.*Make room.*\n$/)
  })

  it('refuses a folder that is not there', async () => {
    const { code, stdout } = await drivlm(['inspect', path.join(dir, 'none')])
    expect(code).toBe(1)
    expect(stdout).toMatch(/\[BAD_CHECKPOINT\] .*none/)
  })
})

describe('drivlm doctor', () => {
  it('finds everything that is needed', async () => {
    const { code, stdout, stderr } = await drivlm(['doctor', '--deadline', '1000000', '--max-new-tokens', '2'])
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    for (const name of ['node', 'addon', 'processor', 'memory', 'pictures', 'an answer']) {
      expect(stdout).toMatch(new RegExp(`^ {2}${name} +✓ `, 'm'))
    }
    expect(stdout).toMatch(/CAM_FRONT_LEFT\./)
    expect(stdout).toMatch(
      /✓ weights bf16: 6 tiles seen in .*, 2 tokens answered in .*\nThe model as it is meets the deadline\.\n$/,
    )
  })

  it('says that no format and no tile budget meets a deadline', async () => {
    const separate = path.join(dir, 'separate')
    cpSync('models/street-tiny', separate, { recursive: true, filter: (source) => !source.includes('moments') })
    writeFileSync(
      path.join(separate, 'drivlm.json'),
      '{ "layout": "separate", "tileBudget": 36, "maxTilesPerImage": 6 }',
    )
    const limits = ['--deadline', '0.001', '--max-new-tokens', '2']
    const { code, stdout } = await drivlm(['doctor', '-m', separate, ...limits, '--json'])
    expect(code).toBe(1)
    const { measured, proposal } = JSON.parse(stdout).deadline
    const choices = new Set(
      measured.map((one: { weights: string; tileBudget?: number }) => `${one.weights} ${one.tileBudget ?? 'all'}`),
    )
    expect([...choices]).toEqual(expect.arrayContaining(['bf16 all', 'bf16 6', 'int8 all', 'int4 all']))
    expect(measured.every(({ totalMs }: { totalMs: number }) => totalMs > 0.001)).toBe(true)
    expect(proposal).toEqual({ fastest: expect.objectContaining({ tiles: expect.any(Number) }) })
  })

  it('ignores no flag of what it does not measure', async () => {
    const { code, stderr } = await drivlm(['doctor', '-m', 'models/street-tiny'])
    expect({ code, stderr }).toMatchObject({ code: 1, stderr: expect.stringMatching(/--model is of what --deadline/) })
  })

  it('says which setting is wrong', async () => {
    const { code, stdout } = await drivlm(['doctor'], { env: { DRIVLM_CPU: 'z80' } })
    expect(code).toBe(1)
    expect((await drivlm(['demo'], { env: { DRIVLM_CPU: 'z80' } })).stderr).toMatch(
      /^ModelError \[BAD_ARGUMENT\] DRIVLM_CPU/,
    )
    expect(stdout).toMatch(/processor +✗ ModelError \[BAD_ARGUMENT\] DRIVLM_CPU: expected one of .*'z80'/)
  })

  it('says what to do without the addon', async () => {
    const env = { DRIVLM_ADDON: path.join(dir, 'none.node') }
    const { code, stdout } = await drivlm(['doctor'], { env })
    expect(code).toBe(1)
    expect(stdout).toMatch(/addon +✗ ModelError \[DEVICE_UNAVAILABLE\]/)
    expect(stdout).toMatch(/DRIVLM_ADDON names .*none\.node.* Unset it/)
    const report = JSON.parse((await drivlm(['doctor', '--json'], { env })).stdout)
    expect(report).toMatchObject({ ok: false })
  })
})

describe('drivlm', () => {
  it('takes no empty value for a folder, as of a variable that is not set', async () => {
    const { code, stderr } = await drivlm(['street', '--out', ''])
    expect({ code, stderr }).toMatchObject({
      code: 2,
      stderr: expect.stringMatching(/'--out <dir>' argument '' is invalid/),
    })
  })

  it('prints its version and its help without loading the addon', async () => {
    const env = { DRIVLM_ADDON: path.join(dir, 'none.node') }
    expect(await drivlm(['--version'], { env })).toEqual({ code: 0, stdout: '0.1.0\n', stderr: '' })
    expect((await drivlm(['--help'], { env })).stdout).toMatch(/demo [\s\S]*ask [\s\S]*inspect [\s\S]*eval /)
    expect((await drivlm(['drive'], { env })).code).toBe(2)
  })

  it('minds FORCE_COLOR and NO_COLOR', async () => {
    const coloured = await drivlm(['inspect'], { env: { FORCE_COLOR: '1' } })
    expect(coloured.stdout).toContain('\u001b[1m')
    const plain = await drivlm(['inspect'], { env: { NO_COLOR: '1', FORCE_COLOR: undefined } })
    expect(plain.stdout).not.toContain('\u001b')
  })

  it('starts as an executable file', () => {
    expect(execFileSync(process.execPath, ['dist/cli/main.js', '-V'], { encoding: 'utf8' })).toBe('0.1.0\n')
  })
})

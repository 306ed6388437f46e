// bench/side-by-side.mjs and bench/peers/llama-cpp.mjs: what is made of figures, and how the two are driven. The peer's programs are played by
// small scripts; no figure here says how fast anything is.
import { execFileSync } from 'node:child_process'
import { chmodSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { filesOf, findPeer, timeFormat } from '../../bench/peers/llama-cpp.mjs'
import { busySeconds, goalText, groups, ownSeconds, rows, summarise } from '../../bench/sides.mjs'
import { root, temporaryFolder } from './checkpoint-folder.ts'

const turn = (group: string, round: number, turns: Record<string, Record<string, [number, string]>>) => ({
  group,
  round,
  turns: Object.fromEntries(
    Object.entries(turns).map(([side, stages]) => [
      side,
      Object.fromEntries(Object.entries(stages).map(([stage, [value, unit]]) => [stage, { value, unit }])),
    ]),
  ),
})

describe('rows', () => {
  test('name stages that their groups have', () => {
    const known = new Map(groups.map((group) => [group.name, group]))
    // One stage of questions gives three rows.
    const stagesOf = (name: string) => {
      const { stages } = known.get(name)!
      return stages.includes('ask_all_20') ? ['first_20', 'step_20', 'first_token_13'] : stages
    }
    for (const { of, beside } of rows) {
      for (const [side, group, stage] of [of, beside]) {
        if (side === 'peer')
          expect(
            known.get(group)!.peer.some((format) => stage.endsWith(`_${format}`)),
            stage,
          ).toBe(true)
        else expect(stagesOf(group), group).toContain(stage)
      }
    }
    expect(new Set(rows.map(({ title }) => title)).size).toBe(rows.length)
  })

  test('are the median of the ratios within rounds, times and rates alike', () => {
    const found = summarise([
      turn('int8', 0, {
        old: { vit_tile: [10, 's'], decode_0: [10, 'tok/s'] },
        new: { vit_tile: [7, 's'], decode_0: [17, 'tok/s'] },
      }),
      turn('int8', 1, {
        old: { vit_tile: [20, 's'], decode_0: [10, 'tok/s'] },
        new: { vit_tile: [18, 's'], decode_0: [15, 'tok/s'] },
      }),
      turn('int8', 2, {
        old: { vit_tile: [10, 's'], decode_0: [20, 'tok/s'] },
        new: { vit_tile: [6, 's'], decode_0: [31, 'tok/s'] },
      }),
    ])
    const of = (title: string) => found.find(({ row }) => row === title)
    expect(of('ViT tile, 8 bits')).toMatchObject({ new: 7, ratio: 0.7, ratios: [0.7, 0.9, 0.6], reached: true })
    expect(of('ViT tile, 8 bits')!.beside).toEqual({ side: 'old', row: 'int8 vit_tile', value: 10 })
    expect(of('decode at 0, int8')).toMatchObject({ ratio: 1.55, goal: { times: 1.6 }, reached: false })
  })

  test('without the other side have no ratio; a goal of its own needs none', () => {
    const found = summarise([
      turn('cache_int8', 0, { new: { load_cached: [0.2, 's'] } }),
      turn('load_int8', 0, { new: { load: [1, 's'] } }),
    ])
    expect(found.find(({ row }) => row === 'load from the cache, int8')).toMatchObject({ ratio: null, reached: true })
    expect(found.find(({ row }) => row === 'load to ready, int8')).toMatchObject({ ratio: null, reached: null })
  })

  test('say their goals', () => {
    expect(goalText({ times: 0.78 }, 's')).toBe('<= 0.78 x')
    expect(goalText({ times: 1.25 }, 'tok/s')).toBe('>= 1.25 x')
    expect(goalText({ value: 0.25 }, 's')).toBe('<= 0.25 s')
    expect(goalText(undefined, 's')).toBe('')
  })
})

describe('processor time', () => {
  test('that was not idle is read from the first line, the host included', () => {
    expect(busySeconds(() => 'cpu  100 200 300 9999 8888 10 20 30 5 5\ncpu0 1 1 1 1 1 1 1 1 1 1\n')).toBe(6.6)
    expect(busySeconds(() => 'no such line')).toBeUndefined()
  })

  test('of a process and its children stands behind its name, whatever that is', () => {
    const line = `12 (a) b (c) S ${Array.from({ length: 10 }, () => 7).join(' ')} 100 20 3000 4 0 0`
    expect(ownSeconds(() => line)).toBe(31.24)
  })
})

/** A folder with scripts by the names of llama.cpp's programs. */
function fakePeer(scripts: Record<string, string>): string {
  const dir = temporaryFolder('peer')
  for (const [name, text] of Object.entries(scripts)) {
    writeFileSync(path.join(dir, name), `#!${process.execPath}\n${text}`)
    chmodSync(path.join(dir, name), 0o755)
  }
  return dir
}

const bench = `
const argument = (name) => process.argv[process.argv.indexOf(name) + 1]
const rate = 100 * Number(argument('-p')) + Number(argument('-n')) + (process.argv.includes('-d') ? Number(argument('-d')) : 0)
const samples_ts = Array.from({ length: Number(argument('-r')) }, (_, i) => rate + i)
console.log(JSON.stringify([{ build_commit: 'abc', build_number: 7, samples_ts }]))`
const see = `
console.error('WARN: This is an experimental CLI for testing multimodal capability.')
console.error((process.argv.includes('--no-warmup') ? 'image slice encoded' : 'mtmd batch encoding done') + ' in 250 ms')`
const quantize = "require('node:fs').copyFileSync(process.argv[2], process.argv[3])"

describe('the peer', () => {
  const all = { 'llama-bench': bench, 'llama-mtmd-cli': see, 'llama-quantize': quantize }

  test('is refused by name where a program is missing', () => {
    const dir = fakePeer({ 'llama-bench': bench })
    expect(() => findPeer(dir)).toThrow(`Expected llama.cpp's program ${dir}/llama-mtmd-cli, found none.`)
  })

  test('gives rows of each stage, its own name, and files that are made once', async () => {
    const peer = findPeer(fakePeer(all))
    const model = path.join(temporaryFolder('peer-model'), 'model')
    mkdirSync(`${model}.gguf`)
    for (const name of ['language-f16', 'vision-f16']) writeFileSync(`${model}.gguf/${name}.gguf`, name)
    const files: Record<string, string> = await filesOf(peer, model, ['f16', 'q8_0'])
    expect(files).toEqual({
      vision: `${model}.gguf/vision-f16.gguf`,
      f16: `${model}.gguf/language-f16.gguf`,
      q8_0: `${model}.gguf/language-q8_0.gguf`,
    })
    expect(readFileSync(files.q8_0!, 'utf8')).toBe('language-f16')
    const timed = await timeFormat(peer, files, 'q8_0', { threads: 1, runs: 2, prefills: [64], contexts: [0, 9] })
    expect(timed.version).toBe('abc (7)')
    const loads = timed.rows.filter(({ name }) => name.startsWith('load'))
    expect(loads.map(({ name, runs }) => [name, runs.length])).toEqual([
      ['load', 2],
      ['load_warm', 2],
    ])
    expect(timed.rows.filter(({ name }) => !name.startsWith('load'))).toEqual([
      { name: 'vit_tile', unit: 's', value: 0.25, runs: [0.25, 0.25] },
      { name: 'prefill_64', unit: 'tok/s', value: 6400.5, runs: [6400, 6401] },
      { name: 'decode_0', unit: 'tok/s', value: 16.5, runs: [16, 17] },
      { name: 'decode_9', unit: 'tok/s', value: 25.5, runs: [25, 26] },
    ])
  })

  test('that ends with an error is quoted', async () => {
    const broken = { ...all, 'llama-mtmd-cli': "console.error('error: no such file'); process.exit(3)" }
    const files = { vision: path.join(temporaryFolder('peer'), 'vision'), f16: 'none' }
    const timing = timeFormat(findPeer(fakePeer(broken)), files, 'f16', { threads: 1, runs: 1 })
    await expect(timing).rejects.toThrow('llama-mtmd-cli ended with 3: error: no such file')
  })
})

describe('the command', () => {
  const sideBySide = (...more: string[]) =>
    execFileSync(process.execPath, ['bench/side-by-side.mjs', ...more], { cwd: root, encoding: 'utf8', stdio: 'pipe' })

  test('says what it needs', () => {
    expect(() => sideBySide()).toThrow('Expected --old DIR')
    expect(() => sideBySide('--old', 'lib', '--json', 'x.json')).toThrow('build there first')
    expect(() => sideBySide('--old', '.', '--json', 'x.json', '--only', 'int2')).toThrow(
      'Expected --only out of int8, bf16',
    )
    expect(() => sideBySide('--old', '.', '--json', 'x.json', '--stages', 'vit')).toThrow(
      'Expected --stages out of vit_tile',
    )
    expect(() => sideBySide('--old', '.', '--json', 'x.json', '--rounds', '0')).toThrow(
      'Expected --rounds to be an integer',
    )
  })

  test('writes rows and rounds, and goes on behind what was done', () => {
    const json = path.join(temporaryFolder('sides'), 'result.json')
    const run = (rounds: string) =>
      sideBySide(
        '--quick',
        '--old',
        '.',
        '--only',
        'load_int8,int4',
        '--stages',
        'load',
        '--most-foreign',
        '99',
        '--rounds',
        rounds,
        '--json',
        json,
      )
    expect(run('1')).toContain('load to ready, int8, beside the old')
    const first = JSON.parse(readFileSync(json, 'utf8'))
    expect(first.rounds.map(({ group, round }: { group: string; round: number }) => [group, round])).toEqual([
      ['load_int8', 0],
    ])
    expect(first.rounds[0].turns.old.load.value).toBeGreaterThan(0)
    expect(first.rounds[0].foreign).toBeGreaterThanOrEqual(0)
    expect(first.dropped).toEqual([])
    run('2')
    const second = JSON.parse(readFileSync(json, 'utf8'))
    expect(second.rounds[0]).toEqual(first.rounds[0])
    expect(second.rounds.length).toBe(2)
    expect(
      second.rows.find(({ row }: { row: string }) => row === 'load to ready, int8, beside the old').ratios.length,
    ).toBe(2)
  })
})

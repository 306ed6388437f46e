/** Reading lists of training samples, and the order in which a pass takes them. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { Pass } from '../../lib/train/order.ts'
import { Random, shuffle } from '../../lib/train/random.ts'
import { type ListEntry, readMeta, SampleList } from '../../lib/train/sample-lists.ts'
import { UnitTable } from '../../lib/train/units.ts'

const dir = mkdtempSync(join(tmpdir(), 'drivlm-lists-'))
afterAll(() => rmSync(dir, { recursive: true, force: true }))

function write(name: string, text: string): string {
  const file = join(dir, name)
  writeFileSync(file, text)
  return file
}

const line = (id: string, rest: object = {}): string =>
  JSON.stringify({
    id,
    conversations: [
      { from: 'human', value: 'Wet?' },
      { from: 'gpt', value: 'Yes.' },
    ],
    ...rest,
  })

function entry(annotation: string, more: Partial<ListEntry> = {}): ListEntry {
  return { name: 'set', root: dir, annotation, augment: false, repeat: 1, maxTiles: undefined, ...more }
}

describe('meta files', () => {
  test('are read as they are, relative to themselves', async () => {
    const file = write(
      'meta.json',
      JSON.stringify({
        a: {
          root: 'pictures',
          annotation: 'a.jsonl',
          data_augment: true,
          repeat_time: 0.5,
          max_dynamic_patch: 6,
          length: 9,
        },
        b: { root: '/data/b', annotation: '/data/b.jsonl', data_augment: false, repeat_time: 2 },
      }),
    )
    expect(await readMeta(file)).toEqual([
      {
        name: 'a',
        root: join(dir, 'pictures'),
        annotation: join(dir, 'a.jsonl'),
        augment: true,
        repeat: 0.5,
        maxTiles: 6,
      },
      { name: 'b', root: '/data/b', annotation: '/data/b.jsonl', augment: false, repeat: 2, maxTiles: undefined },
    ])
  })

  const good = { root: '.', annotation: 'a.jsonl', data_augment: false, repeat_time: 1 }
  test.each([
    ['{', /expected a meta file/],
    ['[]', /expected an object of data-set names/],
    ['{}', /an empty one/],
    [JSON.stringify({ a: 3 }), /"a": expected an object, found 3/],
    [JSON.stringify({ a: { ...good, root: 3 } }), /"a": expected root to be a folder, found 3/],
    [JSON.stringify({ a: { ...good, annotation: 'a.json' } }), /annotation to be a file whose name ends in jsonl/],
    [JSON.stringify({ a: { ...good, data_augment: 1 } }), /data_augment to be true or false/],
    [JSON.stringify({ a: { ...good, repeat_time: 0 } }), /repeat_time to be a number above 0, found 0/],
    [JSON.stringify({ a: { ...good, repeat_time: -1 } }), /repeat_time/],
    [
      JSON.stringify({ a: { root: '.', annotation: 'a.jsonl', data_augment: true } }),
      /repeat_time .* the key is missing/,
    ],
    [JSON.stringify({ a: { ...good, max_dynamic_patch: 0 } }), /max_dynamic_patch to be a whole number/],
  ])('%s is refused', async (text, message) => {
    await expect(readMeta(write('bad.json', text))).rejects.toThrow(message)
    await expect(readMeta(write('bad.json', text))).rejects.toMatchObject({ code: 'BAD_DATA' })
  })

  test('that are not there are named', async () => {
    await expect(readMeta(join(dir, 'none.json'))).rejects.toThrow(/none\.json: cannot be read \(ENOENT\)/)
  })
})

describe('lists', () => {
  test('blank lines hold no sample; a last line needs no end; any number of pictures', async () => {
    const file = write(
      'a.jsonl',
      [
        '',
        line('0'),
        '  ',
        line('1', { image: 'x/1.png' }),
        line('2', { image: ['a.png', '/b.png'] }),
        line('3', { image: '' }),
      ].join('\r\n'),
    )
    const list = await SampleList.open(entry(file))
    expect(list.lines).toBe(4)
    const samples = await Promise.all([0, 1, 2, 3].map((i) => list.read(i)))
    expect(samples.map(({ id, pictures, single }) => [id, pictures, single])).toEqual([
      ['0', [], false],
      ['1', [join(dir, 'x/1.png')], true],
      ['2', [join(dir, 'a.png'), '/b.png'], false],
      ['3', [], true],
    ])
    expect(samples[0]!.messages).toEqual([
      { from: 'human', value: 'Wet?' },
      { from: 'gpt', value: 'Yes.' },
    ])
    expect(list.where(1)).toMatch(/a\.jsonl, line 4$/)
    expect(list.sha256).toMatch(/^[0-9a-f]{64}$/)
    await list.close()
  })

  test('a byte order mark in front of a list or a meta file is none of it', async () => {
    const list = await SampleList.open(entry(write('marked.jsonl', `\ufeff${line('a')}\r\n${line('b')}\r\n`)))
    expect((await Promise.all([list.read(0), list.read(1)])).map(({ id }) => id)).toEqual(['a', 'b'])
    await list.close()
    const meta = { a: { root: '.', annotation: 'marked.jsonl', data_augment: false, repeat_time: 1 } }
    expect(await readMeta(write('marked.json', `\ufeff${JSON.stringify(meta)}`))).toHaveLength(1)
  })

  test('repeat_time takes the first lines of a fraction, and whole repeats of more', async () => {
    const file = write('r.jsonl', ['a', 'b', 'c', 'd'].map((id) => line(id)).join('\n'))
    const zeros = new Uint32Array(4)
    const usable = { index: Uint32Array.of(0, 1, 2, 3), tokens: zeros.fill(9), moment: Uint32Array.of(0, 1, 2, 3) }
    const rest = { learned: zeros, tiles: new Uint16Array(4), head: new Uint32Array(4), fingerprint: zeros }
    const taken = (repeat: number) => {
      const units = new UnitTable({ ...usable, ...rest }, { lines: 4, repeat, most: 1, maxTokens: 99 })
      const members = Array.from({ length: units.length }, (_, i) => units.members(i, { seed: 1, pass: 0, list: 0 }))
      return members.flat().map((member) => 'abcd'[member])
    }
    expect(taken(0.5).join('')).toBe('ab')
    expect(taken(0.74).join('')).toBe('ab')
    expect(taken(2).join('')).toBe('abcdabcd')
    expect(taken(1.5).join('')).toBe('abcdab')
    await expect(SampleList.open(entry(file, { repeat: 0.2 }))).rejects.toThrow(
      /repeat_time 0\.2 leaves none of its 4 samples/,
    )
  })

  test.each([
    ['{', /line 2: expected JSON/],
    ['3', /line 2: expected an object, found 3/],
    [line('x', { image: 3 }), /line 2: expected image to be a path or a list/],
    [line('x', { image: ['a', ''] }), /line 2: expected image/],
    [line('x', { video: 'a.mp4' }), /line 2: it has a video/],
    [line('x', { conversations: [] }), /line 2: expected conversations to be a list of messages/],
    [line('x', { conversations: [{ from: 'user', value: 'a' }] }), /line 2, message 1: expected/],
    [line('x', { conversations: [{ from: 'human', value: 3 }] }), /line 2, message 1: expected/],
  ])('a broken line is named: %s', async (text, message) => {
    const list = await SampleList.open(entry(write('broken.jsonl', `${line('fine')}\n${text}\n`)))
    expect((await list.read(0)).id).toBe('fine')
    await expect(list.read(1)).rejects.toThrow(message)
    await expect(list.read(1)).rejects.toMatchObject({ code: 'BAD_DATA' })
    await list.close()
  })

  test('a list without samples, one that is not there, and an endless line are refused', async () => {
    await expect(SampleList.open(entry(write('empty.jsonl', '\n \n')))).rejects.toThrow(/there is no sample in it/)
    await expect(SampleList.open(entry(join(dir, 'none.jsonl')))).rejects.toThrow(/cannot be opened \(ENOENT\)/)
    const endless = write('endless.jsonl', `${line('a')}\n"${'x'.repeat(17 << 20)}"`)
    await expect(SampleList.open(entry(endless))).rejects.toThrow(/line 2: \d+ bytes; at most/)
  })
})

describe('the order of a pass', () => {
  const lists = [
    { length: 40, general: false },
    { length: 300, general: true },
    { length: 20, general: false },
    { length: 100, general: true },
  ]
  const places = (pass: Pass) => Array.from({ length: pass.length }, (_, i) => pass.at(i))
  const names = (pass: Pass) => places(pass).map(({ list, index }) => `${list}:${index}`)

  test('takes each domain sample once, and general ones by the ratio, each once', () => {
    const pass = new Pass(lists, { seed: 1, pass: 0, generalRatio: 0.5 })
    expect(pass.general).toEqual({ wanted: 30, taken: 30 })
    expect(pass.length).toBe(90)
    expect(new Set(names(pass)).size).toBe(90)
    const domain = names(pass).filter((name) => /^[02]:/.test(name))
    expect(domain.length).toBe(60)
  })

  test('draws general data over whole lists, in proportion to their lengths', () => {
    let fromLong = 0
    let late = 0
    for (let seed = 0; seed < 40; seed++) {
      const drawn = places(new Pass(lists, { seed, pass: 0, generalRatio: 1 })).filter(
        ({ list }) => lists[list]!.general,
      )
      fromLong += drawn.filter(({ list }) => list === 1).length
      late += drawn.filter(({ list, index }) => list === 1 && index >= 150).length
    }
    // 60 of 400 are drawn 40 times: 1800 of the long list are expected, 900 of its second half; 6 deviations are 130 and 165.
    expect(Math.abs(fromLong - 1800)).toBeLessThan(130)
    expect(Math.abs(late - 900)).toBeLessThan(165)
  })

  test('is the same for a seed and a pass, and another for others', () => {
    const at = (seed: number, pass: number) => names(new Pass(lists, { seed, pass, generalRatio: 0.25 })).join()
    expect(at(7, 3)).toBe(at(7, 3))
    expect(at(7, 3)).not.toBe(at(7, 4))
    expect(at(7, 3)).not.toBe(at(8, 3))
    expect(at(7, 3)).not.toBe(at(7 + 2 ** 40, 3))
  })

  test('takes what there is where the ratio asks for more, and says so', () => {
    expect(new Pass(lists, { seed: 1, pass: 0, generalRatio: 100 }).general).toEqual({ wanted: 6000, taken: 400 })
    expect(new Pass(lists, { seed: 1, pass: 0, generalRatio: 0 }).length).toBe(60)
  })

  test.each([Number.NaN, -1, Number.POSITIVE_INFINITY])('a ratio of %s is refused', (generalRatio) => {
    expect(() => new Pass(lists, { seed: 1, pass: 0, generalRatio })).toThrow(
      /generalRatio: expected a number of at least 0/,
    )
  })

  test('a ratio without general data is refused', () => {
    expect(() => new Pass([{ length: 3, general: false }], { seed: 1, pass: 0, generalRatio: 0.25 })).toThrow(
      /there is no general data/,
    )
  })
})

describe('the order of units of several samples', () => {
  const sizes = [3, 1, 4, 2]
  const units = { length: 4, samplesOf: (unit: number) => sizes[unit]!, general: true }
  const domain = { length: 2, samplesOf: () => 4, general: false }

  test('the ratio counts samples; the unit that reaches it is cut', () => {
    for (let seed = 0; seed < 20; seed++) {
      const pass = new Pass([domain, units], { seed, pass: 0, generalRatio: 0.625 })
      const drawn = Array.from({ length: pass.length }, (_, i) => pass.at(i)).filter(({ list }) => list === 1)
      expect(pass.samples).toEqual({ domain: 8, general: 5 })
      expect(drawn.reduce((sum, { samples }) => sum + samples, 0)).toBe(5)
      expect(drawn.filter(({ index, samples }) => samples < sizes[index]!).length).toBeLessThan(2)
      expect(new Set(drawn.map(({ index }) => index)).size).toBe(drawn.length)
    }
  })
})

describe('units', () => {
  // Moments of 5, 1 and 3 samples, a head of 10 ids and 4 to 12 of each sample's own.
  const own = [4, 5, 6, 7, 8, 9, 10, 11, 12]
  const usable = {
    index: Uint32Array.from(own.keys()),
    tokens: Uint32Array.from(own, (rows) => rows + 10),
    learned: new Uint32Array(9).fill(2),
    tiles: new Uint16Array(9).fill(6),
    head: new Uint32Array(9).fill(10),
    moment: Uint32Array.of(0, 0, 0, 0, 0, 1, 2, 2, 2),
    fingerprint: new Uint32Array(9),
  }
  const table = (most: number, maxTokens = 1000) => new UnitTable(usable, { lines: 9, repeat: 1, most, maxTokens })
  const members = (units: UnitTable, pass = 0) =>
    Array.from({ length: units.length }, (_, i) => units.members(i, { seed: 1, pass, list: 0 }))

  test('are the moments, cut into nearly equal parts', () => {
    expect(members(table(9))).toEqual([[0, 1, 2, 3, 4], [5], [6, 7, 8]])
    expect(members(table(1))).toEqual(own.map((_, i) => [i]))
    const cut = table(2)
    expect(Array.from({ length: cut.length }, (_, i) => cut.samplesOf(i))).toEqual([1, 2, 2, 1, 1, 2])
    expect(members(cut).flat().sort()).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8])
    expect(members(cut, 1)).not.toEqual(members(cut))
    expect(members(cut, 1)).toEqual(members(cut, 1))
  })

  test('count what their samples have in common once', () => {
    const units = table(9)
    expect(units.sizeOf([0, 1, 2])).toEqual({ tokens: 10 + 4 + 5 + 6, tiles: 6 })
    expect(units.sizeOf([3])).toEqual({ tokens: 17, tiles: 6 })
  })

  test('fit into a pack, whichever questions fall together', () => {
    const units = table(9, 30)
    for (let pass = 0; pass < 5; pass++)
      for (const part of members(units, pass)) expect(units.sizeOf(part).tokens).toBeLessThanOrEqual(30)
  })
})

describe('random numbers', () => {
  test('are as likely below any limit', () => {
    const random = new Random(5)
    const counts = new Array(7).fill(0)
    for (let i = 0; i < 70_000; i++) counts[random.below(7)]++
    for (const count of counts) expect(Math.abs(count - 10_000)).toBeLessThan(560) // 6 deviations
  })

  test('shuffle every entry to every place', () => {
    const sums = new Array(5).fill(0)
    for (let seed = 0; seed < 5000; seed++) {
      const list = Uint32Array.of(0, 1, 2, 3, 4)
      shuffle(list, new Random(seed))
      for (const [i, value] of list.entries()) sums[i] += value
    }
    for (const sum of sums) expect(Math.abs(sum - 10_000)).toBeLessThan(600) // 6 deviations
  })

  test('are written down: a resumed run has those of the run it goes on', () => {
    const random = new Random(42, 1, 2)
    expect([random.word(), random.word(), random.word()]).toMatchInlineSnapshot(`
      [
        2585713913,
        231500791,
        1711667104,
      ]
    `)
  })
})

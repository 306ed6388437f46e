/**
 * Holds the arrows of the house: lib -> lib/native.ts -> addon -> {serve, train, image, packed} -> network -> device -> base <- kernels. CUDA only in
 * kernels/cuda, napi.h in one file, no room knows more than its walls let it, and one module loads the addon.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'

const root = path.resolve(import.meta.dirname, '..')

function sources(folder: string, endings: RegExp): { file: string; text: string }[] {
  return readdirSync(path.join(root, folder), { recursive: true, encoding: 'utf8' })
    .filter((file) => endings.test(file))
    .map((file) => ({ file: `${folder}/${file}`, text: readFileSync(path.join(root, folder, file), 'utf8') }))
}

/** Every `#include` of a native source as [file, included], paths as written. */
const includes = sources('native', /\.(cpp|h|cu|cuh)$/).flatMap(({ file, text }) =>
  [...text.matchAll(/^\s*#\s*include\s*["<]([^">]+)[">]/gm)].map((match) => [file, match[1]!] as const),
)

/** Every import of a TypeScript source as [file, specifier], relative ones resolved to paths from the root. */
const imports = sources('lib', /\.ts$/).flatMap(({ file, text }) =>
  [...text.matchAll(/(?:\bfrom|\bimport|\bimport\s*\(|\brequire\s*\()\s*['"]([^'"\n]+)['"]/g)].map((match) => {
    const specifier = match[1]!
    const target = specifier.startsWith('.') ? path.posix.join(path.posix.dirname(file), specifier) : specifier
    return [file, target] as const
  }),
)

/** Which rooms of native/ a room may include, beside itself. `device/registry.cpp` alone names the backends. */
const walls: Record<string, string[]> = {
  base: [],
  device: ['base'],
  network: ['base', 'device'],
  image: ['base'],
  packed: ['base', 'device'],
  serve: ['base', 'device', 'network', 'image', 'packed'],
  train: ['base', 'device', 'network'],
  addon: ['base', 'device', 'network', 'image', 'packed', 'serve', 'train'],
  'kernels/cpu': ['base', 'device', 'packed'],
  'kernels/cuda': ['base', 'device', 'packed'],
}

/** What the CUDA kernels include when the emulator compiles them. */
const emulatorHeaders = ['simt.h']

/** The room of a native source or of a quoted include. */
function roomOf(file: string): string | undefined {
  const room = /^(?:native\/)?(kernels\/\w+|\w+)\/[\w.-]+$/.exec(file)?.[1]
  return room !== undefined && Object.hasOwn(walls, room) ? room : undefined
}

describe('native', () => {
  test('the scan sees the sources', () => {
    expect(includes.length).toBeGreaterThan(100)
    expect(imports.length).toBeGreaterThan(50)
  })

  test('napi.h and node_api.h are included by addon/napi_setup.h alone', () => {
    const found = includes.filter(([, included]) => /^(napi|node_api|js_native_api)\b/.test(included))
    expect(found).toEqual([['native/addon/napi_setup.h', 'napi.h']])
  })

  test('a room includes its own files and those of the rooms that it may know', () => {
    const found = includes.filter(([file, included]) => {
      if (file === 'native/device/registry.cpp' && roomOf(included)?.startsWith('kernels/')) return false
      const own = roomOf(file)
      const other = roomOf(included)
      return own === undefined || (other !== undefined && other !== own && !walls[own]!.includes(other))
    })
    expect(found).toEqual([])
  })

  test('the walls name every room, and no room that is not there', () => {
    const folders = readdirSync(path.join(root, 'native'), { recursive: true, encoding: 'utf8', withFileTypes: true })
      .filter((entry) => entry.isFile() && entry.parentPath !== path.join(root, 'native'))
      .map((entry) => path.relative(path.join(root, 'native'), entry.parentPath))
    expect([...new Set(folders)].sort()).toEqual(Object.keys(walls).sort())
  })

  test('quoted includes are whole paths from native/', () => {
    const found = sources('native', /\.(cpp|h|cu|cuh)$/).flatMap(({ file, text }) =>
      [...text.matchAll(/^\s*#\s*include\s*"([^"]+)"/gm)]
        .map((match) => match[1]!)
        .filter((included) => roomOf(included) === undefined && !emulatorHeaders.includes(included))
        .map((included) => [file, included]),
    )
    expect(found).toEqual([])
  })

  test('CUDA headers are included in kernels/cuda alone', () => {
    const found = includes.filter(
      ([file, included]) =>
        /^(cuda|cublas|cooperative_groups|mma\.h|device_launch)/.test(included) &&
        !file.startsWith('native/kernels/cuda/'),
    )
    expect(found).toEqual([])
  })
})

describe('comments of native sources', () => {
  const texts = sources('native', /\.(cpp|h|cu|cuh)$/)

  test('a kernel file says what checks it, and that is there', () => {
    const wrong: string[] = []
    for (const { file, text } of texts) {
      const lines = [...text.matchAll(/^\/\/\s+Checked\s+(.*(?:\n\/\/ {2,}\S.*)*)/gm)].map((match) => match[1]!)
      if (file.endsWith('.cu') && lines.length !== 1) wrong.push(`${file}: ${lines.length} lines say "Checked"`)
      for (const line of lines) {
        // "test/a_test.cpp, case, other_." names cases, or their prefixes; what follows a semicolon is about something else.
        const [test, ...cases] = line.split(';')[0]!.replace(/\.$/, '').split(/,\s*/)
        if (!existsSync(path.join(root, test!))) wrong.push(`${file}: ${test} is not there`)
        else {
          const names = [...readFileSync(path.join(root, test!), 'utf8').matchAll(/\bTEST\((\w+)/g)].map(
            (match) => match[1]!,
          )
          for (const name of cases) {
            if (!names.some((one) => one.startsWith(name))) wrong.push(`${file}: ${test} has no case ${name}`)
          }
        }
      }
    }
    expect(wrong).toEqual([])
  })
})

describe('C++ tests', () => {
  test('what they check with stands in test/check.h alone', () => {
    const texts = sources('test', /\.(cpp|h|cu)$/)
    const found = texts.filter(({ text }) => /^\s*#\s*define (TEST|CHECK|EXPECT)|\bmt19937\b/m.test(text))
    expect(texts.length).toBeGreaterThan(30)
    expect(found.map(({ file }) => file)).toEqual(['test/check.h'])
  })
})

describe('CONTRIBUTING.md', () => {
  test('its table of what to touch names files that are there', () => {
    const table = readFileSync(path.join(root, 'CONTRIBUTING.md'), 'utf8')
      .split('\n')
      .filter((line) => line.startsWith('| '))
    const missing: string[] = []
    for (const row of table) {
      let folder = '' // a name alone stands beside the file before it
      for (const [, name] of row.matchAll(/`([\w./<>-]+)`/g)) {
        if (!/\/|\.\w+$/.test(name!)) continue
        const bare = name!.replace(/<\w+>/, 'norm') // kernels/cuda/<op>.cu
        const places = [bare, `native/${bare}`, `lib/cli/${bare}`, path.posix.join(folder, bare)]
        const found = places.find((place) => existsSync(path.join(root, place)))
        if (found === undefined) missing.push(name!)
        else folder = /\.\w+$/.test(found) ? path.posix.dirname(found) : found
      }
    }
    expect(table.length).toBeGreaterThan(6)
    expect(missing).toEqual([])
  })
})

describe('lib', () => {
  test('only native.ts loads an addon, and addon-file.ts knows where it lies', () => {
    const found = sources('lib', /\.ts$/).filter(
      ({ file, text }) =>
        (/createRequire\(file\)|process\.dlopen/.test(text) && file !== 'lib/native.ts') ||
        (/\.node['"]/.test(text) && file !== 'lib/addon-file.ts'),
    )
    expect(found.map(({ file }) => file)).toEqual([])
  })

  test('native.ts, addon-file.ts, errors.ts and option-tables.ts stand at the bottom', () => {
    const below = ['lib/addon-file.ts', 'lib/errors.ts', 'lib/native-training.ts', 'lib/option-tables.ts']
    const found = imports.filter(
      ([file, target]) =>
        (file === 'lib/native.ts' && target.startsWith('lib/') && !below.includes(target)) ||
        (below.includes(file) && target.startsWith('lib/')),
    )
    expect(found).toEqual([])
  })

  test('files of lib/text import each other in one direction', () => {
    const own = imports.filter(([file, target]) => file.startsWith('lib/text/') && target.startsWith('lib/text/'))
    const reach = (from: string, seen = new Set<string>()): Set<string> => {
      for (const [file, target] of own) {
        if (file !== from || seen.has(target)) continue
        seen.add(target)
        reach(target, seen)
      }
      return seen
    }
    expect(own.length).toBeGreaterThan(20)
    expect(own.map(([file]) => file).filter((file) => reach(file).has(file))).toEqual([])
  })

  test('rooms do not know the model, and the library does not know the command line', () => {
    const rooms = /^lib\/(views|checkpoint|text|hub)\//
    const story = /^lib\/(index|model|scene|load-model|generation|answer-stream)\.ts$/
    const found = imports.filter(
      ([file, target]) =>
        (rooms.test(file) && story.test(target)) ||
        (!file.startsWith('lib/cli/') && target.startsWith('lib/cli/')) ||
        (!/^lib\/(cli|serve)\//.test(file) && /^lib\/serve\/|^fastify$|^prom-client$/.test(target)),
    )
    expect(found).toEqual([])
  })

  test('sockets are opened by lib/live alone, which the command line alone knows', () => {
    const found = imports.filter(
      ([file, target]) =>
        (target === 'ws' && !file.startsWith('lib/live/')) ||
        (target.startsWith('lib/live/') && !/^lib\/(cli|live)\//.test(file)),
    )
    expect(found).toEqual([])
    expect(imports.filter(([, target]) => target === 'ws').length).toBeGreaterThan(0)
  })

  test('evaluation is built from questions over metrics and runs to the report; automata know no language', () => {
    const order = ['questions', 'metrics', 'run', 'report']
    const wing = (file: string): number => order.indexOf(/^lib\/evaluate\/(\w+)\//.exec(file)?.[1] ?? '')
    const found = imports.filter(
      ([file, target]) =>
        (wing(file) >= 0 && wing(target) > wing(file)) ||
        (wing(target) >= 0 && wing(file) < 0 && !/^lib\/(cli|drivelm|train)\//.test(file)) ||
        (file.startsWith('lib/automata/') && /^lib\/\w+\//.test(target) && !target.startsWith('lib/automata/')),
    )
    expect(found).toEqual([])
  })

  test('sharp is imported where pictures are read, checked or shrunk, the tokenizer library by one room', () => {
    const found = imports.filter(
      ([file, target]) =>
        (target === 'sharp' &&
          !/^lib\/(views|cli|evaluate\/report|street\/dataset|logs\/log|train\/(pictures|augment)\.)/.test(file)) ||
        (target === '@huggingface/tokenizers' && !file.startsWith('lib/text/')),
    )
    expect(found).toEqual([])
  })
})

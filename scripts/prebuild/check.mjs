#!/usr/bin/env node
// What a prebuilt addon must hold, read from the file itself: machine, what it needs of the C library, nothing left open, the GPU code that is shipped, size.
//
//   node scripts/prebuild/check.mjs ARCH FILE [CUOBJDUMP ARCHITECTURES]

import { execFileSync } from 'node:child_process'
import { statSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

/** The oldest C library that is served; lib/addon-file.ts says it to users. */
export const oldestGlibc = [2, 29]
const machines = { x64: 'Advanced Micro Devices X86-64', arm64: 'AArch64' }
const libraries = /^(lib(c|m|dl|pthread|rt|gcc_s)\.so\.\d+|ld-linux-.*\.so\.\d)$/
const entries = ['napi_register_module_v1', 'node_api_module_get_api_version_v1']
const mostBytes = 25e6

/**
 * @param cuda `{ cuobjdump, architectures }`, the latter as CMAKE_CUDA_ARCHITECTURES; undefined for a file without GPU code.
 * @returns What was found, for people; throws an Error that lists everything wrong.
 */
export function checkAddon(file, arch, cuda) {
  const wrong = []
  const read = (...flags) => execFileSync('readelf', ['-W', ...flags, file], { encoding: 'utf8', maxBuffer: 1 << 28 })

  const machine = /Machine: +(.*)/.exec(read('-h'))?.[1]
  if (machine !== machines[arch]) wrong.push(`it was built for ${machine}`)

  const needed = [...read('-d').matchAll(/\(NEEDED\).*\[(.*)\]/g)].map(([, name]) => name)
  const strangers = needed.filter((name) => !libraries.test(name))
  if (strangers.length > 0) wrong.push(`it needs ${strangers.join(', ')}`)

  // "  12: 0000000000000000  0 FUNC  GLOBAL DEFAULT  UND exp@GLIBC_2.29 (3)"
  const symbols = [...read('--dyn-syms').matchAll(/^ +\d+: \w+ +\w+ (\w+) +(\w+) +\w+ +(\w+) (\S+)/gm)].map(
    ([, type, binding, section, name]) => ({ type, binding, open: section === 'UND', name }),
  )
  const open = symbols.filter((symbol) => symbol.open)
  const versions = [...new Set(open.flatMap(({ name }) => /@(\w+_[\d.]+)$/.exec(name)?.[1] ?? []))]
  const number = (version) => version.split('_')[1].split('.').map(Number)
  const glibc = versions.filter((version) => version.startsWith('GLIBC_')).sort((a, b) => compare(number(a), number(b)))
  const newest = glibc.at(-1) ?? 'GLIBC_0'
  if (compare(number(newest), oldestGlibc) > 0) {
    const why = open.filter(({ name }) => name.endsWith(`@${newest}`)).map(({ name }) => name.split('@')[0])
    wrong.push(`it needs ${newest} (${why.slice(0, 5).join(', ')}), more than GLIBC_${oldestGlibc.join('.')}`)
  }
  const cxx = versions.filter((version) => /^(GLIBCXX|CXXABI)_/.test(version))
  if (cxx.length > 0) wrong.push(`it needs libstdc++ (${cxx.join(', ')})`)
  // A shared library may have open symbols, and is then refused when it is loaded.
  const orphans = open.filter(({ binding, name }) => binding === 'GLOBAL' && !/@|^(napi|node_api)_/.test(name))
  if (orphans.length > 0)
    wrong.push(
      `nobody has ${orphans
        .map(({ name }) => name)
        .slice(0, 5)
        .join(', ')}`,
    )
  const defined = symbols.filter((symbol) => !symbol.open && symbol.binding !== 'LOCAL').map(({ name }) => name)
  if (defined.sort().join() !== entries.join())
    wrong.push(`it exports ${defined.slice(0, 5).join(', ')}, not Node's two entries`)

  const gpu = cuda === undefined ? [] : gpuCode(file, cuda.cuobjdump)
  const wanted =
    cuda === undefined
      ? []
      : cuda.architectures
          .split(';')
          .map((one) =>
            one.replace(/^(\d+)-(real|virtual)$/, (_, n, kind) => `${kind === 'real' ? 'sm' : 'compute'}_${n}`),
          )
  const counts = new Map(wanted.map((name) => [name, gpu.filter((one) => one === name).length]))
  if (new Set(counts.values()).size > 1 || [...counts.values()].includes(0)) {
    wrong.push(`GPU code is not complete: ${[...counts].map(([name, count]) => `${count} × ${name}`).join(', ')}`)
  }
  const extra = gpu.filter((name) => !counts.has(name))
  if (extra.length > 0) wrong.push(`there is GPU code that was not asked for: ${[...new Set(extra)].join(', ')}`)

  const { size } = statSync(file)
  if (size > mostBytes) wrong.push(`it has ${size} bytes, more than ${mostBytes}`)
  if (wrong.length > 0) throw new Error(`${file} is not fit to be shipped:\n  ${wrong.join('\n  ')}`)
  const code =
    cuda === undefined ? 'GPU code not looked at' : [...counts].map(([name, count]) => `${count} × ${name}`).join(', ')
  return `${(size / 1e6).toFixed(2)} MB, ${arch}, ${newest}, ${needed.join(' ')}, ${code}`
}

/** `sm_87` for machine code, `compute_90` for PTX, once for each source. */
function gpuCode(file, cuobjdump) {
  const list = execFileSync(cuobjdump, ['--list-elf', '--list-ptx', file], { encoding: 'utf8' })
  return [...list.matchAll(/\.sm_(\d+)a?\.(cubin|ptx)/g)].map(
    ([, n, kind]) => `${kind === 'cubin' ? 'sm' : 'compute'}_${n}`,
  )
}

function compare(a, b) {
  for (let i = 0; i < Math.max(a.length, b.length); i++)
    if ((a[i] ?? 0) !== (b[i] ?? 0)) return (a[i] ?? 0) - (b[i] ?? 0)
  return 0
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [arch, file, cuobjdump, architectures] = process.argv.slice(2)
  try {
    console.log(checkAddon(file, arch, cuobjdump && { cuobjdump, architectures }))
  } catch (error) {
    console.error(error.message)
    process.exitCode = 1
  }
}

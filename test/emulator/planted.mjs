#!/usr/bin/env node
// The emulator's own test: bugs of the kind that a GPU forgives on most days, each planted in a copy of a kernel
// file. Every one must be caught by the checked tests, for the reason given here.
//
//   node test/emulator/planted.mjs BUILD_DIR [number ...]     BUILD_DIR holds cuda_test_checked and compile_commands.json
import { execFileSync, spawnSync } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..', '..')
const kernels = 'native/kernels/cuda'

// what: the bug; file: where it goes; unit: the .cu that is compiled (if not the file); from -> to; test: the cases to run;
// caught: what the output must say.
const bugs = [
  {
    what: 'missing __syncthreads in the main loop',
    file: `${kernels}/linear_kernel.cuh`,
    unit: `${kernels}/linear.cu`,
    from: '    __syncthreads();  // stage',
    to: '    // stage',
    test: 'linear_edges',
    caught: /race|uninitialised shared/,
  },
  {
    what: 'row guard > for >=',
    file: `${kernels}/linear_kernel.cuh`,
    unit: `${kernels}/linear.cu`,
    from: 'if (m >= p.rows) continue;',
    to: 'if (m > p.rows) continue;',
    test: 'linear_edges',
    caught: /global out of bounds/,
  },
  {
    what: 'missing cp.async wait',
    file: `${kernels}/linear_kernel.cuh`,
    unit: `${kernels}/linear.cu`,
    from: '    cp_async_wait<kStages - 2>();\n',
    to: '',
    test: 'linear_edges',
    caught: /before cp\.async completed/,
  },
  {
    what: 'wrong fragment order in P * V',
    file: `${kernels}/attention_tile.cuh`,
    unit: `${kernels}/attention.cu`,
    from: 'r_v[n][0] = r[0], r_v[n][1] = r[1], r_v[n + 1][0] = r[2], r_v[n + 1][1] = r[3];',
    to: 'r_v[n][0] = r[0], r_v[n][1] = r[2], r_v[n + 1][0] = r[1], r_v[n + 1][1] = r[3];',
    test: 'attention_full_edges',
    caught: /times the bound/,
  },
  {
    what: 'tail of K and V not zero-filled',
    file: `${kernels}/attention.cu`,
    from: 'cp_async16(to_v + Rows::at(r, c), values + from, key < p.positions);',
    to: 'if (key < p.positions) cp_async16(to_v + Rows::at(r, c), values + from);',
    test: 'attention_full_edges',
    caught: /uninitialised shared/,
  },
  {
    what: 'misaligned 16-byte load',
    file: `${kernels}/matvec.cu`,
    from: 'load16(p.x + size_t(g) * p.k + k)',
    to: 'load16(p.x + size_t(g) * p.k + k + (t & 1))',
    test: 'matvec_rows',
    caught: /misaligned access/,
  },
  {
    what: 'no row guard on cp.async',
    file: `${kernels}/linear_kernel.cuh`,
    unit: `${kernels}/linear.cu`,
    from: 'cp_async16(s_x + Rows::at(r, c), from, m < p.rows && byte < p.x_bytes);',
    to: 'cp_async16(s_x + Rows::at(r, c), from, byte < p.x_bytes);',
    test: 'linear_edges',
    caught: /global out of bounds/,
  },
  {
    what: 'reduction buffer used again without a barrier',
    file: `${kernels}/norm.cu`,
    from: 'sum = block_sum<kWarps>(sum, s_part[1]);',
    to: 'sum = block_sum<kWarps>(sum, s_part[0]);',
    test: 'norm_sizes',
    caught: /write-after-read race/,
  },
  {
    what: 'a row rounded to 8 bits before it is rounded to bf16',
    file: `${kernels}/norm.cu`,
    from: 'unpack8(r_x[i], packed);',
    to: '',
    test: 'norm_rounded',
    caught: /apart\.host == fused\.host/,
  },
  {
    what: 'causal mask off by one',
    file: `${kernels}/attention_cached.cu`,
    from: 'last[half] = min(position, item.key_end - 1) - item.key_begin;',
    to: 'last[half] = min(position + 1, item.key_end - 1) - item.key_begin;',
    test: 'attention_cached_prefill',
    caught: /times the bound/,
  },
  {
    what: 'exchange inside a warp without __syncwarp',
    file: 'test/emulator/wrappers_test.cu',
    from: '  __syncwarp();  // orders the exchange\n',
    to: '',
    test: 'wrapper_shuffles',
    caught: /race|uninitialised shared/,
  },
  {
    what: 'prefetch overwrites the stage in use',
    file: `${kernels}/linear_kernel.cuh`,
    unit: `${kernels}/linear.cu`,
    from: 'const int next = step + kStages - 1;',
    to: 'const int next = step + kStages;',
    test: 'linear_edges',
    caught: /race|before cp\.async completed|uninitialised shared/,
  },
  {
    what: 'neighbouring blocks write overlapping tiles (the values are right)',
    file: `${kernels}/linear_kernel.cuh`,
    unit: `${kernels}/linear.cu`,
    from: 'n0 = in_group / group_rows * kBn;',
    to: 'n0 = in_group / group_rows * (kBn - 8);',
    test: 'linear_edges',
    caught: /global write-write conflict/,
  },
  {
    what: 'shuffle of all lanes in a divergent branch',
    file: `${kernels}/rope.cu`,
    from: 'const float mean_square = warp_sum(a0 * a0 + a1 * a1 + b0 * b0 + b1 * b1) / p.head_dim;',
    to: 'const float mean_square = (active ? warp_sum(a0 * a0 + a1 * a1 + b0 * b0 + b1 * b1) : 0.f) / p.head_dim;',
    test: 'rope_append',
    caught: /shuffle from an absent lane|deadlock/,
  },
  {
    what: 'queries that meet spread keys as they are',
    file: `${kernels}/rope.cu`,
    from: '      spread(a0, a1, b0, b1, half, lane);',
    to: '      if (is_k) spread(a0, a1, b0, b1, half, lane);',
    test: 'attention_cached_int8',
    caught: /times the bound/,
  },
  {
    what: 'shared memory used again without a barrier',
    file: `${kernels}/attention_cached.cu`,
    from: '    constexpr int kPitch = kDim + 4;\n    __syncthreads();\n',
    to: '    constexpr int kPitch = kDim + 4;\n',
    test: 'attention_cached_prefill',
    caught: /race/,
  },
  {
    what: 'uninitialised register',
    file: `${kernels}/matvec.cu`,
    from: 'float r_sum[4] = {};',
    to: 'float r_sum[4];',
    test: 'matvec_rows',
    caught: /times the bound/,
  },
  {
    what: 'barrier that one warp only reaches',
    file: `${kernels}/warp.cuh`,
    unit: `${kernels}/norm.cu`,
    from: '  __syncthreads();\n  value = 0;',
    to: '  if (threadIdx.x < 32) __syncthreads();\n  value = 0;',
    test: 'norm_sizes',
    caught: /divergent barrier|deadlock|race/,
  },
  {
    what: 'broadcast through shared memory without a barrier',
    file: `${kernels}/sample.cu`,
    from: '  __syncthreads();\n  return *s_found;',
    to: '  return *s_found;',
    test: 'sample_nucleus',
    caught: /read-after-write race/,
  },
  {
    what: 'wait_group<S - 1> for <S - 2>',
    file: `${kernels}/linear_kernel.cuh`,
    unit: `${kernels}/linear.cu`,
    from: 'cp_async_wait<kStages - 2>();',
    to: 'cp_async_wait<kStages - 1>();',
    test: 'linear_edges',
    caught: /before cp\.async completed/,
  },
  {
    what: 'scale of the group before',
    file: `${kernels}/weight_formats.cuh`,
    unit: `${kernels}/matvec.cu`,
    from: 'const float low_scale = scale(piece.low_scales, j)',
    to: 'const float low_scale = scale(piece.low_scales, j ^ 1)',
    test: 'matvec_quantised',
    caught: /times the bound/,
  },
  {
    what: 'two nibbles exchanged',
    file: `${kernels}/weight_formats.cuh`,
    unit: `${kernels}/matvec.cu`,
    from: 'make_uint4(lower(word), upper(word), lower(next), upper(next))',
    to: 'make_uint4(lower(word), lower(next), upper(word), upper(next))',
    test: 'matvec_quantised',
    caught: /times the bound/,
  },
  {
    what: 'zero point of a group forgotten',
    file: `${kernels}/weight_formats.cuh`,
    unit: `${kernels}/matvec.cu`,
    from: 'pair & 0x00f000f0u, 0x7f007f00u, 0xc000c000u',
    to: 'pair & 0x00f000f0u, 0x7f007f00u, 0x80008000u',
    test: 'matvec_quantised',
    caught: /times the bound/,
  },
  {
    what: 'sign of a byte dropped',
    file: `${kernels}/warp.cuh`,
    unit: `${kernels}/matvec.cu`,
    from: 'and_xor<0x00ff00ffu, 0x00800080u>',
    to: 'and_xor<0x007f007fu, 0x00800080u>',
    test: 'matvec_quantised',
    caught: /times the bound/,
  },
  {
    what: 'row scale of the neighbour',
    file: `${kernels}/linear_kernel.cuh`,
    unit: `${kernels}/linear_quantised.cu`,
    from: 'column1 = Format::column(p.w, second ? n + 1 : n)',
    to: 'column1 = column0',
    test: 'linear_quantised',
    caught: /times the bound/,
  },
  {
    what: 'scales of the head before',
    file: `${kernels}/attention_cached.cu`,
    from: '(which == 0 ? keys : values) + kPageTokens * kRowBytes',
    to: '(which == 0 ? keys : values) + kPageTokens * kRowBytes - (kv_head ? kv_block_bytes(kDim, kFormat) : 0)',
    test: 'attention_cached_int8',
    caught: /times the bound/,
  },
  {
    what: 'scale of the neighbouring token',
    file: `${kernels}/attention_tile.cuh`,
    unit: `${kernels}/attention_cached.cu`,
    from: 'low[0] *= by0.x, low[1] *= by0.y,',
    to: 'low[0] *= by0.y, low[1] *= by0.x,',
    test: 'attention_cached_int8',
    caught: /times the bound/,
  },
  {
    what: 'zero point of a row of x forgotten',
    file: `${kernels}/weight_formats.cuh`,
    unit: `${kernels}/linear_int8.cu`,
    from: 'float(sum - row.zero * column.sum)',
    to: 'float(sum)',
    test: 'linear_int8',
    caught: /times the bound/,
  },
  {
    what: 'zero point of the row before',
    file: `${kernels}/weight_formats.cuh`,
    unit: `${kernels}/linear_int8.cu`,
    from: 'const InputScale row = rows[m];',
    to: 'const InputScale row = {rows[m].scale, rows[m > 0 ? m - 1 : 0].zero};',
    test: 'linear_int8',
    caught: /times the bound/,
  },
  {
    what: 'parts of k that overlap by a step',
    file: `${kernels}/linear_kernel.cuh`,
    unit: `${kernels}/linear.cu`,
    from: 'const int begin = all_steps * int(blockIdx.y) / int(gridDim.y)',
    to: 'const int begin = all_steps * int(blockIdx.y) / int(gridDim.y) - (blockIdx.y > 0)',
    test: 'linear_split',
    caught: /times the bound/,
  },
  {
    what: 'bytes of 4-bit weights by the scale of the group after',
    file: `${kernels}/linear_int8.cu`,
    from: 'scale_of(k / int(kS4Group)) * inverse',
    to: 'scale_of((k / int(kS4Group)) ^ 1) * inverse',
    test: 'linear_int4_bytes',
    caught: /values differ/,
  },
  {
    what: 'a part of integer sums left out',
    file: `${kernels}/linear_split.cu`,
    from: 'for (int split = 0; split < p.splits; ++split)',
    to: 'for (int split = std::is_same_v<Sum, int32_t>; split < p.splits; ++split)',
    test: 'linear_split_int8',
    caught: /times the bound/,
  },
  {
    what: 'widened weights stored a stage too early',
    file: `${kernels}/linear_kernel.cuh`,
    unit: `${kernels}/linear_quantised.cu`,
    from: 'if (next < end) store_pieces(next);',
    to: 'if (next < end) store_pieces(next + 1);',
    test: 'linear_quantised',
    caught: /race|uninitialised shared|times the bound/,
  },
]

const [buildDir, ...numbers] = process.argv.slice(2)
if (!buildDir) {
  console.error('usage: node test/emulator/planted.mjs BUILD_DIR [number ...]')
  process.exit(2)
}
const build = path.resolve(buildDir)
const commands = JSON.parse(readFileSync(path.join(build, 'compile_commands.json'), 'utf8'))
// Part of a larger build, the emulator has a directory of its own.
const sub = path.join(build, 'test', 'emulator')
const emulatorDir = existsSync(sub) ? sub : build
const work = mkdtempSync(path.join(os.tmpdir(), 'planted-'))

/** The compiler's arguments for a kernel file in the checked flavour, without input and output. */
function compileFlags(unit) {
  const wanted = path.join(root, unit)
  const entry = commands.find((c) => c.file === wanted && /kernels_checked/.test(c.command))
  if (!entry) throw new Error(`${unit}: not in compile_commands.json of ${build}`)
  const words = entry.command.match(/(?:[^\s"]+|"[^"]*")+/g) ?? []
  const kept = []
  for (let i = 0; i < words.length; i++) {
    if (words[i] === '-o' || words[i] === '-c') i++
    else kept.push(words[i])
  }
  return kept
}

/** Objects and libraries of cuda_test_checked, from the build tool's own command. */
function linkWords() {
  const linkFile = path.join(emulatorDir, 'CMakeFiles', 'cuda_test_checked.dir', 'link.txt') // Makefiles
  if (existsSync(linkFile)) return readFileSync(linkFile, 'utf8').trim().split(/\s+/)
  const lines = execFileSync('ninja', ['-C', build, '-t', 'commands', 'cuda_test_checked'], { encoding: 'utf8' }).split(
    '\n',
  )
  const line = lines.findLast((l) => / -o \S*cuda_test_checked /.test(l))
  return line.split('&&')[1].trim().split(/\s+/)
}

function plant(bug, number) {
  const original = readFileSync(path.join(root, bug.file), 'utf8')
  if (original.split(bug.from).length !== 2)
    throw new Error(`bug ${number}: the place is not (or not once) in ${bug.file}`)
  const dir = path.join(work, String(number))
  const unit = bug.unit ?? bug.file
  mkdirSync(path.join(dir, path.dirname(bug.file)), { recursive: true })
  if (bug.unit) cpSync(path.join(root, unit), path.join(dir, unit))
  writeFileSync(
    path.join(dir, bug.file),
    original.replace(bug.from, () => bug.to),
  )
  const [compiler, ...flags] = compileFlags(unit)
  const object = path.join(dir, 'planted.o')
  // The copy comes first on the include path, so a planted header wins.
  const include = [`-I${path.join(dir, 'native')}`, `-I${path.join(root, 'test/emulator')}`]
  execFileSync(compiler, [...include, ...flags, '-w', '-c', path.join(dir, unit), '-o', object], { cwd: build })
  const program = path.join(dir, 'planted-test')
  const words = linkWords()
  const own = words.findIndex((w) => w.includes('kernels_checked.dir') && w.endsWith(`${path.basename(unit)}.o`))
  if (own >= 0) words[own] = object
  else
    words.splice(
      words.findIndex((w) => w.endsWith('.o')),
      0,
      object,
    )
  words[words.indexOf('-o') + 1] = program
  execFileSync(words[0], words.slice(1), { cwd: existsSync(path.join(build, 'build.ninja')) ? build : emulatorDir })
  return spawnSync(program, [bug.test], { encoding: 'utf8', timeout: 120_000 })
}

let missed = 0
for (const [i, bug] of bugs.entries()) {
  const number = i + 1
  if (numbers.length > 0 && !numbers.includes(String(number))) continue
  const run = plant(bug, number)
  const output = `${run.stdout}${run.stderr}`
  const caught = run.status !== 0 && bug.caught.test(output)
  const reason = output.split('\n').find((line) => bug.caught.test(line)) ?? `status ${run.status}`
  console.log(`${caught ? 'caught' : 'MISSED'} ${number}. ${bug.what}: ${reason.trim().slice(0, 160)}`)
  if (!caught) missed++
}
rmSync(work, { recursive: true })
console.log(missed === 0 ? 'every planted bug was caught' : `${missed} planted bugs were missed`)
process.exit(missed === 0 ? 0 : 1)

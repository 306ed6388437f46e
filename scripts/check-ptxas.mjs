#!/usr/bin/env node
// Compiles every CUDA kernel for every architecture we ship and reads what ptxas says. Fails on spills, on local memory (a stack
// frame), on a kernel without launch bounds, on more registers than a block of those bounds can have, and on more declared shared memory
// than launch.h allows for. Also holds the sources to what CUDA 12.2 (JetPack 6) has.
//
//   node scripts/check-ptxas.mjs [--arch 80,87] [file.cu ...]     prints the largest register count of each kernel; needs nvcc
//
// Without nvcc it says so and ends well.

import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..')
const folder = path.join(root, 'native', 'kernels', 'cuda')
const registersPerBlock = 65536
const mostDeclared = 8 << 10 // kMostDeclared of launch.h

/** Runtime functions that the sources may use: all of them are in CUDA 12.2, with the signatures used. */
const runtimeOfCuda122 = new Set(
  `cudaDeviceGetAttribute cudaDeviceSynchronize cudaDriverGetVersion cudaEventCreate cudaEventCreateWithFlags cudaEventDestroy
  cudaEventElapsedTime cudaEventQuery cudaEventRecord cudaEventSynchronize cudaFree cudaFreeHost cudaFuncSetAttribute cudaGetDevice
  cudaGetDeviceCount cudaGetDeviceProperties cudaGetErrorName cudaGetErrorString cudaGetLastError cudaGraphDestroy
  cudaGraphExecDestroy cudaGraphInstantiate cudaGraphLaunch cudaHostGetDevicePointer cudaHostRegister cudaHostUnregister cudaMalloc cudaMallocHost cudaMemGetInfo cudaMemcpy cudaMemcpy2DAsync
  cudaMemcpyAsync cudaMemset cudaMemsetAsync cudaPeekAtLastError cudaRuntimeGetVersion cudaSetDevice cudaStreamBeginCapture
  cudaStreamCreateWithFlags cudaStreamDestroy cudaStreamEndCapture cudaStreamSynchronize`.split(/\s+/),
)
const headersOfCuda122 = new Set(['cuda_bf16.h', 'cuda_runtime_api.h', 'cuda_runtime.h'])

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: { arch: { type: 'string', default: '80,86,87,89,90,100,110,120' } },
})
const architectures = options.arch.split(',')
const files = readdirSync(folder).filter((file) => file.endsWith('.cu'))
const wanted = positionals.length > 0 ? positionals.map((file) => path.basename(file)) : files
const problems = []

function checkOldToolkit() {
  for (const file of readdirSync(folder)) {
    const text = readFileSync(path.join(folder, file), 'utf8').replace(/\/\/.*$/gm, '')
    for (const [, name] of text.matchAll(/\b(cuda[A-Z]\w*)\s*\(/g)) {
      if (!runtimeOfCuda122.has(name)) problems.push(`${file}: ${name} is not on the list of functions of CUDA 12.2`)
    }
    for (const [, header] of text.matchAll(/#include [<"](cuda[^/>"]*\.h|cooperative[^>"]*|mma\.h)[>"]/g)) {
      if (!headersOfCuda122.has(header)) problems.push(`${file}: ${header} is not on the list of headers of CUDA 12.2`)
    }
  }
}

function findNvcc() {
  const homes = [process.env.CUDA_PATH, process.env.CUDA_HOME, '/usr/local/cuda'].filter(Boolean)
  const candidates = ['nvcc', ...homes.map((home) => path.join(home, 'bin', 'nvcc'))]
  return candidates.find((nvcc) => (nvcc === 'nvcc' || existsSync(nvcc)) && spawnSync(nvcc, ['--version']).status === 0)
}

function compile(nvcc, args) {
  const common = ['-std=c++20', `-I${path.join(root, 'native')}`]
  const run = spawnSync(nvcc, [...common, ...args], { encoding: 'utf8', maxBuffer: 1 << 28 })
  if (run.status !== 0) throw new Error(run.stderr.slice(0, 4000))
  return `${run.stdout}${run.stderr}`
}

/** A readable kernel name: the parts of a mangled name that are words, and its template numbers. */
function shortName(mangled) {
  const name = /([a-z_]+_kernel)/.exec(mangled)?.[1]?.replace(/^_+/, '') ?? mangled
  const numbers = [...mangled.matchAll(/L(?:[ijb]|N\w*?E)(\d+)E/g)].map((match) => match[1]).join(',')
  return numbers ? `${name}<${numbers}>` : name
}

function checkFile(nvcc, file, scratch) {
  const source = path.join(folder, file)
  const ptx = path.join(scratch, `${file}.ptx`)
  compile(nvcc, ['-arch=compute_80', '-ptx', source, '-o', ptx])
  const threads = new Map() // kernel -> launch bound
  for (const [, kernel, body] of readFileSync(ptx, 'utf8').matchAll(/\.entry (\w+)\(([\s\S]*?)\{/g)) {
    const bound = /\.maxntid (\d+)/.exec(body)
    if (bound) threads.set(kernel.replace(/_[0-9a-f]{8}(?=_|\d)/g, ''), Number(bound[1]))
    else problems.push(`${file}: ${shortName(kernel)} has no __launch_bounds__`)
  }
  const targets = architectures.flatMap((arch) => ['-gencode', `arch=compute_${arch},code=sm_${arch}`])
  const log = compile(nvcc, [
    '-Xptxas',
    '-v',
    '--threads',
    '2',
    ...targets,
    '-c',
    source,
    '-o',
    path.join(scratch, `${file}.o`),
  ])
  const most = new Map()
  let count = 0
  const pattern =
    /Compiling entry function '(\w+)' for 'sm_(\d+)[a-z]?'[\s\S]*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads[\s\S]*?Used (\d+) registers([^\n]*)/g
  for (const [, kernel, arch, stack, stores, loads, registers, rest] of log.matchAll(pattern)) {
    count++
    const name = shortName(kernel)
    const at = `${file}: ${name} on sm_${arch}`
    if (Number(stores) + Number(loads) > 0) problems.push(`${at}: spills ${stores} bytes, loads ${loads}`)
    else if (Number(stack) > 0) problems.push(`${at}: ${stack} bytes of local memory`)
    const declared = Number(/(\d+) bytes smem/.exec(rest)?.[1] ?? 0)
    if (declared > mostDeclared)
      problems.push(`${at}: ${declared} bytes of declared shared memory, ${mostDeclared} allowed for`)
    const bound = threads.get(kernel.replace(/_[0-9a-f]{8}(?=_|\d)/g, '')) ?? 1024
    if (Number(registers) * bound > registersPerBlock)
      problems.push(`${at}: ${registers} registers for ${bound} threads`)
    if (Number(registers) > (most.get(name)?.registers ?? 0)) most.set(name, { registers: Number(registers), arch })
  }
  if (count !== threads.size * architectures.length) {
    problems.push(
      `${file}: expected ${threads.size} kernels on ${architectures.length} architectures, ptxas spoke of ${count}`,
    )
  }
  for (const [name, { registers, arch }] of [...most].sort())
    console.log(`${file} ${name}: ${registers} registers (sm_${arch})`)
}

checkOldToolkit()
const nvcc = findNvcc()
if (!nvcc) {
  console.log('check-ptxas: skipped, no nvcc (looked in PATH, CUDA_PATH, CUDA_HOME and /usr/local/cuda)')
} else {
  const scratch = mkdtempSync(path.join(os.tmpdir(), 'ptxas-'))
  try {
    for (const file of wanted) checkFile(nvcc, file, scratch)
  } finally {
    rmSync(scratch, { recursive: true })
  }
}
for (const problem of problems) console.error(`FAIL ${problem}`)
console.log(
  problems.length === 0 ? 'check-ptxas: no spills, no local memory, launch bounds kept' : `${problems.length} problems`,
)
process.exit(problems.length === 0 ? 0 : 1)

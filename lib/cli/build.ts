/** `drivlm build`: builds the addon on this machine, where no prebuilt one fits or its GPU code is wanted for this card alone. */
import { spawnSync } from 'node:child_process'
import { accessSync, constants, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import os from 'node:os'
import path from 'node:path'
import { addonFiles, thisHost, whyMissing } from '../addon-file.ts'
import { ModelError } from '../errors.ts'
import { packageRoot } from '../native.ts'
import { print } from './terminal.ts'

export interface BuildFlags {
  cuda?: 'auto' | 'on' | 'off'
  jobs?: number
}

/** Header packages that the addon is compiled against; their versions are those of the development dependencies. */
const headerPackages = ['node-addon-api', 'node-api-headers']

export function build(flags: BuildFlags): void {
  if (process.platform !== 'linux') throw new ModelError('DEVICE_UNAVAILABLE', whyMissing(packageRoot, thisHost()))
  try {
    accessSync(packageRoot, constants.W_OK)
  } catch (error) {
    const message = `The addon is built inside ${packageRoot}, which cannot be written to. Run this as the user who installed it.`
    throw new ModelError('DEVICE_UNAVAILABLE', message, { cause: error })
  }
  checkTools(flags.cuda ?? 'auto')
  const scratch = mkdtempSync(path.join(os.tmpdir(), 'drivlm-build-'))
  const out = path.join(packageRoot, '.cmake-build')
  try {
    const environment = {
      ...process.env,
      DRIVLM_HEADERS: findHeaders() ?? fetchHeaders(scratch),
      DRIVLM_CUDA: (flags.cuda ?? 'auto').toUpperCase(),
      ...(flags.jobs === undefined ? {} : { JOBS: String(flags.jobs) }),
    }
    const script = path.join(packageRoot, 'scripts', 'build-native.mjs')
    const { status } = spawnSync(process.execPath, [script, `--out=${out}`], { env: environment, stdio: 'inherit' })
    if (status !== 0)
      throw new ModelError('DEVICE_UNAVAILABLE', 'The addon could not be built; the lines above say why.')
  } finally {
    rmSync(scratch, { recursive: true, force: true })
    if (!existsSync(path.join(packageRoot, '.git'))) rmSync(out, { recursive: true, force: true })
  }
  const file = addonFiles(packageRoot)[0]!
  // In a process of its own: what does not load here must not end this one.
  const code = 'console.log(require(process.argv[1]).build.cuda)'
  const loaded = spawnSync(process.execPath, ['-e', code, file], { encoding: 'utf8' })
  if (loaded.status !== 0) {
    const reason = /^Error: (.*)/m.exec(loaded.stderr)?.[1] ?? `loading it ended with ${loaded.signal ?? loaded.status}`
    throw new ModelError('DEVICE_UNAVAILABLE', `The addon was built, but cannot be loaded here: ${reason}.`)
  }
  print(
    `\nBuilt ${file}, ${loaded.stdout.trim() === 'true' ? 'with' : 'without'} CUDA kernels. It is used from now on.`,
  )
}

/** Says what a build needs and what is here of it, before anything is done. */
function checkTools(cuda: NonNullable<BuildFlags['cuda']>): void {
  const cmake = versionOf(process.env.CMAKE ?? 'cmake')
  const compiler = [process.env.CXX, 'c++', 'g++', 'clang++'].find((one) => one && versionOf(one) !== undefined)
  const maker = ['ninja', 'make'].find((one) => versionOf(one) !== undefined)
  const nvcc = [process.env.CUDACXX, 'nvcc', '/usr/local/cuda/bin/nvcc'].find(
    (one) => one && versionOf(one) !== undefined,
  )
  const gpu =
    cuda === 'off'
      ? 'not wanted'
      : (nvcc ?? (cuda === 'on' ? 'missing' : 'not found, so the addon will run on the CPU alone'))
  print('A build needs, and finds here:')
  print(`  cmake 3.22 or later       ${cmake ?? 'missing'}`)
  print(`  a C++20 compiler          ${compiler === undefined ? 'missing' : `${compiler} ${versionOf(compiler)}`}`)
  print(`  make or ninja             ${maker ?? 'missing'}`)
  print(`  for NVIDIA GPUs: nvcc     ${gpu}`)
  print('It takes some minutes.\n')
  const [major = 0, minor = 0] = (cmake ?? '0').split('.').map(Number)
  const missing = [
    ...(major > 3 || (major === 3 && minor >= 22) ? [] : ['cmake 3.22 or later']),
    ...(compiler === undefined ? ['a C++20 compiler'] : []),
    ...(maker === undefined ? ['make or ninja'] : []),
    ...(cuda === 'on' && nvcc === undefined ? ['nvcc, of the CUDA toolkit'] : []),
  ]
  if (missing.length === 0) return
  throw new ModelError(
    'DEVICE_UNAVAILABLE',
    `The addon cannot be built without ${missing.join(', ')}. On Debian and Ubuntu: apt-get install cmake g++ make; on Fedora and RHEL: dnf install cmake gcc-c++ make.`,
  )
}

function versionOf(program: string): string | undefined {
  const { status, stdout } = spawnSync(program, ['--version'], { encoding: 'utf8' })
  return status === 0 ? (/\d+\.\d+(\.\d+)?/.exec(stdout)?.[0] ?? 'here') : undefined
}

/** A folder from which both header packages are found: this package's own, or the project's. */
function findHeaders(): string | undefined {
  return [packageRoot, process.cwd()].find((folder) => {
    const require = createRequire(path.join(folder, 'package.json'))
    try {
      return headerPackages.every((name) => require.resolve(`${name}/package.json`))
    } catch {
      return false
    }
  })
}

/** Fetches the header packages with npm. */
function fetchHeaders(folder: string): string {
  const manifest = JSON.parse(readFileSync(path.join(packageRoot, 'package.json'), 'utf8')) as {
    devDependencies: Record<string, string>
  }
  const wanted = headerPackages.map((name) => `${name}@${manifest.devDependencies[name]}`)
  print(`Fetching the headers of Node-API: ${wanted.join(', ')}`)
  writeFileSync(path.join(folder, 'package.json'), '{ "private": true }\n')
  const npm = [
    'install',
    '--prefix',
    folder,
    '--ignore-scripts',
    '--no-audit',
    '--no-fund',
    '--loglevel=error',
    ...wanted,
  ]
  const { status } = spawnSync('npm', npm, { cwd: folder, stdio: 'inherit' })
  if (status === 0) return folder
  throw new ModelError(
    'DEVICE_UNAVAILABLE',
    `npm could not fetch ${wanted.join(' and ')}, which the addon is compiled against. Add them to this project, and run drivlm build in it again.`,
  )
}

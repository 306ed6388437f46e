/** Where the addon's file lies, and where it cannot be used, why not and what to do: a sentence for each case. */
import { closeSync, existsSync, fstatSync, openSync, readFileSync, readSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

/** What this process runs on. */
export interface Host {
  platform: string
  arch: string
  /** Version of the C library; undefined where it is another one, as musl. */
  glibc: string | undefined
}

/** Platforms that an addon is shipped for. */
export const prebuiltPlatforms = ['linux-x64', 'linux-arm64'] as const
/** The oldest C library that the prebuilt addons load with. */
export const oldestGlibc = '2.29'

/** The folder above `lib/` and `dist/`. In a bundle, the folder above the bundle's: see {@link isBundled}. */
export function findPackageRoot(): string {
  let here: string
  try {
    here = path.dirname(fileURLToPath(import.meta.url))
  } catch {
    // Bundlers leave CommonJS without import.meta.url, or give it an URL of their own.
    here = typeof __dirname === 'string' ? __dirname : process.cwd()
  }
  return path.resolve(here, '..')
}

/** Whether this code was copied into another file, so that nothing of the package lies beside it. */
export function isBundled(root: string): boolean {
  try {
    return (JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8')) as { name?: unknown }).name !== 'drivlm'
  } catch (error) {
    // A file that is there and cannot be opened just now (EMFILE) says nothing about where this code lies.
    const { code } = error as NodeJS.ErrnoException
    return code === undefined || code === 'ENOENT' || code === 'ENOTDIR'
  }
}

/** What to do about {@link isBundled}. */
export const bundledAdvice =
  'Mark drivlm as external (esbuild: --external:drivlm; webpack, Rollup and Vite: external), so that it is loaded from node_modules'

export function thisHost(): Host {
  const { header } = process.report.getReport() as { header: { glibcVersionRuntime?: string } }
  return { platform: process.platform, arch: process.arch, glibc: header.glibcVersionRuntime }
}

/** The addon's files in order of preference: what was built here, then what was shipped. */
export function addonFiles(root: string, { platform, arch }: Pick<Host, 'platform' | 'arch'> = process): string[] {
  const files = [path.join(root, 'build', 'Release', 'drivlm.node')]
  if ((prebuiltPlatforms as readonly string[]).includes(`${platform}-${arch}`)) {
    files.push(path.join(root, 'prebuilds', `${platform}-${arch}`, 'drivlm.glibc.node'))
  }
  return files
}

/** How this copy of the package is told to build its addon: by the package manager that installed it. */
export function buildCommand(root: string, environment: NodeJS.ProcessEnv = process.env): string {
  if (existsSync(path.join(root, 'lib', 'native.ts'))) return 'npm run build:native'
  const modules = path.dirname(root)
  const agent = environment.npm_config_user_agent ?? ''
  if (root.includes(`${path.sep}.pnpm${path.sep}`) || agent.startsWith('pnpm/')) return 'pnpm exec drivlm build'
  const yarns = ['.yarn-integrity', '.yarn-state.yml'].some((file) => existsSync(path.join(modules, file)))
  if (yarns || root.includes(`${path.sep}.yarn${path.sep}`) || agent.startsWith('yarn/')) return 'yarn drivlm build'
  return 'npx drivlm build'
}

/** Why there is no addon for this host, and what to do. */
export function whyMissing(root: string, host: Host): string {
  const { platform, arch, glibc } = host
  const names: Record<string, string> = { darwin: 'macOS', win32: 'Windows' }
  if (platform !== 'linux') {
    const elsewhere = platform === 'win32' ? 'WSL2, ' : ''
    return (
      `There is no addon of drivlm for ${names[platform] ?? platform} (${platform}-${arch}): it runs on Linux, x64 and arm64. ` +
      `Use ${elsewhere}a Linux machine or a container.`
    )
  }
  const build = `\`${buildCommand(root)}\` builds one; it needs cmake >= 3.22 and a C++20 compiler`
  if (!(prebuiltPlatforms as readonly string[]).includes(`${platform}-${arch}`)) {
    return `There is no prebuilt addon of drivlm for ${platform}-${arch}, only for ${prebuiltPlatforms.join(' and ')}. ${build}.`
  }
  if (glibc === undefined) return forMusl(build)
  const [built, shipped] = addonFiles(root, host).map((file) => path.relative(root, file))
  return `This copy of drivlm has no addon: there is neither ${built} nor ${shipped} in ${root}. ${build}.`
}

/** Why a file that is there could not be loaded, and what to do. `reason` is what the loader said. */
export function whyUnfit(root: string, file: string, reason: string, host: Host): string {
  const own = file.startsWith(path.join(root, 'build') + path.sep)
  const build = `\`${buildCommand(root)}\` builds one for this machine; it needs cmake >= 3.22 and a C++20 compiler`
  if (host.platform !== 'linux') return whyMissing(root, host)
  const damage = damageOf(file)
  if (damage !== undefined) {
    const again = own ? `\`${buildCommand(root)}\` builds it again` : 'Remove the folder of drivlm and install it again'
    return `The addon of drivlm is damaged: ${file} ${damage}. ${again}.`
  }
  const machine = machineOf(file)
  if (machine !== host.arch) {
    return `${file} was built for ${machine}, and this Node is for ${host.arch}; node_modules come from another machine. Install them here, or run \`${buildCommand(root)}\`.`
  }
  if (host.glibc === undefined) return forMusl(build)
  const wanted = /version `GLIBC_([\d.]+)' not found/.exec(reason)?.[1]
  if (wanted !== undefined) {
    const shipped = own ? `It was built where that is there` : `Prebuilt addons need glibc ${oldestGlibc}`
    return `The addon of drivlm needs glibc ${wanted}, and this system has glibc ${host.glibc} (${file}). ${shipped}; ${build}.`
  }
  const remedy = own ? `\`${buildCommand(root)}\` builds it again, and without it the prebuilt one is taken` : build
  return `The addon of drivlm could not be loaded (${reason}). ${remedy}.`
}

function forMusl(build: string): string {
  return (
    `The prebuilt addons of drivlm are for Linux with glibc, and this system has another C library (musl, as Alpine). ` +
    `Use a glibc system, such as the image node:22-slim. ${build}, but nobody has tried that with musl.`
  )
}

// The loader maps a file that was cut short and dies of SIGBUS where a page is missing, so what the ELF header speaks of is looked for first.

/** What is wrong with an addon's file, after its name; undefined if nothing shows. */
export function damageOf(file: string): string | undefined {
  const { bytes, size } = headOf(file)
  if (bytes.length < 64 || bytes.readUInt32BE(0) !== 0x7f454c46) return `is no ELF file (${size} bytes)`
  if (bytes[4] !== 2 || bytes[5] !== 1) return 'is no 64-bit little-endian ELF file'
  const table = (offset: number, size: number, count: number) =>
    Number(bytes.readBigUInt64LE(offset)) + bytes.readUInt16LE(size) * bytes.readUInt16LE(count)
  const end = Math.max(table(32, 54, 56), table(40, 58, 60)) // program headers, section headers: the last thing in a linked file
  return end > size ? `has ${size} bytes where its header speaks of ${end}` : undefined
}

function machineOf(file: string): string {
  const machine = headOf(file).bytes.readUInt16LE(18)
  return ({ 62: 'x64', 183: 'arm64' } as Record<number, string>)[machine] ?? `another machine (ELF ${machine})`
}

function headOf(file: string): { bytes: Buffer; size: number } {
  const descriptor = openSync(file, 'r')
  try {
    const bytes = Buffer.alloc(64)
    const read = readSync(descriptor, bytes, 0, 64, 0)
    return { bytes: bytes.subarray(0, read), size: fstatSync(descriptor).size }
  } finally {
    closeSync(descriptor)
  }
}

#!/usr/bin/env node
// What a prebuild needs beside the build machine's own tools: the C library of Debian 11 for both processors, CUDA 12.4 of Debian 13. apt downloads the
// packages with lists of its own, they are checked against packages.txt and unpacked below the cache folder; nothing is installed.
//
//   node scripts/prebuild/fetch.mjs --pin       writes packages.txt anew from what the suites hold today
//
// DRIVLM_PREBUILD_CACHE names another cache folder than ~/.cache/drivlm-prebuild; DRIVLM_DEBIAN_MIRROR another mirror than this system's own.

import { execFileSync, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  copyFileSync,
  createReadStream,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { pipeline } from 'node:stream/promises'
import { fileURLToPath } from 'node:url'

export const cache = process.env.DRIVLM_PREBUILD_CACHE ?? path.join(os.homedir(), '.cache', 'drivlm-prebuild')
const listFile = path.join(import.meta.dirname, 'packages.txt')
/** Debian's name of an architecture by Node's. */
const debian = { x64: 'amd64', arm64: 'arm64' }

/** Debian 11's C library and headers: a folder for --sysroot. */
export function sysroot(arch) {
  return tree(`sysroot-${arch}`, rows('sysroot', debian[arch]), (folder, files) => {
    for (const file of files) execFileSync('dpkg-deb', ['-x', file, folder])
    makeLinksRelative(folder)
  })
}

/** Debian 11's libraries that Node itself needs: a folder for qemu's -L. */
export function runtime(arch) {
  const wanted = [...rows('sysroot', debian[arch]), ...rows('run', debian[arch])].filter(
    ({ name }) => !/dev$/.test(name),
  )
  return tree(`runtime-${arch}`, wanted, (folder, files) => {
    for (const file of files) execFileSync('dpkg-deb', ['-x', file, folder])
    makeLinksRelative(folder)
  })
}

/** CUDA 12.4: compilers that run here, in the layout NVIDIA gives them, with the static libraries of `arch`. */
export async function cuda(arch) {
  const tools = rows('cuda', 'amd64')
  const libraries = rows('cuda', debian[arch]).filter(({ name }) => name === 'nvidia-cuda-dev')
  const wanted = [...new Set([...tools.filter(({ name }) => name !== 'nvidia-cuda-dev'), ...libraries])]
  const made = await tree(`cuda-${arch}`, wanted, (folder, files) => {
    const unpacked = path.join(folder, 'unpacked')
    mkdirSync(unpacked)
    for (const file of files) {
      // Of nvidia-cuda-dev, 6 MB of 900 are needed.
      const parts = path.basename(file).startsWith('nvidia-cuda-dev')
        ? ['./usr/include', './usr/lib/*/libcudart_static.a', './usr/lib/*/libcudadevrt.a', './usr/lib/*/libculibos.a']
        : ['./usr']
      const script = `dpkg-deb --fsys-tarfile "$1" | tar -x -C "$2" --wildcards --no-same-owner "\${@:3}"`
      execFileSync('bash', ['-o', 'pipefail', '-c', script, 'unpack', file, unpacked, ...parts])
    }
    const link = (name, target) => {
      mkdirSync(path.dirname(path.join(folder, name)), { recursive: true })
      symlinkSync(
        path.relative(path.dirname(path.join(folder, name)), path.join(unpacked, target)),
        path.join(folder, name),
      )
    }
    const toolkit = 'usr/lib/nvidia-cuda-toolkit'
    // nvcc finds its parts from where it lies, so it is a file here and no link.
    mkdirSync(path.join(folder, 'bin'))
    renameSync(path.join(unpacked, toolkit, 'bin', 'nvcc'), path.join(folder, 'bin', 'nvcc'))
    link('bin/crt', `${toolkit}/bin/crt`)
    for (const tool of ['ptxas', 'fatbinary', 'cudafe++', 'nvlink', 'cuobjdump', 'bin2c', 'nvdisasm']) {
      link(`bin/${tool}`, `usr/bin/${tool}`)
    }
    link('nvvm/bin/cicc', `${toolkit}/bin/cicc`)
    link('nvvm/libdevice', `${toolkit}/libdevice`)
    link('include', 'usr/include')
    link('lib64', `usr/lib/${arch === 'x64' ? 'x86_64' : 'aarch64'}-linux-gnu`)
    writeFileSync(
      path.join(folder, 'bin', 'nvcc.profile'), // in place of Debian's, whose paths are absolute
      `TOP              = $(_HERE_)/..
CICC_PATH        = $(TOP)/nvvm/bin
NVVMIR_LIBRARY_DIR = $(TOP)/nvvm/libdevice
LD_LIBRARY_PATH += $(TOP)/lib64:
PATH            += $(TOP)/nvvm/bin:$(TOP)/bin:
INCLUDES        +=  "-I$(TOP)/include" $(_SPACE_)
LIBRARIES        =+ $(_SPACE_) "-L$(TOP)/lib64"
`,
    )
  })
  // In place of the link to ptxas: it goes before it. Written aside, since a build may be running.
  const ptxas = path.join(made, 'bin', 'ptxas')
  copyFileSync(path.join(import.meta.dirname, 'ptxas.sh'), `${ptxas}.${process.pid}`)
  renameSync(`${ptxas}.${process.pid}`, ptxas)
  return made
}

/** Lines of packages.txt. */
function rows(group, arch) {
  const lines = readFileSync(listFile, 'utf8')
    .split('\n')
    .filter((line) => line !== '' && !line.startsWith('#'))
  const all = lines.map((line) => {
    const [group, suite, arch, name, version, sha256] = line.split(/\s+/)
    return { group, suite, arch, name, version, sha256 }
  })
  return all.filter((row) => (group === undefined || row.group === group) && (arch === undefined || row.arch === arch))
}

/** A folder that `fill` makes of packages, named after their hashes, so that it never goes stale and is never half there. */
async function tree(name, wanted, fill) {
  const hash = createHash('sha256')
    .update(JSON.stringify([wanted, fill.toString()]))
    .digest('hex')
    .slice(0, 12)
  const folder = path.join(cache, `${name}-${hash}`)
  if (existsSync(folder)) return folder
  mkdirSync(cache, { recursive: true })
  const files = []
  for (const row of wanted) files.push(await download(row))
  const scratch = mkdtempSync(path.join(cache, `${name}-`))
  try {
    fill(scratch, files)
    renameSync(scratch, folder)
  } finally {
    rmSync(scratch, { recursive: true, force: true })
  }
  return folder
}

/** The .deb of a row, checked. */
async function download(row) {
  const { suite, arch, name, version, sha256 } = row
  const folder = path.join(cache, 'debs', sha256)
  const found = () => (existsSync(folder) ? readdirSync(folder).filter((file) => file.endsWith('.deb')) : [])
  if (found().length === 0) {
    mkdirSync(folder, { recursive: true })
    console.log(`fetching ${name} ${version} (${arch}, ${suite})`)
    apt(row, ['apt-get', '-qq', 'download', `${name}=${version}`], folder)
  }
  const file = path.join(folder, found()[0])
  const hash = createHash('sha256')
  await pipeline(createReadStream(file), hash)
  if (hash.digest('hex') === sha256) return file
  rmSync(folder, { recursive: true })
  throw new Error(
    `${name} ${version} of ${suite} is not what packages.txt was written for: its hash differs. It was removed.`,
  )
}

/** Runs apt with lists of another suite and architecture, apart from the system's. */
function apt({ suite, arch }, [command, ...args], cwd = cache) {
  const state = path.join(cache, 'apt', `${suite}-${arch}`)
  const fresh = !existsSync(path.join(state, 'updated'))
  mkdirSync(path.join(state, 'lists', 'partial'), { recursive: true })
  mkdirSync(path.join(state, 'cache', 'archives', 'partial'), { recursive: true })
  writeFileSync(path.join(state, 'status'), '')
  const keys = '/usr/share/keyrings/debian-archive-keyring.gpg'
  const source = `deb [arch=${arch} signed-by=${keys}] ${mirror()} ${suite} main${suite === 'trixie' ? ' non-free' : ''}\n`
  writeFileSync(path.join(state, 'sources.list'), source)
  const options = {
    'APT::Architecture': arch,
    'APT::Architectures::': arch,
    'Dir::State::Lists': path.join(state, 'lists'),
    'Dir::State::status': path.join(state, 'status'),
    'Dir::Etc::SourceList': path.join(state, 'sources.list'),
    'Dir::Etc::SourceParts': '/dev/null',
    'Dir::Cache': path.join(state, 'cache'),
    'APT::Sandbox::User': 'root',
  }
  const flags = Object.entries(options).map(([key, value]) => `-o${key}=${value}`)
  if (fresh) {
    execFileSync('apt-get', [...flags, '-qq', 'update'], { stdio: ['ignore', 'ignore', 'inherit'] })
    writeFileSync(path.join(state, 'updated'), '')
  }
  return execFileSync(command, [...flags, ...args], { cwd, encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] })
}

export function mirror() {
  if (process.env.DRIVLM_DEBIAN_MIRROR) return process.env.DRIVLM_DEBIAN_MIRROR
  const { stdout } = spawnSync('apt-get', ['indextargets', '--format', '$(REPO_URI)', 'Created-By: Packages'], {
    encoding: 'utf8',
  })
  const found = stdout?.split('\n').find((line) => /\/debian\/?$/.test(line))
  if (found === undefined) throw new Error('No Debian mirror was found; let DRIVLM_DEBIAN_MIRROR name one.')
  return found
}

// A linker takes absolute links for the build machine's files.
function makeLinksRelative(top, folder = top) {
  for (const name of readdirSync(folder)) {
    const file = path.join(folder, name)
    const stat = lstatSync(file)
    if (stat.isDirectory()) makeLinksRelative(top, file)
    if (!stat.isSymbolicLink() || !path.isAbsolute(readlinkSync(file))) continue
    const target = path.relative(folder, path.join(top, readlinkSync(file)))
    rmSync(file)
    symlinkSync(target, file)
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url) && process.argv.includes('--pin')) {
  let text = readFileSync(listFile, 'utf8')
  for (const row of rows()) {
    rmSync(path.join(cache, 'apt', `${row.suite}-${row.arch}`, 'updated'), { force: true })
    const shown = apt(row, ['apt-cache', 'show', '--no-all-versions', row.name])
    const field = (name) => new RegExp(`^${name}: (.*)$`, 'm').exec(shown)[1]
    text = text
      .replace(row.sha256, field('SHA256'))
      .replace(new RegExp(`(${row.arch} +${escaped(row.name)} +)${escaped(row.version)}`), `$1${field('Version')}`)
  }
  writeFileSync(listFile, text)
}

function escaped(text) {
  return text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')
}

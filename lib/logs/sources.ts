/** From what a caller names to the files of a log, in order: a file, the folder of a bag of rosbag2, or several. */
import { createReadStream, createWriteStream } from 'node:fs'
import { mkdtemp, readdir, readFile, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { Readable, Transform } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import zlib from 'node:zlib'
import { BagFile, bagMagic } from './bag.ts'
import type { Container } from './container.ts'
import { decompress } from './decompress.ts'
import { badLog, type Damage, LogFile, visible } from './files.ts'
import { McapFile, mcapMagic } from './mcap.ts'
import { SqliteFile, sqliteMagic, zstdSize } from './sqlite.ts'

const maxFiles = 10_000
const maxYamlBytes = 4 * 1024 * 1024
/** What a whole file that is compressed may grow to: a multiple of what it has, and no less than a chunk may. */
const growth = 64

/**
 * @param source - A file, or the folder of a bag.
 * @returns The files, in the order they were recorded in.
 * @throws {@link ModelError} `BAD_LOG` if there are none.
 */
export async function logFiles(source: string, onDamage: (damage: Damage) => void): Promise<string[]> {
  const about = await stat(source).catch((error: NodeJS.ErrnoException) => {
    throw badLog(source, error.code === 'ENOENT' ? `${visible(source)} does not exist; check the path.` : error.message)
  })
  if (!about.isDirectory()) return [source]
  const yaml = path.join(source, 'metadata.yaml')
  const names = await readdir(source)
  if (!names.includes('metadata.yaml')) {
    const files = names.filter((name) => /\.(mcap|db3|bag)(\.zstd|\.active)?$/.test(name)).sort(byNumber)
    if (files.length === 0) {
      throw badLog(
        source,
        'it is a folder without metadata.yaml, .mcap, .db3 or .bag files; give a log, or the folder of a bag.',
      )
    }
    checkCount(source, files.length)
    return files.map((name) => path.join(source, name))
  }
  if ((await stat(yaml)).size > maxYamlBytes)
    throw badLog(yaml, `it has more than ${maxYamlBytes} bytes, which no bag's has.`)
  const listed = listedFiles(await readFile(yaml, 'utf8'))
  if (listed.length === 0) throw badLog(yaml, 'it names no files under relative_file_paths.')
  checkCount(yaml, listed.length)
  const found: string[] = []
  for (const name of listed) {
    const outside = path.isAbsolute(name) || /^[A-Za-z]:/.test(name) || name.split(/[/\\]/).includes('..')
    if (outside) throw badLog(yaml, `it names ${visible(name)}, which lies outside the bag's folder; it is not opened.`)
    // Bags from before foxy name them with the folder in front.
    const inside = [name, path.basename(name)].map((one) => path.join(source, one))
    const there = await firstThere(inside)
    if (there === undefined) {
      onDamage({ file: yaml, offset: undefined, message: `${visible(name)}, which it names, is not there.` })
    } else found.push(there)
  }
  if (found.length === 0) throw badLog(yaml, 'none of the files that it names is there.')
  return found
}

function checkCount(file: string, count: number): void {
  if (count > maxFiles) throw badLog(file, `it has ${count} files, of which up to ${maxFiles} are taken.`)
}

async function firstThere(files: readonly string[]): Promise<string | undefined> {
  for (const file of files) {
    const there = await stat(file).then(
      (about) => about.isFile(),
      () => false,
    )
    if (there) return file
  }
  return undefined
}

/** The list under `relative_file_paths` of rosbag2's metadata.yaml, which is written by a program: one name a line. */
function listedFiles(yaml: string): string[] {
  const lines = yaml.split(/\r?\n/)
  const start = lines.findIndex((line) => /^\s*relative_file_paths:\s*(\[.*\])?\s*$/.test(line))
  if (start < 0) return []
  const names: string[] = []
  for (const line of lines.slice(start + 1)) {
    const item = /^\s*-\s+(.+?)\s*$/.exec(line)?.[1]
    if (item === undefined) break
    names.push(item.replace(/^(["'])(.*)\1$/, '$2'))
  }
  return names
}

/** `run_2` before `run_10`. */
function byNumber(a: string, b: string): number {
  const number = (name: string) => Number(/_(\d+)\.[^/]*$/.exec(name)?.[1] ?? -1)
  return number(a) - number(b) || (a < b ? -1 : 1)
}

/** What closes what a log holds. */
export interface Opened {
  container: Container
  /** A folder to be removed with it. */
  folder: string | undefined
}

/**
 * Opens one file by what it contains, whatever its name.
 *
 * @throws {@link ModelError} `BAD_LOG` if it is no log, or of a kind that is not read; it says what to do.
 */
export async function openFile(name: string, index: number): Promise<Opened> {
  const file = await LogFile.open(name)
  try {
    const magic = Buffer.from(await file.read(0, 16))
    const begins = (bytes: Uint8Array) => magic.subarray(0, bytes.length).equals(bytes)
    if (begins(mcapMagic)) return { container: await McapFile.open(file, index), folder: undefined }
    if (begins(bagMagic)) return { container: new BagFile(file, index), folder: undefined }
    if (begins(sqliteMagic)) return { container: await SqliteFile.open(file, index), folder: undefined }
    if (begins(Uint8Array.of(0x28, 0xb5, 0x2f, 0xfd))) {
      await file.close()
      return await openCompressed(name, index)
    }
    throw badLog(name, adviceOf(magic, file.size))
  } catch (error) {
    await file.close().catch(() => undefined)
    throw error
  }
}

function adviceOf(magic: Buffer, size: number): string {
  if (size === 0) return 'it is empty.'
  if (mcapMagic.subarray(0, magic.length).equals(magic)) return `it ends after ${size} bytes of its first 8.`
  if (magic.toString('latin1', 0, 8) === '#ROSBAG ')
    return 'it is a bag of an old version; convert it: rosbag fix OLD.bag NEW.bag.'
  if (magic[0] === 0x1f && magic[1] === 0x8b) return 'it is compressed by gzip; decompress it first: gzip -d.'
  if (magic.toString('latin1', 0, 3) === 'BZh') return 'it is compressed by bzip2; decompress it first: bzip2 -d.'
  if (magic.length >= 4 && magic.readUInt32LE(0) === 0x184d2204)
    return 'it is compressed by lz4; decompress it first: lz4 -d.'
  return 'it is no robot log; expected MCAP, a bag of ROS 1, or SQLite of rosbag2.'
}

/** A file that rosbag2 compressed as a whole: through a temporary file. */
async function openCompressed(name: string, index: number): Promise<Opened> {
  const folder = await mkdtemp(path.join(tmpdir(), 'drivlm-log-'))
  try {
    const inside = path.join(folder, path.basename(name).replace(/\.zstd?$/, ''))
    await expand(name, inside)
    const opened = await openFile(inside, index)
    if (opened.folder !== undefined) throw badLog(name, 'it is compressed twice; decompress it first: zstd -d.')
    return { container: opened.container, folder }
  } catch (error) {
    await rm(folder, { recursive: true, force: true })
    throw error
  }
}

type Zstd = typeof zlib & { createZstdDecompress?: () => Transform }

async function expand(name: string, to: string): Promise<void> {
  const { size } = await stat(name)
  const most = Math.max(growth * size, 16 * 1024 * 1024)
  const make = (zlib as Zstd).createZstdDecompress
  const failed = (error: unknown) =>
    badLog(name, `it cannot be decompressed (${visible((error as Error).message)}); try zstd -d.`, error)
  try {
    if (make !== undefined) {
      let had = 0
      const counted = new Transform({
        transform(chunk: Buffer, _, done) {
          had += chunk.length
          done(had > most ? new Error(`it grows beyond ${most} bytes`) : null, chunk)
        },
      })
      await pipeline(createReadStream(name), make(), counted, createWriteStream(to, { flags: 'wx' }))
      return
    }
    // Before Node 22.15: in memory, which holds files of no more than a chunk's size.
    const data = await readFile(name)
    const made = await decompress('zstd', data, zstdSize(data))
    await pipeline(Readable.from([made]), createWriteStream(to, { flags: 'wx' }))
  } catch (error) {
    throw failed(error)
  }
}

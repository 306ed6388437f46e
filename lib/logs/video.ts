/**
 * Compressed video: its key frames are told here, and decoded by the caller's own ffmpeg. Other frames need all those before them, and are left out.
 *
 * Elementary streams as foxglove.CompressedVideo has them: https://docs.foxglove.dev/docs/sdk/schemas/compressed-video
 */
import { spawn } from 'node:child_process'
import { ModelError } from '../errors.ts'
import { throwIfAborted } from '../options.ts'
import { maxPixels, type RawPicture } from '../views/decode.ts'
import { badLog, visible } from './files.ts'
import type { PictureMessage } from './picture.ts'

/** Codecs whose key frames are told. */
export type Codec = 'h264' | 'h265' | 'vp9' | 'av1'

/** An elementary stream of H.264 or H.265. https://www.itu.int/rec/T-REC-H.264 annex B */
function isAnnexB(data: Uint8Array): boolean {
  return data[0] === 0 && data[1] === 0 && (data[2] === 1 || (data[2] === 0 && data[3] === 1))
}

/**
 * The video that a message holds, for the eye: what it says, or what its first bytes are; undefined if it is a picture.
 */
export function videoOf({ kind, format, data }: PictureMessage): string | undefined {
  if (kind === 'video') return visible(format, 20)
  if (kind === 'raw' || !isAnnexB(data)) return undefined
  return /h\.?265|hevc/i.test(format) ? 'h265' : 'h264'
}

/** The codec of a message; undefined if it holds a picture, or video that is not known. */
export function codecOf(picture: PictureMessage): Codec | undefined {
  const video = videoOf(picture)
  return video === 'h264' || video === 'h265' || video === 'vp9' || video === 'av1' ? video : undefined
}

/** Whether a frame can be decoded without those before it. */
export function isKeyFrame(codec: Codec, data: Uint8Array): boolean {
  if (codec === 'vp9') return isVp9Key(data)
  if (codec === 'av1') return hasSequenceHeader(data)
  return isAnnexBKey(codec, data)
}

/** A picture of its own, and the parameters before it: those before the first slice are looked at. */
function isAnnexBKey(codec: 'h264' | 'h265', data: Uint8Array): boolean {
  const bytes = Buffer.from(data.buffer, data.byteOffset, data.length)
  const start = Buffer.of(0, 0, 1)
  let parameters = false
  for (let at = bytes.indexOf(start); at >= 0 && at + 3 < bytes.length; at = bytes.indexOf(start, at + 3)) {
    const head = bytes[at + 3]!
    const type = codec === 'h264' ? head & 0x1f : (head >> 1) & 0x3f
    if (type === (codec === 'h264' ? 7 : 33)) parameters = true
    if (codec === 'h264' && type >= 1 && type <= 5) return parameters && type === 5
    if (codec === 'h265' && type <= 31) return parameters && type >= 16 && type <= 23
  }
  return false
}

/** The first bits of an uncompressed header: VP9 Bitstream & Decoding Process Specification, version 0.7, section 6.2. */
function isVp9Key(data: Uint8Array): boolean {
  const head = data[0] ?? 0
  if (head >> 6 !== 2) return false
  const profile = ((head >> 5) & 1) | ((head >> 3) & 2)
  const rest = profile === 3 ? head >> 1 : head >> 2
  // Neither the showing of an earlier frame, nor one that refers to others.
  return (rest & 3) === 0
}

/** Writers put the parameters before each key frame. https://aomediacodec.github.io/av1-spec section 5.3 */
function hasSequenceHeader(data: Uint8Array): boolean {
  for (let at = 0; at < data.length; ) {
    const head = data[at]!
    const type = (head >> 3) & 15
    if (type === 1) return true
    if (type === 3 || type === 6) return false
    at += 1 + ((head >> 2) & 1)
    if ((head & 2) === 0) return false
    let size = 0
    let factor = 1
    for (let i = 0; i < 8; i++, factor *= 128) {
      const byte = data[at++] ?? 0
      size += (byte & 0x7f) * factor
      if (byte < 0x80) break
    }
    at += size
  }
  return false
}

/** One frame as IVF, the plainest file of VP9 and AV1. https://wiki.multimedia.cx/index.php/Duck_IVF */
function ivf(codec: 'vp9' | 'av1', frame: Uint8Array): Buffer {
  const head = Buffer.alloc(32 + 12)
  head.write('DKIF', 0, 'latin1')
  head.writeUInt16LE(32, 6)
  head.write(codec === 'vp9' ? 'VP90' : 'AV01', 8, 'latin1')
  head.writeUInt32LE(30, 16)
  head.writeUInt32LE(1, 20)
  head.writeUInt32LE(1, 24)
  head.writeUInt32LE(frame.length, 32)
  return Buffer.concat([head, frame])
}

function started(program: string, args: readonly string[]) {
  try {
    return spawn(program, args, { stdio: ['pipe', 'pipe', 'pipe'] })
  } catch (error) {
    throw notStarted(program, error as Error) // an empty name, for instance
  }
}

function notStarted(program: string, error: NodeJS.ErrnoException): ModelError {
  const what = `'${visible(String(program))}' cannot be started (${error.code ?? error.message})`
  return new ModelError('BAD_ARGUMENT', `${what}; install ffmpeg, or give its path.`, { cause: error })
}

/** Runs a program of the caller's with bytes as its input. What it writes is bounded, and so is its time. */
async function run(
  program: string,
  args: readonly string[],
  input: Uint8Array,
  { most, timeoutMs, signal }: { most: number; timeoutMs: number; signal: AbortSignal | undefined },
): Promise<{ output: Buffer; problem: string | undefined }> {
  const child = started(program, args)
  const end = () => child.kill('SIGKILL')
  // Not spawn's own timeout: Node 20 and 22 keep its timer, and so the process, for a program that never started.
  const timer = setTimeout(end, timeoutMs)
  signal?.addEventListener('abort', end)
  const parts: Buffer[] = []
  let had = 0
  let said = ''
  child.stdout.on('data', (part: Buffer) => {
    had += part.length
    if (had > most) end()
    else parts.push(part)
  })
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    said = (said + text).slice(-2000)
  })
  // A program that has seen enough closes its input.
  child.stdin.on('error', () => undefined)
  child.stdin.end(input)
  try {
    return await new Promise((resolve, reject) => {
      child.on('error', (error) => reject(notStarted(program, error)))
      child.on('close', (code, killed) => {
        const last = visible(said.trim().split('\n').at(-1) ?? '')
        const why =
          had > most ? `it gave more than ${most} bytes` : killed === null ? last : `it was ended by ${killed}`
        resolve({ output: Buffer.concat(parts), problem: code === 0 ? undefined : why || `it ended with ${code}` })
      })
    })
  } finally {
    clearTimeout(timer)
    signal?.removeEventListener('abort', end)
  }
}

/**
 * Whether a program is there and runs: `-version` is asked of it.
 *
 * @throws {@link ModelError} `BAD_ARGUMENT` if not.
 */
export async function checkFfmpeg(program: string): Promise<void> {
  const options = { most: 1024 * 1024, timeoutMs: 30_000, signal: undefined }
  const { problem } = await run(program, ['-version'], Buffer.alloc(0), options)
  if (problem === undefined) return
  throw new ModelError('BAD_ARGUMENT', `${visible(program)} -version failed (${problem}); give the path of ffmpeg.`)
}

/**
 * A key frame's pixels, by ffmpeg.
 *
 * @throws {@link ModelError} `BAD_LOG` if it gives none, too many, or takes more than half a minute.
 */
export async function decodeKeyFrame(
  program: string,
  codec: Codec,
  data: Uint8Array,
  name: string,
  { signal, timeoutMs = 30_000 }: { signal?: AbortSignal | undefined; timeoutMs?: number } = {},
): Promise<RawPicture> {
  throwIfAborted(signal)
  const input = codec === 'vp9' || codec === 'av1' ? ivf(codec, data) : data
  const form = { h264: 'h264', h265: 'hevc', vp9: 'ivf', av1: 'ivf' }[codec]
  const from = ['-protocol_whitelist', 'pipe', '-f', form, '-i', 'pipe:0']
  const to = ['-frames:v', '1', '-pix_fmt', 'rgb24', '-c:v', 'ppm', '-f', 'image2pipe', 'pipe:1']
  const args = ['-hide_banner', '-loglevel', 'error', '-nostdin', ...from, ...to]
  const { output, problem } = await run(program, args, input, { most: 3 * maxPixels + 64, timeoutMs, signal })
  throwIfAborted(signal)
  const picture = problem === undefined ? ppmOf(output) : undefined
  if (picture !== undefined) return picture
  throw badLog(
    name,
    `a key frame of ${codec} was not decoded by ${visible(program)}: ${problem ?? 'it gave no picture'}.`,
  )
}

/** https://netpbm.sourceforge.net/doc/ppm.html */
function ppmOf(bytes: Buffer): RawPicture | undefined {
  const [head, width, height] = /^P6\s(\d{1,5})\s(\d{1,5})\s255\s/.exec(bytes.toString('latin1', 0, 32)) ?? []
  if (head === undefined) return undefined
  const data = bytes.subarray(head.length)
  const picture = { data, width: Number(width), height: Number(height) }
  return data.length === picture.width * picture.height * 3 && data.length > 0 ? picture : undefined
}

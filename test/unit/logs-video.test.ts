/** Compressed video of logs: which frames are key frames, and an ffmpeg of the caller's, by programs that stand in for it. */
import { spawnSync } from 'node:child_process'
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { openLog } from '../../lib/logs/log.ts'
import { planMoments } from '../../lib/logs/moments.ts'
import { emptyPicture } from '../../lib/logs/picture.ts'
import { codecOf, decodeKeyFrame, isKeyFrame } from '../../lib/logs/video.ts'

const file = 'test/fixtures/logs/foxglove-video-h264.mcap'
const dir = mkdtempSync(path.join(os.tmpdir(), 'drivlm-video-'))
afterAll(() => rmSync(dir, { recursive: true }))

/** A program that is asked for its version, and then does what is said. */
function program(name: string, does: string): string {
  const made = path.join(dir, name)
  writeFileSync(made, `#!/bin/sh\ncase "$*" in *-version*) exit 0;; esac\n${does}\n`)
  chmodSync(made, 0o755)
  return made
}
const pixels = "printf 'P6\\n2 1\\n255\\n\\001\\002\\003\\004\\005\\006'"
const cameras = { CAM_FRONT: '/camera/front/video' }

describe('key frames', () => {
  it.each<[Parameters<typeof isKeyFrame>[0], string, boolean]>([
    ['h264', '00000001 6742c00a 00000001 68ce 000001 65b8', true],
    ['h264', '00000001 6742c00a 000001 419a', false],
    ['h264', '00000001 65b8', false], // its parameters stand elsewhere
    ['h264', '00000001 419a 00000001 6742c00a 000001 65b8', false], // a second picture is no matter
    ['h265', '00000001 4001 00000001 4201 000001 2601', true],
    ['h265', '00000001 4001 00000001 4201 000001 0201', false],
    // The first bytes of frames that libvpx and libaom made.
    ['vp9', '824983420005f003f6083824', true],
    ['vp9', '86004092f0514000001460d2', false],
    ['av1', '12000a0a000000032dffcdaf', true],
    ['av1', '120032323201e04000000350', false],
    ['av1', '12ffffffffffffffff', false],
    ['av1', '1000', false],
    ...(['h264', 'h265', 'vp9', 'av1'] as const).map((codec): [typeof codec, string, boolean] => [codec, '', false]),
  ])('%s %s: %s', (codec, hex, key) => {
    expect(isKeyFrame(codec, Buffer.from(hex.replaceAll(' ', ''), 'hex'))).toBe(key)
  })

  it('are of the codec that the message says, or that its first bytes are', () => {
    const of = (kind: 'video' | 'compressed' | 'raw', format: string, hex: string) =>
      codecOf({ ...emptyPicture(kind), format, data: Buffer.from(hex, 'hex') })
    expect(of('video', 'vp9', '')).toBe('vp9')
    expect(of('video', 'mjpeg', '')).toBe(undefined)
    expect(of('compressed', 'h264', '0000000167')).toBe('h264')
    expect(of('compressed', 'hevc', '00000140')).toBe('h265')
    expect(of('compressed', 'h264', 'ffd8ff')).toBe(undefined)
    expect(of('raw', 'rgb8', '00000001')).toBe(undefined)
  })
})

describe('a log of video', () => {
  it('is refused by name, and with an ffmpeg gives its key frames', async () => {
    const refused = await openLog(file)
    expect(refused.topics[0]).toMatchObject({
      kind: 'video',
      problem: expect.stringMatching(/video \(h264\).*--ffmpeg/),
    })
    await refused.close()

    const args = path.join(dir, 'args')
    const log = await openLog(file, { ffmpeg: program('good', `echo "$*" >${args}; cat >${dir}/input; ${pixels}`) })
    expect(log.topics[0]).toMatchObject({ problem: undefined, note: expect.stringMatching(/key frames/) })
    expect(log.guessCameras().cameras).toEqual(cameras)
    const { moments } = await planMoments(log, { cameras, every: 0 })
    expect(moments.map(({ stamp }) => stamp - moments[0]!.stamp)).toEqual([0n, 400_000_000n, 800_000_000n])
    expect(await moments[1]!.views()).toEqual({ CAM_FRONT: { width: 2, height: 1, data: Buffer.of(1, 2, 3, 4, 5, 6) } })
    const { data } = await moments[1]!.message('CAM_FRONT')
    expect(readFileSync(path.join(dir, 'input')).equals(data)).toBe(true)
    expect(readFileSync(args, 'utf8')).toMatch(/-protocol_whitelist pipe -f h264 -i pipe:0 .* ppm /)
    await log.close()
  })

  it.each([
    ['fails', 'echo "Invalid data found" >&2; exit 1', /was not decoded by .*fails: Invalid data found\./],
    ['gives nothing', 'cat >/dev/null', /it gave no picture/],
    ['gives half a picture', "printf 'P6\\n2 2\\n255\\nabc'", /it gave no picture/],
    ['gives too much', 'exec cat /dev/zero', /it gave more than \d+ bytes/],
    ['hangs', 'exec sleep 1000', /it was ended by SIGKILL/],
  ])('an ffmpeg that %s is told, in bounded time and memory', async (name, does, message) => {
    const made = program(name.replaceAll(' ', '-'), does)
    const timeoutMs = name === 'hangs' ? 50 : 60_000
    await expect(decodeKeyFrame(made, 'h264', Buffer.alloc(200_000), 'front', { timeoutMs })).rejects.toMatchObject({
      code: 'BAD_LOG',
      message: expect.stringMatching(message),
    })
  })

  it('stops the program when it is told to', async () => {
    const controller = new AbortController()
    const decoding = decodeKeyFrame(program('slow', 'exec sleep 1000'), 'h264', Buffer.alloc(9), 'front', {
      signal: controller.signal,
    })
    controller.abort()
    await expect(decoding).rejects.toMatchObject({ code: 'ABORTED' })
    const started = path.join(dir, 'started')
    const late = decodeKeyFrame(program('late', `touch ${started}`), 'h264', Buffer.alloc(9), 'front', {
      signal: controller.signal,
    })
    await expect(late).rejects.toMatchObject({ code: 'ABORTED' })
    expect(existsSync(started)).toBe(false)
  })

  it('needs a program that is there and runs', async () => {
    const timers = () => process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length
    const before = timers()
    await expect(openLog(file, { ffmpeg: path.join(dir, 'none') })).rejects.toMatchObject({
      code: 'BAD_ARGUMENT',
      message: expect.stringMatching(/cannot be started \(ENOENT\); install ffmpeg/),
    })
    expect(timers(), 'nothing is waited for').toBeLessThanOrEqual(before)
    await expect(openLog(file, { ffmpeg: '' })).rejects.toMatchObject({ code: 'BAD_ARGUMENT' })
    const failing = path.join(dir, 'failing')
    writeFileSync(failing, '#!/bin/sh\necho broken >&2\nexit 3\n', { mode: 0o755 })
    await expect(openLog(file, { ffmpeg: failing })).rejects.toMatchObject({
      code: 'BAD_ARGUMENT',
      message: expect.stringMatching(/-version failed \(broken\)/),
    })
  })
})

/** Where the real one is: a key frame alone has to be what it is in the whole stream. */
const real = spawnSync('ffmpeg', ['-version']).status === 0
it.skipIf(!real)('ffmpeg itself gives of a key frame alone what it gives of the whole stream', async () => {
  const log = await openLog(file, { ffmpeg: 'ffmpeg' })
  const units: Buffer[] = []
  for await (const { data } of log.pictures()) units.push(Buffer.from(data))
  const { moments } = await planMoments(log, { cameras, every: 0 })
  const args = ['-loglevel', 'error', '-f', 'h264', '-i', 'pipe:0', '-pix_fmt', 'rgb24', '-f', 'rawvideo', 'pipe:1']
  const whole = spawnSync('ffmpeg', args, { input: Buffer.concat(units) }).stdout
  const bytes = 112 * 112 * 3
  expect(whole.length).toBe(9 * bytes)
  for (const [i, moment] of moments.entries()) {
    const { data, width, height } = (await moment.views()).CAM_FRONT as { data: Buffer; width: number; height: number }
    expect([width, height]).toEqual([112, 112])
    expect(data.equals(whole.subarray(4 * i * bytes, (4 * i + 1) * bytes))).toBe(true)
  }
  await log.close()
})

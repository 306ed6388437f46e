/**
 * Logs with random damage: whatever is flipped, cut, doubled or overwritten, reading ends in a typed error or a note. From a seed; DRIVLM_LOG_MUTATIONS
 * sets how many a container, DRIVLM_SEED where they begin.
 */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { afterAll, expect, it } from 'vitest'
import { surveyBytes } from './logs-files.ts'

const fixtures = 'test/fixtures/logs'
const mutations = Number(process.env.DRIVLM_LOG_MUTATIONS ?? 30)
const seed = Number(process.env.DRIVLM_SEED ?? 1)
const dir = mkdtempSync(path.join(os.tmpdir(), 'drivlm-mutations-'))
afterAll(() => rmSync(dir, { recursive: true }))

/** Mulberry32. */
function randomOf(start: number): (below: number) => number {
  let state = start >>> 0
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = Math.imul(state ^ (state >>> 15), state | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return Math.floor((((t ^ (t >>> 14)) >>> 0) / 2 ** 32) * below)
  }
}

/** Where most of a container's structure stands: its beginning, its end, or anywhere. */
function placeIn(length: number, random: (below: number) => number): number {
  const near = Math.min(length, 4096)
  return [random(near), length - 1 - random(near), random(length)][random(3)]!
}

function mutated(sound: Buffer, random: (below: number) => number): Buffer {
  let bytes = Buffer.from(sound)
  for (let i = 1 + random(4); i > 0; i--) {
    const at = placeIn(bytes.length, random)
    const kind = random(7)
    if (kind === 0) bytes[at]! ^= 1 << random(8)
    else if (kind === 1) bytes[at] = random(256)
    else if (kind === 2) bytes.fill([0, 255][random(2)]!, at, Math.min(at + 1 + random(64), bytes.length))
    else if (kind === 3 && bytes.length >= 8)
      bytes.writeBigUInt64LE(1n << BigInt(random(64)), Math.max(0, Math.min(at, bytes.length - 8)))
    else if (kind === 4) bytes = Buffer.from(bytes.subarray(0, Math.max(1, at)))
    else if (kind === 5) bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + random(40))])
    else bytes.copyWithin(placeIn(bytes.length, random), at, at + random(200))
  }
  return bytes
}

it.each([
  'ros2-lz4-disordered.mcap',
  'ros2-six-fastwrite.mcap',
  'foxglove-json.mcap',
  'foxglove-protobuf-raw.mcap',
  'ros1-bz2.bag',
  'ros1-raw-lz4.bag',
  'ros1-unindexed.bag.active',
  'db3-jazzy-zstd-message/db3-jazzy-zstd-message_0.db3',
])(
  '%s',
  async (name) => {
    const sound = readFileSync(path.join(fixtures, name))
    let damaged = 0
    for (let i = 0; i < mutations; i++) {
      const random = randomOf(seed * 1_000_003 + i)
      const options = random(2) === 0 ? { scan: true } : {}
      const found = await surveyBytes(path.join(dir, 'log'), mutated(sound, random), options)
      expect([undefined, 'BAD_LOG'], `seed ${seed}, mutation ${i}: ${found.message}`).toContain(found.code)
      damaged += Number(found.code !== undefined || found.damage.length + found.refused.length > 0)
    }
    expect(damaged).toBeGreaterThan(mutations / 10)
  },
  mutations * 1000 + 60_000,
)

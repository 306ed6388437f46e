// Robot logs: NAME.expected.json beside NAME.mcap, NAME.bag, or the folder of a bag. Topics with counts and times, every picture's times and bytes,
// moments at 2 Hz and at the cameras' own rate, and what is said of damage.

import { createHash } from 'node:crypto'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { moments, openLog, pictureSource } from '../../dist/logs/index.js'
import { decodePicture } from '../../dist/views/decode.js'

const ending = '.expected.json'
const sha256 = (bytes) => createHash('sha256').update(bytes).digest('hex')

/** Whether a folder has goldens of logs. */
export function hasLogs(dir) {
  return readdirSync(dir).some((name) => name.endsWith(ending))
}

export async function runLogsGolden(dir) {
  const rows = []
  for (const file of readdirSync(dir).sort()) {
    if (!file.endsWith(ending)) continue
    const name = file.slice(0, -ending.length)
    try {
      rows.push(...(await logRows(dir, name, JSON.parse(readFileSync(path.join(dir, file), 'utf8')))))
    } catch (error) {
      rows.push({ name, stage: 'run', error: `${error.code ?? error.name}: ${error.message}`, ok: false })
    }
  }
  const real = path.join(dir, 'real')
  if (existsSync(real)) for (const file of readdirSync(real).sort()) rows.push(await emptyRow(path.join(real, file)))
  return rows
}

/** A log without cameras has to be read, or refused with a sentence, and no camera found in it. */
async function emptyRow(file) {
  const name = path.basename(file)
  let log
  try {
    log = await openLog(file, { scan: true })
    const found = log.topics.filter(({ kind }) => kind !== undefined).length
    return { name, stage: 'topics with pictures', error: found, bound: 0, ok: found === 0 && log.topics.length > 0 }
  } catch (error) {
    return { name, stage: 'refused', error: error.code, bound: 'BAD_LOG', ok: error.code === 'BAD_LOG' }
  } finally {
    await log?.close()
  }
}

async function logRows(dir, name, golden) {
  const first = golden.files[0].name
  const source = path.join(dir, first.includes('/') ? path.dirname(first) : first)
  const log = await openLog(source, { scan: true })
  const listed = await openLog(source)
  try {
    return await compare(dir, name, golden, log, listed)
  } finally {
    await log.close()
    await listed.close()
  }
}

/** @param log - All read; `listed` as its index says. */
async function compare(dir, name, golden, log, listed) {
  const rows = []
  const row = (stage, error, bound) => rows.push({ name, stage, error, bound, ok: error <= bound })

  // A damaged chunk costs its own messages, and nothing else; a cut file what is cut.
  const damaged = golden.damagedChunk !== undefined
  row('damage', Number(log.damage.length > 0 !== (damaged || golden.partial === true)), 0)
  if (damaged) row('damaged chunks', Math.abs(log.damage.length - 1), 0)

  const found = new Map(
    golden.messages.map((message) => [`${message.topic} ${message.logNs}`, { ...message, seen: 0 }]),
  )
  let unknown = 0
  const wrong = { stamps: 0, facts: 0, payloads: 0, pictures: 0, distance: 0 }
  for await (const picture of log.pictures()) {
    const { topic, logTime } = picture
    const expected = found.get(`${topic} ${logTime}`)
    if (expected === undefined) {
      unknown += 1
      continue
    }
    expected.seen += 1
    if (String(picture.stamp ?? 0n) !== expected.stampNs || String(picture.publishTime) !== expected.publishNs)
      wrong.stamps += 1
    const facts = ['frameId', 'format', 'encoding', 'step']
    if (facts.some((fact) => expected[fact] !== undefined && picture[fact] !== expected[fact])) wrong.facts += 1
    if (sha256(picture.data) !== expected.payloadSha256) wrong.payloads += 1
    if (picture.kind === 'video') {
      const refused = await Promise.resolve()
        .then(() => pictureSource(picture, topic))
        .catch((error) => error.code)
      if (refused !== 'BAD_LOG') wrong.pictures += 1
      continue
    }
    const { rgb, width, height } = await decodePicture(pictureSource(picture, topic), topic)
    if (width !== expected.width || height !== expected.height) wrong.pictures += 1
    else if (expected.rgbMaxAbs === undefined) wrong.pictures += Number(sha256(rgb) !== expected.rgbSha256)
    else if (expected.rgbPicture !== undefined) {
      const reference = await decodePicture(path.join(dir, expected.rgbPicture), topic)
      const border = /bayer/.test(expected.encoding) ? 2 : 0
      const apart = largestDistance(rgb, reference.rgb, width, height, border)
      wrong.distance = Math.max(wrong.distance, apart / expected.rgbMaxAbs)
    }
  }
  const messages = [...found.values()]
  const lost = messages.filter(({ seen }) => seen === 0).length
  row('messages that are unknown', unknown, 0)
  row('messages twice', messages.filter(({ seen }) => seen > 1).length, 0)
  // Of a chunk that was flipped any part of its messages may be gone, but not all of the file's.
  if (damaged) row('messages lost / a chunk', lost / Math.ceil(messages.length / golden.chunks) - 0.5, 1)
  else row('messages lost', lost, 0)
  for (const [what, error] of Object.entries(wrong)) row(what, error, what === 'distance' ? 1 : 0)

  if (!damaged) {
    const topics = golden.topics.filter(({ topic, count, firstLogNs, lastLogNs }) => {
      const own = log.topics.find((one) => one.topic === topic)
      return own?.count !== count || String(own.first) !== firstLogNs || String(own.last) !== lastLogNs
    })
    row('topics', topics.length, 0)
  }
  const others = (golden.otherTopics ?? []).filter(
    (topic) => !log.topics.some((one) => one.topic === topic && !one.kind),
  )
  row('other topics', others.length, 0)

  // What an index says must be what a reading of everything found.
  const key = ({ topics }) =>
    JSON.stringify(topics.map(({ topic, schema, count, format }) => [topic, schema, count, format]))
  if (!damaged) row('listing by the index', Number(key(listed) !== key(log)), 0)

  const sets = [
    ['moments at 2 Hz', golden.moments ?? golden.moments2Hz, 0.5],
    ['moments at their rate', golden.moments ?? golden.moments12Hz, 0],
  ]
  for (const [stage, expected, every] of sets) {
    if (expected !== undefined) row(stage, await wrongMoments(log, golden, expected, every), 0)
  }
  return rows
}

async function wrongMoments(log, { mapping }, expected, every) {
  const cameras = mapping
    ? Object.fromEntries(Object.entries(mapping).map(([topic, camera]) => [camera, topic]))
    : log.guessCameras().cameras
  if (Object.keys(cameras).length !== 6) return 6
  const made = []
  for await (const { stamps, skew, missing } of moments(log, { cameras, every, missing: 'keep' })) {
    made.push(JSON.stringify([sorted(stamps), Number(skew / 1000n) / 1000, [...missing].sort()]))
  }
  const wanted = expected.map(({ stampNs, skewMs, missing }) =>
    JSON.stringify([sorted(stampNs), skewMs, [...missing].sort()]),
  )
  return wanted.filter((one) => !made.includes(one)).length + made.filter((one) => !wanted.includes(one)).length
}

function sorted(stamps) {
  return Object.entries(stamps)
    .map(([camera, stamp]) => `${camera} ${stamp}`)
    .sort()
}

function largestDistance(a, b, width, height, border) {
  let most = 0
  for (let y = border; y < height - border; y++) {
    for (let i = (y * width + border) * 3; i < (y * width + width - border) * 3; i++)
      most = Math.max(most, Math.abs(a[i] - b[i]))
  }
  return most
}

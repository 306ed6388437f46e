/** `drivlm log`: what is in a robot's log, which topic looks like which camera, and what is damaged. */
import path from 'node:path'
import { visible } from '../logs/files.ts'
import { type Log, type LogClock, type LogTopic, type MomentReport, openLog, planMoments } from '../logs/index.ts'
import { type Camera, cameras } from '../views/cameras.ts'
import { formatBytes, print, printFields, printJson, styled, withProgress } from './terminal.ts'

export interface LogFlags {
  scan?: boolean
  strict?: boolean
  time?: LogClock
  ffmpeg?: string
  json?: boolean
}

/** Logs up to this size are read whole, which takes a moment; of larger ones the index is believed. */
const smallBytes = 64 * 1024 * 1024

export async function showLog(sources: readonly string[], { json, ...options }: LogFlags): Promise<void> {
  const name = visible(sources.map((source) => path.basename(source)).join(', '))
  await withProgress(`Reading ${name}`, async () => {
    let log = await openLog(sources, options)
    try {
      if (!log.scanned && log.bytes <= smallBytes) {
        await log.close()
        log = await openLog(sources, { ...options, scan: true })
      }
      const guess = log.guessCameras()
      const found = Object.keys(guess.cameras).length
      const report =
        log.scanned && found > 0
          ? (await planMoments(log, { cameras: guess.cameras as Record<string, string>, every: 0, missing: 'keep' }))
              .report
          : undefined
      if (json) printJson(factsOf(log, report))
      else printLog(name, log, report)
    } finally {
      await log.close()
    }
  })
}

const kinds = { mcap: 'MCAP', bag: 'bag of ROS 1', db3: 'SQLite of rosbag2' }

function factsOf(log: Log, report: MomentReport | undefined) {
  const { files, bytes, kind, scanned, damage, furtherDamage, untimed } = log
  const topics = log.topics.map(({ first, last, ...topic }) => ({ ...topic, first: timeOf(first), last: timeOf(last) }))
  return {
    files,
    bytes,
    kind,
    scanned,
    topics,
    ...log.guessCameras(),
    ...(report && { moments: momentFacts(report) }),
    damage,
    furtherDamage,
    untimed,
  }
}

function momentFacts({ medianSkew, largestSkew, cameras: own, ...report }: MomentReport) {
  const matched = Object.entries(own).map(([name, { offset, ...rest }]) => [name, { ...rest, offsetMs: ms(offset) }])
  return {
    ...report,
    medianSkewMs: ms(medianSkew),
    largestSkewMs: ms(largestSkew),
    cameras: Object.fromEntries(matched),
  }
}

/** As Foxglove's JSON has times: numbers of 64 bits do not survive JSON. */
function timeOf(time: bigint): { sec: number; nsec: number } {
  return { sec: Number(time / 1_000_000_000n), nsec: Number(time % 1_000_000_000n) }
}

function ms(time: bigint): number {
  return Number(time / 1000n) / 1000
}

function printLog(name: string, log: Log, report: MomentReport | undefined): void {
  const { topics } = log
  const first = topics.reduce((a, { first: b }) => (b < a ? b : a), topics[0]!.first)
  const last = topics.reduce((a, { last: b }) => (b > a ? b : a), first)
  const files = log.files.length === 1 ? '' : ` in ${log.files.length} files`
  const seconds = (Number(last - first) / 1e9).toFixed(1)
  print(
    `${styled('bold', name)}  ${kinds[log.kind]}, ${formatBytes(log.bytes)}${files}, ${seconds} s from ${dateOf(first)}`,
  )

  const pictures = topics.filter(({ kind }) => kind !== undefined)
  const others = topics.length - pictures.length
  print('\nTopics with pictures')
  if (pictures.length === 0) print('  none')
  for (const topic of pictures) {
    print(`  ${visible(topic.topic)}  ${styled('dim', factsText(topic))}`)
    const said = topic.problem ?? topic.note
    if (said !== undefined) print(`    ${styled('yellow', visible(said))}`)
  }
  if (others > 0) print(`  ${styled('dim', `${others} other ${others === 1 ? 'topic' : 'topics'}`)}`)

  printCameras(log)
  if (report !== undefined) {
    print('\nMoments')
    const { made, incomplete, reference, medianSkew, largestSkew } = report
    printFields([
      ['made', `${made}, of which ${incomplete} lack a camera; matched with ${reference}`],
      ['skew', `median ${ms(medianSkew).toFixed(1)} ms, largest ${ms(largestSkew).toFixed(1)} ms`],
      ...Object.entries(report.cameras).map(([camera, { unused, offset }]): [string, string] => [
        camera,
        `usually ${ms(offset).toFixed(1)} ms from it${unused > 0 ? `, ${unused} in no moment` : ''}`,
      ]),
    ])
  } else if (!log.scanned)
    print(`\n${styled('dim', 'As its index says; --scan reads all of it, for damage and the skew of cameras.')}`)

  for (const line of untimedLines(log)) print(`\n${styled('yellow', line)}`)
  if (log.damage.length > 0) {
    print('\nDamage')
    for (const { file, message } of log.damage)
      print(`  ${styled('yellow', visible(`${path.basename(file)}: ${message}`))}`)
    if (log.furtherDamage > 0) print(`  and ${log.furtherDamage} more`)
  }
}

function printCameras(log: Log): void {
  const guess = log.guessCameras()
  const found = Object.entries(guess.cameras)
  print('\nCameras')
  if (found.length > 0) printFields(found.map(([camera, topic]) => [camera, visible(topic)]))
  for (const { camera, others } of guess.doubtful) print(`  ${camera} could also be ${visible(others.join(', '))}`)
  const usable = log.topics
    .filter(({ kind, problem }) => kind !== undefined && problem === undefined)
    .map(({ topic }) => topic)
  const missing = cameras.filter((camera) => guess.cameras[camera] === undefined)
  if (missing.length === 0 || usable.length === 0) return
  print(`  ${styled('yellow', `${missing.join(', ')} cannot be told from the names of topics. Fill in and copy:`)}`)
  for (const line of mapLines(log)) print(`    ${line}`)
}

/** Topics whose stamps were not believed, as sentences. */
export function untimedLines(log: Log): string[] {
  return log.untimed.map(
    ({ topic, count }) =>
      `${count} stamps of ${visible(topic)} are missing or far from the log's; its clock stands in.`,
  )
}

/** A `--map` to fill in and copy: what was told, and the topics that are left. */
export function mapLines(log: Log): string[] {
  const guess = log.guessCameras().cameras
  const taken = new Set<string>(Object.values(guess))
  const free = log.topics.filter(
    ({ topic, kind, problem }) => kind !== undefined && problem === undefined && !taken.has(topic),
  )
  const topicOf = (camera: Camera) => guess[camera] ?? `TOPIC${free.length > 0 ? '' : '_OR_LEAVE_OUT'}`
  const lines = cameras.map((camera) => `--map ${camera}=${quoted(topicOf(camera))}`)
  return free.length === 0 ? lines : [...lines, `Topics: ${free.map(({ topic }) => quoted(topic)).join(' ')}`]
}

/** For a shell. */
function quoted(topic: string): string {
  const plain = visible(topic)
  return /^[\w/.-]+$/.test(plain) ? plain : `'${plain.replaceAll("'", "'\\''")}'`
}

function factsText({ schema, count, hz, width, height, format, frameId }: LogTopic): string {
  const facts = [
    schema,
    `${count} ${count === 1 ? 'message' : 'messages'}`,
    hz === undefined ? undefined : `${hz.toFixed(1)} Hz`,
    width === undefined ? undefined : `${width} x ${height}`,
    format === undefined ? undefined : `'${format}'`,
    frameId === undefined || frameId === '' ? undefined : `frame ${frameId}`,
  ]
  return visible(facts.filter((fact) => fact !== undefined).join(', '))
}

/** A date, where a time is one: under simulation the clock starts at 0. */
function dateOf(time: bigint): string {
  const millis = Number(time / 1_000_000n)
  const date = Math.abs(millis) < 8e15 ? new Date(millis).toISOString() : undefined
  return date === undefined ? `${time} ns` : `${date.replace('T', ' ').replace('Z', ' UTC')}`
}

#!/usr/bin/env node
// Times llama.cpp at InternVL2-1B's shapes, for comparison: load to ready, a vision tile, prompts, and decoding.
//
//   node bench/peers/llama-cpp.mjs --programs DIR [--model DIR] [--threads N] [--runs 3] [--formats f16,bf16,q8_0,q4_0] [--json FILE]
//
// DIR has llama-bench, llama-mtmd-cli and llama-quantize, built for this machine (CMAKE_BUILD_TYPE=Release, GGML_NATIVE=ON). Without --model it
// is the bench's stand-in. The GGUF files are made beside it, in MODEL.gguf/, at the first run: the language model in each format, those of 8
// and 4 bits by llama-quantize, and the vision tower in f16.
import { execFileSync, spawn } from 'node:child_process'
import { existsSync, mkdirSync, renameSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { pathToFileURL } from 'node:url'
import { parseArgs } from 'node:util'
import sharp from 'sharp'
import { standIn } from '../stand-in.mjs'
import { quantile, show, table } from '../statistics.mjs'
import { writePair } from './internvl-gguf.mjs'

export const formats = ['f16', 'bf16', 'q8_0', 'q4_0']
const programs = ['llama-bench', 'llama-mtmd-cli', 'llama-quantize']
/** What llama-mtmd-cli says when both files are loaded and a question may come. */
const readyLine = 'experimental CLI'
/** What it says of an encoded tile; in 2026 the wording changed. */
const tileLine = /(?:slice encoded|batch encoding done) in (\d+) ms/

/** Paths of the peer's programs, and what they call themselves. */
export function findPeer(dir) {
  const found = Object.fromEntries(programs.map((name) => [name, path.join(path.resolve(dir), name)]))
  for (const file of Object.values(found))
    if (!existsSync(file)) throw new Error(`Expected llama.cpp's program ${file}, found none.`)
  return found
}

/** The files of a model, made where they are missing: a path each format, and the vision tower's. */
export async function filesOf(peer, model, wanted = formats) {
  const out = `${path.resolve(model)}.gguf`
  mkdirSync(out, { recursive: true })
  const file = (name) => path.join(out, `${name}.gguf`)
  const types = wanted.includes('bf16') ? ['F16', 'BF16'] : ['F16']
  for (const type of types) if (!existsSync(file(`vision-${type.toLowerCase()}`))) await writePair(model, out, type)
  for (const format of wanted.filter((one) => one.startsWith('q') && !existsSync(file(`language-${one}`)))) {
    const unfinished = `${file(`language-${format}`)}.${process.pid}`
    execFileSync(peer['llama-quantize'], [file('language-f16'), unfinished, format.toUpperCase()], { stdio: 'pipe' })
    renameSync(unfinished, file(`language-${format}`))
  }
  return {
    vision: file('vision-f16'),
    ...Object.fromEntries(wanted.map((format) => [format, file(`language-${format}`)])),
  }
}

/** Runs llama-bench; its rows as it writes them in JSON. */
function bench(peer, file, threads, runs, more) {
  const common = ['-m', file, '-t', String(threads), '-r', String(runs), '-o', 'json', '-fa', '1']
  const options = { encoding: 'utf8', maxBuffer: 1 << 26, stdio: ['ignore', 'pipe', 'pipe'] }
  return JSON.parse(execFileSync(peer['llama-bench'], [...common, ...more], options))
}

/** A picture of one tile, as a file. */
async function tilePicture(dir) {
  const file = path.join(dir, 'tile.png')
  const rgb = Uint8Array.from({ length: 448 * 448 * 3 }, (_, i) => 128 + 100 * Math.sin(i * 0.001) + (i % 23))
  if (!existsSync(file))
    await sharp(rgb, { raw: { width: 448, height: 448, channels: 3 } })
      .png()
      .toFile(file)
  return file
}

/** Seconds from the start of llama-mtmd-cli until it would take a question, and of each tile that it then encodes. */
async function see(peer, files, format, threads, dir, warm) {
  const picture = await tilePicture(dir)
  const args = ['-m', files[format], '--mmproj', files.vision, '--image', picture, '-p', 'a', '-n', '1', '-c', '1024']
  const started = performance.now()
  const options = { stdio: ['ignore', 'ignore', 'pipe'] }
  const child = spawn(
    peer['llama-mtmd-cli'],
    [...args, '-t', String(threads), ...(warm ? [] : ['--no-warmup'])],
    options,
  )
  let ready
  let text = ''
  child.stderr.setEncoding('utf8').on('data', (part) => {
    text += part
    if (ready === undefined && text.includes(readyLine)) ready = (performance.now() - started) / 1000
  })
  const code = await new Promise((resolve, reject) => child.on('error', reject).on('close', resolve))
  const tiles = [...text.matchAll(new RegExp(tileLine, 'g'))].map(([, ms]) => Number(ms) / 1000)
  if (code !== 0 || ready === undefined || tiles.length === 0)
    throw new Error(`llama-mtmd-cli ended with ${code}: ${text.trim().split('\n').slice(-3).join(' / ')}`)
  return { ready, tiles }
}

/**
 * One format: what the peer calls itself, and rows `{ name, unit, value, runs }`. `load` is without the run that warms up, `load_warm` with it, as the programs have it by
 * default; prompts start in an empty context, `decode_N` after N tokens.
 */
export async function timeFormat(peer, files, format, { threads, runs, prefills = [512, 3328], contexts = [0, 3500] }) {
  const dir = path.dirname(files.vision)
  const rows = []
  let version
  const add = (name, unit, values) => rows.push({ name, unit, value: quantile(values, 0.5), runs: values })
  const [cold, tiles] = [[], []]
  for (let run = 0; run < runs; run++) {
    const seen = await see(peer, files, format, threads, dir, false)
    cold.push(seen.ready)
    tiles.push(...seen.tiles)
  }
  const warm = []
  for (let run = 0; run < runs; run++) warm.push((await see(peer, files, format, threads, dir, true)).ready)
  add('load', 's', cold)
  add('load_warm', 's', warm)
  add('vit_tile', 's', tiles)
  for (const tokens of prefills)
    for (const row of bench(peer, files[format], threads, runs, ['-p', String(tokens), '-n', '0']))
      add(`prefill_${tokens}`, 'tok/s', row.samples_ts)
  for (const context of contexts)
    for (const row of bench(peer, files[format], threads, runs, ['-p', '0', '-n', '16', '-d', String(context)])) {
      add(`decode_${context}`, 'tok/s', row.samples_ts)
      version = `${row.build_commit} (${row.build_number})`
    }
  return { version, rows }
}

async function main() {
  const text = { type: 'string' }
  const { values } = parseArgs({
    options: { programs: text, model: text, threads: text, runs: text, formats: text, json: text },
  })
  if (values.programs === undefined) throw new Error("Expected --programs DIR, the folder of llama.cpp's programs.")
  const whole = (name, otherwise) => {
    const value = Number(values[name] ?? otherwise)
    if (!Number.isInteger(value) || value < 1) throw new Error(`Expected --${name} to be an integer above 0.`)
    return value
  }
  const threads = whole('threads', os.availableParallelism())
  const runs = whole('runs', 3)
  const wanted = values.formats?.split(',') ?? formats
  const unknown = wanted.find((format) => !formats.includes(format))
  if (unknown !== undefined) throw new Error(`Expected --formats out of ${formats.join(', ')}, received ${unknown}.`)
  const peer = findPeer(values.programs)
  const files = await filesOf(peer, values.model ?? (await standIn(console.error)), wanted)
  const result = { peer: 'llama.cpp', version: undefined, cpu: os.cpus()[0].model, threads, rows: [] }
  for (const format of wanted) {
    const { version, rows } = await timeFormat(peer, files, format, { threads, runs })
    result.version = version
    for (const row of rows) result.rows.push({ ...row, name: `${row.name}_${format}` })
  }
  console.log(`llama.cpp ${result.version}, ${threads} threads`)
  console.log(
    table(
      ['row', 'unit', 'median'],
      result.rows.map(({ name, unit, value }) => [name, unit, show(value)]),
    ),
  )
  if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(result, null, 2)}\n`)
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  main().catch((error) => {
    console.error(error.message)
    process.exitCode = 1
  })
}

#!/usr/bin/env node
// Writes a checkpoint folder with goldens as a plain file that needs no parser: `node scripts/dump-network.mjs DIR ... OUT`, one OUT/NAME.dump a
// folder, and OUT/NAME.other-size.dump where there are goldens for another tile size. test/network/dump.h has the format, and drivlm_network_test
// runs it.
import { mkdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { readCheckpoint } from '../dist/checkpoint/load-checkpoint.js'
import { loadTokenizer } from '../dist/text/load-tokenizer.js'
import { channelsLast, GoldenTensors } from './golden/models.mjs'

const ropeKinds = ['default', 'linear', 'dynamic', 'longrope']
const typeNames = { Float32Array: 'f32', Int32Array: 'i32', Uint8Array: 'u8' }

/** Lines of the description: numbers, flags as 0 and 1. */
function descriptionLines({ vision, projector, language }) {
  const { norm, mean, std, ...visionNumbers } = vision
  const { rope, ...languageNumbers } = language
  const { kind, ...ropeNumbers } = rope
  const lines = [
    `vision.layerNorm ${norm === 'layer' ? 1 : 0}`,
    `vision.mean ${mean.join(' ')}`,
    `vision.std ${std.join(' ')}`,
    `projector.normEps ${projector.normEps}`,
    `projector.shuffle ${projector.shuffle === 'v1' ? 1 : 2}`,
    `language.rope.kind ${ropeKinds.indexOf(kind)}`,
  ]
  const add = (prefix, numbers) => {
    for (const [key, value] of Object.entries(numbers)) {
      lines.push(`${prefix}.${key} ${Array.isArray(value) ? value.join(' ') : Number(value)}`)
    }
  }
  add('vision', visionNumbers)
  add('language', languageNumbers)
  add('language.rope', ropeNumbers)
  return lines
}

/** Writes a description, the places of its tensors, and arrays by name. */
export function writeDump(file, checkpoint, arrays) {
  const lines = ['drivlm network 1', ...descriptionLines(checkpoint.network)]
  checkpoint.files.forEach((name, i) => {
    lines.push(`file ${checkpoint.fileBytes[i]} ${name}`)
  })
  for (const { role, dtype, shape, spans } of checkpoint.tensors) {
    const parts = spans.map((span) => `${span.file} ${span.offset} ${span.rows} ${(span.dtype ?? dtype).toLowerCase()}`)
    lines.push(['tensor', role, dtype.toLowerCase(), shape.length, ...shape, spans.length, ...parts].join(' '))
  }
  const blobs = []
  let offset = 0
  for (const [name, { shape, data }] of arrays) {
    lines.push(['array', name, typeNames[data.constructor.name], shape.length, ...shape, offset].join(' '))
    blobs.push(Buffer.from(data.buffer, data.byteOffset, data.byteLength), Buffer.alloc(-data.byteLength & 63))
    offset += data.byteLength + (-data.byteLength & 63)
  }
  const head = `${lines.join('\n')}\n`
  const start = (Buffer.byteLength(head) + 32 + 63) & ~63 // the last line has at most 32 bytes
  const text = `${head}data ${start}\n`
  writeFileSync(file, Buffer.concat([Buffer.from(text), Buffer.alloc(start - Buffer.byteLength(text)), ...blobs]))
}

/** What a case is given and must give, by name in the dump. */
function caseArrays(name, tensors, slotId) {
  const stages = Object.keys(tensors.header).filter((key) => key.startsWith(`${name}.`))
  const arrays = new Map()
  const ids = tensors.get(`${name}.input_ids`)
  const hasTiles = tensors.has(`${name}.tiles_u8`)
  arrays.set(`${name}.ids`, { ...ids, data: ids.data.map((id) => (hasTiles && id === slotId ? -1 : id)) })
  if (hasTiles) {
    const { tiles, tileCount, tileSize } = channelsLast(tensors.get(`${name}.tiles_u8`))
    arrays.set(`${name}.tiles`, { shape: [tileCount, tileSize, tileSize, 3], data: tiles })
  }
  for (const key of stages) {
    const stage = key.slice(name.length + 1)
    if (
      !/^(vit\.(embeddings|layer\d+|pixel_shuffle)|projector|inputs_embeds|llm\.(layer\d+|final_norm|k0|v0)|logits)$/.test(
        stage,
      )
    )
      continue
    arrays.set(`${name}.expect.${stage}`, tensors.get(key))
    const positions =
      stage === 'logits' ? 'logits_positions' : /^llm\.(layer|final)/.test(stage) ? 'llm.hidden_positions' : ''
    if (positions !== '') arrays.set(`${name}.positions.${stage}`, tensors.get(`${name}.${positions}`))
  }
  return arrays
}

/** Writes the dumps of a folder; their paths. */
export async function dumpNetwork(dir, out) {
  mkdirSync(out, { recursive: true })
  const checkpoint = await readCheckpoint(dir)
  const slotId = (await loadTokenizer(dir)).idOf('<IMG_CONTEXT>')
  const tensors = new GoldenTensors(path.join(dir, 'golden.safetensors'))
  const names = Object.keys(tensors.header)
    .filter((key) => key.endsWith('.input_ids'))
    .map((key) => key.slice(0, -'.input_ids'.length))
  const file = path.join(out, `${path.basename(dir)}.dump`)
  writeDump(file, checkpoint, new Map(names.flatMap((name) => [...caseArrays(name, tensors, slotId)])))
  const files = [file]
  if (tensors.has('other_size.tiles_u8')) {
    const { tiles, tileCount, tileSize } = channelsLast(tensors.get('other_size.tiles_u8'))
    const other = await readCheckpoint(dir, { tileSize })
    const { vision } = other.network
    const slots = tileCount * (tileSize / vision.patchSize / 2) ** 2
    const arrays = new Map([
      ['other_size.ids', { shape: [slots], data: new Int32Array(slots).fill(-1) }],
      ['other_size.tiles', { shape: [tileCount, tileSize, tileSize, 3], data: tiles }],
      ['other_size.expect.vit.embeddings', tensors.get('other_size.vit.embeddings')],
      [`other_size.expect.vit.layer${vision.outputLayer - 1}`, tensors.get('other_size.vit.last_hidden')],
    ])
    files.push(path.join(out, `${path.basename(dir)}.other-size.dump`))
    writeDump(files.at(-1), other, arrays)
  }
  tensors.close()
  return files
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const dirs = process.argv.slice(2, -1)
  if (dirs.length === 0) {
    console.error('Usage: node scripts/dump-network.mjs DIR [DIR ...] OUT   with checkpoint folders that have goldens')
    process.exit(2)
  }
  for (const dir of dirs)
    console.log((await dumpNetwork(path.resolve(dir), path.resolve(process.argv.at(-1)))).join('\n'))
}

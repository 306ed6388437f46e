// Training goldens: labels, packing and schedules exactly; operations, gradients and runs of the optimiser by the C++ tests (DRIVLM_TESTS=ON), which
// hold them to the bounds of the goldens' README. Checkpoints and tokenizers are looked for beside the folder.

import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import sharp from 'sharp'
import { loadAddon, packageRoot } from '../../dist/native.js'
import { loadTokenizer } from '../../dist/text/load-tokenizer.js'
import { templateOf } from '../../dist/text/templates.js'
import { labelConversation } from '../../dist/train/labels.js'
import { Packer } from '../../dist/train/packing.js'
import { readMeta, SampleList } from '../../dist/train/sample-lists.js'
import { scheduleFactor, warmupSteps } from '../../dist/train/schedule.js'
import { withFolder } from './text.mjs'

const readJson = (file) => JSON.parse(readFileSync(file, 'utf8'))
const row = (name, stage, error, bound = 0) => ({ name, stage, error, bound, ok: error <= bound })

/** A folder of that name beside the goldens, in one of these; undefined if there is none. */
const beside = (dir, name, folders) =>
  folders.map((folder) => path.join(dir, '..', folder, name)).find((place) => existsSync(place))

/** Tiles of each picture of a sample, as the reference tiles it. */
function tilesOf({ image }, sizes, { image_size, max_dynamic_patch }) {
  const names = typeof image === 'string' ? [image] : (image ?? [])
  const most = typeof image === 'string' ? max_dynamic_patch : Math.max(1, Math.floor(max_dynamic_patch / names.length))
  return names
    .filter((name) => name !== '')
    .map((name) => {
      const { width, height } = sizes[name]
      const grid = loadAddon().chooseGrid(width, height, image_size, 1, most, true)
      return grid.columns * grid.rows + (grid.thumbnail ? 1 : 0)
    })
}

/** Cases of one template that differ in ids, labels or in being rejected. */
async function wrongLabels(expectation, samples, sizes, folder) {
  const tokenizer = await loadTokenizer(folder)
  const template = templateOf(expectation.template)
  return expectation.cases.filter((expected, i) => {
    const sample = samples[i]
    const imageTokens = tilesOf(sample, sizes, expectation).map((count) => count * expectation.num_image_token)
    const conversation = { messages: sample.conversations, imageTokens, single: typeof sample.image === 'string' }
    const limit = expected.max_length === undefined ? {} : { maxLength: expected.max_length }
    const found = labelConversation(tokenizer, template, conversation, limit)
    if (expected.rejected || 'rejected' in found) return !(expected.rejected && 'rejected' in found)
    const same =
      isDeepStrictEqual([...found.ids], expected.input_ids) && isDeepStrictEqual([...found.labels], expected.labels)
    return !same || (found.nothing !== undefined) !== (expected.nothing_learned ?? false)
  }).length
}

async function labelRows(dir, data) {
  const samples = readFileSync(path.join(data, 'labels.jsonl'), 'utf8')
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line))
  const sizes = {}
  for (const name of readdirSync(path.join(data, 'images')))
    sizes[name] = await sharp(path.join(data, 'images', name)).metadata()
  const rows = []
  for (const file of ['labels.json', 'labels_real.json']) {
    if (!existsSync(path.join(dir, file))) continue
    for (const expectation of readJson(path.join(dir, file)).templates) {
      const { template, tokenizer_of: of } = expectation
      const stage = `labels, ${path.basename(of)}`
      const plain = beside(dir, of, ['models', 'tokenizer'])
      const wrong =
        plain !== undefined
          ? await wrongLabels(expectation, samples, sizes, plain)
          : await withFolder(path.join(dir, '..', 'tokenizer'), path.basename(of), (folder) =>
              wrongLabels(expectation, samples, sizes, folder),
            )
      rows.push(
        wrong === undefined
          ? { name: template, stage, skipped: `the tokenizer ${of} is not there` }
          : row(template, stage, wrong),
      )
    }
  }
  return rows
}

function packingRow(file) {
  const { cases } = readJson(file)
  const wrong = cases.filter(({ max_tiles, max_tokens, max_buffer, samples, packs, dropped }) => {
    const packer = new Packer({ maxTiles: max_tiles, maxTokens: max_tokens, maxOpen: max_buffer })
    const full = samples.flatMap(([tokens, tiles], number) => packer.add({ number, tokens, tiles }))
    const numbers = (pack) => pack.map(({ number }) => number)
    const found = [...full, ...packer.finish()].map(numbers)
    return !isDeepStrictEqual(found, packs) || !isDeepStrictEqual(numbers(packer.dropped), dropped ?? [])
  })
  return row('packing', `${cases.length} cases`, wrong.length)
}

function scheduleRow(file) {
  const { cases } = readJson(file)
  let worst = 0
  for (const { steps, warmup_ratio: warmupRatio, warmup_steps, at, factor } of cases) {
    const options = { schedule: 'cosine', steps, warmupRatio }
    if (warmupSteps(options) !== warmup_steps) worst = Number.POSITIVE_INFINITY
    for (const [i, update] of at.entries())
      worst = Math.max(worst, Math.abs(scheduleFactor(update, options) - factor[i]))
  }
  return row('schedule', `${cases.length} cases`, worst, 1e-14)
}

/** Every list of the meta file is read to its end. */
async function dataRow(meta) {
  let wrong = 0
  for (const entry of await readMeta(meta)) {
    const list = await SampleList.open(entry)
    const lines = readFileSync(entry.annotation, 'utf8').trim().split('\n')
    if (list.lines !== lines.length) wrong++
    for (let i = 0; i < list.lines; i++) {
      const { messages } = await list.read(i)
      const expected = JSON.parse(lines[i]).conversations
      if (!isDeepStrictEqual(messages, expected)) wrong++
    }
    await list.close()
  }
  return row('data', 'meta file and lists', wrong)
}

/** What a C++ test program says of itself: `name: N passed, M failed`. */
function ranRow(name, stage, program, args, env = {}) {
  const file = path.join(packageRoot, '.cmake-build', program)
  if (!existsSync(file))
    return { name, stage, skipped: `${program} is not built; DRIVLM_TESTS=ON npm run build:native` }
  const { stdout, stderr } = spawnSync(file, args, { encoding: 'utf8', env: { ...process.env, ...env } })
  const [, passed, failed] = /: (\d+) passed, (\d+) failed\n$/.exec(stdout) ?? []
  if (failed !== '0') console.log(`${stdout}${stderr}`)
  return row(name, `${stage}: ${passed ?? 0} compared`, passed === undefined ? 1 : Number(failed))
}

function modelRows(dir) {
  if (!existsSync(path.join(dir, 'models'))) return []
  const checkpoints = path.join(dir, '..', existsSync(path.join(dir, '..', 'models')) ? 'models' : 'golden')
  const out = mkdtempSync(path.join(os.tmpdir(), 'drivlm-golden-'))
  try {
    const script = path.join(packageRoot, 'scripts', 'dump-training.mjs')
    const args = [script, dir, checkpoints, out]
    const { status, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8' })
    if (status !== 0) return [{ ...row('models', 'dump', 1), error: stderr.trim().split('\n').at(-1) }]
    return readdirSync(path.join(dir, 'models'))
      .sort()
      .map((name) => {
        const dump = path.join(out, `${name}.training.dump`)
        const stage = 'loss, gradients, packs, runs'
        if (!existsSync(dump)) return { name, stage, skipped: `its checkpoint is not in ${checkpoints}` }
        return ranRow(name, stage, 'drivlm_network_test', [dump])
      })
  } finally {
    rmSync(out, { recursive: true, force: true })
  }
}

export async function runTrainingGolden(dir) {
  const data = existsSync(path.join(dir, 'data')) ? path.join(dir, 'data') : dir
  const meta = path.join(data, 'meta.json')
  return [
    ...(await labelRows(dir, data)),
    packingRow(path.join(dir, 'packing.json')),
    scheduleRow(path.join(dir, 'schedule.json')),
    ...(existsSync(meta) ? [await dataRow(meta)] : []),
    ranRow('operations', 'f64 and f32', 'drivlm_tests', ['are_the_golden'], {
      DRIVLM_TRAINING_OPS: path.join(dir, 'ops.safetensors'),
    }),
    ...modelRows(dir),
  ]
}

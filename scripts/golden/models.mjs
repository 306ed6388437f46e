// Checkpoints with golden.safetensors: every stored intermediate tensor, the logits and the greedy ids.
//
// In f32 the ids are chosen freely and must all be equal. In bf16 the golden ids are fed (one flip would change all later steps) and the choice must
// be equal wherever the reference's own gap is over 1.
//
// With `errors` there are no bounds: the same comparison in bf16, with weights and activations in other formats, fails only at what is no number.

import { closeSync, existsSync, openSync, readFileSync, readSync } from 'node:fs'
import path from 'node:path'
import { readCheckpoint } from '../../dist/checkpoint/load-checkpoint.js'
import { loadAddon, packageRoot } from '../../dist/native.js'
import { loadTokenizer } from '../../dist/text/load-tokenizer.js'

/** Bounds of golden/README.md. Sums are compared with the tensor's own rms, single values with rtol and atol. */
const bounds = {
  f32: { rtol: 1e-4, atol: 2e-5, logitsMax: 1e-3, logprob: 1e-3 },
  bf16: { vision: 0.02, language: 0.03, logits: 0.03, logitsMax: 3, gap: 1, logprob: 0.5 },
}

const elementTypes = {
  F32: (bytes) => new Float32Array(bytes),
  I32: (bytes) => new Int32Array(bytes),
  I64: (bytes) => new BigInt64Array(bytes),
  U8: (bytes) => new Uint8Array(bytes),
}

/** Tensors of a golden.safetensors, read one at a time. */
export class GoldenTensors {
  constructor(file) {
    this.fd = openSync(file, 'r')
    const length = Buffer.alloc(8)
    readSync(this.fd, length, 0, 8, 0)
    this.start = 8 + Number(length.readBigUInt64LE())
    const header = Buffer.alloc(this.start - 8)
    readSync(this.fd, header, 0, header.length, 8)
    this.header = JSON.parse(header.toString())
  }

  has(name) {
    return name in this.header
  }

  get(name) {
    const { dtype, shape, data_offsets: offsets } = this.header[name]
    const bytes = Buffer.alloc(offsets[1] - offsets[0])
    readSync(this.fd, bytes, 0, bytes.length, this.start + offsets[0])
    const data = elementTypes[dtype](bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length))
    return { shape, data }
  }

  close() {
    closeSync(this.fd)
  }
}

/** [tiles, 3, size, size] to [tiles, size, size, 3]. */
export function channelsLast({ shape, data }) {
  const [tiles, channels, height, width] = shape
  const out = new Uint8Array(data.length)
  for (let tile = 0; tile < tiles; tile++) {
    for (let c = 0; c < channels; c++) {
      for (let i = 0; i < height * width; i++) {
        out[(tile * height * width + i) * channels + c] = data[(tile * channels + c) * height * width + i]
      }
    }
  }
  return { tiles: out, tileCount: tiles, tileSize: height }
}

/** Rows of `width` values at `positions`. */
function pick(data, width, positions) {
  const out = new Float32Array(positions.length * width)
  positions.forEach((position, i) => {
    out.set(data.subarray(position * width, (position + 1) * width), i * width)
  })
  return out
}

function compare(found, expected) {
  if (found.length !== expected.length) return { error: `${found.length} values for ${expected.length}` }
  let sum = 0
  let reference = 0
  let max = 0
  let relative = 0
  for (let i = 0; i < expected.length; i++) {
    const difference = Math.abs(found[i] - expected[i])
    if (!(difference >= 0)) return { error: `not a number at ${i}` }
    sum += difference * difference
    reference += expected[i] * expected[i]
    max = Math.max(max, difference)
    relative = Math.max(relative, difference / (bounds.f32.atol + bounds.f32.rtol * Math.abs(expected[i])))
  }
  return {
    rms: Math.sqrt(sum / Math.max(reference, 1e-30)),
    max,
    relative,
    referenceRms: Math.sqrt(reference / expected.length),
  }
}

/** One row of the table for a tensor that is not logits. */
function tensorRow(name, stage, found, expected, precision, kind, noise) {
  const result = compare(found, expected)
  if (result.error) return { name, stage, error: result.error, bound: '', ok: false }
  if (precision === 'f32') {
    // Values of the language model grow with depth: the absolute part is meant for values near 1.
    const scale = Math.max(1, result.referenceRms)
    const error = result.relative / scale
    return { name, stage: `${stage} f32`, error, bound: 1, ok: error <= 1 }
  }
  const fixed = bounds.bf16[kind]
  const bound = noise === undefined ? fixed : Math.min(fixed, (2 * noise.rms) / noise.ref_rms)
  return { name, stage: `${stage} bf16`, error: result.rms, bound, ok: result.rms <= bound }
}

function logitsRows(name, stage, found, expected, precision, noise) {
  const result = compare(found, expected)
  if (result.error) return [{ name, stage, error: result.error, bound: '', ok: false }]
  if (precision === 'f32') {
    return [
      {
        name,
        stage: `${stage} f32`,
        error: result.max,
        bound: bounds.f32.logitsMax,
        ok: result.max <= bounds.f32.logitsMax,
      },
    ]
  }
  const bound = noise === undefined ? bounds.bf16.logits : Math.min(bounds.bf16.logits, (2 * noise.rms) / noise.ref_rms)
  return [
    { name, stage: `${stage} bf16`, error: result.rms, bound, ok: result.rms <= bound },
    {
      name,
      stage: `${stage} max bf16`,
      error: result.max,
      bound: bounds.bf16.logitsMax,
      ok: result.max <= bounds.bf16.logitsMax,
    },
  ]
}

function argmax(row) {
  let best = 0
  for (let i = 1; i < row.length; i++) if (row[i] > row[best]) best = i
  return best
}

let nextJob = 1

class ModelRun {
  constructor(checkpoint, tokenizer, golden, tensors, precision) {
    Object.assign(this, { checkpoint, tokenizer, golden, tensors, precision })
  }

  async load({ device = 'cpu', weights = 'bf16', activations = 'bf16', 'kv-cache': kvCache = 'bf16' }) {
    const { network, files, fileBytes, tensors } = this.checkpoint
    const format = { weights, int8Activations: activations === 'int8', kvCache }
    this.native = await loadAddon().load(
      { network, files, fileBytes, tensors },
      { device, precision: this.precision, ...format, threads: 2, maxContext: 4096, kvTokens: 8192, maxBatch: 8 },
    )
  }

  /** Runs a prompt the way a question is run: everything up to the last image slot as a scene, the rest after it. */
  async run(name, ids, images, steps, forced) {
    const slotId = this.tokenizer.idOf('<IMG_CONTEXT>')
    const withSlots = Int32Array.from(ids, (id) => (images.length > 0 && id === slotId ? -1 : id))
    const cut = withSlots.lastIndexOf(-1) + 1
    const { layers } = this.checkpoint.network.language
    const probe = [
      'vit.patches',
      'vit.embeddings',
      'vit.pixel_shuffle',
      'projector',
      'inputs_embeds',
      'llm.final_norm',
      'logits',
      'llm.k0',
      'llm.v0',
    ]
    for (let i = 0; i < this.checkpoint.network.vision.layers; i++) probe.push(`vit.layer${i}`)
    for (let i = 0; i < layers; i++) probe.push(`llm.layer${i}`)
    let scene = 0
    let first = {}
    if (cut > 0) {
      const seen = await this.native.see({ job: nextJob++, ids: withSlots.subarray(0, cut), images, probe })
      scene = seen.scene
      first = seen.probes
    }
    const answer = await this.native.generate({
      job: nextJob++,
      scene,
      ids: withSlots.subarray(cut),
      maxNewTokens: steps,
      minNewTokens: 0,
      temperature: 0,
      topP: 1,
      seed: 0,
      stopIds: new Int32Array(),
      vocabLimit: this.checkpoint.network.language.vocab,
      ...(forced ? { forced: Int32Array.from(forced) } : {}),
      wantLogits: true,
      wantLogprobs: true,
      probe,
    })
    if (scene) this.native.release(scene)
    // Rows of the scene, then rows of the question. When the question made the engine prefill the scene anew, its probes are whole.
    const tensors = { ...first }
    for (const [key, second] of Object.entries(answer.probes ?? {})) {
      const before = first[key]
      const rows = second.shape[0]
      if (
        !before ||
        key.startsWith('llm.k') ||
        key.startsWith('llm.v') ||
        (!key.startsWith('vit') && rows === ids.length)
      ) {
        tensors[key] = second
      } else {
        const data = new Float32Array(before.data.length + second.data.length)
        data.set(before.data)
        data.set(second.data, before.data.length)
        tensors[key] = { shape: [before.shape[0] + rows, ...second.shape.slice(1)], data }
      }
    }
    return { name, answer, tensors }
  }

  images(name) {
    if (!this.tensors.has(`${name}.tiles_u8`)) return []
    return [channelsLast(this.tensors.get(`${name}.tiles_u8`))]
  }

  async case(name) {
    const rows = []
    const { golden, tensors, precision } = this
    const expected = (stage) => tensors.get(`${name}.${stage}`)
    const has = (stage) => tensors.has(`${name}.${stage}`)
    const label = `${golden.name} ${name}`
    const noise = golden.noise?.[name]?.bfloat16 ?? {}
    const ids = expected('input_ids').data
    const token_ids = expected('decode.token_ids').data
    const { answer, tensors: found } = await this.run(
      name,
      ids,
      this.images(name),
      token_ids.length,
      precision === 'f32' ? undefined : token_ids,
    )

    const add = (stage, data, reference, kind, itsNoise) =>
      rows.push(tensorRow(label, stage, data, reference, precision, kind, itsNoise))
    if (has('pixel_values') && precision === 'f32')
      rows.push(this.pixelRow(label, found['vit.patches'], expected('pixel_values')))
    for (const stage of Object.keys(found)) {
      if ((stage.startsWith('vit.') || stage === 'projector') && has(stage)) {
        add(
          stage,
          found[stage].data,
          expected(stage).data,
          'vision',
          stage === 'projector' ? noise.projector : undefined,
        )
      }
    }
    const last = found[`vit.layer${this.checkpoint.network.vision.outputLayer - 1}`]
    if (has('vit.last_hidden')) add('vit.last_hidden', last.data, expected('vit.last_hidden').data, 'vision')
    if (has('vit.last_hidden_first_last_tile')) {
      const width = last.data.length / last.shape[0]
      add(
        'vit.last_hidden (2 tiles)',
        pick(last.data, width, [0, last.shape[0] - 1]),
        expected('vit.last_hidden_first_last_tile').data,
        'vision',
      )
    }
    if (has('inputs_embeds')) add('inputs_embeds', found.inputs_embeds.data, expected('inputs_embeds').data, 'vision')
    const positions = Array.from(expected('llm.hidden_positions').data)
    for (const stage of Object.keys(found)) {
      if ((stage.startsWith('llm.layer') || stage === 'llm.final_norm') && has(stage)) {
        add(stage, pick(found[stage].data, found[stage].shape[1], positions), expected(stage).data, 'language')
      }
    }
    for (const stage of ['llm.k0', 'llm.v0']) {
      if (has(stage)) add(stage, found[stage].data, expected(stage).data, 'language')
    }
    const vocab = found.logits.shape[1]
    rows.push(
      ...logitsRows(
        label,
        'logits',
        pick(found.logits.data, vocab, Array.from(expected('logits_positions').data)),
        expected('logits').data,
        precision,
        noise.logits,
      ),
      ...logitsRows(label, 'decode.logits', answer.logits, expected('decode.logits').data, precision),
      this.logprobRow(label, answer, expected('decode.logprobs').data),
      this.idsRow(label, answer, token_ids, golden.cases[name].gaps, vocab),
    )
    return rows
  }

  pixelRow(label, patches, { shape, data }) {
    const [tiles, , size] = shape
    const patch = this.checkpoint.network.vision.patchSize
    const grid = size / patch
    const found = new Float32Array(data.length)
    for (let tile = 0; tile < tiles; tile++) {
      for (let c = 0; c < 3; c++) {
        for (let y = 0; y < size; y++) {
          for (let x = 0; x < size; x++) {
            const index = tile * grid * grid + Math.floor(y / patch) * grid + Math.floor(x / patch)
            const value = patches.data[index * 3 * patch * patch + (c * patch + (y % patch)) * patch + (x % patch)]
            found[((tile * 3 + c) * size + y) * size + x] = value
          }
        }
      }
    }
    const { max } = compare(found, data)
    return { name: label, stage: 'pixel_values f32', error: max, bound: 1e-6, ok: max <= 1e-6 }
  }

  logprobRow(label, answer, expected) {
    const { precision } = this
    let error = 0
    expected.forEach((value, i) => {
      if (precision === 'f32' || value > -5) error = Math.max(error, Math.abs(answer.logprobs[i] - value))
    })
    const bound = bounds[precision].logprob
    return {
      name: label,
      stage: `decode.logprobs ${precision}`,
      error,
      bound,
      ok: answer.logprobs.length === expected.length && error <= bound,
    }
  }

  idsRow(label, answer, expected, gaps, vocab) {
    const { precision } = this
    let wrong = 0
    let compared = 0
    expected.forEach((id, i) => {
      if (precision === 'bf16' && !(gaps[i] > bounds.bf16.gap)) return
      compared += 1
      if (argmax(answer.logits.subarray(i * vocab, (i + 1) * vocab)) !== id) wrong += 1
      if (answer.ids[i] !== id) wrong += 1
    })
    return {
      name: label,
      stage: `greedy ids (${compared}) ${precision}`,
      error: wrong,
      bound: 0,
      compared,
      ok: wrong === 0 && compared > 0,
    }
  }

  /** A tile size other than the configured one. */
  async otherSize(dir, options) {
    const tiles = channelsLast(this.tensors.get('other_size.tiles_u8'))
    const run = new ModelRun(
      await readCheckpoint(dir, { tileSize: tiles.tileSize }),
      this.tokenizer,
      this.golden,
      this.tensors,
      this.precision,
    )
    await run.load(options)
    const { network } = run.checkpoint
    const slots = (tiles.tileSize / network.vision.patchSize / 2) ** 2 * tiles.tileCount
    const lastLayer = `vit.layer${network.vision.outputLayer - 1}`
    const seen = await run.native.see({
      job: nextJob++,
      ids: new Int32Array(slots).fill(-1),
      images: [tiles],
      probe: ['vit.embeddings', lastLayer],
    })
    await run.native.dispose()
    const label = `${this.golden.name} other_size`
    return [
      tensorRow(
        label,
        'vit.embeddings',
        seen.probes['vit.embeddings'].data,
        this.tensors.get('other_size.vit.embeddings').data,
        this.precision,
        'vision',
      ),
      tensorRow(
        label,
        'vit.last_hidden',
        seen.probes[lastLayer].data,
        this.tensors.get('other_size.vit.last_hidden').data,
        this.precision,
        'vision',
      ),
    ]
  }
}

function textRows(golden, tensors, tokenizer) {
  const rows = []
  for (const [name, { prompt, token_ids, decoded_with_special, decoded_skip_special }] of Object.entries(
    golden.cases,
  )) {
    const expected = Array.from(tensors.get(`${name}.input_ids`).data)
    const ids = tokenizer.encode(prompt, { addBos: true })
    const wrong =
      ids.length === expected.length
        ? expected.filter((id, i) => id !== ids[i]).length
        : `${ids.length} ids for ${expected.length}`
    const label = `${golden.name} ${name}`
    rows.push({ name: label, stage: 'prompt ids', error: wrong, bound: 0, ok: wrong === 0 })
    for (const [stage, text, skipSpecial] of [
      ['decoded with special', decoded_with_special, false],
      ['decoded', decoded_skip_special, true],
    ]) {
      if (text === undefined || text === null) continue
      const ok = tokenizer.decode(token_ids, { skipSpecial }) === text
      rows.push({ name: label, stage, error: ok ? 0 : 'differs', bound: 0, ok })
    }
  }
  return rows
}

function onCpu({ device = 'cpu' }) {
  return device === 'cpu'
}

/** The precisions to run: what was asked for, or all that the device has. */
function precisions(options) {
  if (options.errors) return ['bf16']
  if (options.precision) return [options.precision]
  return onCpu(options) ? ['f32', 'bf16'] : ['bf16']
}

export async function runModelGolden(dir, options = {}) {
  const golden = JSON.parse(readFileSync(path.join(dir, 'golden.json'), 'utf8'))
  golden.name ??= path.basename(dir)
  const tensors = new GoldenTensors(path.join(dir, 'golden.safetensors'))
  const rows = []
  try {
    const tokenizer = await loadTokenizer(dir)
    if (!options.errors) rows.push(...textRows(golden, tensors, tokenizer))
    const checkpoint = await readCheckpoint(dir)
    if (!options.precision && !options.errors && !onCpu(options)) {
      rows.push({ name: golden.name, stage: 'f32', skipped: `${options.device} computes in bf16 only` })
    }
    for (const precision of precisions(options)) {
      const run = new ModelRun(checkpoint, tokenizer, golden, tensors, precision)
      await run.load(options)
      for (const name of Object.keys(golden.cases)) rows.push(...(await run.case(name)))
      await run.native.dispose()
      if (tensors.has('other_size.tiles_u8')) rows.push(...(await run.otherSize(dir, options)))
    }
  } finally {
    tensors.close()
  }
  return options.errors ? rows.map((row) => ({ ...row, bound: 'none', ok: Number.isFinite(row.error) })) : rows
}

/**
 * A trained street model with val/golden.json: every greedy answer, token for token in f32. In bf16 accuracy within one point, and token for token
 * every answer whose margin is over the gap that bf16 may close; any other that differs is fed, and the likelihood of each of its tokens is compared with
 * that of the CPU in f32.
 *
 * `every`: takes each N-th scene only. `errors`: in other formats of weights and activations, accuracy alone; on a GPU it is held to the CPU's in the
 * same format, and an answer that differs from the CPU's is fed to both.
 */
export async function runStreetGolden(dir, options = {}) {
  const { loadModel, cameras } = await import('../../dist/index.js')
  // The weights' own folder says nothing of the views: it takes the layout of the bundled copy.
  const layoutFile = [dir, path.join(packageRoot, 'models/street-tiny')]
    .map((one) => path.join(one, 'drivlm.json'))
    .find((file) => existsSync(file))
  const layout = JSON.parse(readFileSync(layoutFile, 'utf8'))
  const golden = JSON.parse(readFileSync(path.join(dir, 'val/golden.json'), 'utf8'))
  const name = path.basename(dir)
  const scenes = [...groupBy(golden.answers, (answer) => answer.scene)].filter(
    (_, i) => i % Number(options.every ?? 1) === 0,
  )
  const total = scenes.reduce((sum, [, questions]) => sum + questions.length, 0)
  const reference = scenes.flatMap(([, questions]) => questions).filter(({ answer, truth }) => answer === truth).length
  const rows = []
  let reference32
  const feed = async (model, views, { question, answer }) => {
    const seen = await model.see(views)
    const { tokens } = await seen.score(question, answer, { withEnd: true })
    seen.dispose()
    return tokens.map(({ logprob }) => logprob)
  }
  for (const precision of precisions(options)) {
    const { device = 'cpu', weights, activations, 'kv-cache': kvCache, errors } = options
    const format = { precision, weights, activations, kvCache, layout }
    const model = await loadModel(dir, { ...format, device })
    const same = errors && device !== 'cpu' ? await loadModel(dir, { ...format, device: 'cpu' }) : undefined
    let wrong = 0
    let rightOnCpu = 0
    let right = 0
    let clear = 0
    let fed = 0
    for (const [scene, questions] of scenes) {
      const views = Object.fromEntries(
        cameras.map((camera) => [camera, path.join(dir, 'val/images', camera, `${scene}.png`)]),
      )
      const seen = await model.see(views)
      const answers = await seen.askAll(
        questions.map(({ question }) => question),
        { maxNewTokens: 64 },
      )
      for (const [i, { answer, truth, margin }] of questions.entries()) {
        if (answers[i].text === truth) right += 1
        if (same) {
          const { question } = questions[i]
          const { text } = await same.ask(views, question, { maxNewTokens: 64 })
          if (text === truth) rightOnCpu += 1
          if (text === answers[i].text) continue
          fed += 1
          const found = await feed(model, views, { question, answer: text })
          const expected = await feed(same, views, { question, answer: text })
          if (!expected.every((logprob, at) => Math.abs(found[at] - logprob) <= bounds.bf16.logprob)) wrong += 1
          continue
        }
        const free = precision === 'bf16' && margin <= bounds.bf16.gap
        if (!free) clear += 1
        if (errors || answers[i].text === answer) continue
        if (free) {
          fed += 1
          reference32 ??= await loadModel(dir, { precision: 'f32', device: 'cpu', layout })
          const found = await feed(model, views, questions[i])
          const expected = await feed(reference32, views, questions[i])
          const near = (logprob, at) => Math.abs(found[at] - logprob) <= bounds.bf16.logprob
          if (expected.every((logprob, at) => logprob <= -5 || near(logprob, at))) continue
        }
        wrong += 1
      }
      seen.dispose()
    }
    await model.dispose()
    await same?.dispose()
    await reference32?.dispose()
    reference32 = undefined
    const stage = `answers (${clear} exact, ${fed} fed) ${precision}`
    if (!errors) rows.push({ name, stage, error: wrong, bound: 0, ok: wrong === 0 && clear > 0 })
    if (same) {
      const formats = [weights, activations && `activations ${activations}`, kvCache && `cache ${kvCache}`]
      const what = `answers as on the CPU (${fed} fed) ${formats.filter(Boolean).join(', ')}`
      rows.push({ name, stage: what, error: wrong, bound: 0, ok: wrong === 0 })
    }
    const error = (100 * ((same ? rightOnCpu : reference) - right)) / total
    const accuracy = (100 * right) / total
    rows.push({ name, stage: `accuracy loss, points, ${precision}`, error, bound: 1, accuracy, ok: error <= 1 })
  }
  return rows
}

function groupBy(items, key) {
  const groups = new Map()
  for (const item of items) groups.set(key(item), [...(groups.get(key(item)) ?? []), item])
  return groups
}

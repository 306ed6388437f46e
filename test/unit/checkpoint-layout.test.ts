import { readFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import type { TilingLimits } from '../../lib/checkpoint/config.ts'
import { findSystemMessage } from '../../lib/checkpoint/conversation.ts'
import { JsonReader } from '../../lib/checkpoint/json-reader.ts'
import { canvasCameras, defaultLayout, parseLayout, type ViewLayout } from '../../lib/checkpoint/layout.ts'
import { readCheckpoint } from '../../lib/checkpoint/load-checkpoint.ts'
import { ModelError } from '../../lib/errors.ts'
import { fixture, type Json, modelError, put, root, write } from './checkpoint-folder.ts'

const tiling: TilingLimits = { tileSize: 448, minTiles: 1, maxTiles: 12, dynamic: true, useThumbnail: true }
const parse = (json: Json): ViewLayout => parseLayout(new JsonReader('drivlm.json', json), tiling)

const full = () => ({
  layout: 'canvas',
  canvas: {
    columns: 3,
    rows: 2,
    cellWidth: 896,
    cellHeight: 448,
    cameras: [...canvasCameras],
    labels: true,
    thumbnail: false,
    maxTiles: 10,
  },
  maxTilesPerImage: 6,
  tileBudget: 24,
  cameraNames: true,
  systemMessage: 'You drive.',
  promptSuffix: '\nBe brief.',
})

describe('drivlm.json', () => {
  test('says what it says', () => {
    expect(parse(full())).toEqual({ ...full(), why: 'drivlm.json beside config.json asks for layout "canvas".' })
  })

  test('takes the rest from config.json', () => {
    expect(parse({ layout: 'separate' })).toMatchObject({
      layout: 'separate',
      maxTilesPerImage: 12,
      tileBudget: 12,
      cameraNames: false,
    })
    const json: Json = full()
    for (const key of ['labels', 'thumbnail', 'maxTiles']) delete json.canvas[key]
    expect(parse(json).canvas).toMatchObject({ labels: false, thumbnail: true, maxTiles: 12 })
  })

  test.each<[key: string, value: unknown, message: RegExp]>([
    ['layout', undefined, /layout to be "canvas", "separate" or "single", the key is missing/],
    ['layout', 'grid', /found "grid"/],
    ['layout', 'separate', /canvas to be absent with layout "separate"/],
    ['canvas', undefined, /canvas to be an object, the key is missing/],
    ['canvas.columns', undefined, /canvas\.columns to be an integer from 1 to 16, the key is missing/],
    ['canvas.rows', 0, /canvas\.rows .* found 0/],
    ['canvas.cellWidth', 1e9, /canvas\.cellWidth/],
    ['canvas.cellHeight', -1, /canvas\.cellHeight/],
    ['canvas.cameras', undefined, /canvas\.cameras to be a list of strings/],
    ['canvas.cameras', canvasCameras.slice(1), /6 different names, one for each cell/],
    ['canvas.cameras', [...canvasCameras.slice(1), 'CAM_FRONT'], /6 different names/],
    ['canvas.cameras', [...canvasCameras.slice(1), 'a b'], /letters, digits and underscores/],
    ['canvas.cameras', [...canvasCameras.slice(1), 'CAM_TOP'], /canvas\.labels to be false: labels exist for CAM_/],
    ['canvas.labels', 1, /canvas\.labels to be true or false, found 1/],
    ['canvas.maxTiles', 0, /canvas\.maxTiles/],
    ['canvas.color', 'red', /canvas\.color is not a known key/],
    ['maxTilesPerImage', 1.5, /maxTilesPerImage to be an integer/],
    ['tileBudget', '12', /tileBudget to be an integer from 1 to 1024, found "12"/],
    ['cameraNames', 'yes', /cameraNames to be true or false/],
    ['systemMessage', 1, /systemMessage to be a string/],
    ['promptSuffix', [], /promptSuffix to be a string/],
    ['Layout', 'canvas', /Layout is not a known key \(found "canvas"\); expected layout, canvas/],
  ])('with %s = %j is refused', (key, value, message) => {
    const json = full()
    put(json, key, value)
    expect(() => parse(json)).toThrow(ModelError)
    expect(() => parse(json)).toThrow(message)
    expect(() => parse(json)).toThrow(/^drivlm\.json: /)
  })

  test('is read from the folder, and its errors are the folder’s', async () => {
    const folder = fixture('a1-qwen2')
    folder.files = { 'drivlm.json': JSON.stringify({ layout: 'single' }) }
    expect((await readCheckpoint(write(folder))).layout.layout).toBe('single')
    folder.files = { 'drivlm.json': '{"layout": "canvas"' }
    expect(await modelError(readCheckpoint(write(folder)), 'BAD_CHECKPOINT')).toMatch(/drivlm\.json: expected JSON/)
  })

  test('of street-tiny is six unlabelled cells of one tile each', () => {
    const json = JSON.parse(readFileSync(path.join(root, 'models/street-tiny/drivlm.json'), 'utf8')) as Json
    expect(parse(json)).toMatchObject({
      layout: 'canvas',
      canvas: { columns: 3, rows: 2, cellWidth: 112, cellHeight: 112, labels: false, thumbnail: false, maxTiles: 6 },
    })
    expect(parse(json).canvas?.cameras).toEqual(canvasCameras)
  })
})

describe('without drivlm.json', () => {
  test('448 px tiles get the DriveLM canvas, and a DriveLM name is the reason where there is one', () => {
    const named = defaultLayout('Mini-InternVL2-1B-DA-Drivelm', tiling)
    const other = defaultLayout('InternVL2-1B', { ...tiling, maxTiles: 6, useThumbnail: false })
    const canvas = { columns: 3, rows: 2, cellWidth: 896, cellHeight: 448, labels: true, thumbnail: true, maxTiles: 12 }
    for (const layout of [named, other]) expect(layout).toMatchObject({ layout: 'canvas', canvas })
    expect(named.why).toMatch(
      /the name Mini-InternVL2-1B-DA-Drivelm \(_name_or_path of config\.json\) says that the model was adapted to DriveLM/,
    )
    expect(other.why).toMatch(/six views are stitched as DriveLM models were trained/)
    expect(other).toMatchObject({ maxTilesPerImage: 6, tileBudget: 6 })
  })

  test('other tile sizes get separate images', () => {
    const layout = defaultLayout('x-DriveLM', { ...tiling, tileSize: 112 })
    expect(layout.layout).toBe('separate')
    expect(layout.canvas).toBeUndefined()
    expect(layout.why).toMatch(/112 px tiles are not the 448 px/)
  })

  test('the name is the config’s, never the folder’s', async () => {
    const folder = fixture('v1-vit448')
    expect((await readCheckpoint(write(folder, 'my-DriveLM-model'))).layout.why).not.toMatch(/my-DriveLM-model/)
    folder.config._name_or_path = 'someone/Mini-DriveLM'
    expect((await readCheckpoint(write(folder))).layout.why).toMatch(/Mini-DriveLM/)
  })
})

describe('conversation.py', () => {
  const source = `
class Conversation:
    system_message: str = ''

register_conv_template(
    Conversation(
        name='Hermes-2',
        system_template='<|im_start|>system\\n{system_message}',
        # note: the new message was not used here
        # system_message='not this one',
        system_message='你是"A"，it\\'s\\n\\u4f60',
        roles=('<|im_start|>user\\n', '<|im_start|>assistant\\n'),
    )
)
register_conv_template(
    Conversation(
        name="joined",
        system_message=(
            "one "
            'two'),
    )
)
register_conv_template(
    Conversation(name='computed', system_message=make_message('x'))
)
register_conv_template(
    Conversation(name='silent', roles=('a', 'b'))
)
register_conv_template(
    Conversation(name='empty', system_message='', sep='</s>')
)
register_conv_template(
    Conversation(name='long', system_message="""a""")
)
`

  test.each([
    ['Hermes-2', '你是"A"，it\'s\n你'],
    ['joined', 'one two'],
    ['empty', ''],
    ['computed', undefined],
    ['silent', undefined],
    ['long', 'a'],
    ['none', undefined],
  ])('the message of %s is %j', (template, message) => {
    expect(findSystemMessage(source, template)).toBe(message)
  })

  test('config.json goes before it, and null in config.json does not', async () => {
    const folder = fixture('a1-qwen2')
    folder.files = { 'conversation.py': source }
    const message = async () => (await readCheckpoint(write(folder))).systemMessage
    expect(await message()).toEqual({ text: '你是"A"，it\'s\n你', file: 'conversation.py' })
    folder.config.system_message = null
    expect((await message())?.file).toBe('conversation.py')
    folder.config.system_message = 'Own.'
    expect(await message()).toEqual({ text: 'Own.', file: 'config.json' })
    delete folder.config.system_message
    delete folder.files
    expect(await message()).toBeUndefined()
  })
})

test('the chat template is found wherever a folder keeps it', async () => {
  const folder = fixture('f1-hf-qwen2')
  const template = async (files: Record<string, string>) =>
    (await readCheckpoint(write({ ...folder, files }))).chatTemplate
  const config = JSON.stringify({ chat_template: 'C' })
  expect(await template({})).toBeUndefined()
  expect(await template({ 'tokenizer_config.json': config })).toEqual({ source: 'C', file: 'tokenizer_config.json' })
  const listed = JSON.stringify({
    chat_template: [
      { name: 'tools', template: 'T' },
      { name: 'default', template: 'D' },
    ],
  })
  expect(await template({ 'tokenizer_config.json': listed })).toEqual({ source: 'D', file: 'tokenizer_config.json' })
  const json = JSON.stringify({ chat_template: 'J' })
  expect((await template({ 'tokenizer_config.json': config, 'chat_template.json': json }))?.source).toBe('J')
  const all = { 'tokenizer_config.json': config, 'chat_template.json': json, 'chat_template.jinja': '{{ x }}' }
  expect(await template(all)).toEqual({ source: '{{ x }}', file: 'chat_template.jinja' })
})

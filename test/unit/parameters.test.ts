/** The one table of parameters (native/network/parameters.h), and what says the same elsewhere: documentation, floors of the bench, stand-ins. */
import { readFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { prefillCost, visionCost } from '../../bench/floors.mjs'
import { loadAddon, type NativeParameter, type NetworkDescription } from '../../lib/native.ts'
import { standIns } from '../../scripts/stand-in/families.ts'
import { tensorsOf } from '../../scripts/stand-in/tensors.ts'
import { root } from './checkpoint-folder.ts'

const vision: NetworkDescription['vision'] = {
  dim: 48,
  layers: 3,
  heads: 3,
  headDim: 16,
  ffnDim: 80,
  patchSize: 14,
  tileSize: 84,
  positionGrid: 4,
  norm: 'layer',
  normEps: 1e-6,
  qkvBias: true,
  qkNorm: false,
  outputLayer: 3,
  mean: [0, 0, 0],
  std: [1, 1, 1],
}
const language: NetworkDescription['language'] = {
  dim: 40,
  layers: 2,
  heads: 6,
  kvHeads: 2,
  headDim: 10,
  ffnDim: 72,
  vocab: 101,
  normEps: 1e-6,
  qkvBias: true,
  qkNorm: false,
  tiedHead: false,
  rope: { kind: 'default', theta: 1e4 },
}
const plain: NetworkDescription = { vision, language, projector: { normEps: 1e-5, shuffle: 'v2' } }
const other: NetworkDescription = {
  vision: { ...vision, norm: 'rms', qkvBias: false, qkNorm: true },
  language: { ...language, qkvBias: false, qkNorm: true, tiedHead: true },
  projector: plain.projector,
}

const table = (network: NetworkDescription): NativeParameter[] => loadAddon().parameters(network)
const count = ({ shape }: { shape: number[] }): number => shape.reduce((product, size) => product * size, 1)
const sum = (rows: { shape: number[] }[]): number => rows.reduce((total, row) => total + count(row), 0)

/** Rows of the documentation's table in lib/native.ts for a network, shapes worked out. */
function documented({ vision: v, language: l }: NetworkDescription): { role: string; shape: number[] }[] {
  const text = readFileSync(path.join(root, 'lib', 'native.ts'), 'utf8')
  const rows = [...text.matchAll(/^ \* \| `([\w.]+)` \| \[(.+)\] \| (.*?) ?\|$/gm)]
  expect(rows.length).toBeGreaterThan(30)
  return rows.flatMap(([, role, shape, condition]) => {
    const part = role!.startsWith('vision') ? v : l
    const met: Record<string, boolean> = {
      '': true,
      'layer norm': v.norm === 'layer',
      '`qkvBias`': part.qkvBias,
      '`qkNorm`': part.qkNorm,
      'no `tiedHead`': !l.tiedHead,
    }
    if (!Object.hasOwn(met, condition!)) throw new Error(`${role}: '${condition}' is no condition that this test knows`)
    if (!met[condition!]) return []
    const names: Record<string, unknown> = { ...part, grid: v.positionGrid, visionDim: v.dim }
    const extents = shape!.split(', ').map((expression) => {
      const numbers = expression.replaceAll('·', '*').replaceAll(/[a-z]\w*/gi, (name) => String(names[name]))
      if (!/^[\d+*() ]+$/.test(numbers)) throw new Error(`${role}: '${expression}' cannot be worked out`)
      return Number(new Function(`return ${numbers}`)())
    })
    const layers = role!.includes('.N.') ? part.layers : 1
    return Array.from({ length: layers }, (_, i) => ({ role: role!.replace('.N.', `.${i}.`), shape: extents }))
  })
}

const byRole = (rows: { role: string; shape: number[] }[]): Map<string, number[]> =>
  new Map(rows.map(({ role, shape }) => [role, shape]))

describe('the table of parameters', () => {
  test.each([
    ['a plain network', plain],
    ['RMS norm, q/k norm, a tied head', other],
  ])('the documentation of the seam says the same: %s', (_, network) => {
    const rows = table(network)
    expect(byRole(documented(network))).toEqual(byRole(rows))
    expect(new Set(rows.map((row) => row.role)).size).toBe(rows.length)
  })

  test('uses, kinds and layers', () => {
    const rows = new Map(table(plain).map((row) => [row.role, row]))
    expect(rows.get('vision.patch.weight')).toMatchObject({
      uses: ['patches'],
      kind: 'matrix',
      part: 'weight',
      layer: -1,
    })
    expect(rows.get('vision.position')).toMatchObject({
      uses: ['patches'],
      kind: 'table',
      part: 'position',
      shape: [17, 48],
    })
    expect(rows.get('vision.layers.2.fc1.bias')).toMatchObject({
      uses: ['tower'],
      kind: 'vector',
      part: 'bias',
      layer: 2,
    })
    expect(rows.get('projector.norm.weight')).toMatchObject({ uses: ['projector'], kind: 'vector', part: 'norm' })
    expect(rows.get('language.layers.1.down.weight')).toMatchObject({ uses: ['decoder'], kind: 'matrix', layer: 1 })
    expect(rows.get('language.norm.weight')).toMatchObject({ uses: ['decoder'], part: 'norm', layer: -1 })
    expect(rows.get('language.embedding.weight')).toMatchObject({ uses: ['embedding'], kind: 'table' })
    expect(rows.get('language.head.weight')).toMatchObject({ uses: ['head'], kind: 'matrix' })
    const tied = new Map(table(other).map((row) => [row.role, row]))
    expect(tied.get('language.embedding.weight')?.uses).toEqual(['embedding', 'head'])
    expect(tied.has('language.head.weight')).toBe(false)
  })

  test('standard weight decay spares biases and the weights of LayerNorms, and nothing else', () => {
    for (const network of [plain, other]) {
      for (const { role, decaysByStandard } of table(network)) {
        const towers = network.vision.norm === 'layer' ? /^vision\.layers\.\d+\.norm[12]\.weight$/ : /^$/
        const spared = /bias$|^projector\.norm\.weight$/.test(role) || towers.test(role)
        expect(`${role} ${decaysByStandard}`).toBe(`${role} ${!spared}`)
      }
    }
  })

  test('a description that is none is refused', () => {
    expect(() => table({ ...plain, language: { ...language, layers: 0 } })).toThrow(/language\.layers/)
  })
})

test('the floors of the bench count the matrices of the table', () => {
  const rows = table(plain).filter((row) => row.kind === 'matrix')
  const of = (use: string) => sum(rows.filter((row) => row.uses[0] === use))
  const mode = { weights: 'bf16', activations: 'bf16', precision: 'bf16' }
  const patches = (vision.tileSize / vision.patchSize) ** 2
  const tile = (patches + 1) * of('tower') + patches * of('patches') + (patches / 4) * of('projector')
  expect(visionCost(plain, 1, mode).linear).toBe(2 * tile)
  expect(visionCost(plain, 1, mode).bytes).toBe(2 * (of('tower') + of('patches') + of('projector')))
  expect(prefillCost(plain, 1, mode).linear).toBe(2 * (of('decoder') + of('head')))
})

test.each(Object.keys(standIns))('the stand-in of %s has as many values as the table', (family) => {
  const standIn = standIns[family]!
  const { vision: v, decoder } = standIn
  const network: NetworkDescription = {
    ...plain,
    vision: {
      ...vision,
      dim: v.dim,
      layers: v.layers,
      outputLayer: v.layers,
      heads: v.heads,
      headDim: v.dim / v.heads,
      ffnDim: v.ffn,
      patchSize: v.patch,
      tileSize: v.image,
      positionGrid: v.image / v.patch,
    },
    language: {
      ...language,
      dim: standIn.dim,
      layers: standIn.layers,
      heads: standIn.heads,
      kvHeads: standIn.kvHeads,
      headDim: standIn.headDim,
      ffnDim: standIn.ffn,
      vocab: standIn.vocab,
      qkvBias: decoder === 'qwen2',
      qkNorm: decoder === 'qwen3',
    },
  }
  expect(sum(tensorsOf(standIn))).toBe(sum(table(network)))
})

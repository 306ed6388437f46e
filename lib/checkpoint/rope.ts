/** Rotary embedding settings: one reader for the spellings of three library generations and for all families. */
import { ModelError } from '../errors.ts'
import type { RopeDescription } from '../native.ts'
import { describe } from './files.ts'
import type { JsonReader } from './json-reader.ts'

export interface RopeOptions {
  /** Width of a head; longrope states half as many factors. */
  headDim: number
  /** `max_position_embeddings`. */
  maxPositions: number
  /** The family's own files always state `rope_scaling`, if only as null; a file without it lost something. */
  scalingStated: boolean
  /** The family is the library's own code, which takes `rope_parameters.rope_theta` before an older `rope_theta` beside it. */
  parametersFirst: boolean
}

const settings = [
  'rope_theta',
  'factor',
  'short_factor',
  'long_factor',
  'original_max_position_embeddings',
  'attention_factor',
] as const

/**
 * Reads `rope_theta` with `rope_scaling`, or `rope_parameters`, which transformers 5 writes in place of both. A value that is stated in
 * several places must be the same in all of them; only for `rope_theta` is the library's order known and followed.
 *
 * @param notes - Gets a sentence for each value that was passed over.
 * @throws {@link ModelError} `BAD_CHECKPOINT` for missing or contradictory values, `UNSUPPORTED_MODEL` for kinds that are not run.
 */
export function readRope(config: JsonReader, options: RopeOptions, notes: string[]): RopeDescription {
  const scaling = stated(config, 'rope_scaling')
  const parameters = stated(config, 'rope_parameters')
  if (options.scalingStated && parameters === undefined && config.raw('rope_scaling') === undefined) {
    throw config.fail('rope_scaling', 'an object or null')
  }
  const groups = [scaling, parameters].filter((group) => group !== undefined)
  for (const place of [config, ...groups]) refuseForeign(place)
  if (scaling !== undefined && parameters !== undefined) {
    for (const key of settings) expectSame(scaling, parameters, key)
    if (kindOf(scaling) !== undefined && kindOf(parameters) !== undefined && kindOf(scaling) !== kindOf(parameters)) {
      throw disagree(scaling, typeKeyOf(scaling), parameters, typeKeyOf(parameters))
    }
  }
  const theta = readTheta(config, groups, options.parametersFirst && scaling === undefined, notes)
  const typed = groups.find((group) => kindOf(group) !== undefined)
  // transformers 5 writes rope_parameters without a type where there is nothing to scale.
  if (typed === undefined) {
    if (scaling !== undefined) throw scaling.fail('rope_type', 'a string')
    return { kind: 'default', theta }
  }
  const at = (key: string): JsonReader => groups.find((group) => group.has(key)) ?? typed
  const kind = kindOf(typed)
  switch (kind) {
    case 'default':
      return { kind, theta }
    case 'linear':
      return { kind, theta, factor: at('factor').number('factor', 1e6) }
    case 'dynamic': {
      const factor = at('factor').number('factor', 1e6)
      if (factor < 1) throw at('factor').fail('factor', 'a number of at least 1')
      return { kind, theta, factor, originalMax: options.maxPositions }
    }
    case 'longrope':
      return readLongRope(config, at, theta, options)
    default:
      throw typed.unsupported(typeKeyOf(typed), '"default", "linear", "dynamic", "su" and "longrope" rotary embeddings')
  }
}

/** The settings under a key; null states nothing, nor does an empty `rope_parameters`. */
function stated(config: JsonReader, key: string): JsonReader | undefined {
  const group = config.optional(key, () => config.object(key))
  return group?.keys().length === 0 && key === 'rope_parameters' ? undefined : group
}

/** Settings that would change the angles, wherever they stand. */
function refuseForeign(place: JsonReader): void {
  const partial = 'partial_rotary_factor'
  if (place.has(partial) && place.number(partial, 1) !== 1) {
    throw place.unsupported(partial, 'rotary embeddings over whole heads (1)')
  }
  for (const key of ['mrope_section', 'short_mscale', 'long_mscale']) {
    if (place.has(key)) throw place.unsupported(key, 'rotary embeddings without it')
  }
  for (const key of ['full_attention', 'sliding_attention']) {
    if (place.has(key)) throw place.unsupported(key, 'one rotary embedding for all layers')
  }
}

const typeKeyOf = (group: JsonReader): string => (group.has('rope_type') || !group.has('type') ? 'rope_type' : 'type')

/** The kind a group states, `su` under its later name; undefined if it states none. */
function kindOf(group: JsonReader): string | undefined {
  const [first, second] = ['rope_type', 'type'].map((key) => {
    const kind = group.optional(key, () => group.string(key))
    return kind === 'su' ? 'longrope' : kind
  })
  if (first !== undefined && second !== undefined && first !== second) {
    throw group.fail('type', `the same as ${group.path('rope_type')} (${describe(group.raw('rope_type'))})`)
  }
  return first ?? second
}

function readTheta(config: JsonReader, groups: JsonReader[], parametersFirst: boolean, notes: string[]): number {
  const key = 'rope_theta'
  const inside = groups.find((group) => group.has(key))
  if (inside === undefined) return config.number(key, 1e15)
  const theta = inside.number(key, 1e15)
  if (config.has(key) && config.number(key, 1e15) !== theta) {
    if (!parametersFirst) throw disagree(config, key, inside, key)
    notes.push(
      `${config.file}: ${inside.path(key)} is ${theta} and was taken, as the library does; ${config.path(key)} beside it (${config.number(key, 1e15)}) is passed over.`,
    )
  }
  return theta
}

function readLongRope(
  config: JsonReader,
  at: (key: string) => JsonReader,
  theta: number,
  { headDim, maxPositions }: RopeOptions,
): RopeDescription {
  const shortFactors = at('short_factor').numbers('short_factor', headDim / 2)
  const longFactors = at('long_factor').numbers('long_factor', headDim / 2)
  const key = 'original_max_position_embeddings'
  const inside = at(key)
  if (inside.has(key)) expectSame(config, inside, key)
  const originalMax = (config.has(key) || !inside.has(key) ? config : inside).integer(key, {
    min: 2,
    max: 2 ** 31 - 1,
  })
  const ratio = maxPositions / originalMax
  const attentionScale = ratio <= 1 ? 1 : Math.sqrt(1 + Math.log(ratio) / Math.log(originalMax))
  mustFollow(at('factor'), 'factor', ratio)
  mustFollow(at('attention_factor'), 'attention_factor', attentionScale)
  return { kind: 'longrope', theta, shortFactors, longFactors, originalMax, attentionScale }
}

/** A value that may be stated, but must be the one that follows from the lengths. */
function mustFollow(group: JsonReader, key: string, expected: number): void {
  if (!group.has(key) || Math.abs(group.number(key, 1e6) - expected) <= 1e-6 * Math.max(1, expected)) return
  throw new ModelError(
    'UNSUPPORTED_MODEL',
    `${group.file}: ${group.path(key)} is ${describe(group.raw(key))}; this package runs the factor that follows from the lengths (${expected}) only.`,
  )
}

function expectSame(a: JsonReader, b: JsonReader, key: string): void {
  if (a.has(key) && b.has(key) && JSON.stringify(a.raw(key)) !== JSON.stringify(b.raw(key))) {
    throw disagree(a, key, b, key)
  }
}

function disagree(a: JsonReader, aKey: string, b: JsonReader, bKey: string): ModelError {
  return new ModelError(
    'BAD_CHECKPOINT',
    `${a.file}: ${a.path(aKey)} is ${describe(a.raw(aKey))} and ${b.path(bKey)} is ${describe(b.raw(bKey))}; expected one value. Remove the one the model was not trained with.`,
  )
}

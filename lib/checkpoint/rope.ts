/** Rotary embedding settings, in the spellings of three library generations. */
import { ModelError } from '../errors.ts'
import type { RopeDescription } from '../native.ts'
import { describe } from './files.ts'
import type { JsonReader } from './json-reader.ts'

/**
 * Reads `rope_theta` with `rope_scaling`, or `rope_parameters`, which newer files hold in place of both.
 *
 * @param headDim - Factors of longrope must be half as many.
 * @param maxPositions - `max_position_embeddings`.
 */
export function readRope(config: JsonReader, headDim: number, maxPositions: number): RopeDescription {
  const parameters = config.optional('rope_parameters', (key) => config.object(key))
  const thetaOf = config.has('rope_theta') || !parameters?.has('rope_theta') ? config : parameters
  const theta = thetaOf.number('rope_theta', 1e15)
  const scaling = config.optional('rope_scaling', (key) => config.object(key)) ?? parameters
  if (scaling === undefined) return { kind: 'default', theta }
  if (scaling.has('rope_type') && scaling.has('type') && synonym(scaling, 'rope_type') !== synonym(scaling, 'type')) {
    throw scaling.fail('type', `the same as ${scaling.path('rope_type')} (${describe(scaling.raw('rope_type'))})`)
  }
  const typeKey = scaling.has('rope_type') || !scaling.has('type') ? 'rope_type' : 'type'
  // Newer files may hold rope_parameters without a type when there is nothing to scale.
  const kind = scaling === parameters && !scaling.has(typeKey) ? 'default' : synonym(scaling, typeKey)
  switch (kind) {
    case 'default':
      return { kind: 'default', theta }
    case 'linear':
      return { kind: 'linear', theta, factor: scaling.number('factor', 1e6) }
    case 'dynamic': {
      const factor = scaling.number('factor', 1e6)
      if (factor < 1) throw scaling.fail('factor', 'a number of at least 1')
      return { kind: 'dynamic', theta, factor, originalMax: maxPositions }
    }
    case 'longrope':
      return readLongRope(config, scaling, theta, headDim, maxPositions)
    default:
      throw scaling.unsupported(typeKey, '"default", "linear", "dynamic", "su" and "longrope" rotary embeddings')
  }
}

function synonym(scaling: JsonReader, key: string): string {
  const type = scaling.string(key)
  return type === 'su' ? 'longrope' : type
}

function readLongRope(
  config: JsonReader,
  scaling: JsonReader,
  theta: number,
  headDim: number,
  maxPositions: number,
): RopeDescription {
  const shortFactors = scaling.numbers('short_factor', headDim / 2)
  const longFactors = scaling.numbers('long_factor', headDim / 2)
  const key = 'original_max_position_embeddings'
  const originalMax = (config.has(key) || !scaling.has(key) ? config : scaling).integer(key, {
    min: 2,
    max: 2 ** 31 - 1,
  })
  const ratio = maxPositions / originalMax
  const attentionScale = ratio <= 1 ? 1 : Math.sqrt(1 + Math.log(ratio) / Math.log(originalMax))
  if (scaling.has('attention_factor') && Math.abs(scaling.number('attention_factor', 1e6) - attentionScale) > 1e-6) {
    throw new ModelError(
      'UNSUPPORTED_MODEL',
      `${scaling.file}: ${scaling.path('attention_factor')} is ${describe(scaling.raw('attention_factor'))}; this package runs the factor that follows from the lengths (${attentionScale}) only.`,
    )
  }
  return { kind: 'longrope', theta, shortFactors, longFactors, originalMax, attentionScale }
}

// Predictions that answer no question of the data: made for another file, mostly.

import { ModelError } from '../../errors.ts'

/** An answer to no question of the data. */
export function foreignPrediction(id: string, more = ''): ModelError {
  return new ModelError('BAD_DATA', `A prediction answers question ${id}, which the data does not hold.${more}`)
}

/** Predictions of another file miss all questions of this one: what they answer says why. */
export function foreignIds(foreign: readonly string[], of: number): string {
  if (foreign.length === 0) return ''
  const some = foreign.slice(0, 4).join(', ') + (foreign.length > 4 ? ', …' : '')
  return ` Of ${of} predictions ${foreign.length} answer questions that the data does not hold (${some}); are they of another split?`
}

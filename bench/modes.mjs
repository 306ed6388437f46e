// The ways a model can be loaded, each a set of rows.

/**
 * `load` goes to loadModel; the rest says what the floors need. A build that refuses a mode gets its rows without values.
 *
 * `optional` modes are for comparison: they give up what would take long.
 */
export const modes = [
  { name: 'bf16', load: { precision: 'bf16' }, precision: 'bf16', weights: 'bf16', activations: 'bf16' },
  {
    name: 'int8',
    load: { weights: 'int8', activations: 'int8' },
    precision: 'bf16',
    weights: 'int8',
    activations: 'int8',
  },
  {
    name: 'int4',
    load: { weights: 'int4', activations: 'bf16' },
    precision: 'bf16',
    weights: 'int4',
    activations: 'bf16',
  },
  // Weights are read as they are stored.
  { name: 'f32', load: { precision: 'f32' }, precision: 'f32', weights: 'bf16', activations: 'f32', optional: true },
]

/** Tiles that are seen at once, and tokens that stand before the one that is decoded. */
export const tileCounts = [1, 6, 13]
export const contexts = [0, 512, 3500]
export const prefills = [512, 3328]

/**
 * What is done to coordinates in questions and answers. `drivelm`: c-tags and prompt as the adapted checkpoints were trained, answers as
 * the reference post-processes them; `drivelm-decimals` prints clamped coordinates with a decimal, which the official score can read.
 */
export const conversions = ['auto', 'drivelm', 'drivelm-decimals', 'none'] as const

export type Conversion = (typeof conversions)[number]

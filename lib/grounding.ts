/** The paper's task forms: multiple choice, `<ref>`/`<box>` localisation, region questions, DriveLM's c-tags. */
export * from './grounding/boxes.ts'
export * from './grounding/c-tags.ts'
export * from './grounding/choices.ts'
export * from './grounding/geometry.ts'

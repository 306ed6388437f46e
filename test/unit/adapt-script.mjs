// A run of training to be killed: node adapt-script.mjs DIST START OUT SETTINGS. Packs as in tiny-packs.ts, of text alone. It leaves after the
// update `leaveAfter` of the settings, if there is one.
const [dist, start, out, settings] = process.argv.slice(2)
const { adapt } = await import(`${dist}/train/adapt.js`)
const rows = 24
const data = {
  steps: 12,
  bounds: { rows, tiles: 0 },
  digest: 'script',
  summary: {},
  packsOfStep: async (step) => [
    {
      ids: Int32Array.from({ length: rows }, (_, row) => (step * 31 + row * 7) % 150),
      spans: [{ row: 0, rows, prefixRow: 0, prefixRows: 0 }],
      tiles: null,
      targets: { rows: Int32Array.of(8, 9), labels: Int32Array.of(3, step), weights: Float64Array.of(0.5, 0.5) },
      names: [`script:${step}`],
      questions: 1,
    },
  ],
}
const { leaveAfter, ...rest } = JSON.parse(settings)
const run = adapt(start, { ...rest, data, out, saveEvery: 1 + (process.pid % 3) })
for await (const { step } of run) if (step === leaveAfter) break
if (leaveAfter === undefined) await run.folder

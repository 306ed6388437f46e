// A run of training to be killed: node adapt-script.mjs DIST START OUT SETTINGS. Packs as in tiny-packs.ts, of text alone or, with `pictures` of
// the settings, of so many tiles in front of it, other ones in each pack. It leaves after the update `leaveAfter`, if there is one.
const [dist, start, out, settings] = process.argv.slice(2)
const { adapt } = await import(`${dist}/train/adapt.js`)
const { leaveAfter, pictures = { tiles: 0, tokens: 0, bytes: 0 }, ...rest } = JSON.parse(settings)
const imageRows = pictures.tiles * pictures.tokens
const rows = imageRows + 24
const data = {
  steps: 12,
  bounds: { rows, tiles: pictures.tiles },
  digest: 'script',
  summary: {},
  packsOfStep: async (step) => [
    {
      ids: Int32Array.from({ length: rows }, (_, row) => (row < imageRows ? -1 : (step * 31 + row * 7) % 150)),
      spans: [{ row: 0, rows, prefixRow: 0, prefixRows: 0 }],
      tiles:
        imageRows === 0
          ? null
          : Uint8Array.from(
              { length: pictures.tiles * pictures.bytes },
              (_, i) => (step * 97 + i * 31 + (i >> 8)) % 256,
            ),
      targets: {
        rows: Int32Array.of(imageRows + 8, imageRows + 9),
        labels: Int32Array.of(3, step),
        weights: Float64Array.of(0.5, 0.5),
      },
      names: [`script:${step}`],
      questions: 1,
    },
  ],
}
const run = adapt(start, { ...rest, data, out, saveEvery: 1 + (process.pid % 3) })
for await (const { step } of run) if (step === leaveAfter) break
if (leaveAfter === undefined) await run.folder

#!/usr/bin/env bash
# geotiff 3.0.5 (npm), writeArrayBuffer: heights of a terrain are signed 16-bit numbers. Given in a Uint16Array, a Uint32Array or a Float32Array, four numbers come back as they
# were. In an Int16Array or an Int32Array the file says, rightly, that it has signed numbers of 16 or 32 bits, and holds one byte of each, all in a row, and zeros: 100, 250, 5, 7
# are read as 25850, 1287, 0, 0, by geotiff itself and by libtiff (sharp 0.35.5). Nothing is said, and telling it BitsPerSample and SampleFormat changes nothing.
# Exits 0 while the surprise is there.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm init -y >/dev/null
npm install --silent --no-audit --no-fund --ignore-scripts geotiff@3.0.5 sharp@0.35.5
cat > show.mjs <<'EOS'
import { fromArrayBuffer, writeArrayBuffer } from 'geotiff'
import sharp from 'sharp'

const heights = [100, 250, 5, 7]
const found = {}
for (const Numbers of [Uint8Array, Uint16Array, Int16Array, Uint32Array, Int32Array, Float32Array]) {
  const file = writeArrayBuffer(Numbers.from(heights), { width: 2, height: 2 })
  const image = await (await fromArrayBuffer(file)).getImage()
  const read = await image.readRasters({ interleave: true })
  const { channels } = await sharp(Buffer.from(file)).stats()
  found[Numbers.name] = `${read.constructor.name} ${read.join(' ')}`
  console.log(`${Numbers.name}: read as ${found[Numbers.name]}, by libtiff as ${channels[0].min} to ${channels[0].max}`)
}
const told = { width: 2, height: 2, BitsPerSample: [16], SampleFormat: [2] }
const again = await (await fromArrayBuffer(writeArrayBuffer(Int16Array.from(heights), told))).getImage()
const toldToo = (await again.readRasters({ interleave: true })).join(' ')
const right = ['Uint8Array', 'Uint16Array', 'Uint32Array', 'Float32Array'].every((name) => found[name] === `${name} 100 250 5 7`)
const surprise = right && found.Int16Array === 'Int16Array 25850 1287 0 0' && found.Int32Array === 'Int32Array 1694106887 0 0 0' && toldToo === '25850 1287 0 0'
console.log(surprise ? 'Signed numbers lose all but a byte.' : 'Changed.')
process.exit(surprise ? 0 : 1)
EOS
node show.mjs

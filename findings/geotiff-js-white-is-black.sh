#!/usr/bin/env bash
# geotiff 3.0.5 (npm), readRGB, which is to make a picture of whatever the file has: a scanned map, black lines on white paper, is stored with 0 for white (WhiteIsZero), as scanners
# and fax do. What is white on it comes out as 0, black: 256 is computed for it and does not fit into the byte. In a map of 1 bit a pixel the lines come out as 128, so it is a grey
# drawing on black; in one of 8 bits greys are right to 1 and only pure white is black. libtiff, by sharp 0.35.5 which wrote the files, reads 255 and 0. With 0 for black
# white is 255 in 8 bits.
# Exits 0 while the surprise is there.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm init -y >/dev/null
npm install --silent --no-audit --no-fund --ignore-scripts geotiff@3.0.5 sharp@0.35.5
cat > show.mjs <<'EOS'
import { fromArrayBuffer } from 'geotiff'
import sharp from 'sharp'

const paper = { 8: [255, 192, 128, 0], 1: [255, 255, 0, 0] }
const found = {}
for (const miniswhite of [false, true]) {
  for (const bits of [8, 1]) {
    const raw = { width: 4, height: 1, channels: 1 }
    const form = { compression: 'none', predictor: 'none', miniswhite, ...(bits === 1 ? { bitdepth: 1 } : {}) }
    const file = await sharp(Uint8Array.from(paper[bits]), { raw }).toColourspace('b-w').tiff(form).toBuffer()
    const image = await (await fromArrayBuffer(Uint8Array.from(file).buffer)).getImage()
    const rgb = await image.readRGB({ interleave: true })
    const greys = [...rgb].filter((_, i) => i % 3 === 0).join(' ')
    const libtiff = [...(await sharp(file).toColourspace('b-w').raw().toBuffer())].join(' ')
    const name = `${bits} bit, 0 is ${miniswhite ? 'white' : 'black'}`
    found[name] = greys
    console.log(`${name}: drawn ${paper[bits].join(' ')}, libtiff ${libtiff}, readRGB ${greys}`)
    if (libtiff !== paper[bits].join(' ')) process.exit(1)
  }
}
const surprise =
  found['8 bit, 0 is black'] === '255 192 128 0' &&
  found['8 bit, 0 is white'] === '0 193 129 1' &&
  found['1 bit, 0 is white'] === '0 0 128 128'
console.log(surprise ? 'White paper is black.' : 'Changed.')
process.exit(surprise ? 0 : 1)
EOS
node show.mjs

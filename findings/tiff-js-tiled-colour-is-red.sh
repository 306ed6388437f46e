#!/usr/bin/env bash
# tiff 7.1.3 (npm): map and satellite pictures are stored in tiles, so that a part can be read. The same colour picture, red 10, green 20, blue 30 everywhere, is read rightly where it is
# stored in strips. Stored in tiles it comes back with the right size and no error; green and blue are 0 at every pixel, and red is 10, 20 and 30 by turns: the reader goes over the
# samples of a tile as if a pixel had one, and puts each into the first channel of the next pixel. A grey picture in tiles is read rightly. libtiff (sharp 0.35.5, which
# wrote the files) reads all of them as they are. One would guess that tiles with several channels are read, or refused as other things are that this package does not read.
# Exits 0 while the surprise is there.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm init -y >/dev/null
npm install --silent --no-audit --no-fund --ignore-scripts tiff@7.1.3 sharp@0.35.5
cat > show.mjs <<'EOS'
import sharp from 'sharp'
import { decode } from 'tiff'

const [width, height] = [32, 32]
const read = async (colour, tile) => {
  const pixels = Uint8Array.from({ length: width * height * 3 }, (_, i) => (colour ? [10, 20, 30][i % 3] : 10))
  const picture = sharp(pixels, { raw: { width, height, channels: 3 } }).toColourspace(colour ? 'srgb' : 'b-w')
  const file = await picture.tiff({ compression: 'none', tile, tileWidth: 16, tileHeight: 16 }).toBuffer()
  const [page] = decode(file)
  const same = Buffer.from(page.data).equals(await sharp(file).toColourspace(colour ? 'srgb' : 'b-w').raw().toBuffer())
  console.log(`${colour ? 'colour' : 'grey  '} in ${tile ? 'tiles ' : 'strips'}: ${page.samplesPerPixel} channel(s), begins ${page.data.subarray(0, 9).join(' ')}, ${same ? 'as' : 'not as'} libtiff`)
  return { same, data: page.data }
}
const rest = [await read(false, false), await read(false, true), await read(true, false)]
const { same, data } = await read(true, true)
const channel = (c) => new Set(data.filter((_, i) => i % 3 === c))
const [red, green, blue] = [0, 1, 2].map(channel)
console.log(`colour in tiles: red is one of ${[...red].join(', ')}, green ${[...green].join(', ')}, blue ${[...blue].join(', ')}`)
const lost = [green, blue].every((values) => values.size === 1 && values.has(0))
const surprise = rest.every((one) => one.same) && !same && data.length === width * height * 3 && red.size === 3 && lost
console.log(surprise ? 'Two of three channels are gone.' : 'Changed.')
process.exit(surprise ? 0 : 1)
EOS
node show.mjs

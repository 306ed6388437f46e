#!/usr/bin/env bash
# sharp 0.35.5 (npm): a depth picture is a grey PNG of 16 bits (KITTI: metres times 256). metadata() says 1 channel of ushort, stats() gives its true values, and
# raw({ depth: 'ushort' }) says that it gives ushort. Its numbers are two bytes wide, but each was divided by 256 on the way, and stands there three times, so
# 1 m and 1.99 m are both 1. The picture goes through 8-bit sRGB unless another colour space is named: with toColourspace('grey16') before raw() all values come back.
# Exits 0 while the surprise is there.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm init -y >/dev/null
npm install --silent --no-audit --no-fund --ignore-scripts sharp@0.35.5
cat > show.mjs <<'EOF'
import sharp from 'sharp'

const depths = Uint16Array.of(256, 511, 20480, 65535)
const png = await sharp(depths, { raw: { width: 4, height: 1, channels: 1 } }).toColourspace('grey16').png().toBuffer()

async function read(picture) {
  const { data, info } = await picture.raw({ depth: 'ushort' }).toBuffer({ resolveWithObject: true })
  const values = [...new Uint16Array(data.buffer, data.byteOffset, data.length / 2)]
  return { depth: info.depth, channels: info.channels, values: values.join(' ') }
}
const { depth, channels } = await sharp(png).metadata()
const { min, max } = (await sharp(png).stats()).channels[0]
const plain = await read(sharp(png))
const named = await read(sharp(png).toColourspace('grey16'))
console.log('metadata    ', { depth, channels })
console.log('stats       ', { min, max })
console.log('raw         ', plain)
console.log('grey16, raw ', named)
const surprise =
  depth === 'ushort' && channels === 1 && min === 256 && max === 65535 &&
  plain.depth === 'ushort' && plain.channels === 3 && plain.values === '1 1 1 1 1 1 80 80 80 255 255 255' &&
  named.channels === 1 && named.values === '256 511 20480 65535'
console.log(surprise ? 'Two bytes wide, with the values of one.' : 'Changed.')
process.exit(surprise ? 0 : 1)
EOF
node show.mjs

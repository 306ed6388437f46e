#!/usr/bin/env bash
# @huggingface/transformers 4.3.2 (npm), in Node: RawImage.resize, which the image processors call, with the resampling that most of them name. Its
# names and numbers are Pillow's, whose bilinear and bicubic take the mean of all that a smaller pixel covers. Here they take the two or four nearest pixels of the
# large picture and leave the rest out; lanczos of the same function filters. Stripes two pixels wide in a camera's 1600, which Pillow 12.3.0 shrinks to an
# even grey at 448 (123 to 132, bilinear), keep all their contrast under a coarser pattern that is not there: a network sees other pixels than in training.
# Exits 0 while the surprise is there.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm init -y >/dev/null
npm install --silent --no-audit --no-fund --ignore-scripts @huggingface/transformers@4.3.2
cat > show.mjs <<'EOF'
import { RawImage } from '@huggingface/transformers'

const [width, height, smaller] = [1600, 8, 448]
const pixels = new Uint8ClampedArray(width * height * 3).map((_, i) => (Math.floor(i / 3) % 4 < 2 ? 255 : 0))

async function shrunk(resample) {
  const { data, channels } = await new RawImage(pixels, width, height, 3).resize(smaller, height, { resample })
  const row = Array.from({ length: 40 }, (_, x) => data[(4 * smaller + 200 + x) * channels]) // away from the edges
  const found = { darkest: Math.min(...row), lightest: Math.max(...row) }
  console.log(resample.padEnd(8), found, row.slice(0, 12).join(' '))
  return found.lightest - found.darkest
}
const bilinear = await shrunk('bilinear')
const bicubic = await shrunk('bicubic')
const lanczos = await shrunk('lanczos')
const surprise = bilinear > 200 && bicubic > 200 && lanczos < 10
console.log(surprise ? 'Two of three keep stripes that the smaller picture cannot hold.' : 'Changed.')
process.exit(surprise ? 0 : 1)
EOF
node show.mjs

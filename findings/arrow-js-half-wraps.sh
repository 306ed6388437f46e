#!/usr/bin/env bash
# apache-arrow 21.2.0 (npm): a column of Float16, as for embeddings, depths or probabilities, made from numbers. A half ends at 65504 and at 6e-8, and one would guess that what is
# larger becomes Infinity and what is smaller becomes 0, as IEEE 754 rounds. From 65520 to 65535 the first holds. 65536 becomes 2 and 70000 becomes 2.13, since the exponent's bits
# are cut; and 1e-8, nearly nothing, becomes -Infinity. No word is said. numpy 1.24.2 (Debian 12: python3-numpy 1:1.24.2-1+deb12u1) gives Infinity and 0 for the same numbers.
# Exits 0 while the surprise is there.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm init -y >/dev/null
npm install --silent --no-audit --no-fund --ignore-scripts apache-arrow@21.2.0
cat > show.mjs <<'EOS'
import { Float16, vectorFromArray } from 'apache-arrow'

// What a half is by IEEE 754, to the nearest.
const rounded = [
  [0.5, 0.5],
  [1000, 1000],
  [65504, 65504],
  [65530, Infinity],
  [65536, Infinity],
  [70000, Infinity],
  [-70000, -Infinity],
  [1e-7, 2 ** -23],
  [1e-8, 0],
]
const found = vectorFromArray(rounded.map(([number]) => number), new Float16())
const differ = []
for (const [i, [number, half]] of rounded.entries()) {
  console.log(`${number} should be ${half}, is ${found.get(i)}`)
  if (found.get(i) !== half) differ.push([number, found.get(i)])
}
const surprise = JSON.stringify(differ.map(([number, half]) => [number, String(half)])) ===
  JSON.stringify([[65536, '2'], [70000, '2.134765625'], [-70000, '-2.134765625'], [1e-8, '-Infinity']])
console.log(surprise ? 'Too large is small, and too small is -Infinity.' : 'Changed.')
process.exit(surprise ? 0 : 1)
EOS
node show.mjs

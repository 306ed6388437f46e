#!/usr/bin/env bash
# @foxglove/wasm-lz4 1.0.2 (npm): after one frame that is cut or damaged (a chunk of a log with a flipped bit) every later frame fails too, sound
# ones included, until the process ends: the package keeps one LZ4F context for all calls, and LZ4F_decompress wants it reset after an error.
# @foxglove/wasm-zstd 1.0.1 goes on. Exits 0 while the surprise is there.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm init -y >/dev/null
npm install --silent --no-audit --no-fund --ignore-scripts @foxglove/wasm-lz4@1.0.2
cat > show.mjs <<'EOF'
import lz4 from '@foxglove/wasm-lz4'

await lz4.isLoaded
const stored = Buffer.concat([
  Buffer.from('04224d186040820c000080', 'hex'), // magic, flags (independent blocks), 64 KiB, head's checksum, 12 bytes as they are
  Buffer.from('hello hello '),
  Buffer.from('00000000', 'hex'),
])
const attempt = (bytes) => {
  try {
    return lz4(bytes, 12).toString()
  } catch (error) {
    return `throws: ${error.message}`
  }
}
const before = attempt(stored)
const bad = attempt(stored.subarray(0, 20)) // cut in its block
const after = attempt(stored)
console.log({ before, bad, after })
const surprise = before === 'hello hello ' && after.startsWith('throws')
console.log(surprise ? 'A sound frame fails after a damaged one.' : 'Changed: it goes on.')
process.exit(surprise ? 0 : 1)
EOF
node show.mjs

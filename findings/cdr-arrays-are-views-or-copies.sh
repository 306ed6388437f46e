#!/usr/bin/env bash
# @foxglove/cdr 3.5.0 (npm): whether an array of numbers that CdrReader gives is a view of the message or a copy depends on where the message happens to
# begin in its buffer. A program that keeps the array of one message while the buffer is used again (a chunk of a log, a pool of a socket) keeps right
# values for some messages and sees them change in others; the same bytes one place further on behave the other way.
# Exits 0 while the surprise is there.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm init -y >/dev/null
npm install --silent --no-audit --no-fund --ignore-scripts @foxglove/cdr@3.5.0
cat > show.mjs <<'EOF'
import { CdrReader, CdrWriter } from '@foxglove/cdr'

const writer = new CdrWriter()
writer.float32Array(Float32Array.from({ length: 16 }, (_, i) => i), true)
const message = writer.data

function keptAfterReuse(start) {
  const buffer = new Uint8Array(message.length + 8)
  buffer.set(message, start)
  const kept = new CdrReader(buffer.subarray(start, start + message.length)).float32Array()
  const before = kept[5]
  buffer.fill(0)
  return { start, before, after: kept[5] }
}
const even = keptAfterReuse(0)
const odd = keptAfterReuse(1)
for (const { start, before, after } of [even, odd])
  console.log(`message at byte ${start}: element 5 is ${before}, and ${after} when the buffer is used again`)
const surprise = even.before === 5 && even.after === 0 && odd.before === 5 && odd.after === 5
console.log(surprise ? 'A view in one place, a copy in the other.' : 'Changed: both behave alike.')
process.exit(surprise ? 0 : 1)
EOF
node show.mjs

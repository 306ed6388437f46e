#!/usr/bin/env bash
# @foxglove/rosmsg2-serialization 3.1.0 (npm), with @foxglove/rosmsg 5.0.5 and @foxglove/cdr 3.5.0: the camera matrix of a ROS 2 CameraInfo is float64[9]. Nine numbers in an Array or a
# Float64Array are written as they are, and eight are refused by name. Nine in a Float32Array, as graphics libraries hold a matrix, pass that check and are written as nine
# zeros: a well-formed message of a camera without a focal length, and no error. Integers in an Int16Array or Uint8Array fare the same.
# Exits 0 while the surprise is there.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm init -y >/dev/null
npm install --silent --no-audit --no-fund --ignore-scripts @foxglove/rosmsg2-serialization@3.1.0 @foxglove/rosmsg@5.0.5 @foxglove/cdr@3.5.0
cat > show.mjs <<'EOF'
import { parse } from '@foxglove/rosmsg'
import { MessageReader, MessageWriter } from '@foxglove/rosmsg2-serialization'

const definition = parse('uint32 width\nfloat64[9] k\n', { ros2: true })
const matrix = [1000, 0, 640, 0, 1000, 360, 0, 0, 1]
const written = (k) => {
  try {
    const bytes = new MessageWriter(definition).writeMessage({ width: 1280, k })
    const message = new MessageReader(definition).readMessage(bytes)
    return `${message.width}: ${Array.from(message.k).join(' ')}`
  } catch (error) {
    return `an error that names ${/field k\b/.test(error.message) ? 'the field' : 'nothing'}`
  }
}
const found = [Array, Float64Array, Float32Array, Int16Array].map((type) => {
  const read = written(type.from(matrix))
  console.log(`${type.name.padEnd(12)}  read as ${read}`)
  return read
})
const short = written(Float32Array.from(matrix.slice(1)))
console.log(`${'eight'.padEnd(12)}  ${short}`)
const right = `1280: ${matrix.join(' ')}`
const zeros = '1280: 0 0 0 0 0 0 0 0 0'
const surprise = [...found, short].join() === [right, right, zeros, zeros, 'an error that names the field'].join()
console.log(surprise ? 'The length is checked, the numbers are dropped.' : 'Changed.')
process.exit(surprise ? 0 : 1)
EOF
node show.mjs

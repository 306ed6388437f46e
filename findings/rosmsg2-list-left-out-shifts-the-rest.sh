#!/usr/bin/env bash
# @foxglove/rosmsg2-serialization 3.1.0 (npm), with @foxglove/rosmsg 5.0.5 and @foxglove/cdr 3.5.0, writes ROS 2 messages, and fills in what an object leaves out. A list of numbers
# that is left out becomes an empty one. A list of times that is left out, or one whose .msg has a default, becomes a length of 0 with elements after it: one time, or those of
# the default. Nothing is said, and each later field stands in the wrong place: a count of 7 is read as 0, or as the first number of the default.
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

const found = ['int32[] list', 'builtin_interfaces/Time[] list', 'int32[] list [10, 20]'].map((list) => {
  const definition = parse(`${list}\nuint32 count\n`, { ros2: true })
  const bytes = new MessageWriter(definition).writeMessage({ count: 7 })
  const { list: read, count } = new MessageReader(definition).readMessage(bytes)
  const words = Array.from(new Uint32Array(bytes.slice(4).buffer))
  console.log(`${list.padEnd(30)}  written ${words.join(' ').padEnd(9)}  read as a list of ${read.length} and the count ${count}`)
  return `${words.join(' ')}: ${read.length} ${count}`
})
const surprise = found.join() === '0 7: 0 7,0 0 0 7: 0 0,0 10 20 7: 0 10'
console.log(surprise ? 'A length of 0, and elements after it.' : 'Changed.')
process.exit(surprise ? 0 : 1)
EOF
node show.mjs

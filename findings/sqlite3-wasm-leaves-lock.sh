#!/usr/bin/env bash
# node-sqlite3-wasm 0.8.60 (npm): opening a database with readOnly: true and reading from it makes a folder NAME.lock beside the file. Where a prepared
# statement was not finalised it stays after close(), and the next process finds the database locked. In a folder that cannot be written to, nothing can
# be read. Exits 0 while the surprise is there.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm init -y >/dev/null
npm install --silent --no-audit --no-fund --ignore-scripts node-sqlite3-wasm@0.8.60
cat > show.mjs <<'EOF'
import { existsSync } from 'node:fs'
import sqlite from 'node-sqlite3-wasm'

const made = new sqlite.Database('a.db')
made.exec('CREATE TABLE t (x); INSERT INTO t VALUES (1), (2)')
made.close()
const clean = !existsSync('a.db.lock')
const db = new sqlite.Database('a.db', { readOnly: true })
db.prepare('SELECT x FROM t').iterate().next()
const reading = existsSync('a.db.lock')
db.close()
const closed = existsSync('a.db.lock')
let again = 'can be read'
try {
  new sqlite.Database('a.db', { readOnly: true }).all('SELECT x FROM t')
} catch (error) {
  again = error.message
}
console.log({ clean, reading, closed, again })
const surprise = clean && reading && closed
console.log(surprise ? 'A reader leaves a.db.lock behind.' : 'Changed: nothing is left.')
process.exit(surprise ? 0 : 1)
EOF
node show.mjs

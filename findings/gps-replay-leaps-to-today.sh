#!/usr/bin/env bash
# gps 0.9.0 (npm) keeps the state of a receiver over its sentences. RMC and ZDA have a date and a time, GGA, GLL and GST a time alone. One would think: the state, which knows
# the date from the RMC of the same instant, keeps it. Each GGA puts today's date in its place, so while a log of 2024 is replayed state.time leaps from 2024 to
# today and back at every sentence; only live, and away from midnight, nothing is seen. All sentences count as valid. Time of day is right in all of them.
# Exits 0 while the surprise is there.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm init -y >/dev/null
npm install --silent --no-audit --no-fund --ignore-scripts gps@0.9.0
cat > show.mjs <<'EOF'
import GPS from 'gps'

const sentence = (body) => {
  const sum = [...body].reduce((x, c) => x ^ c.charCodeAt(0), 0)
  return `$${body}*${sum.toString(16).toUpperCase().padStart(2, '0')}`
}
const log = [
  'GPRMC,123519.00,A,4807.038,N,01131.000,E,022.4,084.4,230324,,,A',
  'GPGGA,123519.00,4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,',
  'GPZDA,123519.00,23,03,2024,00,00',
  'GPGLL,4807.038,N,01131.000,E,123519.00,A,A',
  'GPRMC,123520.00,A,4807.038,N,01131.000,E,022.4,084.4,230324,,,A',
]
const gps = new GPS()
const years = log.map((body) => {
  if (!gps.update(sentence(body))) throw new Error(`refused: ${body}`)
  console.log(body.slice(2, 5), gps.state.time.toISOString())
  return gps.state.time.getUTCFullYear()
})
const surprise = gps.state.errors === 0 && [0, 2, 4].every((i) => years[i] === 2024) && [1, 3].every((i) => years[i] > 2024)
console.log(surprise ? 'A second of a log lasts for years.' : 'Changed.')
process.exit(surprise ? 0 : 1)
EOF
node show.mjs

#!/usr/bin/env bash
# exifr 7.1.3 (npm): a camera's picture says DateTimeOriginal 12:00:00 and OffsetTimeOriginal +02:00, which is 10:00 UTC. exifr gives both, the first as a Date, and makes that
# Date without the second: 12:00 in the time zone of the machine that reads. The same file is taken at 12:00 UTC on a server, at 03:00 UTC in Tokyo, and nowhere
# but in +02:00 at the instant that it states. With reviveValues: false the text comes as it stands, from which the instant can be made.
# Exits 0 while the surprise is there.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm init -y >/dev/null
npm install --silent --no-audit --no-fund --ignore-scripts exifr@7.1.3 sharp@0.35.5
cat > make.mjs <<'EOF'
import sharp from 'sharp'

const IFD2 = { DateTimeOriginal: '2026:06:01 12:00:00', OffsetTimeOriginal: '+02:00' }
await sharp({ create: { width: 8, height: 8, channels: 3, background: '#888' } }).withExif({ IFD2 }).toFile('picture.jpg')
EOF
cat > show.mjs <<'EOF'
import exifr from 'exifr'

const { DateTimeOriginal, OffsetTimeOriginal } = await exifr.parse('picture.jpg')
const text = (await exifr.parse('picture.jpg', { reviveValues: false })).DateTimeOriginal
const meant = new Date(text.replace(':', '-').replace(':', '-').replace(' ', 'T') + OffsetTimeOriginal)
console.log(OffsetTimeOriginal, DateTimeOriginal.toISOString(), 'meant', meant.toISOString())
EOF
node make.mjs
server=$(TZ=UTC node show.mjs)
tokyo=$(TZ=Asia/Tokyo node show.mjs)
echo "UTC:   $server"
echo "Tokyo: $tokyo"
[ "$server" = '+02:00 2026-06-01T12:00:00.000Z meant 2026-06-01T10:00:00.000Z' ] || { echo 'changed' >&2; exit 1; }
[ "$tokyo" = '+02:00 2026-06-01T03:00:00.000Z meant 2026-06-01T10:00:00.000Z' ] || { echo 'changed' >&2; exit 1; }

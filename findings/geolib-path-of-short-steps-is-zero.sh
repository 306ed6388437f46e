#!/usr/bin/env bash
# geolib 3.3.14 (npm): getPathLength adds up a track. A car at 50 km/h, with a receiver that gives ten positions a second, drives 834 m in a minute by getDistance of its two ends; getPathLength
# of the same track says 600 m. At a hundred positions a second, as an inertial receiver gives, it says 0, and so it does for somebody walking at ten a second. getDistance rounds to whole
# metres unless told otherwise, which its own description says and which is fair for one distance; here every step is rounded before it is added, and getPreciseDistance in its place
# rounds alike. getSpeed divides by the time what was rounded: 10 m/s for 13.9. One would guess that a sum is rounded once, and that more positions make a length better.
# With a distance function that is told to round to a thousandth of a millimetre the car's way is 834 m at ten positions a second.
# Exits 0 while the surprise is there.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm init -y >/dev/null
npm install --silent --no-audit --no-fund --ignore-scripts geolib@3.3.14
cat > show.mjs <<'EOS'
import { getDistance, getPathLength, getPreciseDistance, getSpeed } from 'geolib'

const drive = (kilometresPerHour, rate) => {
  const step = kilometresPerHour / 3.6 / rate / 111195 // degrees of latitude
  const track = Array.from({ length: 60 * rate + 1 }, (_, i) => ({ latitude: i * step, longitude: 8.4, time: 1718000000000 + i * 1000 / rate }))
  const found = {
    ends: getDistance(track[0], track.at(-1)),
    path: getPathLength(track),
    precise: getPathLength(track, getPreciseDistance),
    fine: getPathLength(track, (a, b) => getDistance(a, b, 1e-6)),
    speed: getSpeed(track[0], track[1]),
  }
  console.log(`${kilometresPerHour} km/h, ${rate} a second:`, Object.entries(found).map(([name, value]) => `${name} ${value.toFixed(1)}`).join(', '))
  return found
}
const [town, often, walk] = [drive(50, 10), drive(50, 100), drive(5, 10)]
const ends = [town, often].every((one) => one.ends > 830 && one.ends < 837) && walk.ends === 83
const fine = town.fine > 830 && town.fine < 837
const surprise = ends && fine && town.path === 600 && town.precise === 600 && town.speed === 10 && [often, walk].every((one) => one.path === 0 && one.precise === 0 && one.speed === 0)
console.log(surprise ? 'The more positions, the shorter the way.' : 'Changed.')
process.exit(surprise ? 0 : 1)
EOS
node show.mjs

#!/usr/bin/env bash
# utm 1.1.1 (npm): positions of a GPS receiver are turned into metres to work with, and back for the map. From degrees to metres it agrees with proj4 2.22.0 to a millimetre. Back, by the
# same package and with the zone that it gave, the place is another: 76 cm beside at a zone's edge on the equator, 17 cm at an edge at Boston's latitude, 5 cm in Boston and in Singapore. proj4
# comes back to under a millimetre from the same metres. One of the terms of the way back has the wrong constant of the ellipsoid; it grows with the cube of the distance from the
# middle of the zone, so a test there passes. One would guess that a conversion that is right to a millimetre one way is so the other way.
# Exits 0 while the surprise is there.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm init -y >/dev/null
npm install --silent --no-audit --no-fund --ignore-scripts utm@1.1.1 proj4@2.22.0
cat > show.mjs <<'EOS'
import proj4 from 'proj4'
import utm from 'utm'

const places = [
  ['equator, edge of a zone  ', 0, 11.99],
  ['equator, middle of a zone', 0, 9],
  ['Boston\'s latitude, edge  ', 42.36, 11.99],
  ['Boston                   ', 42.36, -71.06],
  ['Singapore                ', 1.3, 103.8],
]
const beside = (a, b) => Math.hypot(a[1] - b[1], (a[0] - b[0]) * Math.cos(b[1] * Math.PI / 180)) * 111320
const found = places.map(([name, latitude, longitude]) => {
  const { easting, northing, zoneNum, zoneLetter } = utm.fromLatLon(latitude, longitude)
  const exact = proj4(`+proj=utm +zone=${zoneNum} +datum=WGS84`)
  const [x, y] = exact.forward([longitude, latitude])
  const back = utm.toLatLon(easting, northing, zoneNum, zoneLetter)
  const metres = {
    forth: Math.hypot(x - easting, y - northing),
    back: beside([back.longitude, back.latitude], [longitude, latitude]),
    proj4: beside(exact.inverse([easting, northing]), [longitude, latitude]),
  }
  console.log(name, Object.entries(metres).map(([way, m]) => `${way} ${(m * 1000).toFixed(1)} mm`).join(', '))
  return metres
})
const surprise = found.every((m) => m.forth < 0.001 && m.proj4 < 0.001) && found[1].back < 0.001 && found[0].back > 0.7 && found[2].back > 0.15
console.log(surprise ? 'There to a millimetre, back to three quarters of a metre.' : 'Changed.')
process.exit(surprise ? 0 : 1)
EOS
node show.mjs

#!/usr/bin/env bash
# gl-matrix 3.4.4 (npm), quat.getAngle of two unit quaternions: how far a vehicle or a camera has turned between two poses. Where it has not turned one
# would guess 0, or nearly. Of 10,000 unit quaternions that quat.random makes, about half have the angle NaN to themselves: in 32 bits the length is often a little more than 1, and
# then the argument of the arc cosine is too. A sum over a standing vehicle is NaN, and `angle > limit` is false. In a Float64Array it is one in seven. three 0.187.0's
# angleTo takes the same pairs and gives a number for each.
# Exits 0 while the surprise is there.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm init -y >/dev/null
npm install --silent --no-audit --no-fund --ignore-scripts gl-matrix@3.4.4 three@0.187.0
cat > show.mjs <<'EOS'
import { quat } from 'gl-matrix'
import { Quaternion } from 'three'

const count = 10_000
const nan = { gl: 0, gl64: 0, three: 0 }
let longest = 0
for (let i = 0; i < count; i++) {
  const pose = quat.random(quat.create())
  longest = Math.max(longest, Math.abs(Math.hypot(...pose) - 1))
  if (Number.isNaN(quat.getAngle(pose, pose))) nan.gl += 1
  const exact = quat.random(new Float64Array(4))
  if (Number.isNaN(quat.getAngle(exact, exact))) nan.gl64 += 1
  const same = new Quaternion(...pose)
  if (Number.isNaN(same.angleTo(same))) nan.three += 1
}
console.log(`of ${count}, each of length 1 to ${longest.toExponential(1)}: NaN in ${nan.gl}, of 64 bits in ${nan.gl64}, by three in ${nan.three}`)
const surprise = nan.gl > count / 5 && nan.gl64 > count / 50 && nan.three === 0 && longest < 1e-6
console.log(surprise ? 'A pose is often no number away from itself.' : 'Changed.')
process.exit(surprise ? 0 : 1)
EOS
node show.mjs

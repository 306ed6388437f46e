#!/usr/bin/env bash
# @loaders.gl/pcd 4.4.2 (npm): a lidar's cloud has x, y, z and intensity. The loader reads the intensities of a binary PCD one by one, and gives none of them:
# what comes back is an attribute COLOR_0 of 0 values, beside the positions of all points. `loaderData` still lists the field. three 0.187.0's PCDLoader gives the
# intensities of the same file.
# Exits 0 while the surprise is there.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm init -y >/dev/null
npm install --silent --no-audit --no-fund --ignore-scripts @loaders.gl/pcd@4.4.2 @loaders.gl/core@4.4.2 @math.gl/types@4.1.0 three@0.187.0
cat > show.mjs <<'EOF'
import { parse } from '@loaders.gl/core'
import { PCDLoader } from '@loaders.gl/pcd'
import { PCDLoader as OtherLoader } from 'three/examples/jsm/loaders/PCDLoader.js'

const points = [[1, 2, 3, 0.25], [4, 5, 6, 0.5], [7, 8, 9, 0.75]]
const head = `# .PCD v0.7 - Point Cloud Data file format
VERSION 0.7
FIELDS x y z intensity
SIZE 4 4 4 4
TYPE F F F F
COUNT 1 1 1 1
WIDTH ${points.length}
HEIGHT 1
VIEWPOINT 0 0 0 1 0 0 0
POINTS ${points.length}
DATA binary
`
const file = Buffer.concat([Buffer.from(head), Buffer.from(Float32Array.from(points.flat()).buffer)])
const bytes = () => new Uint8Array(file).buffer

const cloud = await parse(bytes(), PCDLoader, { worker: false })
const given = Object.entries(cloud.attributes).map(([name, { value }]) => `${name} of ${value.length} values`)
console.log('loaders.gl:', given.join(', '), '; fields', cloud.loaderData.fields.join(' '))
const other = [...new OtherLoader().parse(bytes()).geometry.getAttribute('intensity').array]
console.log('three:     ', other.join(' '))
const values = Object.values(cloud.attributes).flatMap(({ value }) => [...value])
const surprise =
  cloud.attributes.POSITION.value.length === 9 &&
  cloud.attributes.COLOR_0.value.length === 0 &&
  !values.some((value) => [0.25, 0.5, 0.75].includes(value)) &&
  other.join() === '0.25,0.5,0.75'
console.log(surprise ? 'The points are there, their intensities are not.' : 'Changed.')
process.exit(surprise ? 0 : 1)
EOF
node show.mjs

#!/usr/bin/env bash
# candied 2.2.0 (npm) decodes CAN frames by a DBC file, and detects the types of their signals: one that the file marks as a float (SIG_VALTYPE_) has the
# dataType "float", a double "double". They are decoded as integers all the same: 1.5, in the four bytes that a sender puts it in, is read as 1069547520, and one with
# a range as the highest value of its range, which no check of ranges finds. canmatrix (Debian 12: python3-canmatrix 0.9.5~github-3) reads 1.5 from the same file and frame.
# Exits 0 while the surprise is there.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm init -y >/dev/null
npm install --silent --no-audit --no-fund --ignore-scripts candied@2.2.0
cat > show.mjs <<'EOF'
import candied from 'candied'

const { Can, Dbc } = candied
const dbc = new Dbc()
dbc.load(`VERSION ""

NS_ :

BS_:

BU_: Car

BO_ 256 Steering: 8 Car
 SG_ Torque : 0|32@1- (1,0) [0|0] "Nm" Car
 SG_ Ranged : 32|32@1- (1,0) [-8|8] "Nm" Car

SIG_VALTYPE_ 256 Torque : 1;
SIG_VALTYPE_ 256 Ranged : 1;
`)
const can = new Can()
can.database = dbc.data
const payload = [...new Uint8Array(Float32Array.of(1.5, 1.5).buffer)]
const { boundSignals } = can.decode(can.createFrame(256, payload))
const [torque, ranged] = ['Torque', 'Ranged'].map((name) => boundSignals.get(name))
for (const { boundData, value, physValue } of [torque, ranged]) console.log({ dataType: boundData.signal.dataType, value, physValue })
const surprise = torque.boundData.signal.dataType === 'float' && torque.value === 1069547520 && ranged.value === 8
console.log(surprise ? 'A float by its type, an integer by its value.' : 'Changed.')
process.exit(surprise ? 0 : 1)
EOF
node show.mjs

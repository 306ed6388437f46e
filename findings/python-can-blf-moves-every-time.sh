#!/usr/bin/env bash
# python-can 4.5.0 (PyPI) writes Vector's BLF. The format keeps the start of a file in whole milliseconds and each frame's distance from it in nanoseconds, so
# one would think that times survive to the microsecond. They do not: the start is rounded to its millisecond and the distances are still counted from the
# time before it was rounded, so the whole file moves by up to half a millisecond, by an amount that depends on its first frame alone. Distances within a
# file stay right, hence nobody sees it until two files, or a file and a camera's log, are laid side by side.
# Exits 0 while the surprise is there.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv env
env/bin/pip install --quiet python-can==4.5.0
cat > show.py <<'EOF'
import sys
import can

def moved(name, times):
    with can.Logger(name) as log:
        for at in times:
            log(can.Message(timestamp=at, arbitration_id=0x100, is_extended_id=False, data=b"\x01"))
    back = [message.timestamp for message in can.LogReader(name)]
    print(name, [f"{at:.6f}" for at in times], "->", [f"{at:.6f}" for at in back])
    return [round((b - a) * 1e6) for a, b in zip(times, back)]

whole = moved("whole.blf", [1790000000.25, 1790000001.5])
between = moved("between.blf", [1790000000.123456, 1790000001.5])
same = moved("same.log", [1790000000.123456, 1790000001.5])
print("moved by microseconds:", whole, between, "; candump's text:", same)
surprise = whole == [0, 0] and same == [0, 0] and all(abs(one + 456) <= 1 for one in between)
print("A frame at a whole half second is moved by another frame's microseconds." if surprise else "Changed.")
sys.exit(0 if surprise else 1)
EOF
env/bin/python show.py

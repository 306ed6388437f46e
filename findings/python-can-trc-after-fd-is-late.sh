#!/usr/bin/env bash
# python-can 4.5.0 (PyPI) writes PEAK's TRC and says of a CAN FD frame that it cannot, which is fair. The surprise is what becomes of the others: where the
# first frame of a bus is FD, every later one is read back late by the time that passed between that frame and the first one that was written. A frame of
# 1.5 s becomes one of 2.5 s.
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

def through(name, first_is_fd):
    with can.Logger(name) as log:
        for n, at in enumerate((1790000000.5, 1790000001.5, 1790000003.5)):
            log(can.Message(timestamp=at, arbitration_id=0x100, is_extended_id=False, is_fd=first_is_fd and n == 0, data=b"\x01"))
    times = [message.timestamp - 1790000000 for message in can.LogReader(name)]
    print(name, [f"{at:.3f}" for at in times])
    return [round(at, 3) for at in times]

classic = through("classic.trc", False)
mixed = through("mixed.trc", True)
surprise = classic == [0.5, 1.5, 3.5] and mixed == [2.5, 4.5]
print("Frames behind one of CAN FD are a second late." if surprise else "Changed.")
sys.exit(0 if surprise else 1)
EOF
env/bin/python show.py 2>&1

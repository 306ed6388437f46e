#!/usr/bin/env bash
# python-can 4.5.0 (PyPI): a frame of CAN FD that is logged to CSV or SQLite, python-can's own formats, comes back as a frame of classic CAN with 12 bytes,
# which there cannot be; the channel and the direction are gone too. Nothing is said, neither when it is written nor when it is read. The same frame
# through candump's text keeps all of it.
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

def through(name):
    with can.Logger(name) as log:
        log(can.Message(timestamp=1790000000.5, arbitration_id=0x123, is_extended_id=False, is_fd=True, bitrate_switch=True,
                        is_rx=False, channel=1, data=bytes(range(12))))
    (back,) = list(can.LogReader(name))
    print(f"{name}: fd {back.is_fd}, received {back.is_rx}, channel {back.channel}, {len(back.data)} bytes")
    return back.is_fd, back.is_rx, back.channel, len(back.data)

found = {kind: through("frames." + kind) for kind in ("csv", "db", "log")}
lost = (False, True, None, 12)
surprise = found["csv"] == lost and found["db"] == lost and found["log"] == (True, False, "can1", 12)
print("12 bytes of classic CAN, received, of no channel." if surprise else "Changed.")
sys.exit(0 if surprise else 1)
EOF
env/bin/python show.py 2>&1

#!/usr/bin/env bash
# pynmea2 1.15.0 (Debian 12: python3-nmea2 1.15.0-4): a GPS receiver that has no fix sends empty fields. `lat` of the parsed sentence is '' then and `altitude` None, so
# one would think that `latitude` is None too. It is 0.0, and so is `longitude`: a log of a drive out of a garage begins in the Gulf of Guinea, and a
# mean over it lies between. Only `is_valid` (or gps_qual) tells.
# Exits 0 while the surprise is there.
set -euo pipefail
dir=$(mktemp -d)
chmod 755 "$dir"
trap 'rm -rf "$dir"' EXIT
cd "$dir"
apt-get download -qq python3-nmea2=1.15.0-4 2>/dev/null
dpkg-deb -x python3-nmea2_1.15.0-4_all.deb .
cat > show.py <<'EOF'
import sys
import pynmea2

fix = pynmea2.parse("$GPGGA,120000.00,4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,")
none = pynmea2.parse("$GPGGA,120000.00,,,,,0,00,99.99,,,,,,")
for name, one in (("fix", fix), ("none", none)):
    print(f"{name}: lat {one.lat!r}, latitude {one.latitude}, longitude {one.longitude}, altitude {one.altitude}, valid {one.is_valid}")
surprise = none.lat == "" and none.altitude is None and (none.latitude, none.longitude) == (0.0, 0.0) and not none.is_valid
print("No height, and a place." if surprise else "Changed.")
sys.exit(0 if surprise else 1)
EOF
PYTHONPATH=usr/lib/python3/dist-packages /usr/bin/python3 show.py

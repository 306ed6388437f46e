#!/usr/bin/env bash
# pyproj 3.7.2 (PyPI, with PROJ 9.5.1): a GPS receiver's height above the ellipsoid is to be one above the sea (EGM96), and the geoid's grid is not installed, as it is not
# in the wheel. That such a transformer then changes nothing unless asked is known; only_best=True is there to make it an error. It is one for the target EPSG:5773, the
# height alone. For EPSG:9707, latitude, longitude and that same height, and for the same written EPSG:4326+5773, only_best=True gives a transformer that returns the
# height as it was, without an error or a warning; at Karlsruhe the two differ by 48 m. allow_ballpark=False refuses all three.
# Exits 0 while the surprise is there.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv env
env/bin/pip install --quiet pyproj==3.7.2
cat > show.py <<'EOF'
import sys
import warnings
import pyproj
from pyproj import Transformer
from pyproj.exceptions import ProjError

warnings.simplefilter("error")
print("pyproj", pyproj.__version__, "PROJ", pyproj.proj_version_str)

def height(target, **options):
    try:
        transformer = Transformer.from_crs("EPSG:4979", target, **options)
        return transformer.transform(49.0, 8.4, 115.0, errcheck=True)[2]  # EGM96: 67 m
    except ProjError as error:
        return "an error that names the grid" if "us_nga_egm96_15.tif is not available" in str(error) else "an error"

targets = ["EPSG:5773", "EPSG:9707", "EPSG:4326+5773"]
best = [height(target, only_best=True) for target in targets]
strict = [height(target, allow_ballpark=False) for target in targets]
for target, *found in zip(targets, best, strict):
    print(f"{target:14}  only_best=True: {found[0]}  allow_ballpark=False: {found[1]}")
surprise = best == ["an error that names the grid", 115.0, 115.0] and strict == ["an error"] * 3
print("An error for one name of the height, nothing done for two." if surprise else "Changed.")
sys.exit(0 if surprise else 1)
EOF
env -u PROJ_DATA -u PROJ_LIB -u PROJ_ONLY_BEST_DEFAULT PROJ_NETWORK=OFF PROJ_USER_WRITABLE_DIRECTORY="$dir/none" env/bin/python show.py

#!/usr/bin/env bash
# Pillow applies the orientation tag when it opens a TIFF file, and of no other format: the same pixels with the same tag 6 come out as
# 23 x 37 from TIFF and as 37 x 23 from JPEG, PNG and WebP. Nobody calls ImageOps.exif_transpose here, and Image.open is known for not turning
# pictures; a data loader whose files mix formats turns some of them.
#
# Seen with Pillow 11.3.0:
#   TIFF (23, 37)
#   JPEG (37, 23)
#   PNG (37, 23)
#   WEBP (37, 23)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check pillow==11.3.0
venv/bin/python - <<'PYTHON'
import io, sys
import PIL
from PIL import Image

print("Pillow", PIL.__version__)
expected = {"TIFF": (23, 37), "JPEG": (37, 23), "PNG": (37, 23), "WEBP": (37, 23)}
for name, size in expected.items():
    exif = Image.Exif()
    exif[274] = 6  # to be shown turned by 90 degrees
    data = io.BytesIO()
    options = {"tiffinfo": {274: 6}} if name == "TIFF" else {"exif": exif}
    Image.new("RGB", (37, 23)).save(data, name, **options)
    image = Image.open(io.BytesIO(data.getvalue()))
    image.load()
    print(name, image.size)
    if image.size != size:
        sys.exit(f"{name}: expected {size}")
PYTHON

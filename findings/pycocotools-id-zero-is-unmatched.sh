#!/usr/bin/env bash
# pycocotools 2.0.11 (PyPI), numpy 2.4.6: two boxes, both found exactly. With annotations numbered 1 and 2 the average precision is 1. Numbered 0 and 1, as
# anybody who counts a list writes them, it is 0.25: a detection's match is stored as the annotation's number, and 0 there means "none". No word is said.
# Exits 0 while the surprise is there.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv env
env/bin/pip install --quiet pycocotools==2.0.11 numpy==2.4.6
cat > show.py <<'EOF'
import contextlib
import io
import sys
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

boxes = [[10, 10, 30, 30], [50, 10, 30, 30]]

def precision(first):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": 1, "width": 100, "height": 100}],
            "categories": [{"id": 1, "name": "car"}],
            "annotations": [
                {"id": first + n, "image_id": 1, "category_id": 1, "bbox": box, "area": 900, "iscrowd": 0} for n, box in enumerate(boxes)
            ],
        }
        truth.createIndex()
        found = truth.loadRes([{"image_id": 1, "category_id": 1, "bbox": box, "score": 0.9} for box in boxes])
        judge = COCOeval(truth, found, "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return float(judge.stats[0])

one, zero = precision(1), precision(0)
print(f"numbered from 1: {one:.3f}; numbered from 0: {zero:.3f}")
surprise = one > 0.999 and zero < 0.3
print("The same boxes, a quarter of the precision." if surprise else "Changed.")
sys.exit(0 if surprise else 1)
EOF
env/bin/python show.py

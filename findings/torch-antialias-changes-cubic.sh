#!/usr/bin/env bash
# torch 2.13.0 (PyPI, +cpu) and jax 0.10.2: antialias=True is for making pictures smaller; when a picture grows there is nothing to filter, and one would think
# that the flag does nothing. With mode="bicubic" it changes every value: without it torch's cubic has the parameter -0.75, with it -0.5. So a
# vision tower's table of positions that is enlarged for more tiles differs by which of the two a port chose; jax.image.resize, which has no -0.75,
# gives the second. Linear resizing is the same with and without.
# Exits 0 while the surprise is there.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv env
env/bin/pip install --quiet torch==2.13.0 jax==0.10.2 numpy==2.4.6 2>/dev/null || env/bin/pip install --quiet torch==2.13.0+cpu jax==0.10.2 numpy==2.4.6
cat > show.py <<'EOF'
import sys
import jax
import numpy as np
import torch

row = np.array([0, 1, 4, 9], np.float32)
table = np.tile(row, (4, 1))

def grown(mode, antialias):
    picture = torch.tensor(table)[None, None]
    return torch.nn.functional.interpolate(picture, size=(8, 8), mode=mode, align_corners=False, antialias=antialias)[0, 0, 0].numpy()

plain, flagged = grown("bicubic", False), grown("bicubic", True)
other = np.asarray(jax.image.resize(table, (8, 8), "bicubic"))[0]
show = lambda values: [f"{value:.3f}" for value in values]
print("torch                ", show(plain))
print("torch, antialias=True", show(flagged))
print("jax                  ", show(other))
linear = np.abs(grown("bilinear", False) - grown("bilinear", True)).max()
surprise = np.abs(plain - flagged).max() > 0.2 and np.abs(flagged - other).max() < 1e-4 and linear < 1e-5
print("A flag against aliasing changes a picture that grows." if surprise else "Changed.")
sys.exit(0 if surprise else 1)
EOF
env/bin/python show.py

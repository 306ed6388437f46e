#!/usr/bin/env bash
# torch 2.13.0 (PyPI, +cpu) and ml_dtypes 0.6.0: a number that is too large for an 8-bit float becomes the largest one in torch.float8_e4m3fn and infinity in
# torch.float8_e5m2, by the same .to() of the same library; and ml_dtypes, with which JAX and numpy store weights, makes the e4m3fn one NaN. Weights that
# one of them writes without a scale are read by another one's users as a different model, or as NaN.
# Exits 0 while the surprise is there.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv env
env/bin/pip install --quiet torch==2.13.0 ml_dtypes==0.6.0 numpy==2.4.6 2>/dev/null || env/bin/pip install --quiet torch==2.13.0+cpu ml_dtypes==0.6.0 numpy==2.4.6
cat > show.py <<'EOF'
import math
import sys
import ml_dtypes
import numpy as np
import torch

def of_torch(value, kind):
    return torch.tensor([value]).to(kind).float().item()

def of_numpy(value, kind):
    return float(np.array([value], np.float32).astype(kind).astype(np.float32)[0])

four = of_torch(1000.0, torch.float8_e4m3fn), of_numpy(1000.0, ml_dtypes.float8_e4m3fn)
five = of_torch(1e6, torch.float8_e5m2), of_numpy(1e6, ml_dtypes.float8_e5m2)
print("e4m3fn of 1000:    torch", four[0], " ml_dtypes", four[1])
print("e5m2 of 1,000,000: torch", five[0], " ml_dtypes", five[1])
surprise = four[0] == 448 and math.isnan(four[1]) and five == (math.inf, math.inf)
print("One library overflows two ways, two libraries two ways." if surprise else "Changed.")
sys.exit(0 if surprise else 1)
EOF
env/bin/python show.py 2>&1 | grep -v -i warn

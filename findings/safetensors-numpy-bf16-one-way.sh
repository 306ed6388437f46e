#!/usr/bin/env bash
# safetensors 0.8.0 (PyPI), with numpy 2.4.6 and ml_dtypes 0.6.0: safetensors.numpy.save writes an array of ml_dtypes.bfloat16 as a proper BF16 tensor,
# and safetensors.numpy.load of those very bytes raises KeyError: 'BF16', also when ml_dtypes is imported. One direction only, in one module.
# Exits 0 while the surprise is there.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv env
env/bin/pip install --quiet safetensors==0.8.0 numpy==2.4.6 ml_dtypes==0.6.0
cat > show.py <<'EOF'
import sys
import ml_dtypes
import numpy as np
from safetensors.numpy import load, save

data = save({"weight": np.arange(6, dtype=np.float32).reshape(2, 3).astype(ml_dtypes.bfloat16)})
print("saved ", data[8 : 8 + int.from_bytes(data[:8], "little")].decode().strip())
try:
    found = f"{load(data)['weight'].dtype}"
except KeyError as error:
    found = repr(error)
print("loaded", found)
surprise = b'"dtype":"BF16"' in data and found == "KeyError('BF16')"
print("It does not read what it wrote." if surprise else "Changed: this no longer happens.")
sys.exit(0 if surprise else 1)
EOF
env/bin/python show.py

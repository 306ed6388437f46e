#!/usr/bin/env bash
# safetensors 0.8.0 (PyPI), with numpy 2.4.6: safetensors.numpy.save takes a transposed array without a word and writes its memory in the order in
# which it lies under the shape that it shows. What is loaded has the right shape and other values: weights that somebody turned with `.T` before
# saving are scrambled. safetensors.torch refuses the same tensor by name.
# Exits 0 while the surprise is there.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv env
env/bin/pip install --quiet safetensors==0.8.0 numpy==2.4.6
cat > show.py <<'EOF'
import sys
import numpy as np
from safetensors.numpy import load, save

turned = np.arange(6, dtype=np.float32).reshape(2, 3).T
saved = load(save({"weight": turned}))["weight"]
whole = load(save({"weight": np.ascontiguousarray(turned)}))["weight"]
print("array ", turned.tolist())
print("loaded", saved.tolist())
print("loaded, when it was copied into its own order first", whole.tolist())
surprise = saved.shape == turned.shape and saved.tolist() == [[0, 1], [2, 3], [4, 5]] and (whole == turned).all()
print("Right shape, other values." if surprise else "Changed: this no longer happens.")
sys.exit(0 if surprise else 1)
EOF
env/bin/python show.py

#!/usr/bin/env bash
# gguf 0.19.0 (PyPI), llama.cpp's own reader, with numpy 2.4.6: a tensor has a `shape` and a `data` that has a shape, and they are not the same. `shape` is in ggml's
# order, the shortest step first, `data.shape` in numpy's, so an array of (2, 3, 32) that GGUFWriter was given comes back as `shape` [32 3 2]. A square
# matrix hides it. Of 8-bit blocks the last size of `data` counts bytes, and `shape` numbers.
# Exits 0 while the surprise is there.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv env
env/bin/pip install --quiet gguf==0.19.0 numpy==2.4.6
cat > show.py <<'EOF'
import sys
import gguf
import numpy as np

writer = gguf.GGUFWriter("two.gguf", "qwen2")
writer.add_tensor("plain", np.zeros((2, 3, 32), np.float32))
kind = gguf.GGMLQuantizationType.Q8_0
writer.add_tensor("blocks", gguf.quants.quantize(np.ones((4, 64), np.float32), kind), raw_dtype=kind)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
found = {tensor.name: (tuple(map(int, tensor.shape)), tuple(tensor.data.shape)) for tensor in gguf.GGUFReader("two.gguf").tensors}
for name, (shape, data) in found.items():
    print(f"{name}: shape {shape}, data.shape {data}")
surprise = found == {"plain": ((32, 3, 2), (2, 3, 32)), "blocks": ((64, 4), (4, 68))}
print("Neither shape is the other." if surprise else "Changed.")
sys.exit(0 if surprise else 1)
EOF
env/bin/python show.py

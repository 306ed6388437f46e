#!/usr/bin/env bash
# onnxruntime 1.30.0 (PyPI), the CPU provider: Resize, mode="linear", of a picture of int8 as a quantised network takes it (each pixel less 128). Without
# antialias the dark half of the picture, -128 to -1, comes out as it should. With antialias=1 all of it comes out as 0, which is a middle grey, and nothing is said:
# the sums are cut to 0 to 255 as if the bytes had no sign. The same picture in uint8, or in float32, is shrunk rightly by the same node.
# Exits 0 while the surprise is there.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv env
env/bin/pip install --quiet onnxruntime==1.30.0 onnx==1.23.1 numpy==2.4.6
cat > show.py <<'EOF'
import sys
import numpy as np
import onnxruntime
from onnx import TensorProto, helper

KINDS = {np.int8: TensorProto.INT8, np.uint8: TensorProto.UINT8, np.float32: TensorProto.FLOAT}

def shrunk(row, kind, antialias):
    picture = np.tile(row, (4, 1))[None, None].astype(kind)
    node = helper.make_node("Resize", ["in", "", "", "sizes"], ["out"], mode="linear", antialias=antialias)
    graph = helper.make_graph(
        [node], "shrink",
        [helper.make_tensor_value_info("in", KINDS[kind], picture.shape)],
        [helper.make_tensor_value_info("out", KINDS[kind], [1, 1, 4, len(row) // 2])],
        [helper.make_tensor("sizes", TensorProto.INT64, [4], [1, 1, 4, len(row) // 2])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"in": picture})[0][0, 0, 0].astype(float)

pixels = np.repeat(np.array([8, 48, 88, 128, 168, 208, 248]), 4)
plain = shrunk(pixels - 128, np.int8, 0) + 128
signed = shrunk(pixels - 128, np.int8, 1) + 128
others = [shrunk(pixels, np.uint8, 1), shrunk(pixels - 128.0, np.float32, 1) + 128]
for name, row in (("int8", plain), ("int8, antialias", signed), ("uint8, antialias", others[0]), ("float32, antialias", others[1])):
    print(f"{name:19}", " ".join(f"{pixel:3.0f}" for pixel in row))
surprise = (
    signed.min() == 128
    and all(abs(other - plain).max() <= 8 for other in others)
    and all(other.min() <= 16 for other in (plain, *others))
    and abs(signed[plain > 140] - others[0][plain > 140]).max() <= 1
)
print("Whatever was darker than the middle is the middle." if surprise else "Changed.")
sys.exit(0 if surprise else 1)
EOF
env/bin/python show.py

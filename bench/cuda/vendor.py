#!/usr/bin/env python3
"""The vendor's rate: cuBLAS and the attention of PyTorch at the shapes of bench/cuda/op_rows.cpp, for the ratio.

    python3 vendor.py BENCH.json OUT.json

Reads the rows of drivlm_gpu_check, times the same GEMMs without what is fused behind ours, and attention by
scaled_dot_product_attention, each run after the L2 cache was overwritten. `ratio` is vendor's time over ours: 1 is as fast.
"""

import json
import sys

import torch
import torch.nn.functional as F

# rows, n, k of x [rows, k] * w [n, k]^T
GEMMS = {
    "gemm_8192": (8192, 8192, 8192),
    "vit_qkv": (13325, 3072, 1024),
    "vit_proj": (13325, 1024, 1024),
    "vit_fc1": (13325, 4096, 1024),
    "vit_fc2": (13325, 1024, 4096),
    "projector_fc1": (3328, 896, 4096),
    "projector_fc2": (3328, 896, 896),
    "prefill_qkv": (3328, 1152, 896),
    "prefill_out": (3328, 896, 896),
    "prefill_gate_up": (3328, 9728, 896),
    "prefill_down": (3328, 896, 4864),
    "decode_gate_up": (1, 9728, 896),
    "decode_head": (1, 151655, 896),
}
# groups, query heads, key heads, positions, causal
ATTENTIONS = {"vit_attention": (13, 16, 16, 1025, False), "prefill_attention": (1, 14, 2, 3328, True)}
HEAD_DIM = 64
RUNS = 30


def median_us(body, flush):
    for _ in range(3):
        body()
    events = []
    for _ in range(RUNS):
        flush.zero_()
        pair = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        pair[0].record()
        body()
        pair[1].record()
        events.append(pair)
    torch.cuda.synchronize()
    return sorted(start.elapsed_time(end) for start, end in events)[RUNS // 2] * 1e3


def noise(*shape):
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)


def main(bench_file, out_file):
    with open(bench_file) as file:
        ours = {row["name"]: row["value"] for row in json.load(file)["rows"]}
    flush = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
    rows = []

    def add(name, flops, body):
        if ours.get(name) is None:
            return
        us = median_us(body, flush)
        rows.append(
            {"name": name, "us": us, "tflops": flops / us / 1e6, "ours_us": ours[name], "ratio": us / ours[name]}
        )
        print(f"  {name:24} vendor {us:10.1f} us, ours {ours[name]:10.1f} us, ratio {us / ours[name]:.2f}")

    with torch.no_grad():
        for name, (m, n, k) in GEMMS.items():
            x, w = noise(m, k), noise(n, k)
            add(name, 2 * m * n * k, lambda: F.linear(x, w))
        for name, (groups, heads, kv_heads, positions, causal) in ATTENTIONS.items():
            q = noise(groups, heads, positions, HEAD_DIM)
            # Key heads are repeated beforehand: that is not part of the time.
            k, v = (noise(groups, kv_heads, positions, HEAD_DIM).repeat_interleave(heads // kv_heads, 1) for _ in "kv")
            flops = 4 * groups * heads * positions * positions * HEAD_DIM / (2 if causal else 1)
            add(name, flops, lambda: F.scaled_dot_product_attention(q, k, v, is_causal=causal))
    result = {
        "label": "vendor's rate: cuBLAS and scaled_dot_product_attention through PyTorch; ratio is vendor's time over ours",
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "rows": rows,
    }
    with open(out_file, "w") as file:
        json.dump(result, file)


if __name__ == "__main__":
    main(*sys.argv[1:])

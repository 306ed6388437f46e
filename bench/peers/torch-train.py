#!/usr/bin/env python3
"""PyTorch at the shapes of bench/train.cpp: forward, backward and, for street_step, clipping and AdamW. Prints one line of JSON a row.

usage: torch-train.py [street_step | tower_block | decoder_block] [--bf16] [--threads N] [--runs N]

street_step: street-tiny's network, one packed moment: 6 tiles, a prefix of 113 tokens whose keys and values are computed once, 16 questions of
24 tokens of which 7 are learned. tower_block: a block of InternViT-300M, 2 tiles; decoder_block: one of Qwen2-0.5B, 600 tokens; what PyTorch
keeps for the backward pass at more would not fit small machines, so compare operations a second.
"""

import argparse
import json
import statistics
import sys
import time

try:
    import torch
    import torch.nn as nn
    import torch.nn.functional as F
except ImportError as error:
    sys.exit(f'PyTorch cannot be imported, so there is nothing to compare with: {error}')


def rope(positions, dim, theta):
    frequency = 1.0 / theta ** (torch.arange(0, dim, 2).float() / dim)
    angle = positions.float()[:, None] * frequency
    angle = torch.cat([angle, angle], -1)
    return angle.cos(), angle.sin()


def turned(x, table):
    cos, sin = (t.to(x.dtype) for t in table)
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


class TowerBlock(nn.Module):
    def __init__(self, dim, heads, ffn):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.fc1, self.fc2 = nn.Linear(dim, ffn), nn.Linear(ffn, dim)
        self.ls1, self.ls2 = nn.Parameter(torch.full((dim,), 0.3)), nn.Parameter(torch.full((dim,), 0.3))

    def forward(self, x):
        tiles, positions, dim = x.shape
        qkv = self.qkv(self.norm1(x)).view(tiles, positions, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        weights = torch.softmax(torch.matmul(q * (dim // self.heads) ** -0.5, k.transpose(-1, -2)), -1)
        attended = torch.matmul(weights, v).transpose(1, 2).reshape(tiles, positions, dim)
        x = x + self.proj(attended) * self.ls1
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x)))) * self.ls2


class RMSNorm(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight


class DecoderBlock(nn.Module):
    def __init__(self, dim, heads, kv_heads, head_dim, ffn):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, head_dim
        self.norm1, self.norm2 = RMSNorm(dim), RMSNorm(dim)
        self.qkv = nn.Linear(dim, (heads + 2 * kv_heads) * head_dim)
        self.out = nn.Linear(heads * head_dim, dim, bias=False)
        self.gate, self.up = nn.Linear(dim, ffn, bias=False), nn.Linear(dim, ffn, bias=False)
        self.down = nn.Linear(ffn, dim, bias=False)

    def forward(self, x, table, mask, past=None):
        rows, tokens, _ = x.shape
        heads, kv_heads, head_dim = self.heads, self.kv_heads, self.head_dim
        qkv = self.qkv(self.norm1(x)).view(rows, tokens, heads + 2 * kv_heads, head_dim).transpose(1, 2)
        q, k, v = qkv.split([heads, kv_heads, kv_heads], 1)
        q, k = turned(q, table), turned(k, table)
        if past is not None:
            k, v = torch.cat([past[0].expand(rows, -1, -1, -1), k], 2), torch.cat([past[1].expand(rows, -1, -1, -1), v], 2)
        group = heads // kv_heads
        grouped = (q * head_dim**-0.5).reshape(rows, kv_heads, group * tokens, head_dim)
        scores = torch.matmul(grouped, k.transpose(-1, -2)).view(rows, kv_heads, group, tokens, -1) + mask
        weights = torch.softmax(scores, -1).view(rows, kv_heads, group * tokens, -1)
        attended = torch.matmul(weights, v).view(rows, heads, tokens, head_dim).transpose(1, 2).reshape(rows, tokens, -1)
        x = x + self.out(attended)
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y)), (k, v)


def causal(tokens, past, dtype):
    return torch.full((tokens, past + tokens), -1e9, dtype=torch.float32).triu(past + 1).to(dtype)


class Street(nn.Module):
    """models/street-tiny/config.json."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Linear(3 * 14 * 14, 128)
        self.cls, self.positions = nn.Parameter(torch.randn(1, 1, 128) * 0.02), nn.Parameter(torch.randn(1, 65, 128) * 0.02)
        self.tower = nn.ModuleList([TowerBlock(128, 4, 512) for _ in range(6)])
        self.projector = nn.Sequential(nn.LayerNorm(512), nn.Linear(512, 192), nn.GELU(), nn.Linear(192, 192))
        self.embedding = nn.Embedding(711, 192)
        self.layers = nn.ModuleList([DecoderBlock(192, 6, 2, 32, 512) for _ in range(4)])
        self.norm, self.head = RMSNorm(192), nn.Linear(192, 711, bias=False)

    def image_tokens(self, pixels):
        tiles = pixels.shape[0]
        patches = pixels.view(tiles, 3, 8, 14, 8, 14).permute(0, 2, 4, 1, 3, 5).reshape(tiles, 64, -1)
        x = torch.cat([self.cls.expand(tiles, -1, -1), self.patch(patches)], 1) + self.positions
        for layer in self.tower:
            x = layer(x)
        x = x[:, 1:].reshape(tiles, 8, 4, 256).permute(0, 2, 1, 3).reshape(tiles, 4, 4, 512)
        return self.projector(x.permute(0, 2, 1, 3).reshape(tiles * 16, 512))


def street_step(dtype):
    model = Street().to(dtype)
    pixels = torch.randn(6, 3, 112, 112).to(dtype)
    prefix, ids = torch.randint(0, 711, (113,)), torch.randint(0, 711, (16, 24))
    labels = torch.full((16, 24), -100)
    labels[:, 17:] = ids[:, 17:]

    def loss():
        x = model.embedding(prefix)[None]
        x = torch.cat([x[:, :12], model.image_tokens(pixels)[None], x[:, 108:]], 1)
        table, mask, caches = rope(torch.arange(113), 32, 1e4), causal(113, 0, dtype), []
        for layer in model.layers:
            x, cache = layer(x, table, mask)
            caches.append(cache)
        y, table, mask = model.embedding(ids), rope(torch.arange(113, 137), 32, 1e4), causal(24, 113, dtype)
        for layer, cache in zip(model.layers, caches):
            y, _ = layer(y, table, mask, cache)
        on = labels[:, 1:] != -100
        return F.cross_entropy(model.head(model.norm(y[:, :-1][on])).float(), labels[:, 1:][on])

    return model, loss


def tower_block(dtype):
    model = TowerBlock(1024, 16, 4096).to(dtype)
    x = torch.randn(2, 1025, 1024).to(dtype).requires_grad_(True)
    return model, lambda: (model(x).float() ** 2).mean()


def decoder_block(dtype):
    model = DecoderBlock(896, 14, 2, 64, 4864).to(dtype)
    x = torch.randn(1, 600, 896).to(dtype).requires_grad_(True)
    table, mask = rope(torch.arange(600), 64, 1e6), causal(600, 0, dtype)
    return model, lambda: (model(x, table, mask)[0].float() ** 2).mean()


def tower_operations(tiles):
    rows = tiles * 1025
    return 2 * rows * (4 * 1024**2 + 2 * 1024 * 4096) + 4 * rows * 1025 * 1024


def decoder_operations(tokens):
    return 2 * tokens * 896 * (1152 + 896 + 3 * 4864) + 4 * tokens * (tokens + 1) / 2 * 896


def main():
    cases = {
        'street_step': (street_step, None),
        'tower_block': (tower_block, 3 * tower_operations(2)),
        'decoder_block': (decoder_block, 3 * decoder_operations(600)),
    }
    parser = argparse.ArgumentParser(usage=__doc__.split('\n\n')[1].removeprefix('usage: '))
    parser.add_argument('row', nargs='?', choices=sorted(cases))
    parser.add_argument('--bf16', action='store_true')
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--runs', type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    for name, (make, operations) in cases.items():
        if options.row not in (None, name):
            continue
        model, loss = make(torch.bfloat16 if options.bf16 else torch.float32)
        parameters = list(model.parameters())
        masters = [p.detach().clone().float() for p in parameters] if options.bf16 else parameters
        optimizer = torch.optim.AdamW(masters, lr=1e-5, weight_decay=0.01)
        times = []
        for run in range(options.runs + 1):
            start = time.perf_counter()
            loss().backward()
            if name == 'street_step':
                if options.bf16:
                    for parameter, master in zip(parameters, masters):
                        master.grad = parameter.grad.float()
                nn.utils.clip_grad_norm_(masters, 1.0)
                optimizer.step()
                if options.bf16:
                    with torch.no_grad():
                        for parameter, master in zip(parameters, masters):
                            parameter.copy_(master)
            for parameter in parameters:
                parameter.grad = None
            if run > 0:
                times.append((time.perf_counter() - start) * 1e3)
        row = {'name': f'{name}_{"bf16" if options.bf16 else "f32"}', 'unit': 'ms', 'value': statistics.median(times), 'least': min(times)}
        if operations is not None:
            row['gops'] = operations / statistics.median(times) / 1e6
        print(json.dumps({'torch': torch.__version__, 'threads': options.threads, **row}), flush=True)


main()

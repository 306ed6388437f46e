#!/usr/bin/env bash
# GCC (gcc-12 12.2.0-14+deb12u1 of Debian 12), the AMX intrinsic _tile_loadd of <immintrin.h>.
#
# One would think: _tile_loadd(tile, rows, stride) reads `rows`, as every load intrinsic does, so what was written there before is written. It is not: the intrinsic is
# an asm that is given the address alone and told of no memory, so at -O2 stores to an array that only _tile_loadd reads are dead, and are left out; the tile gets
# what was on the stack. No warning. The vector load beside it, _mm512_loadu_si512, keeps them.
#
# Seen: with _tile_loadd the value 7 is in the assembly at -O0 and not at -O2; with the vector load it is there at -O2.
set -euo pipefail
command -v gcc-12 >/dev/null || { echo 'gcc-12 of Debian 12 is needed' >&2; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
cat >load.c <<'C'
#include <immintrin.h>
#ifdef TILE
void load(void) {
  char rows[1024];
  for (int i = 0; i < 1024; i++) rows[i] = 7;
  _tile_loadd(0, rows, 64);
}
#else
__m512i load(void) {
  char rows[64];
  for (int i = 0; i < 64; i++) rows[i] = 7;
  return _mm512_loadu_si512(rows);
}
#endif
C
gcc-12 --version | head -1
# 7 as a byte, in four bytes, or in eight, as an immediate or a constant.
sevens='\$7\b|117901063|506381209866536711|\.byte\s+7'
count() { gcc-12 -mamx-tile -mavx512f "$@" -S -o - load.c | grep -cE "$sevens" || true; }
whole=$(count -O0 -DTILE) optimised=$(count -O2 -DTILE) vector=$(count -O2)
echo "places that write 7: $whole with _tile_loadd at -O0, $optimised at -O2; $vector with _mm512_loadu_si512 at -O2"
[ "$whole" -gt 0 ] && [ "$vector" -gt 0 ]
[ "$optimised" -eq 0 ] || { echo 'the stores are kept now' >&2; exit 1; }

#!/usr/bin/env bash
# Debian 12's PyTorch (python3-torch 1.13.1+dfsg-4) depends on "libblas3 | libblas.so.3". apt takes the first where nothing else asks for another, and that is the reference
# BLAS, loops of Fortran. torch.get_num_threads() and torch.__config__ tell nothing of it. With OpenBLAS laid over it (libopenblas0-pthread 0.3.21+ds-4)
# the same product of two matrices takes a fraction of the time, so whoever compares with "PyTorch from the distribution" wins by a library that it did
# not choose.
# Seen: 16 times, on one thread of a Zen 3. Exits 0 while it is 3 times or more.
set -euo pipefail
[ "$(dpkg-query -W -f '${Version}' python3-torch 2>/dev/null)" = 1.13.1+dfsg-4 ] || { echo 'python3-torch 1.13.1+dfsg-4 of Debian 12 is needed' >&2; exit 2; }
dir=$(mktemp -d)
chmod 755 "$dir"
trap 'rm -rf "$dir"' EXIT
cd "$dir"
apt-cache show libtorch1.13=1.13.1+dfsg-4 | grep -o 'libblas3 | libblas.so.3'
apt-get download -qq libblas3=3.11.0-2 libopenblas0-pthread=0.3.21+ds-4 2>/dev/null
dpkg-deb -x libblas3_*.deb reference
dpkg-deb -x libopenblas0-pthread_*.deb open
cat >time.py <<'EOF'
import time
import torch

torch.set_num_threads(1)
a = torch.ones(768, 768)
taken = []
for _ in range(5):
    start = time.perf_counter()
    a @ a
    taken.append(time.perf_counter() - start)
print(f"{1000 * min(taken):.1f}")
EOF
lib=usr/lib/x86_64-linux-gnu
reference=$(LD_LIBRARY_PATH=$dir/reference/$lib/blas /usr/bin/python3 time.py)
open=$(OPENBLAS_NUM_THREADS=1 LD_LIBRARY_PATH=$dir/open/$lib/openblas-pthread /usr/bin/python3 time.py)
echo "768 x 768 x 768 in f32, ms: reference BLAS $reference, OpenBLAS $open"
awk -v a="$reference" -v b="$open" 'BEGIN { printf "%.0f times\n", a / b; exit !(a >= 3 * b) }'

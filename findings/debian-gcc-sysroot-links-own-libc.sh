#!/usr/bin/env bash
# Debian's GCC (g++-12 12.2.0-14+deb12u1 of Debian 12), with --sysroot naming another system's files.
#
# One would think: libraries come from the sysroot, and where it has none the link fails. It does not: with --sysroot naming an EMPTY folder a program links
# without a word, with the start files and the C library of the machine that builds. Debian's compilers look in /usr/lib/gcc/TRIPLET/12/../../../TRIPLET before
# anything of the sysroot, so a program "for" an older system needs the newer one's symbols. -B and -L of the sysroot's folders are needed beside --sysroot.
#
# Seen: rc 0 of the link, rc 0 of the program, and crt1.o found at /usr/lib/x86_64-linux-gnu.
set -euo pipefail
command -v g++-12 >/dev/null || { echo 'g++-12 of Debian 12 is needed' >&2; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
mkdir empty
echo 'int main() { return 0; }' >main.cpp
g++-12 --version | head -1
g++-12 --sysroot="$dir/empty" main.cpp -o program
./program
found=$(realpath "$(g++-12 --sysroot="$dir/empty" -print-file-name=crt1.o)")
echo "linked with an empty sysroot; crt1.o is $found"
case $found in "$dir"/*) echo 'it is the sysroot that is taken now' >&2; exit 1 ;; esac
[ -f "$found" ]

#!/bin/sh
# Stands before ptxas in the unpacked toolkit. Most PTX that nvcc makes is the same for x64 and arm64, byte for byte, and assembling it takes long: what was
# assembled once, by the same ptxas with the same options, is taken from the folder cubins.
set -eu
tree=$(dirname "$(dirname "$0")")
real=$tree/unpacked/usr/bin/ptxas
input= output= options= before=
for argument; do
  if [ "$before" = -o ]; then output=$argument
  elif [ "$argument" != -o ]; then
    case $argument in
      *.ptx) input=$argument ;;
      *) options="$options $argument" ;;
    esac
  fi
  before=$argument
done
if [ -z "$input" ] || [ -z "$output" ]; then exec "$real" "$@"; fi

key=$( ("$real" --version && echo "$options" && cat "$input") | sha256sum | cut -d ' ' -f 1)
kept=$tree/../cubins/$key
if [ ! -e "$kept" ]; then
  mkdir -p "$tree/../cubins"
  scratch=$kept.$$
  trap 'rm -f "$scratch"' EXIT
  "$real" $options "$input" -o "$scratch"
  mv "$scratch" "$kept"
fi
cp "$kept" "$output"

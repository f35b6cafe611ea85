#!/bin/sh
# fuzz/run.sh [SECONDS]: the engine under AddressSanitizer and UndefinedBehaviorSanitizer, on files
# that are altered at random. Where clang has libFuzzer, CXX=clang++ MORE="-fsanitize=fuzzer
# -DPOCKET_LIBFUZZER" makes its target instead.
set -e
here=$(dirname "$0")
out=${OUT:-$here/../build/fuzz}
mkdir -p "$out"
flags="-std=c++20 ${OPTIMISE:--O1 -g} -ffp-contract=off -fsanitize=address,undefined
  -fno-sanitize-recover=all -Wno-psabi -DPOCKET_FUZZ $MORE"
objects=
for source in "$here"/open.cpp "$here"/../src/*.cpp "$here"/../src/kernels/*.cpp; do
  object=$out/$(basename "$source" .cpp).o
  case $source in
    */avx2.cpp) own="-mavx2" ;;
    */avx512.cpp) own="-mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni" ;;
    *) own= ;;
  esac
  ${CXX:-g++} $flags $own -c "$source" -o "$object"
  objects="$objects $object"
done
${CXX:-g++} $flags $objects -o "$out/open"
"$out/open" "${1:-60}" "$here"/corpus/*

#!/usr/bin/env bash
# cmake-js 8.0.0 and a CMake toolchain file.
#
# One would think: CMAKE_CXX_FLAGS_INIT of a toolchain file, and CXXFLAGS of the environment, reach the compiler, as with cmake itself. cmake-js passes
# -DCMAKE_CXX_FLAGS=-DBUILDING_NODE_EXTENSION on cmake's command line, which replaces both without a word; CMAKE_SHARED_LINKER_FLAGS_INIT arrives.
#
# Seen: the same project configured twice; cmake has "-DFROM_TOOLCHAIN -DFROM_ENV" or the like in CMAKE_CXX_FLAGS, cmake-js has neither.
set -euo pipefail
for tool in cmake g++ npm; do command -v $tool >/dev/null || { echo "$tool is needed" >&2; exit 2; }; done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
cat >package.json <<'JSON'
{ "name": "probe", "private": true, "binary": { "napi_versions": [9] } }
JSON
npm install --silent --no-audit --no-fund --ignore-scripts cmake-js@8.0.0 node-addon-api@8.9.2
cat >CMakeLists.txt <<'CMAKE'
cmake_minimum_required(VERSION 3.22)
project(probe LANGUAGES CXX)
file(WRITE ${CMAKE_SOURCE_DIR}/flags.txt "${CMAKE_CXX_FLAGS}|${CMAKE_SHARED_LINKER_FLAGS}")
CMAKE
cat >toolchain.cmake <<'CMAKE'
set(CMAKE_CXX_FLAGS_INIT "-DFROM_TOOLCHAIN")
set(CMAKE_SHARED_LINKER_FLAGS_INIT "-Wl,-z,now")
CMAKE
export CMAKE_TOOLCHAIN_FILE=$dir/toolchain.cmake CXXFLAGS=-DFROM_ENV
cmake -S . -B plain >/dev/null
plain=$(cat flags.txt)
npx cmake-js configure -O by-cmake-js -l error >/dev/null
through=$(cat flags.txt)
echo "cmake:    $plain"
echo "cmake-js: $through"
[[ $plain == *FROM_TOOLCHAIN* && $plain == *FROM_ENV* ]]
[[ $through != *FROM_TOOLCHAIN* && $through != *FROM_ENV* && $through == *-Wl,-z,now* ]]

#!/bin/sh
# Builds llama.cpp from the source in PyPI's llama-cpp-python and measures it.
#
#   benches/peers/llama_bench.sh MODEL.gguf [PROMPT NEW ROWS REPETITIONS THREADS]     (default 128 64 32 3 2)
#
#   PEERS_DIR   where it is built (default $HOME/.cache/curec/peers); needs cmake, a C++ compiler, python3 with pip
set -eu
here=$(cd "$(dirname "$0")" && pwd)
model=${1:?usage: llama_bench.sh MODEL.gguf [PROMPT NEW ROWS REPETITIONS THREADS]}
dir=${PEERS_DIR:-$HOME/.cache/curec/peers}
version=0.3.36

mkdir -p "$dir"
source=$dir/llama_cpp_python-$version/vendor/llama.cpp
if [ ! -d "$source" ]; then
    python3 -m pip download --quiet --no-deps --no-binary llama-cpp-python "llama-cpp-python==$version" -d "$dir" >&2
    tar -xzf "$dir/llama_cpp_python-$version.tar.gz" -C "$dir"
fi
if [ ! -x "$dir/llama_batch" ] || [ "$here/llama_batch.cpp" -nt "$dir/llama_batch" ]; then
    cmake -S "$source" -B "$dir/build" -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DLLAMA_CURL=OFF \
        -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF >&2
    cmake --build "$dir/build" --target llama -j "$(getconf _NPROCESSORS_ONLN)" >&2
    c++ -O2 -std=c++17 -I"$source/include" -I"$source/ggml/include" "$here/llama_batch.cpp" -o "$dir/llama_batch" \
        -L"$dir/build/bin" -lllama -lggml -lggml-base -Wl,-rpath,"$dir/build/bin"
fi
exec "$dir/llama_batch" "$model" "${2:-128}" "${3:-64}" "${4:-32}" "${5:-3}" "${6:-2}"

#!/bin/sh
# Runs a fuzz target with the stable compiler: fuzz/run.sh wal_stream -max_total_time=60
set -eu
cd "$(dirname "$0")"
target=$1
shift
mkdir -p "corpus/$target"
if [ "$target" = wal_stream ]; then
    PGHERD_FUZZ_SEEDS=$(pwd)/corpus/$target cargo test --manifest-path ../Cargo.toml \
        --package wal --test mutations --quiet seeds
fi
llvm="-Cllvm-args=-sanitizer-coverage"
RUSTFLAGS="-Cpasses=sancov-module $llvm-level=4 $llvm-inline-8bit-counters $llvm-pc-table $llvm-trace-compares -Ccodegen-units=1 --cfg fuzzing"
export RUSTFLAGS
exec cargo run --release --bin "$target" --target "$(rustc -vV | sed -n 's/^host: //p')" -- \
    -max_len=100000 "$@" "corpus/$target"

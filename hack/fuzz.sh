#!/bin/sh
# Fuzzes what strangers hand us (hack/fuzz/src/targets.rs) with libFuzzer: SECONDS a target, all targets or those named. What is
# found stays in target/fuzz/corpus, and an input that breaks something in target/fuzz/artifacts.
set -eu
cd "$(dirname "$0")/.."
seconds=${1:-60}
[ $# -eq 0 ] || shift
[ $# -gt 0 ] || set -- review request template answer
# What cargo-fuzz sets, but for the sanitizer: there is no unsafe code to watch, and a stable compiler will do.
sancov='-sanitizer-coverage-level=4 -sanitizer-coverage-inline-8bit-counters -sanitizer-coverage-pc-table -sanitizer-coverage-trace-compares'
flags='-Cpasses=sancov-module'
for flag in $sancov; do flags="$flags -Cllvm-args=$flag"; done
target=$(rustc -vV | sed -n 's/^host: //p')
RUSTFLAGS="$flags" cargo build --quiet --release --manifest-path hack/fuzz/Cargo.toml --target "$target" --target-dir target/fuzz
for name in "$@"; do
    corpus=target/fuzz/corpus/$name
    mkdir -p "$corpus" target/fuzz/artifacts
    seeds=hack/fuzz/seeds/$name
    [ -d "$seeds" ] || seeds=
    echo "fuzz: $name for $seconds s"
    "target/fuzz/$target/release/$name" "$corpus" $seeds -max_total_time="$seconds" -max_len=16384 -timeout=10 -rss_limit_mb=2048 \
        -artifact_prefix="target/fuzz/artifacts/$name-" -print_final_stats=1 2>"target/fuzz/$name.log" || {
        tail -n 30 "target/fuzz/$name.log"
        exit 1
    }
    grep -E 'stat::number_of_executed_units|cov: ' "target/fuzz/$name.log" | tail -n 2
done

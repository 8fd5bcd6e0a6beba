#!/bin/sh
# Runs one fuzz target for a while: fuzz/run.sh TARGET SECONDS, where TARGET is request or frame.
#
# It needs cargo-fuzz and a C++ compiler, but no nightly toolchain: libFuzzer's coverage counters are plain codegen
# options, only the sanitizers are not, and safe Rust gains little from those. The corpus grows under fuzz/corpus/TARGET
# (not committed) from the seeds in fuzz/seeds/TARGET and the words in fuzz/dict/TARGET; an input that fails is left
# under fuzz/artifacts/TARGET.
set -eu

usage="usage: fuzz/run.sh TARGET SECONDS   (targets: request, frame)"
target=${1:?"$usage"}
seconds=${2:?"$usage"}

cd "$(dirname "$0")"
[ -d "seeds/$target" ] || { echo "there is no fuzz target '$target'; $usage" >&2; exit 2; }
case $seconds in '' | *[!0-9]*) echo "SECONDS is a whole number, not '$seconds'; $usage" >&2; exit 2 ;; esac
cargo fuzz --version >/dev/null 2>&1 ||
    { echo "cargo-fuzz is missing; run: cargo install cargo-fuzz --locked" >&2; exit 2; }

dictionary=''
[ ! -f "dict/$target" ] || dictionary=-dict="dict/$target"
mkdir -p "corpus/$target"
# shellcheck disable=SC2086 # no dictionary means no argument
exec cargo fuzz run --fuzz-dir . --sanitizer none "$target" "corpus/$target" "seeds/$target" -- \
    -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=16384 -print_final_stats=1 $dictionary

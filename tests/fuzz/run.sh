#!/bin/sh
# Builds the fuzzers and runs each for so many seconds, two at a time; prints what each came to. Fails if one found
# something: the input is then in target/fuzz/artifacts, and belongs into tests/fuzz/finds once its cause is mended.
#
#   sh tests/fuzz/run.sh SECONDS [TARGET...]
set -eu
cd "$(dirname "$0")/../.."
seconds=$1
shift
[ $# -gt 0 ] || set -- $(sed -n 's/.*Target { name: "\([a-z0-9_]*\)".*/\1/p' tests/fuzz/checks/mod.rs)
folder=$PWD/target/fuzz
triple=$(rustc -vV | sed -n 's/^host: //p')

# What `cargo fuzz` would set, but for the sanitizers of memory, which the stable toolchain has not and safe code needs
# least. With --target, build scripts and macros are left alone.
flags='-Cpasses=sancov-module --cfg fuzzing'
for flag in level=4 inline-8bit-counters pc-table trace-compares; do
    flags="$flags -Cllvm-args=-sanitizer-coverage-$flag"
done
# The versions of the server itself, and the few that the fuzzers have besides.
cp Cargo.lock tests/fuzz/Cargo.lock
RUSTFLAGS="$flags" ${CARGO:-cargo} build --release --manifest-path tests/fuzz/Cargo.toml \
    --target-dir "$folder" --target "$triple"

export folder seconds program="$folder/$triple/release/fuzz"
rm -rf "$folder/logs"
mkdir -p "$folder/logs"
printf '%s\n' "$@" | xargs -P 2 -I TARGET sh -c '
    mkdir -p "$folder/corpus/TARGET" "$folder/seeds/TARGET" "$folder/artifacts/TARGET"
    FUZZ=TARGET FUZZ_SEEDS=$folder/seeds/TARGET nice -n 19 "$program" "$folder/corpus/TARGET" "$folder/seeds/TARGET" \
        -max_total_time="$seconds" -max_len=8192 -timeout=20 -rss_limit_mb=2048 \
        -artifact_prefix="$folder/artifacts/TARGET/" -print_final_stats=1 >"$folder/logs/TARGET" 2>&1 ||
        touch "$folder/logs/TARGET.found"'

result=0
for target in "$@"; do
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$folder/logs/$target")
    if [ -e "$folder/logs/$target.found" ]; then
        result=1
        words="found something: $folder/logs/$target"
    else
        words='nothing found'
    fi
    printf '%-14s %12s executions  %s\n' "$target" "${runs:-0}" "$words"
done
exit $result

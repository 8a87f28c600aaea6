#!/usr/bin/env bash
# Builds the fuzz targets and lets each run for a while: tools/fuzz.sh [SECONDS [TARGET…]]. What breaks one is left in
# build-fuzz/found/. Needs clang 14 (apt-get install clang).
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-60}
shift || true
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(pickle archive)

tools/build.sh fuzz
mkdir -p build-fuzz/found
for target in "${targets[@]}"; do
    mkdir -p "build-fuzz/corpus/$target"
    # Of an invariant that does not hold: SIGABRT, which libFuzzer reports with the input.
    build-fuzz/bin/"fuzz_$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1536 -malloc_limit_mb=512 \
        -max_len=16384 -print_final_stats=1 -verbosity=0 -artifact_prefix="build-fuzz/found/$target-" \
        "build-fuzz/corpus/$target" "tests/fuzz/corpus/$target"
done

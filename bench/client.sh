#!/usr/bin/env bash
# What pawl costs a trainer: the stall of a blocking snapshot beside memcpy of the same bytes (100 MB and 1.3 GB, from
# Python and from C++), and a step. Writes bench/results/client.json. Wants a quiet machine, 8 GB of memory and 10 GB
# of disk where TMPDIR is.
#
# PAWL_PYTHON, PAWL_BIN and PAWL_BENCH_BIN name what is there already, instead of building it: an interpreter with torch
# 2 and pawl, the folder of pawl and pawld, that of bench_client.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -z "${PAWL_BENCH_BIN:-}" ]; then
    tools/build.sh bench
    PAWL_BENCH_BIN=$PWD/build-bench/bin
fi
: "${PAWL_BIN:=$PAWL_BENCH_BIN}"
if [ -z "${PAWL_PYTHON:-}" ]; then
    PAWL_PYTHON=$(tools/setup_python.sh | tail -n 1)
fi
rounds=${PAWL_BENCH_ROUNDS:-15}
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
program=$PWD/bench/client.py

# measure NAME EVERY LAYERS ROUNDS STEPS: both languages, each under a daemon of its own.
measure() {
    local name=$1 every=$2
    shift 2
    for language in python cpp; do
        local command=("$PAWL_BENCH_BIN/bench_client")
        [ "$language" = python ] && command=("$PAWL_PYTHON" "$program")
        mkdir "$here/$name-$language"
        (
            cd "$here/$name-$language"
            "$PAWL_BIN/pawl" run --every-steps "$every" --keep-last 1 --max-restarts 0 --quiet -- \
                sh -c 'exec "$@" > numbers' sh "${command[@]}" "$@" > log 2>&1 || { tail -n 30 log >&2; exit 1; }
            grep -q . numbers
        )
        mv "$here/$name-$language/numbers" "$here/$name-$language.numbers"
        rm -rf "${here:?}/$name-$language"
    done
}

measure 100MB 1 8 "$rounds" 0
measure 1.3GB 1 104 "$rounds" 0
measure step 1000000000 1 0 1000000

mkdir -p bench/results
/usr/bin/python3 - "$here" bench/results/client.json << 'PYTHON'
import json, pathlib, statistics, sys

folder, target = map(pathlib.Path, sys.argv[1:])
results = []
for name in ("100MB", "1.3GB", "step"):
    for language, spoken in (("python", "Python"), ("cpp", "C++")):
        numbers = [float(line.split()[1]) for line in (folder / f"{name}-{language}.numbers").read_text().splitlines()]
        if name == "step":
            what, goal, unit = f"a step under pawld that takes no snapshot, from {spoken}", 1000, "ns"
        else:
            size = name.replace("B", " B").replace("M B", " MB").replace("G B", " GB")
            what, goal, unit = f"stall of a blocking snapshot of {size}, from {spoken}", 1.5, "x memcpy"
        reached = statistics.median(numbers)
        results.append(
            {"what": what, "goal": goal, "reached": float(f"{reached:.4g}"), "holds": reached <= goal, "unit": unit}
        )
target.write_text(json.dumps(results, indent=2) + "\n")
for result in results:
    print(f"{result['what']}: {result['reached']} {result['unit']}, goal {result['goal']}:",
          "holds" if result["holds"] else "DOES NOT HOLD")
PYTHON

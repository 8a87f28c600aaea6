#!/usr/bin/env bash
# Configures and builds a preset (default: "default"). Output only if something goes wrong.
set -euo pipefail
cd "$(dirname "$0")/.."

# A clone in another folder finds what the last one compiled.
export CCACHE_BASEDIR=$PWD CCACHE_NOHASHDIR=1

preset=${1:-default}
shift || true
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! { cmake --preset "$preset" && cmake --build --preset "$preset" "$@"; } > "$log" 2>&1; then
    tail -n 60 "$log"
    echo "the build of preset '$preset' has failed" >&2
    exit 1
fi
